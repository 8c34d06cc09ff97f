//! WebSocket: messages however they are cut, pings, ends, limits.

use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, DisconnectReason};

use crate::{
    client::{Http, Received, Ws, get, masked, text_frames},
    harness::TestServer,
};

on_one_and_three_shards!(
    messages_come_back,
    an_invalid_packet_closes,
    the_client_closes,
    a_message_may_be_as_large_as_allowed,
);

/// A request that has come in one piece is answered in another place than others.
#[tokio::test]
async fn a_request_in_one_piece_is_answered_like_any_other() {
    const REQUEST: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                           Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n\
                           Origin: https://page.example\r\nSec-WebSocket-Key: ";
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let answer = async |pieces: &[&str]| {
        let mut http = Http::connect(server.addr).await;
        for piece in pieces {
            http.send_raw(piece.as_bytes()).await;
            // Once another request is answered, the piece has been read.
            assert_eq!(get(server.addr, "/").await.status, 404);
        }
        let mut response = http.response().await.expect("an answer");
        response.headers.retain(|(name, _)| name != "date");
        response.headers.sort();
        response
    };
    let whole = format!("{REQUEST}{KEY}\r\n");
    let expected = answer(&[&whole]).await;
    assert_eq!((expected.status, expected.header("sec-websocket-protocol")), (101, Some("a")));
    assert_eq!(expected.header("access-control-allow-origin"), Some("*"));
    for at in [1, whole.len() / 2, whole.len() - 1] {
        let (first, rest) = whole.split_at(at);
        assert_eq!(answer(&[first, rest]).await, expected);
    }
    let headers: String = (0..60).map(|number| format!("X-{number}: {number}\r\n")).collect();
    assert_eq!(answer(&[&format!("{REQUEST}{KEY}{headers}\r\n")]).await, expected);
    // Neither has an upgrade: a request with a body, and one of HTTP/1.0.
    let with_body = format!("{REQUEST}{KEY}Content-Length: 5\r\n\r\nhello");
    let in_chunks = format!("{REQUEST}{KEY}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    for request in [with_body, in_chunks, whole.replace("HTTP/1.1", "HTTP/1.0")] {
        assert_eq!(answer(&[&request]).await.status, 400, "{request}");
    }
    let bad = server.metrics().bad_requests;
    assert_eq!(answer(&[&format!("{REQUEST}x\r\n\r\n")]).await.status, 400);
    assert_eq!(server.metrics().bad_requests, bad + 1, "a refusal is counted once");
    assert_eq!(server.metrics().connections_opened, 5);
}

async fn messages_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    for text in ["4hello", "4", "4\u{20ac}\u{1d11e}", "4\x1e"] {
        ws.send(text).await;
        assert_eq!(ws.text().await, text);
    }
    for data in [&[][..], &[1, 2, 3, 4], &[0xff; 70_000]] {
        ws.send_binary(data).await;
        assert_eq!(ws.binary().await, data);
    }
    // Each form of the length.
    for length in [124, 125, 126, 65_535, 65_536, 200_000] {
        let text = format!("4{}", "x".repeat(length - 1));
        ws.send(&text).await;
        assert_eq!(ws.text().await, text);
    }
}

async fn an_invalid_packet_closes(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for packet in ["abc", "", "7", "0", "0{}", "2", "2probe", "1x", "5x", "b!", "b\u{20ac}", "\u{20ac}"] {
        for path in ["/engine.io/", "/socket.io/"] {
            let mut ws = Ws::open_at(server.addr, path).await;
            ws.send(packet).await;
            assert_eq!(ws.closed().await, (1002, "parse error".to_owned()), "{packet:?} at {path}");
        }
    }
    server.all_ended(DisconnectReason::ParseError).await;
    assert_eq!(server.ended(DisconnectReason::ParseError), 24);
}

async fn the_client_closes(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    // Engine.IO's way.
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send("1").await;
    assert_eq!(ws.closed().await.0, 1000);
    // WebSocket's way, with and without a code.
    for payload in [&[][..], &[0x03, 0xe8], b"\x03\xe9bye"] {
        let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
        ws.writer.frame(OpCode::Close, payload).await;
        assert_eq!(ws.closed().await.0, 1000);
    }
    // No way at all.
    let ws = Ws::open_at(server.addr, "/engine.io/").await;
    drop(ws);
    // In the middle of a frame.
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send_raw(&masked(OpCode::Text, b"4hello")[..8]).await;
    drop(ws);
    server.all_ended(DisconnectReason::TransportClose).await;
    assert_eq!(server.ended(DisconnectReason::TransportClose), 6);
}

