//! Nodes that are gone, slow or broken: the client gets the answer for an unknown session, and opens a new one.

use std::{net::SocketAddr, time::Duration};

use socketio_server::{Cluster, Config, TrustedProxies};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{Addresses, GONE, NODE_A, NODE_B, Nodes, SECRET, config, echoing, member};
use crate::{
    client::{Http, Polling, Ws},
    harness::{TestServer, eventually, within},
};

on_one_and_three_shards!(
    a_dead_node_is_not_asked,
    a_node_that_accepts_no_connection_in_time_is_given_up,
    a_node_that_breaks_off_counts_as_failed,
    a_node_that_does_not_answer_holds_only_clients_that_wait,
    a_node_with_another_secret_is_no_node,
    a_node_that_hangs_is_given_up_in_the_end,
    a_silent_spliced_websocket_is_given_up,
    an_address_may_be_a_name,
);

const LOCALHOST: &str = "127.0.0.1:0";

/// A session whose node is a stand-in that the test plays.
async fn played(nodes: &Nodes) -> (Polling, TcpListener) {
    let session = nodes.strayed("/engine.io/").await;
    let listener = TcpListener::bind(LOCALHOST).await.expect("a free port");
    nodes.set_address(NODE_A, listener.local_addr().ok());
    (session, listener)
}

/// The connection of the next forwarded request, after the request.
async fn next_request(listener: &TcpListener) -> TcpStream {
    let (mut node, _) = within("a forwarded request", listener.accept()).await.expect("a connection");
    assert!(within("its head", node.read(&mut [0; 4096])).await.expect("an open connection") > 0);
    node
}

async fn a_dead_node_is_not_asked(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let mut session = nodes.strayed("/engine.io/").await;
    nodes.set_address(NODE_A, None);
    assert_eq!(session.get().await.parts(), GONE);
    assert_eq!(session.post("4x").await.parts(), GONE);
    assert_eq!(
        Ws::probe_at(nodes.b.addr, "/engine.io/", &session.sid).await.err().map(|answer| answer.status),
        Some(400)
    );
    // Nobody listens there any more.
    let free = TcpListener::bind(LOCALHOST).await.expect("a free port").local_addr().expect("an address");
    nodes.set_address(NODE_A, Some(free));
    assert_eq!(session.get().await.parts(), GONE);
    let metrics = nodes.b.metrics();
    assert_eq!((metrics.forwards_failed, metrics.requests_forwarded, metrics.bad_requests), (4, 0, 4));
    session.go_to(nodes.a.addr);
    session.send("4x").await;
}

async fn a_node_that_accepts_no_connection_in_time_is_given_up(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let mut session = nodes.strayed("/engine.io/").await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(LOCALHOST.parse::<SocketAddr>().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let addr = listener.local_addr().expect("an address");
    // The queue of the listener is full, so the kernel answers no more.
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
        queued.push(stream.expect("a connection"));
    }
    nodes.set_address(NODE_A, Some(addr));
    let began = std::time::Instant::now();
    assert_eq!(session.get().await.parts(), GONE);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(nodes.b.metrics().forwards_failed, 1);
    session.go_to(nodes.a.addr);
}

async fn a_node_that_breaks_off_counts_as_failed(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let (mut session, listener) = played(&nodes).await;
    for answer in
        [&b""[..], b"HTTP/1.1 200 OK\r\n", b"\x00\xff\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
    {
        let poll = session.begin_poll().await;
        let mut node = next_request(&listener).await;
        node.write_all(answer).await.expect("an open connection");
        drop(node);
        assert_eq!(poll.response().await.parts(), GONE, "{answer:?}");
    }
    assert_eq!(nodes.b.metrics().forwards_failed, 4);
    // The head of the answer has left, so only the end of the connection can say that the rest is missing.
    let mut http = Http::connect(nodes.b.addr).await;
    http.send("GET", &session.target(), &[], b"").await;
    let mut node = next_request(&listener).await;
    node.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n4on").await.expect("an open connection");
    drop(node);
    let mut answer = Vec::new();
    let _ = within("the end", http.into_raw().read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).expect("UTF-8");
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n4on"), "{answer}");
    session.go_to(nodes.a.addr);
}

async fn a_node_that_does_not_answer_holds_only_clients_that_wait(shards: usize) {
    // The client's address is the one that a trusted proxy saw.
    let trusted_proxies = TrustedProxies::new(TrustedProxies::network("127.0.0.0/8"));
    let nodes = Nodes::start(Config { trusted_proxies, base_path: "/realtime".to_owned(), ..config(shards) });
    let (mut session, listener) = played(&nodes).await;
    let target = session.target();
    let mut poll = Http::connect(nodes.b.addr).await;
    let headers = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Authorization", "Bearer secret"),
        ("Sec-WebSocket-Key", "x"),
        ("X-Node-Client", "1.1.1.1"),
    ];
    poll.send("GET", &target, &headers, b"").await;
    let (mut node, _) = within("a forwarded request", listener.accept()).await.expect("a connection");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let count = within("its head", node.read_buf(&mut request)).await.expect("an open connection");
        assert!(count > 0);
    }
    let request = String::from_utf8(request).expect("ASCII");
    assert!(request.starts_with(&format!("GET /realtime{target} HTTP/1.1\r\n")), "{request}");
    assert!(request.contains("x-node-client: 203.0.113.9\r\n"), "{request}");
    assert!(request.contains("connection: close\r\n"), "{request}");
    for other in ["upgrade", "1.1.1.1", "Bearer", "x-forwarded"] {
        assert!(!request.contains(other), "{other} in {request}");
    }
    // The client hangs up, and so does its node.
    drop(poll);
    assert_eq!(within("the end", node.read(&mut [0])).await.expect("an end"), 0);
    eventually("nothing is left", || nodes.b.metrics().streams == 0).await;
    session.go_to(nodes.a.addr);
}

