//! The description of the HTTP API, made from its routes.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::problem::Problem;
use crate::publish::Receipt;

/// The parts of the description that do not come from the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Slop Studios 3 realtime",
        description = "Publish media events, notifications and room events to the clients that are connected by Socket.IO.",
        license(name = "MIT"),
    ),
    servers((url = "/", description = "this server")),
    tags(
        (name = "publish", description = "What back-end services and workers say"),
        (name = "revoke", description = "Who is let in no more"),
        (name = "read", description = "What the server remembers"),
        (name = "operate", description = "What operators look at"),
    ),
    modifiers(&PublisherKey),
    security(("publisherKey" = [])),
)]
pub(crate) struct Description;

struct PublisherKey;

impl Modify for PublisherKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A publisher key, or a token that allows to publish"))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("publisherKey", SecurityScheme::Http(scheme));
    }
}

/// Adds the header with the request's id to every response.
pub(super) fn add_request_ids(description: &mut utoipa::openapi::OpenApi) {
    let id = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(
            "The id by which the server's log names the request: the request's own, if it has a good one",
        ))
        .build();
    let paths = description.paths.paths.values_mut();
    let operations = paths.flat_map(|path| [&mut path.get, &mut path.put, &mut path.post, &mut path.delete]);
    for response in operations.flatten().flat_map(|operation| operation.responses.responses.values_mut()) {
        if let RefOr::T(response) = response {
            response.headers.insert("X-Request-Id".to_owned(), id.clone().into());
        }
    }
}

/// Defines a set of responses as the union of others.
macro_rules! unions {
    ($($(#[$meta:meta])* $name:ident = $($part:ident)|+;)+) => {
        $(
            $(#[$meta])*
            pub(crate) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    let mut responses = BTreeMap::new();
                    for (status, response) in [$($part::responses()),+].into_iter().flatten() {
                        let twice = responses.insert(status, response);
                        assert!(twice.is_none(), "two parts of {} describe a status", stringify!($name));
                    }
                    responses
                }
            }
        )+
    };
}

unions! {
    /// The responses to a publish.
    PublishResponses = Accepted | PublishErrors | MalformedRequest | InvalidFields;
    /// The responses to a batch that is not accepted as a whole.
    BatchErrors = PublishErrors | MalformedBody | InvalidBatch;
    /// The responses to a failed revocation.
    RevokeErrors = KeyErrors | BodyErrors | MalformedRequest | RevokeOnlyErrors;
    /// The responses to a failed undoing of a revocation.
    UndoErrors = KeyErrors | UndoOnlyErrors;
    /// The responses to a failed read.
    ReadErrors = KeyErrors | ReadOnlyErrors;
    /// The errors of publishes and batches.
    PublishErrors = KeyErrors | BodyErrors | PublishOnlyErrors;
}

/// The response to an accepted publish.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum Accepted {
    /// Accepted. A repeat has the header `Idempotent-Replayed: true`
    #[response(status = 200)]
    Accepted(Receipt),
}

/// The response to a request with a body and a path of which one can't be read.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum MalformedRequest {
    /// The body is not JSON, or the path is not UTF-8
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
}

/// The response to a batch that can't be read.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum MalformedBody {
    /// The body is not JSON
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
}

/// The response to a publish with wrong fields.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum InvalidFields {
    /// Fields are wrong, or the idempotency key or notification id was used for something else
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
}

/// The response to a batch that is none.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum InvalidBatch {
    /// It is no array or too long, or the idempotency key was used for something else
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
}

/// The errors of every route with a publisher key.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum KeyErrors {
    /// No valid publisher key
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The publisher's scopes do not cover it, or the server has no publisher keys
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The server failed
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
}

/// The errors of every route that reads a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum BodyErrors {
    /// The body took too long to arrive
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(Problem),
    /// The body is too large
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
}

/// The other errors of publishes and batches.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum PublishOnlyErrors {
    /// The body is not declared as JSON, or is compressed
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// The publisher key publishes faster than it may, or has used as many idempotency keys as are remembered of a publisher; nothing happened, and the header `Retry-After` says when to try again
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
    /// The server or its store is overloaded, the store can't be used now, or it remembers as many idempotency keys as it may; nobody was sent anything, unless the store is in Redis and its answer was lost; the header `Retry-After` says when to try again
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The response to a media event that does not fit the item's state.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
pub(crate) enum MediaConflict {
    /// It does not fit the item's life: progress went back, the attempt is over, or there is another owner
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
}

/// The other errors of a revocation.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum RevokeOnlyErrors {
    /// There is a body, and it is not declared as JSON or is compressed
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// Fields are wrong, or the id is too long
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// The publisher key is used faster than it may; nothing happened, and the header `Retry-After` says when to try again
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
    /// The server or its store is overloaded, the store can't be used now, or it keeps as many revocations as it may; nobody's tokens are revoked yet
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The other errors of undoing a revocation.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum UndoOnlyErrors {
    /// The path is not UTF-8
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
    /// No such revocation is kept
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The publisher key is used faster than it may; nothing happened, and the header `Retry-After` says when to try again
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(Problem),
    /// The server or its store is overloaded, or the store can't be used now; nothing was undone, and the header `Retry-After` says when to try again
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The other errors of a read.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses and is never made")]
enum ReadOnlyErrors {
    /// The path is not UTF-8
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
    /// Parameters are wrong
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// The server or its store is overloaded, or the store can't be used now; the header `Retry-After` says when to try again
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use crate::http::description;

    /// `UPDATE=1 cargo test -p slop-studios openapi` rewrites the file.
    #[test]
    fn the_checked_in_description_is_up_to_date() {
        let made = description().to_pretty_json().expect("it has a JSON form") + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, &made).expect("docs/ can be written");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "docs/openapi.json differs from the routes; UPDATE=1 rewrites it");
    }
}
