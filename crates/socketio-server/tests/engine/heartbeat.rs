//! Heartbeats, and connections that never become one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use socketio_server::{Config, DisconnectReason};
use tokio::sync::Semaphore;

use crate::{
    client::{CLOSED, Client, Polling, Via, Ws},
    harness::{EVENT_BYTES, TestServer, echo, eventually},
};

on_one_and_three_shards!(
    pings_come_and_pongs_keep_the_session,
    without_a_pong_the_session_ends,
    heartbeats_go_on_while_a_client_is_not_read,
    a_client_does_not_ping,
    no_namespace_in_time_ends_the_connection,
);

const INTERVAL: Duration = Duration::from_millis(120);

fn quick(shards: usize) -> Config {
    Config { shards, ping_interval: INTERVAL, ping_timeout: Duration::from_millis(80), ..Config::default() }
}

async fn pings_come_and_pongs_keep_the_session(shards: usize) {
    // The timeout is large here: a slow machine is not what this is about.
    let config = Config { ping_timeout: Duration::from_secs(5), ..quick(shards) };
    let server = TestServer::echo(config);
    for path in ["/engine.io/", "/socket.io/"] {
        let mut ws = Ws::open_at(server.addr, path).await;
        if path == "/socket.io/" {
            ws.enter("/").await;
            assert_eq!(ws.text().await, r#"42["auth",{}]"#);
        }
        let mut session = Polling::open_at(server.addr, "/engine.io/").await;
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(ws.text().await, "2");
            assert_eq!(session.text().await, "2");
            assert!(began.elapsed() < Duration::from_secs(2));
            ws.send("3").await;
            session.send("3").await;
        }
    }
}

async fn without_a_pong_the_session_ends(shards: usize) {
    let server = TestServer::echo(quick(shards));
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    assert_eq!(session.get().await.body, "2");
    let poll = session.begin_poll().await;
    assert_eq!(ws.text().await, "2");
    // Anything else is no pong.
    ws.send("4hello").await;
    assert_eq!(ws.text().await, "4hello");
    assert_eq!(ws.closed().await, (1000, "ping timeout".to_owned()));
    assert_eq!(poll.response().await.parts(), CLOSED);
    session.expect_gone().await;

    // A session that is not even polled.
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    server.all_ended(DisconnectReason::PingTimeout).await;
    session.expect_gone().await;
    assert_eq!(server.ended(DisconnectReason::PingTimeout), 3);
}

