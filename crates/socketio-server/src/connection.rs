//! An Engine.IO connection: its packets in and out, its heartbeat, and how it ends. How bytes travel is the
//! [`transport`](crate::transport)'s.

mod allowance;

use std::{
    cell::{Cell, RefCell},
    hint::black_box,
    net::IpAddr,
    rc::Rc,
    task::Waker,
};

use ::http::HeaderMap;
use bytes::Bytes;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use socketio_protocol::{
    engine_io,
    packet::{self, Args, DecodeError, Kind, Limits, Packet},
    websocket::CloseCode,
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    AckReply, ConnectError, DisconnectReason, Event, Limit, OwnedEvent, RawMessage, RawSocket, Socket, SocketRef,
    admission::ConnectionPlace,
    config::{FIRST_HEARTBEAT, SLOW_POLL_BYTES},
    frame::Frame,
    identifier::Id,
    namespace::{Handler, HandlerFuture, Namespace},
    outbox::Outbox,
    recovery::{Away, SocketRecovery, Wish, resume},
    shard::Shard,
    timers::Timer,
    transport::{Flushed, Transport},
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
    pub(crate) headers: Option<Box<HeaderMap>>,
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
    /// The last flush left something in the outbox.
    is_behind: Cell<bool>,
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
    pub(crate) headers: Option<Box<HeaderMap>>,
    protocol: Protocol,
    sockets: RefCell<SmallVec<[Socket; 1]>>,
    assembling: RefCell<Option<Box<Assembling>>>,
    /// When what came is paid for, in the shard's time.
    paid_at: Cell<u64>,
    /// Bytes of an unfinished message, as the shard knows.
    unfinished: Cell<usize>,
    heartbeat: Cell<Heartbeat>,
    /// When a first namespace must be connected to; none once one is.
    connect_by: Cell<Option<Instant>>,
    /// The connection's earliest entry among the shard's timers.
    timer_at: Cell<Option<Instant>>,
    /// The task that reads the WebSocket.
    reader: RefCell<Option<Waker>>,
    /// Namespaces that the client is about to be connected to: a session, or what its admission needs, is on its way.
    connecting: RefCell<SmallVec<[u16; 4]>>,
    /// What waits until the client has got what it was sent. Hardly any connection has something.
    arrivals: RefCell<Option<Box<Arrivals>>>,
}

