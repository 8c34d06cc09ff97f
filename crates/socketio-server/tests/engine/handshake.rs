//! The first request of a session, and those that get none.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use socketio_server::{Config, Namespace, Origins, Server, TrustedProxies};

use crate::{
    client::{Ask, Headers, Http, Polling, Ws, connect_from, get, request, socket_id, text_frames},
    harness::{TestServer, answering, echo},
};

on_one_and_three_shards!(
    polling_opens_a_session,
    websocket_opens_a_session,
    refusals_say_why,
    a_path_that_is_not_the_engines_is_not_found,
    frames_sent_together_with_the_request_are_handled,
);

async fn polling_opens_a_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for path in ["/socket.io/", "/socket.io", "/engine.io/"] {
        let response = get(server.addr, &format!("{path}?EIO=4&transport=polling&t=abc")).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("text/plain; charset=UTF-8"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let sid = response.body.get(9..29).expect("a session id");
        assert!(sid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{sid}");
        let expected = format!(
            r#"0{{"sid":"{sid}","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#
        );
        assert_eq!(response.body, expected);
        let path = path.trim_end_matches('/');
        let target = format!("{path}?EIO=4&transport=polling&sid={sid}");
        assert_eq!(request(server.addr, "POST", &target, &[], b"1").await.parts(), (200, "ok"));
    }
    assert_eq!(server.metrics().connections_opened, 3);
}

async fn websocket_opens_a_session(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for path in ["/socket.io/", "/socket.io", "/engine.io/"] {
        let mut ws = Ws::bare(server.addr, path).await;
        let open = ws.text().await;
        let sid = open.get(9..29).expect("a session id");
        let expected = format!(
            r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#
        );
        assert_eq!(open, expected);

        // It has no requests, so its id opens nothing.
        let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let unknown = (400, r#"{"code":1,"message":"Session ID unknown"}"#);
        assert_eq!(get(server.addr, &target).await.parts(), unknown);
        assert_eq!(request(server.addr, "POST", &target, &[], b"4hi").await.parts(), unknown);
        assert_eq!(Ws::probe(server.addr, sid).await.map(drop).unwrap_err().parts(), unknown);
    }
}

/// Method, query, headers, and the body of the answer.
type Refusal<'a> = (&'a str, String, Vec<(&'a str, &'a str)>, &'a str);

async fn refusals_say_why(shards: usize) {
    const TRANSPORT: &str = r#"{"code":0,"message":"Transport unknown"}"#;
    const SESSION: &str = r#"{"code":1,"message":"Session ID unknown"}"#;
    const METHOD: &str = r#"{"code":2,"message":"Bad handshake method"}"#;
    const REQUEST: &str = r#"{"code":3,"message":"Bad request"}"#;
    const VERSION: &str = r#"{"code":5,"message":"Unsupported protocol version"}"#;

    let server = TestServer::echo(Config { shards, ..Config::default() });
    let session = Polling::open(server.addr).await;
    let known = session.sid.as_str();
    let known = |rest: &str| format!("EIO=4&transport=polling&sid={known}{rest}");
    let websocket = "EIO=4&transport=websocket";
    let upgrade: Headers<'_> = &[
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let without = |index: usize| [&upgrade[..index], &upgrade[index + 1..]].concat();
    let instead = |name, value| {
        let others = upgrade.iter().copied().filter(|(known, _)| *known != name);
        others.chain([(name, value)]).collect::<Vec<_>>()
    };
    let none = Vec::new;

    let cases: Vec<Refusal<'_>> = vec![
        ("GET", "transport=polling".into(), none(), VERSION),
        ("GET", "EIO=abc&transport=polling".into(), none(), VERSION),
        ("GET", "EIO=3&transport=polling".into(), none(), VERSION),
        ("GET", "EIO=3&EIO=4&transport=polling".into(), none(), VERSION),
        ("GET", "".into(), none(), VERSION),
        ("GET", "transport=websocket".into(), upgrade.to_vec(), VERSION),
        ("GET", "EIO=3&transport=websocket".into(), upgrade.to_vec(), VERSION),
        ("GET", "EIO=abc&transport=websocket".into(), upgrade.to_vec(), VERSION),
        ("GET", "EIO=4".into(), none(), TRANSPORT),
        ("GET", "EIO=4&transport=abc".into(), none(), TRANSPORT),
        ("GET", "EIO=4&transport=".into(), none(), TRANSPORT),
        ("GET", "EIO=4".into(), upgrade.to_vec(), TRANSPORT),
        ("GET", "EIO=4&transport=abc".into(), upgrade.to_vec(), TRANSPORT),
        ("POST", "EIO=4&transport=polling".into(), none(), METHOD),
        ("PUT", "EIO=4&transport=polling".into(), none(), METHOD),
        ("DELETE", "EIO=4&transport=polling".into(), none(), METHOD),
        ("GET", "EIO=4&transport=polling&sid=abc".into(), none(), SESSION),
        ("GET", "EIO=4&transport=polling&sid=%20".into(), none(), SESSION),
        ("GET", "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA".into(), none(), SESSION),
        ("POST", "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA".into(), none(), SESSION),
        // It names shard 255, which is not there.
        ("GET", "EIO=4&transport=polling&sid=____________________".into(), none(), SESSION),
        ("POST", "EIO=4&transport=polling&sid=____________________".into(), none(), SESSION),
        ("GET", "EIO=4&transport=polling&sid=!!!!!!!!!!!!!!!!!!!!".into(), none(), SESSION),
        ("GET", format!("{websocket}&sid=____________________"), upgrade.to_vec(), SESSION),
        ("GET", format!("{websocket}&sid=AAAAAAAAAAAAAAAAAAAA"), upgrade.to_vec(), SESSION),
        ("GET", format!("{websocket}&sid=abc"), upgrade.to_vec(), SESSION),
        ("PUT", known(""), none(), REQUEST),
        ("DELETE", known(""), none(), REQUEST),
        ("GET", websocket.into(), none(), REQUEST),
        ("POST", websocket.into(), upgrade.to_vec(), REQUEST),
        ("GET", websocket.into(), without(0), REQUEST),
        ("GET", websocket.into(), without(1), REQUEST),
        ("GET", websocket.into(), without(2), REQUEST),
        ("GET", websocket.into(), without(3), REQUEST),
        ("GET", websocket.into(), instead("Upgrade", "h2c"), REQUEST),
        ("GET", websocket.into(), instead("Sec-WebSocket-Version", "8"), REQUEST),
        ("GET", websocket.into(), instead("Sec-WebSocket-Key", "short"), REQUEST),
    ];
    let count = cases.len() as u64;
    for (method, query, headers, body) in cases {
        // A connection of its own for each; `Connection` is taken by some.
        let mut http = Http::connect(server.addr).await;
        let response = http.request(method, &format!("/socket.io/?{query}"), &headers, b"").await;
        assert_eq!(response.parts(), (400, body), "{method} {query} {headers:?}");
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    assert_eq!(server.metrics().bad_requests, count);
    assert_eq!(server.metrics().connections_opened, 1, "none of them opened a session");

    // The session that some of them named is as it was.
    session.send("40").await;
    let packets = session.get().await.body;
    socket_id(packets.split('\x1e').next().expect("a packet"), "40");
}

async fn a_path_that_is_not_the_engines_is_not_found(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for path in ["/", "/socket.io/x", "/socket.iox", "/SOCKET.IO/", "/socket.io//", "//socket.io/"] {
        let response = get(server.addr, &format!("{path}?EIO=4&transport=polling")).await;
        assert_eq!(response.status, 404, "{path}");
    }
    assert_eq!(server.metrics().bad_requests, 0);
}

async fn frames_sent_together_with_the_request_are_handled(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let early = text_frames(["40", r#"42["message",1]"#]);
    // With half of another frame at the end.
    let late = text_frames([r#"42["message",2]"#]);
    let (first, second) = late.split_at(9);
    let ask = Ask { early: &[&early[..], first].concat(), ..Ask::default() };
    let mut ws = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    assert!(ws.text().await.starts_with("0{"));
    socket_id(&ws.text().await, "40");
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    assert_eq!(ws.text().await, r#"42["message-back",1]"#);
    ws.send_raw(second).await;
    assert_eq!(ws.text().await, r#"42["message-back",2]"#);
}

#[tokio::test]
async fn the_engines_path_is_configured() {
    let config = Config { path: "/realtime/v2".to_owned(), shards: 1, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(echo("/")));
    drop(Polling::open_at(server.addr, "/realtime/v2/").await);
    assert_eq!(get(server.addr, "/socket.io/?EIO=4&transport=polling").await.status, 404);
}

/// Says what it was asked, and by whom.
async fn mirror(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let peer = request.extensions().get::<SocketAddr>().expect("the client's address");
    Response::new(Full::from(format!("{} {} from {}", request.method(), request.uri(), peer.ip())))
}

#[tokio::test]
async fn what_is_not_the_engines_is_the_fallbacks() {
    let config = Config { shards: 1, ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(echo("/")).fallback(answering(mirror)));
    let mut http = Http::connect(server.addr).await;
    let response = http.request("PUT", "/v1/things?x=1", &[], b"").await;
    assert_eq!(response.parts(), (200, "PUT /v1/things?x=1 from 127.0.0.1"));
    // Both are served over one connection.
    let response = http.request("GET", "/socket.io/?EIO=3&transport=polling", &[], b"").await;
    assert_eq!(response.status, 400);
    let response = http.request("GET", "/", &[], b"").await;
    assert_eq!(response.parts(), (200, "GET / from 127.0.0.1"));
}

#[tokio::test]
async fn chosen_headers_of_the_handshake_are_kept() {
    let kept = HeaderName::from_static("x-tenant");
    let config = Config { shards: 1, kept_headers: vec![kept.clone()], ..Config::default() };
    let server = TestServer::start(config, |server| {
        server.namespace(Namespace::new("/").on_connect(move |socket| {
            let headers = [kept.clone(), HeaderName::from_static("x-other")];
            let headers = headers.map(|name| socket.header(&name).and_then(|value| value.to_str().ok()));
            assert!(socket.remote_addr().is_loopback());
            socket.emit("headers", &headers).expect("a name");
        }))
    });
    let headers: Headers<'_> = &[("X-Tenant", "studio"), ("X-Other", "x")];
    let ask = Ask { headers, early: &text_frames(["40"]), ..Ask::default() };
    let mut ws = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    ws.text().await;
    ws.text().await;
    assert_eq!(ws.text().await, r#"42["headers",["studio",null]]"#);
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["headers",[null,null]]"#);

    // For polling, those of the first request count.
    let response = request(server.addr, "GET", "/socket.io/?EIO=4&transport=polling", headers, b"").await;
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={}", &response.body[9..29]);
    request(server.addr, "POST", &target, &[("X-Tenant", "other")], b"40").await;
    let packets = get(server.addr, &target).await.body;
    assert!(packets.ends_with("\x1e42[\"headers\",[\"studio\",null]]"), "{packets}");
    request(server.addr, "POST", &target, &[], b"1").await;
}

#[tokio::test]
async fn any_origin_may_use_an_open_server() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let origin: Headers<'_> = &[("Origin", "https://studio.example")];

    let session = Polling::open(server.addr).await;
    assert_eq!(get(server.addr, "/socket.io/?EIO=4&transport=polling&sid=abc").await.header(ALLOW_ORIGIN), None);
    let post = request(server.addr, "POST", &session.target(), origin, b"40").await;
    let poll = request(server.addr, "GET", &session.target(), origin, b"").await;
    let refusal = request(server.addr, "GET", "/socket.io/?EIO=3", origin, b"").await;
    for (response, status) in [(post, 200), (poll, 200), (refusal, 400)] {
        assert_eq!(response.status, status);
        assert_eq!(response.header(ALLOW_ORIGIN), Some("*"));
        assert_eq!(response.header("access-control-allow-credentials"), None, "not together with a star");
    }

    let asked = [origin, &[("Access-Control-Request-Method", "POST"), (REQUEST_HEADERS, "x-a, x-b")]].concat();
    let preflight = request(server.addr, "OPTIONS", &session.target(), &asked, b"").await;
    assert_eq!(preflight.parts(), (204, ""));
    assert_eq!(preflight.header(ALLOW_ORIGIN), Some("*"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, POST"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("x-a, x-b"));
    assert!(preflight.header("access-control-max-age").is_some());

    let ask = Ask { headers: origin, ..Ask::default() };
    assert!(Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.is_ok());
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const REQUEST_HEADERS: &str = "Access-Control-Request-Headers";

#[tokio::test]
async fn a_list_of_origins_keeps_others_out_on_both_transports() {
    let listed = "https://studio.example";
    let origins =
        ["http://localhost:5173", "WSS://Studio.example:443/"].map(|origin| origin.parse().expect("an origin"));
    let origins = Origins::List(origins.into());
    let server = TestServer::echo(Config { shards: 1, origins, ..Config::default() });
    let polling = "/socket.io/?EIO=4&transport=polling";
    let websocket = "/socket.io/?EIO=4&transport=websocket";

    let session = Polling::open(server.addr).await;
    let response = request(server.addr, "POST", &session.target(), &[("Origin", listed)], b"40").await;
    assert_eq!(response.parts(), (200, "ok"));
    assert_eq!(response.header(ALLOW_ORIGIN), Some(listed));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(response.header("vary"), Some("Origin"));
    let response = request(server.addr, "OPTIONS", polling, &[("Origin", listed)], b"").await;
    assert_eq!((response.status, response.header(ALLOW_ORIGIN)), (204, Some(listed)));
    let ask = Ask { headers: &[("Origin", listed)], ..Ask::default() };
    assert!(Ws::ask(server.addr, websocket, ask).await.is_ok());
    assert!(Ws::ask(server.addr, websocket, Ask::default()).await.is_ok(), "not a browser");

    for foreign in
        ["https://studio.example.evil", "http://studio.example", "https://studio.example:444", "null", "\u{e4}"]
    {
        let origin: Headers<'_> = &[("Origin", foreign)];
        let target = session.target();
        for (method, target) in
            [("GET", polling), ("OPTIONS", polling), ("POST", polling), ("GET", &target), ("POST", &target)]
        {
            let response = request(server.addr, method, target, origin, b"").await;
            assert_eq!(response.parts(), (403, FORBIDDEN), "{method} {foreign}");
            assert_eq!(response.header(ALLOW_ORIGIN), None);
        }
        let ask = Ask { headers: origin, ..Ask::default() };
        let response = Ws::ask(server.addr, websocket, ask).await.map(drop).unwrap_err();
        assert_eq!(response.parts(), (403, FORBIDDEN), "{foreign}");
        let target = format!("{websocket}&sid={}", session.sid);
        let ask = Ask { headers: origin, ..Ask::default() };
        assert_eq!(Ws::ask(server.addr, &target, ask).await.map(drop).unwrap_err().status, 403, "{foreign}");
    }
    assert!(session.get().await.body.starts_with("40"), "the session is as it was");
}

const FORBIDDEN: &str = r#"{"code":4,"message":"Forbidden: the page's origin is not this server's own, and Config::origins does not have it"}"#;

#[tokio::test]
async fn the_own_origin_is_that_of_the_url() {
    let trusted_proxies = TrustedProxies::new(TrustedProxies::network("127.0.0.8/29"));
    let config = Config { shards: 1, origins: Origins::List(Vec::new()), trusted_proxies, ..Config::default() };
    let server = TestServer::echo(config);
    let ask = async |from: &str, headers: Headers<'_>| {
        let mut http = Http::over(connect_from(from, server.addr).await);
        http.request("OPTIONS", "/socket.io/?EIO=4&transport=polling", headers, b"").await.status
    };
    let (browser, proxy) = ("127.0.0.1", "127.0.0.9");
    let page = ("Origin", "https://studio.example");
    for (host, status) in [("studio.example:443", 204), ("STUDIO.example", 204), ("studio.example:80", 403)] {
        assert_eq!(ask(browser, &[page, ("Host", host)]).await, status, "{host}");
    }
    let inside = ("Host", "127.0.0.1:3000");
    let said = ("X-Forwarded-Host", "studio.example");
    assert_eq!(ask(proxy, &[page, inside]).await, 403);
    assert_eq!(ask(proxy, &[page, inside, said]).await, 204);
    assert_eq!(ask(browser, &[page, inside, said]).await, 403, "anybody can say so");
    let insecure = ("Origin", "http://studio.example");
    assert_eq!(ask(proxy, &[insecure, inside, said]).await, 204);
    assert_eq!(ask(proxy, &[insecure, inside, said, ("X-Forwarded-Proto", "https")]).await, 403);
    let noise = "x,".repeat(8_000);
    let noise = noise.as_str();
    assert_eq!(ask(proxy, &[page, inside, ("X-Forwarded-Host", noise)]).await, 403);
    assert_eq!(ask(proxy, &[("Origin", noise), inside, said]).await, 403);
}

#[tokio::test]
async fn a_base_path_may_be_there_or_not() {
    let config = Config { shards: 1, base_path: "/realtime".to_owned(), ..Config::default() };
    let server = TestServer::start(config, |server| server.namespace(echo("/")).fallback(answering(mirror)));
    for (path, things) in [("/socket.io/", "/v1/things?x=1"), ("/realtime/socket.io/", "/realtime/v1/things?x=1")] {
        let target = format!("{path}?EIO=4&transport=websocket");
        assert!(Ws::ask(server.addr, &target, Ask::default()).await.is_ok(), "{path}");
        Polling::open_at(server.addr, path).await;
        assert_eq!(get(server.addr, things).await.parts(), (200, "GET /v1/things?x=1 from 127.0.0.1"));
    }
    let response = get(server.addr, "/realtimes/socket.io/?EIO=4&transport=polling").await;
    assert!(response.body.starts_with("GET /realtimes/"), "{}", response.body);

    for wrong in ["realtime", "/realtime/", "/"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Server::builder(Config { base_path: wrong.to_owned(), ..Config::default() });
        assert_eq!(server.start(listener).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{wrong}");
    }
}

#[test]
fn two_namespaces_of_one_name_are_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = Server::builder(Config::default()).namespace(Namespace::new("/a")).namespace(Namespace::new("/a"));
    assert_eq!(server.start(listener).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
