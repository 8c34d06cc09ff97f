//! The routes that revoke tokens and undo revocations.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::problem::Problem;
use crate::contract::time::Moment;
use crate::identity::is_token_id;
use crate::limits::MAX_TOKEN_ID_BYTES;
use crate::publish::body::check_user_id;
use crate::publish::fields::Fields;
use crate::publish::publishers::Publisher;
use crate::publish::scope::Operation;
use crate::publish::{FieldError, fields};
use crate::realtime::revoke::Enforced;
use crate::store::{Revocation, Revoked, StoreError};

/// Which tokens of a user are revoked, and for how long.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UserRevocation)]
pub(crate) struct UserRevocationBody {
    /// Whose they are.
    user_id: String,
    /// Those whose `iat` is earlier, and those without one.
    #[schema(value_type = String, format = DateTime)]
    issued_before: Moment,
    /// Until then the revocation is kept at least.
    #[schema(value_type = String, format = DateTime)]
    kept_until: Moment,
    /// Sockets of this server that lost their identity.
    sockets: u64,
}

/// Revokes all tokens that a user has
#[utoipa::path(
    post, path = "/v1/users/{userId}/revoke", tag = "revoke", operation_id = "revokeUser",
    params(("userId" = String, Path, min_length = 1, max_length = 128, description = "The user: at most 128 bytes, no control characters")),
    responses(
        (status = 200, description = "They are good no more", body = UserRevocationBody),
        super::openapi::RevokeErrors,
    ),
)]
pub(crate) async fn user(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(user_id): Path<String>,
    request: Request,
) -> Result<Json<UserRevocationBody>, Problem> {
    app.publish_rate.take(&publisher)?;
    publisher.scopes.require(Operation::RevokeUser, &user_id)?;
    optional_fields(&app, request, |_| ()).await?;
    check_user_id("userId", &user_id).map_err(|error| Problem::invalid(vec![error]))?;
    let Enforced { at, until, sockets } = app.revoker.user(&user_id).await.map_err(problem)?;
    Ok(Json(UserRevocationBody { user_id, issued_before: at, kept_until: until, sockets }))
}

/// What is known of the token.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TokenToRevoke)]
pub(crate) struct TokenBody {
    /// When it ends by itself (its `exp`); from then on the revocation may be forgotten. Not in the past.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Moment>,
}

/// Which token is revoked, and for how long.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TokenRevocation)]
pub(crate) struct TokenRevocationBody {
    /// The token's `jti`.
    jti: String,
    /// Until then the revocation is kept at least.
    #[schema(value_type = String, format = DateTime)]
    kept_until: Moment,
    /// Sockets of this server that lost their identity.
    sockets: u64,
}

/// Revokes one token by its id
#[utoipa::path(
    post, path = "/v1/tokens/{jti}/revoke", tag = "revoke", operation_id = "revokeToken",
    params(("jti" = String, Path, min_length = 1, max_length = 256, description = "The token's claim `jti`")),
    request_body(content = Option<TokenBody>, description = "May be left out"),
    responses(
        (status = 200, description = "It is good no more", body = TokenRevocationBody),
        super::openapi::RevokeErrors,
    ),
)]
pub(crate) async fn token(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(jti): Path<String>,
    request: Request,
) -> Result<Json<TokenRevocationBody>, Problem> {
    app.publish_rate.take(&publisher)?;
    publisher.scopes.require(Operation::RevokeToken, &jti)?;
    let expires_at = optional_fields(&app, request, expires_at).await?.flatten();
    let mut errors = Vec::new();
    if !is_token_id(&jti) {
        errors.push(FieldError::new("jti", format!("must be 1 to {MAX_TOKEN_ID_BYTES} bytes")));
    }
    // A success would mean that the token is no longer valid, but it still is if the time is wrong.
    if expires_at.is_some_and(|end| app.revoker.is_over(end)) {
        errors.push(FieldError::new("expiresAt", "must not be in the past"));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let Enforced { until, sockets, .. } = app.revoker.token(&jti, expires_at).await.map_err(problem)?;
    Ok(Json(TokenRevocationBody { jti, kept_until: until, sockets }))
}

/// Which revocation of a user's tokens was undone.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = UserRevocationUndone)]
pub(crate) struct UserUndoneBody {
    /// Whose they are.
    user_id: String,
    /// What it covered: those whose `iat` is earlier, and those without one.
    #[schema(value_type = String, format = DateTime)]
    issued_before: Moment,
}

/// Undoes the revocation of a user's tokens
#[utoipa::path(
    delete, path = "/v1/users/{userId}/revoke", tag = "revoke", operation_id = "undoRevokeUser",
    params(("userId" = String, Path, min_length = 1, max_length = 128, description = "The user")),
    responses(
        (status = 200, description = "They are good again, as far as nothing else is against them", body = UserUndoneBody),
        super::openapi::UndoErrors,
    ),
)]
pub(crate) async fn undo_user(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(user_id): Path<String>,
) -> Result<Json<UserUndoneBody>, Problem> {
    let undone = undo(&app, &publisher, Revoked::User(user_id.as_str().into())).await?;
    Ok(Json(UserUndoneBody { user_id, issued_before: undone.at }))
}

