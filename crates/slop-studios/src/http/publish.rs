//! The routes that publish.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::exchange::client_of;
use super::problem::Problem;
use crate::contract::kind::Kind;
use crate::limits::{MAX_BATCH_ITEMS, MAX_IDEMPOTENCY_KEY_BYTES};
use crate::metrics::PublishOutcome;
use crate::publish::body::{CompleteBody, ErrorBody, NotificationBody, ProgressBody, RoomEventBody};
use crate::publish::publishers::Publisher;
use crate::publish::{FieldError, Publish, Published, Receipt, fields, fingerprint};
use crate::store::IdempotencyKey;

/// The request header that makes a repeat return the first receipt.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The response header that marks such a repeat.
const REPLAYED: &str = "idempotent-replayed";

/// Says how far a media item is
#[utoipa::path(
    post, path = "/v1/media/{mediaId}/progress", tag = "publish", operation_id = "publishProgress",
    params(
        ("mediaId" = String, Path, min_length = 1, max_length = 128, description = "The media item: at most 128 bytes, no control characters"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body is answered with the first receipt"),
    ),
    request_body = ProgressBody,
    responses(super::openapi::PublishResponses, super::openapi::MediaConflict),
)]
pub(crate) async fn progress(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(media_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    publish(&app, &publisher, Kind::Progress, &media_id, request).await
}

/// Says that a media item is done
#[utoipa::path(
    post, path = "/v1/media/{mediaId}/complete", tag = "publish", operation_id = "publishComplete",
    params(
        ("mediaId" = String, Path, min_length = 1, max_length = 128, description = "The media item: at most 128 bytes, no control characters"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body is answered with the first receipt"),
    ),
    request_body = CompleteBody,
    responses(super::openapi::PublishResponses, super::openapi::MediaConflict),
)]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(media_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    publish(&app, &publisher, Kind::Complete, &media_id, request).await
}

/// Says that a media item failed
#[utoipa::path(
    post, path = "/v1/media/{mediaId}/error", tag = "publish", operation_id = "publishError",
    params(
        ("mediaId" = String, Path, min_length = 1, max_length = 128, description = "The media item: at most 128 bytes, no control characters"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body is answered with the first receipt"),
    ),
    request_body = ErrorBody,
    responses(super::openapi::PublishResponses, super::openapi::MediaConflict),
)]
pub(crate) async fn error(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(media_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    publish(&app, &publisher, Kind::Error, &media_id, request).await
}

/// Tells a user something
#[utoipa::path(
    post, path = "/v1/users/{userId}/notifications", tag = "publish", operation_id = "publishNotification",
    params(
        ("userId" = String, Path, min_length = 1, max_length = 128, description = "The user: at most 128 bytes, no control characters"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body is answered with the first receipt"),
    ),
    request_body = NotificationBody,
    responses(super::openapi::PublishResponses),
)]
pub(crate) async fn notification(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(user_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    publish(&app, &publisher, Kind::Notification, &user_id, request).await
}

/// Tells a room something
#[utoipa::path(
    post, path = "/v1/rooms/{room}/events", tag = "publish", operation_id = "publishRoomEvent",
    params(
        ("room" = String, Path, min_length = 1, description = "The room: at most 128 bytes (133 for `user:{userId}`), no control characters"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body is answered with the first receipt"),
    ),
    request_body = RoomEventBody,
    responses(super::openapi::PublishResponses),
)]
pub(crate) async fn room_event(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(room): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    publish(&app, &publisher, Kind::RoomEvent, &room, request).await
}

async fn publish(
    app: &App,
    publisher: &Publisher,
    kind: Kind,
    target: &str,
    request: Request,
) -> Result<Response, Problem> {
    app.publish_rate.take(publisher)?;
    let (operation, whom) = kind.operation(target);
    if let Err(missing) = publisher.scopes.require(operation, whom) {
        // A body is not read from a publisher that may not send it. The executor does not see the request, so it is
        // counted here.
        app.metrics.published(kind, PublishOutcome::Refused, Duration::ZERO);
        return Err(missing.into());
    }
    let key = idempotency_key(request.headers())?;
    let bytes = app.bodies.read(request).await?;
    let key = key.map(|key| {
        let asked = fingerprint(&[kind.as_str().as_bytes(), target.as_bytes(), &bytes]);
        keyed(publisher, key, asked)
    });
    let publish = Publish::read(kind, target, &fields::check_text(&bytes)?)?;
    Ok(receipt(app.executor.publish(&publisher.scopes, publish, key).await?))
}

