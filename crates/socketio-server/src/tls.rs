//! TLS: the certificate and the other settings.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::config::TLS_PROTOCOL;

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

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }
}

fn prepared(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![TLS_PROTOCOL.to_vec()];
    Arc::new(config)
}
