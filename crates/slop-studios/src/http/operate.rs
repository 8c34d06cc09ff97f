//! The routes for operators and visitors.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::exposition::Format;
use super::problem::Problem;
use crate::http::process::ProcessUsage;

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
        (status = 503, description = "The server is shutting down, its store has broken down, or its Redis can't be reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    match (app.handle.is_accepting(), app.store.is_open()) {
        (false, _) => Err(Problem::draining()),
        (true, false) => Err(Problem::store_broken()),
        (true, true) if !app.store.is_current() => Err(Problem::cut_off()),
        (true, true) => Ok(Json(Health { status: "ok" })),
    }
}

/// Everything that the server counts
#[utoipa::path(
    get, path = "/metrics", tag = "operate", security(()), operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics 1.0, or the text format 0.0.4 of Prometheus where `Accept` wants that more", content((String = "application/openmetrics-text"), (String = "text/plain"))),
        (status = 500, description = "The server failed", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    let format = Format::asked_for(&headers);
    // Not on the shard's thread: the shard's clients would wait for it.
    let process = tokio::task::spawn_blocking(ProcessUsage::read).await.unwrap_or_default();
    let text = open_metrics(&app.registry, process).map_err(|_error| {
        tracing::error!("encode the metrics");
        Problem::internal()
    })?;
    Ok(([(CONTENT_TYPE, format.content_type())], format.form(text)).into_response())
}

fn open_metrics(registry: &Registry, process: ProcessUsage) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let mut of_process = Registry::default();
    of_process.register_collector(Box::new(process));
    encode_registry(&mut text, &of_process)?;
    encode_registry(&mut text, registry)?;
    encode_eof(&mut text)?;
    Ok(text)
}

/// The icon of the server's pages, which browsers request on their own.
pub(crate) async fn favicon() -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "image/x-icon"), (CACHE_CONTROL, "public, max-age=86400")];
    (headers, include_bytes!("favicon.ico").as_slice())
}

/// The start page, for visitors with a browser. `{base}` stands for the prefix of the server's paths.
pub(crate) const INDEX: &str = include_str!("index.html");
