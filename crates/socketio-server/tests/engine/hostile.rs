//! What no client of good will sends. Each gets what the protocols say, and nobody else notices.

use std::time::{Duration, Instant};

use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, DisconnectReason, Namespace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::{Client, Http, Received, Via, Ws, get, masked, text_frames},
    harness::{TestServer, echo, within},
    websocket::fragment,
};

/// Another client of the same shard, which must not notice anything.
struct Bystander(Ws, u32);

impl Bystander {
    async fn of(server: &TestServer) -> Self {
        Self(Ws::open_at(server.addr, "/engine.io/").await, 0)
    }

    async fn is_served(&mut self) {
        self.1 += 1;
        let text = format!("4{}", self.1);
        self.0.send(&text).await;
        assert_eq!(self.0.text().await, text);
    }
}

#[tokio::test]
async fn frames_against_the_rules_close_with_the_rules_code() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut bystander = Bystander::of(&server).await;
    let with_first_byte = |first: u8| {
        let mut frame = masked(OpCode::Text, b"4x");
        frame[0] = first;
        frame
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no mask", b"\x81\x024x".to_vec(), 1002),
        ("reserved bit 1, as of a compressed message", with_first_byte(0xc1), 1002),
        ("reserved bit 2", with_first_byte(0xa1), 1002),
        ("reserved bit 3", with_first_byte(0x91), 1002),
        ("an unknown opcode", with_first_byte(0x83), 1002),
        ("an unknown control opcode", with_first_byte(0x8b), 1002),
        ("a fragmented ping", with_first_byte(0x09), 1002),
        ("a fragmented close", with_first_byte(0x08), 1002),
        ("a long ping", masked(OpCode::Ping, &[0; 126]), 1002),
        ("a continuation of nothing", masked(OpCode::Continuation, b"4x"), 1002),
        (
            "a message inside a message",
            [fragment(OpCode::Text, false, b"4"), masked(OpCode::Text, b"4x")].concat(),
            1002,
        ),
        ("a long form of a short length", b"\x81\xfe\x00\x02\0\0\0\x004x".to_vec(), 1002),
        ("a longer form of a short length", b"\x81\xff\0\0\0\0\0\0\0\x02\0\0\0\x004x".to_vec(), 1002),
        ("text that is not UTF-8", masked(OpCode::Text, b"4\xff\xfe"), 1007),
        ("half a character", masked(OpCode::Text, b"4\xe2\x82"), 1007),
        ("a close code that is none", masked(OpCode::Close, &[0x03, 0xed]), 1002),
        ("half a close code", masked(OpCode::Close, &[0x03]), 1002),
        ("a close reason that is not UTF-8", masked(OpCode::Close, b"\x03\xe8\xff"), 1007),
        ("a length of 2^63", b"\x82\xff\x80\0\0\0\0\0\0\0".to_vec(), 1009),
        ("a length of 2^64 - 1", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), 1009),
        ("a length of a terabyte", b"\x82\xff\0\0\x01\0\0\0\0\0".to_vec(), 1009),
        ("endless empty fragments", endless_fragments(), 1008),
    ];
    for (what, bytes, code) in &cases {
        for path in ["/engine.io/", "/socket.io/"] {
            let mut ws = Ws::open_at(server.addr, path).await;
            ws.send_raw(bytes).await;
            match ws.recv().await {
                Received::Close(received, _) => assert_eq!(received, *code, "{what}"),
                other => panic!("{what}: {other:?}"),
            }
        }
        bystander.is_served().await;
    }
    drop(bystander);
    server.all_ended(DisconnectReason::ParseError).await;
    assert_eq!(server.ended(DisconnectReason::PayloadTooLarge), 2 * 3);
    assert_eq!(server.ended(DisconnectReason::ParseError), 2 * (cases.len() as u64 - 3));
}

fn endless_fragments() -> Vec<u8> {
    let mut bytes = fragment(OpCode::Text, false, b"4");
    for _ in 0..5000 {
        bytes.extend(fragment(OpCode::Continuation, false, b""));
    }
    bytes
}

