//! WebSockets.

use std::{io::ErrorKind, net::SocketAddr};

use socketio_protocol::websocket::{OpCode, accept_key};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    Headers, Http, Response,
    frames::{Received, masked, server_frame},
    socket_id,
};
use crate::harness::within;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A receive buffer that does not grow. A smaller one than two packets of the loopback device (64 KiB) makes the kernel
/// wait for its own timers.
const SMALL_BUFFER: u32 = 128 * 1024;

pub(crate) struct Ws {
    pub(crate) reader: WsReader,
    pub(crate) writer: WsWriter,
}

pub(crate) struct WsReader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    used: usize,
    /// Bytes of WebSocket frames that have come.
    pub(crate) bytes: u64,
}

pub(crate) struct WsWriter(OwnedWriteHalf);

/// How to ask for a WebSocket.
#[derive(Default)]
pub(crate) struct Ask<'a> {
    pub(crate) headers: Headers<'a>,
    /// The client's receive buffer, for one that soon takes no more.
    pub(crate) receive_buffer: Option<u32>,
    /// The client's address, if not the usual one.
    pub(crate) from: Option<&'a str>,
    /// Bytes sent together with the request.
    pub(crate) early: &'a [u8],
}

impl Ws {
    /// The server's answer if it is not a WebSocket.
    pub(crate) async fn ask(addr: SocketAddr, target: &str, ask: Ask<'_>) -> Result<Self, Response> {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(size) = ask.receive_buffer {
            socket.set_recv_buffer_size(size).expect("a small buffer");
        }
        if let Some(from) = ask.from {
            socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of this machine");
        }
        let stream = socket.connect(addr).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP option");
        let mut http = Http::over(stream);
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        );
        for (name, value) in ask.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        http.send_raw(&[request.as_bytes(), ask.early].concat()).await;
        let response = http.response().await.expect("a response");
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("sec-websocket-accept"), Some(accept_key(KEY).as_str()));
        assert!(response.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")));
        assert_eq!(response.header("sec-websocket-extensions"), None);
        let bytes = http.buffer.len() as u64;
        let (read, write) = http.stream.into_split();
        let reader = WsReader { stream: read, buffer: http.buffer, used: 0, bytes };
        Ok(Self { reader, writer: WsWriter(write) })
    }

    /// A new session at a path; the open packet is not read yet.
    pub(crate) async fn bare(addr: SocketAddr, path: &str) -> Self {
        let target = format!("{path}?EIO=4&transport=websocket");
        Self::ask(addr, &target, Ask::default()).await.expect("a WebSocket")
    }

    /// A new session.
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::open_at(addr, "/socket.io/").await
    }

    pub(crate) async fn open_at(addr: SocketAddr, path: &str) -> Self {
        let mut ws = Self::bare(addr, path).await;
        assert!(ws.text().await.starts_with("0{"));
        ws
    }

    /// A session that is connected to `/`, and the socket's id.
    pub(crate) async fn connected(addr: SocketAddr) -> (Self, String) {
        let mut ws = Self::open(addr).await;
        let id = ws.enter("/").await;
        (ws, id)
    }

    /// The same for a client that soon takes no more.
    pub(crate) async fn connected_with_small_buffer(addr: SocketAddr) -> (Self, String) {
        let ask = Ask { receive_buffer: Some(SMALL_BUFFER), ..Ask::default() };
        let mut ws = Self::ask(addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
        assert!(ws.text().await.starts_with("0{"));
        let id = ws.enter("/").await;
        (ws, id)
    }

    /// A WebSocket that has yet to take over a polling session.
    pub(crate) async fn probe(addr: SocketAddr, sid: &str) -> Result<Self, Response> {
        Self::probe_at(addr, "/socket.io/", sid).await
    }

    pub(crate) async fn probe_at(addr: SocketAddr, path: &str, sid: &str) -> Result<Self, Response> {
        let target = format!("{path}?EIO=4&transport=websocket&sid={sid}");
        Self::ask(addr, &target, Ask::default()).await
    }

    /// Connects to a namespace; returns the socket's id.
    pub(crate) async fn enter(&mut self, namespace: &str) -> String {
        let prefix = if namespace == "/" { "40".to_owned() } else { format!("40{namespace},") };
        self.send(&prefix).await;
        socket_id(&self.text().await, &prefix)
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.writer.send(text).await;
    }

    pub(crate) async fn send_binary(&mut self, data: &[u8]) {
        self.writer.frame(OpCode::Binary, data).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.send_raw(bytes).await;
    }

    pub(crate) async fn recv(&mut self) -> Received {
        self.reader.recv().await
    }

    pub(crate) async fn text(&mut self) -> String {
        self.reader.text().await
    }

    pub(crate) async fn binary(&mut self) -> Vec<u8> {
        match self.recv().await {
            Received::Binary(data) => data,
            other => panic!("not binary data: {other:?}"),
        }
    }

    /// Asserts that the server closes the WebSocket next, cleanly; returns code and reason.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        match self.recv().await {
            Received::Close(code, reason) => {
                assert_eq!(self.recv().await, Received::End(0), "nothing comes after a close frame");
                (code, reason)
            }
            other => panic!("not a close frame: {other:?}"),
        }
    }

    /// Asserts that the stream ends next, without a close frame.
    pub(crate) async fn ended(&mut self) {
        assert!(matches!(self.recv().await, Received::End(0) | Received::Reset));
    }
}

impl WsWriter {
    pub(crate) async fn send(&mut self, text: &str) {
        self.frame(OpCode::Text, text.as_bytes()).await;
    }

    pub(crate) async fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        self.send_raw(&masked(opcode, payload)).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        within("the server reads", self.0.write_all(bytes)).await.expect("the connection is open");
    }

    /// Sends if the connection is still open.
    pub(crate) async fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("the server reads", self.0.write_all(bytes)).await
    }
}

impl WsReader {
    pub(crate) async fn text(&mut self) -> String {
        match self.recv().await {
            Received::Text(text) => text,
            other => panic!("not a text message: {other:?}"),
        }
    }

    pub(crate) async fn recv(&mut self) -> Received {
        within("a frame", async {
            loop {
                if let Some((received, used)) = server_frame(&self.buffer[self.used..]) {
                    self.used += used;
                    if self.used == self.buffer.len() {
                        self.buffer.clear();
                        self.used = 0;
                    }
                    return received;
                }
                match self.read().await {
                    Ok(0) => return Received::End(self.buffer.len() - self.used),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return Received::Reset,
                    Err(error) => panic!("failed to read: {error}"),
                }
            }
        })
        .await
    }

    /// Takes more bytes off the stream; returns how many.
    pub(crate) async fn read(&mut self) -> std::io::Result<usize> {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.reserve(64 * 1024);
        let count = self.stream.read_buf(&mut self.buffer).await?;
        self.bytes += count as u64;
        Ok(count)
    }
}
