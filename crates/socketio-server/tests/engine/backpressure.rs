//! Clients that do not read: they are not read from either, they are closed when too much waits, and nobody else
//! notices.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, DisconnectReason, Namespace, OwnedEvent};

use crate::{
    client::{Http, Polling, Received, Ws, masked, text_frames},
    harness::{DEADLINE, TestServer, eventually, recorder, within},
};

/// The payload of a large event.
const LARGE: usize = 8 * 1024;

/// So many large events the kernel does not take for a client that does not read: Linux buffers 4 MiB of a connection at
/// most, unless told otherwise.
const MANY: u32 = 1000;

/// `more` answers with a large numbered event, `fill` with many, `ping` with an ack.
fn generous() -> Namespace {
    Namespace::new("/")
        .on("more", |socket, event| {
            let number: u32 = event.parse(0).expect("a number");
            socket.emit("large", &(number, "x".repeat(LARGE))).expect("a name");
        })
        .on("fill", |socket, event| {
            for number in 0..event.parse(0).expect("a number") {
                let number: u32 = number;
                socket.emit("large", &(number, "x".repeat(LARGE))).expect("a name");
            }
        })
        .on("ping", |_, event| event.ack(&"pong"))
}

fn fill_many() -> String {
    format!(r#"42["fill",{MANY}]"#)
}

/// Asserts that another client is served as if nothing were.
async fn serves(client: &mut Ws) {
    for _ in 0..20 {
        client.send(r#"420["ping"]"#).await;
        assert_eq!(client.text().await, r#"430["pong"]"#);
    }
}

fn number_of(event: &str) -> u32 {
    let rest = event.strip_prefix(r#"42["large",["#).expect("a large event");
    rest.split(',').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from_and_loses_nothing() {
    const COUNT: u32 = MANY;
    let config = Config { shards: 1, outbox_soft_limit: 64 * 1024, outbox_hard_limit: 64 << 20, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (mut other, _) = Ws::connected(server.addr).await;
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    let before = server.metrics().events_received;
    let asks: Vec<String> = (0..COUNT).map(|number| format!(r#"42["more",{number}]"#)).collect();
    ws.send_raw(&text_frames(asks.iter().map(String::as_str))).await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    serves(&mut other).await;
    let handled = server.metrics().events_received - before - 20;
    assert!(handled < u64::from(COUNT), "what is sent without being read is bounded");
    serves(&mut other).await;
    assert_eq!(server.metrics().events_received - before - 40, handled, "no more of its events are handled");
    // It may send what it likes meanwhile.
    ws.send_raw(&masked(OpCode::Ping, b"are you there?")).await;

    // Events that wait for their turn are overtaken by it.
    let (mut next, mut pongs) = (0, 0);
    while next < COUNT || pongs == 0 {
        match ws.recv().await {
            Received::Text(event) => {
                assert_eq!(number_of(&event), next);
                next += 1;
            }
            Received::Pong(data) if data == b"are you there?" => pongs += 1,
            unexpected => panic!("{unexpected:?}"),
        }
    }
    assert_eq!((next, pongs), (COUNT, 1));
    serves(&mut ws).await;
}

#[tokio::test]
async fn pings_count_towards_what_waits() {
    let config = Config {
        shards: 1,
        outbox_soft_limit: 16 * 1024,
        outbox_hard_limit: 64 << 20,
        event_rate_per_socket: 0,
        ..Config::default()
    };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (mut other, _) = Ws::connected(server.addr).await;
    let (ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    let Ws { mut reader, mut writer } = ws;
    writer.send(&fill_many()).await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    // A flood of pings is not answered into memory: at some point it is not read any more, and the writer waits.
    let flood = tokio::spawn(async move {
        let pings: Vec<u8> = (0..200).flat_map(|_| masked(OpCode::Ping, &[7; 125])).collect();
        for _ in 0..100 {
            writer.send_raw(&pings).await;
        }
        writer
    });
    serves(&mut other).await;
    for number in 0..MANY {
        assert_eq!(number_of(&reader.text().await), number);
    }
    for _ in 0..200 * 100 {
        assert_eq!(reader.recv().await, Received::Pong(vec![7; 125]));
    }
    flood.await.expect("no panic");
}

#[tokio::test]
async fn too_much_waiting_closes_the_connection() {
    let config = Config { shards: 1, outbox_soft_limit: 32 * 1024, outbox_hard_limit: 128 * 1024, ..Config::default() };
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(config, |server| {
        server.namespace(generous().on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    let (mut other, _) = Ws::connected(server.addr).await;
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    ws.send(&fill_many()).await;
    assert_eq!(seen.next().await, "outbox full");
    eventually("it is closed", || server.metrics().connections == 1).await;
    serves(&mut other).await;
    // What the kernel had taken is there, in order; then the stream ends.
    let mut next = 0;
    loop {
        match ws.recv().await {
            Received::Text(event) => assert_eq!(number_of(&event), next),
            Received::End(_) | Received::Reset => break,
            unexpected => panic!("{unexpected:?}"),
        }
        next += 1;
    }
    assert!(next < MANY);
    // One that reads gets as much as it wants.
    other.send(r#"42["more",7]"#).await;
    assert_eq!(number_of(&other.text().await), 7);
}

/// When the limit is passed half a frame may be out. Nothing may follow it: it would be taken for the frame's rest.
#[tokio::test]
async fn nothing_is_written_behind_half_a_frame() {
    let config = Config { shards: 1, outbox_soft_limit: 32 * 1024, outbox_hard_limit: 64 * 1024, ..Config::default() };
    let (references, mut reference) = tokio::sync::mpsc::unbounded_channel();
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on_connect(move |socket| {
            let _ = references.send(socket.reference());
        }))
    });
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    let reference = reference.recv().await.expect("a socket");
    // What has come so far is written and counted by now, and the answer to the request, which the client does not count.
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    server.handle.with_socket(reference, move |_| {
        let _ = asked.send(());
    });
    within("the shard's answer", is_asked).await.expect("the shard runs");
    let before = server.metrics().bytes_written - ws.reader.bytes;
    let (filled, is_filled) = tokio::sync::oneshot::channel();
    let (drained, is_drained) = mpsc::channel::<()>();
    server.handle.with_socket(reference, move |socket| {
        let socket = socket.expect("a client");
        // The shard is busy: between now and the end of the connection it looks at its sockets.
        for _ in 0..200 {
            tokio::task::spawn_local(std::future::ready(()));
        }
        for number in 0..MANY {
            socket.emit("large", &(number, "x".repeat(LARGE))).expect("a name");
        }
        filled.send(()).expect("the test goes on");
        is_drained.recv_timeout(DEADLINE).expect("the test goes on");
        // Now there is room again, and the application goes on as if nothing had been.
        for number in 9000..9003 {
            socket.emit("large", &(number, "x")).expect("a name");
        }
    });
    within("the outbox is full", is_filled).await.expect("the shard runs");
    let written = server.metrics().bytes_written - before;
    while ws.reader.bytes < written {
        assert!(within("what was written", ws.reader.read()).await.expect("the connection is open") > 0);
    }
    drained.send(()).expect("the handler waits");
    let mut next = 0;
    let end = loop {
        match ws.recv().await {
            Received::Text(event) => assert_eq!(number_of(&event), next),
            end => break end,
        }
        next += 1;
    };
    assert!(matches!(end, Received::End(_) | Received::Reset), "{end:?}");
    assert_eq!(ws.reader.bytes, written, "and not a byte more");
    server.all_ended(DisconnectReason::OutboxFull).await;
}

#[tokio::test]
async fn a_burst_may_be_large_if_the_client_takes_it() {
    let config = Config { shards: 1, outbox_soft_limit: 32 * 1024, outbox_hard_limit: 64 * 1024, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (mut ws, _) = Ws::connected(server.addr).await;
    // Three times the limit in one go; the kernel has room for it.
    ws.send(r#"42["fill",24]"#).await;
    for number in 0..24 {
        assert_eq!(number_of(&ws.text().await), number);
    }
    serves(&mut ws).await;
}

/// All together they are far more than may wait. The client reads all the time.
#[tokio::test]
async fn answers_to_what_waited_do_not_fill_the_outbox() {
    const ANSWERS: usize = 200;
    let limits = Config { outbox_soft_limit: 8 * 1024, outbox_hard_limit: 128 * 1024, ..Config::default() };
    let server = TestServer::start(Config { shards: 1, ..limits }, |server| {
        let answer = |mut event: OwnedEvent| {
            let ack = event.take_ack().expect("it is asked for");
            async move { ack.send(&"x".repeat(10_000)) }
        };
        let (alone, together) = (answer, answer);
        server.namespace(
            Namespace::new("/")
                .on_async("alone", move |_, event| alone(event))
                .on_overlapping("together", move |_, event| together(event)),
        )
    });
    for name in ["alone", "together"] {
        let mut session = Polling::connected(server.addr).await.0;
        let mut ws = Ws::connected_with_small_buffer(server.addr).await.0;
        let events: Vec<String> = (0..ANSWERS).map(|number| format!(r#"42{number}["{name}"]"#)).collect();
        ws.send_raw(&text_frames(events.iter().map(String::as_str))).await;
        let mut post = Http::connect(server.addr).await;
        post.send("POST", &session.target(), &[], events.join("\x1e").as_bytes()).await;
        for number in 0..ANSWERS {
            for answer in [session.text().await, ws.text().await] {
                assert!(answer.starts_with(&format!(r#"43{number}["xxx"#)), "{name} {number}: {}", &answer[..20]);
            }
        }
        assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
        assert!(server.metrics().outbox_bytes < 1_000_000);
    }
}

/// Its size is not the client's fault.
#[tokio::test]
async fn an_event_that_is_larger_than_the_limit_arrives() {
    const LARGE: usize = 8_000_000;
    let config = Config { shards: 1, ..Config::default() };
    let server = TestServer::echo(config);
    let mut polling = Polling::connected(server.addr).await.0;
    let mut ws = Ws::connected_with_small_buffer(server.addr).await.0;
    for number in 0..2 {
        server.handle.broadcast("/").emit("large", &(number, "x".repeat(LARGE))).expect("a name").await;
    }
    assert_eq!([polling.text().await, ws.text().await], [r#"42["auth",{}]"#; 2]);
    for number in 0..2 {
        for event in [polling.text().await, ws.text().await] {
            assert_eq!(event.len(), LARGE + 18, "{}", &event[..20]);
            assert!(event.starts_with(&format!(r#"42["large",[{number}"#)));
        }
    }
    // Otherwise the limit is what it was.
    for _ in 0..3 {
        server.handle.broadcast("/").emit("large", &"x".repeat(LARGE)).expect("a name").await;
    }
    server.all_ended(DisconnectReason::OutboxFull).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let stall = Duration::from_millis(300);
    let config = Config { shards: 1, write_stall_timeout: stall, outbox_hard_limit: 64 << 20, ..Config::default() };
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(config, |server| {
        server.namespace(generous().on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    let (mut other, _) = Ws::connected(server.addr).await;
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    let began = Instant::now();
    ws.send(&fill_many()).await;
    assert_eq!(seen.next().await, "write stalled");
    assert!(began.elapsed() >= stall);
    serves(&mut other).await;
    // A client with nothing waiting may be as silent as it likes.
    tokio::time::sleep(stall).await;
    serves(&mut other).await;
    drop(other);
    assert_eq!(seen.next().await, "transport close");
}

#[tokio::test]
async fn a_client_that_takes_little_is_not_given_up() {
    let stall = Duration::from_millis(600);
    let config = Config { shards: 1, write_stall_timeout: stall, outbox_hard_limit: 64 << 20, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    let began = Instant::now();
    ws.send(&fill_many()).await;
    let mut next = 0;
    // A little now and then, for longer than one may take nothing.
    while next < MANY && began.elapsed() < 2 * stall {
        for _ in 0..20 {
            assert_eq!(number_of(&ws.text().await), next);
            next += 1;
        }
        tokio::time::sleep(stall / 20).await;
    }
    assert!(began.elapsed() > stall);
    for number in next..MANY {
        assert_eq!(number_of(&ws.text().await), number);
    }
    assert_eq!(server.ended(DisconnectReason::WriteStalled), 0);
}

#[tokio::test]
async fn closing_does_not_wait_for_a_client_that_does_not_read() {
    let config = Config { shards: 1, outbox_hard_limit: 64 << 20, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    ws.send(&fill_many()).await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    server.handle.for_each("/", socketio_server::Socket::close_connection);
    server.all_ended(DisconnectReason::ServerNamespace).await;
    // Of a client that resets its connection instead, the same is true.
    let (mut ws, _) = Ws::connected_with_small_buffer(server.addr).await;
    ws.send(&fill_many()).await;
    eventually("reading is paused", || server.metrics().reads_paused > 1).await;
    drop(ws);
    eventually("it is closed", || server.metrics().connections == 0).await;
}

/// A room with one member that does not read.
#[tokio::test]
async fn a_broadcast_does_not_wait_for_its_slowest_member() {
    let config = Config { shards: 1, outbox_hard_limit: 128 * 1024, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(generous()));
    let (stuck, _) = Ws::connected_with_small_buffer(server.addr).await;
    let (mut swift, _) = Ws::connected(server.addr).await;
    let mut count = 2;
    for number in 0..MANY {
        let delivered = server.handle.broadcast("/").emit("large", &(number, "x".repeat(LARGE))).expect("a name").await;
        assert!(delivered == count || (delivered, count) == (1, 2));
        count = delivered;
        assert_eq!(number_of(&swift.text().await), number);
    }
    assert_eq!(count, 1, "the one that does not read was closed");
    assert_eq!(server.ended(DisconnectReason::OutboxFull), 1);
    drop(stuck);
}