#[tokio::test]
async fn packets_against_the_protocol_end_the_connection() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut bystander = Bystander::of(&server).await;
    let nested = |depth: usize| format!(r#"42["message",{}{}]"#, "[".repeat(depth), "]".repeat(depth));
    let many = |count: usize| format!(r#"42["message"{}]"#, ",1".repeat(count));
    let cases = [
        "4",
        "4abc",
        "47",
        "4\u{20ac}",
        "42",
        "42{}",
        r#"42"message""#,
        "42[]",
        "42[null]",
        "42[true]",
        r#"42[["message"]]"#,
        r#"42[{"message":1}]"#,
        r#"42["message""#,
        r#"42["message",]"#,
        r#"42["message",1]x"#,
        r#"42["message",nul]"#,
        r#"42["message",01]"#,
        "42[\"a\nb\"]",
        r#"42abc["message-with-ack",1,"2",{"3":[false]}]"#,
        r#"42-1["message-with-ack"]"#,
        // 2^53, which JavaScript can't tell from the next.
        r#"429007199254740992["message-with-ack"]"#,
        r#"4299999999999999999999999["message-with-ack"]"#,
        r#"42["connect"]"#,
        r#"42["connect_error"]"#,
        r#"42["disconnect"]"#,
        r#"42["disconnecting"]"#,
        r#"42["newListener"]"#,
        r#"42["removeListener"]"#,
        "43",
        "43[]",
        "431",
        "431{}",
        r#"44{"message":"no"}"#,
        "40[]",
        r#"40"token""#,
        "40{",
        "401",
        "41x",
        "45[]",
        r#"450-["message"]"#,
        r#"45-["message"]"#,
        r#"45x-["message"]"#,
        r#"451["message",{"_placeholder":true,"num":0}]"#,
        r#"451-["message"]"#,
        r#"451-["message",{"_placeholder":true,"num":1}]"#,
        r#"451-["message",{"_placeholder":true,"num":-1}]"#,
        r#"451-["message",{"_placeholder":true,"num":"0"}]"#,
        r#"452-["message",{"_placeholder":true,"num":0}]"#,
        r#"461-["message",{"_placeholder":true,"num":0}]"#,
        &nested(200),
        &nested(50_000),
        &many(70_000),
    ];
    for via in Via::BOTH {
        for packet in cases {
            let mut client = Client::connected(server.addr, via).await;
            assert_eq!(client.text().await, r#"42["auth",{}]"#);
            client.send_and_be_closed(packet).await;
        }
        bystander.is_served().await;
    }
    assert_eq!(server.ended(DisconnectReason::ParseError), 2 * cases.len() as u64);

    // As deep and as many as they may be.
    let mut client = Client::connected(server.addr, Via::WebSocket).await;
    assert_eq!(client.text().await, r#"42["auth",{}]"#);
    for packet in [nested(126), many(65_535)] {
        client.send(&packet).await;
        assert_eq!(client.text().await, packet.replace("message", "message-back"));
    }
}

/// The three packets of the official suite, among others, before any namespace is connected to.
#[tokio::test]
async fn packets_before_a_namespace_end_the_connection() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    for via in Via::BOTH {
        for packet in ["4abc", r#"42["message",1]"#, r#"42/custom,["message",1]"#, "41", "430[]"] {
            Client::open(server.addr, via).await.send_and_be_closed(packet).await;
        }
        // An attachment that nothing announced.
        for connected in [false, true] {
            let mut client = Client::open(server.addr, via).await;
            if connected {
                client.send("40").await;
                client.text().await;
                assert_eq!(client.text().await, r#"42["auth",{}]"#);
            }
            match &mut client {
                Client::WebSocket(ws) => {
                    ws.send_binary(&[1]).await;
                    assert_eq!(ws.closed().await.0, 1002);
                }
                Client::Polling(polling) => {
                    assert_eq!(polling.post("bAQ==").await.status, 400);
                    polling.expect_gone().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_unknown_namespaces_are_a_thousand_refusals() {
    let config = Config { shards: 1, connect_timeout: Duration::from_millis(500), ..Config::default() };
    let server = TestServer::echo(config);
    let mut bystander = Bystander::of(&server).await;
    let mut ws = Ws::open(server.addr).await;
    let packets: Vec<String> = (0..1000).map(|number| format!("40/unknown-{number},{{\"token\":1}}")).collect();
    ws.send_raw(&text_frames(packets.iter().map(String::as_str))).await;
    for number in 0..1000 {
        assert_eq!(ws.text().await, format!(r#"44/unknown-{number},{{"message":"Invalid namespace"}}"#));
    }
    assert_eq!(server.metrics().sockets_connected, 0);
    bystander.is_served().await;
    // And none of them was a namespace connected to.
    assert_eq!(ws.closed().await, (1000, "connect timeout".to_owned()));
}

#[tokio::test]
async fn names_of_namespaces_come_back_as_they_were() {
    let server =
        TestServer::start(Config { shards: 1, ..Config::default() }, |server| server.namespace(Namespace::new("/a")));
    let mut ws = Ws::open(server.addr).await;
    for name in ["/", "/A", "/a/", "//", "/a b", "/\"quoted\"", "/\u{20ac}", "/a?b=c"] {
        ws.send(&if name == "/" { "40".to_owned() } else { format!("40{name},") }).await;
        let prefix = if name == "/" { "44".to_owned() } else { format!("44{name},") };
        assert_eq!(ws.text().await, format!(r#"{prefix}{{"message":"Invalid namespace"}}"#));
    }
    ws.enter("/a").await;
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut bystander = Bystander::of(&server).await;
    let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let cases: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello, sort of \r\n\r\n",
        b"hello?\r\n\r\n",
        b"GET /socket.io/?EIO=4&transport=polling HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        long_header.as_bytes(),
    ];
    for bytes in cases {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        let mut stream = tokio::net::TcpStream::connect(server.addr).await.expect("the server listens");
        // It may answer and close before all is sent.
        let _ = within("the server reads", stream.write_all(bytes)).await;
        let mut answer = Vec::new();
        let _ = within("the server closes", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        bystander.is_served().await;
    }
    assert_eq!(server.metrics().connections_opened, 1, "the bystander's");
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up() {
    let config = Config { shards: 1, header_timeout: Duration::from_millis(200), ..Config::default() };
    let server = TestServer::echo(config);
    let began = Instant::now();
    let mut silent = Http::connect(server.addr).await;
    let mut stuck = Http::connect(server.addr).await;
    stuck.send_raw(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: loc").await;
    // One header after the other must not win more time.
    let trickle = Http::connect(server.addr).await;
    let trickle = tokio::spawn(trickle_headers(trickle));
    assert!(silent.response().await.is_none_or(|response| response.status == 408));
    assert!(stuck.response().await.is_none_or(|response| response.status == 408));
    within("the trickle is cut", trickle).await.expect("no panic");
    assert!(began.elapsed() >= Duration::from_millis(200));
    // A poll may wait far longer: it is the server that has nothing to say.
    let mut poll = Http::connect(server.addr).await;
    let open = get(server.addr, "/engine.io/?EIO=4&transport=polling").await;
    let target = format!("/engine.io/?EIO=4&transport=polling&sid={}", &open.body[9..29]);
    poll.send("GET", &target, &[], b"").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(Http::connect(server.addr).await.request("POST", &target, &[], b"4x\x1e1").await.status, 200);
    assert_eq!(poll.response().await.expect("a response").body, "4x");
}

async fn trickle_headers(mut http: Http) {
    http.send_raw(b"GET / HTTP/1.1\r\n").await;
    loop {
        if http.try_send_raw(b"X: y\r\n").await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bytes of many hostile clients at once, and of one with manners.
#[tokio::test]
async fn noise_disturbs_nobody() {
    let server = TestServer::start(Config { shards: 3, ..Config::default() }, |server| server.namespace(echo("/")));
    let (mut polite, _) = Ws::connected(server.addr).await;
    assert_eq!(polite.text().await, r#"42["auth",{}]"#);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..60 {
        let mut noise = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_be_bytes());
        }
        let mut ws = Ws::open(server.addr).await;
        // Frames that are well-formed around a payload that is not, and bytes that aren't even frames.
        let bytes = if round % 2 == 0 { masked(OpCode::Binary, &noise) } else { noise };
        let _ = ws.writer.try_send_raw(&bytes).await;
        polite.send(&format!(r#"42["message",{round}]"#)).await;
        assert_eq!(polite.text().await, format!(r#"42["message-back",{round}]"#));
    }
}
