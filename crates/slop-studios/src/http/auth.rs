//! The way of a publisher's key or token from the request to the handlers.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use socketio_server::HttpConnection;

use super::App;
use super::exchange::PublisherName;
use super::problem::{Challenge, Problem};
use crate::publishers::{NoPublisher, Publisher, Publishers};

/// A handler that takes a publisher lets in nobody else.
impl FromRequestParts<Arc<App>> for Publisher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let publisher = authenticate(&app.publishers, credential(&parts.headers)).await?;
        if let Some(name) = parts.extensions.get::<PublisherName>() {
            name.set(&publisher.name);
        }
        // With `PUBLISH_CLAIM` every user has a valid token: who may do nothing is not to have a body taken in either.
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

async fn authenticate(publishers: &Publishers, credential: Option<&str>) -> Result<Publisher, Problem> {
    let Some(credential) = credential else {
        // Who offers nothing is told first whether anything would do.
        return Err(match publishers.are_none() {
            true => Problem::publishing_off(),
            false => Problem::unauthorized("a publisher key is needed (Authorization: Bearer)", Challenge::NoKey),
        });
    };
    if let Some(key) = publishers.key_on_its_way(credential) {
        key.await;
    }
    publishers.authenticate(credential).map_err(|refused| match refused {
        NoPublisher::Off => Problem::publishing_off(),
        NoPublisher::UnknownKey => Problem::unauthorized("the publisher key is not valid", Challenge::InvalidKey),
        NoPublisher::BadToken(error) => Problem::unauthorized(
            format!("it is no publisher key, and as a token it is refused: {error}"),
            Challenge::InvalidKey,
        ),
    })
}
