//! The token that a client offers: in the handshake's `auth`, in its `Authorization` header, or in an event.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_server::Socket;

use crate::identity::Flaw;

#[derive(Deserialize)]
struct AuthPayload<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
}

/// Reads the token of `{token}`. Otherwise returns why there is none.
pub(super) fn token_of(payload: Option<&RawValue>) -> Result<String, Flaw> {
    // Only an object counts: serde would also fill a struct from an array.
    let payload = payload.filter(|payload| payload.get().starts_with('{')).ok_or(Flaw::Missing)?;
    let token = serde_json::from_str::<AuthPayload<'_>>(payload.get()).ok().and_then(|payload| payload.token);
    let token = token.ok_or(Flaw::Missing)?;
    let token: String = serde_json::from_str(token.get()).map_err(|_not_a_string| Flaw::NoText)?;
    if token.is_empty() { Err(Flaw::Missing) } else { Ok(token) }
}

pub(super) fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The token in a socket's handshake.
pub(super) fn offered_token(socket: &Socket, auth: Option<&RawValue>) -> Result<String, Flaw> {
    handshake_token(auth, || socket.header(&AUTHORIZATION))
}

pub(super) fn handshake_token<'a>(
    auth: Option<&RawValue>,
    header: impl FnOnce() -> Option<&'a HeaderValue>,
) -> Result<String, Flaw> {
    match token_of(auth) {
        Err(Flaw::Missing) => header().and_then(bearer).map(str::to_owned).ok_or(Flaw::Missing),
        found => found,
    }
}

/// Whether the client asks for the recovery of a session.
pub(super) fn names_session(auth: Option<&RawValue>) -> bool {
    #[derive(Deserialize)]
    struct Auth<'a> {
        #[serde(borrow)]
        pid: Option<&'a RawValue>,
    }
    let auth = auth.filter(|auth| auth.get().starts_with('{'));
    auth.and_then(|auth| serde_json::from_str::<Auth<'_>>(auth.get()).ok()).is_some_and(|auth| auth.pid.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::auth_error::AuthError;

    fn token(json: &str) -> Result<String, AuthError> {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        token_of(Some(&raw)).map_err(|flaw| flaw.error())
    }

    #[test]
    fn a_token_is_a_string_in_an_object() {
        assert_eq!(token(r#"{"token":"t","more":[1]}"#), Ok("t".to_owned()));
        for missing in ["null", "{}", r#"{"token":null}"#, r#"{"token":""}"#, r#""t""#, "5", "[]", r#"["t"]"#] {
            assert_eq!(token(missing), Err(AuthError::Required), "{missing}");
        }
        assert_eq!(token_of(None), Err(Flaw::Missing));
        for wrong in [r#"{"token":5}"#, r#"{"token":["t"]}"#, r#"{"token":{"a":1}}"#] {
            assert_eq!(token(wrong), Err(AuthError::Invalid), "{wrong}");
        }
    }

    #[test]
    fn a_bearer_header_has_a_scheme_and_a_token() {
        let parse = |text: &str| bearer(&HeaderValue::from_str(text).expect("a header")).map(str::to_owned);
        assert_eq!(parse("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(parse("bearer  abc "), Some("abc".to_owned()));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
