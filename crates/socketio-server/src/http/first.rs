//! The first bytes of a connection. Most hold a whole request for a WebSocket, which is answered here: for a connection
//! that leaves HTTP with its first request, hyper's state costs more than all the rest of the request. Every other
//! request, and every refusal, is hyper's.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use ::http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING},
    request::Parts,
};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    time::{Instant, sleep_until},
};

use super::{
    ResponseBody,
    answer::{allow_origin, client_of, is_allowed, protocol_of},
    engine::EngineCall,
    parting,
    reread::add_headers,
};
use crate::{
    Limit,
    admission::HttpPermit,
    config::SMALL_READ,
    connection::Origin,
    http::handshake::{Query, detached},
    shard::Shard,
    stream::Stream,
};

/// Headers of a request that is answered here; a browser sends about fifteen. A request with more is hyper's.
const MAX_HEADERS: usize = 32;

/// Waits for the first bytes. They are empty if the client sends none or the server shuts down; hyper ends such a
/// connection. `None` if the connection has to be closed.
pub(super) async fn read(
    shard: &Shard,
    stream: &mut Stream,
    peer: SocketAddr,
    permit: &HttpPermit,
    deadline: Instant,
) -> Option<Bytes> {
    tokio::select! {
        biased;
        read = read_once(stream) => read.inspect_err(|error| tracing::debug!(%error, %peer, "http connection ended")).ok(),
        // Other nodes forward requests during a drain too.
        () = shard.drained(), if !permit.is_internal() => Some(Bytes::new()),
        () = parting(permit) => {
            shard.metrics.limit_met(Limit::HttpConnections);
            tracing::debug!(%peer, "close a silent connection to make room");
            None
        }
        () = sleep_until(deadline) => {
            shard.metrics.limit_met(Limit::HeaderTime);
            tracing::debug!(%peer, "no request in time");
            None
        }
    }
}

/// Reads once. The result is empty at the end of the stream.
async fn read_once(stream: &mut Stream) -> io::Result<Bytes> {
    std::future::poll_fn(|cx| {
        // A silent connection takes no memory for the bytes that it may send.
        let mut space = [MaybeUninit::uninit(); SMALL_READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
            // The end of a stream without TLS's `close_notify` is an end like any other here.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled()))),
        }
    })
    .await
}

/// A request for the WebSocket of a new session, with its answer.
pub(super) struct Opening {
    pub(super) origin: Origin,
    pub(super) answer: Vec<u8>,
    /// The bytes behind the request.
    pub(super) leftover: Bytes,
}

/// Accepts the request at the beginning of `bytes`, if it asks for the WebSocket of a new session and can be accepted.
pub(super) fn accept_websocket(
    shard: &Rc<Shard>,
    peer: SocketAddr,
    permit: &HttpPermit,
    bytes: &Bytes,
) -> Option<Opening> {
    if shard.application.allow_request.is_some() || permit.is_internal() {
        return None;
    }
    let (mut parts, length) = parse(bytes)?;
    let client = client_of(shard, peer.ip(), &parts.headers);
    let protocol = protocol_of(shard, &mut parts.uri)?;
    let query = Query::of(&parts);
    let is_new =
        query.version.as_deref() == Some("4") && query.transport.as_deref() == Some("websocket") && query.sid.is_none();
    if !is_new || !is_allowed(shard, peer.ip(), &parts.headers) {
        return None;
    }
    let call = EngineCall { shard, peer, client, permit, protocol };
    let (mut response, origin) = call.open_websocket(&parts, &query).ok()?;
    if let Some(page) = parts.headers.get(ORIGIN).and_then(detached) {
        allow_origin(&shard.config.origins, page, response.headers_mut());
    }
    Some(Opening { origin, answer: head_of(&response), leftover: bytes.slice(length..) })
}

/// The head of a whole GET request without a body, and its length.
fn parse(bytes: &Bytes) -> Option<(Parts, usize)> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut []);
    let httparse::Status::Complete(length) = head.parse_with_uninit_headers(bytes, &mut headers).ok()? else {
        return None;
    };
    if head.method != Some("GET") || head.version != Some(1) {
        return None;
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::GET;
    parts.uri = Uri::from_maybe_shared(bytes.slice_ref(head.path?.as_bytes())).ok()?;
    parts.headers.reserve(head.headers.len());
    for header in head.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value)).ok()?;
        parts.headers.append(name, value);
    }
    let has_body = parts.headers.contains_key(CONTENT_LENGTH) || parts.headers.contains_key(TRANSFER_ENCODING);
    (!has_body).then_some((parts, length))
}

/// The bytes of an answer without a body.
fn head_of(response: &Response<ResponseBody>) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(response.status().as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(response.status().canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    add_headers(response.headers(), &mut head);
    head
}