/// It answers each, which is not read either.
async fn heartbeats_go_on_while_a_client_is_not_read(shards: usize) {
    let gate = Arc::new(Semaphore::new(0));
    let config = Config { handler_backlog: EVENT_BYTES, ..quick(shards) };
    let server = TestServer::start(config, |server| {
        let gate = gate.clone();
        server.namespace(echo("/").on_async("wait", move |_, _| {
            let gate = gate.clone();
            async move { gate.acquire().await.expect("the gate stays").forget() }
        }))
    });
    let mut ws = Ws::open(server.addr).await;
    ws.enter("/").await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    for _ in 0..3 {
        ws.send(r#"42["wait"]"#).await;
    }
    eventually("it is not read", || server.metrics().reads_paused > 0).await;
    for _ in 0..5 {
        assert_eq!(ws.text().await, "2");
        ws.send("3").await;
    }
    gate.add_permits(3);
    // It is read again, and its later answers count.
    for _ in 0..5 {
        assert_eq!(ws.text().await, "2");
        ws.send("3").await;
    }
    ws.send(r#"42["message",1]"#).await;
    while ws.text().await != r#"42["message-back",1]"# {}
    drop(ws);
    eventually("it is gone", || server.metrics().connections == 0).await;
}

async fn a_client_does_not_ping(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        for ping in ["2", "2probe"] {
            let mut client = Client::connected(server.addr, via).await;
            assert_eq!(client.text().await, r#"42["auth",{}]"#);
            client.send_and_be_closed(ping).await;
        }
    }
}

async fn no_namespace_in_time_ends_the_connection(shards: usize) {
    let timeout = Duration::from_millis(150);
    let server = TestServer::echo(Config { shards, connect_timeout: timeout, ..Config::default() });
    let began = Instant::now();
    let mut raw = Ws::open_at(server.addr, "/engine.io/").await;
    let (mut connected, _) = Ws::connected(server.addr).await;
    assert_eq!(connected.text().await, r#"42["auth",{}]"#);
    let mut ws = Ws::open(server.addr).await;
    let session = Polling::open(server.addr).await;
    // A refusal is no connection.
    ws.send("40/random").await;
    assert_eq!(ws.text().await, r#"44/random,{"message":"Invalid namespace"}"#);
    let poll = session.begin_poll().await;
    assert_eq!(ws.closed().await, (1000, "connect timeout".to_owned()));
    assert_eq!(poll.response().await.parts(), CLOSED);
    session.expect_gone().await;
    assert!(began.elapsed() >= timeout);
    assert_eq!(server.ended(DisconnectReason::ConnectTimeout), 2);

    // Who did connect may leave the namespace and stay; Engine.IO alone has none.
    connected.send("41").await;
    raw.send("4hello").await;
    assert_eq!(raw.text().await, "4hello");
    tokio::time::sleep(timeout).await;
    connected.enter("/").await;
    assert_eq!(connected.text().await, r#"42["auth",{}]"#);
}

#[tokio::test]
async fn pongs_are_what_keeps_a_session_for_many_intervals() {
    let config = Config { shards: 1, ping_interval: Duration::from_millis(60), ..Config::default() };
    let config = Config { ping_timeout: Duration::from_millis(400), ..config };
    let server = TestServer::echo(config);
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let began = Instant::now();
    let mut pings = 0;
    // Twice as long as a session without a pong lives.
    while began.elapsed() < Duration::from_millis(920) {
        assert_eq!(ws.text().await, "2");
        ws.send("3").await;
        pings += 1;
    }
    assert!((2..=20).contains(&pings), "{pings} pings in {:?}", began.elapsed());
}

#[tokio::test]
async fn pongs_that_nobody_asked_for_change_nothing() {
    let server = TestServer::echo(quick(1));
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    for _ in 0..50 {
        ws.send("3").await;
    }
    assert_eq!(ws.text().await, "2");
    assert_eq!(ws.closed().await, (1000, "ping timeout".to_owned()));
}

#[tokio::test]
async fn pings_of_a_fleet_are_spread_over_a_fifth_of_the_interval() {
    let interval = Duration::from_millis(500);
    let server = TestServer::echo(Config { shards: 1, ping_interval: interval, ..Config::default() });
    let mut fleet = Vec::new();
    for _ in 0..30 {
        let ask = Ws::open_at(server.addr, "/engine.io/");
        let began = Instant::now();
        let mut ws = ask.await;
        fleet.push(tokio::spawn(async move {
            assert_eq!(ws.text().await, "2");
            began.elapsed()
        }));
    }
    let mut after = Vec::new();
    for ping in fleet {
        after.push(ping.await.expect("no panic"));
    }
    let (first, last) = (after.iter().min().expect("thirty"), after.iter().max().expect("thirty"));
    // Without jitter none would come before its time.
    assert!(*first >= interval.mul_f64(0.8) && *first < interval, "{after:?}");
    // Thirty at random over 100 ms all within 20 ms of each other: less than once in 10^19 runs.
    assert!(*last - *first >= Duration::from_millis(20), "{after:?}");
}

#[tokio::test]
async fn a_ping_over_polling_may_be_answered_over_websocket() {
    let config = Config { shards: 3, ping_timeout: Duration::from_secs(1), ..quick(1) };
    let server = TestServer::echo(config);
    let mut session = Polling::open_at(server.addr, "/engine.io/").await;
    assert_eq!(session.text().await, "2");
    let mut ws = Ws::probe_at(server.addr, "/engine.io/", &session.sid).await.expect("a WebSocket");
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws.send("5").await;
    ws.send("3").await;
    assert_eq!(ws.text().await, "2", "the next heartbeat");
    assert_eq!(ws.closed().await, (1000, "ping timeout".to_owned()));
}
