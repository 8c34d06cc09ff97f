//! Clients that take what they are sent slowly, or not at all: what is encrypted for them counts as theirs.

use std::{net::SocketAddr, time::Duration};

use socketio_server::{Config, DisconnectReason, Namespace};

use super::relay::start;
use crate::{
    client::{Received, Ws},
    harness::{eventually, recorder},
};

/// The payload of a large event.
const LARGE: usize = 8 * 1024;
/// So many of them fill every buffer of the kernel and of the relay.
const MANY: u32 = 4_000;

fn generous() -> Namespace {
    Namespace::new("/").on("fill", |socket, event| {
        for number in 0..event.parse(0).expect("a number") {
            let number: u32 = number;
            socket.emit("large", &(number, "x".repeat(LARGE))).expect("a name");
        }
    })
}

async fn connected(addr: SocketAddr) -> Ws {
    let mut ws = Ws::connected_with_small_buffer(addr).await.0;
    ws.send(&format!(r#"42["fill",{MANY}]"#)).await;
    ws
}

fn is_large(event: &str, number: u32) -> bool {
    event.starts_with(&format!(r#"42["large",[{number},"#))
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_more_than_without_tls() {
    let limit = 256 * 1024;
    let config = Config { shards: 1, outbox_soft_limit: 32 * 1024, outbox_hard_limit: limit, ..Config::default() };
    let (recorder, mut seen) = recorder();
    let (server, _, relay) = start(config, |server| {
        server.namespace(generous().on_disconnect(move |_, reason| recorder.note(reason.as_str())))
    });
    let mut ws = connected(relay.addr).await;
    assert_eq!(seen.next().await, "outbox full");
    eventually("it is gone", || server.metrics().connections == 0).await;
    assert_eq!(server.metrics().outbox_bytes, 0);
    // What had left before is there, in order.
    let mut next = 0;
    while let Received::Text(event) = ws.recv().await {
        assert!(is_large(&event, next));
        next += 1;
    }
    assert!(next < MANY);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything_in_order() {
    let config = Config { shards: 1, outbox_soft_limit: 32 * 1024, outbox_hard_limit: 64 << 20, ..Config::default() };
    let (server, _, relay) = start(config, |server| server.namespace(generous()));
    let mut ws = connected(relay.addr).await;
    eventually("it waits", || server.metrics().reads_paused > 0).await;
    let waiting = server.metrics().outbox_bytes;
    assert!(waiting > 32 * 1024, "what is encrypted and not taken counts too: {waiting}");
    for number in 0..MANY {
        assert!(is_large(&ws.text().await, number));
    }
    eventually("nothing waits", || server.metrics().outbox_bytes == 0).await;
    ws.send(r#"42["fill",1]"#).await;
    assert!(is_large(&ws.text().await, 0), "it is read from again");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let stall = Duration::from_millis(300);
    let config = Config { shards: 1, write_stall_timeout: stall, outbox_hard_limit: 64 << 20, ..Config::default() };
    let (server, _, relay) = start(config, |server| server.namespace(generous()));
    let ws = connected(relay.addr).await;
    server.all_ended(DisconnectReason::WriteStalled).await;
    drop(ws);
}
