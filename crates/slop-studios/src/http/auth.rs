//! Publisher keys: who may use `/v1`.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};

use super::App;
use super::problem::Problem;
use crate::publish::fingerprint;
use crate::store::Fingerprint;

/// The keys, as hashes: equally long, so that comparing them tells nothing of a key's length.
#[derive(Debug)]
pub(crate) struct PublisherKeys(Vec<Fingerprint>);

/// Who publishes: a name made of the key's hash.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(pub(crate) Arc<str>);

impl PublisherKeys {
    pub(crate) fn new(keys: &[SecretString]) -> Self {
        let hash = |key: &SecretString| fingerprint(&[key.expose_secret().as_bytes()]);
        Self(keys.iter().map(hash).collect())
    }

    fn find(&self, key: &str) -> Option<Publisher> {
        let hash = fingerprint(&[key.as_bytes()]);
        let mut found = None;
        // All are compared, so that the time does not tell which one it was.
        for known in &self.0 {
            if verify_slices_are_equal(known, &hash).is_ok() {
                found = Some(known);
            }
        }
        // 64 bits: enough to tell the keys of one server apart.
        let name = |hash: &Fingerprint| hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
        found.map(|hash| Publisher(name(hash).into()))
    }

    fn authenticate(&self, request: &Request) -> Result<Publisher, Problem> {
        if self.0.is_empty() {
            return Err(Problem::publishing_off());
        }
        let header = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let key = (header.and_then(|header| header.split_once(' ')))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        let Some(key) = key else {
            let challenge = r#"Bearer realm="slop-studios""#;
            return Err(Problem::unauthorized("a publisher key is needed (Authorization: Bearer)", challenge));
        };
        self.find(key).ok_or_else(|| {
            let challenge = r#"Bearer realm="slop-studios", error="invalid_token""#;
            Problem::unauthorized("the publisher key is not valid", challenge)
        })
    }
}

/// Lets publishers in, and tells handlers who it is.
pub(crate) async fn require_publisher(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match app.keys.authenticate(&request) {
        Ok(publisher) => {
            request.extensions_mut().insert(publisher);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_are_valid() {
        let keys = PublisherKeys::new(&["first-key".into(), "second-key".into()]);
        let name = |key: &str| keys.find(key).map(|publisher| publisher.0);
        assert!(name("first-key").is_some());
        assert_ne!(name("first-key"), name("second-key"));
        for wrong in ["", "first", "first-key ", "first-key,second-key", "FIRST-KEY"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert!(!format!("{keys:?}").contains("first"));
    }
}
