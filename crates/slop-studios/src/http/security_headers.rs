//! What every answer tells browsers, so that no page of ours can be framed, sniffed or made to load others' code.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName};

use crate::limits::HSTS;

/// JSON, metrics and the like load nothing, wherever they are opened.
const FOR_DATA: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Our pages load their own scripts, styles and pictures, and Swagger UI has pictures in its styles and styles in its
/// elements. A script within a page runs under no circumstances.
const FOR_PAGES: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Swagger UI's files, which are public and the same for everybody.
const DOCS: &str = "/docs";

/// For all answers.
const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // Of browsers that don't know `frame-ancestors`.
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Whether a path is one of Swagger UI's.
pub(super) fn is_docs(path: &str) -> bool {
    path.strip_prefix(DOCS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Adds them. `over_tls` is about this server's own TLS: what a proxy in front of it promises is the proxy's to say.
pub(super) fn add(headers: &mut HeaderMap, is_docs: bool, over_tls: bool) {
    headers.reserve(ALWAYS.len() + 3);
    headers.extend(ALWAYS);
    let content = headers.get(CONTENT_TYPE).and_then(|content| content.to_str().ok()).unwrap_or_default();
    let policy = if is_docs || content.starts_with("text/html") { FOR_PAGES } else { FOR_DATA };
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    if !is_docs && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if over_tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
}
