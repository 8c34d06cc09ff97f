//! The way of a publisher's key or token from the request to the handlers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;

use super::App;
use super::problem::Problem;
use crate::publishers::{NoPublisher, Publisher, Publishers};

const CHALLENGE: &str = r#"Bearer realm="slop-studios""#;
const CHALLENGE_BAD: &str = r#"Bearer realm="slop-studios", error="invalid_token""#;

/// Lets publishers in, and tells handlers who it is.
pub(crate) async fn require_publisher(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match authenticate(&app.publishers, &request) {
        Ok(publisher) => {
            request.extensions_mut().insert(publisher);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn authenticate(publishers: &Publishers, request: &Request) -> Result<Publisher, Problem> {
    let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let credential = (header.and_then(|header| header.split_once(' ')))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, credential)| credential.trim());
    let Some(credential) = credential else {
        // Who offers nothing is told first whether anything would do.
        return Err(match publishers.are_none() {
            true => Problem::publishing_off(),
            false => Problem::unauthorized("a publisher key is needed (Authorization: Bearer)", CHALLENGE),
        });
    };
    publishers.authenticate(credential).map_err(|refused| match refused {
        NoPublisher::Off => Problem::publishing_off(),
        NoPublisher::UnknownKey => Problem::unauthorized("the publisher key is not valid", CHALLENGE_BAD),
        NoPublisher::BadToken(error) => Problem::unauthorized(
            format!("it is no publisher key, and as a token it is refused: {error}"),
            CHALLENGE_BAD,
        ),
    })
}
