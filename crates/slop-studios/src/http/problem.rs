//! Errors as RFC 9457 `application/problem+json`. Every error of the HTTP API has this form.

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use utoipa::ToSchema;

use super::exchange::RequestId;
use crate::limits::MAX_IDEMPOTENCY_KEY_BYTES;
use crate::metrics::Reason;
use crate::publish::scope::MissingScope;
use crate::publish::{FieldError, ReadError, Refused};
use crate::refusals::Refusal;
use crate::store::StoreError;

pub(crate) const CONTENT: &str = "application/problem+json";

/// The usual `Retry-After`. By then an overloaded store has room again. A store with a full disk can be asked this
/// often.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What went wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    /// Always `about:blank`: the status and `code` say what kind of problem it is.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What kind of problem it is, for programs.
    code: Code,
    /// What went wrong this time, for people.
    detail: Cow<'static, str>,
    /// What is wrong with which fields, if that is the problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// The request's id, as in the header `X-Request-Id` and in the server's log. Not of an item of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    request_id: Option<RequestId>,
    /// What the header `WWW-Authenticate` asks for.
    #[serde(skip)]
    challenge: Option<Challenge>,
    /// Seconds for the header `Retry-After`.
    #[serde(skip)]
    retry_after: Option<u32>,
    /// The refusal to log for the operator.
    #[serde(skip)]
    refusal: Option<Box<Refusal>>,
}

/// What the header `WWW-Authenticate` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// The request has no key. The header then names no error (RFC 6750 §3).
    NoKey,
    /// The key is not valid.
    InvalidKey,
    /// The publisher's scopes do not cover the request (RFC 6750 §3.1).
    InsufficientScope,
}

impl Challenge {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NoKey => r#"Bearer realm="slop-studios""#,
            Self::InvalidKey => r#"Bearer realm="slop-studios", error="invalid_token""#,
            Self::InsufficientScope => r#"Bearer realm="slop-studios", error="insufficient_scope""#,
        }
    }
}

/// What kind of problem it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProblemCode)]
pub(crate) enum Code {
    /// The request is not HTTP as we speak it, or its body is not JSON.
    Malformed,
    /// There is no publisher key, or not a valid one.
    Unauthorized,
    /// The server has no publisher keys, so nobody can publish.
    PublishingOff,
    /// The publisher's scopes do not cover it.
    NotInScope,
    /// There is no such path, or nothing is known of what it names.
    NotFound,
    /// The path does not take this method.
    MethodNotAllowed,
    /// The body took too long to arrive.
    Timeout,
    /// The change does not fit the media item's life.
    MediaConflict,
    /// The body is larger than allowed.
    TooLarge,
    /// The body is not declared to be JSON, or is compressed.
    UnsupportedMediaType,
    /// The publisher publishes faster than it may.
    TooManyPublishes,
    /// Fields are wrong, missing or unknown: see `errors`.
    Invalid,
    /// The idempotency key was used for another request.
    IdempotencyKeyReused,
    /// The notification id was used for another notification.
    NotificationIdReused,
    /// The server failed.
    Internal,
    /// The server is shutting down; only `/health/ready` says so.
    Draining,
    /// The store can't be written now, for example because the disk is full.
    StoreUnavailable,
    /// More is published than the server or its store can take.
    Overloaded,
    /// As many idempotency keys are remembered as may be, of the publisher or of all.
    TooManyIdempotencyKeys,
    /// As many revocations are kept as may be.
    TooManyRevocations,
}

