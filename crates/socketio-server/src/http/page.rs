//! Whether a page may use the server: by its origin, and the server's own as far as that is known.

use std::net::IpAddr;

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
};

use crate::{Config, Origins, WebOrigin, address::MAX_HOPS, origin::MAX_ORIGIN_BYTES};

/// The host in the request of a proxy's client. `Forwarded` (RFC 7239) is not read: the proxies in use set these two
/// headers, and pass a client's own `Forwarded` on without reading it.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The scheme in the request of a proxy's client.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether a request from this address, with these headers, comes from an allowed page, or from no page. `over_tls`
/// refers to the connection to this server.
pub(crate) fn is_allowed(config: &Config, peer: IpAddr, over_tls: bool, headers: &HeaderMap) -> bool {
    let (Origins::List(list), Some(value)) = (&config.origins, headers.get(ORIGIN)) else { return true };
    let origin = WebOrigin::from_header(value);
    let is_from_proxy = config.trusted_proxies.contains(peer.to_canonical());
    let allowed =
        origin.is_some_and(|origin| list.contains(&origin) || is_own(&origin, is_from_proxy, over_tls, headers));
    if !allowed {
        let start = |name| headers.get(name).map(|value: &HeaderValue| shown(value.as_bytes()));
        tracing::debug!(
            %peer,
            origin = start(ORIGIN),
            host = start(HOST),
            forwarded_host = start(X_FORWARDED_HOST),
            is_from_proxy,
            "refuse a page: {} does not have its origin, and the request was for another host; a proxy must pass the \
             host on as `Host`, or as `X-Forwarded-Host` if it is a trusted one",
            config.origins_setting
        );
    }
    allowed
}

/// Whether the origin is the origin of the requested URL, as far as this is known.
fn is_own(origin: &WebOrigin, is_from_proxy: bool, over_tls: bool, headers: &HeaderMap) -> bool {
    // Each hop adds its entry at the right. A page can't forge the entries further left: it may send such a header only
    // if a preflight allows the header, and the preflight is refused for the page's origin.
    let forwarded = move |name| {
        let values = headers.get_all(name).iter().filter(move |_| is_from_proxy);
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).take(MAX_HOPS)
    };
    let is_secure = match is_from_proxy {
        true => forwarded(X_FORWARDED_PROTO).next().is_some_and(|scheme| {
            let scheme = scheme.trim_ascii();
            scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"wss")
        }),
        false => over_tls,
    };
    // The reverse is possible: a proxy further out may have removed TLS.
    if is_secure && !origin.is_https() {
        return false;
    }
    let mut hosts = forwarded(X_FORWARDED_HOST).peekable();
    match hosts.peek() {
        Some(_) => hosts.any(|host| origin.is_of(host)),
        None => headers.get(HOST).is_some_and(|host| origin.is_of(host.as_bytes())),
    }
}

/// The error message for a page that may not use the server.
pub(crate) fn refusal(config: &Config) -> String {
    format!("Forbidden: the page's origin is not this server's own, and {} does not have it", config.origins_setting)
}

/// The start of a header's value, for the log.
fn shown(value: &[u8]) -> String {
    value.get(..MAX_ORIGIN_BYTES).unwrap_or(value).escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrustedProxies;

    fn origin(text: &str) -> WebOrigin {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Whether a request of this page is allowed, from a trusted proxy or directly, over TLS or not.
    fn passes(page: &str, from_proxy: bool, over_tls: bool, given: &[(&str, &str)]) -> bool {
        let trusted_proxies = TrustedProxies::new(TrustedProxies::network("10.0.0.0/8"));
        let origins = Origins::List(vec![origin("https://listed.example")]);
        let config = Config { origins, trusted_proxies, ..Config::default() };
        let mut headers = HeaderMap::new();
        for (name, value) in [("origin", page)].iter().chain(given) {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let peer = IpAddr::from(if from_proxy { [10, 0, 0, 1] } else { [203, 0, 113, 1] });
        is_allowed(&config, peer, over_tls, &headers)
    }

    #[test]
    fn the_servers_own_pages_pass_whatever_the_port_is_called() {
        let asked = |page: &str, host| passes(page, false, false, &[("host", host)]);
        for (page, host) in [
            ("https://studio.example", "studio.example"),
            ("https://studio.example", "studio.example:443"),
            ("https://studio.example", "Studio.Example:443"),
            ("https://studio.example:443", "studio.example"),
            ("wss://studio.example", "studio.example:443"),
            ("http://studio.example", "studio.example:80"),
            ("http://localhost:3000", "localhost:3000"),
            ("http://[::1]:3000", "[0:0::1]:3000"),
            ("https://listed.example:443", "studio.example"),
        ] {
            assert!(asked(page, host), "{page} at {host}");
        }
        for (page, host) in [
            ("https://studio.example", "studio.example:80"),
            ("https://studio.example", "studio.example:8443"),
            ("http://studio.example", "studio.example:443"),
            ("https://evil.example", "studio.example"),
            ("https://studio.example", ""),
            ("null", "null"),
            ("http://listed.example", "studio.example"),
            ("capacitor://localhost", "localhost"),
        ] {
            assert!(!asked(page, host), "{page} at {host}");
        }
        assert!(!passes("https://studio.example", false, false, &[]));
        // On a server with TLS, a page loaded without TLS has another origin.
        assert!(!passes("http://studio.example:3000", false, true, &[("host", "studio.example:3000")]));
        assert!(passes("https://studio.example:3000", false, true, &[("host", "studio.example:3000")]));
    }

    #[test]
    fn a_trusted_proxy_says_what_its_client_asked_for() {
        fn by(from_proxy: bool, page: &str, given: &[(&str, &str)]) -> bool {
            passes(page, from_proxy, false, &[&[("host", "127.0.0.1:3000")], given].concat())
        }
        fn host(value: &str) -> [(&str, &str); 1] {
            [("x-forwarded-host", value)]
        }
        let page = "https://studio.example";
        assert!(by(true, page, &host("studio.example")));
        assert!(by(true, page, &host("studio.example:443")));
        assert!(by(true, page, &host("studio.example, inner.example")));
        assert!(by(true, page, &[("x-forwarded-host", "a.example"), ("x-forwarded-host", "studio.example")]));
        assert!(!by(true, page, &[]), "nginx's default");
        assert!(!by(true, page, &host("evil.example")));
        assert!(!by(true, page, &host(&format!("{}studio.example", "x,".repeat(MAX_HOPS)))));
        assert!(!by(true, "http://127.0.0.1:3000", &host("studio.example")), "the proxy's own name for it");
        assert!(!by(false, page, &host("studio.example")), "anybody can say so");

        let by_proto =
            |page, proto| by(true, page, &[("x-forwarded-host", "studio.example"), ("x-forwarded-proto", proto)]);
        for proto in ["https", "HTTPS", "wss", "https, http"] {
            assert!(by_proto(page, proto), "{proto}");
            assert!(!by_proto("http://studio.example", proto), "{proto}");
        }
        for proto in ["http", "", "ftp", "http, https"] {
            assert!(by_proto(page, proto), "TLS was taken off further out: {proto}");
            assert!(by_proto("http://studio.example", proto), "{proto}");
        }
    }
}
