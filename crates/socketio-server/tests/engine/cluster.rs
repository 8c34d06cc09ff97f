//! Two nodes without sticky sessions: requests that reach the wrong node get the answers of the right one.

mod ends;
mod failures;
mod hostile;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use socketio_server::{
    Cluster, Config, Limit, NodeTag, Origins, RawEndpoint, Recovery, Server, ServerBuilder,
    rustls::version::{TLS12, TLS13},
};

use crate::{
    client::{Http, Polling, Ws, masked, request, text_frames},
    harness::{TestServer, echo, eventually},
    tls,
};
use socketio_protocol::websocket::OpCode;

on_one_and_three_shards!(
    requests_to_another_node_are_the_sessions,
    a_waiting_poll_gets_a_later_event,
    large_and_chunked_bodies_pass,
    a_session_upgrades_at_another_node,
    much_data_passes_a_spliced_websocket_both_ways,
    a_refused_upgrade_is_answered_by_the_sessions_node,
    a_page_gets_its_cors_headers_once,
    requests_are_counted_once,
    clients_over_tls_are_forwarded,
);

const SECRET: [u8; 32] = [9; 32];
const KEY: [u8; 16] = [7; 16];
const GONE: (u16, &str) = (400, r#"{"code":1,"message":"Session ID unknown"}"#);
const NODE_A: NodeTag = NodeTag::new(0xa);
const NODE_B: NodeTag = NodeTag::new(0xb);

/// The internal listeners of the live nodes.
type Addresses = Arc<Mutex<HashMap<NodeTag, SocketAddr>>>;

/// Two nodes with a shared key and secret.
struct Nodes {
    a: TestServer,
    b: TestServer,
    addresses: Addresses,
}

fn config(shards: usize) -> Config {
    // Without a window, clients notice nothing of recovery.
    let recovery = Recovery { window: Duration::ZERO, id_key: Some(KEY), ..Recovery::default() };
    Config { shards, recovery: Some(recovery), ..Config::default() }
}

/// What a node of a cluster gets, and the address of its internal listener.
fn member(tag: NodeTag, secret: &[u8; 32], addresses: &Addresses) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let own = listener.local_addr().expect("an address");
    addresses.lock().expect("no panic").insert(tag, own);
    let addresses = addresses.clone();
    Cluster::new(tag, secret, listener, move |tag| {
        addresses.lock().expect("no panic").get(&tag).map(|address| address.to_string().into())
    })
}

