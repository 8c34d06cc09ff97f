//! How many may connect, from where, and how fast they may go on.

use std::time::{Duration, Instant};

use http::HeaderName;
use socketio_server::{Config, DisconnectReason, Limit, Namespace, TrustedProxies};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Ask, Http, Polling, Received, Response, Ws, connect_from, get, masked, request, socket_id, text_frames},
    harness::{TestServer, echo, eventually, within},
};
use socketio_protocol::websocket::OpCode;

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

fn one_shard() -> Config {
    Config { shards: 1, ..Config::default() }
}

/// Sessions that were only opened are soon gone.
fn impatient(shards: usize) -> Config {
    Config { shards, connect_timeout: Duration::from_secs(2), ..Config::default() }
}

fn met(server: &TestServer, limit: Limit) -> u64 {
    server.metrics().limits.iter().find(|(known, _)| *known == limit).map_or(0, |(_, count)| *count)
}

async fn get_from(from: &str, server: &TestServer, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut http = Http::over(connect_from(from, server.addr).await);
    http.request("GET", target, headers, b"").await
}

#[track_caller]
fn assert_turned_away(response: &Response, status: u16, message: &str) {
    assert_eq!(response.parts(), (status, format!(r#"{{"code":3,"message":"{message}"}}"#).as_str()));
    assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|it| it > 0)));
}

async fn the_server_is_full_for_one_more(shards: usize) {
    let server = TestServer::echo(Config { shards, max_connections: 2, ..Config::default() });
    let (first, _) = Ws::connected(server.addr).await;
    let session = Polling::open(server.addr).await;
    assert_turned_away(&get(server.addr, HANDSHAKE).await, 503, "Service unavailable");
    let refused = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", Ask::default()).await;
    assert_turned_away(&refused.err().expect("no WebSocket"), 503, "Service unavailable");
    assert_eq!(met(&server, Limit::Connections), 2);
    // Who is not a client still gets an answer, and so does who is one already.
    assert_eq!(get(server.addr, "/elsewhere").await.status, 404);
    session.send("40").await;

    drop(first);
    eventually("a place is free", || server.metrics().connections == 1).await;
    Ws::connected(server.addr).await;
}

async fn an_address_takes_no_more_than_its_share(shards: usize) {
    let server = TestServer::echo(Config { max_connections_per_address: 2, ..impatient(shards) });
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(get_from("127.0.0.2", &server, HANDSHAKE, &[]).await);
    }
    assert_turned_away(&get_from("127.0.0.2", &server, HANDSHAKE, &[]).await, 429, "Too many connections");
    assert_eq!(get_from("127.0.0.3", &server, HANDSHAKE, &[]).await.status, 200);
    // It is not trusted to say who its client is.
    let made_up = [("X-Forwarded-For", "203.0.113.1")];
    assert_turned_away(&get_from("127.0.0.2", &server, HANDSHAKE, &made_up).await, 429, "Too many connections");
    assert_eq!(met(&server, Limit::ConnectionsPerAddress), 2);

    let sid = &held[0].body[9..29];
    let target = format!("{HANDSHAKE}&sid={sid}");
    let mut closing = Http::over(connect_from("127.0.0.2", server.addr).await);
    assert_eq!(closing.request("POST", &target, &[], b"1").await.status, 200);
    drop(closing);
    eventually("its session has ended", || server.metrics().connections == 2).await;
    // Its TCP connection counts until the server has seen the end of it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while get_from("127.0.0.2", &server, HANDSHAKE, &[]).await.status != 200 {
        assert!(Instant::now() < deadline, "its place is free");
    }
}

async fn new_connections_of_an_address_have_a_rate(shards: usize) {
    // Ten at once.
    let server = TestServer::echo(Config { connection_rate_per_address: 1, ..impatient(shards) });
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(get_from("127.0.0.2", &server, HANDSHAKE, &[]).await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 10, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));
    assert!(met(&server, Limit::ConnectionRate) >= 9);
    assert_eq!(get_from("127.0.0.3", &server, HANDSHAKE, &[]).await.status, 200);
}

