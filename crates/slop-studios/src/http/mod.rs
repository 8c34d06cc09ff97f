//! Everything that is not Socket.IO: the publish API under `/v1`, health, metrics, and the API's own description.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::HttpBody;
use axum::response::{Html, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Request, Uri};
use prometheus_client::registry::Registry;
use socketio_server::{Handle, HttpConnection};
use tower_service::Service;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::metrics::Metrics;
use crate::publish::Executor;
use crate::publish::publishers::Publishers;
use crate::realtime::revoke::Revoker;
use crate::refusals::Refusals;
use crate::store::Store;

mod accept;
mod auth;
mod body;
mod client_files;
mod exchange;
mod exposition;
mod not_found;
mod openapi;
mod operate;
mod problem;
mod process;
mod publish;
mod rate;
mod read;
mod revoke;
pub(crate) mod scrape;
mod security_headers;

pub(crate) use body::{Bodies, Limits as BodyLimits};
use exchange::{Exchange, X_REQUEST_ID};
use problem::Problem;
pub(crate) use rate::PublishRate;
use security_headers::SecurityHeaders;

/// The path of Swagger UI's files.
const DOCS: &str = "/docs";

/// The icon, which browsers request on their own.
const FAVICON: &str = "/favicon.ico";

/// The shared state of the routes.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) executor: Executor,
    pub(crate) revoker: Arc<Revoker>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) publishers: Arc<Publishers>,
    pub(crate) handle: Handle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) registry: Registry,
    pub(crate) bodies: Bodies,
    pub(crate) publish_rate: PublishRate,
}

/// The settings of the API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApiOptions<'a> {
    /// Whether this server itself speaks TLS.
    pub(crate) over_tls: bool,
    /// Whether every request is logged at `info`.
    pub(crate) access_log: bool,
    /// Whether the browser's client is served.
    pub(crate) serve_client: bool,
    /// The path prefix. Requests arrive here without it, and every link needs it.
    pub(crate) base_path: &'a str,
}

/// All routes, and the processing of every answer. An error becomes a problem. Every answer gets security headers and
/// the request's id, and is counted and logged. The processing is not a layer of the router: for each layer, the router
/// boxes and copies every request once more.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    router: Router,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    access_log: bool,
    security_headers: SecurityHeaders,
    /// The prefix of the paths in the server's own links.
    base_path: Box<str>,
    /// The patterns of all paths. Requests are counted by pattern.
    patterns: matchit::Router<Box<str>>,
}

impl Api {
    pub(crate) fn new(app: Arc<App>, options: ApiOptions<'_>) -> Self {
        let shared = Shared {
            metrics: Arc::clone(&app.metrics),
            refusals: Arc::clone(&app.refusals),
            access_log: options.access_log,
            security_headers: SecurityHeaders::new(options.over_tls),
            base_path: options.base_path.into(),
            patterns: patterns(),
        };
        Self { router: router(app, options), shared: Arc::new(shared) }
    }
}

impl Shared {
    /// Completes a handler's answer before it is sent.
    fn finish(&self, exchange: Exchange, answer: Response) -> Response {
        let allow = answer.headers().get(ALLOW).cloned();
        let mut answer = Problem::of_response(answer).unwrap_or_else(|problem| {
            self.note_refusal(&exchange, &problem);
            let mut answer = problem.answer(exchange.id.clone());
            answer.headers_mut().extend(allow.map(|allow| (ALLOW, allow)));
            answer
        });
        let path = exchange.uri.path();
        self.lead_back(answer.headers_mut());
        self.security_headers.add(answer.headers_mut(), is_docs(path));
        answer.headers_mut().insert(X_REQUEST_ID, exchange.id.header());
        let pattern = self.patterns.at(path).map_or("unknown", |found| &**found.value);
        self.metrics.http_request(pattern, &exchange.method, answer.status());
        exchange.answered(answer.status());
        answer
    }

    /// Reports a refused publisher to the operator.
    fn note_refusal(&self, exchange: &Exchange, problem: &Problem) {
        let (Some(refusal), Some(client)) = (problem.refusal(), exchange.client()) else { return };
        let detail = match exchange.publisher() {
            Some(publisher) => &format!("{publisher}: {}", refusal.detail),
            None => &refusal.detail,
        };
        self.refusals.note(refusal.reason, client, detail, refusal.setting);
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let exchange = Exchange::begin(&mut request, shared.access_log);
        let connection = request.extensions().get::<HttpConnection>().cloned();
        let answer = self.router.call(request);
        // If the client disconnects before the answer, the exchange is dropped with the future and logged accordingly.
        Box::pin(answer.map(move |answer| {
            let mut answer = shared.finish(exchange, answer?);
            // A request refused before its body is read ends the connection: the client's next request would be lost.
            if connection.is_some_and(|connection| connection.lacks_body()) {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(answer)
        }))
    }
}

impl Shared {
    /// Adds the prefix, which the router does not know, to the path of a redirect.
    fn lead_back(&self, headers: &mut HeaderMap) {
        let path = headers.get(LOCATION).and_then(|to| to.to_str().ok()).filter(|to| to.starts_with('/'));
        let Some(path) = path.filter(|_| !self.base_path.is_empty()) else { return };
        if let Ok(location) = HeaderValue::try_from(format!("{}{path}", self.base_path)) {
            headers.insert(LOCATION, location);
        }
    }
}

fn router(app: Arc<App>, options: ApiOptions<'_>) -> Router {
    let base_path = options.base_path;
    let described = description_under(base_path);
    let description: Bytes = described.to_json().unwrap_or_default().into();
    let index: Bytes = operate::INDEX.replace("{base}", base_path).into();
    // Swagger UI's validator is a third-party site, which would learn of this server.
    let docs = utoipa_swagger_ui::Config::new([format!("{base_path}/openapi.json")]).validator_url("none");
    let docs = SwaggerUi::new(DOCS).config(docs);

    let (base, known): (Arc<str>, Arc<[String]>) = (base_path.into(), described.paths.paths.into_keys().collect());
    let router = match options.serve_client {
        true => Router::new().route(client_files::PATTERN, get(client_files::file)),
        false => Router::new(),
    };
    router
        .merge(Router::from(for_publishers().merge(for_operators())))
        .merge(Router::from(docs))
        .route("/", get(move || async move { Html(index) }))
        .route(FAVICON, get(operate::favicon))
        .route("/openapi.json", get(move || async move { ([(CONTENT_TYPE, "application/json")], description) }))
        .fallback(move |uri: Uri| async move { not_found::problem(&uri, &base, &known) })
        .with_state(app)
}

fn patterns() -> matchit::Router<Box<str>> {
    let mut patterns = matchit::Router::new();
    let described = description().paths.paths.into_keys();
    let pages = ["/", "/openapi.json", FAVICON, DOCS, "/docs/", "/docs/{*file}", client_files::PATTERN];
    for pattern in described.chain(pages.map(str::to_owned)) {
        if let Err(error) = patterns.insert(pattern.clone(), pattern.clone().into()) {
            // The router has the same patterns, so it could not be built either.
            tracing::error!(%error, pattern, "requests for it are counted as unknown");
        }
    }
    patterns
}

fn is_docs(path: &str) -> bool {
    path.strip_prefix(DOCS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The OpenAPI description of all routes except the pages for people.
fn description() -> utoipa::openapi::OpenApi {
    let mut description = for_publishers().merge(for_operators()).into_openapi();
    openapi::add_request_ids(&mut description);
    description
}

/// The description for a server under a prefix.
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
