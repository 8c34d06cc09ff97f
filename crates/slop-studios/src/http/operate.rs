//! The routes for operators and for those who look around.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`
    status: &'static str,
}

/// Says that the process runs
#[utoipa::path(
    get, path = "/health/live", tag = "operate", security(()), operation_id = "live",
    responses((status = 200, description = "It runs", body = Health)),
)]
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Says whether new connections are taken
#[utoipa::path(
    get, path = "/health/ready", tag = "operate", security(()), operation_id = "ready",
    responses(
        (status = 200, description = "They are", body = Health),
        (status = 503, description = "The server is shutting down, or its store has broken down", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    match (app.handle.is_accepting(), app.store.is_open()) {
        (false, _) => Err(Problem::draining()),
        (true, false) => Err(Problem::store_unavailable()),
        (true, true) => Ok(Json(Health { status: "ok" })),
    }
}

/// Everything that the server counts, in the OpenMetrics format
#[utoipa::path(
    get, path = "/metrics", tag = "operate", security(()), operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics 1.0", body = String, content_type = "application/openmetrics-text"),
        (status = 500, description = "The server failed", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &app.registry).map_err(|_error| {
        tracing::error!("encode the metrics");
        Problem::internal()
    })?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

/// What this is, for whoever opens the address in a browser. `{base}` stands for what is before the server's paths.
pub(crate) const INDEX: &str = include_str!("index.html");
