//! The end of the server: everyone is told in a way that makes them come back, and it does not wait for those that
//! don't listen.

use std::time::Duration;

use socketio_server::{Config, Drained, Namespace};
use tokio::net::TcpStream;

use crate::{
    client::{CLOSED, COME_BACK, Http, Polling, Ws, get},
    harness::{Recorder, TestServer, echo, eventually, recorder, within},
};

on_one_and_three_shards!(
    everyone_is_told_and_idle_connections_do_not_matter,
    sockets_of_sessions_between_two_polls_are_told,
    a_handshake_that_comes_too_late_is_refused,
    an_idle_server_stops_at_once,
    connections_are_closed_over_time,
    who_does_not_go_is_left_behind,
    handlers_that_still_run_are_dropped_and_have_not_panicked,
);

const GRACE: Duration = Duration::from_secs(5);
const NOBODY: Drained = Drained { connections_left: 0 };

async fn everyone_is_told_and_idle_connections_do_not_matter(shards: usize) {
    let (recorder, mut seen) = recorder();
    let mut server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    let handle = server.handle.clone();
    assert!(handle.is_accepting());
    let mut idle = Vec::new();
    let mut clients = Vec::new();
    let mut polls = Vec::new();
    for _ in 0..3 {
        // One that has carried a request, and one that a browser opened in advance.
        let mut http = Http::connect(server.addr).await;
        assert_eq!(http.request("GET", "/", &[], b"").await.status, 404);
        idle.push(http);
        idle.push(Http::connect(server.addr).await);
        clients.push(Ws::connected(server.addr).await.0);
        let (session, _) = Polling::connected(server.addr).await;
        polls.push((session.begin_poll().await, session));
    }
    server.settle().await;
    let addr = server.addr;
    let told = tokio::spawn(async move {
        for mut ws in clients {
            assert_eq!(ws.closed().await, (1001, "server shutting down".to_owned()));
        }
        for (poll, session) in polls {
            assert_eq!(poll.response().await.parts(), CLOSED);
            drop(session);
        }
        for mut http in idle {
            assert_eq!(http.response().await, None);
        }
    });
    let (drained, took) = server.shut_down(GRACE).await;
    assert_eq!(drained, NOBODY);
    assert!(took < GRACE, "{took:?}");
    told.await.expect("no panic");
    assert!(!handle.is_accepting());
    assert_eq!(seen.next_sorted(6).await, ["server shutting down"; 6]);
    let metrics = handle.metrics();
    assert_eq!((metrics.connections, metrics.websockets, metrics.sockets), (0, 0, 0));
    TcpStream::connect(addr).await.expect_err("nobody listens");
    // What is asked of it now is not done, and nobody waits for it.
    assert_eq!(within("no delivery", handle.broadcast("/").emit("x", &1).expect("a name")).await, 0);
    assert_eq!(seen.so_far(), [""; 0]);
}

/// Such a session has no TCP connection at all, or one on another shard.
async fn sockets_of_sessions_between_two_polls_are_told(shards: usize) {
    let (recorder, mut seen) = recorder();
    let mut server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    let handle = server.handle.clone();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Polling::connected(server.addr).await);
    }
    let (drained, took) = server.shut_down(GRACE).await;
    assert_eq!(drained, NOBODY);
    assert!(took < GRACE, "{took:?}");
    assert_eq!(seen.so_far(), ["server shutting down"; 4]);
    let metrics = handle.metrics();
    assert_eq!((metrics.connections, metrics.sockets), (0, 0));
}

