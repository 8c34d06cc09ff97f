//! Requests that come so slowly that the server waits for them, and answers that are taken so slowly.

use std::time::Duration;

use socketio_protocol::websocket::OpCode;

use super::bystanders::STREAMS;
use super::peer::{HANDSHAKE, Peer, masked, session};
use super::siege::{Siege, falls_to, limit_met};
use super::victim::Victim;
use crate::api::metric;

/// Of one address there is its share, of a thousand all that there is.
async fn unfinished_bytes_met(victim: &Victim) -> u64 {
    limit_met(victim, "unfinished bytes per address").await + limit_met(victim, "unfinished bytes").await
}

/// Attackers at a time.
const MANY: usize = 500;

#[tokio::test]
async fn slow_headers() {
    let siege = Siege::of("500 requests, a header line every 50 ms").with("HEADER_TIMEOUT_MS", "1000");
    siege
        .run(async |server| {
            let met = limit_met(server, "header time").await;
            let mut trickles = tokio::task::JoinSet::new();
            for _ in 0..MANY {
                let mut peer = Peer::connect(server).await;
                trickles.spawn(async move {
                    peer.send(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: test\r\n").await;
                    while peer.send(b"X-Slow: yes\r\n").await {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
            }
            trickles.join_all().await;
            assert_eq!(limit_met(server, "header time").await, met + MANY as u64);
            "closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn slow_bodies_of_nobody() {
    let siege = Siege::of("500 POSTs of 1 MB, to sessions that don't exist");
    siege
        .run(async |server| {
            let mut peers = Vec::new();
            for _ in 0..MANY {
                let mut peer = Peer::connect(server).await;
                let head = format!("POST {HANDSHAKE}&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n4");
                peer.send(head.as_bytes()).await;
                peers.push(peer);
            }
            for peer in &mut peers {
                assert_eq!(peer.answer().await.expect("an answer").status, 400);
            }
            "400 before the body".to_owned()
        })
        .await;
}

#[tokio::test]
async fn slow_bodies() {
    let siege = Siege::of("200 POSTs, each half of 1 MB, to sessions of their own")
        .with("BODY_TIMEOUT_MS", "1000")
        .with("CONNECT_TIMEOUT_MS", "3000")
        .with("MAX_UNFINISHED_BYTES", "16000000")
        .memory(64);
    siege
        .run(async |server| {
            let mut peers = Vec::new();
            for _ in 0..200 {
                let sid = session(server).await;
                let mut peer = Peer::connect(server).await;
                let head =
                    format!("POST {HANDSHAKE}&sid={sid} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
                peer.send(&[head.as_bytes(), &vec![b'4'; 500_000]].concat()).await;
                peers.push(peer);
            }
            assert!(metric(server, "slop_unfinished_bytes").await <= 16_000_000.0);
            let (mut late, mut no_room) = (0, 0);
            for peer in &mut peers {
                match peer.answer().await.map(|answer| answer.status) {
                    Some(408) => late += 1,
                    // Its session may have ended before, or the answer was lost with the connection.
                    Some(503) | None => no_room += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert!(late > 0 && no_room > 0, "{late} {no_room}");
            assert!(unfinished_bytes_met(server).await > 0);
            assert!(limit_met(server, "body time").await > 0);
            "408 after `BODY_TIMEOUT_MS`; 503 past `MAX_UNFINISHED_BYTES` or an address's share of it".to_owned()
        })
        .await;
}

pub(super) async fn half_messages(server: &Victim) -> Vec<Peer> {
    let mut frame = masked(OpCode::Text, &vec![b'4'; 999_999]);
    frame.truncate(500_000);
    let mut peers = Vec::new();
    for _ in 0..MANY {
        let mut peer = Peer::client(server).await;
        peer.send(&frame).await;
        peers.push(peer);
    }
    peers
}

#[tokio::test]
async fn slow_messages() {
    let siege = Siege::of("500 WebSockets, each with half of a message of 1 MB")
        .with("MAX_UNFINISHED_BYTES", "16000000")
        .memory(64);
    siege
        .run(async |server| {
            let _peers = half_messages(server).await;
            assert!(metric(server, "slop_unfinished_bytes").await <= 16_000_000.0);
            assert!(unfinished_bytes_met(server).await > 0);
            "closed past `MAX_UNFINISHED_BYTES` or an address's share of it: `too many unfinished bytes`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn answers_that_nobody_takes() {
    let siege = Siege::of("200 connections that ask 2,000 times for the API's description and take nothing")
        .with("WRITE_STALL_MS", "1000")
        .memory(32);
    siege
        .run(async |server| {
            let request = b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n".repeat(2_000);
            let mut peers = Vec::new();
            for _ in 0..200 {
                let mut peer = Peer::connect(server).await;
                // The server stops reading when it can't write.
                let _ = tokio::time::timeout(Duration::from_millis(20), peer.send(&request)).await;
                peers.push(peer);
            }
            assert!(metric(server, "slop_streams").await > 200.0);
            falls_to(server, "slop_streams", STREAMS).await;
            "no more is made than the kernel takes; ended by it after twice `WRITE_STALL_MS`".to_owned()
        })
        .await;
}

/// Requests that have sent so much of a header, and not its end.
async fn begin_headers_of(server: &Victim, bytes: usize) -> Vec<Peer> {
    let head = format!("GET {HANDSHAKE} HTTP/1.1\r\nHost: test\r\nX-Long: {}", "x".repeat(bytes));
    let mut peers = Vec::new();
    for _ in 0..MANY {
        let mut peer = Peer::connect(server).await;
        peer.send(head.as_bytes()).await;
        peers.push(peer);
    }
    peers
}

#[tokio::test]
async fn long_headers() {
    let siege = Siege::of("500 requests, each with a header of 400 KB");
    siege
        .run(async |server| {
            let met = limit_met(server, "header size").await;
            for peer in &mut begin_headers_of(server, 400_000).await {
                // What has come besides is not read, and so the answer may be lost.
                let status = peer.answer().await.map(|answer| answer.status);
                assert!(status.is_none_or(|status| status == 431), "{status:?}");
            }
            assert_eq!(limit_met(server, "header size").await, met + MANY as u64);
            "431 past 32 KiB".to_owned()
        })
        .await;
}

#[tokio::test]
async fn long_headers_that_do_not_end() {
    let siege =
        Siege::of("500 requests, each with 31 KB of a header and no more").with("HEADER_TIMEOUT_MS", "2000").memory(32);
    siege
        .run(async |server| {
            for peer in &mut begin_headers_of(server, 31_000).await {
                peer.closed().await;
            }
            "closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn long_headers_of_clients() {
    // Without those that are kept to come back, a thousand more with every repetition.
    let siege = Siege::of("1,000 WebSockets that began with `Authorization` and 30 KB of another header")
        .with("RECOVERY_MS", "0");
    siege
        .run(async |server| {
            let headers = format!("Authorization: Basic eDp5\r\nX-Long: {}\r\n", "x".repeat(30_000));
            let mut peers = Vec::new();
            for _ in 0..1_000 {
                let mut peer = Peer::connect(server).await;
                assert_eq!(peer.upgrade("", &headers).await.status, 101);
                peer.text("40").await;
                peer.until(|text| text.starts_with("40{")).await;
                peers.push(peer);
            }
            "served; `Authorization` is kept, and nothing besides".to_owned()
        })
        .await;
}
