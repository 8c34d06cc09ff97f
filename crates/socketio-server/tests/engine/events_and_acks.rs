//! Events in both directions, the order they are handled in, acknowledgements, attachments, deadlines of sockets.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer, ser::Error as _};
use socketio_protocol::packet::RESERVED_EVENTS;
use socketio_server::{AckError, AckReply, Config, DisconnectReason, EncodeError, EventArgs, Namespace, Socket};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    client::{Client, Packet, Polling, Via, Ws, text_frames},
    harness::{EVENT_BYTES, Recorder, TestServer, echo, eventually, recorder},
};

on_one_and_three_shards!(
    events_and_acks_come_back,
    attachments_come_back,
    attachments_are_bounded,
    events_are_handled_in_the_order_they_came,
    an_asynchronous_handler_delays_no_other_socket,
    a_full_backlog_pauses_reading_and_loses_nothing,
    overlapping_handlers_run_side_by_side,
    a_handler_that_has_ended_keeps_no_socket,
    a_client_acknowledges_events,
    acks_that_never_come_end,
);

async fn events_and_acks_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, r#"42["auth",{}]"#);
        for (sent, back) in [
            (r#"42["message",1,"2",{"3":[true]}]"#, r#"42["message-back",1,"2",{"3":[true]}]"#),
            (r#"42["message"]"#, r#"42["message-back"]"#),
            // Arguments go through as they are.
            ("42[\"message\", {\"a\" : 1.0e2 } ]", "42[\"message-back\",{\"a\" : 1.0e2 }]"),
            ("42[\"mess\\u0061ge\",\"\\u20ac \\ud834\\udd1e\"]", "42[\"message-back\",\"\\u20ac \\ud834\\udd1e\"]"),
            (r#"42456["message-with-ack",1,"2",{"3":[false]}]"#, r#"43456[1,"2",{"3":[false]}]"#),
            (r#"420["message-with-ack"]"#, "430[]"),
            (r#"429007199254740991["message-with-ack",null]"#, "439007199254740991[null]"),
        ] {
            client.send(sent).await;
            assert_eq!(client.text().await, back, "{sent}");
        }
        // An ack that the handler does not send is not sent.
        client.send(r#"427["message",1]"#).await;
        assert_eq!(client.text().await, r#"42["message-back",1]"#);
        client.send(r#"42["message",2]"#).await;
        assert_eq!(client.text().await, r#"42["message-back",2]"#);
    }
    assert_eq!(server.metrics().events_received, 18);
    assert_eq!(server.metrics().events_unknown, 0);
}

const ONE: &str = r#"{"_placeholder":true,"num":0}"#;
const TWO: &str = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;

async fn attachments_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        client.send("40/custom,").await;
        client.text().await;
        client.text().await;
        for (sent, back) in [
            (format!(r#"452-/custom,["message",{TWO}]"#), format!(r#"452-/custom,["message-back",{TWO}]"#)),
            (format!(r#"452-/custom,789["message-with-ack",{TWO}]"#), format!("462-/custom,789[{TWO}]")),
        ] {
            client.send(&sent).await;
            client.send_binary(&[1, 2, 3]).await;
            client.send_binary(&[4, 5, 6]).await;
            let expected = [Packet::Text(back), Packet::Binary(vec![1, 2, 3]), Packet::Binary(vec![4, 5, 6])];
            for expected in expected {
                assert_eq!(client.packet().await, expected, "{sent}");
            }
        }
        // An empty attachment is one, too, and a large one is no exception.
        client.send(&format!(r#"452-/custom,["message",{TWO}]"#)).await;
        client.send_binary(&[]).await;
        client.send_binary(&[9; 200_000]).await;
        client.packet().await;
        assert_eq!(client.packet().await, Packet::Binary(Vec::new()));
        assert_eq!(client.packet().await, Packet::Binary(vec![9; 200_000]));
    }
}

async fn attachments_are_bounded(shards: usize) {
    let config = Config { shards, max_attachments: 2, max_payload: 1000, ..Config::default() };
    let server = TestServer::echo(config);
    let event = format!(r#"452-["message",{TWO}]"#);
    // Each message is small enough; the text without Engine.IO's type and both attachments together are the limit.
    let left = 1000 - (event.len() - 1);
    for via in Via::BOTH {
        let connected = || async {
            let mut client = Client::connected(server.addr, via).await;
            assert_eq!(client.text().await, r#"42["auth",{}]"#);
            client
        };
        let mut client = connected().await;
        client.send(&event).await;
        client.send_binary(&vec![1; left / 2]).await;
        client.send_binary(&vec![2; left - left / 2]).await;
        client.packet().await;
        assert_eq!(client.packet().await, Packet::Binary(vec![1; left / 2]));
        assert_eq!(client.packet().await, Packet::Binary(vec![2; left - left / 2]));

        client.send(&event).await;
        client.send_binary(&vec![1; left / 2]).await;
        let too_much = vec![2; left - left / 2 + 1];
        match &mut client {
            Client::WebSocket(ws) => {
                ws.send_binary(&too_much).await;
                assert_eq!(ws.closed().await.0, 1009);
            }
            Client::Polling(polling) => {
                let too_much = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &too_much);
                assert!(polling.post(format!("b{too_much}")).await.status >= 400);
                polling.expect_gone().await;
            }
        }

        let three = format!(r#"453-["message",{TWO},{{"_placeholder":true,"num":2}}]"#);
        connected().await.send_and_be_closed(&three).await;
        connected().await.send_and_be_closed(&three.replace("453-", "4518446744073709551616-")).await;

        // Text where an attachment is due, whatever it is.
        for text in [r#"42["message",1]"#, "41", "40/custom,", &event, "430[]"] {
            let mut client = connected().await;
            client.send(&event).await;
            client.send_binary(&[1]).await;
            client.send_and_be_closed(text).await;
        }
        // A heartbeat is none of the event's business.
        let mut client = connected().await;
        client.send(&format!(r#"451-["message",{ONE}]"#)).await;
        client.send("3").await;
        client.send_binary(&[1]).await;
        assert_eq!(client.text().await, format!(r#"451-["message-back",{ONE}]"#));
        assert_eq!(client.packet().await, Packet::Binary(vec![1]));
    }
    assert_eq!(server.ended(DisconnectReason::PayloadTooLarge), 2);
}

/// Three kinds of handlers that note which event they got: one at once, one after a while, one when it is let.
fn noting(recorder: &Recorder, gate: &Arc<Semaphore>) -> Namespace {
    let [at_once, later, gated] = [(); 3].map(|()| recorder.clone());
    let gate = gate.clone();
    Namespace::new("/")
        .on("at once", move |_, event| at_once.note(event.arg(0).map_or("", |arg| arg.get())))
        .on_async("later", move |_, event| {
            let recorder = later.clone();
            async move {
                let number: u64 = event.parse(0).expect("a number");
                for _ in 0..number % 5 {
                    tokio::task::yield_now().await;
                }
                if number.is_multiple_of(64) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                recorder.note(number.to_string());
            }
        })
        .on_async("gated", move |_, event| {
            let (recorder, gate) = (gated.clone(), gate.clone());
            async move {
                gate.acquire().await.expect("the gate stays").forget();
                recorder.note(event.arg(0).map_or("", |arg| arg.get()));
            }
        })
}

async fn events_are_handled_in_the_order_they_came(shards: usize) {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let config = Config { shards, handler_backlog: 8 * EVENT_BYTES, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(noting(&recorder, &gate)));
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        let events: Vec<String> = (0..500)
            .map(|number| {
                let name = if number % 3 == 0 || number % 7 == 0 { "later" } else { "at once" };
                format!(r#"42["{name}",{number}]"#)
            })
            .collect();
        match &mut client {
            Client::WebSocket(ws) => ws.send_raw(&text_frames(events.iter().map(String::as_str))).await,
            Client::Polling(polling) => {
                for events in events.chunks(100) {
                    polling.send(events.join("\x1e")).await;
                }
            }
        }
        for number in 0..500 {
            assert_eq!(seen.next().await, number.to_string());
        }
    }
}

async fn an_asynchronous_handler_delays_no_other_socket(shards: usize) {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(noting(&recorder, &gate)).namespace(echo("/custom"))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["gated","gated"]"#).await;
    ws.send(r#"42["at once","behind it"]"#).await;
    // The same connection's other namespace.
    ws.enter("/custom").await;
    assert_eq!(ws.text().await, r#"42/custom,["auth",{}]"#);
    ws.send(r#"42/custom,["message",1]"#).await;
    assert_eq!(ws.text().await, r#"42/custom,["message-back",1]"#);
    // Other connections, on each shard.
    for other in 0..3 {
        let (mut other_ws, _) = Ws::connected(server.addr).await;
        other_ws.send(&format!(r#"42["at once",{other}]"#)).await;
        assert_eq!(seen.next().await, other.to_string());
    }
    assert_eq!(seen.so_far(), [""; 0]);
    gate.add_permits(1);
    assert_eq!(seen.next().await, r#""gated""#);
    assert_eq!(seen.next().await, r#""behind it""#);
}

async fn a_full_backlog_pauses_reading_and_loses_nothing(shards: usize) {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let config = Config { shards, handler_backlog: 10 * EVENT_BYTES, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(noting(&recorder, &gate)));
    let (mut ws, _) = Ws::connected(server.addr).await;
    let events: Vec<String> = (0..3000)
        .map(|number| format!(r#"42["{}",{number}]"#, if number % 100 == 0 { "gated" } else { "at once" }))
        .collect();
    ws.send_raw(&text_frames(events.iter().map(String::as_str))).await;
    eventually("reading is paused", || server.metrics().reads_paused > 0).await;
    server.settle().await;
    // One is with its handler, ten wait, the rest is not read.
    assert_eq!(server.metrics().events_received, 11);
    gate.add_permits(1);
    for number in 0..100 {
        assert_eq!(seen.next().await, number.to_string());
    }
    server.settle().await;
    assert_eq!(server.metrics().events_received, 111);
    assert_eq!(seen.so_far(), [""; 0]);
    gate.add_permits(29);
    for number in 100..3000 {
        assert_eq!(seen.next().await, number.to_string());
    }
}

/// `side by side` and `in turn` wait for the gate; `at once` does not.
async fn overlapping_handlers_run_side_by_side(shards: usize) {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        let gate = gate.clone();
        server.namespace(noting(&recorder, &gate).on_overlapping("side by side", move |_, event| {
            let (recorder, gate) = (recorder.clone(), gate.clone());
            async move {
                let number = event.arg(0).map_or("", |arg| arg.get()).to_owned();
                recorder.note(format!("began {number}"));
                gate.acquire().await.expect("the gate stays").forget();
                recorder.note(format!("ended {number}"));
            }
        }))
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        let names = ["side by side", "side by side", "at once", "side by side", "gated", "side by side"];
        for (number, name) in names.iter().enumerate() {
            client.send(&format!(r#"42["{name}",{number}]"#)).await;
        }
        assert_eq!([seen.next().await, seen.next().await], ["began 0", "began 1"]);
        server.settle().await;
        assert_eq!(seen.so_far(), [""; 0], "the others wait");
        gate.add_permits(1);
        assert_eq!(seen.next().await, "ended 0");
        server.settle().await;
        assert_eq!(seen.so_far(), [""; 0], "the others wait for both");
        gate.add_permits(1);
        assert_eq!([seen.next().await, seen.next().await, seen.next().await], ["ended 1", "2", "began 3"]);
        gate.add_permits(1);
        assert_eq!(seen.next().await, "ended 3");
        gate.add_permits(1);
        assert_eq!([seen.next().await, seen.next().await], ["4", "began 5"]);
        gate.add_permits(1);
        assert_eq!(seen.next().await, "ended 5");
    }
}

/// Its socket can't be seen from outside, but what the handler leaves with it when the client has gone.
async fn a_handler_that_has_ended_keeps_no_socket(shards: usize) {
    let (gate, left) = (Arc::new(Semaphore::new(0)), Arc::new(()));
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        let (gate, left) = (gate.clone(), left.clone());
        server.namespace(Namespace::new("/").on_async("wait", move |socket, _| {
            let (gate, left) = (gate.clone(), left.clone());
            async move {
                gate.acquire().await.expect("the gate stays").forget();
                socket.set_data(left);
            }
        }))
    });
    let before = Arc::strong_count(&left);
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        client.send(r#"42["wait"]"#).await;
        eventually("the handler has it", || Arc::strong_count(&left) == before + 1).await;
        client.send("41").await;
        eventually("its client has left", || server.metrics().sockets == 0).await;
        gate.add_permits(1);
        eventually("nothing of it is left", || Arc::strong_count(&left) == before).await;
    }
}

/// `ask` has the handler ask the client, and note what it says.
fn asking(name: &'static str, recorder: &Recorder) -> Namespace {
    let recorder = recorder.clone();
    Namespace::new(name).on_async("ask", move |socket, event| {
        let recorder = recorder.clone();
        async move {
            let timeout = Duration::from_millis(event.parse(0).expect("milliseconds"));
            let count: usize = event.parse(1).unwrap_or(1);
            let asked: Vec<_> = (0..count).map(|_| answer(&socket, timeout, &recorder)).collect();
            futures_in_turn(asked).await;
        }
    })
}

async fn answer(socket: &Socket, timeout: Duration, recorder: &Recorder) {
    recorder.note(match socket.emit_with_ack("question", &"?", timeout).await {
        Ok(reply) => described(&reply),
        Err(error) => error.to_string(),
    });
}

fn described(reply: &AckReply) -> String {
    let args: Vec<&str> = reply.args().iter().map(|arg| arg.get()).collect();
    format!("[{}] {:?}", args.join(","), reply.attachments().iter().map(|data| data.to_vec()).collect::<Vec<_>>())
}

/// Runs futures side by side.
async fn futures_in_turn<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn a_client_acknowledges_events(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(asking("/", &recorder)).namespace(asking("/b", &recorder))
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        client.send(r#"42["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"420["question","?"]"#);
        client.send(r#"430["yes",{"a":[1]}]"#).await;
        assert_eq!(seen.next().await, r#"["yes",{"a":[1]}] []"#);

        // What is no answer to it does not count, even from another namespace; and the first that is does.
        client.send("40/b,").await;
        client.text().await;
        client.send(r#"42["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"421["question","?"]"#);
        client.send(r#"430["late"]"#).await;
        client.send(r#"432["early"]"#).await;
        client.send(r#"43/b,1["elsewhere"]"#).await;
        client.send(r#"439007199254740991["far"]"#).await;
        client.send("431[]").await;
        client.send(r#"431["twice"]"#).await;
        assert_eq!(seen.next().await, "[] []");

        client.send(r#"42/b,["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"42/b,0["question","?"]"#);
        client.send(&format!("462-/b,0[{TWO}]")).await;
        client.send_binary(&[1, 2, 3]).await;
        client.send_binary(&[4]).await;
        assert_eq!(seen.next().await, format!("[{TWO}] [[1, 2, 3], [4]]"));

        // Several at once, answered in another order.
        client.send(r#"42["ask",10000,3]"#).await;
        for id in 2..5 {
            assert_eq!(client.text().await, format!(r#"42{id}["question","?"]"#));
        }
        for id in [3, 4, 2] {
            client.send(&format!("43{id}[{id}]")).await;
            assert_eq!(seen.next().await, format!("[{id}] []"));
        }
    }
    assert_eq!(seen.so_far(), [""; 0]);
}

async fn acks_that_never_come_end(shards: usize) {
    let (recorder, mut seen) = recorder();
    let config = Config { shards, max_pending_acks: 2, ..Config::default() };
    let server = TestServer::start(config, |server| {
        server.namespace(asking("/", &recorder).on("bye", |socket, _| socket.disconnect()))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["ask",50]"#).await;
    assert_eq!(ws.text().await, r#"420["question","?"]"#);
    assert_eq!(seen.next().await, "acknowledgement timed out");

    // What timed out is not owed any more.
    ws.send(r#"42["ask",50,3]"#).await;
    assert_eq!(seen.next().await, "too many pending acknowledgements");
    assert_eq!(ws.text().await, r#"421["question","?"]"#);
    assert_eq!(ws.text().await, r#"422["question","?"]"#);
    ws.send("431[]").await;
    assert_eq!(seen.next().await, "[] []");
    assert_eq!(seen.next().await, "acknowledgement timed out");
    ws.send(r#"430["late"]"#).await;

    // The connection goes, and then the namespace only.
    ws.send(r#"42["ask",60000]"#).await;
    assert_eq!(ws.text().await, r#"423["question","?"]"#);
    drop(ws);
    assert_eq!(seen.next().await, "socket is disconnected");
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["ask",60000]"#).await;
    assert_eq!(ws.text().await, r#"420["question","?"]"#);
    ws.send("41").await;
    assert_eq!(seen.next().await, "socket is disconnected");
    ws.enter("/").await;
}

#[tokio::test]
async fn the_backlog_of_a_client_that_left_is_dropped() {
    let (gate, (recorder, mut seen)) = (Arc::new(Semaphore::new(0)), recorder());
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(noting(&recorder, &gate))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send_raw(&text_frames([r#"42["gated",1]"#, r#"42["at once",2]"#, r#"42["gated",3]"#])).await;
    eventually("they came", || server.metrics().events_received == 3).await;
    drop(ws);
    server.all_ended(DisconnectReason::TransportClose).await;
    // The handler that runs is let finish; the others' client is gone.
    gate.add_permits(10);
    assert_eq!(seen.next().await, "1");
    server.settle().await;
    assert_eq!(seen.so_far(), [""; 0]);
}

#[tokio::test]
async fn a_fallback_handles_what_no_other_handler_does() {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server
            .namespace(echo("/").fallback(move |_, event| {
                let args = if event.is_empty() { "none".to_owned() } else { event.len().to_string() };
                recorder.note(format!("{} {args} {}", event.name(), event.wants_ack()));
            }))
            .namespace(echo("/custom"))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    for (event, note) in [
        (r#"42["unknown",1,2]"#, "unknown 2 false"),
        (r#"425["Message"]"#, "Message none true"),
        (r#"42[7,"x"]"#, "7 1 false"),
        (r#"42["",1]"#, " 1 false"),
        (r#"42["__proto__"]"#, "__proto__ none false"),
    ] {
        ws.send(event).await;
        assert_eq!(seen.next().await, note);
    }
    assert_eq!(server.metrics().events_unknown, 5);
    // Without one they are counted and that is all.
    ws.enter("/custom").await;
    assert_eq!(ws.text().await, r#"42/custom,["auth",{}]"#);
    ws.send(r#"42/custom,["unknown"]"#).await;
    ws.send(r#"42/custom,["message",1]"#).await;
    assert_eq!(ws.text().await, r#"42/custom,["message-back",1]"#);
    assert_eq!(server.metrics().events_unknown, 6);
}

#[tokio::test]
async fn an_ack_may_be_sent_later_once_and_only_if_asked_for() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/")
                .on("now", |_, event| event.ack(&"now"))
                .on("nothing", |_, event| event.ack(&Unspeakable))
                .on_async("later", |socket, mut event| async move {
                    let ack = event.take_ack();
                    assert!(!event.wants_ack());
                    socket.emit("before", &()).expect("a name");
                    tokio::task::yield_now().await;
                    if let Some(ack) = ack {
                        ack.send(&"later");
                    }
                    event.ack(&"again");
                })
                .on("after leaving", |socket, event| {
                    socket.disconnect();
                    event.ack(&"too late");
                }),
        )
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        for (event, answers) in [
            (r#"421["now"]"#, &[r#"431["now"]"#][..]),
            (r#"42["now"]"#, &[]),
            (r#"422["nothing"]"#, &["432[null]"]),
            (r#"423["later"]"#, &[r#"42["before",null]"#, r#"433["later"]"#]),
            (r#"42["later"]"#, &[r#"42["before",null]"#]),
            (r#"424["after leaving"]"#, &["41"]),
        ] {
            client.send(event).await;
            for answer in answers {
                assert_eq!(client.text().await, *answer, "{event}");
            }
        }
        client.send("40").await;
        assert!(client.text().await.starts_with("40"), "nothing came after the disconnect");
    }
}

/// A value without a JSON form.
struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("unspeakable"))
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error() {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_async("try", move |socket, _| {
            let recorder = recorder.clone();
            async move {
                for name in RESERVED_EVENTS {
                    let args = EventArgs::from_raw("1");
                    let attempts = [
                        socket.emit(name, &1),
                        socket.emit_args(name, &args),
                        socket.emit_volatile(name, &1),
                        socket.to("room").emit(name, &1).map(drop),
                        socket.broadcast().emit_args(name, &args).map(drop),
                        socket.handle().broadcast("/").emit(name, &1).map(drop),
                    ];
                    for attempt in attempts {
                        assert!(matches!(attempt, Err(EncodeError::ReservedName(reserved)) if reserved == name));
                    }
                    let asked = socket.emit_with_ack(name, &1, Duration::from_secs(60)).await;
                    assert!(matches!(asked, Err(AckError::Encode(EncodeError::ReservedName(_)))));
                }
                assert!(matches!(socket.emit("name", &Unspeakable), Err(EncodeError::Payload(_))));
                assert!(matches!(EventArgs::new(&Unspeakable), Err(EncodeError::Payload(_))));
                assert!(matches!(socket.to("room").emit("name", &Unspeakable), Err(EncodeError::Payload(_))));
                let asked = socket.emit_with_ack("name", &Unspeakable, Duration::from_secs(60)).await;
                assert!(matches!(asked, Err(AckError::Encode(EncodeError::Payload(_)))));
                let error = socket.emit("connect", &1).expect_err("reserved").to_string();
                socket.emit("done", &error).expect("a name");
                recorder.note("done");
            }
        }))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    let encoded = server.metrics().packets_encoded;
    ws.send(r#"42["try"]"#).await;
    assert_eq!(seen.next().await, "done");
    assert_eq!(ws.text().await, r#"42["done","event name \"connect\" is reserved"]"#);
    assert_eq!(server.metrics().packets_encoded, encoded + 1);
}

#[tokio::test]
async fn names_and_texts_are_escaped() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_connect(|socket| {
            socket.emit("a \"name\"\n\x1e", &"\x1e\u{20ac}\\").expect("a name");
            let args = EventArgs::from_raw(format!("{ONE},2"));
            socket.emit_args("binary", &args.with_attachments(vec![vec![7, 8].into()])).expect("a name");
            socket.emit_args("none", &EventArgs::default()).expect("a name");
        }))
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, "42[\"a \\\"name\\\"\\n\\u001e\",\"\\u001e\u{20ac}\\\\\"]");
        assert_eq!(client.text().await, format!(r#"451-["binary",{ONE},2]"#));
        assert_eq!(client.packet().await, Packet::Binary(vec![7, 8]));
        assert_eq!(client.text().await, r#"42["none"]"#);
    }
}

#[tokio::test]
async fn a_polling_response_brings_at_most_sixteen_packets() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on("burst", |socket, _| {
            for number in 0..40 {
                socket.emit("number", &number).expect("a name");
            }
        }))
    });
    let (session, _) = Polling::connected(server.addr).await;
    session.send(r#"42["burst"]"#).await;
    let mut sizes = Vec::new();
    let mut packets = Vec::new();
    while packets.len() < 40 {
        let body = session.get().await.body;
        sizes.push(body.split('\x1e').count());
        packets.extend(body.split('\x1e').map(str::to_owned));
    }
    assert_eq!(sizes, [16, 16, 8]);
    assert_eq!(packets, (0..40).map(|number| format!(r#"42["number",{number}]"#)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_sockets_deadline_is_replaced_and_cancelled() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            echo("/")
                .on("set", |socket, event| {
                    let at = event.parse::<u64>(0).map(|after| Instant::now() + Duration::from_millis(after));
                    socket.set_timer(at);
                })
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    let long = Duration::from_millis(150);

    let began = Instant::now();
    ws.send(r#"42["set",150]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    assert!(began.elapsed() >= long);
    // An earlier one in place of a later, and the other way round; each comes once.
    ws.send(r#"42["set",150]"#).await;
    ws.send(r#"42["set",10]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    let began = Instant::now();
    ws.send(r#"42["set",10]"#).await;
    ws.send(r#"42["set",150]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    assert!(began.elapsed() >= long);
    // Cancelled. Nothing that was replaced above may come either, by now.
    ws.send(r#"42["set",10]"#).await;
    ws.send(r#"42["set",null]"#).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    ws.send(r#"42["message",1]"#).await;
    assert_eq!(ws.text().await, r#"42["message-back",1]"#);
    // One in the past is due at once.
    ws.send(r#"42["set",0]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    // And of a socket that left, none is.
    ws.send(r#"42["set",20]"#).await;
    ws.send("41").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    ws.enter("/").await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
}

/// A deadline that is replaced, or whose socket is gone, takes no memory until its time has come.
#[tokio::test]
async fn of_many_deadlines_few_are_remembered() {
    const HOUR: Duration = Duration::from_secs(3600);
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            echo("/")
                .on("later", |socket, event| {
                    let begin = Instant::now() + HOUR;
                    (0..1_000).for_each(|number| socket.set_timer(Some(begin + Duration::from_millis(number))));
                    event.ack(&1);
                })
                .on("sooner", |socket, event| {
                    let begin = Instant::now() + HOUR;
                    (0..1_000).for_each(|number| socket.set_timer(Some(begin - Duration::from_millis(number))));
                    event.ack(&1);
                })
                .on("soon", |socket, _| socket.set_timer(Some(Instant::now() + Duration::from_millis(20))))
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let (mut ws, _) = Ws::connected(server.addr).await;
        ws.text().await;
        for event in ["later", "sooner"] {
            ws.send(&format!(r#"421["{event}"]"#)).await;
            assert_eq!(ws.text().await, "431[1]");
        }
        let owners = server.metrics().connections + server.metrics().sockets;
        assert!(server.metrics().timers <= 2 * owners + 64, "{}", server.metrics().timers);
        sockets.push(ws);
    }
    // Those that count are among them.
    for ws in &mut sockets {
        ws.send(r#"42["soon"]"#).await;
        assert_eq!(ws.text().await, r#"42["due",1]"#);
        ws.send(r#"421["later"]"#).await;
        assert_eq!(ws.text().await, "431[1]");
    }
    drop(sockets);
    eventually("all are gone", || server.metrics().connections == 0).await;
    eventually("so are their deadlines", || server.metrics().timers <= 64).await;
}

/// A deadline set before the client is connected counts from then on.
#[tokio::test]
async fn a_deadline_may_be_set_by_who_lets_the_client_in() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/")
                .authorize(|socket, _| {
                    socket.set_timer(Some(Instant::now() + Duration::from_millis(20)));
                    Ok(())
                })
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
}
