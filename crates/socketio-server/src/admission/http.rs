//! TCP connections that speak HTTP: their limits, and the choice of the connection to close for a new one.
//!
//! The client of a connection is unknown until its first request. So a new connection is not refused because others are
//! silent or idle. Instead the server closes the connection that has been silent or idle longest, of the address with
//! the most connections. An address with few connections keeps them whatever others do, and a flood closes its own
//! connections. Three kinds of connections are not closed:
//!
//! - WebSockets, which are no longer in the pool;
//! - connections with a request of a client's session in progress; a [limit](Admission::most_held) on them leaves
//!   room for other connections;
//! - connections that the application [keeps](HttpConnection::keep), because it knows the peer: up to a quarter of
//!   [`Config::max_http_connections`](crate::Config::max_http_connections).

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::sync::Notify;

use super::{Admission, Awaited, StreamPermit, is_full};
use crate::{
    Limit,
    address::Address,
    config::{LEAVING_PER_ADDRESS, MAX_LEAVING},
};

/// The TCP connections that speak HTTP and may be closed to make room for others, by address.
#[derive(Debug, Default)]
pub(super) struct HttpPool {
    groups: HashMap<Address, Group>,
    /// The last address is the next to lose a connection. It is the one with the most connections. Among equals, it is
    /// the one whose number has been unchanged longest.
    ranking: BTreeSet<Rank>,
    movable: usize,
    kept: usize,
    held: usize,
    leaving: usize,
}

type Rank = (usize, Reverse<u64>, Address);

#[derive(Debug, Default)]
struct Group {
    members: Vec<Arc<Occupant>>,
    changed_at: u64,
}

/// The pool's state of one connection.
#[derive(Debug)]
struct Occupant {
    address: Address,
    /// The limits apply to its address: the address is not a trusted proxy's.
    is_limited: bool,
    /// Its position in its group, or one of the constants below. Changed only behind the lock.
    slot: AtomicUsize,
    /// The time when it was accepted, or when its last request arrived or was answered.
    active_at: AtomicU64,
    /// A request is under way.
    is_busy: AtomicBool,
    /// A body is being received.
    reads_body: AtomicBool,
    /// The request has a body that is not confirmed as read.
    lacks_body: AtomicBool,
    parting: Notify,
}

/// A request of a client's session is under way.
const HELD: usize = usize::MAX;
/// The application keeps the connection.
const KEPT: usize = usize::MAX - 1;
/// The connection is asked to close, and its task has not seen that yet.
const LEAVING: usize = usize::MAX - 2;
/// The connection no longer speaks HTTP.
const GONE: usize = usize::MAX - 3;

impl HttpPool {
    /// The number of connections in the pool.
    pub(super) fn len(&self) -> usize {
        self.movable + self.kept + self.held + self.leaving
    }

    fn regroup(&mut self, address: Address, now: u64, change: impl FnOnce(&mut Vec<Arc<Occupant>>)) {
        let group = self.groups.entry(address).or_default();
        self.ranking.remove(&(group.members.len(), Reverse(group.changed_at), address));
        let before = group.members.len();
        change(&mut group.members);
        let after = group.members.len();
        self.movable = self.movable + after - before;
        group.changed_at = now;
        if after > 0 {
            self.ranking.insert((after, Reverse(now), address));
        } else {
            self.groups.remove(&address);
        }
    }

    fn list(&mut self, occupant: &Arc<Occupant>, now: u64) {
        self.regroup(occupant.address, now, |members| {
            occupant.slot.store(members.len(), Relaxed);
            members.push(occupant.clone());
        });
    }

    /// Removes a connection from its list, if it is listed, and records the reason. Returns whether it was listed.
    fn unlist(&mut self, occupant: &Arc<Occupant>, why: usize, now: u64) -> bool {
        let slot = occupant.slot.load(Relaxed);
        let is_listed = !matches!(slot, HELD | KEPT | LEAVING | GONE);
        if is_listed {
            occupant.slot.store(why, Relaxed);
            self.regroup(occupant.address, now, |members| {
                members.swap_remove(slot);
                if let Some(moved) = members.get(slot) {
                    moved.slot.store(slot, Relaxed);
                }
            });
        }
        is_listed
    }

