//! Long-polling: payloads, polls and posts that a client should not make, limits.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use socketio_server::{Config, DisconnectReason, Namespace};
use tokio::sync::Semaphore;

use crate::{
    client::{CLOSED, Http, Packet, Polling},
    harness::{DEADLINE, EVENT_BYTES, TestServer, eventually, recorder, within},
};

on_one_and_three_shards!(
    packets_come_back,
    a_waiting_poll_is_answered_by_what_a_post_causes,
    one_http_connection_carries_a_session,
    malformed_payloads_end_the_session,
    a_second_poll_ends_the_session,
    a_cancelled_poll_ends_the_session,
    the_client_closes,
    a_payload_may_be_as_large_as_allowed,
    a_response_is_bounded_and_the_next_has_the_rest,
    a_post_is_answered_when_its_events_are_handled,
    a_post_before_the_last_is_answered_ends_the_session,
    a_body_waits_until_its_client_takes_what_it_causes,
    a_slow_body_is_given_up,
);

const BAD_REQUEST: (u16, &str) = (400, r#"{"code":3,"message":"Bad request"}"#);

async fn packets_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    for payload in [
        "4hello",
        "4test1\x1e4test2\x1e4test3",
        "4hello\x1ebAQIDBA==",
        "bAQIDBA==\x1e4\x1eb\x1e4\u{20ac}\u{1d11e}",
        "4{\"a\":\"\\u001e\"}",
    ] {
        session.send(payload).await;
        let response = session.get().await;
        assert_eq!(response.parts(), (200, payload));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=UTF-8"));
    }
    // Without padding, as some clients send it.
    session.send("bAQIDBA").await;
    assert_eq!(session.get().await.body, "bAQIDBA==");
}

async fn a_waiting_poll_is_answered_by_what_a_post_causes(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    for round in 0..10 {
        let poll = session.begin_poll().await;
        let packet = format!("4round {round}");
        session.send(&packet).await;
        assert_eq!(poll.response().await.body, packet);
    }
}

async fn one_http_connection_carries_a_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let (mut gets, mut posts) = (Http::connect(server.addr).await, Http::connect(server.addr).await);
    for round in 0..20 {
        let packet = format!("4{round}");
        assert_eq!(posts.request("POST", &session.target(), &[], packet.as_bytes()).await.body, "ok");
        assert_eq!(gets.request("GET", &session.target(), &[], b"").await.body, packet);
    }
}

async fn malformed_payloads_end_the_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let bystander = Polling::open_at(server.addr, "/engine.io/").await;
    let payloads: [&[u8]; 14] = [
        b"abc",
        b"",
        b"\x1e",
        b"4a\x1e",
        b"\x1e4a",
        b"4a\x1e\x1e4b",
        b"b====",
        b"b!",
        b"7",
        b"0",
        b"2",
        b"1x",
        b"4\xff\xfe",
        b"\xf0\x9f",
    ];
    for payload in payloads {
        let session = Polling::open_at(server.addr, "/engine.io/").await;
        let poll = session.begin_poll().await;
        server.settle().await;
        assert_eq!(session.post(payload).await.parts(), BAD_REQUEST, "{payload:?}");
        // What came before the fault is answered; then the session closes.
        let last = poll.response().await;
        assert!(matches!(last.parts(), (200, "1" | "4a")), "{payload:?}: {last:?}");
        session.expect_gone().await;
    }
    assert_eq!(server.ended(DisconnectReason::ParseError), payloads.len() as u64);
    bystander.send("4still here").await;
    assert_eq!(bystander.get().await.body, "4still here");
}

async fn a_second_poll_ends_the_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for _ in 0..5 {
        let session = Polling::open_at(server.addr, "/engine.io/").await;
        let (first, second) = (session.begin_poll().await, session.begin_poll().await);
        // They go over connections of their own, so either may come first.
        let (first, second) = tokio::join!(first.response(), second.response());
        let mut answers = [first.parts(), second.parts()];
        answers.sort();
        assert_eq!(answers, [(200, "1"), BAD_REQUEST]);
        session.expect_gone().await;
    }
    server.all_ended(DisconnectReason::OverlappingRequests).await;
}

async fn a_cancelled_poll_ends_the_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let poll = session.begin_poll().await;
    server.settle().await;
    drop(poll);
    server.all_ended(DisconnectReason::TransportError).await;
    session.expect_gone().await;
}

