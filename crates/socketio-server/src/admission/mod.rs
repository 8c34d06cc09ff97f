//! Admission of connections: counts them, in total and for each address, and refuses those over a limit.
//!
//! The table keeps an address while it has connections or handshakes, and then until its rate is paid off. So the
//! limits also bound the size of the table, and the table is empty when all clients are gone.

mod http;

use std::{
    cell::Cell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    Config, Limit, TrustedProxies,
    address::Address,
    config::CONNECTION_BURST_SECONDS,
    rate::{Pace, Rate},
};
use http::HttpPool;
pub use http::{BodyPermit, HttpConnection};
pub(crate) use http::{HttpPermit, Listener};

/// Eviction interval for idle addresses. Newcomers may evict them earlier.
pub(crate) const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// Number of addresses below which a new address does not start an eviction of idle addresses.
const FEW_ADDRESSES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Admission {
    max_connections: usize,
    max_http_connections: usize,
    max_per_address: usize,
    max_handshakes: usize,
    max_handshakes_per_address: usize,
    rate: Rate,
    trusted_proxies: TrustedProxies,
    began: Instant,
    streams: AtomicUsize,
    connections: AtomicUsize,
    handshakes: Handshakes<AtomicUsize>,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    known: HashMap<Address, Counts>,
    /// Number of addresses after the last eviction.
    tidied: usize,
    /// Behind the same lock, because the admission of one connection may close another.
    http: HttpPool,
}

/// The handshakes in progress: see [`Config::max_handshakes`]. Each kind is counted separately, so that slow clients of
/// one kind do not block clients of another kind. A client with a connection must be able to continue, and long-polling
/// needs another request for that. A publisher's body must not be refused because of clients' bodies.
#[derive(Debug, Default)]
struct Handshakes<T> {
    requests: T,
    bodies: T,
    publishers_bodies: T,
    namespaces: T,
}

/// A kind of handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// A request's headers, or the rest of them.
    Request,
    /// The body of a client's request.
    Body,
    /// The body of a request that is not the engine's.
    PublishersBody,
    /// The first namespace of an Engine.IO connection.
    Namespace,
}

impl<T> Handshakes<T> {
    const fn of(&self, awaited: Awaited) -> &T {
        match awaited {
            Awaited::Request => &self.requests,
            Awaited::Body => &self.bodies,
            Awaited::PublishersBody => &self.publishers_bodies,
            Awaited::Namespace => &self.namespaces,
        }
    }

    const fn of_mut(&mut self, awaited: Awaited) -> &mut T {
        match awaited {
            Awaited::Request => &mut self.requests,
            Awaited::Body => &mut self.bodies,
            Awaited::PublishersBody => &mut self.publishers_bodies,
            Awaited::Namespace => &mut self.namespaces,
        }
    }
}

/// The counts of one address.
#[derive(Debug, Default)]
struct Counts {
    /// TCP connections that speak HTTP.
    streams: u32,
    /// Engine.IO connections.
    connections: u32,
    handshakes: Handshakes<u32>,
    /// The time at which the rate of its new connections is paid off.
    tat: u64,
}

impl Counts {
    fn is_gone(&self, now: u64) -> bool {
        let Handshakes { requests, bodies, publishers_bodies, namespaces } = self.handshakes;
        [self.streams, self.connections, requests, bodies, publishers_bodies, namespaces] == [0; 6] && self.tat <= now
    }
}

impl Addresses {
    fn tidy(&mut self, now: u64) {
        self.known.retain(|_, counts| !counts.is_gone(now));
        self.known.shrink_to(self.known.len() * 2);
        self.tidied = self.known.len();
    }

    /// Changes the counts of an address, and removes the address if nothing is left of it.
    fn change(&mut self, address: Option<Address>, now: u64, change: impl FnOnce(&mut Counts)) {
        let Some(address) = address else { return };
        let Some(counts) = self.known.get_mut(&address) else { return };
        change(counts);
        if counts.is_gone(now) {
            self.known.remove(&address);
        }
    }

    fn entry(&mut self, address: Address, now: u64) -> &mut Counts {
        if self.known.len() >= FEW_ADDRESSES.max(self.tidied * 2) {
            self.tidy(now);
        }
        self.known.entry(address).or_default()
    }
}

/// The current totals, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupancy {
    pub(crate) streams: usize,
    pub(crate) http_connections: usize,
    pub(crate) handshakes: usize,
    pub(crate) addresses: usize,
}

