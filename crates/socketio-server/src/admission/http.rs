//! TCP connections that speak HTTP: how many, and which of them leaves when another comes.
//!
//! Until its first request nobody knows who a connection is. So none is turned away because others are silent or idle: the
//! one that has been so for longest leaves, of the address that has most of them. An address with few keeps them whatever
//! others do, and a flood has its own connections closed. Three kinds are not closed:
//!
//! - WebSockets, which are no longer here;
//! - those with a request of a client's session under way, of which there are [never so many](Admission::most_held) that
//!   nobody else comes in;
//! - those that the application [keeps](HttpConnection::keep), because it knows who they are: up to a quarter of
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

use tokio::sync::{Notify, futures::Notified};

use super::{Admission, Awaited, StreamPlace, is_full};
use crate::{
    Limit,
    address::Address,
    config::{LEAVING_PER_ADDRESS, MAX_LEAVING},
};

/// The TCP connections that speak HTTP and may be closed to make room for others, by address.
#[derive(Debug, Default)]
pub(super) struct HttpPool {
    groups: HashMap<Address, Group>,
    /// The last is to lose a connection: of the address with most, or of several, the one whose number has changed for
    /// the longest time no more.
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

/// What the pool knows of one connection.
#[derive(Debug)]
struct Occupant {
    address: Address,
    /// Its address has limits: it is no trusted proxy's.
    is_limited: bool,
    /// Its position in its group, or one of the numbers below. Changed behind the lock only.
    slot: AtomicUsize,
    /// When it was accepted, or its last request came or was answered.
    active_at: AtomicU64,
    /// A request is under way.
    is_busy: AtomicBool,
    /// A body is on its way.
    reads_body: AtomicBool,
    /// The request has a body that is not known to have come.
    lacks_body: AtomicBool,
    parting: Notify,
}

/// A request of a client's session is under way.
const HELD: usize = usize::MAX;
/// The application keeps it.
const KEPT: usize = usize::MAX - 1;
/// It is to leave, and its task has not seen that yet.
const LEAVING: usize = usize::MAX - 2;
/// It does not speak HTTP any longer.
const GONE: usize = usize::MAX - 3;

impl HttpPool {
    /// Those that are here.
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

    /// Takes it off the list, if it is there, and says why.
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

    /// Has connections leave, as many as an address that has very many may lose at once, so that the search for them is
    /// shared by those who come next. False if none can.
    fn make_room(&mut self, now: u64) -> bool {
        let Some((count, _, address)) = self.ranking.last().copied() else { return false };
        let most = MAX_LEAVING.saturating_sub(self.leaving).min((count / LEAVING_PER_ADDRESS).max(1));
        let Some(group) = self.groups.get(&address).filter(|_| most > 0) else { return false };
        // Idle ones before those with a request under way.
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
    /// Lets a TCP connection in.
    pub(crate) fn stream(self: &Arc<Self>, peer: IpAddr) -> Result<(StreamPlace, HttpPlace), Limit> {
        let limited = self.address(peer);
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
        // From here on its drop takes back what was counted.
        let place = HttpPlace {
            admission: self.clone(),
            occupant,
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
        let stream = StreamPlace(self.clone());
        pool.list(&place.occupant, now);
        drop(addresses);
        Ok((stream, place))
    }

    /// Has connections leave, because the system has no file descriptor for another. False if none can.
    pub(crate) fn make_room(&self) -> bool {
        let now = self.now();
        self.addresses().http.make_room(now)
    }

    /// Whether so many are on their way out that nobody else can be told to leave.
    pub(crate) fn is_making_room(&self) -> bool {
        self.addresses().http.leaving >= MAX_LEAVING
    }

    /// HTTP connections of one address: as many as it may have Engine.IO connections, since each may poll, and a quarter of
    /// the places that are for others than clients.
    fn max_http_per_address(&self) -> usize {
        match self.max_per_address {
            0 => 0,
            most => most.saturating_add((self.max_http_connections / 4).max(1)),
        }
    }

    /// TCP connections that may be clients', WebSockets among them: half of the places for others is not for them.
    fn most_held(&self) -> usize {
        self.max_connections.saturating_add(self.max_http_connections / 2)
    }
}

/// The place of a TCP connection while it speaks HTTP.
#[derive(Debug)]
pub(crate) struct HttpPlace {
    admission: Arc<Admission>,
    occupant: Arc<Occupant>,
    /// A request's headers are awaited, the first ones or the rest of others.
    awaits_request: Cell<bool>,
    /// The request waits for something to tell its client, and is over when the client hangs up.
    watches_for_hang_up: Cell<bool>,
    /// The task that reads, which is not told yet that the client sends no more.
    reader: RefCell<Option<Waker>>,
}

impl HttpPlace {
    /// A part of a request's headers has come.
    pub(crate) fn request_began(&self) -> Result<(), Limit> {
        if !self.awaits_request.get() {
            self.admission.begin_handshake(Awaited::Request, self.limited(), |_| Ok(()))?;
            self.awaits_request.set(true);
        }
        Ok(())
    }

    /// A request's headers have come.
    pub(crate) fn request_came(&self, has_body: bool) {
        self.occupant.lacks_body.store(has_body, Relaxed);
        self.watches_for_hang_up.set(false);
        self.occupant.is_busy.store(true, Relaxed);
        self.occupant.active_at.store(self.admission.now(), Relaxed);
        self.end_wait();
    }

    /// The answer to the request is there.
    pub(crate) fn answered(&self) {
        self.occupant.is_busy.store(false, Relaxed);
        self.occupant.active_at.store(self.admission.now(), Relaxed);
        self.wake_reader();
    }

    /// Nothing is awaited of the connection any more: what comes is thrown away.
    pub(crate) fn is_done(&self) {
        self.end_wait();
        self.occupant.is_busy.store(false, Relaxed);
    }

    /// The request is answered when there is something to tell its client, if that is still there.
    pub(crate) fn watch_for_hang_up(&self) {
        self.watches_for_hang_up.set(true);
        self.wake_reader();
    }

    /// Hides the end of what the client sends from the task that reads, until the request has its answer.
    pub(crate) fn hide_end_from(&self, reader: &Waker) {
        *self.reader.borrow_mut() = Some(reader.clone());
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether the end of what the client sends means nothing: its request has come, and it waits for the answer.
    pub(crate) fn ignores_end(&self) -> bool {
        self.owes_answer() && !self.lacks_body()
    }

    /// A request has come that is answered as soon as the server can.
    pub(crate) fn owes_answer(&self) -> bool {
        self.is_busy() && !self.watches_for_hang_up.get()
    }

    /// A request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.occupant.is_busy.load(Relaxed)
    }

    /// It has a body that is not known to have come.
    pub(crate) fn lacks_body(&self) -> bool {
        self.occupant.lacks_body.load(Relaxed)
    }

    /// Its body is on its way.
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

    /// Ends when the connection is to make room for another.
    pub(crate) fn parting(&self) -> Notified<'_> {
        self.occupant.parting.notified()
    }

    /// A request of a client's session is under way, which nobody is to cut off.
    pub(crate) fn hold(&self) -> Result<HeldPlace<'_>, Limit> {
        let now = self.admission.now();
        let mut addresses = self.admission.addresses();
        let pool = &mut addresses.http;
        // WebSockets, and the requests of sessions.
        let clients = self.admission.streams.load(Relaxed).saturating_sub(pool.movable + pool.kept + pool.leaving);
        if clients >= self.admission.most_held() {
            return Err(Limit::HttpConnections);
        }
        // One that the application keeps stays where it is, and one that is to leave is about to.
        if pool.unlist(&self.occupant, HELD, now) {
            pool.held += 1;
        }
        Ok(HeldPlace(self))
    }