/// A client that goes away at the very moment its poll is answered, on another shard than the session's: the packets
/// are lost, and a session that lost packets must not live on as if nothing had been.
#[tokio::test]
async fn a_poll_cancelled_while_it_is_answered_ends_the_session() {
    let config = Config { shards: 3, outbox_hard_limit: 64 * 1024, ..Config::default() };
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    // Connections go to the shards in turn: the session is on shard 0, its poll comes in on shard 1.
    let mut first = Http::connect(server.addr).await;
    let open = first.request("GET", "/socket.io/?EIO=4&transport=polling", &[], b"").await;
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={}", &open.body[9..29]);
    assert_eq!(URL_SAFE_NO_PAD.decode(&open.body[9..29]).expect("a session id").last(), Some(&0));
    let mut poll = Http::connect(server.addr).await;
    let _other_shards = (Http::connect(server.addr).await, Http::connect(server.addr).await);
    let mut clock = Http::connect(server.addr).await;
    first.request("POST", &target, &[], b"40").await;
    first.request("GET", &target, &[], b"").await;

    poll.send("GET", &target, &[], b"").await;
    clock.request("GET", "/tick", &[], b"").await;
    let (cancelled, is_cancelled) = mpsc::channel::<()>();
    let (blocked, is_blocked) = tokio::sync::oneshot::channel();
    server.handle.for_each("/", {
        let (once, blocked) = (std::sync::Mutex::new(Some(is_cancelled)), std::sync::Mutex::new(Some(blocked)));
        move |socket| {
            blocked.lock().expect("no panic").take().map(|blocked| blocked.send(()));
            let is_cancelled = once.lock().expect("no panic").take().expect("one socket");
            is_cancelled.recv_timeout(DEADLINE).expect("the test goes on");
            // More than may wait, so that it is written at once and the poll is answered before anyone hears of its end.
            socket.emit("large", &"x".repeat(65 * 1024)).expect("a name");
        }
    });
    within("the shard to be busy", is_blocked).await.expect("the shard is busy");
    drop(poll);
    for _ in 0..5 {
        // Shard 1 reads events in the order they came, so by now it knows that the poll is gone.
        clock.request("GET", "/tick", &[], b"").await;
    }
    cancelled.send(()).expect("the shard waits");
    eventually("the session ends", || server.metrics().connections == 0).await;
    assert_eq!(seen.next().await, "transport error");
}

async fn the_client_closes(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    let poll = session.begin_poll().await;
    session.send("1").await;
    assert_eq!(poll.response().await.parts(), (200, "6"));
    session.expect_gone().await;
    server.all_ended(DisconnectReason::TransportClose).await;

    // The poll may as well come after.
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    session.send("1").await;
    assert_eq!(session.get().await.parts(), (200, "6"));
    session.expect_gone().await;
}

async fn a_payload_may_be_as_large_as_allowed(shards: usize) {
    const TOO_LARGE: (u16, &str) = (413, r#"{"code":3,"message":"Payload too large"}"#);
    let server = TestServer::echo(Config { shards, max_payload: 1000, ..Config::default() });
    let mut session = Polling::open_at(server.addr, "/engine.io/").await;
    let largest = format!("4{}", "x".repeat(999));
    session.send(&largest).await;
    assert_eq!(session.text().await, largest);

    let poll = session.begin_poll().await;
    server.settle().await;
    assert_eq!(session.post(format!("{largest}x")).await.parts(), TOO_LARGE);
    assert_eq!(poll.response().await.parts(), CLOSED);
    session.expect_gone().await;
    server.all_ended(DisconnectReason::PayloadTooLarge).await;

    // The same when the length isn't announced.
    let session = Polling::open_at(server.addr, "/engine.io/").await;
    for (body, expected) in [(&largest, (200, "ok")), (&format!("{largest}x"), TOO_LARGE)] {
        let mut http = Http::connect(server.addr).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            session.target(),
            body.len()
        );
        http.send_raw(head.as_bytes()).await;
        assert_eq!(http.response().await.expect("a response").parts(), expected);
    }
    session.expect_gone().await;
}

