//! One thread's share of the server: its connections, its mailbox, its flush pass and its timers.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ORIGIN, USER_AGENT},
};
use slab::Slab;
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver, oneshot},
    task::yield_now,
    time::{Instant, sleep},
};

use crate::{
    Config, Handle, Namespace, RawEndpoint, Refusal, RefusedClient, Socket, SocketRef, Tls,
    admission::{HttpPermit, StreamPermit},
    cluster::Nodes,
    config::{BURST_SECONDS, READ_BUFFER, TURN, WORK_PER_SECOND},
    connection::Connection,
    delivery::frame::Frame,
    http::{AllowRequest, Fallback, serve_connection},
    identifier::{ConnectionKey, Entropy, Id, IdKey, IdMap, Position},
    metrics::ShardMetrics,
    rate::Rate,
    recovery::{Confirmed, Memory, Offset, Readers},
    refusal::OnRefusal,
    shard::{
        fanout::Fanout,
        held::Accounts,
        rooms::{Observed, RoomObserver, Rooms},
        timers::{Timer, Timers},
        turns::Turns,
    },
    writer::polling::Farewells,
};

pub(crate) mod fanout;
pub(crate) mod held;
mod loops;
mod mailbox;
pub(crate) mod rooms;
pub(crate) mod timers;
pub(crate) mod turns;

pub(crate) use mailbox::Command;

/// The application's handlers and TLS certificate, and the other nodes: the same for all shards.
pub(crate) struct Application {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) raw_endpoints: Vec<RawEndpoint>,
    pub(crate) fallback: Option<Box<dyn Fallback>>,
    pub(crate) allow_request: Option<Box<AllowRequest>>,
    pub(crate) on_refusal: Option<Box<OnRefusal>>,
    pub(crate) room_observer: Option<Arc<dyn RoomObserver>>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) nodes: Option<Nodes>,
}

/// A namespace's sockets on one shard.
pub(crate) struct Space {
    application: Arc<Application>,
    index: usize,
    pub(crate) rooms: RefCell<Rooms>,
    pub(crate) sockets: RefCell<IdMap<Socket>>,
    pub(crate) namespace: &'static str,
}

impl Space {
    fn new(application: &Arc<Application>, index: usize) -> Self {
        let namespace = application.namespaces[index].name();
        let observer = application.room_observer.clone();
        Self {
            application: application.clone(),
            index,
            rooms: RefCell::new(Rooms::new(observer.map(|observer| Observed { namespace, observer }))),
            sockets: RefCell::default(),
            namespace,
        }
    }

    /// The namespace's handlers.
    pub(crate) fn handlers(&self) -> &Namespace {
        &self.application.namespaces[self.index]
    }
}

/// One thread's state.
pub(crate) struct Shard {
    pub(crate) id: u8,
    pub(crate) config: Arc<Config>,
    pub(crate) application: Arc<Application>,
    pub(crate) handle: Handle,
    pub(crate) metrics: Arc<ShardMetrics>,
    /// The `Keep-Alive` header: tells HTTP clients how long a connection may be idle.
    pub(crate) keep_alive: HeaderValue,
    spaces: Vec<Space>,
    pub(crate) connections: RefCell<Slab<Rc<Connection>>>,
    /// The sessions that polling requests may name. A session that began as a WebSocket is not among them.
    pub(crate) sessions: RefCell<IdMap<Rc<Connection>>>,
    pub(crate) farewells: RefCell<Farewells>,
    pub(crate) entropy: RefCell<Entropy>,
    pub(crate) scratch: Cell<Option<Box<[u8]>>>,
    pub(crate) held: Accounts,
    began: Instant,
    pub(crate) event_rate: Rate,
    /// Nanoseconds that a message may take before it counts as more than one message.
    pub(crate) event_work: u64,
    pub(crate) request_rate: Rate,
    pub(crate) ping: Rc<Frame>,
    timers: RefCell<Timers>,
    timers_changed: Notify,
    /// Connections with something new to write.
    unflushed: RefCell<VecDeque<Rc<Connection>>>,
    flush_due: Notify,
    pub(crate) turns: Turns,
    serial: Cell<u32>,
    /// The broadcast under way.
    fanout: RefCell<Option<Fanout>>,
    /// The offset of the last broadcast that every member has.
    position: Cell<Position>,
    /// Sockets whose sessions changed since their last save to the keeper.
    unsaved: RefCell<VecDeque<Socket>>,
    save_due: Notify,
    /// The socket whose client is about to get its missed events, and the offset that the client came back with. Until
    /// then, every event to the socket carries this offset.
    pub(crate) before_replay: Cell<Option<(SocketRef, Offset)>>,
    pub(crate) confirmed: RefCell<Confirmed>,
    pub(crate) readers: Readers,
    draining: Cell<bool>,
    /// During a drain: when the last connections are closed.
    leave_by: Cell<Option<Instant>>,
    /// This shard accepts the requests that other nodes forward to any shard.
    pub(crate) accepts_forwards: Cell<bool>,
    pub(crate) drain_began: Notify,
    /// The number of TCP connections being served.
    streams: Cell<usize>,
    /// Notified when a TCP connection or a session ends.
    something_ended: Notify,
}