/// What is to be done when a heartbeat is answered: the one under way, or the next.
#[derive(Default)]
struct Arrivals {
    asked: Vec<Box<dyn FnOnce()>>,
    waiting: Vec<Box<dyn FnOnce()>>,
    /// Dropped when the connection has ended, which it does as soon as all is read that has come.
    handed_over: Option<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Heartbeat {
    PingAt(Instant),
    PongBy(Instant),
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
            place: Cell::new(Some(origin.place)),
            headers: origin.headers,
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
            blocked_since: Cell::new(None),
            paused: Cell::new(false),
            is_behind: Cell::new(false),
            is_over_rate: Cell::new(false),
            paid_at: Cell::new(0),
            unfinished: Cell::new(0),
            heartbeat: Cell::new(Heartbeat::PingAt(now + Self::ping_delay(shard))),
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

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn socket(&self, namespace: u16) -> Option<Socket> {
        self.sockets.borrow().iter().find(|socket| socket.reference().namespace == namespace).cloned()
    }

    // --- out ---

    /// Puts a frame into the outbox and has it written soon.
    pub(crate) fn queue(self: &Rc<Self>, frame: Rc<Frame>) {
        self.shard.metrics.packets_queued.increment();
        self.queue_uncounted(frame);
    }

    /// As `queue`, for what the metrics leave out or the caller counts.
    pub(crate) fn queue_uncounted(self: &Rc<Self>, frame: Rc<Frame>) {
        if self.closed.get() {
            return;
        }
        let bytes = {
            let mut outbox = self.outbox.borrow_mut();
            if frame.latest().is_some() && self.is_slow(outbox.bytes()) && outbox.replace(&frame) {
                self.shard.metrics.latest_replaced.increment();
            }
            outbox.push(frame);
            outbox.bytes()
        };
        self.queued(bytes);
    }

    /// Fetches from memory what a write to the connection needs. For some connections one after the other that takes as long
    /// as for one, since the processor waits for all of them together; between the writes it would wait for each.
    pub(crate) fn prefetch(&self) {
        black_box((self.closed.get(), self.transport.borrow().prefetch()));
    }

    /// Writes frames at once, if nothing waits before them; what the client does not take at once waits. `bytes` are those of
    /// the frames, one after the other.
    pub(crate) fn write_through(self: &Rc<Self>, frames: &[Rc<Frame>], bytes: &[u8]) {
        let nothing_waits = !self.closed.get() && !self.flush_pending.get() && !self.is_behind.get();
        let written = if nothing_waits { self.transport.borrow().write(bytes, &self.shard.metrics) } else { 0 };
        if written == bytes.len() {
            return;
        }
        if written == 0 {
            return frames.iter().for_each(|frame| self.queue_uncounted(frame.clone()));
        }
        let waiting = {
            let mut outbox = self.outbox.borrow_mut();
            frames.iter().for_each(|frame| outbox.push(frame.clone()));
            outbox.advance(written);
            outbox.bytes()
        };
        self.queued(waiting);
    }

    /// Something was put into the outbox, where so many bytes wait now.
    fn queued(self: &Rc<Self>, bytes: usize) {
        // A burst may be larger than the limit only if the client takes it as fast as it is made.
        if bytes > self.shard.config.outbox_hard_limit {
            self.write_now();
            if self.outbox.borrow().bytes() > self.shard.config.outbox_hard_limit {
                self.outbox.borrow_mut().abandon();
                self.close_later(DisconnectReason::OutboxFull);
            }
        }
        self.want_flush();
    }

    /// Whether what waits, waits for the client and not just for its turn. Between two polls something always does.
    fn is_slow(&self, waiting: usize) -> bool {
        self.blocked_since.get().is_some() || (waiting > SLOW_POLL_BYTES && !self.transport.borrow().is_ready())
    }

    fn want_flush(self: &Rc<Self>) {
        if !self.flush_pending.replace(true) && !self.in_turn.get() {
            self.shard.flush_soon(self);
        }
    }

    /// Whether what is sent now would leave at once.
    pub(crate) fn is_ready(&self) -> bool {
        !self.closed.get() && self.blocked_since.get().is_none() && self.transport.borrow().is_ready()
    }

    /// Writes what waits, and carries out what is due.
    pub(crate) fn flush(self: &Rc<Self>) {
        self.flush_pending.set(false);
        if self.closed.get() {
            return;
        }
        let written = self.write_now();
        if let Some(reason) = self.close_due.take() {
            self.close(reason);
        } else if !written {
            self.close(DisconnectReason::TransportError);
        } else {
            // What a full backlog paused stays paused until it is not full; looking costs, so only then.
            self.set_paused(self.is_over_soft_limit() || (self.paused.get() && self.has_full_backlog()));
        }
    }

    /// False if the connection is broken.
    fn write_now(&self) -> bool {
        let flushed = self.transport.borrow_mut().flush(&mut self.outbox.borrow_mut(), &self.shard.metrics);
        self.is_behind.set(flushed != Flushed::All);
        self.count_waiting();
        match flushed {
            Flushed::All => self.blocked_since.set(None),
            Flushed::Some => self.block(Some(Instant::now())),
            Flushed::Nothing => self.block(self.blocked_since.get().or_else(|| Some(Instant::now()))),
            Flushed::Waiting => {}
            Flushed::Broken => return false,
        }
        true
    }

    /// Tells the metrics what the last flush left.
    fn count_waiting(&self) {
        let waiting = self.outbox.borrow().bytes();
        let before = self.waiting.replace(waiting);
        if waiting != before {
            self.shard.metrics.outbox_bytes.add((waiting as u64).wrapping_sub(before as u64));
        }
    }

    fn block(&self, since: Option<Instant>) {
        self.blocked_since.set(since);
        self.set_timer();
        self.wake_reader();
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
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

    fn set_paused(&self, paused: bool) {
        if self.paused.replace(paused) == paused {
            return;
        }
        if paused {
            self.shard.metrics.reads_paused.increment();
        } else {
            self.wake_reader();
            self.transport.borrow_mut().resume();
        }
    }

    pub(crate) fn is_over_soft_limit(&self) -> bool {
        self.outbox.borrow().bytes() > self.shard.config.outbox_soft_limit
    }

    fn has_full_backlog(&self) -> bool {
        let limit = self.shard.config.handler_backlog;
        self.sockets
            .borrow()
            .iter()
            .any(|socket| socket.inner().backlog.borrow().as_ref().is_some_and(|backlog| backlog.0.len() >= limit))
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

    // --- in ---

    /// An Engine.IO packet in text form.
    pub(crate) fn on_text(self: &Rc<Self>, packet: engine_io::Packet<'_>) -> Result<(), Violation> {
        match packet {
            engine_io::Packet::Message(message) => match self.protocol {
                Protocol::SocketIo => self.on_packet(message),
                Protocol::Raw(endpoint) => {
                    self.on_raw(endpoint, RawMessage::Text(message));
                    Ok(())
                }
            },
            engine_io::Packet::Pong(_) => {
                if let Heartbeat::PongBy(_) = self.heartbeat.get() {
                    self.heartbeat.set(Heartbeat::PingAt(Instant::now() + Self::ping_delay(&self.shard)));
                    // The next heartbeat may be due before the answer to this one was.
                    self.set_timer();
                    self.sent_has_arrived();
                }
                Ok(())
            }
            engine_io::Packet::Close => Err(DisconnectReason::TransportClose),
            engine_io::Packet::Upgrade | engine_io::Packet::Noop => Ok(()),
            // In revision 4 the server opens and pings.
            engine_io::Packet::Open(_) | engine_io::Packet::Ping(_) => Err(DisconnectReason::ParseError),
        }
    }

    /// An Engine.IO binary message: an attachment.
    pub(crate) fn on_binary(self: &Rc<Self>, data: &[u8]) -> Result<(), Violation> {
        if let Protocol::Raw(endpoint) = self.protocol {
            self.on_raw(endpoint, RawMessage::Binary(data));
            return Ok(());
        }
        let complete = {
            let mut slot = self.assembling.borrow_mut();
            let Some(assembling) = slot.as_mut() else { return Err(DisconnectReason::ParseError) };
            assembling.bytes += data.len();
            if assembling.bytes > self.shard.config.max_payload {
                return Err(DisconnectReason::PayloadTooLarge);
            }
            assembling.attachments.push(Bytes::copy_from_slice(data));
            if assembling.attachments.len() < assembling.expected {
                return Ok(());
            }
            slot.take()
        };
        let Some(complete) = complete else { return Ok(()) };
        let packet = self.decode(&complete.text)?;
        self.dispatch(packet, &complete.attachments)
    }

    fn decode<'a>(&self, text: &'a str) -> Result<Packet<'a>, Violation> {
        let config = &self.shard.config;
        let limits = Limits { max_attachments: config.max_attachments, max_depth: config.max_json_depth };
        Packet::decode_with(text, limits).map_err(|error| {
            match error {
                DecodeError::TooManyAttachments => self.shard.metrics.limit_met(Limit::Attachments),
                DecodeError::TooDeep => self.shard.metrics.limit_met(Limit::JsonDepth),
                _ => {}
            }
            tracing::debug!(%error, "bad packet");
            DisconnectReason::ParseError
        })
    }

    fn on_packet(self: &Rc<Self>, text: &str) -> Result<(), Violation> {
        if self.assembling.borrow().is_some() {
            return Err(DisconnectReason::ParseError);
        }
        let packet = self.decode(text)?;
        match packet.kind {
            Kind::Event { attachments, .. } | Kind::Ack { attachments, .. } if attachments > 0 => {
                let assembling = Assembling {
                    text: text.to_owned(),
                    expected: attachments,
                    attachments: Vec::new(),
                    bytes: text.len(),
                };
                *self.assembling.borrow_mut() = Some(Box::new(assembling));
                Ok(())
            }
            _ => self.dispatch(packet, &[]),
        }
    }

    /// Whether events of a socket are handled: no longer so once a handler has ended it, or panicked.
    fn hears(&self, socket: &Socket) -> bool {
        socket.is_connected() && self.close_due.get().is_none()
    }

    fn dispatch<'a>(self: &Rc<Self>, packet: Packet<'a>, attachments: &'a [Bytes]) -> Result<(), Violation> {
        if self.close_due.get().is_some() {
            self.shard.metrics.events_stray.increment();
            return Ok(());
        }
        let namespace = self.shard.space_named(packet.namespace);
        if let Kind::Connect { auth } = packet.kind {
            let Some(namespace) = namespace else {
                self.refuse(packet.namespace, &ConnectError::new("Invalid namespace"));
                return Ok(());
            };
            // A second one for the same namespace would replace the first under the client's feet.
            return match self.socket(namespace) {
                Some(_) => Err(DisconnectReason::ParseError),
                None if self.connecting.borrow().contains(&namespace) => Err(DisconnectReason::ParseError),
                None => {
                    self.connect(namespace, auth);
                    Ok(())
                }
            };
        }
        let Some(socket) = namespace.and_then(|namespace| self.socket(namespace)) else {
            // On its way when the socket was disconnected; before any was connected it makes no sense.
            self.shard.metrics.events_stray.increment();
            let too_early = self.connect_by.get().is_some() && self.connecting.borrow().is_empty();
            return if too_early { Err(DisconnectReason::ParseError) } else { Ok(()) };
        };
        match packet.kind {
            Kind::Event { .. } if !self.hears(&socket) => self.shard.metrics.events_stray.increment(),
            Kind::Event { ack, args, .. } => self.on_event(&socket, args, attachments, ack),
            Kind::Ack { id, args, .. } => socket.acknowledged(
                id,
                AckReply { args: args.iter().map(ToOwned::to_owned).collect(), attachments: attachments.to_vec() },
            ),
            Kind::Disconnect => self.detach(&socket, DisconnectReason::ClientNamespace),
            // Only a server sends it.
            Kind::ConnectError { .. } => return Err(DisconnectReason::ParseError),
            Kind::Connect { .. } => {}
        }
        Ok(())
    }

