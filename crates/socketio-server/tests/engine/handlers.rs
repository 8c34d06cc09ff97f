//! Which handler gets an event, when it runs, and what waits meanwhile.

use std::{sync::Arc, time::Duration};

use socketio_server::{Config, DisconnectReason, Namespace};
use tokio::sync::Semaphore;

use crate::{
    client::{Client, Via, Ws, text_frames},
    harness::{EVENT_BYTES, Recorder, TestServer, echo, eventually, recorder},
};

on_one_and_three_shards!(
    events_are_handled_in_the_order_they_came,
    an_asynchronous_handler_delays_no_other_socket,
    a_full_backlog_pauses_reading_and_loses_nothing,
    overlapping_handlers_run_side_by_side,
    a_handler_that_has_ended_keeps_no_socket,
);

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
