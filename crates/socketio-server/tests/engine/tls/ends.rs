//! The ends of connections: TLS has one of its own, for each direction.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, rustls::version::TLS13};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

use super::relay::{echoing, handshake, start, trusting};
use crate::{
    client::{get, masked},
    harness::{DEADLINE, answering, within},
};

#[tokio::test]
async fn the_end_has_a_close_frame_and_a_close_notify() {
    let (server, identity, _) = start(Config { shards: 1, ..Config::default() }, echoing);
    let config = Arc::new(trusting(&[&identity.certificate], &TLS13));
    let mut stream = handshake(server.addr, &config).await.expect("a handshake");
    let request = "GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // The first frame comes in the same record as the request.
    stream.write_all(&[request.as_bytes(), &masked(OpCode::Text, b"1")].concat()).await.expect("the server reads");
    let mut answer = Vec::new();
    // Without TLS's own end this is an error.
    within("the end", stream.read_to_end(&mut answer)).await.expect("an end that is said");
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    let close = b"\x88\x11\x03\xe8transport close";
    assert!(answer.ends_with(close), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);

    // Only HTTP/1.1 is spoken, and who wants something else alone is told so.
    for (offered, agreed) in [(b"http/1.1".as_slice(), true), (b"h2".as_slice(), false)] {
        let mut config = trusting(&[&identity.certificate], &TLS13);
        config.alpn_protocols = vec![offered.to_vec()];
        let handshake = handshake(server.addr, &Arc::new(config)).await;
        assert_eq!(handshake.is_ok(), agreed);
        if let Ok(stream) = handshake {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(offered));
        }
    }
}

/// Without TLS's own end a client that reads until it can't tell an answer that was cut off.
#[tokio::test]
async fn the_end_of_an_idle_connection_has_a_close_notify() {
    let idle = Duration::from_millis(100);
    for (keep_alive_timeout, drains) in [(idle, false), (Duration::from_secs(60), true)] {
        let config = Config { shards: 1, keep_alive_timeout, ..Config::default() };
        let (mut server, identity, _) = start(config, echoing);
        let config = Arc::new(trusting(&[&identity.certificate], &TLS13));
        let mut stream = handshake(server.addr, &config).await.expect("a handshake");
        stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the server reads");
        let mut answer = vec![0; 12];
        within("an answer", stream.read_exact(&mut answer)).await.expect("an open connection");
        assert_eq!(answer, b"HTTP/1.1 404");
        let end = tokio::spawn(async move { within("the end", stream.read_to_end(&mut Vec::new())).await });
        if drains {
            let (_, took) = server.shut_down(DEADLINE).await;
            assert!(took < DEADLINE / 2, "{took:?}");
        }
        end.await.expect("no panic").expect("an end that is said");
    }
}

/// As `openssl s_client` does at the end of its input, and many clients without TLS's own end. The answer takes longer than the end
/// of the client's side needs to arrive.
#[tokio::test]
async fn a_request_whose_client_sends_no_more_is_answered() {
    let told = Arc::new(Notify::new());
    let is_told = told.clone();
    let waits = move |request: Request<Incoming>| {
        let is_told = is_told.clone();
        async move {
            if request.uri().path() == "/waits" {
                is_told.notified().await;
            }
            Response::default()
        }
    };
    let (server, identity, relay) =
        start(Config { shards: 1, ..Config::default() }, |server| server.fallback(answering(waits)));
    let config = Arc::new(trusting(&[&identity.certificate], &TLS13));
    for with_notice in [true, false] {
        let mut stream = handshake(server.addr, &config).await.expect("a handshake");
        stream.write_all(b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("the server reads");
        if with_notice {
            stream.shutdown().await.expect("an open connection");
        } else {
            stream.get_mut().0.shutdown().await.expect("an open connection");
        }
        // What came before it has been read when a later connection is answered.
        assert_eq!(get(relay.addr, "/").await.status, 200);
        told.notify_one();
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer)).await.expect("an end that is said");
        assert!(answer.starts_with("HTTP/1.1 200"), "{with_notice}: {answer}");
    }
}
