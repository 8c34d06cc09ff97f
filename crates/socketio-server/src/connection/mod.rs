//! An Engine.IO connection: its state, and the conditions under which it is read. The submodules handle incoming and
//! outgoing packets, the heartbeat, and the end of the connection. The [`transport`](crate::transport) module carries
//! the bytes.

mod allowance;
mod closing;
mod connecting;
mod heartbeat;
mod receiving;
mod resuming;
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
    admission::ConnectionPermit,
    config::{MANY_ROOMS, SMALL_UNARRIVED},
    delivery::outbox::Outbox,
    http::handshake::{Abilities, Handshake},
    identifier::{ConnectionKey, Id},
    shard::Shard,
    writer::Writer,
};

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    SocketIo,
    /// Engine.IO alone, for the raw endpoint with this index.
    Raw(usize),
}

/// The kept parts of the handshake request.
pub(crate) struct Origin {
    pub(crate) client: IpAddr,
    pub(crate) permit: ConnectionPermit,
    pub(crate) handshake: Option<Box<Handshake>>,
    pub(crate) abilities: Abilities,
    pub(crate) protocol: Protocol,
}

// The fields for a broadcast come first, in one cache line. The fields for a flush pass follow. The order matters
// because these cache lines are fetched from memory for each connection.
#[repr(C)]
pub(crate) struct Connection {
    closed: Cell<bool>,
    /// The connection is in the shard's flush queue, or is flushed when the running batch ends.
    flush_pending: Cell<bool>,
    /// The connection's own packets are being handled. Frames that they cause are flushed afterwards.
    in_batch: Cell<bool>,
    paused: Cell<bool>,
    /// Events wait until the outbox is within its soft limit.
    awaits_drain: Cell<bool>,
    /// The last flush left frames in the outbox.
    is_behind: Cell<bool>,
    /// The number of saves that end before the client is sent anything more.
    saves_under_way: Cell<u32>,
    /// Binary data is sent as base64.
    takes_base64: bool,
    /// The client exceeds its message rate per second. Its events are refused.
    is_over_rate: Cell<bool>,
    /// The reason of a pending close, which happens when no handler runs.
    close_due: Cell<Option<DisconnectReason>>,
    pub(crate) shard: Rc<Shard>,
    pub(crate) writer: RefCell<Writer>,
    outbox: RefCell<Outbox>,
    /// Bytes that the last flush left in the outbox, as recorded in the metrics.
    waiting: Cell<usize>,
    /// The start of the period in which the client takes no bytes.
    blocked_since: Cell<Option<Instant>>,
    pub(crate) key: ConnectionKey,
    /// The session id in requests. A connection that began as a WebSocket needs none.
    sid: Option<Id>,
    pub(crate) client: IpAddr,
    /// The connection's permit under the limits. It is released at the close, even if the memory is freed later.
    permit: Cell<Option<ConnectionPermit>>,
    pub(crate) handshake: Option<Box<Handshake>>,
    is_python: bool,
    protocol: Protocol,
    sockets: RefCell<SmallVec<[Socket; 1]>>,
    assembling: RefCell<Option<Box<Assembling>>>,
    /// The theoretical arrival time of the message rate: when all received messages are paid for, in the shard's time.
    tat: Cell<u64>,
    /// The slice of time in which the connection's messages are handled.
    slice: Cell<Slice>,
    turn: Cell<Turn>,
    /// Many bytes wait for the shard's clients, or for the clients of this address. A client with waiting bytes of its
    /// own is then not read.
    is_crowded: Cell<bool>,
    held: Cell<Held>,
    heartbeat: Cell<Heartbeat>,
    extra_pings: Cell<ExtraPings>,
    /// The deadline for the client's first namespace; `None` once a namespace is connected.
    connect_by: Cell<Option<Instant>>,
    /// The connection's earliest entry among the shard's timers.
    timer_at: Cell<Option<Instant>>,
    /// The task that reads the WebSocket.
    reader: RefCell<Option<Waker>>,
    /// Namespaces with a pending CONNECT: a session, or the data that its admission needs, is on its way.
    connecting: RefCell<SmallVec<[u16; 4]>>,
    /// The actions that wait for the client or for the connection's end. Hardly any connection has one.
    arrivals: RefCell<Option<Box<Arrivals>>>,
    /// Bytes of a replay that may wait in addition to the outbox limit, until the outbox is within its limit again.
    beyond_limit: Cell<usize>,
    /// The application's count of strikes; see [`Socket::strikes`].
    pub(crate) strikes: Cell<u32>,
}