async fn a_response_is_bounded_and_the_next_has_the_rest(shards: usize) {
    let config = Config { shards, outbox_hard_limit: 8 << 20, outbox_soft_limit: 8 << 20, ..Config::default() };
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on("fill", |socket, _| {
            for number in 0..30 {
                socket.emit("part", &(number, "x".repeat(100 * 1024))).expect("a name");
            }
        }))
    });
    let (session, _) = Polling::connected(server.addr).await;
    session.send(r#"42["fill"]"#).await;
    let (mut numbers, mut responses) = (Vec::new(), 0);
    while numbers.len() < 30 {
        let body = session.get().await.body;
        assert!(body.len() <= 1024 * 1024, "{}", body.len());
        responses += 1;
        for packet in body.split('\x1e') {
            let (_, (number, _)): (&str, (u32, String)) = serde_json::from_str(&packet[2..]).expect("an event");
            numbers.push(number);
        }
    }
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
    assert_eq!(responses, 3);
}

/// A namespace whose asynchronous handler waits for the test, with a note of each event.
fn gated(gate: &Arc<Semaphore>, recorder: crate::harness::Recorder) -> Namespace {
    let gate = gate.clone();
    Namespace::new("/").on_async("wait", move |_, event| {
        let (gate, recorder) = (gate.clone(), recorder.clone());
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            recorder.note(event.arg(0).map_or("", |arg| arg.get()));
        }
    })
}

async fn a_post_is_answered_when_its_events_are_handled(shards: usize) {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let config = Config { shards, handler_backlog: 3 * EVENT_BYTES, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(gated(&gate, recorder)));
    let (session, _) = Polling::connected(server.addr).await;

    // One runs and two wait: there is room for more.
    session.send("42[\"wait\",0]\x1e42[\"wait\",1]\x1e42[\"wait\",2]").await;
    // One more fills the backlog, and the next post has to wait.
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &session.target(), &[], br#"42["wait",3]"#).await;
    eventually("reading is paused", || server.metrics().reads_paused == 1).await;
    gate.add_permits(1);
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
    assert_eq!(seen.next().await, "0");
    gate.add_permits(3);
    for number in 1..4 {
        assert_eq!(seen.next().await, number.to_string());
    }
}

