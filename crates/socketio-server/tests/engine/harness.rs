//! A server in this process, and what must be true of it when a test ends.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    net::{SocketAddr, TcpListener},
    panic::Location,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;
use socketio_server::{
    Config, DisconnectReason, Drained, Event, EventArgs, Handle, MetricsSnapshot, Namespace, RawEndpoint, Server,
    ServerBuilder, Socket,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::{Service, service_fn};

use crate::client::get;

/// A small event counts as so many bytes while it waits for a handler, or fewer by some.
pub(crate) const EVENT_BYTES: usize = 300;

/// How long anything may take that is expected to happen. It is only ever waited out by a test that fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// One attachment, and two, among the arguments of an event.
pub(crate) const ONE: &str = r#"{"_placeholder":true,"num":0}"#;
pub(crate) const TWO: &str = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;

/// A value without a JSON form.
pub(crate) struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("unspeakable"))
    }
}

/// Runs each test on a server with one shard, and on one with three. With three, one-shot requests go to the shards in
/// turn, so that most of a polling session's requests, and its upgrade, come in on a shard that the session isn't on.
macro_rules! on_one_and_three_shards {
    ($($test:ident),+ $(,)?) => {
        mod one_shard {
            $(#[tokio::test] async fn $test() { super::$test(1).await; })+
        }
        mod three_shards {
            $(#[tokio::test] async fn $test() { super::$test(3).await; })+
        }
    };
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < DEADLINE, "{caller}: not in time: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits for a future.
#[track_caller]
pub(crate) fn within<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: not in time: {what}"),
        }
    }
}

/// A fallback that answers a request with what `answer` makes of it.
pub(crate) fn answering<A: Future<Output = Response<Full<Bytes>>> + 'static>(
    answer: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
) -> impl Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future: 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request| {
        let answer = answer(request);
        async { Ok(answer.await) }
    })
}

/// A server. When it is dropped, its clients being gone, nothing of them may be left.
pub(crate) struct TestServer {
    server: Option<Server>,
    pub(crate) handle: Handle,
    pub(crate) addr: SocketAddr,
    shards: usize,
    expected_panics: Cell<u64>,
}

impl TestServer {
    pub(crate) fn start(config: Config, describe: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let shards = config.shards;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = describe(Server::builder(config)).start(listener).expect("the server starts");
        let (handle, addr) = (server.handle(), server.local_addr());
        Self { server: Some(server), handle, addr, shards, expected_panics: Cell::new(0) }
    }

