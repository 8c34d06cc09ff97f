//! WebSocket frames against the rules, or too many of them.

use socketio_protocol::websocket::OpCode;

use super::peer::{Frame, Peer, masked};
use super::siege::Siege;

fn fragment(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(opcode, payload);
    // Not the last one.
    frame[0] &= 0x7f;
    frame
}

#[tokio::test]
async fn endless_fragments() {
    let siege = Siege::of("a message in fragments without end, empty or of one byte");
    siege
        .run(async |server| {
            for payload in [&b""[..], b"x"] {
                let mut peer = Peer::client(server).await;
                peer.send(&fragment(OpCode::Text, b"4")).await;
                while peer.send(&fragment(OpCode::Continuation, payload).repeat(1_000)).await {}
                assert!(matches!(peer.end().await.0, Frame::Close(1008, _) | Frame::End));
            }
            "closed with 1008 after 4,096 fragments".to_owned()
        })
        .await;
}

#[tokio::test]
async fn tiny_frames() {
    let siege = Siege::of("50,000 empty messages, byte by byte and in one piece");
    siege
        .run(async |server| {
            let mut peer = Peer::client(server).await;
            for byte in masked(OpCode::Text, b"42[\"ping\",{}]").repeat(20) {
                peer.send(&[byte]).await;
            }
            let pongs = async {
                for _ in 0..20 {
                    peer.until(|text| text.starts_with("42[\"pong\"")).await;
                }
            };
            pongs.await;
            peer.send(&masked(OpCode::Text, b"6").repeat(50_000)).await;
            let (end, _) = peer.end().await;
            assert!(matches!(end, Frame::Close(1008, reason) if reason == "too many events"));
            "handled; past `EVENT_RATE_PER_SOCKET` closed with 1008 `too many events`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn unmasked_frames() {
    let siege = Siege::of("200 connections with frames that are not masked, or have unknown bits and codes")
        .with("CONNECTION_RATE_PER_ADDRESS", "0");
    siege
        .run(async |server| {
            let frames: [&[u8]; 4] =
                [b"\x81\x0242", b"\xc1\x82\0\0\0\x0042", b"\x83\x82\0\0\0\x0042", b"\x09\x80\0\0\0\0"];
            for _ in 0..50 {
                for bytes in frames {
                    let mut peer = Peer::client(server).await;
                    peer.send(bytes).await;
                    assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
                }
            }
            "closed with 1002 `parse error`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn ping_floods() {
    let siege = Siege::of("10 WebSockets with 100,000 pings each, whose pongs nobody reads").memory(48);
    siege
        .run(async |server| {
            let mut peers = Vec::new();
            for _ in 0..10 {
                let mut peer = Peer::client(server).await;
                peer.send(&masked(OpCode::Ping, &[0; 125]).repeat(100_000)).await;
                peers.push(peer);
            }
            for peer in &mut peers {
                assert!(matches!(peer.end().await.0, Frame::Close(1008, _) | Frame::End));
            }
            "answered; past `EVENT_RATE_PER_SOCKET` closed with 1008 `too many events`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn compressed_frames() {
    let siege = Siege::of("permessage-deflate offered, and used all the same").with("CONNECTION_RATE_PER_ADDRESS", "0");
    siege
        .run(async |server| {
            for _ in 0..50 {
                let mut peer = Peer::connect(server).await;
                let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
                let answer = peer.upgrade("", offer).await;
                assert_eq!(answer.status, 101);
                assert!(!answer.head.contains("sec-websocket-extensions"), "{answer:?}");
                peer.frame().await;
                // 64 KiB of zeros, deflated.
                let mut frame = masked(OpCode::Text, &[0xec, 0xc1, 0x01, 0x01, 0, 0, 0, 0x80, 0x90]);
                frame[0] |= 0x40;
                peer.send(&frame).await;
                assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            }
            "not negotiated; closed with 1002 `parse error`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn announced_giants() {
    let siege = Siege::of("200 frames that announce up to 2^63 bytes").with("CONNECTION_RATE_PER_ADDRESS", "0");
    siege
        .run(async |server| {
            for _ in 0..50 {
                for length in [1_000_001_u64, 1 << 32, 1 << 62, u64::MAX] {
                    let mut peer = Peer::client(server).await;
                    peer.send(&[&b"\x82\xff"[..], &length.to_be_bytes(), b"\0\0\0\0"].concat()).await;
                    assert!(matches!(peer.end().await.0, Frame::Close(1009, _)));
                }
            }
            "closed with 1009 `payload too large` before the payload".to_owned()
        })
        .await;
}
