//! The request that opens a connection: its query parameters, and the data kept of it for handlers.

use std::{borrow::Cow, net::SocketAddr};

use ::http::{HeaderMap, HeaderValue, Uri, request::Parts};

use crate::{Config, config::MAX_KEPT_HEADER_BYTES, engine_error::EngineError};

/// The request that opened a connection, for handlers: see [`Socket::handshake`](crate::Socket::handshake).
#[derive(Debug, Clone)]
pub struct Handshake {
    uri: Option<Uri>,
    headers: HeaderMap,
    peer: SocketAddr,
}

impl Handshake {
    /// The parts of a request to keep, if any.
    pub(crate) fn of(parts: &Parts, peer: SocketAddr, config: &Config) -> Result<Option<Box<Self>>, EngineError> {
        let mut headers = HeaderMap::new();
        if config.keep_handshake {
            // Copies with memory of their own: a clone would hold all bytes that were read together with it.
            headers.extend(parts.headers.iter().filter_map(|(name, value)| Some((name.clone(), detached(value)?))));
        } else {
            for name in &config.kept_headers {
                let Some(value) = parts.headers.get(name) else { continue };
                if value.len() > MAX_KEPT_HEADER_BYTES {
                    return Err(EngineError::HeaderTooLarge);
                }
                headers.extend(detached(value).map(|value| (name.clone(), value)));
            }
            if headers.is_empty() {
                return Ok(None);
            }
        }
        let uri = if config.keep_handshake { Uri::try_from(parts.uri.to_string()).ok() } else { None };
        Ok(Some(Box::new(Self { uri, headers, peer })))
    }

    /// The headers: all of them with [`Config::keep_handshake`](crate::Config::keep_handshake), otherwise those listed
    /// in [`Config::kept_headers`](crate::Config::kept_headers).
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The path; empty without [`Config::keep_handshake`](crate::Config::keep_handshake).
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.as_ref().map_or("", Uri::path)
    }

    /// The parameters of the query, decoded, including those of the protocol (`EIO`, `transport`, `sid`, `t`). None
    /// without [`Config::keep_handshake`](crate::Config::keep_handshake).
    pub fn query(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let query = self.uri.as_ref().and_then(Uri::query).unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
    }

    /// The other end of the TCP connection, which may be a proxy.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// A copy with memory of its own. A clone would hold all bytes that were read together with it.
pub(crate) fn detached(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// The restrictions of a client's library, as far as its first request shows them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Abilities {
    /// The client accepts binary data as base64 only.
    pub(crate) takes_base64: bool,
    /// The client is python-engineio: its handlers accept no additional argument, and it does not reconnect after a
    /// close packet.
    pub(crate) is_python: bool,
}

/// The query parameters that the engine reads.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    pub(crate) version: Option<Cow<'a, str>>,
    pub(crate) transport: Option<Cow<'a, str>>,
    pub(crate) sid: Option<Cow<'a, str>>,
    pub(crate) client: Abilities,
}

impl<'a> Query<'a> {
    /// The query of a request.
    pub(crate) fn of(parts: &'a Parts) -> Self {
        Self::parse(parts.uri.query().unwrap_or_default())
    }

    /// Parses a query, as the reference does. If a parameter occurs twice, the first one counts. An empty `sid` counts
    /// as missing.
    fn parse(query: &'a str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "EIO" => &mut parsed.version,
                "transport" => &mut parsed.transport,
                "sid" => &mut parsed.sid,
                "b64" => {
                    parsed.client.takes_base64 |= !value.is_empty();
                    continue;
                }
                "t" => {
                    parsed.client.is_python |= is_time_in_seconds(&value);
                    continue;
                }
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        parsed.sid = parsed.sid.filter(|sid| !sid.is_empty());
        parsed
    }
}

/// Whether this is `str(time.time())`, which python-engineio adds to make its requests' URLs unique. The values of
/// JavaScript's clients have letters, and at most nine characters before a dot.
fn is_time_in_seconds(value: &str) -> bool {
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    value.split_once('.').is_some_and(|(whole, part)| whole.len() >= 10 && is_number(whole) && is_number(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let query = Query::parse("EIO=%34&transport=poll%69ng&transport=websocket&sid=a%2Db&x&=&t=PxYz12a");
        assert_eq!(query.version.as_deref(), Some("4"));
        assert_eq!(query.transport.as_deref(), Some("polling"));
        assert_eq!(query.sid.as_deref(), Some("a-b"));
        assert!(!query.client.is_python && !query.client.takes_base64);
        assert!(Query::parse("EIO=4&sid=").sid.is_none());
        assert!(Query::parse("EIO=4&b64=1").client.takes_base64);
    }

    #[test]
    fn python_is_known_by_its_time() {
        for time in ["1764528000.1234567", "1764528000.0"] {
            assert!(is_time_in_seconds(time), "{time}");
        }
        // The values of JavaScript's clients since 4.7, of earlier ones, and of rust_engineio.
        for other in
            ["3xk2p9a1", "PxYz12a", "PxYz12a.1", "1234567.1", "17645280001", "1764528000.", ".5", "1764528000.1e5"]
        {
            assert!(!is_time_in_seconds(other), "{other}");
        }
    }
}
