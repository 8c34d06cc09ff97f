//! Places for connections, all of which somebody takes.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use socketio_protocol::websocket::OpCode;

use super::peer::{HANDSHAKE, Peer, masked};
use super::siege::{Siege, falls_to, measured, metric};
use super::victim::{Origin, Victim};
use crate::server::{KEY, Server};
use crate::tls::Files;

/// How long those stay that hold a place and do nothing.
const STAY_MS: &str = "3000";

#[tokio::test]
async fn refused_polling_clients() {
    let siege = Siege::of("1,100 polling clients where 10 may be, whose connections stay open")
        .with("KEEP_ALIVE_TIMEOUT_MS", "5000")
        .with("MAX_CONNECTIONS", "10")
        .with("CONNECT_TIMEOUT_MS", "5000")
        .memory(32);
    siege
        .run(async |victim| {
            let mut peers = Vec::new();
            for _ in 0..1_100 {
                let mut peer = Peer::connect(victim).await;
                peer.request("GET", HANDSHAKE, "", b"").await;
                peers.push(peer);
            }
            for peer in &mut peers {
                if let Some(answer) = peer.answer().await.filter(|answer| answer.status != 200) {
                    assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                    answer.says_when_to_retry();
                }
            }
            stay(victim, peers).await;
            "503 past `MAX_CONNECTIONS`; publishers and health checks get in".to_owned()
        })
        .await;
}

/// Others are served at once: the silent ones are too many for their address, or make room.
async fn stay(victim: &Victim, mut peers: Vec<Peer>) {
    for (method, target, body) in [
        ("GET", "/health/live", &b""[..]),
        ("POST", "/v1/users/u/notifications", br#"{"type":"info","title":"t","message":"m"}"#),
    ] {
        let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
        let mut other = Peer::dial("127.0.0.6", &victim.way).await.expect("a connection");
        other.request(method, target, &headers, body).await;
        let status = other.answer().await.map(|answer| answer.status);
        assert_eq!(status, Some(200), "{target}");
    }
    if measured().is_some() {
        for peer in &mut peers {
            peer.closed().await;
        }
    }
}

async fn silence(victim: &Victim, count: usize) {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(Peer::connect(victim).await);
    }
    stay(victim, peers).await;
}

#[tokio::test]
async fn silent_connections_in_every_place() {
    let siege = Siege::of("2,100 TCP connections that say nothing, where 1,000 clients may be")
        .with("MAX_CONNECTIONS", "1000")
        .memory(48);
    siege
        .run(async |victim| {
            silence(victim, 2_100).await;
            "closed after `HEADER_TIMEOUT_MS`; publishers and health checks get in".to_owned()
        })
        .await;
}

#[tokio::test]
async fn silent_connections_and_few_files() {
    let siege = Siege::of("1,500 TCP connections that say nothing, to a server that may open 1,024 files").memory(48);
    let start = async |settings: &[(&str, &str)]| (Server::start_after("ulimit -n 1024", settings), ());
    siege
        .run_on(start, async |victim, ()| {
            silence(victim, 1_500).await;
            "refused, or closed after `HEADER_TIMEOUT_MS`; publishers and health checks get in".to_owned()
        })
        .await;
}

#[tokio::test]
async fn half_messages_in_all_the_room() {
    let siege =
        Siege::of("87 WebSockets that hold 64 MiB of halves of messages, beside a client with messages of 100 KB")
            .memory(112);
    siege
        .run(async |victim| {
            let mut peers = Vec::new();
            for _ in 0..87 {
                let mut peer = Peer::client(victim).await;
                let mut frame = masked(OpCode::Text, &vec![b'4'; 999_000]);
                frame.truncate(775_000);
                peer.send(&frame).await;
                peers.push(peer);
            }
            if victim.origin == Origin::OneAddress {
                let mut other = Peer::dial("127.0.0.6", &victim.way).await.expect("a connection");
                assert_eq!(other.upgrade("", "").await.status, 101);
                other.text("40").await;
                other.until(|text| text.starts_with("42[\"welcome\"")).await;
                for _ in 0..20 {
                    let frame = masked(OpCode::Text, format!(r#"420["ping","{}"]"#, "x".repeat(100_000)).as_bytes());
                    let (first, second) = frame.split_at(frame.len() / 2);
                    other.send(first).await;
                    // The first half has been read when something else is answered.
                    metric(victim, "slop_unfinished_bytes").await;
                    other.send(second).await;
                    other.until(|text| text.starts_with("430[")).await;
                }
            }
            drop(peers);
            falls_to(victim, "slop_connections", 1).await;
            "closed past the share of an address: `too many unfinished bytes`; others are served".to_owned()
        })
        .await;
}

#[tokio::test]
async fn headers_that_do_not_end_after_a_request() {
    let siege = Siege::of("2,000 connections that ask for health, and then send 31 KB of a header and no more")
        .with("HEADER_TIMEOUT_MS", STAY_MS)
        .with("MAX_HANDSHAKES", "1000")
        .with("MAX_HANDSHAKES_PER_ADDRESS", "500")
        // A thousand of 43 KiB, and what they are besides.
        .memory(56);
    siege
        .run(async |victim| {
            let head = format!("GET /health/live HTTP/1.1\r\nHost: test\r\nX-Long: {}", "x".repeat(31_000));
            let mut peers = Vec::new();
            for _ in 0..2_000 {
                let mut peer = Peer::connect(victim).await;
                peer.request("GET", "/health/live", "", b"").await;
                if peer.answer().await.is_some_and(|answer| answer.status == 200) {
                    peers.push(peer);
                }
            }
            for peer in &mut peers {
                peer.send(head.as_bytes()).await;
            }
            for peer in &mut peers {
                peer.closed().await;
            }
            "429 or 503 past `MAX_HANDSHAKES`; the others closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn halves_of_client_hellos() {
    let files = Files::new();
    let mut roots = RootCertStore::empty();
    roots.add(files.renew(2040)).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let siege = Siege::of("500 connections that send the first 60 KB of a ClientHello")
        .with("HEADER_TIMEOUT_MS", STAY_MS)
        .tls(Arc::new(config))
        // Of 12 KiB each.
        .memory(16);
    let start = async |settings: &[(&str, &str)]| {
        let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
        let mut settings = settings.to_vec();
        settings.extend([("TLS_CERT_FILE", certificate.as_str()), ("TLS_KEY_FILE", &key)]);
        (Server::start_with(&settings), ())
    };
    siege
        .run_on(start, async |victim, ()| {
            // A handshake message of type 1 that is longer than what comes of it, in records of 16 KB.
            let mut records = Vec::new();
            let mut message = [&[1, 0, 0xff, 0xff][..], &[3; 60_000]].concat();
            while !message.is_empty() {
                let rest = message.split_off(message.len().min(16_000));
                let length = u16::try_from(message.len()).expect("a record's length");
                records.extend_from_slice(&[22, 3, 1]);
                records.extend_from_slice(&length.to_be_bytes());
                records.append(&mut message);
                message = rest;
            }
            let mut peers = Vec::new();
            for _ in 0..500 {
                let mut peer = Peer::plain(victim).await;
                peer.send(&records).await;
                peers.push(peer);
            }
            for peer in &mut peers {
                peer.closed().await;
            }
            "closed after `HEADER_TIMEOUT_MS`".to_owned()
        })
        .await;
}
