//! Clients that send what a test says and hide nothing that comes back: no library in between would let a test send
//! half a header or a frame without a mask. Here is what is the same on both transports.

mod frames;
mod http;
mod polling;
mod websocket;

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) use self::http::{Headers, Http, Response, connect_from, get, request};
pub(crate) use frames::{Received, masked, text_frames};
pub(crate) use polling::{CLOSED, COME_BACK, Polling};
pub(crate) use websocket::{Ask, Ws};

/// A packet on either transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Text(String),
    Binary(Vec<u8>),
}

impl Packet {
    fn of_payload(packet: &str) -> Self {
        match packet.strip_prefix('b') {
            Some(encoded) => Self::Binary(STANDARD.decode(encoded).expect("base64")),
            None => Self::Text(packet.to_owned()),
        }
    }
}

/// The id in the server's consent to a CONNECT.
#[track_caller]
pub(crate) fn socket_id(packet: &str, prefix: &str) -> String {
    let json = packet.strip_prefix(prefix).unwrap_or_else(|| panic!("{packet:?} does not begin with {prefix:?}"));
    let consent: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).expect("an object");
    assert_eq!(consent.keys().collect::<Vec<_>>(), ["sid"], "{packet}");
    consent["sid"].as_str().expect("a string").to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    WebSocket,
    Polling,
}

impl Via {
    pub(crate) const BOTH: [Self; 2] = [Self::WebSocket, Self::Polling];
}

/// A client on either transport, for what has to be the same on both.
pub(crate) enum Client {
    WebSocket(Ws),
    Polling(Polling),
}

impl Client {
    pub(crate) async fn open(addr: SocketAddr, via: Via) -> Self {
        match via {
            Via::WebSocket => Self::WebSocket(Ws::open(addr).await),
            Via::Polling => Self::Polling(Polling::open(addr).await),
        }
    }

    /// A client that is connected to `/`.
    pub(crate) async fn connected(addr: SocketAddr, via: Via) -> Self {
        let mut client = Self::open(addr, via).await;
        client.send("40").await;
        socket_id(&client.text().await, "40");
        client
    }

    pub(crate) async fn send(&mut self, text: &str) {
        match self {
            Self::WebSocket(ws) => ws.send(text).await,
            Self::Polling(polling) => polling.send(text).await,
        }
    }

    pub(crate) async fn send_binary(&mut self, data: &[u8]) {
        match self {
            Self::WebSocket(ws) => ws.send_binary(data).await,
            Self::Polling(polling) => polling.send(format!("b{}", STANDARD.encode(data))).await,
        }
    }

    pub(crate) async fn packet(&mut self) -> Packet {
        match self {
            Self::WebSocket(ws) => match ws.recv().await {
                Received::Text(text) => Packet::Text(text),
                Received::Binary(data) => Packet::Binary(data),
                other => panic!("not a message: {other:?}"),
            },
            Self::Polling(polling) => polling.packet().await,
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.packet().await {
            Packet::Text(text) => text,
            Packet::Binary(data) => panic!("binary data: {data:?}"),
        }
    }

    /// Sends what the server refuses, and sees that the session ends of it.
    pub(crate) async fn send_and_be_closed(&mut self, text: &str) {
        match self {
            Self::WebSocket(ws) => {
                ws.send(text).await;
                assert_eq!(ws.closed().await, (1002, "parse error".to_owned()), "after {text:?}");
            }
            Self::Polling(polling) => {
                let bad_request = (400, r#"{"code":3,"message":"Bad request"}"#);
                assert_eq!(polling.post(text).await.parts(), bad_request, "after {text:?}");
                polling.expect_gone().await;
            }
        }
    }
}
