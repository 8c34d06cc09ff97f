//! Bodies and messages that are larger, deeper or other than they may be.

use super::peer::{Frame, HANDSHAKE, Peer, session};
use super::siege::{Siege, limit_met};
use crate::server::KEY;

/// 10 MB of zeros, as `gzip -9` makes it of them: its beginning, which is all that anybody would look at.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xec\xc1\x01\x0d\0\0\0\xc2\xa0\xf7\x4f\x6d\x0e\x37\xa0";

#[tokio::test]
async fn compressed_bombs() {
    let siege = Siege::of("gzip bodies, to a session and to the publish API");
    siege
        .run(async |server| {
            for _ in 0..50 {
                let sid = session(server).await;
                let publisher = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
                for (target, headers) in
                    [(format!("{HANDSHAKE}&sid={sid}"), ""), ("/v1/rooms/r/events".to_owned(), publisher.as_str())]
                {
                    let mut peer = Peer::connect(server).await;
                    peer.request("POST", &target, &format!("{headers}Content-Encoding: gzip\r\n"), GZIP).await;
                    assert_eq!(peer.answer().await.expect("an answer").status, 415, "{target}");
                }
                let mut peer = Peer::connect(server).await;
                peer.request("POST", &format!("{HANDSHAKE}&sid={sid}"), "Connection: close\r\n", b"1").await;
                assert_eq!(peer.answer().await.expect("an answer").status, 200);
            }
            "415; nothing is unpacked".to_owned()
        })
        .await;
}

#[tokio::test]
async fn huge_bodies() {
    let siege = Siege::of("100 bodies and messages past 1 MB");
    siege
        .run(async |server| {
            let huge = vec![b'4'; 1_000_001];
            for _ in 0..33 {
                let sid = session(server).await;
                let chunked = format!(
                    "POST {HANDSHAKE}&sid={sid} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nf4241\r\n"
                );
                let mut peer = Peer::connect(server).await;
                peer.send(&[chunked.as_bytes(), &huge, b"\r\n0\r\n\r\n"].concat()).await;
                assert!(peer.answer().await.is_none_or(|answer| answer.status == 413));
                let sid = session(server).await;
                let mut peer = Peer::connect(server).await;
                peer.request("POST", &format!("{HANDSHAKE}&sid={sid}"), "", &huge).await;
                assert!(peer.answer().await.is_none_or(|answer| answer.status == 413));
                let mut peer = Peer::client(server).await;
                peer.text(std::str::from_utf8(&huge).expect("text")).await;
                assert!(matches!(peer.end().await.0, Frame::Close(1009, _) | Frame::End));
            }
            "413; a WebSocket is closed with 1009 `payload too large`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn deep_json() {
    let siege = Siege::of("JSON of 1 MB that is nothing but brackets, to events, connects and publishes").memory(32);
    siege
        .run(async |server| {
            let deep = format!("{}{}", "[".repeat(490_000), "]".repeat(490_000));
            for event in [format!(r#"42["joinRoom",{deep}]"#), format!(r#"40/media,{{"token":{deep}}}"#)] {
                let mut peer = Peer::client(server).await;
                peer.text(&event).await;
                assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            }
            let mut peer = Peer::connect(server).await;
            let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
            peer.request("POST", "/v1/publish", &headers, deep.as_bytes()).await;
            assert_eq!(peer.answer().await.expect("an answer").status, 400);
            assert!(limit_met(server, "json depth").await > 0);
            "closed with 1002 `parse error` past `MAX_JSON_DEPTH`; publishers get 400".to_owned()
        })
        .await;
}

#[tokio::test]
async fn huge_json() {
    let siege = Siege::of("events of 1 MB: a million arguments, one long string, one long name").memory(48);
    siege
        .run(async |server| {
            let mut peer = Peer::client(server).await;
            peer.text(&format!(r#"42["ping"{}]"#, ",1".repeat(480_000))).await;
            assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            let mut peer = Peer::client(server).await;
            let long = "x".repeat(990_000);
            peer.text(&format!(r#"421["joinRoom","{long}"]"#)).await;
            assert!(peer.until(|text| text.starts_with("431[")).await.contains(r#""success":false"#));
            peer.text(&format!(r#"422["{}"]"#, &long[..1_000])).await;
            assert!(peer.until(|text| text.starts_with("432[")).await.contains("Unknown event"));
            "1002 past 65,536 arguments; else an ack with `success: false`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn attachments_that_never_come() {
    let siege =
        Siege::of("200 events that announce attachments, and 10^9 of them").with("CONNECTION_RATE_PER_ADDRESS", "0");
    siege
        .run(async |server| {
            let mut waiting = Vec::new();
            for _ in 0..200 {
                let mut peer = Peer::client(server).await;
                peer.text(r#"451-["ping",{"_placeholder":true,"num":0}]"#).await;
                waiting.push(peer);
            }
            let mut peer = Peer::client(server).await;
            peer.text(r#"451000000000-["ping",{"_placeholder":true,"num":0}]"#).await;
            assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            // Another packet instead of the attachment.
            for peer in &mut waiting {
                peer.text(r#"42["ping"]"#).await;
                assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            }
            assert!(limit_met(server, "attachments").await > 0);
            "closed with 1002 `parse error` past `MAX_ATTACHMENTS`, and by any other packet".to_owned()
        })
        .await;
}
