//! The web origins of pages. Scheme, host and port are compared as in URLs.
//!
//! The parser is our own. The names in a browser's headers are ASCII already. A library for URLs would add the tables
//! of Unicode to the engine for the other names.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use ::http::HeaderValue;

/// Longest scheme that is read. `capacitor-electron` has 18 letters.
const MAX_SCHEME_BYTES: usize = 40;

/// Longest name of a host (RFC 1035).
const MAX_NAME_BYTES: usize = 253;

/// Longest origin that is read: the scheme, `://`, a name and a port. No valid origin is longer.
pub(crate) const MAX_ORIGIN_BYTES: usize = MAX_SCHEME_BYTES + 3 + MAX_NAME_BYTES + 6;

/// The web origins that may use the server from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Every origin, `null` included (`Access-Control-Allow-Origin: *`).
    Any,
    /// The server's own origin, and the listed ones. Requests without an `Origin` header are allowed: browsers always
    /// send the header across origins.
    List(Vec<WebOrigin>),
}

/// A web origin, such as `https://studio.example`: scheme, host and port. Two origins are equal if they are equal in
/// URLs: letters may have either case, a default port may be left out, an IPv6 address may have any of its forms, and
/// `ws` and `wss` stand for `http` and `https`.
///
/// ```
/// use socketio_server::WebOrigin;
///
/// let origin: WebOrigin = "WSS://Studio.example:443/".parse()?;
/// assert_eq!(origin, "https://studio.example".parse::<WebOrigin>()?);
/// assert_eq!(origin.to_string(), "https://studio.example");
/// # Ok::<(), socketio_server::WrongOrigin>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebOrigin {
    /// In lower case.
    scheme: Box<str>,
    at: HostPort,
}

/// The reason why a text is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongOrigin {
    /// It does not begin with a scheme and `://`.
    #[error("there is no scheme before the host")]
    NoScheme,
    /// It is the origin of sandboxed frames and of files.
    #[error("the origin `null` is that of any sandboxed frame and any file: it can't be told from others'")]
    Null,
    /// Something follows the host and port.
    #[error("there is more than scheme, host and port")]
    NotOnlyOrigin,
    /// It has a `*`.
    #[error("`*` can't stand for a part of an origin")]
    Wildcard,
    /// The host is not in ASCII.
    #[error("the host is not in the form that browsers send, which has ASCII letters only (xn--…)")]
    NotAscii,
    /// The host is missing, or is not a valid name or address.
    #[error("there is no valid host")]
    Host,
    /// The port is not a number up to 65535.
    #[error("the port is not a number up to 65535")]
    Port,
    /// It is longer than any origin.
    #[error("it is longer than any origin")]
    TooLong,
}

impl FromStr for WebOrigin {
    type Err = WrongOrigin;

    /// Reads an origin, as a browser sends it or as a person writes it.
    fn from_str(text: &str) -> Result<Self, WrongOrigin> {
        if text.len() > MAX_ORIGIN_BYTES {
            return Err(WrongOrigin::TooLong);
        }
        if text == "null" {
            return Err(WrongOrigin::Null);
        }
        let (scheme, rest) = text.split_once("://").ok_or(WrongOrigin::NoScheme)?;
        let mut letters = scheme.bytes();
        let begins = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !begins
            || scheme.len() > MAX_SCHEME_BYTES
            || !letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            return Err(WrongOrigin::NoScheme);
        }
        let scheme: Box<str> = match scheme.to_ascii_lowercase().as_str() {
            "ws" => "http".into(),
            "wss" => "https".into(),
            other => other.into(),
        };
        let mut at: HostPort = rest.strip_suffix('/').unwrap_or(rest).parse()?;
        at.port = at.port.filter(|port| Some(*port) != default_port(&scheme));
        Ok(Self { scheme, at })
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.at.host)?;
        self.at.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl WebOrigin {
    pub(crate) fn from_header(value: &HeaderValue) -> Option<Self> {
        value.to_str().ok()?.parse().ok()
    }

    pub(crate) fn is_https(&self) -> bool {
        &*self.scheme == "https"
    }

    /// Whether a request for this host, in the form of a `Host` header, may be for a URL of this origin. False for the
    /// scheme of an app (`capacitor://localhost`), which no server has.
    #[must_use]
    pub fn is_of(&self, host: &[u8]) -> bool {
        let default = default_port(&self.scheme);
        let text = std::str::from_utf8(host.trim_ascii()).ok().filter(|text| text.len() <= MAX_ORIGIN_BYTES);
        let Some(asked) = text.and_then(|text| text.parse::<HostPort>().ok()) else { return false };
        default.is_some() && self.at.host == asked.host && self.at.port.or(default) == asked.port.or(default)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// `host[:port]`, with the host in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HostPort {
    host: Box<str>,
    port: Option<u16>,
}

impl FromStr for HostPort {
    type Err = WrongOrigin;

    fn from_str(text: &str) -> Result<Self, WrongOrigin> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(WrongOrigin::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| WrongOrigin::Host)?;
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                check_name(name)?;
                (name.to_ascii_lowercase(), port)
            }
        };
        let port = match port.strip_prefix(':') {
            // As in URLs, the number may be left out.
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| WrongOrigin::Port)?)
            }
            Some(other) if other.contains(['/', '@', '?', '#']) => return Err(WrongOrigin::NotOnlyOrigin),
            Some(_) => return Err(WrongOrigin::Port),
            None if port.is_empty() => None,
            None => return Err(WrongOrigin::NotOnlyOrigin),
        };
        Ok(Self { host: host.into(), port })
    }
}