fn echoing(server: ServerBuilder) -> ServerBuilder {
    server.namespace(echo("/")).raw_endpoint(RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
}

impl Nodes {
    fn start(config: Config) -> Self {
        Self::with(config.clone(), config, echoing)
    }

    fn with(a: Config, b: Config, describe: impl Fn(ServerBuilder) -> ServerBuilder) -> Self {
        let addresses = Addresses::default();
        let start = |config, tag| {
            let member = member(tag, &SECRET, &addresses);
            TestServer::start(config, |server| describe(server).cluster(member))
        };
        let (a, b) = (start(a, NODE_A), start(b, NODE_B));
        Self { a, b, addresses }
    }

    fn internal(&self, tag: NodeTag) -> SocketAddr {
        self.addresses.lock().expect("no panic")[&tag]
    }

    /// A node is reached at this address, or it is not alive.
    fn set_address(&self, tag: NodeTag, address: Option<SocketAddr>) {
        let mut addresses = self.addresses.lock().expect("no panic");
        match address {
            Some(address) => addresses.insert(tag, address),
            None => addresses.remove(&tag),
        };
    }

    /// Waits until A has this number of TCP connections, and has read their requests.
    async fn a_serves(&self, streams: u64) {
        let is_so = || {
            let metrics = self.a.metrics();
            (metrics.streams, metrics.handshakes) == (streams, 0)
        };
        eventually("A has read the requests", is_so).await;
    }

    /// A session of A whose next requests go to B.
    async fn strayed(&self, path: &'static str) -> Polling {
        let mut session = Polling::open_at(self.a.addr, path).await;
        session.go_to(self.b.addr);
        session
    }
}

/// The headers of a forwarded request.
fn vouched(secret: &[u8; 32]) -> [(&'static str, String); 2] {
    [("X-Node-Secret", URL_SAFE_NO_PAD.encode(secret)), ("X-Node-Client", "192.0.2.1".to_owned())]
}

async fn requests_to_another_node_are_the_sessions(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    for payload in ["4hello", "4hello\x1ebAQIDBA==", "4\u{20ac}\u{1d11e}"] {
        session.send(payload).await;
        let response = session.get().await;
        assert_eq!(response.parts(), (200, payload));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=UTF-8"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("x-node-secret"), None);
    }
    let (mut client, id) = Polling::connected(nodes.a.addr).await;
    assert_eq!(client.text().await, r#"42["auth",{}]"#);
    assert_eq!(nodes.b.handle.node_of_socket_id(&id), Some(NODE_A));
    assert!(nodes.b.handle.is_socket_id(&id));
    client.go_to(nodes.b.addr);
    client.send(r#"42["message","one"]"#).await;
    assert_eq!(client.text().await, r#"42["message-back","one"]"#);
    assert_eq!(nodes.b.metrics().requests_forwarded, 8);
    assert_eq!((nodes.a.metrics().requests_forwarded, nodes.b.metrics().connections_opened), (0, 0));
    assert_eq!((nodes.b.metrics().forwards_failed, nodes.a.metrics().forwards_refused), (0, 0));
    drop((session, client));
    eventually("no connection between the nodes is left", || nodes.a.metrics().streams == 0).await;
}

async fn a_waiting_poll_gets_a_later_event(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    let mut kept = Http::connect(nodes.b.addr).await;
    for round in 0..10 {
        let poll = session.begin_poll().await;
        kept.send("POST", &session.target(), &[], format!("4round {round}").as_bytes()).await;
        assert_eq!(poll.response().await.body, format!("4round {round}"));
        assert_eq!(kept.response().await.expect("one connection serves many requests").parts(), (200, "ok"));
    }
    let (mut client, _) = Polling::connected(nodes.a.addr).await;
    client.text().await;
    client.go_to(nodes.b.addr);
    nodes.a_serves(0).await;
    let poll = client.begin_poll().await;
    nodes.a_serves(1).await;
    nodes.a.handle.broadcast("/").emit("news", &1).expect("a name").await;
    assert_eq!(poll.response().await.parts(), (200, r#"42["news",1]"#));
}

async fn large_and_chunked_bodies_pass(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    let large = format!("4{}", "x".repeat(999_000));
    // A large message is answered only when the client takes what it causes.
    let (answer, poll) = tokio::join!(session.post(&large), session.get());
    assert_eq!(answer.parts(), (200, "ok"));
    assert!(poll.body == large);
    let mut http = Http::connect(nodes.b.addr).await;
    for body in ["4one", &large] {
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            session.target(),
            body.len()
        );
        let ((), poll) = tokio::join!(http.send_raw(request.as_bytes()), session.get());
        assert!(poll.body == body);
        assert_eq!(http.response().await.expect("an answer").parts(), (200, "ok"));
    }
    let compressed = [("Content-Encoding", "gzip")];
    let response = http.request("POST", &session.target(), &compressed, b"4x").await;
    assert_eq!(response.status, 415, "the session's node knows the encoding");
}

async fn a_session_upgrades_at_another_node(shards: usize) {
    let nodes = Nodes::start(config(shards));
    for (round, path) in ["/engine.io/", "/socket.io/"].into_iter().enumerate() {
        let session = nodes.strayed(path).await;
        // The poll waits at the wrong node, too.
        let poll = session.begin_poll().await;
        let mut ws = Ws::probe_at(nodes.b.addr, path, &session.sid).await.expect("a WebSocket");
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        assert_eq!(poll.response().await.parts(), (200, "6"));
        if round == 0 {
            // The change-over together with the first messages.
            ws.send_raw(&text_frames(["5", "4one", "4two"])).await;
            assert_eq!(ws.text().await, "4one");
            assert_eq!(ws.text().await, "4two");
        } else {
            ws.send("5").await;
            ws.enter("/").await;
            assert_eq!(ws.text().await, r#"42["auth",{}]"#);
        }
        let (a, b) = (nodes.a.metrics(), nodes.b.metrics());
        assert_eq!((a.websockets, a.upgrades, a.upgrades_failed), (1, round as u64 + 1, 0));
        assert_eq!((b.websockets, b.upgrades_forwarded, b.connections), (0, round as u64 + 1, 0));
        drop(ws);
        eventually("its end", || nodes.a.metrics().connections == 0).await;
        assert_eq!(session.get().await.parts(), GONE);
        eventually("B has let go", || nodes.b.metrics().streams == 0).await;
    }
}

async fn much_data_passes_a_spliced_websocket_both_ways(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    let mut ws = upgraded(nodes.b.addr, &session).await;
    for length in [1, 65_535, 65_536, 65_537, 999_999] {
        let data: Vec<u8> = (0..length).map(|index: usize| index as u8).collect();
        ws.send_binary(&data).await;
        assert!(ws.binary().await == data, "{length} bytes came back");
    }
    // Both directions at once, more than all buffers hold together.
    let Ws { mut reader, mut writer } = ws;
    let frame = masked(OpCode::Binary, &[1; 10_000]);
    let sent = tokio::spawn(async move {
        for _ in 0..1_000 {
            writer.send_raw(&frame).await;
        }
        writer
    });
    for _ in 0..1_000 {
        assert!(matches!(reader.recv().await, crate::client::Received::Binary(data) if data.len() == 10_000));
    }
    drop(sent.await.expect("no panic"));
}

/// Upgrades a session at this address.
async fn upgraded(addr: SocketAddr, session: &Polling) -> Ws {
    let mut ws = Ws::probe_at(addr, "/engine.io/", &session.sid).await.expect("a WebSocket");
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    ws.send("4upgraded").await;
    assert_eq!(ws.text().await, "4upgraded");
    ws
}

async fn a_refused_upgrade_is_answered_by_the_sessions_node(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    session.send("1").await;
    let refused = Ws::probe_at(nodes.b.addr, "/engine.io/", &session.sid).await.err().expect("no WebSocket");
    assert_eq!(refused.parts(), GONE);
    // A request that is no upgrade is refused at once.
    let target = session.target().replace("polling", "websocket");
    let refused = request(nodes.b.addr, "GET", &target, &[], b"").await;
    assert_eq!(refused.parts(), (400, r#"{"code":3,"message":"Bad request"}"#));
    let metrics = nodes.b.metrics();
    assert_eq!((metrics.upgrades_forwarded, metrics.requests_forwarded, metrics.forwards_failed), (0, 2, 0));
}

async fn a_page_gets_its_cors_headers_once(shards: usize) {
    let page = "https://studio.example";
    let origins = Origins::List(vec![page.parse().expect("an origin")]);
    let nodes = Nodes::start(Config { origins, ..config(shards) });
    let session = nodes.strayed("/engine.io/").await;
    session.send("4one").await;
    let response = request(nodes.b.addr, "GET", &session.target(), &[("Origin", page)], b"").await;
    assert_eq!(response.parts(), (200, "4one"));
    for (name, value) in
        [("access-control-allow-origin", page), ("access-control-allow-credentials", "true"), ("vary", "Origin")]
    {
        let values: Vec<_> = response.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        assert_eq!(response.header(name), Some(value));
    }
    // B refuses a page of another origin, and A is not asked.
    let evil = request(nodes.b.addr, "GET", &session.target(), &[("Origin", "https://evil.example")], b"").await;
    assert_eq!(evil.status, 403);
    // The page of B itself is allowed, whatever A is called.
    let own = [("Host", "b.example"), ("Origin", "https://b.example")];
    assert_eq!(request(nodes.b.addr, "POST", &session.target(), &own, b"4two").await.parts(), (200, "ok"));
    assert_eq!(nodes.b.metrics().requests_forwarded, 3);
}

async fn requests_are_counted_once(shards: usize) {
    // B allows less than A, and B's limits for sessions do not apply.
    let a = Config { request_rate_per_session: 2, ..config(shards) };
    let b = Config {
        request_rate_per_session: 1,
        connection_rate_per_address: 1,
        max_unfinished_bytes: 1,
        event_rate_per_socket: 1,
        ..config(shards)
    };
    let nodes = Nodes::with(a, b, echoing);
    let session = nodes.strayed("/engine.io/").await;
    let met = |server: &TestServer| {
        let limits = server.metrics().limits;
        limits.iter().find(|(limit, _)| *limit == Limit::RequestRate).map_or(0, |(_, count)| *count)
    };
    // After a burst of 20 requests.
    for round in 0.. {
        session.send("4x").await;
        assert_eq!(session.get().await.parts(), (200, "4x"));
        if met(&nodes.a) > 0 {
            break;
        }
        assert!(round < 1_000, "the requests are not counted");
    }
    assert!(nodes.b.metrics().limits.iter().all(|(_, count)| *count == 0), "{:?}", nodes.b.metrics().limits);
}

async fn clients_over_tls_are_forwarded(shards: usize) {
    let addresses = Addresses::default();
    let cluster = member(NODE_A, &SECRET, &addresses);
    let a = TestServer::start(config(shards), |server| echoing(server).cluster(cluster));
    let cluster = member(NODE_B, &SECRET, &addresses);
    let (b, identity, _) = tls::start(config(shards), |server| echoing(server).cluster(cluster));
    for version in [&TLS12, &TLS13] {
        let relay = tls::Relay::to(b.addr, tls::trusting(&[&identity.certificate], version));
        let mut session = Polling::open_at(a.addr, "/engine.io/").await;
        session.go_to(relay.addr);
        session.send("4one").await;
        assert_eq!(session.text().await, "4one");
        let mut ws = upgraded(relay.addr, &session).await;
        let data = vec![3; 300_000];
        ws.send_binary(&data).await;
        assert!(ws.binary().await == data);
        drop((ws, session));
        eventually("its end", || a.metrics().connections == 0 && b.metrics().streams == 0).await;
    }
}

#[test]
fn a_node_needs_a_key() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = Config { recovery: Some(Recovery::default()), ..config(1) };
    let builder = Server::builder(config).cluster(member(NODE_A, &SECRET, &Addresses::default()));
    let error = builder.start(listener).expect_err("a mistake");
    assert_eq!(error.to_string(), "a node of a cluster needs Recovery::id_key");
}