    fn connect(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>) {
        let before = self.shard.space(namespace).handlers().before_connect.as_ref();
        let headers = self.headers.as_deref();
        let Some(ready) = before.and_then(|before| self.shard.guarded(|| before(auth, headers)).flatten()) else {
            return self.connect_now(namespace, auth);
        };
        self.connecting.borrow_mut().push(namespace);
        let (connection, auth) = (self.clone(), auth.map(ToOwned::to_owned));
        tokio::task::spawn_local(async move {
            ready.await;
            connection.no_longer_connecting(namespace);
            if !connection.is_closed() {
                connection.turn(|| connection.connect_now(namespace, auth.as_deref()));
            }
        });
    }

    fn connect_now(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>) {
        let off = Wish::Session { recoverable: false };
        match self.shard.handle.recovery().filter(|recovery| recovery.is_on()).map_or(off, |_| Wish::of(auth)) {
            Wish::Session { recoverable } => self.connect_anew(namespace, auth, recoverable),
            Wish::Recovery(claim) => {
                self.connecting.borrow_mut().push(namespace);
                tokio::task::spawn_local(resume(self.clone(), namespace, claim, auth.map(ToOwned::to_owned)));
            }
        }
    }

    pub(crate) fn no_longer_connecting(&self, namespace: u16) {
        self.connecting.borrow_mut().retain(|connecting| *connecting != namespace);
    }

