//! Start and shutdown of a server: the shards' threads, the acceptor, the drain.

use std::{
    collections::HashSet,
    fs::File,
    hash::RandomState,
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::Sender,
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{io::Errno, net::SendFlags};
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Cluster, Config, Handle, Limit, Namespace, RawEndpoint, Recovery, RefusedClient, RoomObserver, Tls,
    admission::{Admission, Listener, TIDY_INTERVAL},
    api::handle::Node,
    config::{MAX_SHARDS, check_path},
    http::{Fallback, turned_away},
    identifier::IdKey,
    metrics::ShardMetrics,
    recovery::Memory,
    shard::{Application, Command, Shard},
    system,
};

/// A running server. Dropping it closes its connections and ends its threads, without waiting for that.
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    local_addr: SocketAddr,
    shards: Vec<JoinHandle<usize>>,
}

/// The result of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// TCP connections that were still open when the time was up.
    pub connections_left: usize,
}

/// The description of a server to start.
pub struct ServerBuilder {
    config: Arc<Config>,
    handle: Handle,
    mailboxes: Vec<UnboundedReceiver<Command>>,
    application: Application,
    internal: Option<TcpListener>,
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// Creates a builder for a server.
    #[must_use]
    pub fn builder(mut config: Config) -> ServerBuilder {
        config.shards = config.shards.clamp(1, MAX_SHARDS);
        let (senders, mailboxes) = (0..config.shards).map(|_| unbounded_channel()).unzip();
        let node = Node {
            mailboxes: senders,
            metrics: (0..config.shards).map(|_| Arc::new(ShardMetrics::default())).collect(),
            namespaces: OnceLock::new(),
            id_key: OnceLock::new(),
            latest_keys: RandomState::new(),
            recovery: OnceLock::new(),
            admission: Arc::new(Admission::new(&config)),
            untrusted_proxy: AtomicBool::new(false),
            accepting: AtomicBool::new(true),
            shards_running: AtomicUsize::new(config.shards),
            packets_encoded: AtomicU64::new(0),
        };
        ServerBuilder {
            config: Arc::new(config),
            handle: Handle(Arc::new(node)),
            mailboxes,
            application: Application {
                namespaces: Vec::new(),
                raw_endpoints: Vec::new(),
                fallback: None,
                tls: None,
                allow_request: None,
                on_refusal: None,
                room_observer: None,
                nodes: None,
            },
            internal: None,
        }
    }

    /// The address that the server listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The server's handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Announces a shutdown through [`Handle::is_accepting`], and continues to serve. A load balancer can then send
    /// clients elsewhere before they are refused.
    pub fn announce_shutdown(&self) {
        self.handle.0.accepting.store(false, Ordering::Release);
    }

    /// Accepts no more connections, closes the open ones spread over `grace`, and stops. The connections are closed in
    /// a way that makes stock clients reconnect by themselves. Blocks until the server has stopped, which is at the end
    /// of `grace` at the latest.
    pub fn shutdown(self, grace: Duration) -> Drained {
        self.announce_shutdown();
        for mailbox in &self.handle.0.mailboxes {
            let _ = mailbox.send(Command::Drain(grace));
        }
        self.join()
    }

    /// Blocks for as long as the server runs.
    pub fn wait(self) {
        self.join();
    }

    fn join(mut self) -> Drained {
        // A shard that panicked has no connections left.
        let connections_left =
            std::mem::take(&mut self.shards).into_iter().map(|shard| shard.join().unwrap_or_default()).sum();
        Drained { connections_left }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.shards.is_empty() {
            self.announce_shutdown();
            for mailbox in &self.handle.0.mailboxes {
                let _ = mailbox.send(Command::Drain(Duration::ZERO));
            }
        }
    }
}