    /// Tells connections of one address to close. An address with very many connections loses several at once, so that
    /// one search serves several new connections. False if no connection can close.
    fn make_room(&mut self, now: u64) -> bool {
        let Some((count, _, address)) = self.ranking.last().copied() else { return false };
        let most = MAX_LEAVING.saturating_sub(self.leaving).min((count / LEAVING_PER_ADDRESS).max(1));
        let Some(group) = self.groups.get(&address).filter(|_| most > 0) else { return false };
        // Idle connections come before those with a request in progress.
        let mut oldest: Vec<(bool, u64, usize)> = (0..)
            .zip(&group.members)
            .map(|(slot, member)| (member.is_busy.load(Relaxed), member.active_at.load(Relaxed), slot))
            .collect();
        if most < oldest.len() {
            oldest.select_nth_unstable(most);
            oldest.truncate(most);
        }
        let oldest: Vec<_> = oldest.iter().filter_map(|(_, _, slot)| group.members.get(*slot).cloned()).collect();
        for occupant in oldest {
            self.unlist(&occupant, LEAVING, now);
            self.leaving += 1;
            occupant.parting.notify_one();
        }
        true
    }
}

impl Admission {
    /// Admits a TCP connection.
    pub(crate) fn stream(
        self: &Arc<Self>,
        peer: IpAddr,
        listener: Listener,
    ) -> Result<(StreamPermit, HttpPermit), Limit> {
        // Another node stands for many clients, like a trusted proxy.
        let limited = self.address(peer).filter(|_| listener == Listener::Public);
        let now = self.now();
        let occupant = Arc::new(Occupant {
            address: Address::of(peer),
            is_limited: limited.is_some(),
            slot: AtomicUsize::new(GONE),
            active_at: AtomicU64::new(now),
            is_busy: AtomicBool::new(false),
            reads_body: AtomicBool::new(false),
            lacks_body: AtomicBool::new(false),
            parting: Notify::new(),
        });
        let most = self.max_http_per_address();
        self.begin_handshake(Awaited::Request, limited, |counts| {
            if is_full(counts.streams, most) {
                return Err(Limit::ConnectionsPerAddress);
            }
            counts.streams += 1;
            Ok(())
        })?;
        // From here on, the drop of the permit undoes the counts.
        let permit = HttpPermit {
            admission: self.clone(),
            occupant,
            listener,
            awaits_request: Cell::new(true),
            watches_for_hang_up: Cell::new(false),
            reader: RefCell::default(),
        };
        let mut addresses = self.addresses();
        let pool = &mut addresses.http;
        let staying = self.streams.load(Relaxed).saturating_sub(pool.leaving);
        let is_full = staying >= self.max_connections.saturating_add(self.max_http_connections)
            || pool.movable >= self.max_handshakes;
        if is_full && !pool.make_room(now) {
            drop(addresses);
            return Err(Limit::HttpConnections);
        }
        self.streams.fetch_add(1, Relaxed);
        let stream = StreamPermit(self.clone());
        pool.list(&permit.occupant, now);
        drop(addresses);
        Ok((stream, permit))
    }

    /// Tells connections to close, because the system has no file descriptor for another. False if no connection can
    /// close.
    pub(crate) fn make_room(&self) -> bool {
        let now = self.now();
        self.addresses().http.make_room(now)
    }

    /// Whether so many connections are closing that no other can be asked to close.
    pub(crate) fn is_making_room(&self) -> bool {
        self.addresses().http.leaving >= MAX_LEAVING
    }

    /// Most HTTP connections of one address: one for each allowed Engine.IO connection, since each may poll, plus a
    /// quarter of the connections for peers other than clients.
    fn max_http_per_address(&self) -> usize {
        match self.max_per_address {
            0 => 0,
            most => most.saturating_add((self.max_http_connections / 4).max(1)),
        }
    }

    /// Whether another connection may be a client's.
    fn has_room_for_client(&self, pool: &HttpPool) -> Result<(), Limit> {
        // The number of WebSockets and of requests of sessions.
        let clients = self.streams.load(Relaxed).saturating_sub(pool.movable + pool.kept + pool.leaving);
        if clients < self.most_held() { Ok(()) } else { Err(Limit::HttpConnections) }
    }

    /// Most TCP connections of clients, including WebSockets. Half of the connections for other peers is not available
    /// to them.
    fn most_held(&self) -> usize {
        self.max_connections.saturating_add(self.max_http_connections / 2)
    }
}

/// The listener that accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The listener for clients, publishers and all others.
    Public,
    /// The listener for the requests that other nodes forward.
    Internal,
}

/// The permit of a TCP connection while it speaks HTTP.
#[derive(Debug)]
pub(crate) struct HttpPermit {
    admission: Arc<Admission>,
    occupant: Arc<Occupant>,
    listener: Listener,
    /// A request's headers are awaited: the first headers, or the remaining part of later ones.
    awaits_request: Cell<bool>,
    /// The request waits for data for its client, and ends when the client hangs up.
    watches_for_hang_up: Cell<bool>,
    /// The reading task. It is not notified yet of the end of the client's data.
    reader: RefCell<Option<Waker>>,
}