fn is_full(count: u32, limit: usize) -> bool {
    limit > 0 && count as usize >= limit
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = config.connection_rate_per_address;
        Self {
            max_connections: config.max_connections,
            max_http_connections: config.max_http_connections,
            max_per_address: config.max_connections_per_address,
            max_handshakes: config.max_handshakes,
            max_handshakes_per_address: config.max_handshakes_per_address,
            rate: Rate::new(rate, rate.saturating_mul(CONNECTION_BURST_SECONDS)),
            trusted_proxies: config.trusted_proxies.clone(),
            began: Instant::now(),
            streams: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            handshakes: Handshakes::default(),
            addresses: Mutex::default(),
        }
    }

    /// Admits an Engine.IO connection.
    pub(crate) fn connection(self: &Arc<Self>, client: IpAddr) -> Result<ConnectionPermit, Limit> {
        let address = self.address(client);
        // Counted before the comparison, so that two concurrent connections can't both take the last permit.
        let others = self.connections.fetch_add(1, Relaxed);
        let admitted = if others >= self.max_connections {
            Err(Limit::Connections)
        } else {
            let now = self.now();
            self.begin_handshake(Awaited::Namespace, address, |counts| {
                if is_full(counts.connections, self.max_per_address) {
                    return Err(Limit::ConnectionsPerAddress);
                }
                let (tat, pace) = self.rate.take(counts.tat, now);
                if pace != Pace::Within {
                    return Err(Limit::ConnectionRate);
                }
                counts.tat = tat;
                counts.connections += 1;
                Ok(())
            })
        };
        match admitted {
            Ok(()) => Ok(ConnectionPermit { admission: self.clone(), address, handshaking: Cell::new(true) }),
            Err(limit) => {
                self.connections.fetch_sub(1, Relaxed);
                Err(limit)
            }
        }
    }

    /// Counts a handshake, if the limits and `also` allow it.
    fn begin_handshake(
        &self,
        awaited: Awaited,
        address: Option<Address>,
        also: impl FnOnce(&mut Counts) -> Result<(), Limit>,
    ) -> Result<(), Limit> {
        let handshakes = self.handshakes.of(awaited);
        // Awaited requests have no total limit here: the pool closes the oldest connection without a complete request.
        if awaited != Awaited::Request && handshakes.load(Relaxed) >= self.max_handshakes {
            return Err(Limit::Handshakes);
        }
        if let Some(address) = address {
            let now = self.now();
            let mut addresses = self.addresses();
            let counts = addresses.entry(address, now);
            if is_full(*counts.handshakes.of(awaited), self.max_handshakes_per_address) {
                return Err(Limit::HandshakesPerAddress);
            }
            also(counts)?;
            *counts.handshakes.of_mut(awaited) += 1;
        }
        handshakes.fetch_add(1, Relaxed);
        Ok(())
    }

    fn end_handshake(&self, awaited: Awaited, address: Option<Address>) {
        self.handshakes.of(awaited).fetch_sub(1, Relaxed);
        self.change(address, |counts| {
            let count = counts.handshakes.of_mut(awaited);
            *count = count.saturating_sub(1);
        });
    }

    fn change(&self, address: Option<Address>, change: impl FnOnce(&mut Counts)) {
        let now = self.now();
        self.addresses().change(address, now, change);
    }

    /// The address as the limits identify it. `None` for a trusted proxy, which stands for many clients.
    pub(crate) fn address(&self, address: IpAddr) -> Option<Address> {
        (!self.trusted_proxies.contains(address.to_canonical())).then(|| Address::of(address))
    }

    pub(crate) fn tidy(&self) {
        let now = self.now();
        self.addresses().tidy(now);
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        let awaited = [Awaited::Request, Awaited::Body, Awaited::PublishersBody, Awaited::Namespace];
        let addresses = self.addresses();
        Occupancy {
            streams: self.streams.load(Relaxed),
            http_connections: addresses.http.len(),
            handshakes: awaited.map(|awaited| self.handshakes.of(awaited).load(Relaxed)).iter().sum(),
            addresses: addresses.known.len(),
        }
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        // 2^64 ns are 584 years.
        self.began.elapsed().as_nanos() as u64
    }
}

/// The permit of a TCP connection, for any protocol.
#[derive(Debug)]
pub(crate) struct StreamPermit(Arc<Admission>);

impl StreamPermit {
    /// Creates a second permit: for the same TCP connection, which moves to another shard, or for the connection to
    /// another node that it needs.
    pub(crate) fn again(admission: &Arc<Admission>) -> Self {
        admission.streams.fetch_add(1, Relaxed);
        Self(admission.clone())
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// The permit of an Engine.IO connection.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    admission: Arc<Admission>,
    address: Option<Address>,
    /// The connection has no namespace yet.
    handshaking: Cell<bool>,
}

impl ConnectionPermit {
    /// Records that the connection is connected to a namespace, or needs none.
    pub(crate) fn settle(&self) {
        if self.handshaking.replace(false) {
            self.admission.end_handshake(Awaited::Namespace, self.address);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.settle();
        self.admission.connections.fetch_sub(1, Relaxed);
        self.admission.change(self.address, |counts| counts.connections = counts.connections.saturating_sub(1));
    }
}