    pub(crate) fn next_reference(&self, namespace: u16) -> SocketRef {
        let shard = &self.shard;
        SocketRef { connection: self.key, serial: shard.next_serial(), shard: u16::from(shard.id), namespace }
    }

    /// Connects to a namespace with a new session.
    pub(crate) fn connect_anew(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>, recoverable: bool) {
        if self.closed.get() || self.close_due.get().is_some() {
            return;
        }
        let shard = &self.shard;
        let id = shard.new_socket_id();
        let pid = recoverable.then(|| shard.entropy.borrow_mut().secret());
        let recovery = pid.map(|pid| SocketRecovery::begun(pid, shard.position()));
        let socket = Socket::new(self, self.next_reference(namespace), id, recovery);
        let handlers = shard.space(namespace).handlers();
        let admitted = match &handlers.authorize {
            Some(authorize) => shard
                .guarded(|| authorize(&socket, auth))
                .unwrap_or_else(|| Err(ConnectError::new("Internal server error"))),
            None => Ok(()),
        };
        if let Err(error) = admitted {
            socket.drop_data();
            self.refuse(handlers.name(), &error);
            return;
        }
        shard.space(namespace).sockets.borrow_mut().insert(id, socket.clone());
        self.welcome(&socket, pid);
        if let Some(on_connect) = &handlers.on_connect
            && shard.guarded(|| on_connect(&socket)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    /// The socket is one of the connection's from now on.
    pub(crate) fn welcome(self: &Rc<Self>, socket: &Socket, pid: Option<Id>) {
        if self.connect_by.take().is_some() {
            self.settle();
        }
        self.sockets.borrow_mut().push(socket.clone());
        self.shard.metrics.sockets.increment();
        self.shard.metrics.sockets_connected.increment();
        socket.set_connected(true);
        if let (Some(pid), Some(recovery)) = (pid, self.shard.handle.recovery()) {
            recovery.sessions().is_with(pid, socket.reference());
            self.ping_soon();
        }
        socket.session_changed();
        let pid = pid.as_ref().map(Id::as_str);
        socket.queue(vec![Frame::text(|out| packet::encode_connect(out, socket.namespace(), socket.id(), pid))]);
    }

    fn refuse(self: &Rc<Self>, namespace: &str, error: &ConnectError) {
        self.queue(Rc::new(Frame::text(|out| {
            packet::encode_connect_error(out, namespace, &error.message, error.data.as_deref());
        })));
    }

    fn on_event<'a>(self: &Rc<Self>, socket: &Socket, args: Args<'a>, attachments: &'a [Bytes], ack: Option<u64>) {
        self.shard.metrics.events_received.increment();
        let Some(event) = Event::new(socket, args, attachments, ack) else { return };
        if self.refuses(socket) {
            return self.refuse_event(socket, event);
        }
        if let Some(backlog) = socket.inner().backlog.borrow_mut().as_mut() {
            backlog.0.push_back(event.into_owned());
            if backlog.0.len() >= self.shard.config.handler_backlog {
                self.set_paused(true);
            }
            return;
        }
        let done = match self.handler(socket, event.name()) {
            Some(Handler::Sync(f)) => self.shard.guarded(|| f(socket, event)),
            Some(Handler::Async(f)) => self.shard.guarded(|| f(socket.clone(), event.into_owned())).map(|future| {
                *socket.inner().backlog.borrow_mut() = Some(Box::default());
                tokio::task::spawn_local(run_handlers(socket.clone(), future));
            }),
            None => Some(()),
        };
        if done.is_none() {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    fn handler(&self, socket: &Socket, event: &str) -> Option<&Handler> {
        let namespace: &Namespace = self.shard.space(socket.reference().namespace).handlers();
        namespace.handler(event).or_else(|| {
            self.shard.metrics.events_unknown.increment();
            namespace.fallback.as_ref()
        })
    }

    fn on_raw(self: &Rc<Self>, endpoint: usize, message: RawMessage<'_>) {
        if self.close_due.get().is_none()
            && let Some(endpoint) = self.shard.application.raw_endpoints.get(endpoint)
            && self.shard.guarded(|| (endpoint.on_message)(&RawSocket(self.clone()), message)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    // --- timers ---

    /// Sometime in the last fifth of the interval.
    fn ping_delay(shard: &Shard) -> std::time::Duration {
        shard.config.ping_interval.mul_f64(1.0 - 0.2 * shard.entropy.borrow_mut().fraction())
    }

    /// Has the next heartbeat sent soon. What a client was sent is remembered until a heartbeat behind it is answered, and
    /// after a crowd has connected that is everybody's greeting.
    fn ping_soon(&self) {
        let soon = FIRST_HEARTBEAT.mul_f64(1.0 + self.shard.entropy.borrow_mut().fraction());
        let soon = Instant::now() + soon;
        if let Heartbeat::PingAt(at) = self.heartbeat.get()
            && soon < at
        {
            self.heartbeat.set(Heartbeat::PingAt(soon));
            self.set_timer();
        }
    }

    fn next_deadline(&self) -> Instant {
        let heartbeat = match self.heartbeat.get() {
            Heartbeat::PingAt(at) | Heartbeat::PongBy(at) => at,
        };
        let stall = self.blocked_since.get().map(|since| since + self.shard.config.write_stall_timeout);
        [self.connect_by.get(), stall].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    fn set_timer(&self) {
        let at = self.next_deadline();
        if self.timer_at.get().is_none_or(|set| at < set) {
            self.timer_at.set(Some(at));
            self.shard.set_timer(at, Timer::Connection(self.key));
        }
    }

    pub(crate) fn on_timer(self: &Rc<Self>, now: Instant) {
        if self.timer_at.get().is_some_and(|at| at <= now) {
            self.timer_at.set(None);
        }
        if self.connect_by.get().is_some_and(|by| by <= now) {
            return self.close(DisconnectReason::ConnectTimeout);
        }
        if self.blocked_since.get().is_some_and(|since| since + self.shard.config.write_stall_timeout <= now) {
            return self.close(DisconnectReason::WriteStalled);
        }
        match self.heartbeat.get() {
            Heartbeat::PingAt(at) if at <= now => {
                self.outbox.borrow_mut().release();
                self.ping(now);
            }
            // While its packets are not read, its answer may be among them. Either the write stall or the handlers bound
            // that; a client that no longer polls is not waited for.
            Heartbeat::PongBy(by)
                if by <= now && self.paused.get() && (self.is_blocked() || self.has_full_backlog()) =>
            {
                self.heartbeat.set(Heartbeat::PongBy(now + self.shard.config.ping_timeout));
            }
            Heartbeat::PongBy(by) if by <= now => return self.close(DisconnectReason::PingTimeout),
            _ => {}
        }
        self.set_timer();
    }

    /// Sends a heartbeat. Its answer tells that all before it has arrived.
    fn ping(self: &Rc<Self>, now: Instant) {
        self.heartbeat.set(Heartbeat::PongBy(now + self.shard.config.ping_timeout));
        for recovery in self.sockets.borrow().iter().filter_map(|socket| socket.inner().recovery.as_ref()) {
            recovery.ask(self.shard.past_position());
        }
        if let Some(arrivals) = self.arrivals.borrow_mut().as_mut() {
            arrivals.asked.append(&mut arrivals.waiting);
        }
        self.queue_uncounted(self.shard.ping.clone());
    }

    /// Sends the next heartbeat now, unless one is under way.
    pub(crate) fn ask_what_arrived(self: &Rc<Self>) {
        if let Heartbeat::PingAt(_) = self.heartbeat.get() {
            self.ping(Instant::now());
            self.set_timer();
        }
    }

    pub(crate) fn when_arrived(self: &Rc<Self>, f: Box<dyn FnOnce()>) {
        if self.closed.get() {
            return;
        }
        self.arrivals.borrow_mut().get_or_insert_default().waiting.push(f);
        self.ask_what_arrived();
    }

    fn sent_has_arrived(self: &Rc<Self>) {
        for recovery in self.sockets.borrow().iter().filter_map(|socket| socket.inner().recovery.as_ref()) {
            recovery.answered();
        }
        let Some(arrivals) = self.arrivals.borrow_mut().take() else { return };
        for f in arrivals.asked {
            self.shard.guarded(f);
        }
        for f in arrivals.waiting {
            self.when_arrived(f);
        }
    }

    // --- the end ---

    /// Disconnects one namespace, or all and the connection, when no handler runs.
    pub(crate) fn disconnect_later(self: &Rc<Self>, namespace: Option<u16>) {
        let sockets: SmallVec<[Socket; 1]> = match namespace {
            Some(namespace) => self.socket(namespace).into_iter().collect(),
            None => self.sockets.borrow().clone(),
        };
        for socket in &sockets {
            socket.queue(vec![Frame::text(|out| packet::encode_disconnect(out, socket.namespace()))]);
            socket.set_connected(false);
        }
        if namespace.is_none() {
            self.close_later(DisconnectReason::ServerNamespace);
            return;
        }
        for socket in sockets {
            let connection = self.clone();
            // The handler that asked for it may hold the socket's data: it returns first.
            tokio::task::spawn_local(async move {
                connection.detach(&socket, DisconnectReason::ServerNamespace);
            });
        }
    }

    pub(crate) fn close_later(self: &Rc<Self>, reason: DisconnectReason) {
        if self.close_due.get().is_none() {
            self.close_due.set(Some(reason));
        }
        self.want_flush();
    }

    /// Ends one socket: its handlers are told, and it is in no room any more.
    fn detach(&self, socket: &Socket, reason: DisconnectReason) {
        let known = {
            let mut sockets = self.sockets.borrow_mut();
            let position = sockets.iter().position(|known| known.reference() == socket.reference());
            position.map(|position| sockets.swap_remove(position)).is_some()
        };
        if known {
            self.end_socket(socket, reason);
        }
    }

    fn end_socket(&self, socket: &Socket, reason: DisconnectReason) {
        let space = self.shard.space(socket.reference().namespace);
        self.end_session(socket, reason);
        socket.release();
        if let Some(on_disconnect) = &space.handlers().on_disconnect {
            self.shard.guarded(|| on_disconnect(socket, reason));
        }
        let mut rooms = space.rooms.borrow_mut();
        rooms.leave_all(socket);
        drop(rooms);
        let mut sockets = space.sockets.borrow_mut();
        sockets.remove(&socket.inner().id);
        if sockets.len() * 4 < sockets.capacity() {
            let room_for = sockets.len() * 2;
            sockets.shrink_to(room_for);
        }
        drop(sockets);
        socket.drop_data();
        self.shard.metrics.sockets.decrement();
        self.shard.metrics.disconnected(reason);
    }

    /// Keeps the socket's session for its client, or ends it.
    fn end_session(&self, socket: &Socket, reason: DisconnectReason) {
        let (Some(recovery), Some(memory)) = (&socket.inner().recovery, self.shard.handle.recovery()) else { return };
        if !reason.is_recoverable() {
            return memory.end(&recovery.pid);
        }
        let session = socket.session(recovery);
        // What the keeper has is as good, unless something has changed.
        if let Some(keeper) = memory.settings.keeper.as_ref().filter(|_| recovery.unsaved.take()) {
            keeper.save(recovery.pid.as_str(), session.clone());
        }
        let (namespace, id) = (socket.reference().namespace, socket.inner().id);
        let direct = recovery.direct.take().pack();
        memory.keep(recovery.pid, Away::new(namespace, id, session, direct));
    }

    /// Ends the connection since its client has come back on another; `done` is dropped when that is so. What the client said
    /// before still counts, and may be that it leaves.
    pub(crate) fn hand_over(self: &Rc<Self>, done: oneshot::Sender<()>) {
        if self.reader.borrow().is_none() {
            return self.close(DisconnectReason::SessionResumed);
        }
        self.arrivals.borrow_mut().get_or_insert_default().handed_over = Some(done);
        self.wake_reader();
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.arrivals.borrow().as_ref().is_some_and(|arrivals| arrivals.handed_over.is_some())
    }

    /// Ends the connection now. Not to be called while a handler of its own runs; that is `close_later`.
    pub(crate) fn close(self: &Rc<Self>, reason: DisconnectReason) {
        self.close_with(reason, None);
    }

    /// As `close`, with the code that a WebSocket client sees.
    pub(crate) fn close_with(self: &Rc<Self>, reason: DisconnectReason, code: Option<CloseCode>) {
        if self.closed.replace(true) {
            return;
        }
        let sockets = std::mem::take(&mut *self.sockets.borrow_mut());
        for socket in &sockets {
            self.end_socket(socket, reason);
        }
        if sockets.is_empty() {
            self.shard.metrics.disconnected(reason);
        }
        if let Some(sid) = self.sid {
            self.shard.sessions.borrow_mut().remove(&sid);
        }
        let transport = std::mem::replace(&mut *self.transport.borrow_mut(), Transport::Closed);
        transport.close(self, reason, code, &mut self.outbox.borrow_mut());
        self.outbox.borrow_mut().clear();
        self.count_waiting();
        self.assembling.borrow_mut().take();
        self.shard.hold(self.unfinished.take(), 0);
        self.place.take();
        self.arrivals.borrow_mut().take();
        self.shard.metrics.connections.decrement();
        let mut connections = self.shard.connections.borrow_mut();
        if connections.get(self.key.index as usize).is_some_and(|known| known.key == self.key) {
            connections.remove(self.key.index as usize);
        }
        if connections.is_empty() {
            connections.shrink_to_fit();
        }
        drop(connections);
        self.wake_reader();
        self.shard.something_ended();
    }
}

/// Runs an asynchronous handler, and then the events that came meanwhile.
async fn run_handlers(socket: Socket, first: HandlerFuture) {
    let guard = BacklogGuard(socket.clone());
    first.await;
    loop {
        let next = socket.inner().backlog.borrow_mut().as_mut().and_then(|backlog| backlog.0.pop_front());
        let connection = &socket.inner().connection;
        let Some(event) = next else { break };
        if !connection.hears(&socket) {
            connection.shard.metrics.events_stray.increment();
            continue;
        }
        if connection.is_paused() {
            connection.want_flush();
        }
        connection.run_owned(&socket, event).await;
    }
    guard.finish();
}

impl Connection {
    async fn run_owned(self: &Rc<Self>, socket: &Socket, mut event: OwnedEvent) {
        let name = event.name().to_owned();
        match self.handler(socket, &name) {
            Some(Handler::Async(f)) => {
                let future = self.shard.guarded(|| f(socket.clone(), event));
                match future {
                    Some(future) => future.await,
                    None => self.close_later(DisconnectReason::HandlerPanic),
                }
            }
            Some(Handler::Sync(f)) => {
                let ack = event.take_ack();
                if self.shard.guarded(|| event.with_borrowed(ack, |event| f(socket, event))).is_none() {
                    self.close_later(DisconnectReason::HandlerPanic);
                }
            }
            None => {}
        }
    }
}

/// Lets the socket's next event be handled at once again. If a handler panicked, closes the connection instead: its
/// client can't know what was done.
struct BacklogGuard(Socket);

impl BacklogGuard {
    fn finish(self) {
        let socket = &self.0;
        socket.inner().backlog.borrow_mut().take();
        let connection = &socket.inner().connection;
        if connection.is_paused() {
            connection.want_flush();
        }
    }
}

impl Drop for BacklogGuard {
    fn drop(&mut self) {
        // A handler that is dropped as the server stops has not panicked.
        if std::thread::panicking() && self.0.inner().backlog.borrow().is_some() {
            self.0.inner().connection.shard.metrics.handler_panics.increment();
            self.0.inner().connection.close_later(DisconnectReason::HandlerPanic);
        }
    }
}
