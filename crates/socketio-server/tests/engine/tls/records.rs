//! Records against the rules, after the handshake.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use socketio_server::{Config, DisconnectReason, rustls::version::TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::relay::{echoing, handshake, start, trusting, until_closed};
use crate::{
    client::Ws,
    harness::{eventually, within},
};

#[tokio::test]
async fn records_against_the_rules_end_their_connection_alone() {
    let (server, identity, relay) = start(Config { shards: 1, ..Config::default() }, echoing);
    let mut bystander = Ws::open_at(relay.addr, "/engine.io/").await;
    let config = Arc::new(trusting(&[&identity.certificate], &TLS13));
    for garbage in [
        // Application data that nobody with the key has made.
        [b"\x17\x03\x03\x00\x20".as_slice(), &[7; 32]].concat(),
        // An unknown kind of record, and one that is too long.
        b"\x63\x03\x03\x00\x01x".to_vec(),
        [b"\x17\x03\x03\xff\xff".as_slice(), &[7; 70_000]].concat(),
    ] {
        let ended = server.ended(DisconnectReason::TransportError);
        let mut stream = handshake(server.addr, &config).await.expect("a handshake");
        let request = "GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut answer = vec![0; 1024];
        let mut length = 0;
        while !answer.windows(3).any(|bytes| bytes == b"0{\"") {
            let count = within("the open packet", stream.read(&mut answer[length..])).await.expect("the server writes");
            assert!(count > 0);
            length += count;
        }
        let (mut tcp, _session) = stream.into_inner();
        let _reset_meanwhile = tcp.write_all(&garbage).await;
        until_closed(tcp, Instant::now()).await;
        eventually("it has ended", || server.ended(DisconnectReason::TransportError) == ended + 1).await;
        bystander.send("4x").await;
        assert_eq!(bystander.text().await, "4x");
    }
}

/// Also those that come before a request end their connection at once.
#[tokio::test]
async fn records_against_the_rules_are_no_request() {
    let header_timeout = Duration::from_secs(600);
    let (server, identity, _) = start(Config { shards: 1, header_timeout, ..Config::default() }, echoing);
    let config = Arc::new(trusting(&[&identity.certificate], &TLS13));
    let stream = handshake(server.addr, &config).await.expect("a handshake");
    let (mut tcp, _session) = stream.into_inner();
    tcp.write_all(&[b"\x17\x03\x03\x00\x20".as_slice(), &[7; 32]].concat()).await.expect("the server reads");
    until_closed(tcp, Instant::now()).await;
    eventually("nothing is left of it", || server.metrics().http_connections == 0).await;
}
