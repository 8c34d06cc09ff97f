//! The end of a forwarded request or WebSocket: of the client, of the session, and of each of the nodes.

use std::time::Duration;

use socketio_server::{DisconnectReason, Namespace};

use super::{GONE, Nodes, config, upgraded};
use crate::{
    client::{CLOSED, COME_BACK, Http, Polling, Received, request},
    harness::{eventually, within},
};

on_one_and_three_shards!(
    a_client_that_gives_up_its_poll_ends_its_session,
    a_client_that_leaves_a_spliced_websocket_ends_its_session,
    a_session_that_ends_closes_its_spliced_websocket,
    a_draining_node_still_serves_its_sessions,
    the_clients_of_a_node_that_stops_come_back,
    a_node_that_is_killed_is_noticed,
    a_node_that_drains_lets_forwarded_clients_go,
);

const GRACE: Duration = Duration::from_secs(5);

async fn a_client_that_gives_up_its_poll_ends_its_session(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    nodes.a_serves(0).await;
    let poll = session.begin_poll().await;
    nodes.a_serves(1).await;
    drop(poll);
    nodes.a.all_ended(DisconnectReason::TransportError).await;
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    // So does a client that gives up its body, as at the session's own node.
    let session = nodes.strayed("/engine.io/").await;
    nodes.a_serves(0).await;
    let mut http = Http::connect(nodes.b.addr).await;
    http.send_raw(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n4x", session.target()).as_bytes())
        .await;
    eventually("the body is awaited", || (nodes.a.metrics().streams, nodes.a.metrics().handshakes) == (1, 1)).await;
    drop(http);
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    assert_eq!(nodes.b.metrics().handshakes, 0);
    // The session goes on, also as at its own node.
    session.send("4x").await;
}

async fn a_client_that_leaves_a_spliced_websocket_ends_its_session(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    let ws = upgraded(nodes.b.addr, &session).await;
    drop(ws);
    nodes.a.all_ended(DisconnectReason::TransportClose).await;
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
}

async fn a_session_that_ends_closes_its_spliced_websocket(shards: usize) {
    let nodes = Nodes::with(config(shards), config(shards), |server| {
        server
            .namespace(Namespace::new("/").on("close", |socket, _| socket.close_connection()))
            .raw_endpoint(socketio_server::RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
    });
    let session = nodes.strayed("/engine.io/").await;
    let mut ws = upgraded(nodes.b.addr, &session).await;
    ws.send("x").await;
    assert_eq!(ws.closed().await, (1002, "parse error".to_owned()));
    eventually("A has let go", || nodes.a.metrics().streams == 0).await;
    drop(ws);
    eventually("B has let go", || nodes.b.metrics().streams == 0).await;
    // A client that does not close its side is not waited for.
    let session = nodes.strayed("/engine.io/").await;
    let mut ws = upgraded(nodes.b.addr, &session).await;
    ws.send("x").await;
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    assert!(matches!(ws.recv().await, Received::Close(1002, _)));
}

async fn a_draining_node_still_serves_its_sessions(shards: usize) {
    let mut nodes = Nodes::start(config(shards));
    // The drain closes the sessions in the order of their begin, spread over its time.
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(nodes.strayed("/engine.io/").await);
    }
    let (a, addr) = (nodes.a.handle.clone(), nodes.a.addr);
    let internal = nodes.internal(super::NODE_A);
    let last = sessions.pop().expect("a session");
    let during = async {
        eventually("A drains", || a.metrics().connections < 30).await;
        assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "A accepts no clients");
        last.send("4x").await;
        assert_eq!(last.get().await.parts(), (200, "4x"));
        // A connection of a stranger does not hold the drain.
        drop(tokio::net::TcpStream::connect(internal).await.expect("it listens"));
        let poll = last.begin_poll().await;
        assert_eq!(poll.response().await.parts(), CLOSED);
    };
    let ((drained, took), ()) = tokio::join!(nodes.a.shut_down(GRACE), during);
    assert_eq!(drained.connections_left, 0);
    assert!(took < GRACE, "{took:?}");
    assert_eq!(last.get().await.parts(), GONE);
}