async fn a_message_may_be_as_large_as_allowed(shards: usize) {
    let server = TestServer::echo(Config { shards, max_payload: 1000, ..Config::default() });
    let largest = format!("4{}", "x".repeat(999));
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send(&largest).await;
    assert_eq!(ws.text().await, largest);
    ws.send_binary(&[7; 1000]).await;
    assert_eq!(ws.binary().await, [7; 1000]);

    ws.send(&format!("{largest}x")).await;
    assert_eq!(ws.closed().await.0, 1009);
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send_binary(&[7; 1001]).await;
    assert_eq!(ws.closed().await.0, 1009);
    // In two fragments, each of which is small enough.
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send_raw(&fragment(OpCode::Binary, false, &[7; 600])).await;
    ws.send_raw(&fragment(OpCode::Continuation, true, &[7; 401])).await;
    assert_eq!(ws.closed().await.0, 1009);
    server.all_ended(DisconnectReason::PayloadTooLarge).await;
    assert_eq!(server.ended(DisconnectReason::PayloadTooLarge), 3);
}

/// A masked frame that may not be the message's last.
pub(crate) fn fragment(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(opcode, payload);
    if !is_final {
        frame[0] &= 0x7f;
    }
    frame
}

#[tokio::test]
async fn messages_arrive_however_they_are_cut() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let texts: Vec<String> = (0..40).map(|number| format!("4{}", "x".repeat(number * 9))).collect();
    let bytes = text_frames(texts.iter().map(String::as_str));
    // All at once, byte by byte, and in pieces whose ends wander through the frames.
    for size in [bytes.len(), 1, 7, 131, 1000] {
        for piece in bytes.chunks(size) {
            ws.send_raw(piece).await;
            if size == 1 {
                // Loopback would hand the server several at once.
                tokio::task::yield_now().await;
            }
        }
        for text in &texts {
            assert_eq!(ws.text().await, *text, "in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn fragments_make_one_message_and_control_frames_may_come_between() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let euro = "\u{20ac}".as_bytes();
    ws.send_raw(&fragment(OpCode::Text, false, b"4a")).await;
    ws.send_raw(&fragment(OpCode::Continuation, false, &euro[..1])).await;
    ws.send_raw(&fragment(OpCode::Ping, true, b"in between")).await;
    assert_eq!(ws.recv().await, Received::Pong(b"in between".to_vec()));
    ws.send_raw(&fragment(OpCode::Continuation, false, b"")).await;
    ws.send_raw(&fragment(OpCode::Continuation, true, &euro[1..])).await;
    assert_eq!(ws.text().await, "4a\u{20ac}");
    ws.send_raw(&fragment(OpCode::Binary, false, &[1])).await;
    ws.send_raw(&fragment(OpCode::Continuation, true, &[2])).await;
    assert_eq!(ws.binary().await, [1, 2]);
}

#[tokio::test]
async fn websocket_pings_are_answered_in_order() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let longest = [9; 125];
    ws.send_raw(&[masked(OpCode::Ping, b""), masked(OpCode::Text, b"4x"), masked(OpCode::Ping, &longest)].concat())
        .await;
    ws.send_raw(&masked(OpCode::Pong, b"nobody asked")).await;
    assert_eq!(ws.recv().await, Received::Pong(Vec::new()));
    assert_eq!(ws.text().await, "4x");
    assert_eq!(ws.recv().await, Received::Pong(longest.to_vec()));
}

#[tokio::test]
async fn what_was_answered_before_an_end_still_arrives() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    // The fault comes in one piece with 50 messages, and much more follows that nobody wants: were it left unread, the
    // kernel would reset the connection.
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    let texts: Vec<String> = (0..50).map(|number| format!("4{number}")).collect();
    let mut bytes = text_frames(texts.iter().map(String::as_str));
    bytes.extend(masked(OpCode::Text, b"not a packet"));
    ws.send_raw(&bytes).await;
    let more = masked(OpCode::Text, &[b'4'; 500_000]);
    for _ in 0..8 {
        ws.send_raw(&more).await;
    }
    for text in &texts {
        assert_eq!(ws.text().await, *text);
    }
    assert_eq!(ws.closed().await.0, 1002);
}

/// A client that sends on after it was closed is not read for ever.
#[tokio::test]
async fn a_closed_connection_is_read_on_for_so_much() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut ws = Ws::open_at(server.addr, "/engine.io/").await;
    ws.send_raw(&masked(OpCode::Text, b"not a packet")).await;
    let more = vec![b'x'; 1024 * 1024];
    let mut taken = 0;
    while ws.writer.try_send_raw(&more).await.is_ok() {
        taken += 1;
        // What was read, and what the kernel holds of it at both ends.
        assert!(taken < 64, "64 MiB were read");
    }
}

#[tokio::test]
async fn gauges_follow_connections() {
    let server = TestServer::echo(Config { shards: 3, ..Config::default() });
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Ws::connected(server.addr).await);
    }
    let metrics = server.metrics();
    assert_eq!((metrics.connections, metrics.websockets, metrics.sockets), (6, 6, 6));
    assert_eq!((metrics.connections_opened, metrics.sockets_connected), (6, 6));
    clients.clear();
    server.all_ended(DisconnectReason::TransportClose).await;
    let metrics = server.metrics();
    assert_eq!((metrics.connections_opened, metrics.sockets_connected), (6, 6));
    assert_eq!(server.ended(DisconnectReason::TransportClose), 6);
}