async fn a_trusted_proxy_says_who_its_clients_are(shards: usize) {
    let trusted_proxies = TrustedProxies::new(TrustedProxies::network("127.0.0.8/29"));
    let config = Config { max_connections_per_address: 1, trusted_proxies, ..impatient(shards) };
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on_connect(|socket| {
            let _ = socket.emit("you", &socket.remote_addr());
        }))
    });
    let of = |client: &'static str| [("X-Forwarded-For", client)];
    for client in ["203.0.113.1", "203.0.113.2", "2001:db8::1", "2001:db8:0:1::1"] {
        assert_eq!(get_from("127.0.0.9", &server, HANDSHAKE, &of(client)).await.status, 200, "{client}");
    }
    for client in ["203.0.113.1", "9.9.9.9, 203.0.113.2, 127.0.0.10", "2001:db8::2"] {
        let again = get_from("127.0.0.9", &server, HANDSHAKE, &of(client)).await;
        assert_turned_away(&again, 429, "Too many connections");
    }
    // Its own are not counted: health checks, or a balancer that does not tell.
    for _ in 0..3 {
        assert_eq!(get_from("127.0.0.9", &server, HANDSHAKE, &[]).await.status, 200);
    }
    assert_eq!(server.metrics().addresses, 4);

    let headers = [("X-Forwarded-For", "198.51.100.7")];
    let mut ws = Ws::ask(
        server.addr,
        "/socket.io/?EIO=4&transport=websocket",
        Ask { headers: &headers, from: Some("127.0.0.9"), ..Ask::default() },
    )
    .await
    .expect("a WebSocket");
    assert!(ws.text().await.starts_with("0{"));
    ws.send("40").await;
    socket_id(&ws.text().await, "40");
    assert_eq!(ws.text().await, r#"42["you","198.51.100.7"]"#);
}

/// TCP connections that say nothing, and Engine.IO connections that never ask for a namespace.
async fn handshakes_that_are_not_finished_are_few(shards: usize) {
    let server = TestServer::echo(Config {
        shards,
        max_handshakes_per_address: 5,
        header_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        ..Config::default()
    });
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(connect_from("127.0.0.2", server.addr).await);
    }
    eventually("they are there", || server.metrics().handshakes == 5).await;
    let mut sixth = connect_from("127.0.0.2", server.addr).await;
    let mut answer = String::new();
    within("an answer", sixth.read_to_string(&mut answer)).await.expect("nothing was sent, so nothing is reset");
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    assert_eq!(get_from("127.0.0.3", &server, HANDSHAKE, &[]).await.status, 200);

    // They are given up, and there is room again.
    for mut stream in silent {
        let _ = within("the server closes", stream.read_to_end(&mut Vec::new())).await;
    }
    eventually("all are gone", || server.metrics().addresses == 0).await;
    assert_eq!(met(&server, Limit::HeaderTime), 5);
    for _ in 0..5 {
        assert_eq!(get_from("127.0.0.2", &server, HANDSHAKE, &[]).await.status, 200);
    }
    assert_turned_away(&get_from("127.0.0.2", &server, HANDSHAKE, &[]).await, 429, "Too many connections");
    assert_eq!(met(&server, Limit::HandshakesPerAddress), 2);
    // That was one connection too many, and no request: who has one can go on.
    assert_eq!(get_from("127.0.0.2", &server, "/elsewhere", &[]).await.status, 404);
    eventually("all are gone", || server.metrics().addresses == 0).await;
    assert_eq!(server.metrics().handshakes, 0);
    assert_eq!(server.metrics().streams, 0);
    server.all_ended(DisconnectReason::ConnectTimeout).await;
}

