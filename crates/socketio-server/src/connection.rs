//! An Engine.IO connection: what it has, and when it is read. How its packets come in and go out, its heartbeat, and how it
//! ends are its modules'; how bytes travel is the [`transport`](crate::transport)'s.

mod allowance;
mod closing;
mod connecting;
mod heartbeat;
mod receiving;
mod sending;

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    task::Waker,
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    DisconnectReason, Socket,
    address::Address,
    admission::ConnectionPlace,
    config::{MANY_ROOMS, SMALL_UNARRIVED},
    handshake::{Abilities, Handshake},
    identifier::Id,
    outbox::Outbox,
    shard::Shard,
    transport::Transport,
};

/// Names a connection of a shard. The generation tells it from others that had the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionKey {
    pub(crate) index: u32,
    generation: u32,
}

/// What speaks over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    SocketIo,
    /// Engine.IO alone, for the raw endpoint with this index.
    Raw(usize),
}

/// What is kept of the handshake request.
pub(crate) struct Origin {
    pub(crate) client: IpAddr,
    pub(crate) place: ConnectionPlace,
    pub(crate) handshake: Option<Box<Handshake>>,
    pub(crate) abilities: Abilities,
    pub(crate) protocol: Protocol,
}

// What a broadcast needs comes first and in one cache line, and then what a flush pass needs: it is fetched from memory for
// each connection.
#[repr(C)]
pub(crate) struct Connection {
    closed: Cell<bool>,
    /// Waits in the shard's flush queue, or will be flushed when the running turn ends.
    flush_pending: Cell<bool>,
    /// Its own packets are being handled: what they cause is flushed when they are done.
    in_turn: Cell<bool>,
    paused: Cell<bool>,
    /// Events wait until the outbox is within its soft limit.
    awaits_drain: Cell<bool>,
    /// The last flush left something in the outbox.
    is_behind: Cell<bool>,
    /// Binary data goes out as base64.
    takes_base64: bool,
    /// More came than is allowed each second: events are refused.
    is_over_rate: Cell<bool>,
    /// The end that is due when no handler runs.
    close_due: Cell<Option<DisconnectReason>>,
    pub(crate) shard: Rc<Shard>,
    pub(crate) transport: RefCell<Transport>,
    outbox: RefCell<Outbox>,
    /// Bytes that the last flush left, as the metrics know.
    waiting: Cell<usize>,
    /// Since when the client takes nothing.
    blocked_since: Cell<Option<Instant>>,
    pub(crate) key: ConnectionKey,
    /// The id that requests name it by; a connection that began as a WebSocket needs none.
    sid: Option<Id>,
    pub(crate) client: IpAddr,
    /// Given back when it is closed, however long its memory lives.
    place: Cell<Option<ConnectionPlace>>,
    pub(crate) handshake: Option<Box<Handshake>>,
    is_python: bool,
    protocol: Protocol,
    sockets: RefCell<SmallVec<[Socket; 1]>>,
    assembling: RefCell<Option<Box<Assembling>>>,
    /// When what came is paid for, in the shard's time.
    paid_at: Cell<u64>,
    /// The time that its messages are handled in.
    slice: Cell<Slice>,
    turn: Cell<Turn>,
    /// So much waits for the shard's clients, or for those of this address, that those for which some does are not read.
    is_crowded: Cell<bool>,
    held: Cell<Held>,
    heartbeat: Cell<Heartbeat>,
    extra_pings: Cell<ExtraPings>,
    /// When a first namespace must be connected to; none once one is.
    connect_by: Cell<Option<Instant>>,
    /// The connection's earliest entry among the shard's timers.
    timer_at: Cell<Option<Instant>>,
    /// The task that reads the WebSocket.
    reader: RefCell<Option<Waker>>,
    /// Namespaces that the client is about to be connected to: a session, or what its admission needs, is on its way.
    connecting: RefCell<SmallVec<[u16; 4]>>,
    /// What waits for the client or the connection's end. Hardly any connection has something.
    arrivals: RefCell<Option<Box<Arrivals>>>,
    /// Bytes of a replay, which may wait besides what else may, until the outbox is within its limit again.
    beyond_limit: Cell<usize>,
    /// What the application counts on it; see [`Socket::strikes`].
    pub(crate) strikes: Cell<u32>,
}

/// What is to be done when something has come about.
#[derive(Default)]
struct Arrivals {
    /// When a heartbeat is answered: the one under way, or the next.
    asked: Vec<Box<dyn FnOnce()>>,
    waiting: Vec<Box<dyn FnOnce()>>,
    /// Dropped when the connection has ended, which it does as soon as all is read that has come. One for each session that
    /// its client has come back for.
    handed_over: SmallVec<[oneshot::Sender<()>; 3]>,
    /// Dropped when the connection ends.
    ended: SmallVec<[oneshot::Sender<()>; 3]>,
    /// Dropped when the outbox is within its soft limit.
    drained: SmallVec<[oneshot::Sender<()>; 3]>,
}

impl Arrivals {
    fn is_empty(&self) -> bool {
        let Self { asked, waiting, handed_over, ended, drained } = self;
        asked.is_empty() && waiting.is_empty() && handed_over.is_empty() && ended.is_empty() && drained.is_empty()
    }
}

#[derive(Debug, Clone, Copy)]
enum Heartbeat {
    PingAt(Instant),
    PongBy(Instant),
}

