//! TLS: with which certificate, and the handshake.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use crate::{
    Limit,
    config::{CLOSE_LINGER, TLS_BUFFER, TLS_PROTOCOL},
    shard::Shard,
    transport::Stream,
};

/// What TLS connections are made with. It can be replaced while the server runs: connections that are open keep what they
/// began with, and new ones get the new.
pub struct Tls(RwLock<Arc<ServerConfig>>);

impl fmt::Debug for Tls {
    // Of a private key not even its type is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// TLS with this certificate and these versions. Which protocols it offers (ALPN) is the server's: HTTP/1.1.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self(RwLock::new(prepared(config)))
    }

    /// From now on new connections get this. Sessions of before are not resumed, so that everyone sees a new certificate.
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

/// Makes the handshake; none if it fails, takes too long, or the server shuts down.
pub(crate) async fn handshake(shard: &Shard, tls: &Tls, stream: TcpStream) -> Option<Stream> {
    if shard.is_draining() {
        return None;
    }
    let accepting = tls.acceptor().accept_with(stream, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let accepted = tokio::select! {
        biased;
        // A drain does not wait for who is not in yet.
        () = shard.drain_began.notified() => return None,
        accepted = timeout(shard.config.header_timeout, accepting) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => {
            shard.metrics.tls_handshakes.increment();
            return Some(Stream::Tls(Box::new(stream)));
        }
        Ok(Err(error)) => tracing::debug!(%error, "tls handshake failed"),
        Err(_elapsed) => {
            shard.metrics.limit_met(Limit::HeaderTime);
            tracing::debug!("tls handshake timed out");
        }
    }
    shard.metrics.tls_handshakes_failed.increment();
    None
}

/// Ends a stream that HTTP is done with, so that its client can tell the end from a cut.
pub(crate) async fn shut_down(mut stream: Box<TlsStream<TcpStream>>) {
    let _ = timeout(CLOSE_LINGER, stream.shutdown()).await;
}