impl Shard {
    pub(crate) fn new(
        id: u8,
        config: Arc<Config>,
        application: Arc<Application>,
        handle: Handle,
        metrics: Arc<ShardMetrics>,
    ) -> Rc<Self> {
        let spaces = (0..application.namespaces.len()).map(|index| Space::new(&application, index)).collect();
        let start = handle.recovery().map_or(Position::NONE, |recovery| recovery.history().start());
        let rate = |per_second: u32| Rate::new(per_second, per_second.saturating_mul(BURST_SECONDS));
        let (event_rate, request_rate) = (rate(config.event_rate_per_socket), rate(config.request_rate_per_session));
        let held = Accounts::new(&config);
        // Letters, digits and `=` always make a valid header value.
        let keep_alive = HeaderValue::try_from(format!("timeout={}", config.keep_alive_timeout.as_secs()));
        let keep_alive = keep_alive.unwrap_or(HeaderValue::from_static("timeout=1"));
        let event_work = (WORK_PER_SECOND.as_nanos() as u64).checked_div(config.event_rate_per_socket.into());
        Rc::new(Self {
            id,
            config,
            application,
            handle,
            metrics,
            keep_alive,
            spaces,
            connections: RefCell::default(),
            sessions: RefCell::default(),
            farewells: RefCell::default(),
            entropy: RefCell::new(Entropy::new()),
            scratch: Cell::new(None),
            held,
            began: Instant::now(),
            event_rate,
            event_work: event_work.unwrap_or(u64::MAX),
            request_rate,
            ping: Rc::new(Frame::text(|out| out.push(b'2'))),
            timers: RefCell::default(),
            timers_changed: Notify::new(),
            unflushed: RefCell::default(),
            flush_due: Notify::new(),
            turns: Turns::default(),
            serial: Cell::new(0),
            fanout: RefCell::default(),
            position: Cell::new(start),
            unsaved: RefCell::default(),
            save_due: Notify::new(),
            before_replay: Cell::new(None),
            confirmed: RefCell::new(Confirmed::new(start)),
            readers: Readers::default(),
            draining: Cell::new(false),
            leave_by: Cell::new(None),
            accepts_forwards: Cell::new(false),
            drain_began: Notify::new(),
            streams: Cell::new(0),
            something_ended: Notify::new(),
        })
    }

    /// Runs the shard until it is drained. Returns the number of TCP connections that are left.
    pub(crate) async fn run(self: Rc<Self>, mailbox: UnboundedReceiver<Command>) -> usize {
        let flusher = tokio::task::spawn_local(self.clone().flush_connections());
        let timers = tokio::task::spawn_local(self.clone().run_timers());
        let saver = tokio::task::spawn_local(self.clone().save_sessions());
        let tidier = tokio::task::spawn_local(self.clone().tidy_up());
        let turns = tokio::task::spawn_local(self.clone().give_turns());
        // The mailbox has its own task, because the runtime polls its main future only after it has polled the network.
        let served = tokio::task::spawn_local(self.clone().serve_mailbox(mailbox)).await;
        if let Err(panic) = served {
            std::panic::resume_unwind(panic.into_panic());
        }
        for task in [flusher, timers, saver, tidier, turns] {
            task.abort();
        }
        tracing::debug!(shard = self.id, connections_left = self.streams.get(), "shard stopped");
        self.streams.get()
    }

