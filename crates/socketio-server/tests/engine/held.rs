//! What is held for clients: of messages, of what waits for them, and of rooms; for all, and for those of one address.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use socketio_protocol::websocket::OpCode;
use socketio_server::{
    Config, DisconnectReason, Limit, Namespace, OwnedEvent, Recovery, RecoveryFailure, Socket, TrustedProxies,
};
use tokio::sync::Semaphore;

use crate::{
    client::{Ask, Http, Polling, Ws, masked},
    harness::{TestServer, eventually},
};

fn one_shard() -> Config {
    Config { shards: 1, ..Config::default() }
}

fn met(server: &TestServer, limit: Limit) -> u64 {
    server.metrics().limits.iter().find(|(known, _)| *known == limit).map_or(0, |(_, count)| *count)
}

/// A client of another address.
async fn stranger(server: &TestServer) -> Ws {
    let ask = Ask { from: Some("127.0.0.2"), ..Ask::default() };
    let mut other = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    assert!(other.text().await.starts_with("0{"));
    other.send("40").await;
    assert!(other.text().await.starts_with("40{"));
    other
}

#[tokio::test]
async fn large_unfinished_messages_share_what_there_is() {
    // The clients of a proxy have no address, and no share of their own.
    let trusted_proxies = TrustedProxies::new(TrustedProxies::network("127.0.0.1"));
    let server = TestServer::echo(Config { max_unfinished_bytes: 1_000_000, trusted_proxies, ..one_shard() });
    let mut small = Ws::open_at(server.addr, "/engine.io/").await;
    let half = |length: usize| {
        let frame = masked(OpCode::Text, &[&b"4"[..], &b"x".repeat(length)].concat());
        frame[..frame.len() / 2].to_vec()
    };
    small.send_raw(&half(1000)).await;
    let mut large = Vec::new();
    for _ in 0..5 {
        let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
        let _ = ws.writer.try_send_raw(&half(600_000)).await;
        large.push(ws);
    }
    server.settle().await;
    eventually("some are closed", || server.ended(DisconnectReason::UnfinishedBytes) > 0).await;
    eventually("the rest fit", || server.metrics().unfinished_bytes < 1_000_000).await;
    assert!(server.metrics().connections >= 2);
    let whole = masked(OpCode::Text, &[&b"4"[..], &b"x".repeat(1000)].concat());
    small.send_raw(&whole[whole.len() / 2..]).await;
    assert_eq!(small.text().await.len(), 1001);
    drop(large);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

/// One address holds no more than its share, and others have theirs.
#[tokio::test]
async fn an_address_has_a_share_of_unfinished_bytes() {
    let server = TestServer::echo(Config { max_unfinished_bytes: 8_000_000, ..one_shard() });
    let half = |bytes: usize| {
        let frame = masked(OpCode::Text, &[&b"4"[..], &b"x".repeat(bytes)].concat());
        (frame[..frame.len() / 2].to_vec(), frame[frame.len() / 2..].to_vec())
    };
    let (begun, rest) = half(900_000);
    let mut large = Vec::new();
    for _ in 0..8 {
        let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
        let _ = ws.writer.try_send_raw(&begun).await;
        large.push(ws);
    }
    eventually("some are closed", || server.ended(DisconnectReason::UnfinishedBytes) > 0).await;
    eventually("the rest fit", || server.metrics().unfinished_bytes <= 2_000_000).await;
    assert!(met(&server, Limit::UnfinishedBytesPerAddress) > 0);
    assert_eq!(met(&server, Limit::UnfinishedBytes), 0);
    let ask = Ask { from: Some("127.0.0.2"), ..Ask::default() };
    let mut other = Ws::ask(server.addr, "/engine.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    assert!(other.text().await.starts_with("0{"));
    other.send_raw(&begun).await;
    other.send_raw(&rest).await;
    assert_eq!(other.text().await.len(), 900_001);
    drop(large);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

/// Handlers have them until they are done, also when their client is gone.
#[tokio::test]
async fn events_that_wait_for_handlers_are_counted() {
    let gate = Arc::new(Semaphore::new(0));
    let config = Config { max_unfinished_bytes: 16_000_000, handler_backlog: 2_000_000, ..one_shard() };
    let server = TestServer::start(config, |server| {
        let gate = gate.clone();
        let wait = move |_: Socket, _: OwnedEvent| {
            let gate = gate.clone();
            async move { gate.acquire().await.expect("the gate stays").forget() }
        };
        server.namespace(Namespace::new("/").on_async("wait", wait).on_refused(|_, event| event.ack(&"too many")))
    });
    let event = format!(r#"42["wait","{}"]"#, "x".repeat(900_000));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut ws = Ws::connected(server.addr).await.0;
        ws.send(&event).await;
        clients.push(ws);
    }
    eventually("handlers have three", || server.metrics().events_received == 3).await;
    assert!(server.metrics().unfinished_bytes >= 2_700_000);
    let mut refused = Ws::connected(server.addr).await.0;
    refused.send(&event.replacen("42", "427", 1)).await;
    assert_eq!(refused.text().await, r#"437["too many"]"#);
    let ask = Ask { from: Some("127.0.0.2"), ..Ask::default() };
    let mut other = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    assert!(other.text().await.starts_with("0{"));
    other.enter("/").await;
    other.send(&event).await;
    eventually("another address has a share of its own", || server.metrics().events_received == 5).await;
    server.settle().await;
    drop((clients, refused, other));
    eventually("they are gone", || server.metrics().connections == 0).await;
    assert!(server.metrics().unfinished_bytes >= 3_600_000);
    gate.add_permits(4);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

/// However small they are.
#[tokio::test]
async fn small_events_that_wait_for_handlers_are_counted() {
    const EVENTS: usize = 40;
    let gate = Arc::new(Semaphore::new(0));
    let server = TestServer::start(one_shard(), |server| {
        let gate = gate.clone();
        let wait = move |_: Socket, _: OwnedEvent| {
            let gate = gate.clone();
            async move { gate.acquire().await.expect("the gate stays").forget() }
        };
        server.namespace(Namespace::new("/").on_async("wait", wait))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    for _ in 0..EVENTS {
        ws.send(r#"42["wait"]"#).await;
    }
    eventually("they wait", || server.metrics().events_received == EVENTS as u64).await;
    server.settle().await;
    assert!(server.metrics().unfinished_bytes >= 200 * EVENTS as u64, "{}", server.metrics().unfinished_bytes);
    gate.add_permits(EVENTS);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

/// A session is not read while its client does not take what waits for it.
#[tokio::test]
async fn a_body_that_waits_is_counted() {
    let config = Config { outbox_soft_limit: 1_000, ..one_shard() };
    let server = TestServer::echo(config);
    let mut session = Polling::connected(server.addr).await.0;
    assert_eq!(session.text().await, r#"42["auth",{}]"#);
    server.handle.broadcast("/").emit("large", &"x".repeat(2_000)).expect("a name").await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    let mut post = Http::connect(server.addr).await;
    let event = format!(r#"42["message","{}"]"#, "y".repeat(900_000));
    post.send("POST", &session.target(), &[], event.as_bytes()).await;
    eventually("it waits", || server.metrics().unfinished_bytes >= 900_000).await;
    server.settle().await;
    assert!(server.metrics().unfinished_bytes >= 900_000, "{}", server.metrics().unfinished_bytes);
    assert!(session.text().await.starts_with(r#"42["large","#));
    assert!(session.text().await.starts_with(r#"42["message-back","#));
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

/// A client that may come back, or does, and its secret.
async fn recoverable(server: &TestServer, auth: &str) -> (Ws, String) {
    let mut ws = Ws::open(server.addr).await;
    ws.send(&format!("40{auth}")).await;
    let reply = ws.text().await;
    let reply: Value = serde_json::from_str(reply.strip_prefix("40").expect("a reply")).expect("JSON");
    (ws, reply["pid"].as_str().expect("a pid").to_owned())
}

/// `fill` sends so many events of 8 KiB, `join` joins so many rooms more, and says how many it could, `leave` leaves one, `ping` is answered.
fn generous() -> Namespace {
    Namespace::new("/")
        .on("fill", |socket, event| {
            for _ in 0..event.parse(0).expect("a number") {
                socket.emit("large", &"x".repeat(8 * 1024)).expect("a name");
            }
        })
        .on("join", |socket, event| {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let wanted = 0..event.parse::<usize>(0).expect("a number");
            let joined = wanted.take_while(|_| {
                let room = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
                socket.join(&room).is_ok()
            });
            event.ack(&joined.count());
        })
        .on("leave", |socket, event| {
            socket.leave(&socket.rooms()[0]);
            event.ack(&socket.rooms().len());
        })
        .on("own", |socket, event| event.ack(&socket.join_always("its own").is_ok()))
        .on("ping", |_, event| event.ack(&"pong"))
}

/// So that no more than 100,000 bytes may wait for one address.
fn little_waits() -> Config {
    Config { max_unarrived_bytes: 400_000, max_payload: 10_000, outbox_hard_limit: 100_000, ..one_shard() }
}

/// What waits for those of one address is bounded. First they are not read, then closed; others notice nothing.
#[tokio::test]
async fn an_address_has_a_share_of_what_waits() {
    let server = TestServer::start(little_waits(), |server| server.namespace(generous()));
    let mut other = stranger(&server).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let session = Polling::connected(server.addr).await.0;
        session.send(r#"42["fill",4]"#).await;
        waiting.push(session);
    }
    eventually("98 KB wait", || server.metrics().unarrived_bytes > 98_000).await;
    assert_eq!(met(&server, Limit::UnarrivedBytesPerAddress), 0);

    // More than half of what may: those for which something waits are not read.
    let mut first = waiting.remove(0);
    assert!(first.text().await.starts_with(r#"42["large""#));
    eventually("65 KB wait", || server.metrics().unarrived_bytes < 67_000).await;
    let paused = server.metrics().reads_paused;
    first.send(r#"42["fill",1]"#).await;
    eventually("it is no longer read", || server.metrics().reads_paused > paused).await;
    let before = server.metrics().events_received;
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &first.target(), &[], br#"420["ping"]"#).await;
    eventually("it waits", || server.metrics().unfinished_bytes > 0).await;
    server.settle().await;
    assert_eq!(server.metrics().events_received, before);

    // Others of the address are, as long as nothing waits for them.
    let greedy = Polling::connected(server.addr).await.0;
    greedy.post(r#"42["fill",8]"#).await;
    eventually("it is closed", || server.ended(DisconnectReason::OutboxFull) == 1).await;
    assert_eq!((met(&server, Limit::UnarrivedBytesPerAddress), met(&server, Limit::UnarrivedBytes)), (1, 0));
    other.send(r#"42["fill",8]"#).await;
    for _ in 0..8 {
        assert!(other.text().await.starts_with(r#"42["large""#));
    }
    let small = Polling::connected(server.addr).await.0;
    small.send(r#"420["ping"]"#).await;

    // Who takes what there is goes on.
    while first.text().await != r#"430["pong"]"# {}
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
    for mut session in waiting {
        for _ in 0..4 {
            assert!(session.text().await.starts_with(r#"42["large""#));
        }
    }
    assert_eq!(server.ended(DisconnectReason::OutboxFull), 1);
    eventually("little waits", || server.metrics().unarrived_bytes < 1_000).await;
}

/// Broadcasts are in memory once, however many wait for them.
#[tokio::test]
async fn what_waits_for_all_is_no_address_alone() {
    let server = TestServer::start(little_waits(), |server| server.namespace(generous()));
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(Polling::connected(server.addr).await.0);
    }
    for _ in 0..8 {
        server.handle.broadcast("/").emit("large", &"x".repeat(8 * 1024)).expect("a name").await;
    }
    assert!(server.metrics().unarrived_bytes < 1_000, "{}", server.metrics().unarrived_bytes);
    for session in &mut waiting {
        for _ in 0..8 {
            assert!(session.text().await.starts_with(r#"42["large""#));
        }
    }
}

/// What may not have arrived counts as well. Where there is no room for it, it is forgotten, and its client knows.
#[tokio::test]
async fn an_address_has_a_share_of_what_may_not_have_arrived() {
    let config = Config { recovery: Some(Recovery::default()), ..little_waits() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (mut ws, pid) = recoverable(&server, "").await;
        ws.send(r#"42["fill",3]"#).await;
        // None answers a heartbeat.
        let mut large = 0;
        while large < 3 {
            large += usize::from(ws.text().await.starts_with(r#"42["large""#));
        }
        clients.push((ws, pid));
    }
    assert_eq!(met(&server, Limit::UnarrivedBytesPerAddress), 0);
    let (mut ws, pid) = recoverable(&server, "").await;
    ws.send(r#"42["fill",4]"#).await;
    eventually("it is too much", || met(&server, Limit::UnarrivedBytesPerAddress) > 0).await;
    while !ws.text().await.starts_with(r#"42["large""#) {}
    assert!(met(&server, Limit::UnarrivedBytesPerAddress) > 0);
    assert!(server.metrics().unarrived_bytes < 100_000);
    clients.push((ws, pid));
    let all: Vec<String> = clients.into_iter().map(|(_, pid)| pid).collect();
    eventually("they are gone", || server.metrics().connections == 0).await;
    assert_eq!(server.metrics().unarrived_bytes, 0);
    let mut back = Vec::new();
    for (number, pid) in all.iter().enumerate() {
        let (mut ws, now) = recoverable(&server, &format!(r#"{{"pid":"{pid}"}}"#)).await;
        if number < 3 {
            assert_eq!(&now, pid);
            assert!(ws.text().await.starts_with(r#"42["large""#));
        } else {
            assert_ne!(&now, pid);
        }
        back.push(ws);
    }
    assert!(server.metrics().unarrived_bytes > 75_000, "what came back with its session counts again");
    let failures = server.metrics().recovery_failures;
    assert!(failures.contains(&(RecoveryFailure::Forgotten, 1)), "{failures:?}");
}

/// A broadcast that is sent again takes a frame of its own.
#[tokio::test]
async fn what_is_sent_again_is_counted() {
    const MISSED: usize = 1_000;
    let config = Config { recovery: Some(Recovery::default()), ..one_shard() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (ws, pid) = recoverable(&server, "").await;
    drop(ws);
    eventually("it is away", || server.metrics().sessions_away == 1).await;
    for number in 0..MISSED {
        server.handle.broadcast("/").emit("small", &number).expect("a name").await;
    }
    let mut back = Polling::open(server.addr).await;
    back.send(format!(r#"40{{"pid":"{pid}"}}"#)).await;
    eventually("it waits for the client", || server.metrics().unarrived_bytes > 64 * MISSED as u64).await;
    while !back.text().await.starts_with(&format!(r#"42["small",{}"#, MISSED - 1)) {}
    eventually("it does not any more", || server.metrics().unarrived_bytes < 1_000).await;
}

/// An address is in no more rooms than its share; a few are let be, and so is what the application has a socket join.
#[tokio::test]
async fn an_address_has_a_share_of_rooms() {
    let config =
        Config { max_rooms: 400, max_rooms_per_socket: 100, recovery: Some(Recovery::default()), ..one_shard() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let ask = async |ws: &mut Ws, question: &str| {
        ws.send(&format!("420{question}")).await;
        loop {
            let packet = ws.text().await;
            if let Some(answer) = packet.strip_prefix("430[") {
                break answer.trim_end_matches(']').to_owned();
            }
        }
    };
    let (mut first, pid) = recoverable(&server, "").await;
    assert_eq!(ask(&mut first, r#"["join",90]"#).await, "90");
    let mut second = recoverable(&server, "").await.0;
    assert_eq!(ask(&mut second, r#"["join",90]"#).await, "10");
    assert_eq!(ask(&mut second, r#"["own"]"#).await, "true");
    assert_eq!(met(&server, Limit::RoomsPerAddress), 1);
    let mut few = recoverable(&server, "").await.0;
    assert_eq!(ask(&mut few, r#"["join",90]"#).await, "8");
    let mut other = stranger(&server).await;
    assert_eq!(ask(&mut other, r#"["join",90]"#).await, "90");
    assert_eq!(server.metrics().room_memberships, 90 + 11 + 8 + 90);
    assert_eq!(ask(&mut second, r#"["leave"]"#).await, "10");
    assert_eq!(ask(&mut second, r#"["leave"]"#).await, "9");
    assert_eq!(ask(&mut second, r#"["join",90]"#).await, "1");

    // The rooms of a session that is away are free for others; if they are taken, its client knows.
    drop(first);
    eventually("it is gone", || server.metrics().connections == 3).await;
    assert_eq!(server.metrics().room_memberships, 10 + 8 + 90);
    assert_eq!(ask(&mut second, r#"["join",80]"#).await, "80");
    let (mut back, new) = recoverable(&server, &format!(r#"{{"pid":"{pid}"}}"#)).await;
    assert_ne!(new, pid);
    let failures = server.metrics().recovery_failures;
    assert!(failures.contains(&(RecoveryFailure::TooManyRooms, 1)), "{failures:?}");
    assert_eq!(ask(&mut back, r#"["join",3]"#).await, "3");
    drop((second, few, other, back));
    eventually("nothing is left", || server.metrics().room_memberships == 0).await;
}