impl ServerBuilder {
    /// The server's handle. It knows the namespaces once the server has started.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Adds a namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.application.namespaces.push(namespace);
        self
    }

    /// Adds a path that speaks Engine.IO without Socket.IO on top.
    #[must_use]
    pub fn raw_endpoint(mut self, endpoint: RawEndpoint) -> Self {
        self.application.raw_endpoints.push(endpoint);
        self
    }

    /// Sets the service for all requests that are not for the engine, such as an axum `Router`. It may also serve
    /// WebSockets of its own. It runs on the shard that received the request, and finds the client's `SocketAddr` in
    /// the request's extensions. Without a fallback these requests get 404.
    ///
    /// axum's `ConnectInfo` needs a type of axum's. A layer creates it:
    ///
    /// ```ignore
    /// let app = router.layer(axum::middleware::map_request(|mut request: axum::extract::Request| async {
    ///     if let Some(client) = request.extensions().get::<SocketAddr>().copied() {
    ///         request.extensions_mut().insert(axum::extract::ConnectInfo(client));
    ///     }
    ///     request
    /// }));
    /// ```
    #[must_use]
    pub fn fallback<S, B>(mut self, service: S) -> Self
    where
        S: tower_service::Service<
                ::http::Request<hyper::body::Incoming>,
                Response = ::http::Response<B>,
                Error = std::convert::Infallible,
            > + Clone
            + Send
            + Sync
            + 'static,
        S::Future: 'static,
        B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let fallback: Box<dyn Fallback> = Box::new(service);
        self.application.fallback = Some(fallback);
        self
    }

    /// Sets a check of each request that opens a connection. It is called before the connection is opened. If it
    /// returns false, the request gets 403. It is like the reference's `allowRequest`.
    #[must_use]
    pub fn allow_request<F>(mut self, f: impl Fn(&::http::request::Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = bool> + 'static,
    {
        self.application.allow_request = Some(Box::new(move |request| Box::pin(f(request))));
        self
    }

    /// Sets a callback for each client that is refused because of its configuration, such as a page of another origin.
    /// It runs on the shard's thread, once for every attempt of a client.
    #[must_use]
    pub fn on_refusal(mut self, f: impl Fn(&RefusedClient<'_>) + Send + Sync + 'static) -> Self {
        self.application.on_refusal = Some(Box::new(f));
        self
    }

    /// Sets the observer of the rooms that have members.
    #[must_use]
    pub fn observe_rooms(mut self, observer: Arc<dyn RoomObserver>) -> Self {
        self.application.room_observer = Some(observer);
        self
    }

    /// Serves over TLS only.
    #[must_use]
    pub fn tls(mut self, tls: Arc<Tls>) -> Self {
        self.application.tls = Some(tls);
        self
    }

    /// Makes the server a node of a cluster: requests of polling sessions may come to any node, and are forwarded to
    /// the session's node. It needs [`Recovery::id_key`], the same for all nodes, and the same paths and
    /// [`Config::base_path`] on all nodes.
    ///
    /// The limits for clients are counted by the session's node. The node that forwards only counts the TCP connections,
    /// of which each forwarded request or WebSocket needs two, and the bodies in progress.
    #[must_use]
    pub fn cluster(mut self, cluster: Cluster) -> Self {
        let Cluster { listener, nodes } = cluster;
        (self.internal, self.application.nodes) = (Some(listener), Some(nodes));
        self
    }

    /// Sets [`Config::recovery`], for settings that need the server's handle.
    #[must_use]
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        Arc::make_mut(&mut self.config).recovery = Some(recovery);
        self
    }

    fn check(&self) -> Result<(), String> {
        self.config.check()?;
        let mut names = HashSet::new();
        for namespace in &self.application.namespaces {
            namespace.check()?;
            if !names.insert(namespace.name()) {
                return Err(format!("there are two namespaces {:?}", namespace.name()));
            }
        }
        let id_key = self.config.recovery.as_ref().and_then(|recovery| recovery.id_key);
        if self.application.nodes.is_some() && id_key.is_none() {
            return Err("a node of a cluster needs Recovery::id_key".to_owned());
        }
        let mut paths = HashSet::from([&self.config.path]);
        for endpoint in &self.application.raw_endpoints {
            check_path(&endpoint.path)?;
            if !paths.insert(&endpoint.path) {
                return Err(format!("two things are at path {:?}", endpoint.path));
            }
        }
        Ok(())
    }

    /// Starts the shards' threads and serves the listener's connections.
    ///
    /// # Errors
    /// If the listener or a thread can't be set up. [`io::ErrorKind::InvalidInput`], if the description has a mistake:
    /// an invalid path or name, two namespaces, endpoints or handlers of one name, or a limit of 0 that admits nothing.
    pub fn start(mut self, listener: TcpListener) -> io::Result<Server> {
        self.check().map_err(|mistake| io::Error::new(io::ErrorKind::InvalidInput, mistake))?;
        let local_addr = listener.local_addr()?;
        let internal = self.internal.take();
        for listener in [Some(&listener), internal.as_ref()].into_iter().flatten() {
            listener.set_nonblocking(true)?;
            system::prepare_listener(listener, self.config.tcp_user_timeout());
        }
        self.set_up_node();
        let application = Arc::new(self.application);
        // The first shard accepts connections for all shards.
        let mut listeners = Some(Listeners { public: listener, internal });
        let mut shards = Vec::with_capacity(self.mailboxes.len());
        for (id, mailbox) in self.mailboxes.into_iter().enumerate() {
            let (config, application, handle) = (self.config.clone(), application.clone(), self.handle.clone());
            let thread = ShardThread { id, config, application, handle, mailbox, listeners: listeners.take() };
            let (ready, is_ready) = std::sync::mpsc::channel();
            let name = format!("shard-{id}");
            shards.push(std::thread::Builder::new().name(name).spawn(move || thread.run(&ready))?);
            is_ready.recv().map_err(|_| io::Error::other("a shard's thread ended"))??;
        }
        Ok(Server { handle: self.handle, local_addr, shards })
    }

    /// Completes the state that all threads share.
    fn set_up_node(&self) {
        let names = self.application.namespaces.iter().enumerate();
        let names: std::collections::HashMap<_, _> =
            names.map(|(index, namespace)| (namespace.name(), index as u16)).collect();
        let node = &self.handle.0;
        let _ = node.namespaces.set(names);
        let recovery = self.config.recovery.as_ref();
        let tag = self.application.nodes.as_ref().map(|nodes| nodes.tag);
        let _ = node.id_key.set(IdKey::new(recovery.and_then(|recovery| recovery.id_key), tag));
        if let Some(recovery) = recovery {
            let _ = node.recovery.set(Memory::new(recovery, &self.config));
        }
    }
}

/// The listeners of a server.
struct Listeners {
    public: TcpListener,
    /// The listener for other nodes.
    internal: Option<TcpListener>,
}

impl Listeners {
    /// Starts to accept connections, until the result is dropped.
    fn accept(self, shard: &Rc<Shard>) -> io::Result<JoinSet<()>> {
        let mut acceptors = JoinSet::new();
        acceptors.spawn_local(accept(shard.clone(), tokio::net::TcpListener::from_std(self.public)?));
        if let Some(internal) = self.internal {
            shard.accepts_forwards.set(true);
            acceptors.spawn_local(accept_nodes(shard.clone(), tokio::net::TcpListener::from_std(internal)?));
        }
        Ok(acceptors)
    }
}

/// The parts of a shard, on their way to its thread.
struct ShardThread {
    id: usize,
    config: Arc<Config>,
    application: Arc<Application>,
    handle: Handle,
    mailbox: UnboundedReceiver<Command>,
    listeners: Option<Listeners>,
}

impl ShardThread {
    /// Runs the shard, and reports when it is ready. Returns the number of TCP connections that are left.
    fn run(self, ready: &Sender<io::Result<()>>) -> usize {
        let _running = RunningShard(self.handle.clone());
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return 0;
            }
        };
        let left = runtime.block_on(self.serve(ready));
        // Remaining tasks are dropped with the runtime.
        drop(runtime);
        left
    }

    async fn serve(self, ready: &Sender<io::Result<()>>) -> usize {
        let Self { id, config, application, handle, mailbox, listeners } = self;
        let metrics = handle.0.metrics[id].clone();
        // There are at most 256 shards.
        let shard = Shard::new(id as u8, config, application, handle, metrics);
        let acceptors = match listeners.map(|listeners| listeners.accept(&shard)).transpose() {
            Ok(acceptors) => acceptors,
            Err(error) => {
                let _ = ready.send(Err(error));
                return 0;
            }
        };
        let _ = ready.send(Ok(()));
        let left = shard.run(mailbox).await;
        drop(acceptors);
        left
    }
}

