//! Reads request bodies. Each must be declared as JSON and is limited in size and time. All unfinished bodies together
//! have a limit too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use socketio_server::{BodyPermit, HttpConnection};

use super::problem::Problem;
use crate::limits::SMALL_BODY_BYTES;
use crate::metrics::{Limit, Metrics};

/// The limits on bodies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The size of one body in bytes.
    pub(crate) bytes: usize,
    /// The time in which one body must arrive.
    pub(crate) time: Duration,
    /// Bytes of all unfinished bodies together.
    pub(crate) unfinished: usize,
}

/// The reader of request bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    limits: Limits,
    /// Bytes of the unfinished bodies.
    unfinished: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Bodies {
    pub(crate) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { limits, unfinished: AtomicUsize::new(0), metrics }
    }

    pub(crate) async fn read(&self, request: Request) -> Result<Bytes, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        self.read_any(request).await
    }

    /// Reads a body without a check of its type.
    pub(crate) async fn read_any(&self, request: Request) -> Result<Bytes, Problem> {
        let (parts, body) = request.into_parts();
        // A small compressed body may have any size after decompression.
        if parts.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Problem::unsupported_encoding());
        }
        let limit = self.limits.bytes;
        let awaited = self.awaited(parts.extensions.get())?;
        let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|declared| declared > limit as u64) {
            return Err(Problem::too_large(limit));
        }
        let read = tokio::time::timeout(self.limits.time, self.collect(body)).await;
        let bytes = read.unwrap_or_else(|_elapsed| Err(Problem::timeout()))?;
        if let Some(awaited) = awaited {
            awaited.came();
        }
        Ok(bytes)
    }

    /// The permit of a body that is still to arrive; `None` if the request has no connection, as in a test.
    fn awaited(&self, connection: Option<&HttpConnection>) -> Result<Option<BodyPermit>, Problem> {
        let permit = connection.map(HttpConnection::await_body).transpose();
        permit.map_err(|_too_many| {
            self.metrics.limit_met(Limit::PublishersBodies);
            Problem::too_many_bodies()
        })
    }

    async fn collect(&self, body: Body) -> Result<Bytes, Problem> {
        let mut body = Limited::new(body, self.limits.bytes);
        let mut held = Held { bodies: self, bytes: Vec::new(), count: 0 };
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => held.add(&frame.into_data().unwrap_or_default())?,
                Err(error) if error.is::<LengthLimitError>() => return Err(Problem::too_large(self.limits.bytes)),
                Err(_broken) => return Err(Problem::malformed("the body could not be read to its end")),
            }
        }
        Ok(std::mem::take(&mut held.bytes).into())
    }
}

/// The part of a body that has arrived.
struct Held<'a> {
    bodies: &'a Bodies,
    bytes: Vec<u8>,
    /// Its share of the bytes counted in `Bodies::unfinished`.
    count: usize,
}

impl Held<'_> {
    fn add(&mut self, data: &[u8]) -> Result<(), Problem> {
        self.bytes.extend_from_slice(data);
        let more = self.bytes.capacity() - self.count;
        self.count += more;
        let all = self.bodies.unfinished.fetch_add(more, Ordering::Relaxed) + more;
        if more == 0 || all <= self.bodies.limits.unfinished || self.count <= SMALL_BODY_BYTES {
            return Ok(());
        }
        self.bodies.metrics.limit_met(Limit::UnfinishedBodies);
        Err(Problem::too_many_bodies())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.bodies.unfinished.fetch_sub(self.count, Ordering::Relaxed);
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
