//! TLS: the certificate and the handshake.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::Poll,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{Accept, TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use crate::{
    Limit,
    admission::HttpPermit,
    config::{CLOSE_LINGER, MAX_TLS_HANDSHAKE_BYTES, TLS_BUFFER, TLS_PROTOCOL},
    shard::Shard,
    transport::{Measured, Stream},
};

/// The settings of TLS connections. They can be replaced while the server runs: open connections keep the old settings,
/// and new connections get the new ones.
pub struct Tls(RwLock<Arc<ServerConfig>>);

impl fmt::Debug for Tls {
    // Nothing of a private key is shown, not even its type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS with this certificate and these versions. The server sets the offered protocols (ALPN): HTTP/1.1.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self(RwLock::new(prepared(config)))
    }

    /// Replaces the settings for new connections. Earlier TLS sessions are not resumed, so that every client sees a new
    /// certificate.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = prepared(config);
    }

    fn acceptor(&self) -> TlsAcceptor {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }
}

fn prepared(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![TLS_PROTOCOL.to_vec()];
    Arc::new(config)
}

/// Performs the handshake. `None` if it fails, takes too long or too many bytes, has to make room, or if the server
/// shuts down.
pub(crate) async fn handshake(
    shard: &Shard,
    tls: &Tls,
    stream: TcpStream,
    place: &HttpPermit,
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
        () = place.parting() => {
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
pub(crate) async fn shut_down(mut stream: Box<TlsStream<Measured>>, place: &HttpPermit) {
    tokio::select! {
        biased;
        () = place.parting() => {}
        _ = timeout(CLOSE_LINGER, stream.shutdown()) => {}
    }
}
