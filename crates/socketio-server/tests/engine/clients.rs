//! Clients of other kinds than the usual one, by what tells them apart on the wire.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use socketio_server::{Config, EventArgs, Namespace, Recovery, Refusal};

use crate::{
    client::{Ask, COME_BACK, Headers, Http, Polling, Ws, get},
    harness::{TestServer, echo, eventually},
};

fn one_shard() -> Config {
    Config { shards: 1, ..Config::default() }
}

/// `forceBase64: true`.
#[tokio::test]
async fn binary_data_goes_in_text_both_ways() {
    let server = TestServer::start(one_shard(), |server| server.namespace(echo("/")));
    let mut ws =
        Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket&b64=1", Ask::default()).await.expect("a WebSocket");
    ws.text().await;
    ws.enter("/").await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    ws.send(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    ws.send("bAQID").await;
    assert_eq!(ws.text().await, r#"451-["message-back",{"_placeholder":true,"num":0}]"#);
    assert_eq!(ws.text().await, "bAQID");

    // Broadcasts have their data once for all, in two forms.
    let mut usual = Ws::connected(server.addr).await.0;
    usual.text().await;
    let args = EventArgs::from_raw(r#"{"_placeholder":true,"num":0}"#).with_attachments(vec![Bytes::from_static(&[9])]);
    let sockets = server.handle.broadcast("/").emit_args("data", &args).expect("a name").await;
    assert_eq!(sockets, 2);
    for client in [&mut ws, &mut usual] {
        assert_eq!(client.text().await, r#"451-["data",{"_placeholder":true,"num":0}]"#);
    }
    assert_eq!(ws.text().await, "bCQ==");
    assert_eq!(usual.binary().await, [9]);
    // A usual client may send it so as well.
    usual.send(r#"451-["message",{"_placeholder":true,"num":0}]"#).await;
    usual.send("bAQID").await;
    usual.text().await;
    assert_eq!(usual.binary().await, [1, 2, 3]);
    ws.send("b!").await;
    assert_eq!(ws.closed().await.0, 1002);
}

/// The same in a large room, whose members are written to directly.
#[tokio::test]
async fn binary_data_goes_in_text_to_members_of_a_large_room() {
    let server = TestServer::start(Config { large_room: 1, ..one_shard() }, |server| {
        server.namespace(Namespace::new("/").on_connect(|socket| {
            socket.join("room").expect("a room");
        }))
    });
    let mut ws =
        Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket&b64=1", Ask::default()).await.expect("a WebSocket");
    ws.text().await;
    ws.enter("/").await;
    let args = EventArgs::from_raw(r#"{"_placeholder":true,"num":0}"#).with_attachments(vec![Bytes::from_static(&[9])]);
    assert_eq!(server.handle.to("/", "room").emit_args("data", &args).expect("a name").await, 1);
    assert!(ws.text().await.starts_with("451-"));
    assert_eq!(ws.text().await, "bCQ==");
}

/// `protocols: […]`: a browser takes no answer that names none of them.
#[tokio::test]
async fn the_first_subprotocol_is_taken() {
    let server = TestServer::echo(one_shard());
    for (asked, taken) in
        [(Some("a, b"), Some("a")), (Some("v1.stomp"), Some("v1.stomp")), (Some(" , b"), None), (None, None)]
    {
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(asked.map(|asked| ("Sec-WebSocket-Protocol", asked)));
        let mut http = Http::connect(server.addr).await;
        let answer = http.request("GET", "/socket.io/?EIO=4&transport=websocket", &headers, b"").await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, taken), "{asked:?}");
    }
}

/// The offset of recovery is an argument more than Python's handlers take.
#[tokio::test]
async fn python_gets_no_offset_unless_it_asks() {
    let config = Config { recovery: Some(Recovery::default()), ..one_shard() };
    let server = TestServer::start(config, |server| server.namespace(Namespace::new("/")));
    const PYTHON: &str = "1764528000.1234567";
    const JAVASCRIPT: &str = "3xk2p9a1";
    for (time, auth, offset) in [
        (PYTHON, json!({}), false),
        (PYTHON, json!({ "recovery": true }), true),
        (JAVASCRIPT, json!({}), true),
        (JAVASCRIPT, json!({ "recovery": false }), false),
    ] {
        let target = format!("/socket.io/?EIO=4&transport=websocket&t={time}");
        let mut ws = Ws::ask(server.addr, &target, Ask::default()).await.expect("a WebSocket");
        ws.text().await;
        ws.send(&format!("40{auth}")).await;
        let reply: Value = serde_json::from_str(&ws.text().await[2..]).expect("JSON");
        assert_eq!(reply["pid"].is_string(), offset, "{time} {auth}");
        server.handle.broadcast("/").emit("news", &1).expect("a name").await;
        let mut event = ws.text().await;
        if event == "2" {
            event = ws.text().await;
        }
        assert_eq!(event != r#"42["news",1]"#, offset, "{event}");
        drop(ws);
        eventually("it is gone", || server.metrics().connections == 0).await;
    }
}

/// It comes back after an error, and not after a close packet.
#[tokio::test]
async fn a_poll_of_python_ends_with_an_error() {
    let config =
        Config { ping_interval: Duration::from_millis(100), ping_timeout: Duration::from_millis(100), ..one_shard() };
    let server = TestServer::echo(config);
    let open = get(server.addr, "/socket.io/?EIO=4&transport=polling&t=1764528000.1").await;
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={}", &open.body[9..29]);
    let mut http = Http::connect(server.addr).await;
    assert_eq!(http.request("POST", &target, &[], b"40").await.parts(), (200, "ok"));
    assert!(http.request("GET", &target, &[], b"").await.body.starts_with("40{"));
    let ended = loop {
        // Heartbeats, which it leaves unanswered.
        let response = http.request("GET", &target, &[], b"").await;
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!(ended.parts(), COME_BACK);
}

/// It is told in its own words, and so does not try for ever.
#[tokio::test]
async fn a_client_with_the_msgpack_parser_is_told() {
    let refused: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = refused.clone();
    let server = TestServer::start(one_shard(), |server| {
        server.namespace(echo("/")).on_refusal(move |client| {
            let note = format!("{} {} {:?}", client.refusal.as_str(), client.address, client.user_agent);
            noted.lock().expect("no panic").push(note);
        })
    });
    // {type: 0, data: {token: "t"}, nsp: "/media"}
    const CONNECT: &[u8] = b"\x83\xa4type\x00\xa4data\x81\xa5token\xa1t\xa3nsp\xa6/media";
    let expected = |namespace: &str| {
        let message = "this server does not speak MessagePack: connect without `parser`";
        let mut packet = b"\x83\xa4type\x04\xa3nsp".to_vec();
        packet.push(0xa0 + namespace.len() as u8);
        packet.extend_from_slice(namespace.as_bytes());
        packet.extend_from_slice(b"\xa4data\x81\xa7message\xd9");
        packet.push(message.len() as u8);
        packet.extend_from_slice(message.as_bytes());
        packet
    };
    let mut ws = Ws::open(server.addr).await;
    ws.send_binary(CONNECT).await;
    assert_eq!(ws.binary().await, expected("/media"));
    // {type: 0, nsp: "/"}
    ws.send_binary(b"\x82\xa4type\x00\xa3nsp\xa1/").await;
    assert_eq!(ws.binary().await, expected("/"));
    ws.send("1").await;
    assert_eq!(*refused.lock().expect("no panic"), ["parser 127.0.0.1 None", "parser 127.0.0.1 None"]);
    assert!(server.metrics().refusals.contains(&(Refusal::Parser, 2)));

    // Whatever else is binary and no attachment breaks the protocol.
    for binary in [&b"\x82\xa4type\x02\xa3nsp\xa1/"[..], b"\x01", b"\x8f\xa4type", b"\xdf\xff\xff\xff\xff", b""] {
        let mut ws = Ws::open(server.addr).await;
        ws.send_binary(binary).await;
        assert_eq!(ws.closed().await.0, 1002, "{binary:?}");
    }
    let mut connected = Ws::connected(server.addr).await.0;
    connected.text().await;
    connected.send_binary(CONNECT).await;
    assert_eq!(connected.closed().await.0, 1002);
}

#[tokio::test]
async fn an_old_client_and_a_foreign_page_are_reported_as_refused() {
    let refused: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = refused.clone();
    let config = Config { origins: socketio_server::Origins::List(Vec::new()), ..one_shard() };
    let server = TestServer::start(config, |server| {
        server.namespace(echo("/")).on_refusal(move |client| {
            let note = format!("{} {:?} {:?}", client.refusal.as_str(), client.origin, client.user_agent);
            noted.lock().expect("no panic").push(note);
        })
    });
    let mut http = Http::connect(server.addr).await;
    let agent: Headers<'_> = &[("User-Agent", "old/1")];
    let old = http.request("GET", "/socket.io/?EIO=3&transport=polling", agent, b"").await;
    assert_eq!(old.parts(), (400, r#"{"code":5,"message":"Unsupported protocol version"}"#));
    let foreign: Headers<'_> = &[("Origin", "https://elsewhere.example")];
    assert_eq!(http.request("GET", "/socket.io/?EIO=4&transport=polling", foreign, b"").await.status, 403);
    let expected = [r#"protocol version None Some("old/1")"#, r#"origin Some("https://elsewhere.example") None"#];
    assert_eq!(*refused.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn the_application_may_refuse_a_connection() {
    let server = TestServer::start(one_shard(), |server| {
        server.namespace(echo("/")).allow_request(|request| {
            let is_allowed = request.headers.contains_key("x-pass");
            async move { is_allowed }
        })
    });
    const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";
    let refused = get(server.addr, HANDSHAKE).await;
    assert_eq!(refused.parts(), (403, r#"{"code":4,"message":"Forbidden"}"#));
    let mut http = Http::connect(server.addr).await;
    let open = http.request("GET", HANDSHAKE, &[("X-Pass", "1")], b"").await;
    assert_eq!(open.status, 200);
    // Asked once: what follows is the session's.
    let target = format!("{HANDSHAKE}&sid={}", &open.body[9..29]);
    assert_eq!(http.request("POST", &target, &[], b"1").await.parts(), (200, "ok"));
}

/// What opened the connection, for handlers that want it.
#[tokio::test]
async fn the_handshake_is_there_for_handlers() {
    let server = TestServer::start(Config { keep_handshake: true, ..one_shard() }, |server| {
        server.namespace(Namespace::new("/").on("handshake", |socket, event| {
            let handshake = socket.handshake().expect("it is kept");
            let query: Vec<_> = handshake.query().filter(|(name, _)| name != "EIO").collect();
            let header = handshake.headers().get("x-tenant").and_then(|value| value.to_str().ok());
            assert!(handshake.peer().port() > 0);
            event.ack(&json!([handshake.path(), query, header, socket.transport()]));
        }))
    });
    let headers: Headers<'_> = &[("X-Tenant", "studio")];
    let target = "/socket.io/?EIO=4&transport=websocket&a=b%20c";
    let mut ws = Ws::ask(server.addr, target, Ask { headers, ..Ask::default() }).await.expect("a WebSocket");
    ws.text().await;
    ws.enter("/").await;
    ws.send(r#"420["handshake"]"#).await;
    let expected = json!([["/socket.io/", [["transport", "websocket"], ["a", "b c"]], "studio", "websocket"]]);
    assert_eq!(ws.text().await, format!("430{expected}"));
    let (mut session, _) = Polling::connected(server.addr).await;
    session.send(r#"420["handshake"]"#).await;
    assert_eq!(session.text().await, r#"430[["/socket.io/",[["transport","polling"]],null,"polling"]]"#);
}

/// A question with several arguments, and data.
#[tokio::test]
async fn a_question_may_have_any_arguments() {
    let server = TestServer::start(one_shard(), |server| {
        server.namespace(Namespace::new("/").on_async("ask me", async |socket: socketio_server::Socket, event| {
            let args = EventArgs::from_raw(r#"1,"two",{"_placeholder":true,"num":0}"#)
                .with_attachments(vec![Bytes::from_static(&[3])]);
            let reply = socket.emit_args_with_ack("question", &args, Duration::from_secs(5)).await.expect("an answer");
            assert_eq!(reply.attachments(), [Bytes::from_static(&[4])]);
            event.ack(&reply.args().len());
        }))
    });
    let mut ws = Ws::connected(server.addr).await.0;
    ws.send(r#"427["ask me"]"#).await;
    assert_eq!(ws.text().await, r#"451-0["question",1,"two",{"_placeholder":true,"num":0}]"#);
    assert_eq!(ws.binary().await, [3]);
    ws.send(r#"461-0["a",{"_placeholder":true,"num":0}]"#).await;
    ws.send_binary(&[4]).await;
    assert_eq!(ws.text().await, "437[2]");
}
