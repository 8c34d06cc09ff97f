//! Everything that is not Socket.IO: the publish API under `/v1`, health, metrics, and the API's own description.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::HttpBody;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use prometheus_client::registry::Registry;
use socketio_server::Handle;
use tower_service::Service;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::metrics::Metrics;
use crate::publish::Executor;
use crate::publishers::Publishers;
use crate::revoke::Revoker;
use crate::store::Store;

mod auth;
mod body;
mod openapi;
mod operate;
mod problem;
mod publish;
mod rate;
mod read;
mod revoke;
mod security_headers;

pub(crate) use body::{Bodies, Limits as BodyLimits};
use problem::Problem;
pub(crate) use rate::PublishRate;
use security_headers::SecurityHeaders;

/// Swagger UI's files.
const DOCS: &str = "/docs";

/// What the routes need.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) executor: Executor,
    pub(crate) revoker: Arc<Revoker>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) publishers: Arc<Publishers>,
    pub(crate) handle: Handle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) bodies: Bodies,
    pub(crate) publish_rate: PublishRate,
}

/// All routes, and what becomes of every answer: it is a problem if it is an error, has security headers, and is
/// counted. That is no layer of the router: for each, the router boxes and copies every request once more.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    router: Router,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    security_headers: SecurityHeaders,
    /// What stands before the paths of the server's own links.
    base_path: Box<str>,
    /// The patterns of all paths, by which requests are counted.
    patterns: matchit::Router<Box<str>>,
}

impl Api {
    /// `over_tls` is about this server's own TLS. `base_path` is before no request's path any more, and before those of links.
    pub(crate) fn new(app: Arc<App>, over_tls: bool, base_path: &str) -> Self {
        let shared = Shared {
            metrics: Arc::clone(&app.metrics),
            security_headers: SecurityHeaders::new(over_tls),
            base_path: base_path.into(),
            patterns: patterns(),
        };
        Self { router: router(app, base_path), shared: Arc::new(shared) }
    }
}

impl<B> Service<Request<B>> for Api
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (shared, method, path) = (Arc::clone(&self.shared), request.method().clone(), request.uri().clone());
        let answer = self.router.call(request);
        Box::pin(answer.map(move |answer| {
            let mut answer = as_problem(answer?);
            shared.lead_back(answer.headers_mut());
            let path = path.path();
            shared.security_headers.add(answer.headers_mut(), is_docs(path));
            let pattern = shared.patterns.at(path).map_or("unknown", |found| &**found.value);
            shared.metrics.http_request(pattern, &method, answer.status());
            Ok(answer)
        }))
    }
}

impl Shared {
    /// Has a redirect lead to a path under the prefix, which the router knows nothing of.
    fn lead_back(&self, headers: &mut HeaderMap) {
        let path = headers.get(LOCATION).and_then(|to| to.to_str().ok()).filter(|to| to.starts_with('/'));
        let Some(path) = path.filter(|_| !self.base_path.is_empty()) else { return };
        if let Ok(location) = HeaderValue::try_from(format!("{}{path}", self.base_path)) {
            headers.insert(LOCATION, location);
        }
    }
}

fn router(app: Arc<App>, base_path: &str) -> Router {
    let description: Bytes = description_under(base_path).to_json().unwrap_or_default().into();
    let index: Bytes = operate::INDEX.replace("{base}", base_path).into();
    // Swagger UI's validator is another's site, which would be told of ours.
    let docs = utoipa_swagger_ui::Config::new([format!("{base_path}/openapi.json")]).validator_url("none");
    let docs = SwaggerUi::new(DOCS).config(docs);

    Router::from(for_publishers().merge(for_operators()))
        .merge(Router::from(docs))
        .route("/", get(move || async move { Html(index) }))
        .route("/openapi.json", get(move || async move { ([(CONTENT_TYPE, "application/json")], description) }))
        .fallback(async || Problem::of_status(StatusCode::NOT_FOUND))
        .with_state(app)
}

fn patterns() -> matchit::Router<Box<str>> {
    let mut patterns = matchit::Router::new();
    let described = description().paths.paths.into_keys();
    for pattern in described.chain(["/", "/openapi.json", DOCS, "/docs/", "/docs/{*file}"].map(str::to_owned)) {
        if let Err(error) = patterns.insert(pattern.clone(), pattern.clone().into()) {
            // The router, which has the same ones, would not be there either.
            tracing::error!(%error, pattern, "requests for it are counted as unknown");
        }
    }
    patterns
}

fn is_docs(path: &str) -> bool {
    path.strip_prefix(DOCS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The OpenAPI description of all routes but the pages for people.
fn description() -> utoipa::openapi::OpenApi {
    for_publishers().merge(for_operators()).into_openapi()
}

/// The same for a server under a prefix.
fn description_under(base_path: &str) -> utoipa::openapi::OpenApi {
    let mut description = description();
    if !base_path.is_empty() {
        description.servers.iter_mut().flatten().for_each(|server| base_path.clone_into(&mut server.url));
    }
    description
}

fn for_publishers() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(publish::progress))
        .routes(routes!(publish::complete))
        .routes(routes!(publish::error))
        .routes(routes!(read::media))
        .routes(routes!(publish::notification, read::notifications))
        .routes(routes!(publish::room_event))
        .routes(routes!(publish::batch))
        .routes(routes!(revoke::user, revoke::undo_user))
        .routes(routes!(revoke::token, revoke::undo_token))
}

fn for_operators() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(operate::live))
        .routes(routes!(operate::ready))
        .routes(routes!(operate::metrics))
}

/// Makes a problem of an error that is not one yet: those of the HTTP library.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(CONTENT_TYPE).is_some_and(|content| content == problem::CONTENT);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut problem = Problem::of_status(status).into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        problem.headers_mut().insert(ALLOW, allow.clone());
    }
    problem
}
