//! Reads a request's body: declared as JSON, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::problem::Problem;

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Its size in bytes.
    pub(crate) bytes: usize,
    /// How long it may take to arrive.
    pub(crate) time: Duration,
}

pub(crate) async fn read(request: Request, limits: Limits) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::unsupported_media_type());
    }
    read_any(request, limits).await
}

/// Reads a body without a look at its type.
pub(crate) async fn read_any(request: Request, Limits { bytes: limit, time }: Limits) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    // What is small on the wire may be anything when it is unpacked.
    if parts.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::unsupported_encoding());
    }
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > limit as u64) {
        return Err(Problem::too_large(limit));
    }
    let collected = tokio::time::timeout(time, Limited::<Body>::new(body, limit).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(limit)),
        Ok(Err(_broken)) => Err(Problem::malformed("the body could not be read to its end")),
        Err(_elapsed) => Err(Problem::timeout()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, format)) = essence.split_once('/') else { return false };
    let (_, suffix) = format.rsplit_once('+').unwrap_or(("", format));
    kind.eq_ignore_ascii_case("application") && suffix.eq_ignore_ascii_case("json")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn json_goes_by_several_names() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(check(json), "{json}");
        }
        for other in ["", "text/json", "application/x-www-form-urlencoded", "application/jsonp", "+json"] {
            assert!(!check(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