    /// A server with default limits and the echo namespaces `/` and `/custom`, and a raw echo at `/engine.io`: what the
    /// official suites run against.
    pub(crate) fn echo(config: Config) -> Self {
        Self::start(config, |server| {
            server
                .namespace(echo("/"))
                .namespace(echo("/custom"))
                .raw_endpoint(RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
        })
    }

    pub(crate) fn metrics(&self) -> MetricsSnapshot {
        self.handle.metrics()
    }

    /// Sockets (or connections without any) that ended for this reason.
    pub(crate) fn ended(&self, reason: DisconnectReason) -> u64 {
        self.metrics().disconnects.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    }

    /// Waits until one has ended for this reason, and no connection is left.
    #[track_caller]
    pub(crate) fn all_ended(&self, reason: DisconnectReason) -> impl Future<Output = ()> {
        let what = format!("all connections ended, the reason being {:?}", reason.as_str());
        let caller = Location::caller();
        async move {
            let began = Instant::now();
            while self.metrics().connections > 0 || self.ended(reason) == 0 {
                let metrics = self.metrics();
                assert!(
                    began.elapsed() < DEADLINE,
                    "{caller}: not in time: {what}; {} are left, {:?}",
                    metrics.connections,
                    metrics.disconnects
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    /// Waits until every shard has handled what was sent to the server before, also what one of them handed to another:
    /// each answers two requests. A mailbox with hundreds of commands is handled in turns, beside such requests.
    pub(crate) async fn settle(&self) {
        for _ in 0..2 * self.shards {
            assert_eq!(get(self.addr, "/settled").await.status, 404);
        }
    }

    /// Handlers of this test panic this often.
    pub(crate) fn expect_panics(&self, count: u64) {
        self.expected_panics.set(count);
    }

    /// Shuts the server down while its clients are there.
    pub(crate) async fn shut_down(&mut self, grace: Duration) -> (Drained, Duration) {
        let server = self.server.take().expect("the server runs");
        let began = Instant::now();
        let drained = within("the shutdown", tokio::task::spawn_blocking(move || server.shutdown(grace))).await;
        (drained.expect("the shutdown does not panic"), began.elapsed())
    }
}

impl Drop for TestServer {
    #[expect(clippy::disallowed_methods, reason = "it waits for a condition with a deadline, and drop cannot await")]
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        if std::thread::panicking() {
            server.shutdown(Duration::from_millis(100));
            return;
        }
        let began = Instant::now();
        let gauges = || {
            let metrics = self.handle.metrics();
            (metrics.connections, metrics.websockets, metrics.sockets)
        };
        while gauges() != (0, 0, 0) {
            assert!(
                began.elapsed() < DEADLINE,
                "its clients are gone, and these are left: (connections, websockets, sockets) = {:?}",
                gauges()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let metrics = self.handle.metrics();
        let ended: u64 = metrics.disconnects.iter().map(|(_, count)| count).sum();
        assert!(ended >= metrics.sockets_connected, "each socket's end has a reason: {metrics:?}");
        assert_eq!(metrics.handler_panics, self.expected_panics.get(), "handlers panicked");
        let began = Instant::now();
        let drained = server.shutdown(DEADLINE);
        assert_eq!(drained, Drained { connections_left: 0 });
        assert!(began.elapsed() < DEADLINE / 2, "with nobody connected a shutdown has nothing to wait for");
    }
}

/// What the official suites expect: `message` comes back, `message-with-ack` in its ack, `auth` when connected.
pub(crate) fn echo(name: &'static str) -> Namespace {
    Namespace::new(name)
        .authorize(|socket, auth| {
            socket.set_data(auth.map_or_else(|| "{}".to_owned(), |auth| auth.get().to_owned()));
            Ok(())
        })
        .on_connect(|socket| {
            let auth = socket.with_data(std::mem::take::<String>).expect("what authorize kept");
            socket.emit_args("auth", &EventArgs::from_raw(auth)).expect("a name");
        })
        .on("message", |socket: &Socket, event: Event<'_>| {
            socket.emit_args("message-back", &arguments_of(&event)).expect("a name");
        })
        .on("message-with-ack", |_: &Socket, mut event: Event<'_>| {
            let args = arguments_of(&event);
            event.take_ack().expect("the client asks for it").send_args(&args);
        })
}

/// The arguments of an event, to send them on.
pub(crate) fn arguments_of(event: &Event<'_>) -> EventArgs {
    let json: Vec<&str> = event.args().map(RawValue::get).collect();
    EventArgs::from_raw(json.join(",")).with_attachments(event.attachments().to_vec())
}

/// What handlers noticed, for the test to read.
#[derive(Clone)]
pub(crate) struct Recorder(UnboundedSender<String>);

/// The reading end of a [`Recorder`].
pub(crate) struct Seen(UnboundedReceiver<String>);

pub(crate) fn recorder() -> (Recorder, Seen) {
    let (sender, receiver) = unbounded_channel();
    (Recorder(sender), Seen(receiver))
}

impl Recorder {
    pub(crate) fn note(&self, what: impl Into<String>) {
        let _ = self.0.send(what.into());
    }
}

impl Seen {
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = String> {
        let next = within("a handler's note", self.0.recv());
        async { next.await.expect("the server runs") }
    }

    /// The next few, sorted: for what comes from several shards.
    pub(crate) async fn next_sorted(&mut self, count: usize) -> Vec<String> {
        let mut notes = Vec::new();
        for _ in 0..count {
            notes.push(self.next().await);
        }
        notes.sort();
        notes
    }

    /// All that are there already.
    pub(crate) fn so_far(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}
