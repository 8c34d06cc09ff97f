//! HTTP as clients, workers and proxies speak it, well and less well.

use std::{
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use socketio_server::{Config, HttpConnection, Limit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};

use crate::{
    client::{Http, Polling, get},
    harness::{DEADLINE, TestServer, answering, eventually, within},
};

fn one_shard() -> Config {
    Config { shards: 1, ..Config::default() }
}

/// A request that is refused for its first line, before its body has come.
fn refused_post(length: usize) -> String {
    format!(
        "POST /socket.io/?EIO=4&transport=polling&sid=unknown HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Clients that send all of a body before they read get the answer, and no reset.
#[tokio::test]
async fn an_early_answer_arrives_though_the_body_is_sent_to_its_end() {
    const LENGTH: usize = 900_000;
    let server = TestServer::echo(one_shard());
    for _ in 0..20 {
        let mut http = Http::connect(server.addr).await;
        http.send_raw(refused_post(LENGTH).as_bytes()).await;
        // The answer is there before the body begins.
        let mut first = [0];
        assert_eq!(within("an answer", http.peek(&mut first)).await.expect("an open connection"), 1);
        for part in vec![b'x'; LENGTH].chunks(100_000) {
            http.send_raw(part).await;
        }
        let response = http.response().await.expect("an answer, and no reset");
        assert_eq!(response.parts(), (400, r#"{"code":1,"message":"Session ID unknown"}"#));
        assert!(http.response().await.is_none(), "the connection ends");
    }
    eventually("nothing is left of them", || server.metrics().http_connections == 0).await;
}

/// Nobody is read for ever.
#[tokio::test]
async fn who_sends_on_after_an_answer_is_read_for_so_much() {
    let server = TestServer::echo(one_shard());
    let mut http = Http::connect(server.addr).await;
    http.send_raw(refused_post(1_000_000_000).as_bytes()).await;
    let part = vec![b'x'; 1024 * 1024];
    let mut taken = 0;
    while http.try_send_raw(&part).await.is_ok() {
        taken += 1;
        // What was read, and what the kernel holds of it at both ends.
        assert!(taken < 64, "64 MiB were read");
    }
    eventually("it is closed", || server.metrics().http_connections == 0).await;
}

/// A client that sends on does not hold up a stop.
#[tokio::test]
async fn reading_on_after_an_answer_ends_with_a_drain() {
    let mut server = TestServer::echo(one_shard());
    let mut http = Http::connect(server.addr).await;
    http.send_raw(refused_post(1_000_000_000).as_bytes()).await;
    assert_eq!(http.response().await.expect("an answer").status, 400);
    let sends_on = tokio::spawn(async move {
        while http.try_send_raw(&[b'x'; 1000]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let (drained, took) = server.shut_down(DEADLINE).await;
    assert_eq!(drained.connections_left, 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
    within("it is closed", sends_on).await.expect("no panic");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_as_long_as_it_was_told() {
    let config = Config {
        header_timeout: Duration::from_millis(200),
        keep_alive_timeout: Duration::from_secs(2),
        ..one_shard()
    };
    let server = TestServer::echo(config);
    let mut http = Http::connect(server.addr).await;
    let response = http.request("GET", "/nowhere", &[], b"").await;
    assert_eq!((response.status, response.header("keep-alive")), (404, Some("timeout=2")));
    let began = Instant::now();
    // Longer than headers may take.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(http.request("GET", "/nowhere", &[], b"").await.status, 404);
    let again = Instant::now();
    assert!(http.response().await.is_none(), "it is closed");
    assert!(again.elapsed() > Duration::from_millis(1_900), "{:?} after {:?}", again.elapsed(), began.elapsed());
    let met = server.metrics().limits;
    assert!(met.contains(&(Limit::HeaderTime, 0)), "to be idle is no fault: {met:?}");

    // From the first byte on, a request has its own time.
    let mut http = Http::connect(server.addr).await;
    assert_eq!(http.request("GET", "/nowhere", &[], b"").await.status, 404);
    http.send_raw(b"GET /").await;
    let began = Instant::now();
    assert!(http.response().await.is_none(), "it is closed");
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    eventually("it is a limit", || server.metrics().limits.contains(&(Limit::HeaderTime, 1))).await;
}

#[tokio::test]
async fn as_many_headers_as_fit_are_taken() {
    let server = TestServer::echo(one_shard());
    let request = |count: usize| {
        let headers: String = (0..count).map(|number| format!("X-{number}: {number}\r\n")).collect();
        format!("GET /nowhere HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
    };
    for (count, status) in [(150, 404), (1_500, 404), (2_100, 431)] {
        let mut http = Http::connect(server.addr).await;
        http.send_raw(request(count).as_bytes()).await;
        assert_eq!(http.response().await.expect("an answer").status, status, "{count} headers");
    }
}

/// As `printf … | nc` does.
#[tokio::test]
async fn a_request_whose_client_sends_no_more_is_answered() {
    let server = TestServer::echo(one_shard());
    let session = Polling::connected(server.addr).await.0;
    let body = "42[\"message\",1]";
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        session.target(),
        body.len()
    );
    let session = &session;
    for round in 0..40 {
        for (request, expected) in [(post.as_str(), "200"), ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", "404")] {
            let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
            // In one piece, or the end together with the body.
            let (head, rest) =
                request.split_at(if round % 2 == 0 { 0 } else { request.find("\r\n\r\n").unwrap_or(0) + 4 });
            stream.write_all(head.as_bytes()).await.expect("an open connection");
            if !head.is_empty() {
                server.settle().await;
            }
            stream.write_all(rest.as_bytes()).await.expect("an open connection");
            stream.shutdown().await.expect("an open connection");
            let mut answer = String::new();
            within("an answer", stream.read_to_string(&mut answer)).await.expect("no reset");
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{round}: {answer}");
        }
        // Its answers are taken, so that they are never too many.
        assert_eq!(session.get().await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_whose_request_is_refused_before_its_body_came_is_said_to_close() {
    let server = TestServer::echo(one_shard());
    let unknown = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA";
    for (target, body, closes) in [(unknown, "40", true), ("/nowhere", "x", true), ("/nowhere", "", false)] {
        let mut http = Http::connect(server.addr).await;
        let answer = http.request("POST", target, &[], body.as_bytes()).await;
        assert_eq!(answer.header("connection") == Some("close"), closes, "{target} {body}");
    }
    let session = Polling::connected(server.addr).await.0;
    let mut http = Http::connect(server.addr).await;
    let answer = http.request("POST", &session.target(), &[], b"42[\"message\",1]").await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
}

/// A poll whose client has hung up is not one that waits.
#[tokio::test]
async fn a_poll_whose_client_hangs_up_ends_its_session() {
    let server = TestServer::echo(one_shard());
    let mut session = Polling::connected(server.addr).await.0;
    session.text().await;
    let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
    let poll = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", session.target());
    stream.write_all(poll.as_bytes()).await.expect("an open connection");
    stream.shutdown().await.expect("an open connection");
    eventually("the session has ended", || server.metrics().connections == 0).await;
}

#[tokio::test]
async fn parameters_are_read_as_the_reference_reads_them() {
    let server = TestServer::echo(one_shard());
    let open = get(server.addr, "/socket.io/?EIO=4&transport=polling&sid=").await;
    assert_eq!(open.status, 200, "an empty sid is none: {}", open.body);
    let sid = open.body.get(9..29).expect("a session id");
    let encoded: String = sid.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let target = format!("/socket.io/?EIO=%34&transport=p%6flling&sid={encoded}");
    let mut http = Http::connect(server.addr).await;
    assert_eq!(http.request("POST", &target, &[], b"40").await.parts(), (200, "ok"));
    assert!(http.request("GET", &target, &[], b"").await.body.starts_with("40{"));
    assert_eq!(http.request("POST", &target, &[], b"1").await.parts(), (200, "ok"));
}

/// Agrees to speak something else, and sends back what comes, with who it is from before it.
async fn upgrade(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let client = *request.extensions().get::<std::net::SocketAddr>().expect("the client's address");
    assert!(request.extensions().get::<HttpConnection>().is_some());
    if request.uri().path() != "/echo" {
        return Response::builder().status(418).body(Full::default()).expect("a response");
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = TokioIo::new(upgraded.await.expect("an upgrade"));
        let (mut read, mut write) = tokio::io::split(stream);
        write.write_all(client.ip().to_string().as_bytes()).await.expect("an open connection");
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(Full::default()).expect("a response")
}

/// As a WebSocket of axum's does.
#[tokio::test]
async fn the_fallback_may_upgrade() {
    let server = TestServer::start(one_shard(), |server| server.fallback(answering(upgrade)));
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let mut http = Http::connect(server.addr).await;
    // A request before it, and what is to be echoed right behind it.
    http.send_raw(format!("GET /other HTTP/1.1\r\nHost: a\r\n\r\n{}hello", request("/echo?x=1")).as_bytes()).await;
    assert_eq!(http.response().await.expect("an answer").status, 418);
    let upgraded = http.response().await.expect("an answer");
    assert_eq!((upgraded.status, upgraded.header("upgrade")), (101, Some("echo")));
    let mut stream = http.into_raw();
    let mut came = [0; 14];
    within("the echo", stream.read_exact(&mut came)).await.expect("an open connection");
    assert_eq!(&came, b"127.0.0.1hello");
    stream.write_all(b" again").await.expect("an open connection");
    let mut came = [0; 6];
    within("the echo", stream.read_exact(&mut came)).await.expect("an open connection");
    assert_eq!(&came, b" again");
    assert_eq!(server.metrics().streams, 1);
    drop(stream);
    eventually("nothing is left of it", || server.metrics().streams == 0).await;

    // It may as well not.
    let mut http = Http::connect(server.addr).await;
    http.send_raw(request("/other").as_bytes()).await;
    assert_eq!(http.response().await.expect("an answer").status, 418);
    assert!(http.response().await.is_none());
}

/// A busy connection is chosen if no other is idle, and an idle one may have become busy since.
#[tokio::test]
async fn a_connection_that_makes_room_has_its_answer_first() {
    let config = Config { shards: 1, max_handshakes: 1, ..Config::default() };
    let (asked, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (was_asked, is_told) = (asked.clone(), told.clone());
    // Answers when it is told to.
    let waits = move |_| {
        let is_told = is_told.clone().notified_owned();
        was_asked.fetch_add(1, Ordering::Relaxed);
        async {
            is_told.await;
            Response::default()
        }
    };
    let server = TestServer::start(config, |server| server.fallback(answering(waits)));
    let mut clients = Vec::new();
    for number in 1..=3 {
        let mut client = Http::connect(server.addr).await;
        client.send("GET", "/", &[], b"").await;
        eventually("it is asked", || asked.load(Ordering::Relaxed) == number).await;
        clients.push(client);
    }
    told.notify_waiters();
    let mut kept = Vec::new();
    for client in &mut clients {
        let answer = client.response().await.expect("an answer");
        assert_eq!(answer.status, 200);
        kept.push(answer.header("connection") != Some("close"));
    }
    assert_eq!(kept, [false, false, true]);
    eventually("they have left", || server.metrics().streams == 1).await;
}

/// The kernel has the request, and the shard has not looked yet, when another shard lets a newcomer in.
#[tokio::test]
async fn a_request_that_has_come_is_answered_before_its_connection_makes_room() {
    const IDLE: usize = 8;
    let config = Config { shards: 2, max_handshakes: IDLE, ..Config::default() };
    let is_blocked = Arc::new(AtomicBool::new(false));
    let (blocked, (open, gate)) = (is_blocked.clone(), mpsc::channel::<()>());
    let gate = Arc::new(Mutex::new(gate));
    // Says on which shard it is. `/block` takes all of the shard's time until the gate is opened.
    let works = move |request: Request<Incoming>| {
        if request.uri().path() == "/block" {
            blocked.store(true, Ordering::Relaxed);
            let _ = gate.lock().expect("no panic").recv_timeout(DEADLINE / 4);
        }
        ready(Response::new(Full::from(std::thread::current().name().unwrap_or_default().to_owned())))
    };
    let server = TestServer::start(config, |server| server.fallback(answering(works)));
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut client = Http::connect(server.addr).await;
        let shard = client.request("GET", "/", &[], b"").await.body;
        idle.push((shard, client));
    }
    // Connections are accepted on the other one.
    let (of_shard, others): (Vec<_>, Vec<_>) = idle.into_iter().partition(|(shard, _)| shard == "shard-1");
    let mut of_shard: Vec<Http> = of_shard.into_iter().map(|(_, client)| client).collect();
    assert!(of_shard.len() > 1, "shards take turns");
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    of_shard[0].send_raw(ask("/block").as_bytes()).await;
    eventually("the shard is busy", || is_blocked.load(Ordering::Relaxed)).await;
    for client in &mut of_shard[1..] {
        client.send_raw(ask("/").as_bytes()).await;
    }
    let mut newcomers = Vec::new();
    for _ in 0..IDLE {
        newcomers.push(Http::connect(server.addr).await);
    }
    eventually("newcomers are let in", || server.metrics().streams > IDLE as u64 + 1).await;
    open.send(()).expect("the shard waits");
    for mut client in of_shard {
        assert_eq!(client.response().await.expect("an answer").status, 200);
    }
    drop(others);
}

/// More than the kernel takes at once.
const LARGE: usize = 32 * 1024 * 1024;

async fn large(_: Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::new(vec![b'x'; LARGE].into()))
}

/// Also if the client ends its side of the connection behind its request, as `nc -N` does.
#[tokio::test]
async fn the_time_of_an_idle_connection_does_not_run_while_an_answer_is_written() {
    let idle = Duration::from_millis(200);
    let config = Config { keep_alive_timeout: idle, ..one_shard() };
    let server = TestServer::start(config, |server| server.fallback(answering(large)));
    for ends in [false, true] {
        let mut stream = TcpStream::connect(server.addr).await.expect("the server listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("an open connection");
        if ends {
            stream.shutdown().await.expect("an open connection");
        }
        let mut start = [0; 12];
        within("an answer", stream.read_exact(&mut start)).await.expect("no reset");
        assert_eq!(&start, b"HTTP/1.1 200");
        tokio::time::sleep(3 * idle).await;
        let mut rest = Vec::new();
        within("the rest", stream.read_to_end(&mut rest)).await.expect("no reset");
        assert!(rest.len() > LARGE, "{} bytes have come, {ends}", rest.len());
    }
    eventually("they are closed", || server.metrics().streams == 0).await;
}

#[tokio::test]
async fn no_connection_that_is_closed_is_said_to_be_kept() {
    let server = TestServer::echo(one_shard());
    for (headers, kept) in [(&[][..], true), (&[("Connection", "close")], false)] {
        let mut http = Http::connect(server.addr).await;
        let answer = http.request("GET", "/nowhere", headers, b"").await;
        assert_eq!(answer.header("keep-alive").is_some(), kept);
    }
}
