//! One thread's share of the server: its connections, its mailbox, its flush pass and its timers.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::http::HeaderValue;
use slab::Slab;
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    Config, DisconnectReason, Handle, Namespace, RawEndpoint, Socket, SocketRef, Tls,
    admission::{HttpPlace, StreamPlace},
    broadcast::Job,
    config::{BURST_SECONDS, FLUSH_TURN, FLUSHES_PER_LOOK, SLICE, TURN, WORK_PER_SECOND},
    connection::{Connection, ConnectionKey},
    fanout::{Fanout, Pace},
    frame::Frame,
    held::Accounts,
    http::{AllowRequest, Fallback, serve_connection},
    identifier::{Entropy, Id, SocketIds},
    metrics::ShardMetrics,
    rate::Rate,
    recovery::{Confirmed, Offset, Readers, TIDY_INTERVAL},
    refusal::OnRefusal,
    rooms::Rooms,
    timers::{Timer, Timers},
    transport::{EngineRequest, Farewells},
    turns::Turns,
};

type SocketJob = Box<dyn FnOnce(Option<&Socket>) + Send>;
type EachJob = Arc<dyn Fn(&Socket) + Send + Sync>;

/// What others ask of a shard; carried out in order.
pub(crate) enum Command {
    Accept(TcpStream, SocketAddr, (StreamPlace, HttpPlace)),
    Broadcast(Arc<Job>),
    WithSocket(SocketRef, SocketJob),
    EachInRoom {
        namespace: u16,
        room: Arc<str>,
        f: EachJob,
    },
    EachInRooms {
        namespace: u16,
        rooms: Arc<dyn Fn(&str) -> bool + Send + Sync>,
        f: EachJob,
    },
    Each {
        namespace: u16,
        f: EachJob,
    },
    Engine(EngineRequest),
    /// Tells that everything before it is carried out.
    Mark(oneshot::Sender<()>),
    /// Close all connections, paced over the time given, and then stop.
    Drain(Duration),
}

/// Commands taken from the mailbox at a time.
const COMMANDS_PER_TURN: usize = 256;

/// What the application gave to the server, the same for all shards.
pub(crate) struct Application {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) raw_endpoints: Vec<RawEndpoint>,
    pub(crate) fallback: Option<Box<dyn Fallback>>,
    pub(crate) allow_request: Option<Box<AllowRequest>>,
    pub(crate) on_refusal: Option<Box<OnRefusal>>,
    pub(crate) tls: Option<Arc<Tls>>,
}

/// A namespace's sockets on one shard.
pub(crate) struct Space {
    application: Arc<Application>,
    index: usize,
    pub(crate) rooms: RefCell<Rooms>,
    pub(crate) sockets: RefCell<HashMap<Id, Socket>>,
    pub(crate) namespace: &'static str,
}

impl Space {
    /// The namespace's handlers.
    pub(crate) fn handlers(&self) -> &Namespace {
        &self.application.namespaces[self.index]
    }
}