/// Counts a shard for as long as it runs. The first shard is told of its end.
struct RunningShard(Handle);

impl Drop for RunningShard {
    fn drop(&mut self) {
        self.0.0.shards_running.fetch_sub(1, Ordering::AcqRel);
        if let Some(mailbox) = self.0.0.mailboxes.first() {
            let _ = mailbox.send(Command::ShardEnded);
        }
    }
}

/// The acceptor's pause when the system has no file descriptors left. Meanwhile connections end: those asked to make
/// room, or others.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(5);

/// The interval at which the acceptor checks whether the connections asked to make room have closed, and its longest
/// wait for them. A shard that is busy for longer has no time for new connections either.
const ROOM_CHECK: Duration = Duration::from_millis(1);
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_millis(500);

/// The shortest interval between log messages about failed accepts.
const ACCEPT_COMPLAINTS: Duration = Duration::from_secs(10);

/// A spare file descriptor. It is given up when there is no other, so that a client that connects then is asked
/// to retry.
struct SpareFile(Option<File>);

impl SpareFile {
    fn open() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Refuses one connection from the accept queue, if there is one.
    fn turn_away_one(&mut self, listener: &tokio::net::TcpListener, speaks_tls: bool) {
        self.0 = None;
        if let Ok(stream) = rustix::net::accept(listener)
            && !speaks_tls
        {
            let _ = rustix::net::send(&stream, turned_away(Limit::HttpConnections), SendFlags::DONTWAIT);
        }
        *self = Self::open();
    }
}

