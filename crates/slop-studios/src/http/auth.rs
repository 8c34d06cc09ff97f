//! Authentication of publishers, by the key or token in a request, before the handlers run.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::request::Parts;
use socketio_server::HttpConnection;

use super::App;
use super::exchange::PublisherName;
use super::problem::{Challenge, Problem};
use crate::limits::MAX_NAME_BYTES;
use crate::metrics::Reason;
use crate::publish::publishers::{NoPublisher, Publisher, Publishers};
use crate::text::excerpt;

/// The settings that give publishers access.
const SETTINGS: &str = "API_KEYS or [[publisher_keys]]";

/// A handler with a `Publisher` parameter accepts only requests of authenticated publishers.
impl FromRequestParts<Arc<App>> for Publisher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let publisher = match authenticate(&app.publishers, credential(&parts.headers)).await {
            Ok(publisher) => publisher,
            Err(refused) => return Err(problem(refused, parts)),
        };
        if let Some(name) = parts.extensions.get::<PublisherName>() {
            name.set(&publisher.name);
        }
        // With `PUBLISH_CLAIM` every user has a valid token. A publisher without scopes is refused before its body is
        // read.
        if publisher.scopes.are_none() {
            return Err(Problem::no_scope());
        }
        if let Some(connection) = parts.extensions.get::<HttpConnection>() {
            connection.keep();
        }
        Ok(publisher)
    }
}

fn credential(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

/// The reason for a refused authentication.
enum Refused {
    /// The request has no credential, and a key would be accepted.
    NoKey,
    No(NoPublisher),
}

async fn authenticate(publishers: &Publishers, credential: Option<&str>) -> Result<Publisher, Refused> {
    let Some(credential) = credential else {
        // Without a credential, the error first depends on whether the server accepts any credential at all.
        return Err(match publishers.are_none() {
            true => Refused::No(NoPublisher::Off),
            false => Refused::NoKey,
        });
    };
    if let Some(key) = publishers.fetch_unknown_key(credential) {
        key.await;
    }
    publishers.authenticate(credential).map_err(Refused::No)
}

fn problem(refused: Refused, parts: &Parts) -> Problem {
    // The detail for the operator: the request, its flaw, and the program that sent it.
    let detail = |flaw: &str| {
        let path = excerpt(parts.uri.path(), MAX_NAME_BYTES);
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let by = agent.map(|agent| format!(", by {agent}")).unwrap_or_default();
        format!("{} {path}{flaw}{by}", parts.method)
    };
    match refused {
        Refused::No(NoPublisher::Off) => Problem::publishing_off().noted(Reason::PublishingOff, detail(""), SETTINGS),
        Refused::NoKey => Problem::unauthorized("a publisher key is needed (Authorization: Bearer)", Challenge::NoKey)
            .noted(Reason::NoPublisherKey, detail(""), SETTINGS),
        Refused::No(NoPublisher::UnknownKey) => Problem::unauthorized(
            "the publisher key is not valid",
            Challenge::InvalidKey,
        )
        .noted(Reason::UnknownPublisherKey, detail(""), SETTINGS),
        Refused::No(NoPublisher::BadToken(flaw)) => {
            let description = format!("it is no publisher key, and as a token it is refused: {}", flaw.error());
            Problem::unauthorized(description, Challenge::InvalidKey).noted(
                Reason::PublisherToken,
                detail(&format!(": {flaw}")),
                flaw.setting(),
            )
        }
    }
}
