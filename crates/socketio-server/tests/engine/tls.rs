//! The engine over TLS. The other files' clients speak to it through a relay that puts TLS on what they send.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::body::Incoming;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use socketio_protocol::websocket::OpCode;
use socketio_server::{
    Config, DisconnectReason, Limit, Namespace, RawEndpoint, Recovery, ServerBuilder, Tls,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    client::{Http, Packet, Polling, Received, Ws, get, masked},
    harness::{DEADLINE, TestServer, answering, echo, eventually, recorder, within},
};

on_one_and_three_shards!(
    both_transports_and_the_change_between_them_work,
    messages_larger_than_records_are_whole,
    a_new_certificate_disturbs_nobody,
    a_session_comes_back,
);

/// A certificate that signs itself, for this name.
struct Identity {
    certificate: CertificateDer<'static>,
    config: ServerConfig,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let certificate = cert.der().clone();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], signing_key.into())
            .expect("a certificate and its key");
        Self { certificate, config }
    }
}

/// A client that trusts these certificates and no other.
fn trusting(certificates: &[&CertificateDer<'static>], version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add((*certificate).clone()).expect("a certificate");
    }
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .expect("a known version")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn handshake(addr: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    within("the handshake", TlsConnector::from(config.clone()).connect(name, stream)).await
}

/// Puts TLS on every connection that is made to it, until it is dropped. It has a thread of its own: a test that ends waits
/// for its connections to be gone.
struct Relay {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn to(server: SocketAddr, config: ClientConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = relay(listener, server, Arc::new(config)) => {}
                }
            });
        });
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the relay does not panic");
    }
}

async fn relay(listener: std::net::TcpListener, server: SocketAddr, config: Arc<ClientConfig>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    loop {
        let (mut plain, _) = listener.accept().await.expect("a connection");
        plain.set_nodelay(true).expect("a TCP option");
        let config = config.clone();
        connections.spawn(async move {
            if let Ok(mut tls) = handshake(server, &config).await {
                let _ = copy_bidirectional(&mut plain, &mut tls).await;
            }
        });
    }
}

/// A server with a certificate, and a way to it for plain clients.
fn start(config: Config, describe: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (TestServer, Identity, Relay) {
    let identity = Identity::new();
    let tls = Arc::new(Tls::new(identity.config.clone()));
    let server = TestServer::start(config, |server| describe(server.tls(tls)));
    let relay = Relay::to(server.addr, trusting(&[&identity.certificate], &TLS13));
    (server, identity, relay)
}

fn echoing(server: ServerBuilder) -> ServerBuilder {
    server.namespace(echo("/")).raw_endpoint(RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
}

async fn both_transports_and_the_change_between_them_work(shards: usize) {
    let (server, identity, _) = start(Config { shards, ..Config::default() }, echoing);
    for version in [&TLS12, &TLS13] {
        let relay = Relay::to(server.addr, trusting(&[&identity.certificate], version));
        let mut ws = Ws::open_at(relay.addr, "/engine.io/").await;
        ws.send("4one").await;
        assert_eq!(ws.text().await, "4one");
        ws.send_binary(&[1, 2, 3]).await;
        assert_eq!(ws.binary().await, [1, 2, 3]);
        drop(ws);

        let mut polling = Polling::open_at(relay.addr, "/engine.io/").await;
        polling.send("4two").await;
        assert_eq!(polling.text().await, "4two");

        let mut probe = Ws::probe_at(relay.addr, "/engine.io/", &polling.sid).await.expect("a WebSocket");
        probe.send("2probe").await;
        assert_eq!(probe.text().await, "3probe");
        let poll = polling.begin_poll().await;
        assert_eq!(poll.response().await.parts(), (200, "6"));
        // What came before the change, and with it.
        polling.send("4three").await;
        let changed = [masked(OpCode::Text, b"5"), masked(OpCode::Text, b"4four")].concat();
        probe.send_raw(&changed).await;
        assert_eq!(probe.text().await, "4three");
        assert_eq!(probe.text().await, "4four");
    }
    assert_eq!(server.metrics().upgrades, 2);
    eventually("all are gone", || server.metrics().connections == 0).await;
    assert_eq!(server.metrics().tls_handshakes_failed, 0);
}

async fn messages_larger_than_records_are_whole(shards: usize) {
    let (_server, _, relay) = start(Config { shards, ..Config::default() }, echoing);
    let mut ws = Ws::open_at(relay.addr, "/engine.io/").await;
    for length in [1, 4_095, 4_096, 16_383, 16_384, 16_385, 65_536, 999_999] {
        let data: Vec<u8> = (0..length).map(|index: usize| index as u8).collect();
        ws.send_binary(&data).await;
        assert!(ws.binary().await == data, "{length} bytes came back");
    }
    // As many small ones in one go.
    let texts: Vec<String> = (0..5_000).map(|number| format!("4{number}")).collect();
    ws.send_raw(&crate::client::text_frames(texts.iter().map(String::as_str))).await;
    for text in &texts {
        assert_eq!(ws.text().await, *text);
    }
    let mut polling = Polling::open_at(relay.addr, "/engine.io/").await;
    let text = format!("4{}", "x".repeat(200_000));
    polling.send(&text).await;
    assert!(polling.packet().await == Packet::Text(text));
}

/// New clients see the new certificate, those who are there stay, and nothing that is on its way is lost.
async fn a_new_certificate_disturbs_nobody(shards: usize) {
    const CLIENTS: usize = 8;
    const ROTATIONS: usize = 5;
    let first = Identity::new();
    let tls = Arc::new(Tls::new(first.config.clone()));
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| echoing(server.tls(tls.clone())));
    let relay = Relay::to(server.addr, trusting(&[&first.certificate], &TLS13));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut ws = Ws::open_at(relay.addr, "/engine.io/").await;
        let stop = stop.clone();
        clients.spawn(async move {
            let mut count = 0_u32;
            while !stop.load(Relaxed) {
                ws.send(&format!("4{count}")).await;
                assert_eq!(ws.text().await, format!("4{count}"));
                count += 1;
            }
            (ws, count)
        });
    }
    let opened = server.metrics().connections_opened;
    let mut seen = vec![first.certificate];
    for _ in 0..ROTATIONS {
        let next = Identity::new();
        tls.replace(next.config.clone());
        seen.push(next.certificate.clone());
        let everyone: Vec<_> = seen.iter().collect();
        let config = Arc::new(trusting(&everyone, &TLS13));
        for _ in 0..2 {
            let mut stream = handshake(server.addr, &config).await.expect("a handshake");
            // The ticket for the next time comes with the answer.
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await
                .expect("a request");
            let mut answer = String::new();
            within("the answer", stream.read_to_string(&mut answer)).await.expect("an end that is said");
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            let (_, session) = stream.get_ref();
            assert_eq!(session.peer_certificates(), Some([next.certificate.clone()].as_slice()));
        }
        // Whoever trusts the old one only stays out.
        let old = Arc::new(trusting(&[&seen[0]], &TLS13));
        handshake(server.addr, &old).await.expect_err("a certificate that it does not know");
    }
    stop.store(true, Relaxed);
    let clients = within("all clients", clients.join_all()).await;
    assert!(clients.iter().all(|(_, count)| *count > 0), "they spoke meanwhile");
    let metrics = server.metrics();
    assert_eq!((metrics.connections, metrics.connections_opened), (CLIENTS as u64, opened), "and all are there still");
    eventually("those who stayed out are counted", || server.metrics().tls_handshakes_failed == ROTATIONS as u64).await;
}