async fn a_body_is_awaited_of_a_session_only_and_one_at_a_time(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let slow = |sid: &str| {
        format!("POST {HANDSHAKE}&sid={sid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n4begun")
    };
    let mut nobodys = Http::connect(server.addr).await;
    nobodys.send_raw(slow("AAAAAAAAAAAAAAAAAAAA").as_bytes()).await;
    let unknown = r#"{"code":1,"message":"Session ID unknown"}"#;
    assert_eq!(nobodys.response().await.expect("a response").parts(), (400, unknown));

    let session = Polling::open(server.addr).await;
    let sid = session.sid.clone();
    let mut first = Http::connect(server.addr).await;
    first.send_raw(slow(&sid).as_bytes()).await;
    eventually("it is awaited", || server.metrics().unfinished_bytes > 0).await;
    let mut second = Http::connect(server.addr).await;
    second.send_raw(slow(&sid).as_bytes()).await;
    assert_eq!(second.response().await.expect("a response").status, 400);
    session.expect_gone().await;
    drop(first);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;

    // One that is given up does not stand in the way of the next.
    let session = Polling::open(server.addr).await;
    let sid = session.sid.clone();
    let mut first = Http::connect(server.addr).await;
    first.send_raw(slow(&sid).as_bytes()).await;
    eventually("it is awaited", || server.metrics().unfinished_bytes > 0).await;
    drop(first);
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
    server.settle().await;
    session.send("40").await;
    // Nor does one that is gone before it may begin.
    for _ in 0..20 {
        let mut hasty = Http::connect(server.addr).await;
        hasty.send_raw(slow(&session.sid).as_bytes()).await;
        drop(hasty);
        server.settle().await;
        eventually("it is gone", || server.metrics().streams == 0).await;
    }
    server.settle().await;
    session.send("3").await;
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let server = TestServer::echo(one_shard());
    let session = Polling::open(server.addr).await;
    let mut http = Http::connect(server.addr).await;
    let refused = http.request("POST", &session.target(), &[("Content-Encoding", "gzip")], b"\x1f\x8b").await;
    assert_eq!(refused.parts(), (415, r#"{"code":3,"message":"Unsupported content encoding"}"#));
    let mut http = Http::connect(server.addr).await;
    assert_eq!(http.request("POST", &session.target(), &[("Content-Encoding", "identity")], b"40").await.status, 200);
}

async fn a_polling_session_has_a_rate(shards: usize) {
    // Ten at once.
    let server = TestServer::echo(Config { shards, request_rate_per_session: 1, ..Config::default() });
    let mut session = Polling::open_at(server.addr, "/engine.io/").await;
    let mut at_once = 0;
    while met(&server, Limit::RequestRate) == 0 {
        session.send("4x").await;
        assert_eq!(session.text().await, "4x");
        at_once += 2;
    }
    assert!((10..=14).contains(&at_once), "{at_once}");
    // From now on each waits for its second, polls and posts alike.
    let began = Instant::now();
    session.send("4x").await;
    assert_eq!(session.text().await, "4x");
    assert!(began.elapsed() > Duration::from_millis(1_000));
}

#[tokio::test]
async fn events_past_the_rate_are_refused_and_then_the_connection_ends() {
    // Twenty at once.
    let config = Config { event_rate_per_socket: 2, ..one_shard() };
    let server =
        TestServer::start(config, |server| server.namespace(echo("/").on_refused(|_, event| event.ack(&"too many"))));
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    let events: Vec<String> = (0..60).map(|id| format!(r#"42{id}["message-with-ack",1]"#)).collect();
    ws.send_raw(&text_frames(events.iter().map(String::as_str))).await;
    let mut answers = Vec::new();
    let end = loop {
        match ws.recv().await {
            Received::Text(text) => answers.push(text),
            end => break end,
        }
    };
    // One message was the connect packet; a moment may have passed.
    let handled = answers.iter().filter(|answer| answer.ends_with("[1]")).count();
    assert!((19..22).contains(&handled), "{handled}");
    let refused = answers.iter().filter(|answer| answer.ends_with(r#"["too many"]"#)).count();
    assert!((18..22).contains(&refused), "{refused}");
    assert_eq!(end, Received::Close(1008, "too many events".to_owned()));
    server.all_ended(DisconnectReason::TooManyEvents).await;
    assert_eq!(server.metrics().events_refused, refused as u64);
    assert!(met(&server, Limit::EventRate) >= refused as u64);
}

#[tokio::test]
async fn what_is_no_event_counts_too() {
    for frame in [masked(OpCode::Ping, b""), masked(OpCode::Pong, b""), masked(OpCode::Text, b"437[]")] {
        let server = TestServer::echo(Config { event_rate_per_socket: 2, ..one_shard() });
        let (mut ws, _) = Ws::connected(server.addr).await;
        let _ = ws.writer.try_send_raw(&frame.repeat(100)).await;
        loop {
            match ws.recv().await {
                Received::Close(code, reason) => break assert_eq!((code, reason.as_str()), (1008, "too many events")),
                Received::End(_) | Received::Reset => panic!("no close frame"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_namespace_may_refuse_events() {
    let server = TestServer::start(one_shard(), |server| {
        server.namespace(echo("/").admit(|_| false).on_refused(|_, event| event.ack(&"no")))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    ws.send(r#"42["message",1]"#).await;
    ws.send(r#"420["message-with-ack",1]"#).await;
    assert_eq!(ws.text().await, r#"430["no"]"#);
}

/// A small event may have a large answer.
#[tokio::test]
async fn large_answers_count_as_several_events() {
    // Twenty at once.
    let config = Config { event_rate_per_socket: 2, ..one_shard() };
    let server = TestServer::start(config, |server| {
        server.namespace(
            echo("/")
                .on("large", |_, event| event.ack(&"x".repeat(10_240)))
                .on_refused(|_, event| event.ack(&"too many")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    let mut answered = 0;
    loop {
        ws.send(r#"420["large"]"#).await;
        match ws.text().await.as_str() {
            r#"430["too many"]"# => break,
            answer => assert!(answer.starts_with(r#"430["xxx"#)),
        }
        answered += 1;
    }
    assert_eq!(answered, 2);
}

#[tokio::test]
async fn attachments_and_depth_have_their_limits() {
    let server = TestServer::echo(Config { max_attachments: 2, max_json_depth: 3, ..one_shard() });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    ws.send(r#"42["message",[[1]]]"#).await;
    assert_eq!(ws.text().await, r#"42["message-back",[[1]]]"#);
    ws.send(r#"42["message",[[[1]]]]"#).await;
    assert_eq!(ws.closed().await, (1002, "parse error".to_owned()));
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    ws.send(r#"453-["message",{"_placeholder":true,"num":0}]"#).await;
    assert_eq!(ws.closed().await, (1002, "parse error".to_owned()));
    assert_eq!((met(&server, Limit::JsonDepth), met(&server, Limit::Attachments)), (1, 1));
}

#[tokio::test]
async fn many_addresses_leave_nothing_behind() {
    let trusted_proxies = TrustedProxies::new(TrustedProxies::network("127.0.0.1"));
    let server =
        TestServer::echo(Config { trusted_proxies, connect_timeout: Duration::from_millis(200), ..one_shard() });
    let mut http = Http::connect(server.addr).await;
    for number in 0..3000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0xcb00_0000 + number).to_string();
        http.request("GET", HANDSHAKE, &[("X-Forwarded-For", &client)], b"").await;
    }
    assert!(server.metrics().addresses > 0);
    eventually("they are forgotten", || server.metrics().addresses == 0).await;
    assert_eq!(server.metrics().connections, 0);
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_no_place_behind() {
    let server = TestServer::echo(one_shard());
    for target in ["/socket.io/?EIO=3&transport=polling", "/socket.io/?EIO=4&transport=websocket", "/nowhere"] {
        get(server.addr, target).await;
    }
    let mut broken = Http::connect(server.addr).await;
    broken.send_raw(b"GET / HTTP/9.9\r\n\r\n").await;
    assert!(broken.response().await.is_some());
    let mut gone = TcpStream::connect(server.addr).await.expect("the server listens");
    gone.write_all(b"GET /socket.io/").await.expect("it is read");
    drop(gone);
    eventually("nothing is left", || {
        let metrics = server.metrics();
        (metrics.streams, metrics.handshakes, metrics.addresses) == (0, 0, 0)
    })
    .await;
}

async fn headers_are_bounded(shards: usize) {
    let kept = HeaderName::from_static("authorization");
    let config = Config { kept_headers: vec![kept.clone()], ..impatient(shards) };
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on_connect(move |socket| {
            let length = socket.header(&kept).map_or(0, |value| value.len());
            socket.emit("kept", &length).expect("a name");
        }))
    });
    let bytes = |count| "x".repeat(count);
    let websocket = "/socket.io/?EIO=4&transport=websocket";

    // The largest that is kept, and much besides.
    let (token, other) = (bytes(17 * 1024), bytes(14 * 1024));
    let ask = Ask { headers: &[("Authorization", &token), ("X-Other", &other)], ..Ask::default() };
    let mut ws = Ws::ask(server.addr, websocket, ask).await.expect("a WebSocket");
    ws.text().await;
    ws.enter("/").await;
    assert_eq!(ws.text().await, r#"42["kept",17408]"#);

    let token = bytes(17 * 1024 + 1);
    let headers = [("Authorization", token.as_str())];
    let refused = Ws::ask(server.addr, websocket, Ask { headers: &headers, ..Ask::default() }).await;
    for refused in [refused.map(drop).unwrap_err(), request(server.addr, "GET", HANDSHAKE, &headers, b"").await] {
        assert_eq!(refused.parts(), (431, r#"{"code":3,"message":"Request header fields too large"}"#));
    }
    assert_eq!(met(&server, Limit::HeaderSize), 2);

    // All together. What is not read any more may be answered with a reset.
    let mut http = Http::connect(server.addr).await;
    http.send_raw(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Other: {}", bytes(32 * 1024)).as_bytes()).await;
    assert!(http.response().await.is_none_or(|response| response.status == 431));
    eventually("it is counted", || met(&server, Limit::HeaderSize) == 3).await;

    // Bodies have a bound of their own.
    let (session, _) = Polling::connected(server.addr).await;
    session.send(format!(r#"42["nobody","{}"]"#, bytes(999_000))).await;
}

on_one_and_three_shards!(
    the_server_is_full_for_one_more,
    an_address_takes_no_more_than_its_share,
    new_connections_of_an_address_have_a_rate,
    a_trusted_proxy_says_who_its_clients_are,
    handshakes_that_are_not_finished_are_few,
    a_body_is_awaited_of_a_session_only_and_one_at_a_time,
    a_polling_session_has_a_rate,
    headers_are_bounded,
);
