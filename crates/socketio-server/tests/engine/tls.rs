//! The engine over TLS. The other files' clients speak to it through a relay that puts TLS on what they send. What holds in the
//! clear holds here too, whatever certificate is in force.

mod ends;
mod handshakes;
mod records;
mod relay;
mod slow_readers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use socketio_protocol::websocket::OpCode;
use socketio_server::{
    Config, Namespace, Recovery, Tls,
    rustls::version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::{
    client::{Http, Packet, Polling, Ws, get, masked},
    harness::{TestServer, echo, eventually, within},
};
use relay::{Identity, echoing, handshake};
pub(crate) use relay::{Relay, start, trusting};

on_one_and_three_shards!(
    both_transports_and_the_change_between_them_work,
    messages_larger_than_records_are_whole,
    a_new_certificate_disturbs_nobody,
    a_session_comes_back,
);

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