async fn a_handshake_that_comes_too_late_is_refused(shards: usize) {
    let mut server = TestServer::echo(Config { shards, ..Config::default() });
    let handle = server.handle.clone();
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    // Requests that have begun, so that their connections are not idle.
    let mut late = Vec::new();
    let websocket = "EIO=4&transport=websocket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for query in ["EIO=4&transport=polling HTTP/1.1\r\n", websocket] {
        for _ in 0..shards {
            let mut http = Http::connect(server.addr).await;
            http.send_raw(format!("GET /socket.io/?{query}").as_bytes()).await;
            late.push(http);
        }
    }
    server.settle().await;
    let requests = tokio::spawn(async move {
        assert_eq!(ws.closed().await.0, 1001, "the drain has begun");
        eventually("it is not accepting", || !handle.is_accepting()).await;
        // The drain of each shard begins with the same call as the first's.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for mut http in late {
            http.send_raw(b"\r\n").await;
            assert_eq!(http.response().await.expect("a response").parts(), COME_BACK);
            assert_eq!(http.response().await, None, "and then the connection ends");
        }
        handle.metrics().connections_opened
    });
    let (drained, took) = server.shut_down(GRACE).await;
    assert_eq!(drained, NOBODY);
    assert!(took < GRACE, "{took:?}");
    assert_eq!(requests.await.expect("no panic"), 1);
}

async fn an_idle_server_stops_at_once(shards: usize) {
    let mut server = TestServer::echo(Config { shards, ..Config::default() });
    assert_eq!(get(server.addr, "/").await.status, 404);
    drop(Ws::connected(server.addr).await);
    eventually("the client is gone", || server.metrics().connections == 0).await;
    let (drained, took) = server.shut_down(Duration::from_secs(60)).await;
    assert_eq!(drained, NOBODY);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

async fn connections_are_closed_over_time(shards: usize) {
    let mut server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(echo("/")));
    let mut clients = Vec::new();
    for _ in 0..30 {
        let (mut ws, _) = Ws::connected(server.addr).await;
        clients.push(tokio::spawn(async move {
            assert_eq!(ws.text().await, r#"42["auth",{}]"#);
            assert_eq!(ws.closed().await.0, 1001);
            std::time::Instant::now()
        }));
    }
    let grace = Duration::from_millis(1500);
    let (drained, took) = server.shut_down(grace).await;
    assert_eq!(drained, NOBODY);
    assert!(took < grace + Duration::from_millis(500), "{took:?}");
    let mut closed = Vec::new();
    for client in clients {
        closed.push(client.await.expect("no panic"));
    }
    let (first, last) = (closed.iter().min().expect("thirty"), closed.iter().max().expect("thirty"));
    // Thirty, one in each step of 20 ms; on three shards ten each.
    let spread = last.duration_since(*first);
    assert!(spread >= Duration::from_millis(20 * (30 / shards as u64 - 1) / 2), "{spread:?}");
}

async fn who_does_not_go_is_left_behind(shards: usize) {
    let mut server = TestServer::echo(Config { shards, ..Config::default() });
    let mut clients = Vec::new();
    for _ in 0..shards {
        // They never read, so they never see that they should go.
        clients.push(Ws::connected(server.addr).await);
    }
    let mut stuck = Http::connect(server.addr).await;
    stuck.send_raw(b"GET / HTTP/1.1\r\nHost: ").await;
    server.settle().await;
    let grace = Duration::from_millis(300);
    let (drained, took) = server.shut_down(grace).await;
    assert_eq!(drained.connections_left, shards + 1);
    assert!(took >= grace && took < grace + Duration::from_secs(1), "{took:?}");
}

async fn handlers_that_still_run_are_dropped_and_have_not_panicked(shards: usize) {
    let (recorder, mut seen) = recorder();
    let mut server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_async("forever", move |_, _| {
            let dropped = NoteDropped(recorder.clone());
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
            }
        }))
    });
    let handle = server.handle.clone();
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["forever"]"#).await;
    eventually("the handler runs", || server.metrics().events_received == 1).await;
    drop(ws);
    let (drained, took) = server.shut_down(GRACE).await;
    assert_eq!(drained, NOBODY);
    assert!(took < GRACE, "{took:?}");
    assert_eq!(seen.next().await, "dropped");
    assert_eq!(handle.metrics().handler_panics, 0);
}

struct NoteDropped(Recorder);

impl Drop for NoteDropped {
    fn drop(&mut self) {
        self.0.note("dropped");
    }
}