async fn a_node_with_another_secret_is_no_node(shards: usize) {
    let addresses = Addresses::default();
    let (a, b) = (member(NODE_A, &SECRET, &addresses), member(NODE_B, &[1; 32], &addresses));
    let a = TestServer::start(config(shards), |server| echoing(server).cluster(a));
    let b = TestServer::start(config(shards), |server| echoing(server).cluster(b));
    let mut session = Polling::open_at(a.addr, "/engine.io/").await;
    session.go_to(b.addr);
    assert_eq!(session.get().await.parts(), GONE);
    assert_eq!(session.post("4x").await.parts(), GONE);
    assert_eq!((b.metrics().forwards_failed, a.metrics().forwards_refused), (2, 2));
    session.go_to(a.addr);
    session.send("4x").await;
}

/// The client can't say that it is gone: its POST has arrived, and its upgrade too.
async fn a_node_that_hangs_is_given_up_in_the_end(shards: usize) {
    let soon = Duration::from_millis(100);
    let b =
        Config { body_timeout: soon, ping_interval: soon, ping_timeout: soon, upgrade_timeout: soon, ..config(shards) };
    let nodes = Nodes::with(config(shards), b, echoing);
    let (mut session, listener) = played(&nodes).await;
    let (sid, addr) = (session.sid.clone(), nodes.b.addr);
    let asked = async {
        assert_eq!(session.post("4x").await.parts(), GONE);
        assert_eq!(session.get().await.parts(), GONE);
        let refused = Ws::probe_at(addr, "/engine.io/", &sid).await.err().expect("no WebSocket");
        assert_eq!(refused.parts(), GONE);
    };
    let hanging = async {
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(next_request(&listener).await);
        }
        connections
    };
    let (mut connections, ()) = tokio::join!(hanging, asked);
    for connection in &mut connections {
        let mut rest = Vec::new();
        within("the end", connection.read_to_end(&mut rest)).await.expect("an end");
    }
    assert_eq!(nodes.b.metrics().forwards_failed, 3);
    session.go_to(nodes.a.addr);
}

/// Both its ends are gone without a word: not even a heartbeat passes.
async fn a_silent_spliced_websocket_is_given_up(shards: usize) {
    let soon = Duration::from_millis(100);
    let b = Config { ping_interval: soon, ping_timeout: soon, ..config(shards) };
    let nodes = Nodes::with(config(shards), b, echoing);
    let session = nodes.strayed("/engine.io/").await;
    let mut ws = super::upgraded(nodes.b.addr, &session).await;
    ws.ended().await;
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    // One with heartbeats stays.
    let a = Config { ping_interval: Duration::from_millis(50), ..config(shards) };
    let nodes = Nodes::with(a, Config { ping_interval: soon, ping_timeout: soon, ..config(shards) }, echoing);
    let session = nodes.strayed("/engine.io/").await;
    let mut ws = super::upgraded(nodes.b.addr, &session).await;
    for _ in 0..20 {
        assert_eq!(ws.text().await, "2");
        ws.send("3").await;
    }
}

async fn an_address_may_be_a_name(shards: usize) {
    let addresses = Addresses::default();
    let a = member(NODE_A, &SECRET, &addresses);
    let port = addresses.lock().expect("no panic")[&NODE_A].port();
    let a = TestServer::start(config(shards), |server| echoing(server).cluster(a));
    let listener = std::net::TcpListener::bind(LOCALHOST).expect("a free port");
    let b = Cluster::new(NODE_B, &SECRET, listener, move |_| Some(format!("localhost:{port}").into()));
    let b = TestServer::start(config(shards), |server| echoing(server).cluster(b));
    let mut session = Polling::open_at(a.addr, "/engine.io/").await;
    session.go_to(b.addr);
    session.send("4x").await;
    assert_eq!(session.get().await.parts(), (200, "4x"));
}
