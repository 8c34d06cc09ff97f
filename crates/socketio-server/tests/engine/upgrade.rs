//! From long-polling to WebSocket: nothing lost, nothing twice, and a failure leaves things as they were.

use std::{net::SocketAddr, time::Duration};

use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, DisconnectReason, Namespace};

use crate::{
    client::{Polling, Ws, masked, text_frames},
    harness::{TestServer, eventually},
};

on_one_and_three_shards!(
    a_session_upgrades,
    what_is_sent_together_with_the_change_over_is_handled,
    what_waits_during_an_upgrade_arrives_once_and_in_order,
    after_an_upgrade_requests_are_refused_and_disturb_nothing,
    a_probe_that_fails_leaves_the_session_polling,
    a_silent_probe_is_given_up,
    a_second_probe_is_closed_and_the_first_goes_on,
    a_session_that_ends_takes_its_probe_along,
);

/// Probes a session and stops before the change-over.
async fn probed(addr: SocketAddr, session: &Polling) -> Ws {
    let mut ws = Ws::probe(addr, &session.sid).await.expect("a WebSocket");
    ws.send("2probe").await;
    assert_eq!(ws.text().await, "3probe");
    ws
}

async fn a_session_upgrades(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for path in ["/engine.io/", "/socket.io/"] {
        let session = Polling::open_at(server.addr, path).await;
        let mut ws = Ws::probe_at(server.addr, path, &session.sid).await.expect("a WebSocket");
        assert_eq!(server.metrics().websockets, 0);
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        // A poll is not left waiting, so that the client can change over.
        assert_eq!(session.get().await.parts(), (200, "6"));
        ws.send("5").await;
        eventually("the session is a WebSocket", || server.metrics().websockets == 1).await;
        if path == "/engine.io/" {
            ws.send("4hello").await;
            assert_eq!(ws.text().await, "4hello");
        } else {
            ws.enter("/").await;
            assert_eq!(ws.text().await, r#"42["auth",{}]"#);
        }
        let metrics = server.metrics();
        assert_eq!((metrics.connections, metrics.connections_opened), (1, metrics.upgrades));
        drop(ws);
        eventually("its end", || server.metrics().connections == 0).await;
        session.expect_gone().await;
    }
    assert_eq!(server.metrics().upgrades_failed, 0);
}

async fn what_is_sent_together_with_the_change_over_is_handled(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut ws = probed(server.addr, &session).await;
    let bytes = text_frames(["5", "4one", "4two", "4three"]);
    // With half of the last message.
    let (most, rest) = bytes.split_at(bytes.len() - 4);
    ws.send_raw(most).await;
    assert_eq!(ws.text().await, "4one");
    assert_eq!(ws.text().await, "4two");
    ws.send_raw(rest).await;
    assert_eq!(ws.text().await, "4three");
}

/// A namespace that emits `n` numbered events for each `["emit",n]`.
fn counting() -> Namespace {
    Namespace::new("/").on_connect(|socket| socket.set_data(0_u32)).on("emit", |socket, event| {
        for _ in 0..event.parse(0).unwrap_or(1) {
            let number = socket.with_data(|next: &mut u32| std::mem::replace(next, *next + 1));
            socket.emit("number", &number.expect("data")).expect("a name");
        }
    })
}

async fn what_waits_during_an_upgrade_arrives_once_and_in_order(shards: usize) {
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(counting()));
    // The events leave at each moment of an upgrade in turn.
    for moment in 0..4 {
        let (mut session, _) = Polling::connected(server.addr).await;
        if moment == 0 {
            session.send(r#"42["emit",5]"#).await;
        }
        let mut ws = Ws::probe(server.addr, &session.sid).await.expect("a WebSocket");
        if moment == 1 {
            session.send(r#"42["emit",5]"#).await;
        }
        ws.send("2probe").await;
        assert_eq!(ws.text().await, "3probe");
        // Some of them go with a poll that was waiting, if there is one.
        let mut numbers = Vec::new();
        if moment % 2 == 0 {
            let poll = session.get().await;
            numbers.extend(poll.body.split('\x1e').filter(|packet| *packet != "6").map(str::to_owned));
        }
        if moment == 2 {
            session.send(r#"42["emit",5]"#).await;
        }
        ws.send("5").await;
        if moment == 3 {
            ws.send(r#"42["emit",5]"#).await;
        }
        // They need no further packet to push them out.
        while numbers.len() < 5 {
            numbers.push(ws.text().await);
        }
        ws.send(r#"42["emit",1]"#).await;
        numbers.push(ws.text().await);
        let expected: Vec<_> = (0..6).map(|number| format!(r#"42["number",{number}]"#)).collect();
        assert_eq!(numbers, expected, "moment {moment}");
        assert_eq!(session.take_inbox(), []);
    }
}

async fn after_an_upgrade_requests_are_refused_and_disturb_nothing(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut ws = probed(server.addr, &session).await;
    ws.send("5").await;
    ws.send("4hello").await;
    assert_eq!(ws.text().await, "4hello");
    for round in 0..3 {
        let bad_request = (400, r#"{"code":3,"message":"Bad request"}"#);
        assert_eq!(session.get().await.parts(), bad_request);
        assert_eq!(session.post("4from behind").await.parts(), bad_request);
        assert_eq!(session.post("1").await.parts(), bad_request);
        let mut second = Ws::probe_at(server.addr, "/engine.io/", &session.sid).await.expect("an answer");
        second.ended().await;
        let text = format!("4round {round}");
        ws.send(&text).await;
        assert_eq!(ws.text().await, text);
    }
    assert_eq!(server.metrics().connections, 1);
}

async fn a_probe_that_fails_leaves_the_session_polling(shards: usize) {
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(counting()));
    let (mut session, _) = Polling::connected(server.addr).await;
    let wrong: Vec<Vec<u8>> = vec![
        text_frames(["2"]),
        text_frames(["2hello"]),
        text_frames(["3probe"]),
        text_frames(["4hello"]),
        text_frames(["5"]),
        text_frames(["2probe", "2probe"]),
        text_frames(["2probe", "4hello"]),
        text_frames(["2probe", "1"]),
        text_frames([r#"42["emit",1]"#]),
        text_frames(["abc"]),
        masked(OpCode::Binary, b"2probe"),
        masked(OpCode::Ping, b""),
        masked(OpCode::Close, b""),
        masked(OpCode::Text, b"2probe\xff"),
        masked(OpCode::Text, &[b'2'; 2000]),
        b"\x81\x062probe".to_vec(),
        // Given up: before the probe, in the middle of it, and after it.
        Vec::new(),
        text_frames(["2probe"])[..5].to_vec(),
        text_frames(["2probe"]),
    ];
    let count = wrong.len() as u64;
    let mut number = 0;
    for (round, bytes) in wrong.into_iter().enumerate() {
        // One event waits already, one leaves while the probe is under way, and one after it.
        session.send(r#"42["emit"]"#).await;
        let mut ws = Ws::probe(server.addr, &session.sid).await.expect("a WebSocket");
        ws.send_raw(&bytes).await;
        session.send(r#"42["emit"]"#).await;
        if round < 16 {
            while !matches!(ws.recv().await, crate::client::Received::End(_) | crate::client::Received::Reset) {}
        }
        drop(ws);
        let failed = round as u64 + 1;
        eventually("the probe has failed", || server.metrics().upgrades_failed == failed).await;
        session.send(r#"42["emit"]"#).await;
        for _ in 0..3 {
            assert_eq!(session.text_but_noop().await, format!(r#"42["number",{number}]"#), "after {bytes:?}");
            number += 1;
        }
    }
    let metrics = server.metrics();
    assert_eq!((metrics.upgrades, metrics.upgrades_failed, metrics.connections), (0, count, 1));

    // And it can still upgrade.
    let mut ws = probed(server.addr, &session).await;
    ws.send("5").await;
    ws.send(r#"42["emit"]"#).await;
    assert_eq!(ws.text().await, format!(r#"42["number",{number}]"#));
}

async fn a_silent_probe_is_given_up(shards: usize) {
    let config = Config { shards, upgrade_timeout: Duration::from_millis(150), ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(counting()));
    let (mut session, _) = Polling::connected(server.addr).await;
    // One that never says anything, and one that never changes over.
    let mut silent = Ws::probe(server.addr, &session.sid).await.expect("a WebSocket");
    silent.ended().await;
    let mut half = probed(server.addr, &session).await;
    half.ended().await;
    eventually("both have failed", || server.metrics().upgrades_failed == 2).await;
    session.send(r#"42["emit"]"#).await;
    assert_eq!(session.text_but_noop().await, r#"42["number",0]"#);
    // A waiting poll waits for events again, not for the end of an upgrade.
    let poll = session.begin_poll().await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    session.send(r#"42["emit"]"#).await;
    assert_eq!(poll.response().await.body, r#"42["number",1]"#);
    let mut ws = probed(server.addr, &session).await;
    ws.send("5").await;
    ws.send(r#"42["emit"]"#).await;
    assert_eq!(ws.text().await, r#"42["number",2]"#);
    // What took over is not bound by the probe's time.
    tokio::time::sleep(Duration::from_millis(250)).await;
    ws.send(r#"42["emit"]"#).await;
    assert_eq!(ws.text().await, r#"42["number",3]"#);
}

async fn a_second_probe_is_closed_and_the_first_goes_on(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut first = probed(server.addr, &session).await;
    let mut second = Ws::probe(server.addr, &session.sid).await.expect("an answer");
    second.ended().await;
    assert_eq!(server.metrics().upgrades_failed, 0);
    first.send("5").await;
    first.send("4hello").await;
    assert_eq!(first.text().await, "4hello");
    assert_eq!(server.metrics().upgrades, 1);
}

async fn a_session_that_ends_takes_its_probe_along(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for sent in [&[][..], &["2probe"]] {
        let session = Polling::open_at(server.addr, "/engine.io/").await;
        let mut ws = Ws::probe(server.addr, &session.sid).await.expect("a WebSocket");
        for text in sent {
            ws.send(text).await;
            assert_eq!(ws.text().await, "3probe");
        }
        session.send("1").await;
        ws.ended().await;
    }
    // It may say so at the very last moment, too.
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut ws = probed(server.addr, &session).await;
    session.send("1").await;
    let _ = ws.writer.try_send_raw(&text_frames(["5", "4hello"])).await;
    ws.ended().await;
    server.all_ended(DisconnectReason::TransportClose).await;
    assert_eq!(server.metrics().upgrades, 0);
}

/// A stream of events, and a client that starts to upgrade and gives up over and over, until it goes through with it.
#[tokio::test]
async fn a_stream_of_events_survives_any_number_of_upgrades() {
    let server = TestServer::start(Config { shards: 3, ..Config::default() }, |server| server.namespace(counting()));
    let (mut session, id) = Polling::connected(server.addr).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let handle = server.handle.clone();
    let publisher = tokio::spawn(async move {
        let mut sent = 0_u32;
        while stopped.try_recv().is_err() {
            let delivered = handle.to("/", &id).emit("number", &sent).expect("a name").await;
            assert_eq!(delivered, 1);
            sent += 1;
            tokio::task::yield_now().await;
        }
        sent
    });
    let mut received = Vec::new();
    for round in 0..30 {
        let mut ws = Ws::probe(server.addr, &session.sid).await.expect("a WebSocket");
        if round % 2 == 0 {
            ws.send("2probe").await;
            assert_eq!(ws.text().await, "3probe");
        }
        received.push(session.text_but_noop().await);
        drop(ws);
        eventually("the probe has failed", || server.metrics().upgrades_failed == round + 1).await;
    }
    let mut ws = probed(server.addr, &session).await;
    ws.send("5").await;
    for packet in session.take_inbox() {
        match packet {
            crate::client::Packet::Text(text) if text != "6" => received.push(text),
            _ => {}
        }
    }
    for _ in 0..100 {
        received.push(ws.text().await);
    }
    stop.send(()).expect("the publisher runs");
    let sent = publisher.await.expect("no panic") as usize;
    while received.len() < sent {
        received.push(ws.text().await);
    }
    let expected: Vec<_> = (0..sent).map(|number| format!(r#"42["number",{number}]"#)).collect();
    let difference = received.iter().zip(&expected).position(|(received, expected)| received != expected);
    assert_eq!((difference, received.len()), (None, sent));
}

#[tokio::test]
async fn an_event_in_parts_may_change_transports_half_way() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let (mut session, _) = Polling::connected(server.addr).await;
    assert_eq!(session.text().await, r#"42["auth",{}]"#);
    session.send(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    let mut ws = probed(server.addr, &session).await;
    ws.send("5").await;
    ws.send_binary(&[1, 2, 3]).await;
    assert_eq!(ws.text().await, r#"451-["message-back",{"_placeholder":true,"num":0}]"#);
    assert_eq!(ws.binary().await, [1, 2, 3]);
}

/// Many sessions at once, so that those that meet on one shard get in each other's way if they can.
#[tokio::test]
async fn many_sessions_upgrade_at_once() {
    let server = TestServer::echo(Config { shards: 3, ..Config::default() });
    let addr = server.addr;
    let clients: Vec<_> = (0..40)
        .map(|number| {
            tokio::spawn(async move {
                let mut session = Polling::open_at(addr, "/engine.io/").await;
                session.send(format!("4before {number}")).await;
                assert_eq!(session.text().await, format!("4before {number}"));
                let mut ws = probed(addr, &session).await;
                ws.send("5").await;
                ws.send(&format!("4after {number}")).await;
                assert_eq!(ws.text().await, format!("4after {number}"));
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    assert_eq!(server.metrics().upgrades, 40);
}
