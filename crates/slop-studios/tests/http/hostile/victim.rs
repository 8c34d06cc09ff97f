//! The server under attack, and where the attackers come from.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::server::Server;

/// How a server is reached.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    OneAddress,
    /// Each connection from the next of a thousand.
    ThousandAddresses,
}

pub(crate) struct Victim {
    server: Server,
    pub(crate) way: Way,
    pub(crate) origin: Origin,
    attackers: Cell<u32>,
}

impl Victim {
    pub(crate) fn new(server: Server, tls: Option<Arc<ClientConfig>>, origin: Origin) -> Self {
        let way = Way { address: server.address, tls };
        Self { server, way, origin, attackers: Cell::new(0) }
    }

    /// Stops the server as a deploy does.
    pub(crate) async fn end(mut self) {
        self.server.signal("TERM");
        assert!(self.server.wait().await.success());
    }

    /// The address that the next attacker comes from.
    pub(crate) fn next_attacker(&self) -> String {
        match self.origin {
            Origin::OneAddress => "127.0.0.2".to_owned(),
            Origin::ThousandAddresses => {
                let number = self.attackers.replace((self.attackers.get() + 1) % 1000);
                format!("127.1.{}.{}", number / 250, 1 + number % 250)
            }
        }
    }
}

impl Deref for Victim {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
