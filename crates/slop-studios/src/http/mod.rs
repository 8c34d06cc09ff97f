//! Everything that is not Socket.IO: the publish API under `/v1`, health, metrics, and the API's own description.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE};
use prometheus_client::registry::Registry;
use socketio_server::Handle;
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

pub(crate) use body::Limits as BodyLimits;
use problem::Problem;
pub(crate) use rate::PublishRate;

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
    /// What a request's body may be.
    pub(crate) body: body::Limits,
    pub(crate) publish_rate: PublishRate,
    /// Whether the server itself speaks TLS.
    pub(crate) over_tls: bool,
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let publishers = Router::from(for_publishers());
    let publishers = publishers.route_layer(from_fn_with_state(Arc::clone(&app), auth::require_publisher));
    let operators = Router::from(for_operators());
    let description: Bytes = description().to_json().unwrap_or_default().into();
    // Swagger UI's validator is another's site, which would be told of ours.
    let docs = utoipa_swagger_ui::Config::new(["/openapi.json"]).validator_url("none");
    let docs = SwaggerUi::new("/docs").config(docs);

    publishers
        .merge(operators)
        .merge(Router::from(docs))
        .route("/", get(operate::index))
        .route("/openapi.json", get(move || async move { ([(CONTENT_TYPE, "application/json")], description) }))
        .fallback(async || Problem::of_status(StatusCode::NOT_FOUND))
        .layer(from_fn_with_state(Arc::clone(&app), finish))
        .with_state(app)
}

/// The OpenAPI description of all routes but the pages for people.
fn description() -> utoipa::openapi::OpenApi {
    for_publishers().merge(for_operators()).into_openapi()
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
        .routes(routes!(revoke::user))
        .routes(routes!(revoke::token))
}

fn for_operators() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(operate::live))
        .routes(routes!(operate::ready))
        .routes(routes!(operate::metrics))
}

/// What becomes of every answer. One layer, since each costs a publish a microsecond.
async fn finish(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let is_docs = security_headers::is_docs(request.uri().path());
    let mut response = as_problem(next.run(request).await);
    security_headers::add(response.headers_mut(), is_docs, app.over_tls);
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    app.metrics.http_request(route, &method, response.status());
    response
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
