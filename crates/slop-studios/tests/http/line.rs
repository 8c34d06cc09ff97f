//! An Engine.IO connection, which the sockets of several namespaces share.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use socketio_protocol::packet::Packet;
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use crate::api::{Answer, send_to};
use crate::server::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Polling,
}

pub(crate) struct Line {
    wire: Wire,
    pub(crate) session: String,
    /// Packets of one namespace that came while those of another were waited for.
    unread: VecDeque<String>,
}

enum Wire {
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Polling(Polling),
}

struct Polling {
    address: SocketAddr,
    path: String,
    /// The rest of a payload.
    unread: VecDeque<String>,
}

impl Line {
    /// Connects, with a token in the `Authorization` header of a WebSocket's request.
    pub(crate) async fn open_with(server: &Server, transport: Transport, bearer: Option<&str>) -> Self {
        let mut wire = match transport {
            Transport::WebSocket => {
                let address = format!("ws://{}/socket.io/?EIO=4&transport=websocket", server.address);
                let mut builder = ClientBuilder::new().uri(&address).expect("an address");
                if let Some(bearer) = bearer {
                    let value = HeaderValue::try_from(format!("Bearer {bearer}")).expect("a header");
                    builder = builder.add_header(HeaderName::from_static("authorization"), value).expect("a header");
                }
                let (socket, _) = builder.connect().await.expect("a WebSocket");
                Wire::WebSocket(Box::new(socket))
            }
            Transport::Polling => {
                let path = "/socket.io/?EIO=4&transport=polling".to_owned();
                Wire::Polling(Polling { address: server.address, path, unread: VecDeque::new() })
            }
        };
        let open = wire.read().await.expect("the handshake");
        let handshake: Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        let session = handshake["sid"].as_str().expect("an id").to_owned();
        if let Wire::Polling(polling) = &mut wire {
            polling.path = format!("{}&sid={session}", polling.path);
        }
        Self { wire, session, unread: VecDeque::new() }
    }

    pub(crate) fn transport(&self) -> Transport {
        match self.wire {
            Wire::WebSocket(_) => Transport::WebSocket,
            Wire::Polling(_) => Transport::Polling,
        }
    }

    pub(crate) async fn write(&mut self, text: String) {
        self.wire.write(text).await;
    }

    /// The next Socket.IO packet of the namespace; none once the server has closed.
    pub(crate) async fn next_of(&mut self, namespace: &str) -> Option<String> {
        let is_its = |text: &str| {
            let packet = Packet::decode(text).expect("the server speaks the protocol");
            packet.namespace == namespace
        };
        if let Some(at) = self.unread.iter().position(|text| is_its(text)) {
            return self.unread.remove(at);
        }
        loop {
            let text = self.wire.read().await?;
            match text.split_at(1) {
                // Engine.IO's close.
                ("1", _) => return None,
                ("2", _) => self.wire.write("3".to_owned()).await,
                ("4", packet) if is_its(packet) => return Some(packet.to_owned()),
                ("4", packet) => self.unread.push_back(packet.to_owned()),
                _ => {}
            }
        }
    }

    /// Ends the connection as a network does; a long-polling client has to say so, since it has no connection.
    pub(crate) async fn cut(&mut self) {
        match &mut self.wire {
            Wire::WebSocket(socket) => {
                let MaybeTlsStream::Plain(stream) = socket.get_mut() else { panic!("not by TLS") };
                tokio::io::AsyncWriteExt::shutdown(stream).await.expect("it stands");
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
            }
            Wire::Polling(_) => self.wire.write("1".to_owned()).await,
        }
    }
}

impl Wire {
    async fn write(&mut self, text: String) {
        match self {
            Self::WebSocket(socket) => socket.send(Message::text(text)).await.expect("the connection stands"),
            Self::Polling(polling) => {
                let answer = polling.ask("POST", text.as_bytes()).await;
                assert_eq!((answer.status, answer.text.as_str()), (200, "ok"));
            }
        }
    }

    /// The next packet; none once the server has closed.
    async fn read(&mut self) -> Option<String> {
        match self {
            Self::WebSocket(socket) => loop {
                let message = socket.next().await?.ok()?;
                if message.is_close() {
                    return None;
                }
                if let Some(text) = message.as_text() {
                    return Some(text.to_owned());
                }
            },
            Self::Polling(polling) => {
                if polling.unread.is_empty() {
                    let answer = polling.ask("GET", b"").await;
                    if answer.status != 200 {
                        return None;
                    }
                    polling.unread.extend(answer.text.split('\x1e').map(str::to_owned));
                }
                polling.unread.pop_front()
            }
        }
    }
}

impl Polling {
    async fn ask(&self, method: &str, body: &[u8]) -> Answer {
        let headers = [("content-type", "text/plain;charset=UTF-8")];
        send_to(self.address, method, &self.path, &headers, body).await
    }
}