impl HttpPermit {
    /// Whether the connection is for a request that another node forwards.
    pub(crate) fn is_internal(&self) -> bool {
        self.listener == Listener::Internal
    }

    /// Records that a request's headers have begun to arrive.
    pub(crate) fn request_began(&self) -> Result<(), Limit> {
        if !self.awaits_request.get() {
            self.admission.begin_handshake(Awaited::Request, self.limited(), |_| Ok(()))?;
            self.awaits_request.set(true);
        }
        Ok(())
    }

    /// Records that a request's headers have arrived.
    pub(crate) fn request_came(&self, has_body: bool) {
        self.occupant.lacks_body.store(has_body, Relaxed);
        self.watches_for_hang_up.set(false);
        self.occupant.is_busy.store(true, Relaxed);
        self.occupant.active_at.store(self.admission.now(), Relaxed);
        self.end_wait();
    }

    /// Records that the request is answered.
    pub(crate) fn answered(&self) {
        self.occupant.is_busy.store(false, Relaxed);
        self.occupant.active_at.store(self.admission.now(), Relaxed);
        self.wake_reader();
    }

    /// Records that nothing more is awaited from the connection: further bytes are discarded.
    pub(crate) fn is_done(&self) {
        self.end_wait();
        self.occupant.is_busy.store(false, Relaxed);
    }

    /// Records that the request is answered only when there is data for its client, if the client is still connected.
    pub(crate) fn watch_for_hang_up(&self) {
        self.watches_for_hang_up.set(true);
        self.wake_reader();
    }

    /// Hides the end of the client's data from the reading task, until the request is answered.
    pub(crate) fn hide_end_from(&self, reader: &Waker) {
        *self.reader.borrow_mut() = Some(reader.clone());
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether the end of the client's data has no meaning: its request has arrived, and the client waits for the
    /// answer.
    pub(crate) fn ignores_end(&self) -> bool {
        self.owes_answer() && !self.lacks_body()
    }

    /// Whether a request is in progress that the server answers as soon as it can.
    pub(crate) fn owes_answer(&self) -> bool {
        self.is_busy() && !self.watches_for_hang_up.get()
    }

    /// A request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.occupant.is_busy.load(Relaxed)
    }

    /// Whether the request has a body that is not confirmed as read.
    pub(crate) fn lacks_body(&self) -> bool {
        self.occupant.lacks_body.load(Relaxed)
    }

    /// Whether the request's body is being received.
    pub(crate) fn reads_body(&self) -> bool {
        self.occupant.reads_body.load(Relaxed)
    }

    fn end_wait(&self) {
        if self.awaits_request.replace(false) {
            self.admission.end_handshake(Awaited::Request, self.limited());
        }
    }

    fn limited(&self) -> Option<Address> {
        self.occupant.limited()
    }

    /// Completes when the connection must make room for another, and at once if it was asked before.
    pub(crate) async fn parting(&self) {
        while self.occupant.slot.load(Relaxed) != LEAVING {
            self.occupant.parting.notified().await;
        }
    }

    /// Whether there is room among the connections that are not closed to make room.
    pub(crate) fn may_be_held(&self) -> Result<(), Limit> {
        self.admission.has_room_for_client(&self.admission.addresses().http)
    }

    /// Protects the connection from being closed while a request of a client's session is in progress.
    pub(crate) fn hold(&self) -> Result<HoldGuard<'_>, Limit> {
        let now = self.admission.now();
        let mut addresses = self.admission.addresses();
        let pool = &mut addresses.http;
        self.admission.has_room_for_client(pool)?;
        // A connection that the application keeps stays as it is. A connection that was asked to close will close.
        if pool.unlist(&self.occupant, HELD, now) {
            pool.held += 1;
        }
        Ok(HoldGuard(self))
    }

    /// The application's handle to this connection.
    pub(crate) fn connection(&self) -> HttpConnection {
        HttpConnection { admission: self.admission.clone(), occupant: self.occupant.clone() }
    }

    /// Records that the server waits for the body of a client's request.
    pub(crate) fn await_body(&self) -> Result<BodyPermit, Limit> {
        self.connection().await_body_as(Awaited::Body)
    }
}

