//! The routes that read stored data.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use crate::contract::rooms::check_name;
use crate::contract::time::Moment;
use crate::limits::{MAX_NOTIFICATIONS_PAGE, NOTIFICATIONS_PAGE};
use crate::publish::FieldError;
use crate::publish::body::check_user_id;
use crate::publish::publishers::Publisher;
use crate::publish::scope::Operation;
use crate::store::{Status, StoreError};

/// A media item's last state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MediaState)]
pub(crate) struct MediaStateBody {
    /// The media item.
    media_id: String,
    /// Where it stands.
    status: Status,
    /// The attempt that the last event belongs to.
    #[schema(value_type = i64, minimum = 1, maximum = 4_294_967_295_i64)]
    attempt: u32,
    /// Whose it is, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    owner_id: Option<String>,
    /// When the last event was accepted.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Moment,
    /// The last event's name: `mediaProgress`, `mediaComplete` or `mediaError`.
    event: &'static str,
    /// The last event's payload, as clients got it.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
}

/// Says where a media item stands
#[utoipa::path(
    get, path = "/v1/media/{mediaId}", tag = "read", operation_id = "getMedia",
    params(("mediaId" = String, Path, min_length = 1, max_length = 128, description = "The media item")),
    responses(
        (status = 200, description = "Its last state", body = MediaStateBody),
        (status = 404, description = "Nothing is known of it", body = Problem, content_type = "application/problem+json"),
        super::openapi::ReadErrors,
    ),
)]
pub(crate) async fn media(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(media_id): Path<String>,
) -> Result<Json<MediaStateBody>, Problem> {
    publisher.scopes.require(Operation::MediaRead, &media_id)?;
    check_name(&media_id).map_err(|error| Problem::invalid(vec![FieldError::new("mediaId", error.to_string())]))?;
    let snapshot = app.store.media_snapshot(&media_id).await.map_err(unread)?;
    let state = snapshot.state.ok_or_else(|| Problem::not_found("nothing is known of this media item"))?;
    Ok(Json(MediaStateBody {
        media_id,
        status: state.step.status(),
        attempt: state.attempt,
        owner_id: state.owner_id.map(|owner| owner.to_string()),
        updated_at: state.updated_at,
        event: state.step.route().event,
        payload: raw(&state.payload)?,
    }))
}

/// A page of a user's notifications.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Notifications {
    /// As clients got them, newest first.
    #[schema(value_type = Vec<Object>)]
    notifications: Vec<Box<RawValue>>,
    /// What to give as `before` for the next page, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    next: Option<String>,
}

/// Lists a user's notifications, newest first
#[utoipa::path(
    get, path = "/v1/users/{userId}/notifications", tag = "read", operation_id = "listNotifications",
    params(
        ("userId" = String, Path, min_length = 1, max_length = 128, description = "The user"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 20 if not given"),
        ("before" = Option<String>, Query, description = "The id of a notification: only older ones"),
    ),
    responses(
        (status = 200, description = "A page", body = Notifications),
        super::openapi::ReadErrors,
    ),
)]
pub(crate) async fn notifications(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(user_id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Notifications>, Problem> {
    publisher.scopes.require(Operation::UsersRead, &user_id)?;
    let page = PageQuery::read(query)?;
    check_user_id("userId", &user_id).map_err(|error| Problem::invalid(vec![error]))?;
    let page =
        app.store.notifications(&user_id, page.before.as_deref(), page.limit).await.map_err(|error| match error {
            StoreError::UnknownNotification => Problem::invalid(vec![FieldError::new("before", error.to_string())]),
            error => unread(error),
        })?;
    Ok(Json(Notifications {
        notifications: (page.notifications.iter()).map(|kept| raw(&kept.payload)).collect::<Result<_, _>>()?,
        next: page.next.map(|id| id.to_string()),
    }))
}

#[derive(Debug, PartialEq)]
struct PageQuery {
    limit: usize,
    before: Option<String>,
}

impl PageQuery {
    fn read(parameters: Vec<(String, String)>) -> Result<Self, Problem> {
        let (mut limit, mut before, mut errors) = (None, None, Vec::new());
        for (name, value) in parameters {
            let twice = match name.as_str() {
                "limit" => limit.replace(value).is_some(),
                "before" => before.replace(value).is_some(),
                _ => {
                    let name: String = name.chars().take(64).collect();
                    errors.push(FieldError::new(name, "is not a parameter here"));
                    false
                }
            };
            if twice {
                errors.push(FieldError::new(name, "is given twice"));
            }
        }
        let limit = match limit.map(|limit| limit.parse()) {
            None => NOTIFICATIONS_PAGE,
            Some(Ok(limit)) if (1..=MAX_NOTIFICATIONS_PAGE).contains(&limit) => limit,
            Some(_) => {
                let message = format!("must be a whole number from 1 to {MAX_NOTIFICATIONS_PAGE}");
                errors.push(FieldError::new("limit", message));
                NOTIFICATIONS_PAGE
            }
        };
        if errors.is_empty() { Ok(Self { limit, before }) } else { Err(Problem::invalid(errors)) }
    }
}

fn raw(payload: &str) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(payload.to_owned()).map_err(internal)
}

/// Converts a store error. The store itself logs why it is unavailable.
fn unread(error: StoreError) -> Problem {
    match error {
        StoreError::Unavailable(_) | StoreError::Damaged(_) => Problem::store_unavailable(),
        StoreError::Overloaded => Problem::overloaded(),
        error => internal(error),
    }
}

fn internal(error: impl std::fmt::Display) -> Problem {
    tracing::error!(%error, "read from the store");
    Problem::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded() {
        let read = |parameters: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            PageQuery::read(parameters.iter().map(owned).collect())
        };
        let page = |limit, before: Option<&str>| PageQuery { limit, before: before.map(str::to_owned) };
        assert_eq!(read(&[]), Ok(page(20, None)));
        assert_eq!(read(&[("limit", "100"), ("before", "n")]), Ok(page(100, Some("n"))));
        for wrong in ["0", "101", "-1", "1.5", "", "x"] {
            assert!(read(&[("limit", wrong)]).is_err(), "{wrong}");
        }
        assert!(read(&[("limit", "1"), ("limit", "2")]).is_err());
        assert!(read(&[("offset", "1")]).is_err());
    }
}
