//! Peers that want more of a cluster than it gives.

use super::{GONE, NODE_A, NODE_B, Nodes, SECRET, config, vouched};
use crate::{
    client::{Ask, Headers, Http, Polling, Ws, request},
    harness::{eventually, within},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use socketio_server::{Config, DisconnectReason, Origins};

on_one_and_three_shards!(
    the_internal_listener_wants_the_secret,
    the_internal_listener_serves_sessions_only,
    a_request_is_forwarded_once,
    headers_of_nodes_mean_nothing_to_the_public_listener,
    a_forged_session_id_goes_nowhere,
    the_session_of_a_websocket_is_not_looked_for,
    a_body_that_is_too_large_ends_the_session,
    an_early_answer_arrives_though_the_body_is_sent_to_its_end,
    the_forwarding_node_keeps_its_own_limits,
);

const FORBIDDEN: (u16, &str) = (403, r#"{"code":4,"message":"Forbidden"}"#);

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn the_internal_listener_wants_the_secret(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = Polling::open_at(nodes.a.addr, "/engine.io/").await;
    session.send("4one").await;
    let (right, wrong) = (vouched(&SECRET), vouched(&[8; 32]));
    let given = [borrowed(&wrong), Vec::new(), borrowed(&right[..1]), borrowed(&right[1..])];
    let mut refused = 0;
    for headers in &given {
        let headers: Headers<'_> = headers;
        for (method, target) in [
            ("GET", session.target()),
            ("POST", session.target()),
            ("GET", "/engine.io/?EIO=4&transport=polling".to_owned()),
            ("GET", "/".to_owned()),
            ("OPTIONS", session.target()),
        ] {
            let answer = request(nodes.internal(NODE_A), method, &target, headers, b"").await;
            assert_eq!(answer.parts(), FORBIDDEN, "{method} {target}");
            refused += 1;
        }
        let target = session.target().replace("polling", "websocket");
        let ask = Ask { headers, ..Ask::default() };
        let answer = Ws::ask(nodes.internal(NODE_A), &target, ask).await.err().expect("no WebSocket");
        assert_eq!(answer.parts(), FORBIDDEN);
        refused += 1;
    }
    assert_eq!(nodes.a.metrics().forwards_refused, refused);
    assert_eq!(nodes.a.metrics().connections_opened, 1);
    assert_eq!(session.get().await.parts(), (200, "4one"), "nobody took what waits for the session");
}

async fn the_internal_listener_serves_sessions_only(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = Polling::open_at(nodes.a.addr, "/engine.io/").await;
    let (internal, headers) = (nodes.internal(NODE_A), vouched(&SECRET));
    let headers = borrowed(&headers);
    for (target, status) in [
        ("/", 404),
        ("/metrics", 404),
        ("/engine.io/?EIO=4&transport=polling", 403),
        ("/socket.io/?EIO=4&transport=polling&sid=", 403),
    ] {
        assert_eq!(request(internal, "GET", target, &headers, b"").await.status, status, "{target}");
    }
    let ask = Ask { headers: &headers, ..Ask::default() };
    let answer = Ws::ask(internal, "/socket.io/?EIO=4&transport=websocket", ask).await.err().expect("no WebSocket");
    assert_eq!(answer.parts(), FORBIDDEN);
    assert_eq!(nodes.a.metrics().connections_opened, 1);
    // A session's request is served.
    assert_eq!(request(internal, "POST", &session.target(), &headers, b"4x").await.parts(), (200, "ok"));
    assert_eq!(request(internal, "GET", &session.target(), &headers, b"").await.parts(), (200, "4x"));
}

async fn a_request_is_forwarded_once(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let session = Polling::open_at(nodes.a.addr, "/engine.io/").await;
    let headers = vouched(&SECRET);
    let answer = request(nodes.internal(NODE_B), "GET", &session.target(), &borrowed(&headers), b"").await;
    assert_eq!(answer.parts(), GONE);
    // Each node takes the other one for the session's.
    nodes.set_address(NODE_A, Some(nodes.internal(NODE_B)));
    let mut strayed = Polling::open_at(nodes.a.addr, "/engine.io/").await;
    strayed.go_to(nodes.b.addr);
    assert_eq!(strayed.get().await.parts(), GONE);
    assert_eq!(nodes.b.metrics().requests_forwarded, 1);
    strayed.go_to(nodes.a.addr);
}

/// The public listener neither believes such headers nor passes them on.
async fn headers_of_nodes_mean_nothing_to_the_public_listener(shards: usize) {
    let origins = Origins::List(Vec::new());
    let nodes = Nodes::start(Config { origins, ..config(shards) });
    let session = nodes.strayed("/engine.io/").await;
    let headers = vouched(&SECRET);
    let mut headers = borrowed(&headers);
    headers.push(("Origin", "https://evil.example"));
    for addr in [nodes.a.addr, nodes.b.addr] {
        assert_eq!(request(addr, "GET", &session.target(), &headers, b"").await.status, 403);
    }
    let wrong = vouched(&[8; 32]);
    assert_eq!(request(nodes.b.addr, "POST", &session.target(), &borrowed(&wrong), b"4x").await.parts(), (200, "ok"));
    assert_eq!(nodes.a.metrics().forwards_refused, 0);
}

async fn a_forged_session_id_goes_nowhere(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let mut session = nodes.strayed("/engine.io/").await;
    let real = session.sid.clone();
    let bytes = URL_SAFE_NO_PAD.decode(&real).expect("base64");
    let mut passed = 0;
    for position in 0..bytes.len() {
        let mut forged = bytes.clone();
        forged[position] ^= 0x55;
        session.sid = URL_SAFE_NO_PAD.encode(forged);
        assert_eq!(session.get().await.parts(), GONE);
        assert_eq!(session.post("4x").await.parts(), GONE);
        assert!(Ws::probe_at(nodes.b.addr, "/engine.io/", &session.sid).await.is_err());
        passed = nodes.b.metrics().requests_forwarded;
    }
    // One id in 65,536 passes.
    assert!(passed <= 3, "{passed} requests were forwarded");
    for odd in ["x", "%00", "....................", "ÄÄÄÄÄÄÄÄÄÄ", &"A".repeat(20), &"-".repeat(5_000)] {
        session.sid = odd.to_owned();
        assert_eq!(session.get().await.parts(), GONE, "{odd}");
    }
    session.sid = real;
    session.send("4x").await;
}

async fn the_session_of_a_websocket_is_not_looked_for(shards: usize) {
    let nodes = Nodes::start(config(shards));
    let mut ws = Ws::bare(nodes.a.addr, "/engine.io/").await;
    let open = ws.text().await;
    let open: serde_json::Value = serde_json::from_str(&open[1..]).expect("a handshake");
    let target = format!("/engine.io/?EIO=4&transport=polling&sid={}", open["sid"].as_str().expect("an id"));
    assert_eq!(request(nodes.b.addr, "GET", &target, &[], b"").await.parts(), GONE);
    let metrics = nodes.b.metrics();
    assert_eq!((metrics.requests_forwarded, metrics.forwards_failed), (0, 0));
}

async fn a_body_that_is_too_large_ends_the_session(shards: usize) {
    let a = Config { max_payload: 50_000, ..config(shards) };
    let nodes = Nodes::with(a, config(shards), super::echoing);
    let too_large = format!("4{}", "x".repeat(60_000));
    let chunked = format!("{:x}\r\n{too_large}\r\n0\r\n\r\n", too_large.len());
    for (round, (header, body)) in [
        (format!("Content-Length: {}", too_large.len()), &too_large),
        ("Transfer-Encoding: chunked".to_owned(), &chunked),
    ]
    .into_iter()
    .enumerate()
    {
        let session = nodes.strayed("/engine.io/").await;
        let mut http = Http::connect(nodes.b.addr).await;
        let head = format!("POST {} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n", session.target());
        http.send_raw(format!("{head}{body}").as_bytes()).await;
        let answer = http.response().await.expect("an answer");
        assert_eq!(answer.parts(), (413, r#"{"code":3,"message":"Payload too large"}"#));
        assert_eq!(session.get().await.parts(), GONE);
        let ended = nodes.a.ended(DisconnectReason::PayloadTooLarge);
        assert_eq!(ended, round as u64 + 1);
        drop(http);
    }
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    assert_eq!((nodes.a.metrics().unfinished_bytes, nodes.b.metrics().unfinished_bytes), (0, 0));
}

async fn an_early_answer_arrives_though_the_body_is_sent_to_its_end(shards: usize) {
    const LENGTH: usize = 900_000;
    let nodes = Nodes::start(config(shards));
    let session = nodes.strayed("/engine.io/").await;
    session.send("1").await;
    for _ in 0..10 {
        let mut http = Http::connect(nodes.b.addr).await;
        let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n", session.target());
        http.send_raw(head.as_bytes()).await;
        // The answer is there before the body begins.
        assert_eq!(within("an answer", http.peek(&mut [0])).await.expect("an open connection"), 1);
        for part in vec![b'x'; LENGTH].chunks(100_000) {
            http.send_raw(part).await;
        }
        let response = http.response().await.expect("an answer, and no reset");
        assert_eq!(response.parts(), GONE);
        assert_eq!(response.header("connection"), Some("close"));
        assert!(http.response().await.is_none(), "the connection ends");
    }
    eventually("nothing is left", || nodes.a.metrics().streams == 0 && nodes.b.metrics().streams == 0).await;
    assert_eq!(nodes.b.metrics().handshakes, 0);
}

async fn the_forwarding_node_keeps_its_own_limits(shards: usize) {
    // Room for one client: its connection, and the connection to its node.
    let b = Config { max_connections: 0, max_http_connections: 4, ..config(shards) };
    let nodes = Nodes::with(config(shards), b, super::echoing);
    let mut sessions = Vec::new();
    for _ in 0..2 {
        sessions.push(nodes.strayed("/engine.io/").await);
    }
    nodes.a_serves(0).await;
    let poll = sessions[0].begin_poll().await;
    nodes.a_serves(1).await;
    for answer in [
        sessions[1].get().await,
        sessions[1].post("4x").await,
        Ws::probe_at(nodes.b.addr, "/engine.io/", &sessions[1].sid).await.err().expect("no WebSocket"),
    ] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    }
    sessions[0].go_to(nodes.a.addr);
    sessions[0].send("4x").await;
    assert_eq!(poll.response().await.parts(), (200, "4x"));
    // A spliced WebSocket counts as long as it is open.
    let ws = super::upgraded(nodes.b.addr, &sessions[0]).await;
    assert_eq!(sessions[1].get().await.status, 503);
    drop(ws);
    eventually("the WebSocket's end", || nodes.b.metrics().streams == 0).await;
    sessions[1].send("4x").await;
}
