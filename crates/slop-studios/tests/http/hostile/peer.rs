//! A peer that sends what no library would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use socketio_protocol::websocket::{OpCode, encode_masked};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::siege::DEADLINE;
use super::victim::{Victim, Way};

pub(crate) const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

pub(crate) struct Peer {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An answer over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What comes over a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    Pong,
    Close(u16, String),
    /// The stream ended, or was reset.
    End,
}

impl Peer {
    /// An attacker.
    pub(crate) async fn connect(victim: &Victim) -> Self {
        Self::dial(&victim.next_attacker(), &victim.way).await.expect("the server listens")
    }

    /// Somebody from this address.
    pub(crate) async fn dial(from: &str, way: &Way) -> io::Result<Self> {
        let stream = dial(from, way.address).await?;
        let stream: Box<dyn Stream> = match &way.tls {
            Some(config) => {
                let name = ServerName::try_from("127.0.0.1").expect("an address");
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?)
            }
            None => Box::new(stream),
        };
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// An attacker that will make no TLS handshake, whatever the server expects.
    pub(crate) async fn plain(victim: &Victim) -> Self {
        let stream = dial(&victim.next_attacker(), victim.way.address).await.expect("the server listens");
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// A WebSocket with Engine.IO's handshake read; an HTTP answer if it is refused.
    pub(crate) async fn websocket(server: &Victim) -> Result<Self, Answer> {
        let mut peer = Self::connect(server).await;
        let answer = peer.upgrade("", "").await;
        if answer.status != 101 {
            return Err(answer);
        }
        assert!(matches!(peer.frame().await, Frame::Text(open) if open.starts_with('0')));
        Ok(peer)
    }

    /// One that is in the default namespace.
    pub(crate) async fn client(server: &Victim) -> Self {
        let mut peer = Self::websocket(server).await.expect("a WebSocket");
        peer.text("40").await;
        peer.until(|text| text.starts_with("42[\"welcome\"")).await;
        peer
    }

    /// Asks for a WebSocket; `query` may name a session.
    pub(crate) async fn upgrade(&mut self, query: &str, headers: &str) -> Answer {
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        self.send(request.as_bytes()).await;
        self.answer().await.expect("an answer")
    }

    /// Sends a request.
    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) {
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat()).await;
    }

    /// Sends bytes; false if the server has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(DEADLINE, sent).await.expect("the server reads").is_ok()
    }

    pub(crate) async fn text(&mut self, text: &str) -> bool {
        self.send(&masked(OpCode::Text, text.as_bytes())).await
    }

    /// Several at once.
    pub(crate) async fn texts(&mut self, texts: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
        let frames = texts.into_iter().flat_map(|text| masked(OpCode::Text, text.as_ref().as_bytes()));
        self.send(&frames.collect::<Vec<u8>>()).await
    }

    /// The next HTTP answer; none if the connection ends instead.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
        self.buffer.drain(..end);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while self.buffer.len() < length {
            assert!(self.more().await, "half an answer");
        }
        let body = self.buffer.drain(..length).collect();
        Some(Answer { status, head, body: String::from_utf8(body).expect("text") })
    }

    /// Waits until the server has closed.
    pub(crate) async fn closed(&mut self) {
        while self.more().await {
            self.buffer.clear();
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            if let Some((frame, used)) = frame(&self.buffer) {
                self.buffer.drain(..used);
                return frame;
            }
            if !self.more().await {
                return Frame::End;
            }
        }
    }

    /// The first text that is meant. Heartbeats and others are passed over.
    pub(crate) async fn until(&mut self, is_meant: impl Fn(&str) -> bool) -> String {
        loop {
            match self.frame().await {
                Frame::Text(text) if is_meant(&text) => return text,
                Frame::Text(_) | Frame::Pong => {}
                end => panic!("{end:?}"),
            }
        }
    }

    /// How the server ends the connection, and the texts that came before.
    pub(crate) async fn end(&mut self) -> (Frame, Vec<String>) {
        let mut texts = Vec::new();
        loop {
            match self.frame().await {
                Frame::Text(text) => texts.push(text),
                Frame::Pong => {}
                end => return (end, texts),
            }
        }
    }

    /// False if the stream has ended.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await.expect("the server answers in time");
        read.is_ok_and(|count| count > 0)
    }
}

impl Answer {
    /// Checks that the client is told when to come again.
    #[track_caller]
    pub(crate) fn says_when_to_retry(&self) {
        let after = self.head.lines().find_map(|line| line.strip_prefix("retry-after: "));
        assert!(after.is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0)), "{self:?}");
    }
}

async fn dial(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // So many from one address: their ports are told apart by where they lead.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A polling session's id.
pub(crate) async fn session(server: &Victim) -> String {
    let mut peer = Peer::connect(server).await;
    peer.request("GET", HANDSHAKE, "", b"").await;
    let answer = peer.answer().await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let open: serde_json::Value = serde_json::from_str(&answer.body[1..]).expect("a handshake");
    open["sid"].as_str().expect("a sid").to_owned()
}

/// A client's frame.
pub(crate) fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, opcode, payload, [7, 11, 13, 17]);
    frame
}

/// The server's frame that the bytes begin with, and its length.
fn frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&[first, second], _) = bytes.split_first_chunk()?;
    let (start, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?),
        short => (2, usize::from(short)),
    };
    let payload = bytes.get(start..start + length)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let frame = match first {
        0x81 => Frame::Text(text(payload)),
        0x8a => Frame::Pong,
        0x88 => Frame::Close(u16::from_be_bytes(*payload.first_chunk()?), text(&payload[2..])),
        other => panic!("a frame that begins with {other:#x}"),
    };
    Some((frame, start + length))
}
