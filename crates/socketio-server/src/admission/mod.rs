//! Who is let in: counts connections, in all and for each address, and refuses what is too many.
//!
//! An address is known for as long as something of it is here, and then until its rate is paid off; so the table is
//! bounded by what the limits let in, and empty when all are gone.

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
pub(crate) use http::HttpPlace;
use http::HttpPool;
pub use http::{BodyPermit, HttpConnection};

/// How often addresses that nothing is here of are forgotten, if no newcomer has them forgotten before.
pub(crate) const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// Addresses below which a newcomer does not have the others looked through.
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
    /// How many there were when they were last looked through.
    tidied: usize,
    /// Behind the same lock, because a connection that is let in may have another one leave.
    http: HttpPool,
}

/// What the server waits for: see [`Config::max_handshakes`]. Each kind is counted apart, so that the clients who keep it
/// waiting for one thing stand in nobody's way who is about to send another. A client that has a connection must be able to
/// go on with it, which with long-polling takes another request; and a publisher's body is not refused for clients' bodies.
#[derive(Debug, Default)]
struct Handshakes<T> {
    requests: T,
    bodies: T,
    publishers_bodies: T,
    namespaces: T,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// A request's headers, or the rest of them.
    Request,
    /// The body of a client's request.
    Body,
    /// The body of a request that is not the engine's.
    PublishersBody,
    /// That an Engine.IO connection is connected to a namespace.
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

/// What is here of an address.
#[derive(Debug, Default)]
struct Counts {
    /// TCP connections that speak HTTP.
    streams: u32,
    /// Engine.IO connections.
    connections: u32,
    handshakes: Handshakes<u32>,
    /// When its new connections are paid for.
    paid_at: u64,
}

impl Counts {
    fn is_gone(&self, now: u64) -> bool {
        let Handshakes { requests, bodies, publishers_bodies, namespaces } = self.handshakes;
        [self.streams, self.connections, requests, bodies, publishers_bodies, namespaces] == [0; 6]
            && self.paid_at <= now
    }
}

impl Addresses {
    fn tidy(&mut self, now: u64) {
        self.known.retain(|_, counts| !counts.is_gone(now));
        self.known.shrink_to(self.known.len() * 2);
        self.tidied = self.known.len();
    }

    fn entry(&mut self, address: Address, now: u64) -> &mut Counts {
        if self.known.len() >= FEW_ADDRESSES.max(self.tidied * 2) {
            self.tidy(now);
        }
        self.known.entry(address).or_default()
    }
}

/// What there is, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
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

    /// Lets an Engine.IO connection in.
    pub(crate) fn connection(self: &Arc<Self>, client: IpAddr) -> Result<ConnectionPlace, Limit> {
        let address = self.address(client);
        // Counted before it is compared, so that two at once are not both let in as the last.
        let place = self.connections.fetch_add(1, Relaxed);
        let admitted = if place >= self.max_connections {
            Err(Limit::Connections)
        } else {
            let now = self.now();
            self.begin_handshake(Awaited::Namespace, address, |counts| {
                if is_full(counts.connections, self.max_per_address) {
                    return Err(Limit::ConnectionsPerAddress);
                }
                let (paid_at, pace) = self.rate.take(counts.paid_at, now);
                if pace != Pace::Within {
                    return Err(Limit::ConnectionRate);
                }
                counts.paid_at = paid_at;
                counts.connections += 1;
                Ok(())
            })
        };
        match admitted {
            Ok(()) => Ok(ConnectionPlace { admission: self.clone(), address, handshaking: Cell::new(true) }),
            Err(limit) => {
                self.connections.fetch_sub(1, Relaxed);
                Err(limit)
            }
        }
    }

    /// Counts a handshake, if `also` has nothing against it.
    fn begin_handshake(
        &self,
        awaited: Awaited,
        address: Option<Address>,
        also: impl FnOnce(&mut Counts) -> Result<(), Limit>,
    ) -> Result<(), Limit> {
        let handshakes = self.handshakes.of(awaited);
        // Of those who have sent no whole request the oldest leaves, by what the pool knows of them.
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

    /// Changes what is here of an address, and forgets it if that is nothing.
    fn change(&self, address: Option<Address>, change: impl FnOnce(&mut Counts)) {
        let Some(address) = address else { return };
        let now = self.now();
        let mut addresses = self.addresses();
        let Some(counts) = addresses.known.get_mut(&address) else { return };
        change(counts);
        if counts.is_gone(now) {
            addresses.known.remove(&address);
        }
    }

    /// What the limits know the address by; a proxy is many clients, and has none.
    pub(crate) fn address(&self, address: IpAddr) -> Option<Address> {
        (!self.trusted_proxies.contains(address.to_canonical())).then(|| Address::of(address))
    }

    pub(crate) fn tidy(&self) {
        let now = self.now();
        self.addresses().tidy(now);
    }

    pub(crate) fn crowd(&self) -> Crowd {
        let awaited = [Awaited::Request, Awaited::Body, Awaited::PublishersBody, Awaited::Namespace];
        let addresses = self.addresses();
        Crowd {
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

/// The place of a TCP connection, whatever it speaks.
#[derive(Debug)]
pub(crate) struct StreamPlace(Arc<Admission>);

impl StreamPlace {
    /// Another for the same TCP connection, which changes to another shard.
    pub(crate) fn again(admission: &Arc<Admission>) -> Self {
        admission.streams.fetch_add(1, Relaxed);
        Self(admission.clone())
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

/// The place of an Engine.IO connection.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    admission: Arc<Admission>,
    address: Option<Address>,
    /// It has no namespace yet.
    handshaking: Cell<bool>,
}

impl ConnectionPlace {
    /// It is connected to a namespace, or needs none.
    pub(crate) fn settle(&self) {
        if self.handshaking.replace(false) {
            self.admission.end_handshake(Awaited::Namespace, self.address);
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.settle();
        self.admission.connections.fetch_sub(1, Relaxed);
        self.admission.change(self.address, |counts| counts.connections = counts.connections.saturating_sub(1));
    }
}