async fn a_post_before_the_last_is_answered_ends_the_session(shards: usize) {
    let (gate, (recorder, _seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let config = Config { shards, handler_backlog: EVENT_BYTES, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(gated(&gate, recorder)));
    let (session, _) = Polling::connected(server.addr).await;
    let poll = session.begin_poll().await;
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &session.target(), &[], b"42[\"wait\",0]\x1e42[\"wait\",1]").await;
    eventually("reading is paused", || server.metrics().reads_paused == 1).await;
    assert_eq!(session.post(r#"42["wait",2]"#).await.parts(), BAD_REQUEST);
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
    assert_eq!(poll.response().await.parts(), (200, "1"));
    session.expect_gone().await;
    server.all_ended(DisconnectReason::OverlappingRequests).await;
    gate.add_permits(10);
}

/// What one body causes is far more than may wait for the client.
async fn a_body_waits_until_its_client_takes_what_it_causes(shards: usize) {
    let limits = Config { outbox_soft_limit: 32 * 1024, outbox_hard_limit: 64 * 1024, ..Config::default() };
    let server = TestServer::start(Config { shards, ..limits }, |server| {
        server.namespace(Namespace::new("/").on("ask", |_, event| {
            let number: u32 = event.parse(0).expect("a number");
            event.ack(&(number, "x".repeat(1_000)));
        }))
    });
    let (mut session, _) = Polling::connected(server.addr).await;
    let body: Vec<String> = (0..500).map(|number| format!(r#"42{number}["ask",{number}]"#)).collect();
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &session.target(), &[], body.join("\x1e").as_bytes()).await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    assert!(server.metrics().events_received < 100);
    for number in 0..500 {
        let answer = session.text().await;
        assert!(answer.starts_with(&format!("43{number}[[{number},")), "{number}: {}", &answer[..20]);
    }
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
}

async fn a_slow_body_is_given_up(shards: usize) {
    let config = Config { shards, body_timeout: Duration::from_millis(200), ..Config::default() };
    let server = TestServer::echo(config);
    let mut session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut http = Http::connect(server.addr).await;
    let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n4hel", session.target());
    http.send_raw(head.as_bytes()).await;
    let response = http.response().await.expect("a response");
    assert_eq!(response.parts(), (408, r#"{"code":3,"message":"Request timeout"}"#));
    assert_eq!(http.response().await, None, "the rest of the body can't be told from a request");
    // Nothing of it was handled, and the session goes on.
    session.send("4whole").await;
    assert_eq!(session.packet().await, Packet::Text("4whole".to_owned()));
}

/// Its pings wait unread like everything else, and no poll means no pong.
#[tokio::test]
async fn a_client_that_no_longer_polls_ends_even_if_much_waits_for_it() {
    let config = Config {
        shards: 1,
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(100),
        outbox_soft_limit: 1000,
        ..Config::default()
    };
    let server = TestServer::start(config, |server| {
        server.namespace(
            Namespace::new("/").on("fill", |socket, _| socket.emit("large", &"x".repeat(2000)).expect("a name")),
        )
    });
    let session = Polling::open(server.addr).await;
    session.send("40").await;
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &session.target(), &[], br#"42["fill"]"#).await;
    eventually("reading is paused", || server.metrics().reads_paused == 1).await;
    server.all_ended(DisconnectReason::PingTimeout).await;
    session.expect_gone().await;
}

/// The client has to read "41" before it hears of any trouble, or it takes the end for an accident and comes back.
#[tokio::test]
async fn a_post_that_ends_its_connection_is_answered_like_any_other() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on("bye", |socket, _| socket.close_connection()))
    });
    for poll_first in [true, false] {
        let (session, _) = Polling::connected(server.addr).await;
        let poll = if poll_first { Some(session.begin_poll().await) } else { None };
        assert_eq!(session.post(r#"42["bye"]"#).await.parts(), (200, "ok"));
        let mut packets = match poll {
            Some(poll) => poll.response().await.body,
            None => session.get().await.body,
        };
        if packets == "41" {
            packets = format!("41\x1e{}", session.get().await.body);
        }
        assert_eq!(packets, "41\x1e1");
        session.expect_gone().await;
    }
    assert_eq!(server.ended(DisconnectReason::ServerNamespace), 2);
}

/// The stock client closes as soon as it reads "1", and has not told its application by then what came with it.
#[tokio::test]
async fn a_close_comes_after_all_events() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on("bye", |socket, event| {
            for number in 1..event.parse(0).expect("a number") {
                socket.emit("said", &number).expect("a name");
            }
            event.ack(&"bye");
            socket.close_connection();
        }))
    });
    for (packets, payloads) in [(2, vec![3]), (40, vec![16, 16, 9])] {
        for poll_first in [true, false] {
            let (session, _) = Polling::connected(server.addr).await;
            let poll = if poll_first { Some(session.begin_poll().await) } else { None };
            server.settle().await;
            session.send(format!(r#"420["bye",{packets}]"#)).await;
            let mut answers = match poll {
                Some(poll) => vec![poll.response().await.body],
                None => Vec::new(),
            };
            while answers.last().is_none_or(|last| last != "1") {
                let answer = session.get().await;
                assert_eq!(answer.status, 200, "after {answers:?}");
                answers.push(answer.body);
            }
            answers.pop();
            session.expect_gone().await;
            let said = (1..packets).map(|number| format!(r#"42["said",{number}]"#));
            let expected: Vec<String> = said.chain([r#"430["bye"]"#.to_owned(), "41".to_owned()]).collect();
            assert_eq!(answers.iter().map(|answer| answer.split('\x1e').count()).collect::<Vec<_>>(), payloads);
            assert_eq!(answers.join("\x1e"), expected.join("\x1e"));
        }
    }
}

#[tokio::test]
async fn sessions_are_told_apart() {
    let server = TestServer::echo(Config { shards: 3, ..Config::default() });
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(Polling::open_at(server.addr, "/engine.io/").await);
    }
    for (number, session) in sessions.iter().enumerate() {
        session.send(format!("4{number}")).await;
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        assert_eq!(session.text().await, format!("4{number}"));
        assert_eq!(session.take_inbox(), []);
    }
}

#[tokio::test]
async fn binary_and_text_keep_their_order() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let (mut session, _) = Polling::connected(server.addr).await;
    assert_eq!(session.text().await, r#"42["auth",{}]"#);
    let event = r#"451-["message",{"_placeholder":true,"num":0}]"#;
    session.send(format!("{event}\x1ebAQID\x1e42[\"message\",1]")).await;
    let back = r#"451-["message-back",{"_placeholder":true,"num":0}]"#;
    assert_eq!(session.get().await.body, format!("{back}\x1ebAQID\x1e42[\"message-back\",1]"));
}