/// Bytes that the server holds for the client, as the shard's accounts have them.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Of a message that is not whole.
    unfinished: usize,
    /// Of events that wait for handlers or are with one.
    waiting: usize,
    /// Of what waits to be written to this client alone.
    outbox: usize,
    /// Of what may not have arrived.
    remembered: usize,
}

/// A slice of the shard's time, in nanoseconds as the shard counts them.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    began: u64,
    /// When the last message was handled.
    at: u64,
}

/// Whether the connection handles what its client sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    /// As it comes.
    #[default]
    Free,
    /// It waits for its turn.
    Waiting,
    /// For one slice.
    Given,
}

/// Heartbeats besides the one that asks what has arrived.
#[derive(Debug, Clone, Copy, Default)]
struct ExtraPings {
    /// Behind the one that is under way.
    sent: u16,
    /// Behind earlier ones, whose answers are yet to come.
    unanswered: u16,
}

/// A packet whose attachments have not all come.
struct Assembling {
    text: String,
    expected: usize,
    attachments: Vec<Bytes>,
    bytes: usize,
}

/// Why a packet ends its connection.
pub(crate) type Violation = DisconnectReason;

impl Connection {
    /// Opens a connection on its shard. The caller sends the handshake.
    pub(crate) fn open(shard: &Rc<Shard>, origin: Origin, transport: Transport) -> Rc<Self> {
        let now = Instant::now();
        let mut connections = shard.connections.borrow_mut();
        let entry = connections.vacant_entry();
        // A shard's connections do not reach 2^32: each takes a file descriptor.
        let key = ConnectionKey { index: entry.key() as u32, generation: shard.next_serial() };
        let connect_by = matches!(origin.protocol, Protocol::SocketIo).then(|| now + shard.config.connect_timeout);
        let connection = Rc::new(Self {
            key,
            shard: shard.clone(),
            sid: transport.sid(),
            client: origin.client,
            strikes: Cell::new(0),
            place: Cell::new(Some(origin.place)),
            handshake: origin.handshake,
            takes_base64: origin.abilities.takes_base64,
            is_python: origin.abilities.is_python,
            protocol: origin.protocol,
            transport: RefCell::new(transport),
            outbox: RefCell::default(),
            sockets: RefCell::default(),
            assembling: RefCell::default(),
            closed: Cell::new(false),
            flush_pending: Cell::new(false),
            in_turn: Cell::new(false),
            close_due: Cell::new(None),
            waiting: Cell::new(0),
            beyond_limit: Cell::new(0),
            blocked_since: Cell::new(None),
            paused: Cell::new(false),
            awaits_drain: Cell::new(false),
            is_behind: Cell::new(false),
            is_over_rate: Cell::new(false),
            paid_at: Cell::new(0),
            slice: Cell::default(),
            turn: Cell::default(),
            is_crowded: Cell::new(false),
            held: Cell::default(),
            heartbeat: Cell::new(Heartbeat::PingAt(now + Self::ping_delay(shard))),
            extra_pings: Cell::default(),
            connect_by: Cell::new(connect_by),
            timer_at: Cell::new(None),
            reader: RefCell::default(),
            connecting: RefCell::default(),
            arrivals: RefCell::default(),
        });
        entry.insert(connection.clone());
        drop(connections);
        shard.metrics.connections.increment();
        shard.metrics.connections_opened.increment();
        if connect_by.is_none() {
            connection.settle();
        }
        connection.set_timer();
        connection
    }

    /// What the limits know its client by, unless that is a proxy.
    pub(crate) fn address(&self) -> Option<Address> {
        self.shard.handle.0.admission.address(self.client)
    }

    /// Whether its client is python-engineio.
    pub(crate) fn is_python(&self) -> bool {
        self.is_python
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn socket(&self, namespace: u16) -> Option<Socket> {
        self.sockets.borrow().iter().find(|socket| socket.reference().namespace == namespace).cloned()
    }

    /// Whether it takes long to close it.
    pub(crate) fn is_in_many_rooms(&self) -> bool {
        self.sockets.borrow().iter().any(|socket| socket.inner().memberships.borrow().len() > MANY_ROOMS)
    }

    /// Handles packets of the client; what they cause leaves together when `f` is done.
    pub(crate) fn turn<T>(self: &Rc<Self>, f: impl FnOnce() -> T) -> T {
        self.in_turn.set(true);
        let result = f();
        self.in_turn.set(false);
        if self.flush_pending.get() || self.close_due.get().is_some() {
            self.flush();
        }
        result
    }

    // --- reading, and when not to ---

    pub(crate) fn set_reader(&self, waker: &Waker) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow().as_ref() {
            reader.wake_by_ref();
        }
    }

    /// Whether nothing more is read from the client for now.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    #[cold]
    fn set_paused(self: &Rc<Self>, paused: bool) {
        if self.paused.replace(paused) == paused {
            return;
        }
        if paused {
            self.shard.metrics.reads_paused.increment();
        } else {
            self.wake_reader();
            if self.transport.borrow().has_post() {
                self.wait_for_turn();
            }
        }
    }

    pub(crate) fn is_over_soft_limit(&self) -> bool {
        let waiting = self.outbox.borrow().bytes();
        waiting > self.shard.config.outbox_soft_limit || (waiting > SMALL_UNARRIVED && self.is_crowded.get())
    }

    fn has_full_backlog(&self) -> bool {
        self.held.get().waiting > self.shard.config.handler_backlog
    }
}