fn receipt(published: Published) -> Response {
    replayed(published.repeated, Json(published.receipt))
}

/// Marks an answer as a replay if an earlier request published all that the answer reports as accepted.
fn replayed(is_replayed: bool, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// The answer to one item of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum BatchAnswer {
    /// It was accepted.
    Receipt(Receipt),
    /// It was not.
    Problem(Problem),
}

/// Publishes several things in their order, whatever becomes of those before
#[utoipa::path(
    post, path = "/v1/publish", tag = "publish", operation_id = "publishBatch",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key and body returns the receipts of what was accepted and tries the rest again. If nothing was accepted, the key is free"),
    ),
    request_body(content = Vec<Publish>, description = "At most 1,000 items, each tagged by `kind` and with the fields of the path beside those of the body"),
    responses(
        (status = 200, description = "All were accepted: one receipt each, in order. With the header `Idempotent-Replayed: true`, all of them had been before", body = Vec<Receipt>),
        (status = 207, description = "Some were refused: a receipt or a problem each, in order. With the header `Idempotent-Replayed: true`, what was accepted had been before", body = Vec<BatchAnswer>),
        super::openapi::BatchErrors,
    ),
)]
pub(crate) async fn batch(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    request: Request,
) -> Result<Response, Problem> {
    app.publish_rate.take(&publisher)?;
    let key = idempotency_key(request.headers())?;
    let client = client_of(&request);
    let bytes = app.bodies.read(request).await?;
    let key = key.map(|key| keyed(&publisher, key, fingerprint(&[b"batch", &bytes])));
    let text = fields::check_text(&bytes)?;
    let items = fields::parse_array(&text)?;
    if items.len() > MAX_BATCH_ITEMS {
        let message = format!("must not have more than {MAX_BATCH_ITEMS} items");
        return Err(Problem::invalid(vec![FieldError::new("", message)]));
    }
    app.publish_rate.take_batch(&publisher, items.len())?;
    let items = items.into_iter().map(|item| Publish::read_item(item.get())).collect();
    let results = app.executor.publish_all(&publisher.scopes, items, key).await?;
    let all_accepted = results.iter().all(Result::is_ok);
    let mut accepted = results.iter().flatten().peekable();
    let is_replayed = accepted.peek().is_some() && accepted.all(|published| published.repeated);
    let answers: Vec<BatchAnswer> = (results.into_iter())
        .map(|result| match result {
            Ok(published) => BatchAnswer::Receipt(published.receipt),
            Err(refused) => {
                let problem = Problem::from(refused);
                if let (Some(refusal), Some(client)) = (problem.refusal(), client) {
                    let detail = format!("{}: {}", publisher.name, refusal.detail);
                    app.refusals.note(refusal.reason, client, &detail, refusal.setting);
                }
                BatchAnswer::Problem(problem)
            }
        })
        .collect();
    let status = if all_accepted { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok(replayed(is_replayed, (status, Json(answers))))
}

fn keyed(publisher: &Publisher, key: String, fingerprint: [u8; 32]) -> IdempotencyKey {
    IdempotencyKey { publisher: Arc::clone(&publisher.name), key: key.into(), item: None, fingerprint }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.as_bytes();
    let fits = (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(key) if fits && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Problem::idempotency_key()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_one_word() {
        let parse = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(value).expect("a header"));
            }
            idempotency_key(&headers)
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["8e03978e-40d5"]), Ok(Some("8e03978e-40d5".to_owned())));
        for wrong in [&[""][..], &["a b"], &["é"], &["a", "b"], &["x".repeat(256).as_str()]] {
            assert_eq!(parse(wrong), Err(Problem::idempotency_key()), "{wrong:?}");
        }
    }
}