async fn a_session_comes_back(shards: usize) {
    let config = Config { shards, recovery: Some(Recovery::default()), ..Config::default() };
    let (server, _, relay) = start(config, |server| {
        server.namespace(Namespace::new("/").on("join", |socket, event| {
            socket.join("room").expect("a room");
            event.ack(&true);
        }))
    });
    let mut ws = Ws::open(relay.addr).await;
    ws.send("40").await;
    let consent = ws.text().await;
    let pid = consent.split("\"pid\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a pid").to_owned();
    ws.send(r#"420["join"]"#).await;
    assert!(ws.text().await.starts_with("430[true"));
    let emit = |text: &'static str| server.handle.to("/", "room").emit("said", &text).expect("a name");
    assert_eq!(emit("one").await, 1);
    let event = ws.text().await;
    let offset = event.rsplit('"').nth(1).expect("an offset").to_owned();
    drop(ws);
    eventually("it is gone", || server.metrics().connections == 0).await;
    assert_eq!(emit("two").await, 0);

    let mut ws = Ws::open(relay.addr).await;
    ws.send(&format!(r#"40{{"pid":"{pid}","offset":"{offset}"}}"#)).await;
    assert_eq!(ws.text().await, consent, "the same id and pid");
    assert!(ws.text().await.starts_with(r#"42["said","two","#));
    assert_eq!(server.metrics().recovered, 1);
}

#[tokio::test]
async fn the_end_is_said_in_both_languages() {
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
async fn the_end_of_an_idle_connection_is_said_too() {
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

fn met(server: &TestServer, limit: Limit) -> u64 {
    server.metrics().limits.iter().find(|(known, _)| *known == limit).map_or(0, |(_, count)| *count)
}

/// Reads until the server ends the connection; returns how long that took.
async fn until_closed(mut stream: TcpStream, began: Instant) -> Duration {
    let mut rest = Vec::new();
    let _end = within("the server closes", stream.read_to_end(&mut rest)).await;
    began.elapsed()
}

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

#[tokio::test]
async fn answers_are_not_sniffed() {
    // The session of the first answer goes no further.
    let config = Config { shards: 1, connect_timeout: Duration::from_millis(300), ..Config::default() };
    let (_server, _, relay) = start(config, echoing);
    for target in ["/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=3", "/nowhere"] {
        let response = get(relay.addr, target).await;
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(response.header("cache-control"), Some("no-store"), "{target}");
    }
}

/// The same connection serves one request after the other.
#[tokio::test]
async fn connections_are_kept_alive() {
    let (server, _, relay) = start(Config { shards: 1, ..Config::default() }, |server| server.namespace(echo("/")));
    let mut http = Http::connect(relay.addr).await;
    for _ in 0..3 {
        assert_eq!(http.request("GET", "/nowhere", &[], b"").await.status, 404);
    }
    assert_eq!(server.metrics().tls_handshakes, 1);
    let (mut ws, _) = Ws::connected(relay.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    ws.send(r#"42["message",1,"2",{"3":[false]}]"#).await;
    assert_eq!(ws.text().await, r#"42["message-back",1,"2",{"3":[false]}]"#);
}
