//! Upgrades that the fallback handles, such as axum's WebSockets.
//!
//! hyper hands a stream to a handler only if other threads may use the stream. Other threads may not use the streams of
//! the HTTP connections here, because their bytes are counted for their shard. So such a request is read a second time,
//! from a stream that is allowed to move.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use ::http::{
    HeaderMap, Request, Version,
    header::{CONNECTION, HeaderName, UPGRADE},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, ReadBuf, ReadHalf},
    sync::oneshot,
};

use crate::{HttpConnection, shard::Shard, stream::Stream};

/// Whether a request asks for an upgrade to another protocol.
pub(super) fn wants_upgrade(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && request.headers().contains_key(UPGRADE)
        && has_token(request.headers(), &CONNECTION, "upgrade")
}

/// Whether a list header contains this token.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}

/// The bytes of a request's head.
pub(super) fn head_of(request: &Request<Incoming>) -> BytesMut {
    let mut head = BytesMut::new();
    head.extend_from_slice(request.method().as_str().as_bytes());
    head.extend_from_slice(b" ");
    head.extend_from_slice(request.uri().to_string().as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    add_headers(request.headers(), &mut head);
    head
}

/// Appends the bytes of headers, and the empty line after them.
pub(super) fn add_headers(headers: &HeaderMap, head: &mut impl BufMut) {
    for (name, value) in headers {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    head.put_slice(b"\r\n");
}

/// Lets the fallback answer the request that begins with `read`, and waits until the fallback is done with the stream.
pub(super) async fn serve(
    shard: &Rc<Shard>,
    stream: Stream,
    read: Bytes,
    client: SocketAddr,
    connection: HttpConnection,
    max_headers: usize,
) {
    let (open, closed) = oneshot::channel::<()>();
    let (rest, write) = tokio::io::split(stream);
    let stream = tokio::io::join(Reread { read, rest, _open: open }, write);
    let service = {
        let shard = shard.clone();
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(connection.clone());
            let answer = shard.application.fallback.as_ref().map(|fallback| fallback.call(request));
            async move {
                match answer {
                    Some(answer) => Ok(answer.await),
                    None => Err(io::Error::from(io::ErrorKind::Unsupported)),
                }
            }
        })
    };
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_headers(max_headers)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    match served {
        Ok(()) => _ = closed.await,
        Err(error) => tracing::debug!(%error, "http upgrade ended"),
    }
}

/// The bytes of a stream, beginning with those already read.
struct Reread {
    read: Bytes,
    rest: ReadHalf<Stream>,
    /// Dropped with the stream.
    _open: oneshot::Sender<()>,
}

impl AsyncRead for Reread {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.rest).poll_read(cx, buffer);
        }
        let count = this.read.len().min(buffer.remaining());
        buffer.put_slice(this.read.get(..count).unwrap_or_default());
        this.read.advance(count);
        Poll::Ready(Ok(()))
    }
}