    /// Whether no TCP connection is left, and no session between two polls.
    fn is_empty(&self) -> bool {
        let is_awaited = self.accepts_forwards.get() && self.handle.0.shards_running.load(Ordering::Acquire) > 1;
        self.streams.get() == 0 && self.connections.borrow().is_empty() && !is_awaited
    }

    /// Makes a drain check whether it is done.
    pub(crate) fn something_ended(&self) {
        self.something_ended.notify_one();
    }

    /// Yields to other tasks when the turn has taken long enough. Returns whether it yielded.
    async fn give_way(&self, began: &mut u64) -> bool {
        let taken = self.now() - *began;
        let is_over = taken > TURN.as_nanos() as u64;
        if is_over {
            self.note_turn(taken);
            yield_now().await;
            *began = self.now();
        }
        is_over
    }

    /// Calls into the application. A panic there ends only that call.
    pub(crate) fn guarded<T>(&self, f: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.metrics.handler_panics.increment();
                tracing::error!(panic = panic_text(panic.as_ref()), "handler panicked");
                None
            }
        }
    }

    pub(crate) fn space(&self, namespace: u16) -> &Space {
        &self.spaces[usize::from(namespace)]
    }

    pub(crate) fn space_named(&self, name: &str) -> Option<u16> {
        self.spaces.iter().position(|space| space.namespace == name).map(|index| index as u16)
    }

    /// Puts a command into this shard's own mailbox.
    pub(crate) fn post(&self, command: Command) {
        if let Some(mailbox) = self.handle.0.mailboxes.get(usize::from(self.id)) {
            let _ = mailbox.send(command);
        }
    }

    /// The read buffer that the shard's connections share. One connection uses it at a time.
    pub(crate) fn take_scratch(&self) -> Box<[u8]> {
        self.scratch.take().unwrap_or_else(|| vec![0; READ_BUFFER].into_boxed_slice())
    }

    /// Waits until this shard has carried out every command that was posted to it before. The mark is posted under the
    /// history's lock: a broadcast that any shard has seen is in this mailbox before the mark.
    pub(crate) async fn caught_up(&self) {
        let (mark, reached) = oneshot::channel();
        {
            let _order = self.handle.recovery().map(Memory::history);
            self.post(Command::Mark(mark));
        }
        let _ = reached.await;
    }

    /// A serial number that no other live connection or socket of this shard has.
    pub(crate) fn next_serial(&self) -> u32 {
        self.serial.set(self.serial.get().wrapping_add(1));
        self.serial.get()
    }

    pub(crate) fn new_socket_id(&self) -> Id {
        self.entropy.borrow_mut().socket_id(self.id_key())
    }

    /// The id of a session that polls.
    pub(crate) fn new_polling_session_id(&self) -> Id {
        self.entropy.borrow_mut().polling_session_id(self.id, self.id_key())
    }

    pub(crate) fn id_key(&self) -> &IdKey {
        self.handle.0.id_key.get_or_init(|| IdKey::new(None, None))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Completes when the shard drains.
    pub(crate) async fn drained(&self) {
        if !self.is_draining() {
            self.drain_began.notified().await;
        }
    }

    /// Completes during a drain, at a random time of the period in which the connections are closed.
    pub(crate) async fn time_to_leave(&self) {
        self.drained().await;
        if let Some(leave_by) = self.leave_by.get() {
            let left = leave_by.saturating_duration_since(Instant::now());
            let fraction = self.entropy.borrow_mut().fraction();
            sleep(left.mul_f64(fraction)).await;
        }
    }

    fn connection(&self, key: ConnectionKey) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        connections.get(key.index as usize).filter(|connection| connection.key == key).cloned()
    }

    fn socket(&self, reference: SocketRef) -> Option<Socket> {
        self.connection(reference.connection)?
            .socket(reference.namespace)
            .filter(|socket| socket.reference() == reference)
    }

    /// Counts and reports a refused client. Its request's headers, if there are any, identify it.
    pub(crate) fn refuse(&self, refusal: Refusal, address: IpAddr, headers: Option<&HeaderMap>) {
        let text = |name: HeaderName| headers?.get(name)?.to_str().ok();
        let refused = RefusedClient { refusal, address, origin: text(ORIGIN), user_agent: text(USER_AGENT) };
        self.metrics.client_refused(refusal);
        let (origin, user_agent) = (refused.origin, refused.user_agent);
        tracing::debug!(%address, reason = refusal.as_str(), origin, user_agent, "refuse a client");
        if let Some(on_refusal) = &self.application.on_refusal {
            self.guarded(|| on_refusal(&refused));
        }
    }

    // --- TCP connections ---

    pub(crate) fn accept(
        self: &Rc<Self>,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        (stream_permit, http_permit): (StreamPermit, HttpPermit),
    ) {
        let served = StreamGuard::new(self, stream_permit);
        tokio::task::spawn_local(serve_connection(self.clone(), stream, peer, served, http_permit));
    }

    /// Nanoseconds since the shard began.
    pub(crate) fn now(&self) -> u64 {
        // 2^64 ns are 584 years.
        self.began.elapsed().as_nanos() as u64
    }

    // --- broadcasts and flushing ---

    /// The offset of the last broadcast that has begun on this shard. A socket that joins a room now does not get it.
    pub(crate) fn position(&self) -> Position {
        self.fanout.borrow().as_ref().map_or(self.position.get(), Fanout::last_offset)
    }

    /// The offset of the last broadcast that every member has been given.
    pub(crate) fn past_position(&self) -> Position {
        let past = self.fanout.borrow().as_ref().and_then(Fanout::past_offset);
        past.unwrap_or_else(|| self.position.get())
    }

    /// The offset of the last broadcast that this socket has been given, or would have been given as a receiver.
    pub(crate) fn position_of(&self, socket: &Socket) -> Position {
        let met = self.fanout.borrow().as_ref().and_then(|fanout| fanout.offset_of(socket));
        met.unwrap_or_else(|| self.past_position())
    }

    // --- sessions ---

    /// Queues the socket's session to be saved to the keeper.
    pub(crate) fn save_soon(&self, socket: &Socket) {
        let mut unsaved = self.unsaved.borrow_mut();
        if unsaved.is_empty() {
            self.save_due.notify_one();
        }
        unsaved.push_back(socket.clone());
    }

    /// Whether there are changed sessions that are not yet saved to the keeper.
    pub(crate) fn has_unsaved(&self) -> bool {
        !self.unsaved.borrow().is_empty()
    }

    /// Queues the connection's outbox for a flush.
    pub(crate) fn flush_soon(&self, connection: &Rc<Connection>) {
        let mut unflushed = self.unflushed.borrow_mut();
        if unflushed.is_empty() {
            self.flush_due.notify_one();
        }
        unflushed.push_back(connection.clone());
    }

    pub(crate) fn set_timer(&self, at: Instant, timer: Timer) {
        if self.timers.borrow_mut().push(at, timer) {
            self.timers_changed.notify_one();
        }
        self.tidy_timers();
    }

    /// Rebuilds the timers if most of them belong to ended connections and sockets, or to deadlines that an earlier one
    /// has replaced.
    pub(crate) fn tidy_timers(&self) {
        let connections = self.connections.borrow();
        let mut timers = self.timers.borrow_mut();
        let owners = connections.len() + self.metrics.sockets.get() as usize;
        if timers.are_mostly_old(owners) {
            let mut deadlines = Vec::with_capacity(owners);
            connections.iter().for_each(|(_, connection)| connection.add_timers(&mut deadlines));
            *timers = Timers::of(deadlines);
        }
        self.metrics.timers.set(timers.len() as u64);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Counts a TCP connection for as long as it is served.
pub(crate) struct StreamGuard(Rc<Shard>, #[expect(dead_code, reason = "held for its drop")] StreamPermit);

impl StreamGuard {
    fn new(shard: &Rc<Shard>, permit: StreamPermit) -> Self {
        shard.streams.set(shard.streams.get() + 1);
        Self(shard.clone(), permit)
    }

    /// The guard of a connection that another shard handed over.
    pub(crate) fn adopted(shard: &Rc<Shard>) -> Self {
        Self::new(shard, StreamPermit::again(&shard.handle.0.admission))
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.something_ended();
    }
}