pub(crate) struct Shard {
    pub(crate) id: u8,
    pub(crate) config: Arc<Config>,
    pub(crate) application: Arc<Application>,
    pub(crate) handle: Handle,
    pub(crate) metrics: Arc<ShardMetrics>,
    /// What HTTP clients are told of how long they may be idle.
    pub(crate) keep_alive: HeaderValue,
    spaces: Vec<Space>,
    pub(crate) connections: RefCell<Slab<Rc<Connection>>>,
    /// The sessions that polling requests may name. One that began as a WebSocket is not among them.
    pub(crate) sessions: RefCell<HashMap<Id, Rc<Connection>>>,
    pub(crate) farewells: RefCell<Farewells>,
    pub(crate) entropy: RefCell<Entropy>,
    pub(crate) scratch: Cell<Option<Box<[u8]>>>,
    pub(crate) held: Accounts,
    began: Instant,
    pub(crate) event_rate: Rate,
    /// Nanoseconds that a message may take before it counts as more than one.
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
    /// The broadcast that is under way.
    fanout: RefCell<Option<Fanout>>,
    /// The number of the last broadcast that every member has.
    position: Cell<u64>,
    /// Sockets whose sessions changed since the keeper was told.
    unsaved: RefCell<VecDeque<Socket>>,
    save_due: Notify,
    /// The socket whose client is about to get what it has missed, and the offset that it came back with: until then every
    /// event of the socket's has that.
    pub(crate) before_replay: Cell<Option<(SocketRef, Offset)>>,
    pub(crate) confirmed: RefCell<Confirmed>,
    pub(crate) readers: Readers,
    draining: Cell<bool>,
    pub(crate) drain_began: Notify,
    /// TCP connections that are served.
    streams: Cell<usize>,
    /// A TCP connection or a session ended.
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
        let spaces = application
            .namespaces
            .iter()
            .enumerate()
            .map(|(index, namespace)| Space {
                application: application.clone(),
                index,
                rooms: RefCell::default(),
                sockets: RefCell::default(),
                namespace: namespace.name(),
            })
            .collect();
        let start = handle.recovery().map_or(0, |recovery| recovery.history().start());
        let rate = |per_second: u32| Rate::new(per_second, per_second.saturating_mul(BURST_SECONDS));
        let (event_rate, request_rate) = (rate(config.event_rate_per_socket), rate(config.request_rate_per_session));
        let held = Accounts::new(&config);
        // Digits and letters always make one.
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
            drain_began: Notify::new(),
            streams: Cell::new(0),
            something_ended: Notify::new(),
        })
    }

    /// Runs the shard until it is drained. Returns the number of TCP connections that were left.
    pub(crate) async fn run(self: Rc<Self>, mailbox: UnboundedReceiver<Command>) -> usize {
        let flusher = tokio::task::spawn_local(self.clone().flush_connections());
        let timers = tokio::task::spawn_local(self.clone().run_timers());
        let saver = tokio::task::spawn_local(self.clone().save_sessions());
        let tidier = tokio::task::spawn_local(self.clone().tidy_up());
        let turns = tokio::task::spawn_local(self.clone().give_turns());
        // A task of its own, because the runtime polls what it was started with only after a look at the network.
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

    async fn serve_mailbox(self: Rc<Self>, mut mailbox: UnboundedReceiver<Command>) {
        let mut commands = VecDeque::with_capacity(COMMANDS_PER_TURN);
        let mut deadline: Option<Instant> = None;
        loop {
            let first = tokio::select! {
                // Commands first: while draining they are what brings the last replies out.
                biased;
                first = mailbox.recv() => first,
                () = self.something_ended.notified(), if deadline.is_some() => if self.is_empty() { return } else { continue },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            };
            let Some(first) = first else { return };
            let mut began = self.now();
            commands.push_back(first);
            take_waiting(&mut mailbox, &mut commands);
            while let Some(command) = commands.pop_front() {
                match command {
                    Command::Drain(grace) => {
                        deadline = Some(Instant::now() + grace);
                        if self.is_empty() {
                            return;
                        }
                        self.clone().drain(grace);
                    }
                    Command::Broadcast(job) => {
                        let fanout = Fanout::of(job, &self);
                        let is_large = fanout.is_large(&self.config);
                        *self.fanout.borrow_mut() = Some(fanout);
                        // Where others are on their way right now, all should share the first write too.
                        while is_large && {
                            let known = commands.len();
                            yield_now().await;
                            take_waiting(&mut mailbox, &mut commands);
                            commands.len() > known
                        } {}
                        while !self.fan_out_for_a_while(is_large, &mut commands) {
                            // Once for what has come meanwhile to be read, and once for what that causes to be written.
                            yield_now().await;
                            yield_now().await;
                            take_waiting(&mut mailbox, &mut commands);
                        }
                    }
                    Command::EachInRoom { namespace, room, f } => {
                        let members = self.members(namespace, &room);
                        self.ask_each(members, namespace, Some(&room), &f, &mut began).await;
                    }
                    Command::EachInRooms { namespace, rooms, f } => {
                        self.ask_each_in_rooms(namespace, &*rooms, &f, &mut began).await;
                    }
                    Command::Each { namespace, f } => {
                        let sockets = self.space(namespace).sockets.borrow().values().cloned().collect();
                        self.ask_each(sockets, namespace, None, &f, &mut began).await;
                    }
                    command => self.carry_out(command),
                }
                self.give_way(&mut began).await;
            }
        }
    }

    /// Whether nobody is left: no stream, and no session between two polls.
    fn is_empty(&self) -> bool {
        self.streams.get() == 0 && self.connections.borrow().is_empty()
    }

    /// Tells a drain to look whether it is done.
    pub(crate) fn something_ended(&self) {
        self.something_ended.notify_one();
    }

    fn carry_out(self: &Rc<Self>, command: Command) {
        match command {
            Command::Accept(stream, peer, place) => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => self.accept(stream, peer, place),
                Err(error) => tracing::warn!(%error, "failed to register a connection"),
            },
            Command::WithSocket(socket, f) => {
                let socket = self.socket(socket);
                self.guarded(|| f(socket.as_ref()));
            }
            Command::Engine(request) => self.handle_request(request),
            Command::Mark(reached) => {
                let _ = reached.send(());
            }
            Command::Broadcast(_)
            | Command::Drain(_)
            | Command::EachInRoom { .. }
            | Command::EachInRooms { .. }
            | Command::Each { .. } => {}
        }
    }

    fn members(&self, namespace: u16, room: &str) -> Vec<Socket> {
        let space = self.space(namespace);
        let (rooms, sockets) = (space.rooms.borrow(), space.sockets.borrow());
        let own = Id::parse(room).and_then(|id| sockets.get(&id));
        rooms.members(room).iter().map(|member| &member.socket).chain(own).cloned().collect()
    }

    /// Calls `f` for those that are still connected, and in the room, if there is one, when it is their turn.
    async fn ask_each(&self, sockets: Vec<Socket>, namespace: u16, room: Option<&str>, f: &EachJob, began: &mut u64) {
        let mut was_interrupted = false;
        for socket in &sockets {
            let is_still_there =
                |room: &str| room == socket.id() || self.space(namespace).rooms.borrow().contains(socket, room);
            if was_interrupted && !(socket.is_connected() && room.is_none_or(is_still_there)) {
                continue;
            }
            self.guarded(|| f(socket));
            was_interrupted |= self.give_way(began).await;
        }
    }

    async fn ask_each_in_rooms(
        &self,
        namespace: u16,
        is_meant: &(dyn Fn(&str) -> bool + Send + Sync),
        f: &EachJob,
        began: &mut u64,
    ) {
        let mut asked = HashSet::new();
        let rooms = &self.space(namespace).rooms;
        let places = rooms.borrow().places();
        for place in 0..places {
            let members = {
                let rooms = rooms.borrow();
                let room = rooms.at(place).filter(|(name, _)| self.guarded(|| is_meant(name)) == Some(true));
                let members = room.into_iter().flat_map(|(_, members)| members).map(|member| &member.socket);
                members.filter(|socket| asked.insert(socket.reference())).cloned().collect()
            };
            self.ask_each(members, namespace, None, f, began).await;
            self.give_way(began).await;
        }
    }

    /// Lets others have their turn after a while. Says whether it did.
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

    /// Calls into the application; a panic there ends nothing but what was called.
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

    /// A number that no other living thing of this shard's has.
    pub(crate) fn next_serial(&self) -> u32 {
        self.serial.set(self.serial.get().wrapping_add(1));
        self.serial.get()
    }

    pub(crate) fn new_socket_id(&self) -> Id {
        let ids = self.handle.0.socket_ids.get_or_init(|| SocketIds::new(None));
        self.entropy.borrow_mut().socket_id(ids)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
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

    // --- TCP connections ---

    pub(crate) fn accept(
        self: &Rc<Self>,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        (stream_place, http_place): (StreamPlace, HttpPlace),
    ) {
        let served = StreamGuard::new(self, stream_place);
        let shard = self.clone();
        tokio::task::spawn_local(async move {
            serve_connection(shard, stream, peer, served, http_place).await;
        });
    }

    // --- limits ---

    /// Nanoseconds since the shard began.
    pub(crate) fn now(&self) -> u64 {
        // 2^64 ns are 584 years.
        self.began.elapsed().as_nanos() as u64
    }

    // --- broadcasts and flushing ---

    /// Gives a broadcast of one of this shard's handlers to the shard's sockets, after the one that is under way.
    pub(crate) fn broadcast_now(&self, job: Arc<Job>) {
        self.fan_out(Pace::Queue(usize::MAX));
        *self.fanout.borrow_mut() = Some(Fanout::of(job, self));
        self.fan_out(Pace::Queue(usize::MAX));
    }

    /// Goes on with the broadcast that is under way, together with the commands that can join it; true if none is left.
    fn fan_out_for_a_while(&self, writes: bool, commands: &mut VecDeque<Command>) -> bool {
        if let Some(fanout) = self.fanout.borrow_mut().as_mut() {
            while let Some(Command::Broadcast(next)) = commands.front()
                && fanout.take(next, self)
            {
                commands.pop_front();
            }
        }
        let limit = self.config.fanout_per_turn.max(1);
        self.fan_out(if writes && commands.is_empty() { Pace::Write(limit) } else { Pace::Queue(limit) })
    }

    /// Goes on with the broadcast that is under way; true if none is left.
    fn fan_out(&self, pace: Pace) -> bool {
        let mut fanout = self.fanout.borrow_mut();
        let done = fanout.as_mut().is_none_or(|fanout| fanout.advance(self, pace));
        if done && let Some(fanout) = fanout.take() {
            self.position.set(fanout.last_offset());
        }
        done
    }

    /// The number of the last broadcast that has begun here. Who joins a room now is not among those who get it.
    pub(crate) fn position(&self) -> u64 {
        self.fanout.borrow().as_ref().map_or(self.position.get(), Fanout::last_offset)
    }

    /// The number of the last broadcast that every member has been given.
    pub(crate) fn past_position(&self) -> u64 {
        let past = self.fanout.borrow().as_ref().and_then(Fanout::past_offset);
        past.unwrap_or_else(|| self.position.get())
    }

    /// The number of the last broadcast that this socket has been given, or would have been if it were for it.
    pub(crate) fn position_of(&self, socket: &Socket) -> u64 {
        let met = self.fanout.borrow().as_ref().and_then(|fanout| fanout.offset_of(socket));
        met.unwrap_or_else(|| self.past_position())
    }

    // --- sessions ---

    /// Has the keeper told of the socket's session.
    pub(crate) fn save_soon(&self, socket: &Socket) {
        let mut unsaved = self.unsaved.borrow_mut();
        if unsaved.is_empty() {
            self.save_due.notify_one();
        }
        unsaved.push_back(socket.clone());
    }

    /// Tells the keeper of the sessions that have changed, for a slice of time at a time: some are in many rooms.
    async fn save_sessions(self: Rc<Self>) {
        loop {
            self.save_due.notified().await;
            // What changes together is saved together.
            yield_now().await;
            let mut began = self.now();
            loop {
                let Some(socket) = self.unsaved.borrow_mut().pop_front() else { break };
                socket.save();
                if self.now() - began > SLICE.as_nanos() as u64 {
                    self.note_turn(self.now() - began);
                    self.turn().await;
                    began = self.now();
                }
            }
            self.unsaved.borrow_mut().shrink_to_fit();
        }
    }

    /// Whether sessions have changed of which the keeper was not told.
    pub(crate) fn has_unsaved(&self) -> bool {
        !self.unsaved.borrow().is_empty()
    }

    /// Begins another while for the longest turn, tells how far the shard's sessions have come, and forgets what recovery need
    /// not remember any longer. One shard does that for all.
    async fn tidy_up(self: Rc<Self>) {
        // Heartbeats tell how far the sessions have come, so more often would tell nothing new.
        let mut ticks = tokio::time::interval(TIDY_INTERVAL.min(self.config.ping_interval));
        loop {
            ticks.tick().await;
            let longest = self.metrics.longest_turn.get();
            self.metrics.longest_turn.set(0);
            self.metrics.longest_turn_before.set(longest);
            let Some(recovery) = self.handle.recovery() else { continue };
            self.confirmed.borrow_mut().begin(self.past_position());
            recovery.confirmed(self.id, self.confirmed.borrow().position());
            if self.id == 0 {
                recovery.tidy();
            }
        }
    }

    /// Has the connection's outbox written soon.
    pub(crate) fn flush_soon(&self, connection: &Rc<Connection>) {
        let mut unflushed = self.unflushed.borrow_mut();
        if unflushed.is_empty() {
            self.flush_due.notify_one();
        }
        unflushed.push_back(connection.clone());
    }

    /// Writes to the connections that have something new, some at a time. New events are queued between: a connection
    /// that still waits for its turn gets them with the same write, and one that had it waits at the end again. So
    /// each pass over a busy room is one write a member, however many events came meanwhile (taking what has come
    /// only after a whole pass was measured: of 8 in flight it merged fewer).
    async fn flush_connections(self: Rc<Self>) {
        loop {
            self.flush_due.notified().await;
            loop {
                let began = Instant::now();
                while began.elapsed() < FLUSH_TURN && !self.unflushed.borrow().is_empty() {
                    self.unflushed.borrow().iter().take(FLUSHES_PER_LOOK).for_each(|next| next.prefetch());
                    for _ in 0..FLUSHES_PER_LOOK {
                        let Some(connection) = self.unflushed.borrow_mut().pop_front() else { break };
                        connection.flush();
                    }
                }
                if self.unflushed.borrow().is_empty() {
                    break;
                }
                yield_now().await;
            }
        }
    }

    // --- timers ---

    pub(crate) fn set_timer(&self, at: Instant, timer: Timer) {
        if self.timers.borrow_mut().push(at, timer) {
            self.timers_changed.notify_one();
        }
        self.tidy_timers();
    }

    /// Makes the timers anew if most of them are of what is gone, or of deadlines that an earlier one has replaced.
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

    async fn run_timers(self: Rc<Self>) {
        loop {
            let next = self.timers.borrow().next();
            tokio::select! {
                () = self.timers_changed.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            let (now, mut began) = (Instant::now(), self.now());
            loop {
                let Some(timer) = self.timers.borrow_mut().pop_due(now) else { break };
                match timer {
                    Timer::Connection(key) => {
                        if let Some(connection) = self.connection(key) {
                            connection.on_timer(now);
                        }
                    }
                    Timer::Socket(reference) => self.on_socket_timer(reference, now),
                }
                // Many tokens may end in the same second, and many clients may have gone silent together.
                self.give_way(&mut began).await;
            }
            self.tidy_timers();
        }
    }

    fn on_socket_timer(&self, reference: SocketRef, now: Instant) {
        let Some(socket) = self.socket(reference) else { return };
        if socket.take_due(now)
            && let Some(on_timer) = &self.space(reference.namespace).handlers().on_timer
        {
            self.guarded(|| on_timer(&socket));
        }
    }

    // --- drain ---

    /// Closes the connections one after the other over most of the grace period.
    fn drain(self: Rc<Self>, grace: Duration) {
        self.draining.set(true);
        self.drain_began.notify_waiters();
        let keys: Vec<ConnectionKey> = self.connections.borrow().iter().map(|(_, connection)| connection.key).collect();
        // The last fifth is for what is still being written.
        let pace = grace.mul_f64(0.8);
        let step = Duration::from_millis(20);
        let turns = (pace.as_millis() / step.as_millis()).max(1) as usize;
        let per_turn = keys.len().div_ceil(turns).max(1);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(step);
            for keys in keys.chunks(per_turn) {
                ticks.tick().await;
                for &key in keys {
                    if let Some(connection) = self.connection(key) {
                        connection.close(DisconnectReason::ServerShutdown);
                    }
                }
            }
            // Those whose handshake was under way when the drain began.
            loop {
                ticks.tick().await;
                let late: Vec<Rc<Connection>> =
                    self.connections.borrow().iter().map(|(_, late)| late.clone()).collect();
                late.iter().for_each(|connection| connection.close(DisconnectReason::ServerShutdown));
            }
        });
    }
}

/// Takes the commands that wait, up to a turn's worth.
fn take_waiting(mailbox: &mut UnboundedReceiver<Command>, commands: &mut VecDeque<Command>) {
    while commands.len() < COMMANDS_PER_TURN
        && let Ok(command) = mailbox.try_recv()
    {
        commands.push_back(command);
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
pub(crate) struct StreamGuard(Rc<Shard>, #[expect(dead_code, reason = "held for its drop")] StreamPlace);

impl StreamGuard {
    fn new(shard: &Rc<Shard>, place: StreamPlace) -> Self {
        shard.streams.set(shard.streams.get() + 1);
        Self(shard.clone(), place)
    }

    /// The guard of a connection that another shard handed over.
    pub(crate) fn adopted(shard: &Rc<Shard>) -> Self {
        Self::new(shard, StreamPlace::again(&shard.handle.0.admission))
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.something_ended();
    }
}