/// Whether the system lacks the file descriptors or the memory for one more connection.
fn is_for_want_of_files(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// Distributes connections to the shards in turn.
async fn accept(shard: Rc<Shard>, listener: tokio::net::TcpListener) {
    let admission = &shard.handle.0.admission;
    let mut tidying = tokio::time::interval(TIDY_INTERVAL);
    let mut failures = AcceptFailures { spare: SpareFile::open(), complained: None };
    let mut next_shard = 0;
    while !shard.is_draining() {
        // A connection asked to close does so when its shard runs its task. New connections wait for that instead of
        // being refused.
        let mut waited = Duration::ZERO;
        while admission.is_making_room() && waited < LONGEST_WAIT_FOR_ROOM {
            tokio::time::sleep(ROOM_CHECK).await;
            waited += ROOM_CHECK;
        }
        // The notification of a drain that began meanwhile is not repeated.
        if shard.is_draining() {
            return;
        }
        let accepted = tokio::select! {
            biased;
            () = shard.drain_began.notified() => return,
            _ = tidying.tick() => {
                admission.tidy();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => next_shard = distribute(&shard, stream, peer, (next_shard, Listener::Public)),
            Err(error) => {
                failures.meet(&shard, &listener, &error);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Distributes the connections of other nodes, also during a drain: the sessions of this node still need them.
async fn accept_nodes(shard: Rc<Shard>, listener: tokio::net::TcpListener) {
    let mut failures = AcceptFailures { spare: SpareFile::open(), complained: None };
    let mut next_shard = 0;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => next_shard = distribute(&shard, stream, peer, (next_shard, Listener::Internal)),
            Err(error) => {
                failures.meet(&shard, &listener, &error);
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Gives a connection to the shard `next_shard`, if the limits admit it. Returns the index of the shard after it.
fn distribute(
    shard: &Rc<Shard>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    (next_shard, listener): (usize, Listener),
) -> usize {
    let mailboxes = &shard.handle.0.mailboxes;
    let permits = match shard.handle.0.admission.stream(peer.ip(), listener) {
        Ok(permits) => permits,
        Err(limit) => {
            shard.metrics.limit_met(limit);
            tracing::debug!(%peer, limit = limit.as_str(), "turn a connection away");
            // The refusal is plain text, which a client in a TLS handshake could not read.
            if shard.application.tls.is_none() || listener == Listener::Internal {
                // Written directly, because the runtime does not know yet that the socket has room.
                let _ = rustix::io::write(&stream, turned_away(limit));
            }
            return next_shard;
        }
    };
    system::prepare_stream(&stream);
    if next_shard == usize::from(shard.id) {
        shard.accept(stream, peer, permits);
    } else if let (Some(mailbox), Ok(stream)) = (mailboxes.get(next_shard), stream.into_std()) {
        let _ = mailbox.send(Command::Accept(stream, peer, permits));
    }
    (next_shard + 1) % mailboxes.len()
}

/// The state for connections that can't be accepted.
struct AcceptFailures {
    spare: SpareFile,
    complained: Option<Instant>,
}

impl AcceptFailures {
    fn meet(&mut self, shard: &Shard, listener: &tokio::net::TcpListener, error: &io::Error) {
        shard.metrics.accept_failures.increment();
        if self.complained.is_none_or(|at| at.elapsed() >= ACCEPT_COMPLAINTS) {
            self.complained = Some(Instant::now());
            tracing::warn!(%error, "failed to accept a connection");
        }
        // A waiting connection is accepted when an idle one has closed. If none can close, the waiting one is refused.
        if is_for_want_of_files(error) && !shard.handle.0.admission.make_room() {
            self.spare.turn_away_one(listener, shard.application.tls.is_some());
        }
    }
}