async fn the_clients_of_a_node_that_stops_come_back(shards: usize) {
    let mut nodes = Nodes::start(config(shards));
    let polling = nodes.strayed("/engine.io/").await;
    let python = nodes.strayed("/engine.io/").await;
    let upgrading = nodes.strayed("/engine.io/").await;
    let mut ws = upgraded(nodes.b.addr, &upgrading).await;
    nodes.a_serves(1).await;
    let poll = polling.begin_poll().await;
    let asked = tokio::spawn(async move {
        assert_eq!(poll.response().await.parts(), CLOSED);
        assert_eq!(ws.closed().await, (1001, "server shutting down".to_owned()));
        polling
    });
    nodes.a_serves(2).await;
    let (drained, took) = nodes.a.shut_down(GRACE).await;
    assert_eq!(drained.connections_left, 0);
    assert!(took < GRACE, "{took:?}");
    let polling = within("the answers", asked).await.expect("no panic");
    assert_eq!(polling.get().await.parts(), GONE);
    assert_eq!(python.post("4x").await.parts(), GONE);
    assert_eq!(nodes.b.metrics().forwards_failed, 2);
}

/// A shutdown without a grace period drops all connections as they are.
async fn a_node_that_is_killed_is_noticed(shards: usize) {
    let mut nodes = Nodes::start(config(shards));
    let polling = nodes.strayed("/engine.io/").await;
    let upgrading = nodes.strayed("/engine.io/").await;
    let mut ws = upgraded(nodes.b.addr, &upgrading).await;
    nodes.a_serves(1).await;
    let poll = polling.begin_poll().await;
    nodes.a_serves(2).await;
    nodes.a.shut_down(Duration::ZERO).await;
    let answer = poll.response().await;
    assert!([GONE, CLOSED].contains(&answer.parts()), "{answer:?}");
    assert!(matches!(ws.recv().await, Received::End(0) | Received::Reset | Received::Close(1001, _)));
    assert_eq!(polling.get().await.parts(), GONE);
    drop((ws, polling, upgrading));
    eventually("nothing is left", || nodes.b.metrics().streams == 0).await;
}

async fn a_node_that_drains_lets_forwarded_clients_go(shards: usize) {
    let mut nodes = Nodes::start(config(shards));
    let mut sessions: Vec<Polling> = Vec::new();
    for _ in 0..3 {
        sessions.push(nodes.strayed("/engine.io/").await);
    }
    let mut ws = upgraded(nodes.b.addr, &sessions[0]).await;
    nodes.a_serves(1).await;
    let poll = sessions[1].begin_poll().await;
    let python = format!("{}&t=1764528000.1234567", sessions[2].target());
    let b = nodes.b.addr;
    let asked = tokio::spawn(async move { request(b, "GET", &python, &[], b"").await });
    nodes.a_serves(3).await;
    let told = tokio::spawn(async move {
        assert_eq!(poll.response().await.parts(), CLOSED);
        assert!(matches!(ws.recv().await, Received::End(0) | Received::Reset));
    });
    let (drained, took) = nodes.b.shut_down(GRACE).await;
    assert_eq!(drained.connections_left, 0);
    assert!(took < GRACE, "{took:?}");
    told.await.expect("no panic");
    assert_eq!(asked.await.expect("no panic").parts(), COME_BACK);
    // Their sessions have ended as if the clients had hung up, so that they can be recovered.
    eventually("A has noticed", || nodes.a.metrics().connections == 0).await;
    assert_eq!(nodes.a.ended(DisconnectReason::TransportError), 2);
    assert_eq!(nodes.a.ended(DisconnectReason::TransportClose), 1);
    for session in &mut sessions {
        session.go_to(nodes.a.addr);
    }
}