/// Which revocation of a token was undone.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TokenRevocationUndone)]
pub(crate) struct TokenUndoneBody {
    /// The token's `jti`.
    jti: String,
}

/// Undoes the revocation of a token
#[utoipa::path(
    delete, path = "/v1/tokens/{jti}/revoke", tag = "revoke", operation_id = "undoRevokeToken",
    params(("jti" = String, Path, min_length = 1, max_length = 256, description = "The token's claim `jti`")),
    responses(
        (status = 200, description = "It is good again, as far as nothing else is against it", body = TokenUndoneBody),
        super::openapi::UndoErrors,
    ),
)]
pub(crate) async fn undo_token(
    State(app): State<Arc<App>>,
    publisher: Publisher,
    Path(jti): Path<String>,
) -> Result<Json<TokenUndoneBody>, Problem> {
    undo(&app, &publisher, Revoked::Token(jti.as_str().into())).await?;
    Ok(Json(TokenUndoneBody { jti }))
}

/// Undoes an existing revocation, for a publisher with the scope for it.
async fn undo(app: &App, publisher: &Publisher, subject: Revoked) -> Result<Revocation, Problem> {
    app.publish_rate.take(publisher)?;
    let (operation, target) = match &subject {
        Revoked::User(user_id) => (Operation::UnrevokeUser, user_id),
        Revoked::Token(jti) => (Operation::UnrevokeToken, jti),
    };
    publisher.scopes.require(operation, target)?;
    app.revoker.undo(subject).await.map_err(problem)?.ok_or_else(Problem::not_revoked)
}

/// Reads an optional body. Without a body, its type is optional too.
async fn optional_fields<T>(
    app: &App,
    request: Request,
    read: impl FnOnce(&mut Fields<'_>) -> T,
) -> Result<Option<T>, Problem> {
    let is_typed = request.headers().contains_key(CONTENT_TYPE);
    let bytes = match is_typed {
        true => app.bodies.read(request).await?,
        false => app.bodies.read_any(request).await?,
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_typed {
        return Err(Problem::unsupported_media_type());
    }
    let text = fields::check_text(&bytes)?;
    let mut fields = Fields::parse(&text)?;
    let value = read(&mut fields);
    Ok(Some(fields.finish(Some(value))?))
}

fn expires_at(fields: &mut Fields<'_>) -> Option<Moment> {
    let text = fields.string("expiresAt")?;
    let moment = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok());
    if moment.is_none() {
        fields.refuse("expiresAt", "must be a time, as 2096-10-02T07:06:40Z");
    }
    moment.map(Moment::from_epoch_ms)
}

fn problem(error: StoreError) -> Problem {
    match error {
        StoreError::TooManyRevocations => Problem::too_many_revocations(),
        StoreError::Overloaded => Problem::overloaded(),
        StoreError::Unavailable(_) | StoreError::Damaged(_) => Problem::store_unavailable(),
        error => {
            tracing::error!(%error, "revoke");
            Problem::internal()
        }
    }
}