/// The actions that wait for a change of the connection.
#[derive(Default)]
struct Arrivals {
    /// Callbacks for the answer to a heartbeat: `asked` for the heartbeat under way, `waiting` for the next one.
    asked: Vec<Box<dyn FnOnce()>>,
    waiting: Vec<Box<dyn FnOnce()>>,
    /// Dropped at the connection's end, which comes as soon as all received bytes are read. There is one sender for
    /// each session that the client resumes on another connection.
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

/// Bytes that the server holds for the client, as recorded in the shard's accounts.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Bytes of an incomplete message.
    unfinished: usize,
    /// Bytes of events that wait for a handler or are being handled.
    waiting: usize,
    /// Bytes of the frames that wait for this client alone.
    outbox: usize,
    /// Bytes of sent events that may not have arrived.
    remembered: usize,
}

/// A slice of the shard's time, in nanoseconds of the shard's clock.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    began: u64,
    /// When the last message was handled.
    at: u64,
}

/// When the connection handles its client's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    /// As they arrive.
    #[default]
    Free,
    /// Later: the connection waits for its turn.
    Waiting,
    /// Now, for one slice.
    Given,
}

/// Additional heartbeats, besides the one whose answer confirms arrival.
#[derive(Debug, Clone, Copy, Default)]
struct ExtraPings {
    /// Sent after the heartbeat that is under way.
    sent: u16,
    /// Sent after earlier heartbeats, and not answered yet.
    unanswered: u16,
}

/// A packet that still lacks attachments.
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
    pub(crate) fn open(shard: &Rc<Shard>, origin: Origin, writer: Writer) -> Rc<Self> {
        let now = Instant::now();
        let mut connections = shard.connections.borrow_mut();
        let entry = connections.vacant_entry();
        // A shard has fewer than 2^32 connections, since each takes a file descriptor.
        let key = ConnectionKey { index: entry.key() as u32, generation: shard.next_serial() };
        let connect_by = matches!(origin.protocol, Protocol::SocketIo).then(|| now + shard.config.connect_timeout);
        let connection = Rc::new(Self {
            key,
            shard: shard.clone(),
            sid: writer.sid(),
            client: origin.client,
            strikes: Cell::new(0),
            permit: Cell::new(Some(origin.permit)),
            handshake: origin.handshake,
            takes_base64: origin.abilities.takes_base64,
            is_python: origin.abilities.is_python,
            protocol: origin.protocol,
            writer: RefCell::new(writer),
            outbox: RefCell::default(),
            sockets: RefCell::default(),
            assembling: RefCell::default(),
            closed: Cell::new(false),
            flush_pending: Cell::new(false),
            in_batch: Cell::new(false),
            close_due: Cell::new(None),
            waiting: Cell::new(0),
            beyond_limit: Cell::new(0),
            blocked_since: Cell::new(None),
            paused: Cell::new(false),
            awaits_drain: Cell::new(false),
            is_behind: Cell::new(false),
            saves_under_way: Cell::new(0),
            is_over_rate: Cell::new(false),
            tat: Cell::new(0),
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

    /// The client's address as the limits count it; `None` for a proxy.
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

    /// Whether closing the connection takes long.
    pub(crate) fn is_in_many_rooms(&self) -> bool {
        self.sockets.borrow().iter().any(|socket| socket.inner().memberships.borrow().len() > MANY_ROOMS)
    }

    /// Runs `f`, which handles packets of the client. The frames that they cause are written together when `f` is done.
    pub(crate) fn batch<T>(self: &Rc<Self>, f: impl FnOnce() -> T) -> T {
        self.in_batch.set(true);
        let result = f();
        self.in_batch.set(false);
        if self.flush_pending.get() || self.close_due.get().is_some() {
            self.flush();
        }
        result
    }

    // --- reading and pausing ---

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

    /// Whether reading from the client is paused.
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
            if self.writer.borrow().has_post() {
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
