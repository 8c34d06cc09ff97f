//! Handshakes that are slow, too large, too many or none at all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use socketio_server::{
    Config, Limit, Tls,
    rustls::{pki_types::ServerName, version::TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::relay::{Identity, echoing, start, trusting, until_closed};
use crate::{
    client::{Http, Ws},
    harness::{DEADLINE, TestServer, eventually, within},
};

#[tokio::test]
async fn handshakes_that_are_not_finished_are_given_up() {
    let patience = Duration::from_millis(300);
    let config = Config { shards: 1, header_timeout: patience, ..Config::default() };
    let (server, _, relay) = start(config, echoing);
    let mut bystander = Ws::open_at(relay.addr, "/engine.io/").await;
    let mut waiting = JoinSet::new();
    for index in 0..200 {
        let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
        match index % 3 {
            0 => {}
            // The beginning of a ClientHello, as far as its length.
            1 => stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.expect("the connection is open"),
            // A record that never becomes whole.
            _ => stream.write_all(b"\x16\x03\x01\x40\x00").await.expect("the connection is open"),
        }
        waiting.spawn(until_closed(stream, Instant::now()));
    }
    bystander.send("4x").await;
    assert_eq!(bystander.text().await, "4x");
    for took in waiting.join_all().await {
        assert!(took >= patience / 2, "they had some time: {took:?}");
    }
    eventually("all are counted", || server.metrics().tls_handshakes_failed == 200).await;
    assert_eq!(met(&server, Limit::HeaderTime), 200);
    bystander.send("4y").await;
    assert_eq!(bystander.text().await, "4y");
    // None is left: the bystander's is the only one that a drain has to wait for.
    drop(bystander);
    eventually("the bystander is gone", || server.metrics().connections == 0).await;
}

#[tokio::test]
async fn a_slow_handshake_and_a_slow_request_have_the_time_once() {
    let patience = Duration::from_secs(2);
    let identity = Identity::new();
    let client = Arc::new(trusting(&[&identity.certificate], &TLS13));
    let tls = Arc::new(Tls::new(identity.config));
    let config = Config { shards: 1, header_timeout: patience, ..Config::default() };
    let server = TestServer::start(config, |server| echoing(server.tls(tls)));
    let began = Instant::now();
    let stream = TcpStream::connect(server.addr).await.expect("the server listens");
    tokio::time::sleep(patience * 3 / 4).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(client).connect(name, stream).await.expect("there is time left");
    stream.write_all(b"GET / HTTP/1.1\r\nX-Half: ").await.expect("the connection is open");
    let _end = within("the server closes", stream.read_to_end(&mut Vec::new())).await;
    let took = began.elapsed();
    assert!(took < patience * 3 / 2, "{took:?}");
    assert_eq!(met(&server, Limit::HeaderTime), 1);
}

#[tokio::test]
async fn a_handshake_is_refused_that_is_larger_than_any() {
    let (server, _, relay) = start(Config { shards: 1, ..Config::default() }, echoing);
    let mut bystander = Ws::open_at(relay.addr, "/engine.io/").await;
    // A ClientHello of 60 KB in records of 16 KB, the last of which does not come.
    let mut hello = vec![1, 0, 60_000_u32.to_be_bytes()[2], 60_000_u32.to_be_bytes()[3]];
    hello.resize(48_000, 0);
    let records: Vec<u8> = hello
        .chunks(16_000)
        .flat_map(|part| {
            let length = (part.len() as u16).to_be_bytes();
            [&[0x16, 3, 1, length[0], length[1]], part].concat()
        })
        .collect();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
        let _ = stream.write_all(&records).await;
        let _end = within("the server closes", stream.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!((met(&server, Limit::TlsHandshakeSize), met(&server, Limit::HeaderTime)), (5, 0));
    assert_eq!(server.metrics().tls_handshakes_failed, 5);
    bystander.send("4x").await;
    assert_eq!(bystander.text().await, "4x");
}

#[tokio::test]
async fn a_handshake_has_its_place_from_the_first_byte_on() {
    let config = Config { shards: 1, max_handshakes_per_address: 2, ..Config::default() };
    let (server, _, relay) = start(config, echoing);
    let mut bystander = Ws::open_at(relay.addr, "/engine.io/").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(server.addr).await.expect("the server listens"));
    }
    eventually("both have a place", || server.metrics().handshakes == 2).await;
    // One more is turned away without a word, since none in the clear would be understood.
    let mut third = TcpStream::connect(server.addr).await.expect("the server listens");
    let mut rest = Vec::new();
    within("it is closed", third.read_to_end(&mut rest)).await.expect("an orderly end");
    assert_eq!((rest.as_slice(), met(&server, Limit::HandshakesPerAddress)), (&[][..], 1));
    bystander.send("4x").await;
    assert_eq!(bystander.text().await, "4x");
    drop(held);
    eventually("their places are free", || server.metrics().handshakes == 0).await;
    Ws::open_at(relay.addr, "/engine.io/").await;
}

#[tokio::test]
async fn a_handshake_under_way_does_not_hold_a_drain_up() {
    let config = Config { shards: 1, header_timeout: DEADLINE, ..Config::default() };
    let (mut server, _, _) = start(config, echoing);
    let stream = TcpStream::connect(server.addr).await.expect("the server listens");
    // The server has taken the connection when it has answered one that came after it.
    let refused = Http::connect(server.addr).await;
    drop(refused);
    eventually("the later one is taken", || server.metrics().tls_handshakes_failed == 1).await;
    let (drained, took) = server.shut_down(DEADLINE).await;
    assert_eq!(drained.connections_left, 0);
    assert!(took < DEADLINE / 2, "{took:?}");
    drop(stream);
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_closed() {
    let (server, _, relay) = start(Config { shards: 1, ..Config::default() }, echoing);
    let mut bystander = Ws::open_at(relay.addr, "/engine.io/").await;
    for what in [
        b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\x05hello".to_vec(),
        vec![0xff; 70_000],
        // SSL 2.
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(),
    ] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
        let _reset_meanwhile = stream.write_all(&what).await;
        let took = until_closed(stream, began).await;
        assert!(took < Config::default().header_timeout, "not only for being slow: {took:?}");
    }
    eventually("all are counted", || server.metrics().tls_handshakes_failed == 4).await;
    bystander.send("4x").await;
    assert_eq!(bystander.text().await, "4x");
}

fn met(server: &TestServer, limit: Limit) -> u64 {
    server.metrics().limits.iter().find(|(known, _)| *known == limit).map_or(0, |(_, count)| *count)
}
