//! The security headers of every answer. They prevent browsers from framing or sniffing the server's pages, and from
//! loading foreign code into them.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName};

use crate::limits::HSTS;

/// The policy for data: JSON, metrics and similar content load nothing, wherever they are opened.
const FOR_DATA: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The policy for pages: they load their own scripts, styles and pictures. Swagger UI has pictures in its styles and
/// styles in its elements. An inline script never runs.
const FOR_PAGES: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The headers of all answers.
const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // For browsers that do not know `frame-ancestors`.
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// The capacity for these headers and an answer's own, so that no map has to grow.
const HEADERS: usize = 13;

/// The headers as maps: to copy a map is cheaper than to fill one.
#[derive(Debug)]
pub(super) struct SecurityHeaders {
    for_data: HeaderMap,
    /// The headers of Swagger UI's files, which are public and the same for everybody, and so may be cached.
    for_docs: HeaderMap,
}

impl SecurityHeaders {
    /// Makes the headers. `over_tls` refers to this server's own TLS: a proxy in front of it makes its own promises.
    pub(super) fn new(over_tls: bool) -> Self {
        let mut always = HeaderMap::with_capacity(HEADERS);
        always.extend(ALWAYS);
        if over_tls {
            always.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
        }
        let (mut for_data, mut for_docs) = (always.clone(), always);
        for_data.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(FOR_DATA));
        for_data.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for_docs.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(FOR_PAGES));
        Self { for_data, for_docs }
    }

    /// Adds the headers to an answer's own.
    pub(super) fn add(&self, headers: &mut HeaderMap, is_docs: bool) {
        let all = if is_docs { &self.for_docs } else { &self.for_data };
        let own = std::mem::replace(headers, all.clone());
        headers.extend(own);
        if headers.get(CONTENT_TYPE).is_some_and(|content| content.as_bytes().starts_with(b"text/html")) {
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(FOR_PAGES));
        }
    }
}
