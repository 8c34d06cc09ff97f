//! More than any client needs of what is allowed.

use socketio_protocol::websocket::OpCode;

use super::peer::{Frame, Peer, masked};
use super::siege::{Siege, limit_met};
use super::victim::{Origin, Victim};
use crate::api::metric;

fn texts(texts: impl IntoIterator<Item = String>) -> Vec<u8> {
    texts.into_iter().flat_map(|text| masked(OpCode::Text, text.as_bytes())).collect()
}

#[tokio::test]
async fn a_thousand_namespaces() {
    let siege = Siege::of("1,000 namespaces that don't exist, asked for by each of 20 clients");
    siege
        .run(async |server| {
            for _ in 0..20 {
                let mut peer = Peer::client(server).await;
                peer.send(&texts((0..1_000).map(|number| format!("40/made-up-{number},")))).await;
                for _ in 0..1_000 {
                    let refused = peer.until(|text| text.starts_with("44/made-up-")).await;
                    assert!(refused.ends_with(r#"{"message":"Invalid namespace"}"#), "{refused}");
                }
                // Those that exist are not many either, and each once.
                peer.send(&texts((0..2).map(|_| "40/media,".to_owned()))).await;
                assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            }
            "`connect_error` `Invalid namespace` each; a second time the same one: closed with 1002".to_owned()
        })
        .await;
}

#[tokio::test]
async fn event_floods() {
    let siege = Siege::of("10 clients that each send 50,000 events without a pause").memory(48);
    siege
        .run(async |server| {
            let flood = texts((0..50_000).map(|id| format!(r#"42{id}["ping"]"#)));
            let mut answered = (0, 0);
            for _ in 0..10 {
                let mut peer = Peer::client(server).await;
                let sender = async { peer.send(&flood).await };
                // Its answers are not read meanwhile: the server stops reading, or closes.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(100), sender).await;
                let (end, texts) = peer.end().await;
                assert!(matches!(end, Frame::Close(1008, _) | Frame::End), "{end:?}");
                answered.0 += texts.iter().filter(|text| text.contains("timestamp")).count();
                answered.1 +=
                    texts.iter().filter(|text| text.contains(r#"{"success":false,"error":"Too many events"}"#)).count();
            }
            assert!(answered.0 > 0, "{answered:?}");
            assert!(answered.1 > 0, "{answered:?}");
            assert!(limit_met(server, "event rate per socket").await > 0);
            "acks `Too many events` past `EVENT_RATE_PER_SOCKET`; then closed with 1008 `too many events`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn ack_floods() {
    let siege = Siege::of("10 clients that each send 50,000 acks that nobody asked for");
    siege
        .run(async |server| {
            for _ in 0..10 {
                let mut peer = Peer::client(server).await;
                peer.send(&texts((0..50_000).map(|id| format!(r#"43{id}["x"]"#)))).await;
                assert!(matches!(peer.end().await.0, Frame::Close(1008, _) | Frame::End));
            }
            "ignored; past `EVENT_RATE_PER_SOCKET` closed with 1008 `too many events`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn room_floods() {
    // What is kept of those that are gone is the next test's.
    let siege =
        Siege::of("10 clients that each join 5,000 rooms with names of 128 bytes").with("RECOVERY_MS", "0").memory(48);
    siege
        .run(async |server| {
            let mut peers = Vec::new();
            for _ in 0..10 {
                let mut peer = Peer::client(server).await;
                let (mut joined, mut refused) = (0, 0);
                for chunk in 0..10 {
                    let names = (0..500).map(|number| format!("{:0>128}", chunk * 500 + number));
                    peer.send(&texts(names.map(|name| format!(r#"421["joinRoom","{name}"]"#)))).await;
                    for _ in 0..500 {
                        let ack = peer.until(|text| text.starts_with("431[")).await;
                        joined += usize::from(ack.contains(r#""success":true"#));
                        refused += usize::from(ack.contains("Too many rooms and subscriptions"));
                    }
                }
                assert_eq!((joined, refused), (1_000, 4_000));
                let long = format!(r#"421["joinRoom","{}"]"#, "x".repeat(129));
                peer.text(&long).await;
                let ack = peer.until(|text| text.starts_with("431[")).await;
                assert!(ack.contains(r#""success":false"#), "{ack}");
                peers.push(peer);
            }
            "acks `Too many rooms and subscriptions` past `MAX_ROOMS_PER_SOCKET`".to_owned()
        })
        .await;
}

const GREEDY: usize = 60;

/// Some clients that each join a thousand rooms that nobody else is in, and how many they are in.
pub(super) async fn greedy_clients(server: &Victim) -> (Vec<Peer>, usize) {
    let (mut peers, mut joined) = (Vec::new(), 0);
    for client in 0..GREEDY {
        let mut peer = Peer::client(server).await;
        let names = (0..1_000).map(|number| format!("{client:0>120}-{number}"));
        peer.send(&texts(names.map(|name| format!(r#"421["joinRoom","{name}"]"#)))).await;
        for _ in 0..1_000 {
            let ack = peer.until(|text| text.starts_with("431[")).await;
            let is_in = ack.contains(r#""success":true"#);
            assert!(is_in || ack.contains("Too many rooms and subscriptions"), "{ack}");
            joined += usize::from(is_in);
        }
        peers.push(peer);
    }
    (peers, joined)
}

#[tokio::test]
async fn room_floods_of_many() {
    let siege = Siege::of("60 clients that each join 1,000 rooms that nobody else is in")
        .with("RECOVERY_MS", "0")
        .with("MAX_ROOMS", "40000")
        .memory(48);
    siege
        .run(async |server| {
            let (_peers, joined) = greedy_clients(server).await;
            let (all, limit) = match server.origin {
                Origin::OneAddress => (10_000, "rooms per address"),
                Origin::ThousandAddresses => (40_000, "rooms"),
            };
            // Eight each are let be.
            assert!((all..=all + 8 * GREEDY).contains(&joined), "{joined}");
            assert!(limit_met(server, limit).await > 0);
            "acks `Too many rooms and subscriptions` past `MAX_ROOMS` or an address's share of it".to_owned()
        })
        .await;
}

#[tokio::test]
async fn session_floods() {
    let siege = Siege::of("400 clients that join 1,000 rooms each and are gone, one after the other").memory(160);
    siege
        .run(async |server| {
            let joins = texts((0..1_000).map(|number| format!(r#"42["joinRoom","{number:0>128}"]"#)));
            for _ in 0..400 {
                let mut peer = Peer::client(server).await;
                peer.send(&joins).await;
                peer.text(r#"421["getConnectionInfo"]"#).await;
                peer.until(|text| text.starts_with("431[")).await;
            }
            assert!(metric(server, "slop_sessions_away").await < 400.0);
            "handled; kept for recovery are 64 MiB of sessions".to_owned()
        })
        .await;
}

#[tokio::test]
async fn token_floods() {
    let siege = Siege::of("100 clients that guess tokens");
    siege
        .run(async |server| {
            for _ in 0..100 {
                let mut peer = Peer::client(server).await;
                peer.send(&texts((0..50).map(|id| format!(r#"42{id}["authenticate",{{"token":"a.b.c"}}]"#)))).await;
                let (_, texts) = peer.end().await;
                assert_eq!(texts.iter().filter(|text| text.contains(r#""success":false"#)).count(), 10);
            }
            "acks `Token is invalid`; closed after `AUTH_FAILURE_LIMIT`".to_owned()
        })
        .await;
}
