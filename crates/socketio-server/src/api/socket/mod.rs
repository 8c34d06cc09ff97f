//! A client's connection to one namespace.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

use ::http::{HeaderName, HeaderValue};
use tokio::time::Instant;

mod emit;

use emit::PendingAcks;
pub use emit::{Forgotten, Remembered};

use crate::{
    Broadcast, DisconnectReason, Handle, Handshake, JoinError, OwnedEvent,
    config::MAX_OVERLAPPING,
    connection::Connection,
    delivery::frame::{Encoding, Frame},
    identifier::{Id, Position, SocketRef},
    recovery::{Before, SavedSession, SocketRecovery},
    shard::{Shard, Space, held::HeldMessage, rooms::Memberships, timers::Timer},
};

/// A client's connection to one namespace, as passed to handlers. It lives on its connection's shard; other threads use
/// [`Socket::reference`]. A clone keeps the connection's memory, but does not keep the connection open.
#[derive(Clone)]
pub struct Socket(Rc<SocketInner>);

pub(crate) struct SocketInner {
    pub(crate) connection: Rc<Connection>,
    pub(crate) reference: SocketRef,
    pub(crate) id: Id,
    connected: Cell<bool>,
    connected_at: SystemTime,
    pub(crate) memberships: RefCell<Memberships>,
    data: RefCell<Option<Box<dyn Any>>>,
    acks: RefCell<Option<Box<PendingAcks>>>,
    /// `None` while no handler's future runs.
    pub(crate) backlog: RefCell<Option<Box<Backlog>>>,
    timer: Cell<Option<Instant>>,
    /// The socket's earliest entry among the shard's timers.
    timer_at: Cell<Option<Instant>>,
    /// The number of the last broadcast that marked this socket, so that the socket gets each broadcast once.
    pub(crate) considered: Cell<u64>,
    pub(crate) recovery: Option<Box<SocketRecovery>>,
}

/// The running futures of a socket's handlers, and the events that wait for them. It is boxed, because hardly any
/// socket has one at a time.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) waiting: VecDeque<(OwnedEvent, HeldMessage)>,
    pub(crate) running: usize,
    /// Whether other futures may run beside the running ones.
    pub(crate) overlaps: bool,
}

impl Backlog {
    /// Whether one more future may run. `overlaps` says whether that future may run beside others.
    pub(crate) fn takes(&self, overlaps: bool) -> bool {
        self.running == 0 || (self.overlaps && overlaps && self.running < MAX_OVERLAPPING)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("namespace", &self.namespace()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Socket {
    pub(crate) fn new(
        connection: &Rc<Connection>,
        reference: SocketRef,
        id: Id,
        recovery: Option<Box<SocketRecovery>>,
    ) -> Self {
        Self(Rc::new(SocketInner {
            connection: connection.clone(),
            reference,
            id,
            connected: Cell::new(false),
            connected_at: SystemTime::now(),
            memberships: RefCell::default(),
            data: RefCell::default(),
            acks: RefCell::default(),
            backlog: RefCell::default(),
            timer: Cell::new(None),
            timer_at: Cell::new(None),
            considered: Cell::new(0),
            recovery,
        }))
    }

    pub(crate) fn inner(&self) -> &SocketInner {
        &self.0
    }

    fn shard(&self) -> &Rc<Shard> {
        &self.0.connection.shard
    }

    pub(crate) fn space(&self) -> &Space {
        self.shard().space(self.0.reference.namespace)
    }

    /// The socket's id, which is also the name of a room that only this socket is in.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.id.as_str()
    }

    /// The name of the namespace.
    #[must_use]
    pub fn namespace(&self) -> &'static str {
        self.space().namespace
    }

    /// A name of this socket for other threads.
    #[must_use]
    pub fn reference(&self) -> SocketRef {
        self.0.reference
    }

    /// The server's handle.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.shard().handle
    }

    /// When the client connected to the namespace.
    #[must_use]
    pub fn connected_at(&self) -> SystemTime {
        self.0.connected_at
    }