impl Problem {
    fn new(status: StatusCode, code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
            challenge: None,
            retry_after: None,
            refusal: None,
        }
    }

    /// Adds the report for the operator: see [`Refusals::note`](crate::refusals::Refusals::note).
    pub(crate) fn noted(
        self,
        reason: Reason,
        detail: impl Into<String>,
        setting: impl Into<Option<&'static str>>,
    ) -> Self {
        let refusal = Refusal { reason, detail: detail.into(), setting: setting.into() };
        Self { refusal: Some(Box::new(refusal)), ..self }
    }

    /// The report for the operator, if there is one.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_deref()
    }

    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::Malformed, detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<Cow<'static, str>>, challenge: Challenge) -> Self {
        Self { challenge: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, detail) }
    }

    pub(crate) fn publishing_off() -> Self {
        let detail = "the publish API is off: the server has no publisher keys (set API_KEYS or [[publisher_keys]])";
        Self::new(StatusCode::FORBIDDEN, Code::PublishingOff, detail)
    }

    fn not_in_scope(detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        let log_text = detail.clone().into_owned();
        let problem = Self::new(StatusCode::FORBIDDEN, Code::NotInScope, detail);
        Self { challenge: Some(Challenge::InsufficientScope), ..problem }.noted(
            Reason::PublisherScope,
            log_text,
            "scopes of [[publisher_keys]], or the token's claim of PUBLISH_CLAIM",
        )
    }

    pub(crate) fn no_scope() -> Self {
        Self::not_in_scope("the publisher has no scopes")
    }

    pub(crate) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, detail)
    }

    pub(crate) fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, Code::Timeout, "the body took too long to arrive")
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body must not be larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, detail)
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let detail = "the body must be declared as Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedMediaType, detail)
    }

    pub(crate) fn unsupported_encoding() -> Self {
        let detail = "the body must not have a Content-Encoding";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedMediaType, detail)
    }

    pub(crate) fn too_many_publishes(retry_after: u32) -> Self {
        let detail = "this publisher key publishes faster than it may, and nothing happened; try again";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyPublishes, detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [FieldError { field, message }] if field.is_empty() => format!("the body {message}"),
            [FieldError { field, message }] => format!("{field} {message}"),
            errors => format!("{} fields are wrong", errors.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::Invalid, detail) }
    }

    pub(crate) fn idempotency_key() -> Self {
        let message = format!("must be 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
        Self::invalid(vec![FieldError::new("Idempotency-Key", message)])
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "the server failed; its log says more")
    }

    pub(crate) fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Draining, "the server is shutting down")
    }

    pub(crate) fn store_unavailable() -> Self {
        let detail = "the store can't do it now; try again, with the same Idempotency-Key if there is one";
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::StoreUnavailable, detail);
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..problem }
    }

    pub(crate) fn store_broken() -> Self {
        let detail = "the store has broken down: nothing is accepted until the server is restarted";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::StoreUnavailable, detail)
    }

    pub(crate) fn cut_off() -> Self {
        let detail = "Redis can't be reached: users are not admitted here until it is";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::StoreUnavailable, detail)
    }

    pub(crate) fn overloaded() -> Self {
        Self::too_much("too much waits for the store, and nothing happened; try again")
    }

    pub(crate) fn too_many_bodies() -> Self {
        Self::too_much("too many bodies are on their way, and nothing happened; try again")
    }

    fn too_much(detail: &'static str) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded, detail);
        Self { retry_after: Some(RETRY_AFTER_SECONDS), ..problem }
    }

    pub(crate) fn not_revoked() -> Self {
        Self::not_found("no such revocation is kept")
    }

    /// The problem if too many keys are remembered: no key is forgotten early to make room for others.
    fn too_many_keys(of_publisher: bool, limit: u64, wait: Duration) -> Self {
        let (status, whose) = match of_publisher {
            true => (StatusCode::TOO_MANY_REQUESTS, "of this publisher"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "of all publishers"),
        };
        let detail = format!(
            "{limit} idempotency keys {whose} are remembered, which is the most, and nothing happened; try again, or publish \
             without a key"
        );
        let seconds = u32::try_from(wait.as_millis().div_ceil(1_000).max(1)).unwrap_or(u32::MAX);
        Self { retry_after: Some(seconds), ..Self::new(status, Code::TooManyIdempotencyKeys, detail) }
    }

    /// The problem if too many revocations are kept: no revocation ends early to make room for others.
    pub(crate) fn too_many_revocations() -> Self {
        let detail = "too many revocations are kept of which none is over, and nothing happened; a shorter \
                      JWT_MAX_LIFETIME_DAYS, or expiresAt, lets them end sooner";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::TooManyRevocations, detail)
    }

    /// The problem for a bare status of the HTTP library.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found("there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                Self::new(status, Code::MethodNotAllowed, "the path does not take this method")
            }
            status if status.is_client_error() => Self {
                status: status.as_u16(),
                title: status.canonical_reason().unwrap_or("Bad Request"),
                ..Self::malformed("the request could not be understood")
            },
            _ => Self::internal(),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<MissingScope> for Problem {
    fn from(missing: MissingScope) -> Self {
        Self::not_in_scope(missing.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(detail) => Self::malformed(detail),
            ReadError::Invalid(errors) => Self::invalid(errors),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unreadable(error) => error.into(),
            Refused::NotInScope(missing) => missing.into(),
            Refused::Conflict(refused) => Self::new(StatusCode::CONFLICT, Code::MediaConflict, refused.to_string()),
            Refused::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                Code::IdempotencyKeyReused,
                StoreError::KeyReused.to_string(),
            ),
            Refused::NotificationIdReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                Code::NotificationIdReused,
                StoreError::NotificationIdReused.to_string(),
            ),
            Refused::TooManyKeys { of_publisher, limit, wait } => Self::too_many_keys(of_publisher, limit, wait),
            Refused::Overloaded => Self::overloaded(),
            Refused::Unavailable => Self::store_unavailable(),
            Refused::Internal => Self::internal(),
        }
    }
}

/// The problem becomes a body later, in [`Problem::answer`]: a handler does not know the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl Problem {
    /// The problem of an error response, from a handler or from the HTTP library. Any other response is returned
    /// unchanged.
    pub(super) fn of_response(mut response: Response) -> Result<Response, Self> {
        if let Some(problem) = response.extensions_mut().remove::<Self>() {
            return Err(problem);
        }
        let status = response.status();
        match status.is_client_error() || status.is_server_error() {
            true => Err(Self::of_status(status)),
            false => Ok(response),
        }
    }

    /// The answer to the request with this id.
    pub(super) fn answer(self, request_id: RequestId) -> Response {
        let problem = Self { request_id: Some(request_id), ..self };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let content_type = HeaderValue::from_static(CONTENT);
        let mut response = (problem.status(), [(CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = problem.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = problem.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge.as_str()));
        }
        response
    }
}
