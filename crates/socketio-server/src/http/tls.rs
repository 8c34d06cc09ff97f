//! The TLS handshake of a connection, and its end.

use std::{future::Future, io, pin::Pin, task::Poll};

use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{Accept, server::TlsStream};

use crate::{
    Limit, Tls,
    admission::HttpPermit,
    config::{CLOSE_LINGER, MAX_TLS_HANDSHAKE_BYTES, TLS_BUFFER},
    shard::Shard,
    stream::{Measured, Stream},
};

/// Performs the handshake. `None` if it fails, takes too long or too many bytes, has to make room, or if the server
/// shuts down.
pub(super) async fn handshake(
    shard: &Shard,
    tls: &Tls,
    stream: TcpStream,
    permit: &HttpPermit,
    deadline: Instant,
) -> Option<Stream> {
    if shard.is_draining() {
        return None;
    }
    let stream = Measured::new(stream, MAX_TLS_HANDSHAKE_BYTES);
    let mut accepting = tls.acceptor().accept_with(stream, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let accepted = tokio::select! {
        biased;
        // A drain does not wait for unfinished handshakes.
        () = shard.drain_began.notified() => return None,
        () = permit.parting() => {
            shard.metrics.limit_met(Limit::HttpConnections);
            return None;
        }
        accepted = timeout_at(deadline, within_measure(&mut accepting)) => accepted,
    };
    match accepted {
        Ok(Ok(mut stream)) => {
            shard.metrics.tls_handshakes.increment();
            stream.get_mut().0.be_endless();
            return Some(Stream::Tls(Box::new(stream)));
        }
        Ok(Err(Some(error))) => tracing::debug!(%error, "tls handshake failed"),
        Ok(Err(None)) => {
            shard.metrics.limit_met(Limit::TlsHandshakeSize);
            tracing::debug!("tls handshake is too large");
        }
        Err(_elapsed) => {
            shard.metrics.limit_met(Limit::HeaderTime);
            tracing::debug!("tls handshake timed out");
        }
    }
    shard.metrics.tls_handshakes_failed.increment();
    None
}

/// Waits for a handshake. The error is `None` if the handshake needs more bytes than it may read.
async fn within_measure(accepting: &mut Accept<Measured>) -> Result<TlsStream<Measured>, Option<io::Error>> {
    std::future::poll_fn(|cx| match Pin::new(&mut *accepting).poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.map_err(Some)),
        Poll::Pending if accepting.get_ref().is_some_and(Measured::is_used_up) => Poll::Ready(Err(None)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Ends a stream after HTTP, so that its client can tell a regular end from a cut.
pub(super) async fn shut_down(mut stream: Box<TlsStream<Measured>>, permit: &HttpPermit, is_parting: bool) {
    tokio::select! {
        biased;
        () = permit.parting(), if !is_parting => {}
        _ = timeout(CLOSE_LINGER, stream.shutdown()) => {}
    }
}