fn check_name(name: &str) -> Result<(), WrongOrigin> {
    if name.contains(['/', '@', '?', '#']) {
        Err(WrongOrigin::NotOnlyOrigin)
    } else if name.contains('*') {
        Err(WrongOrigin::Wildcard)
    } else if !name.is_ascii() {
        Err(WrongOrigin::NotAscii)
    } else if name.len() > MAX_NAME_BYTES {
        Err(WrongOrigin::TooLong)
    } else if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        Err(WrongOrigin::Host)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(text: &str) -> WebOrigin {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn origins_are_equal_as_urls_are() {
        for (a, b) in [
            ("https://studio.example", "https://studio.example:443"),
            ("https://studio.example", "HTTPS://Studio.Example/"),
            ("https://studio.example", "wss://studio.example"),
            ("https://studio.example", "https://studio.example:"),
            ("https://studio.example:8443", "WSS://studio.example:08443"),
            ("http://studio.example", "ws://studio.example:80/"),
            ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
            ("http://[2001:db8::a]", "http://[2001:DB8:0::A]:80"),
            ("capacitor://localhost", "Capacitor://LOCALHOST"),
        ] {
            assert_eq!(origin(a), origin(b));
        }
        let different = [
            "https://studio.example",
            "http://studio.example",
            "https://studio.example:80",
            "http://studio.example:443",
            "https://studio.example.",
            "https://studio.example.evil",
            "https://[::1]",
            "https://[::ffff:127.0.0.1]",
            "https://127.0.0.1",
            "capacitor://studio.example",
            "capacitor://studio.example:443",
        ];
        for (index, a) in different.iter().enumerate() {
            assert!(different[index + 1..].iter().all(|b| origin(a) != origin(b)), "{a}");
            assert_eq!(origin(&origin(a).to_string()), origin(a));
        }
    }

    #[test]
    fn what_is_no_origin_says_why() {
        for (text, error) in [
            ("null", WrongOrigin::Null),
            ("", WrongOrigin::NoScheme),
            ("studio.example", WrongOrigin::NoScheme),
            ("//studio.example", WrongOrigin::NoScheme),
            ("://studio.example", WrongOrigin::NoScheme),
            ("1s://studio.example", WrongOrigin::NoScheme),
            ("ht tps://studio.example", WrongOrigin::NoScheme),
            ("https://studio.example/path", WrongOrigin::NotOnlyOrigin),
            ("https://studio.example//", WrongOrigin::NotOnlyOrigin),
            ("https://studio.example:443/path", WrongOrigin::NotOnlyOrigin),
            ("https://studio.example?x", WrongOrigin::NotOnlyOrigin),
            ("https://studio.example#x", WrongOrigin::NotOnlyOrigin),
            ("https://user@studio.example", WrongOrigin::NotOnlyOrigin),
            ("https://user:word@studio.example", WrongOrigin::NotOnlyOrigin),
            ("https://[::1]x", WrongOrigin::NotOnlyOrigin),
            ("https://*.studio.example", WrongOrigin::Wildcard),
            ("https://m\u{fc}ller.example", WrongOrigin::NotAscii),
            ("https://", WrongOrigin::Host),
            ("https:///", WrongOrigin::Host),
            ("file:///", WrongOrigin::Host),
            ("https://:443", WrongOrigin::Host),
            ("https://a b", WrongOrigin::Host),
            ("https://[::1", WrongOrigin::Host),
            ("https://[1.2.3.4]", WrongOrigin::Host),
            ("https://[fe80::1%25eth0]", WrongOrigin::Host),
            ("https://studio.example:65536", WrongOrigin::Port),
            ("https://studio.example:-1", WrongOrigin::Port),
            ("https://studio.example:+1", WrongOrigin::Port),
            ("https://::1", WrongOrigin::Host),
            (&format!("https://{}", "a".repeat(MAX_ORIGIN_BYTES)), WrongOrigin::TooLong),
            (&format!("ws://{}", "a".repeat(MAX_NAME_BYTES + 1)), WrongOrigin::TooLong),
        ] {
            assert_eq!(text.parse::<WebOrigin>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_longest_name_is_read_again_after_its_scheme_became_longer() {
        let longest = origin(&format!("ws://{}:65535", "a".repeat(MAX_NAME_BYTES)));
        assert_eq!(origin(&longest.to_string()), longest);
    }

    proptest! {
        #[test]
        fn no_header_panics_and_what_is_read_is_read_again(
            page in "(https?|wss?|app)?(://)?[ -~\u{80}-\u{ff}]{0,40}",
            host in any::<Vec<u8>>(),
        ) {
            if let Ok(origin) = page.parse::<WebOrigin>() {
                prop_assert_eq!(origin.to_string().parse::<WebOrigin>(), Ok(origin.clone()));
                let _ = origin.is_of(&host);
            }
        }

        #[test]
        fn an_origin_is_its_hosts(name in "[a-z0-9.-]{1,30}", port in any::<u16>(), secure in any::<bool>()) {
            let (scheme, default) = if secure { ("https", 443) } else { ("http", 80) };
            let page = format!("{scheme}://{name}:{port}");
            let host = format!("{name}:{port}");
            prop_assert!(origin(&page).is_of(host.as_bytes()));
            prop_assert_eq!(origin(&page).is_of(name.as_bytes()), port == default);
        }
    }
}