impl Drop for HttpPermit {
    fn drop(&mut self) {
        let now = self.admission.now();
        let mut addresses = self.admission.addresses();
        let pool = &mut addresses.http;
        if !pool.unlist(&self.occupant, GONE, now) {
            match self.occupant.slot.swap(GONE, Relaxed) {
                HELD => pool.held -= 1,
                KEPT => pool.kept -= 1,
                LEAVING => pool.leaving -= 1,
                _ => {}
            }
        }
        let awaits_request = self.awaits_request.replace(false);
        if awaits_request {
            self.admission.handshakes.requests.fetch_sub(1, Relaxed);
        }
        addresses.change(self.limited(), now, |counts| {
            counts.streams = counts.streams.saturating_sub(1);
            counts.handshakes.requests = counts.handshakes.requests.saturating_sub(u32::from(awaits_request));
        });
    }
}

/// Protects a connection while a request of a client's session is in progress.
#[derive(Debug)]
pub(crate) struct HoldGuard<'a>(&'a HttpPermit);

impl Drop for HoldGuard<'_> {
    fn drop(&mut self) {
        let now = self.0.admission.now();
        let occupant = &self.0.occupant;
        let mut addresses = self.0.admission.addresses();
        if occupant.slot.load(Relaxed) == HELD {
            addresses.http.held -= 1;
            addresses.http.list(occupant, now);
        }
    }
}

impl Occupant {
    fn limited(&self) -> Option<Address> {
        self.is_limited.then_some(self.address)
    }
}

/// The connection of a request. The [fallback](crate::ServerBuilder::fallback) finds it in the request's extensions.
#[derive(Debug, Clone)]
pub struct HttpConnection {
    admission: Arc<Admission>,
    occupant: Arc<Occupant>,
}

impl HttpConnection {
    /// Marks the peer as known and trusted, so that the connection is not closed to make room for others. At most a
    /// quarter of [`Config::max_http_connections`](crate::Config::max_http_connections) are kept. A connection beyond
    /// that is closed if no other has been idle longer.
    pub fn keep(&self) {
        if self.occupant.slot.load(Relaxed) == KEPT {
            return;
        }
        let now = self.admission.now();
        let mut addresses = self.admission.addresses();
        let pool = &mut addresses.http;
        if pool.kept < self.admission.max_http_connections / 4 && pool.unlist(&self.occupant, KEPT, now) {
            pool.kept += 1;
        }
    }

    /// Whether the current request has a body that is not confirmed as [read](BodyPermit::came). The connection then
    /// closes after the answer, and the answer should say so (`Connection: close`).
    #[must_use]
    pub fn lacks_body(&self) -> bool {
        self.occupant.lacks_body.load(Relaxed)
    }

    /// Returns the permit to receive the request's body. Call this before reading the body. Drop the permit when the
    /// body has arrived, or is no longer awaited.
    ///
    /// # Errors
    /// If too many bodies are being received, from this address or in total. Bodies of the engine's clients do not
    /// count.
    pub fn await_body(&self) -> Result<BodyPermit, Limit> {
        self.await_body_as(Awaited::PublishersBody)
    }

    fn await_body_as(&self, awaited: Awaited) -> Result<BodyPermit, Limit> {
        self.admission.begin_handshake(awaited, self.occupant.limited(), |_| Ok(()))?;
        self.occupant.reads_body.store(true, Relaxed);
        Ok(BodyPermit { connection: self.clone(), awaited })
    }
}

/// The permit of a request whose body is being received.
#[derive(Debug)]
pub struct BodyPermit {
    connection: HttpConnection,
    awaited: Awaited,
}

impl BodyPermit {
    /// Confirms that the body has been read to its end. Without this call the connection counts as one with an unread
    /// body.
    pub fn came(self) {
        self.connection.occupant.lacks_body.store(false, Relaxed);
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        let HttpConnection { admission, occupant } = &self.connection;
        occupant.reads_body.store(false, Relaxed);
        admission.end_handshake(self.awaited, occupant.limited());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::Config;

    /// A connection that was asked to make room is asked again at every wait: the task that waited first may have been
    /// interrupted.
    #[test]
    fn a_connection_that_has_to_make_room_is_asked_again() {
        let admission = Arc::new(Admission::new(&Config { max_handshakes: 1, ..Config::default() }));
        let accept = || admission.stream(Ipv4Addr::LOCALHOST.into(), Listener::Public).expect("there is room");
        let (_stream, first) = accept();
        assert!(first.parting().now_or_never().is_none());
        let (_other_stream, other) = accept();
        for _ in 0..2 {
            assert!(first.parting().now_or_never().is_some());
        }
        assert!(other.parting().now_or_never().is_none());
        assert_eq!(admission.addresses().http.leaving, 1);
        drop(first);
        assert_eq!(admission.addresses().http.leaving, 0);
    }
}