    /// What the application is told of it.
    pub(crate) fn connection(&self) -> HttpConnection {
        HttpConnection { admission: self.admission.clone(), occupant: self.occupant.clone() }
    }

    /// The server waits for the body of a client's request.
    pub(crate) fn await_body(&self) -> Result<BodyPermit, Limit> {
        self.connection().await_body_as(Awaited::Body)
    }
}

impl Drop for HttpPlace {
    fn drop(&mut self) {
        self.end_wait();
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
        drop(addresses);
        self.admission.change(self.limited(), |counts| counts.streams = counts.streams.saturating_sub(1));
    }
}

/// Keeps a connection where a request of a client's session is under way.
#[derive(Debug)]
pub(crate) struct HeldPlace<'a>(&'a HttpPlace);

impl Drop for HeldPlace<'_> {
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

/// The connection that a request came on, as the [fallback](crate::ServerBuilder::fallback) finds it among the request's
/// extensions.
#[derive(Debug, Clone)]
pub struct HttpConnection {
    admission: Arc<Admission>,
    occupant: Arc<Occupant>,
}

impl HttpConnection {
    /// Says that whoever is at the other end is known and trusted, so that the connection is not closed to make room for
    /// others. A quarter of [`Config::max_http_connections`](crate::Config::max_http_connections) are kept at most; what is
    /// more is closed if nobody has been idle for longer.
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

    /// Whether the request that is answered has a body of which nobody has said that it [came](BodyPermit::came). The connection is
    /// closed behind the answer, which should say so (`Connection: close`).
    #[must_use]
    pub fn lacks_body(&self) -> bool {
        self.occupant.lacks_body.load(Relaxed)
    }

    /// To be called before the request's body is read, and dropped when it is there, or not awaited any longer.
    ///
    /// # Errors
    /// If too many are on their way, of this address or in all. Those of the engine's clients are not among them.
    pub fn await_body(&self) -> Result<BodyPermit, Limit> {
        self.await_body_as(Awaited::PublishersBody)
    }

    fn await_body_as(&self, awaited: Awaited) -> Result<BodyPermit, Limit> {
        self.admission.begin_handshake(awaited, self.occupant.limited(), |_| Ok(()))?;
        self.occupant.reads_body.store(true, Relaxed);
        Ok(BodyPermit { connection: self.clone(), awaited })
    }
}

/// The place of a request whose body is on its way.
#[derive(Debug)]
pub struct BodyPermit {
    connection: HttpConnection,
    awaited: Awaited,
}

impl BodyPermit {
    /// The body has been read to its end. Without this call the connection counts as one with an unread body.
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
