//! Connections that are begun and not finished, and more of them than one address may have.

use super::bystanders::STREAMS;
use super::peer::{Frame, HANDSHAKE, Peer, session};
use super::siege::{Siege, falls_to, limit_met};
use crate::api::metric;
use crate::client::Client;

const MANY: usize = 5_000;

#[tokio::test]
async fn silent_connections() {
    let siege = Siege::of("5,000 TCP connections that say nothing")
        .one_address_only()
        .with("MAX_HANDSHAKES_PER_ADDRESS", "1000")
        .with("HEADER_TIMEOUT_MS", "8000")
        .memory(48);
    siege
        .run(async |server| {
            let met = limit_met(server, "handshakes per address").await;
            let mut peers = Vec::new();
            for _ in 0..MANY {
                peers.push(Peer::connect(server).await);
            }
            assert!(metric(server, "slop_handshakes").await <= 1_000.0 + STREAMS as f64);
            // Others come in.
            let mut other = Client::connect(server, "/media").await;
            other.expect("welcome").await;
            let mut refused = 0;
            for mut peer in peers {
                if let Some(answer) = peer.answer().await {
                    assert_eq!(answer.status, 429);
                    answer.says_when_to_retry();
                    refused += 1;
                }
            }
            // On a slow machine the first are over before the last have come.
            assert!(refused >= MANY as u64 / 4, "{refused}");
            assert_eq!(limit_met(server, "handshakes per address").await, met + refused);
            falls_to(server, "slop_handshakes", 0).await;
            "429 past `MAX_HANDSHAKES_PER_ADDRESS`; the others closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn silent_connections_without_a_limit() {
    let siege = Siege::of("5,000 TCP connections that say nothing, all of them let in")
        .with("HEADER_TIMEOUT_MS", "3000")
        .with("MAX_HANDSHAKES_PER_ADDRESS", "0")
        .memory(96);
    siege
        .run(async |server| {
            let mut peers = Vec::new();
            for _ in 0..MANY {
                peers.push(Peer::connect(server).await);
            }
            for mut peer in peers {
                peer.closed().await;
            }
            falls_to(server, "slop_handshakes", 0).await;
            "closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn more_connections_than_an_address_may_have() {
    let siege = Siege::of("5,000 WebSockets of one address")
        .one_address_only()
        .with("MAX_CONNECTIONS_PER_ADDRESS", "100")
        // Those that are let in stay until the last has come, however slow the machine.
        .with("CONNECT_TIMEOUT_MS", "600000");
    siege
        .run(async |server| {
            let met = limit_met(server, "connections per address").await;
            let mut held = Vec::new();
            for _ in 0..MANY {
                match Peer::websocket(server).await {
                    Ok(peer) => held.push(peer),
                    Err(answer) => {
                        assert_eq!(answer.status, 429);
                        answer.says_when_to_retry();
                    }
                }
            }
            assert_eq!(held.len(), 100);
            assert_eq!(limit_met(server, "connections per address").await, met + (MANY - held.len()) as u64);
            let mut other = Client::connect(server, "/media").await;
            other.expect("welcome").await;
            drop((held, other));
            falls_to(server, "slop_connections", 1).await;
            "429 past `MAX_CONNECTIONS_PER_ADDRESS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn made_up_addresses() {
    let siege = Siege::of("5,000 handshakes, each with another `X-Forwarded-For`")
        .one_address_only()
        .with("CONNECT_TIMEOUT_MS", "10000")
        .with("MAX_CONNECTIONS_PER_ADDRESS", "100");
    siege
        .run(async |server| {
            let mut taken = 0;
            let mut peer = Peer::connect(server).await;
            for number in 0..MANY {
                let header = format!("X-Forwarded-For: 10.1.{}.{}\r\n", number / 250, number % 250);
                peer.request("GET", HANDSHAKE, &header, b"").await;
                let answer = peer.answer().await.expect("an answer");
                taken += usize::from(answer.status == 200);
                // Who is refused has its connection closed.
                if answer.status != 200 {
                    peer.closed().await;
                    peer = Peer::connect(server).await;
                }
            }
            assert!(taken <= 100, "{taken}");
            "429: the header of an untrusted peer is ignored".to_owned()
        })
        .await;
}

#[tokio::test]
async fn sessions_without_a_namespace() {
    let siege = Siege::of("5,000 handshakes, none goes on to a namespace")
        .one_address_only()
        .with("MAX_HANDSHAKES_PER_ADDRESS", "1000")
        .with("CONNECT_TIMEOUT_MS", "2000");
    siege
        .run(async |server| {
            let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
            let mut peer = Peer::connect(server).await;
            for _ in 0..MANY {
                peer.request("GET", HANDSHAKE, "", b"").await;
                let status = peer.answer().await.expect("an answer").status;
                *statuses.entry(status).or_default() += 1;
                if status != 200 {
                    peer.closed().await;
                    peer = Peer::connect(server).await;
                }
            }
            assert!(statuses[&429] > 0, "{statuses:?}");
            assert!(metric(server, "slop_handshakes").await <= 1_000.0 + STREAMS as f64);
            falls_to(server, "slop_connections", 1).await;
            "429 past `MAX_HANDSHAKES_PER_ADDRESS`; the others end after `CONNECT_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn upgrades_that_are_not_finished() {
    let siege =
        Siege::of("300 sessions with a WebSocket that probes and stays at that").with("CONNECT_TIMEOUT_MS", "2000");
    siege
        .run(async |server| {
            let mut probes = Vec::new();
            for _ in 0..300 {
                let sid = session(server).await;
                let mut probe = Peer::connect(server).await;
                assert_eq!(probe.upgrade(&format!("&sid={sid}"), "").await.status, 101);
                probe.text("2probe").await;
                assert_eq!(probe.frame().await, Frame::Text("3probe".to_owned()));
                // A second one for the same session is closed.
                let mut second = Peer::connect(server).await;
                assert_eq!(second.upgrade(&format!("&sid={sid}"), "").await.status, 101);
                assert_eq!(second.frame().await, Frame::End);
                probes.push(probe);
            }
            for probe in &mut probes {
                assert_eq!(probe.frame().await, Frame::End);
            }
            falls_to(server, "slop_connections", 1).await;
            "one probe a session; closed with its session after `CONNECT_TIMEOUT_MS`".to_owned()
        })
        .await;
}
