//! Names that mean something to somebody else.

use super::peer::{Frame, Peer};
use super::siege::Siege;

#[tokio::test]
async fn reserved_events() {
    let siege = Siege::of("events named `error` and as JavaScript's own, and Socket.IO's reserved names");
    siege
        .run(async |server| {
            let mut peer = Peer::client(server).await;
            for name in [
                "error",
                "__proto__",
                "constructor",
                "toString",
                "message",
                "*",
                "",
                "welcome",
                "mediaComplete",
                "\\u0000",
            ] {
                peer.text(&format!(r#"425["{name}",{{"x":1}}]"#)).await;
                let ack = peer.until(|text| text.starts_with("435[")).await;
                assert!(ack.contains(r#"{"success":false,"error":"Unknown event: "#), "{ack}");
                // Without a callback there is nothing to say.
                peer.text(&format!(r#"42["{name}"]"#)).await;
            }
            for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
                let mut peer = Peer::client(server).await;
                peer.text(&format!(r#"420["{name}"]"#)).await;
                assert_eq!(peer.end().await.0, Frame::Close(1002, "parse error".to_owned()));
            }
            "ack `Unknown event: error`; reserved names close with 1002".to_owned()
        })
        .await;
}

#[tokio::test]
async fn rooms_of_others() {
    let siege = Siege::of("joins of users' rooms, of sockets' and of the server's own");
    siege
        .run(async |server| {
            let mut other = Peer::websocket(server).await.expect("a WebSocket");
            other.text("40").await;
            let connected = other.until(|text| text.starts_with("40{")).await;
            let connected: serde_json::Value = serde_json::from_str(&connected[2..]).expect("a consent");
            let id = connected["sid"].as_str().expect("an id").to_owned();
            let mut peer = Peer::client(server).await;
            for room in ["user:ann", "user:", &id, "\\u0000media:m", "\\u0007", ""] {
                for event in ["joinRoom", "leaveRoom"] {
                    peer.text(&format!(r#"421["{event}","{room}"]"#)).await;
                    let ack = peer.until(|text| text.starts_with("431[")).await;
                    assert!(ack.contains(r#""success":false"#), "{event} {room}: {ack}");
                }
            }
            for shape in ["5", "null", "[\"r\"]", "{\"room\":\"r\"}", "true"] {
                peer.text(&format!(r#"421["joinRoom",{shape}]"#)).await;
                let ack = peer.until(|text| text.starts_with("431[")).await;
                assert!(ack.contains(r#""success":false"#), "{shape}: {ack}");
            }
            "ack `Not allowed`, or what is wrong with the name".to_owned()
        })
        .await;
}