    /// Whether the client is connected to the namespace.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.connected.get()
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.0.connected.set(connected);
    }

    /// The client's address: the peer address of the connection, or the address that a [trusted
    /// proxy](crate::Config::trusted_proxies) reports.
    #[must_use]
    pub fn remote_addr(&self) -> IpAddr {
        self.0.connection.client
    }

    /// A number that the application keeps with the connection, such as the count of its client's violations; 0 at
    /// first. All sockets of the connection share it, whether they were admitted or not. So a client can't reset it by
    /// leaving a namespace and connecting again.
    #[must_use]
    pub fn strikes(&self) -> u32 {
        self.0.connection.strikes.get()
    }

    /// Changes [`Socket::strikes`].
    pub fn set_strikes(&self, strikes: u32) {
        self.0.connection.strikes.set(strikes);
    }

    /// How broadcasts are encoded for it.
    pub(crate) fn encoding(&self) -> Encoding {
        if self.0.recovery.is_some() { Encoding::WithOffset } else { Encoding::Plain }
    }

    pub(crate) fn has_overlapping_handlers(&self) -> bool {
        self.0.backlog.borrow().as_ref().is_some_and(|backlog| backlog.overlaps)
    }

    /// Waits for a turn to do long work, such as to verify a signature. Without turns, many such tasks at once would
    /// delay the shard's other clients. The work after this call, up to the next `await`, must run in [`Socket::work`].
    pub async fn turn(&self) {
        self.shard().turn().await;
    }

    /// Runs a long piece of work. Its time counts towards the client's limit: see [`Config::event_rate_per_socket`].
    ///
    /// [`Config::event_rate_per_socket`]: crate::Config::event_rate_per_socket
    pub fn work<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.connection.work(f)
    }

    /// A header of the handshake request, if [`Config::kept_headers`](crate::Config::kept_headers) names it.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.handshake()?.headers().get(name)
    }

    /// The request that opened the connection: the whole request with
    /// [`Config::keep_handshake`](crate::Config::keep_handshake), or the headers that
    /// [`Config::kept_headers`](crate::Config::kept_headers) names. `None` if nothing of it was kept.
    #[must_use]
    pub fn handshake(&self) -> Option<&Handshake> {
        self.0.connection.handshake.as_deref()
    }

    /// The client's current transport, in Engine.IO's words: `polling` or `websocket`.
    #[must_use]
    pub fn transport(&self) -> &'static str {
        if self.0.connection.writer.borrow().is_polling() { "polling" } else { "websocket" }
    }

    /// Drops the pending acks and events of this socket: the futures of its acks end.
    pub(crate) fn release(&self) {
        self.0.connected.set(false);
        self.0.timer.set(None);
        let acks = self.0.acks.borrow_mut().take();
        drop(acks);
        if let Some(backlog) = self.0.backlog.borrow_mut().as_mut() {
            backlog.waiting.clear();
        }
    }

    pub(crate) fn queue(&self, frames: impl IntoIterator<Item = Frame>) {
        if !self.is_connected() {
            return;
        }
        self.shard().metrics.packets_encoded.increment();
        for frame in frames {
            self.0.connection.queue(Rc::new(frame));
        }
    }

    /// Joins a room. Returns false if the socket was in it already. The socket's own id is a room that it is always in.
    ///
    /// # Errors
    /// If the name is another socket's id, this socket or all sockets together are in too many rooms, or the socket is
    /// disconnected.
    pub fn join(&self, room: &str) -> Result<bool, JoinError> {
        self.join_if(room, |count| {
            count < self.shard().config.max_rooms_per_socket && self.shard().may_join(self, count, count + 1)
        })
    }

    /// Like [`Socket::join`], for a join that the application decides on, not the client: no limit applies.
    ///
    /// # Errors
    /// If the name is another socket's id, or the socket is disconnected.
    pub fn join_always(&self, room: &str) -> Result<bool, JoinError> {
        self.join_if(room, |_| true)
    }

    /// `may` says whether a socket in the given number of rooms may join one more.
    fn join_if(&self, room: &str, may: impl FnOnce(usize) -> bool) -> Result<bool, JoinError> {
        if !self.is_connected() {
            return Err(JoinError::Disconnected);
        }
        if room == self.id() {
            return Ok(false);
        }
        if self.handle().is_socket_id(room) {
            return Err(JoinError::Reserved);
        }
        let mut rooms = self.space().rooms.borrow_mut();
        if rooms.contains(self, room) {
            return Ok(false);
        }
        let count = self.0.memberships.borrow().len();
        if !may(count) {
            return Err(JoinError::TooMany);
        }
        rooms.add(self, room, self.shard().position());
        drop(rooms);
        self.shard().count_rooms(self, count, count + 1);
        self.session_changed();
        Ok(true)
    }

    /// Joins rooms, each after a given broadcast. Returns false and joins no room if they are too many.
    pub(crate) fn join_again(&self, rooms: &[(Arc<str>, Position)]) -> bool {
        if !self.shard().may_join(self, 0, rooms.len()) {
            return false;
        }
        let mut known = self.space().rooms.borrow_mut();
        for (room, after) in rooms {
            if !known.contains(self, room) {
                known.add(self, room, *after);
            }
        }
        drop(known);
        self.shard().count_rooms(self, 0, self.0.memberships.borrow().len());
        true
    }

    /// Leaves a room. Returns false if the socket was not in it.
    pub fn leave(&self, room: &str) -> bool {
        let left = self.space().rooms.borrow_mut().leave(self, room);
        if left {
            let count = self.0.memberships.borrow().len();
            self.shard().count_rooms(self, count + 1, count);
            self.session_changed();
        }
        left
    }

    /// Leaves all rooms.
    pub(crate) fn leave_all(&self) {
        let count = self.0.memberships.borrow().len();
        self.space().rooms.borrow_mut().leave_all(self);
        self.shard().count_rooms(self, count, 0);
    }

    /// Whether the socket has joined a room.
    #[must_use]
    pub fn in_room(&self, room: &str) -> bool {
        self.space().rooms.borrow().contains(self, room)
    }

    /// The offset of the last broadcast before the socket joined a room; `None` if it is not a member. Broadcasts have
    /// offsets with [`Config::recovery`](crate::Config::recovery).
    #[must_use]
    pub fn joined_at(&self, room: &str) -> Option<Position> {
        self.space().rooms.borrow().joined(self, room)
    }

    /// The offset of the last broadcast that the socket has been given, or would have been given as a receiver. See
    /// [`Socket::joined_at`] for offsets.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shard().position_of(self)
    }

    /// The rooms that the socket has joined, without its own id.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        self.space().rooms.borrow().names_of(self)
    }

    /// Whether this is a recovered session; see [`Config::recovery`](crate::Config::recovery).
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.0.recovery.as_ref().is_some_and(|recovery| recovery.recovered)
    }

    /// Reports that the result of [`Namespace::save`](crate::Namespace::save) has changed. Joins and leaves are
    /// reported automatically.
    pub fn session_changed(&self) {
        // This comes first: only a queued session can be a changed one.
        self.save_soon();
        if let Some(recovery) = &self.0.recovery {
            recovery.change();
        }
    }

    /// Queues the session to be saved to the keeper.
    pub(crate) fn save_soon(&self) {
        if let Some(recovery) = &self.0.recovery
            && self.is_connected()
            && recovery.queue()
        {
            self.shard().save_soon(self);
        }
    }

    /// The current session.
    pub(crate) fn session(&self, recovery: &SocketRecovery) -> SavedSession {
        let space = self.space();
        SavedSession {
            namespace: space.namespace.to_owned(),
            socket_id: self.id().to_owned(),
            rooms: space.rooms.borrow().memberships_of(self),
            data: space
                .handlers()
                .save
                .as_ref()
                .map_or_else(String::new, |save| self.shard().guarded(|| save(self)).unwrap_or_default()),
            since: recovery.since.get(),
            before: Before::Valid,
            own_events: None,
        }
    }

    /// Whether the latest change of the session is not yet saved to the keeper.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.is_connected() && self.0.recovery.as_ref().is_some_and(|recovery| recovery.is_queued())
    }

    /// Saves the current session to the keeper, unless it is saved already.
    pub(crate) fn save(&self) {
        let Some(recovery) = self.0.recovery.as_ref().filter(|_| self.is_unsaved()) else { return };
        if let Some(keeper) = self.handle().recovery().and_then(|memory| memory.settings.keeper.as_ref()) {
            let session = SavedSession { before: recovery.save(), ..self.session(recovery) };
            if let Some(saving) = keeper.save(recovery.pid.as_str(), session) {
                self.0.connection.hold_back_until(saving);
            }
        }
    }

    /// Runs `f` when the client has received everything sent to it so far. `f` never runs if the connection is lost, or
    /// the client leaves the namespace, before that. The server asks the client by a heartbeat ahead of time.
    pub fn when_arrived(&self, f: impl FnOnce() + 'static) {
        let socket = self.clone();
        self.0.connection.when_arrived(Box::new(move || {
            // The heartbeat belongs to the connection. A client that has left the namespace discards the events in
            // flight.
            if socket.is_connected() {
                f();
            }
        }));
    }

    /// A broadcast to a room, without this socket.
    pub fn to(&self, room: &str) -> Broadcast {
        Broadcast::from_socket(self).room(room)
    }

    /// A broadcast to everyone in the namespace, without this socket.
    pub fn broadcast(&self) -> Broadcast {
        Broadcast::from_socket(self)
    }

    /// Disconnects the socket from its namespace. The client reports "io server disconnect" and does not reconnect by
    /// itself. Takes effect when the running handler has returned.
    pub fn disconnect(&self) {
        self.0.connection.disconnect_later(Some(self.0.reference.namespace));
    }

    /// Like [`Socket::disconnect`], for all namespaces of the connection. It also closes the connection.
    pub fn close_connection(&self) {
        self.0.connection.disconnect_later(None);
    }

    /// Closes the socket's connection at once, because the application can't serve it now: nothing more is sent. A stock
    /// client reconnects by itself. It must not be called by a handler of the connection.
    pub fn close_unavailable(&self) {
        self.0.connection.close(DisconnectReason::Unavailable);
    }

    /// Stores a value with the socket, in place of the previous one.
    pub fn set_data<T: 'static>(&self, data: T) {
        let before = self.0.data.borrow_mut().replace(Box::new(data));
        // The value is dropped only now, because its destructor may use the socket.
        drop(before);
    }

    /// Calls `f` with the value stored with the socket. Returns `None` if there is no value of this type, or if `f` of
    /// an outer call is using it.
    pub fn with_data<T: 'static, R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut data = self.0.data.try_borrow_mut().ok()?;
        Some(f(data.as_mut()?.downcast_mut()?))
    }

    /// Sets the deadline at which [`Namespace::on_timer`](crate::Namespace::on_timer) is called, in place of the
    /// previous one.
    pub fn set_timer(&self, at: Option<Instant>) {
        self.0.timer.set(at);
        // The shard does not know the socket before it is connected.
        if self.is_connected() {
            self.queue_timer();
        }
    }

    /// Adds the deadline to the shard's timers, unless an entry of the socket is due before it.
    pub(crate) fn queue_timer(&self) {
        let Some(at) = self.0.timer.get() else { return };
        if self.0.timer_at.get().is_none_or(|queued| at < queued) {
            self.0.timer_at.set(Some(at));
            self.shard().set_timer(at, Timer::Socket(self.0.reference));
        }
    }

    /// The socket's valid entry among the shard's timers.
    pub(crate) fn timer_at(&self) -> Option<Instant> {
        self.0.timer_at.get()
    }

    /// Handles a due entry. Returns whether the socket's deadline has passed.
    pub(crate) fn take_due(&self, now: Instant) -> bool {
        if self.0.timer_at.get().is_some_and(|at| at <= now) {
            self.0.timer_at.set(None);
        }
        if self.0.timer.get().is_some_and(|at| at <= now) {
            self.0.timer.set(None);
            return true;
        }
        self.queue_timer();
        false
    }

    pub(crate) fn drop_data(&self) {
        let data = self.0.data.take();
        drop(data);
    }
}
