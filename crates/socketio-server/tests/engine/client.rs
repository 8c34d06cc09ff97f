//! Clients that send what a test says and hide nothing that comes back: no library in between would let a test send
//! half a header or a frame without a mask.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use socketio_protocol::{
    engine_io::Handshake,
    websocket::{OpCode, accept_key, encode_masked},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::harness::within;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// How a waiting poll is answered when its session ends through no wish of either side: the stock client comes back by itself.
pub(crate) const CLOSED: (u16, &str) = (200, "1");

/// The same for a client that would not come back after that.
pub(crate) const COME_BACK: (u16, &str) = (503, r#"{"code":3,"message":"Service unavailable"}"#);

// --- HTTP ---

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Status and body.
    pub(crate) fn parts(&self) -> (u16, &str) {
        (self.status, &self.body)
    }
}

/// A TCP connection for requests.
pub(crate) struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("the server listens"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Writes a request.
    pub(crate) async fn send(&mut self, method: &str, target: &str, headers: Headers<'_>, body: &[u8]) {
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        self.send_raw(&request).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        within("the server reads a request", self.stream.write_all(bytes)).await.expect("the connection is open");
    }

    /// The stream, when what comes next is no HTTP, with what has come of that.
    pub(crate) fn into_raw(self) -> impl AsyncRead + AsyncWrite + Unpin {
        let (read, write) = self.stream.into_split();
        tokio::io::join(AsyncReadExt::chain(std::io::Cursor::new(self.buffer), read), write)
    }

    /// Waits until something has come.
    pub(crate) async fn peek(&self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.stream.peek(bytes).await
    }

    /// Sends if the connection is still open.
    pub(crate) async fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("the server reads a request", self.stream.write_all(bytes)).await
    }

    /// Reads a response; `None` if the connection ends instead.
    pub(crate) async fn response(&mut self) -> Option<Response> {
        within("a response", async {
            let head_end = loop {
                if let Some(at) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    break at;
                }
                if self.more().await == 0 {
                    assert!(self.buffer.is_empty(), "half a response");
                    return None;
                }
            };
            let head = String::from_utf8(self.buffer.drain(..head_end + 4).collect()).expect("an ASCII head");
            let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
            let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
            let mut response = Response {
                status: status.parse().expect("a status"),
                headers: lines
                    .map(|line| line.split_once(": ").expect("a header"))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                body: String::new(),
            };
            let length: usize = response.header("content-length").map_or(0, |length| length.parse().expect("a length"));
            while self.buffer.len() < length {
                assert!(self.more().await > 0, "half a body");
            }
            let body = self.buffer.drain(..length).collect();
            response.body = String::from_utf8(body).expect("a UTF-8 body");
            Some(response)
        })
        .await
    }

    async fn more(&mut self) -> usize {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("failed to read: {error}"),
        }
    }

    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: Headers<'_>, body: &[u8]) -> Response {
        self.send(method, target, headers, body).await;
        self.response().await.expect("a response")
    }
}

/// A TCP connection from another of loopback's addresses.
pub(crate) async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("an address of loopback");
    socket.connect(to).await.expect("the server listens")
}

/// One request on a TCP connection of its own.
pub(crate) async fn request(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: Headers<'_>,
    body: &[u8],
) -> Response {
    let headers = [headers, &[("Connection", "close")]].concat();
    Http::connect(addr).await.request(method, target, &headers, body).await
}

pub(crate) async fn get(addr: SocketAddr, target: &str) -> Response {
    request(addr, "GET", target, &[], b"").await
}

// --- long-polling ---

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

/// A long-polling session. Each request has a TCP connection of its own, so that they go to the shards in turn.
pub(crate) struct Polling {
    addr: SocketAddr,
    path: &'static str,
    pub(crate) sid: String,
    inbox: VecDeque<Packet>,
}

/// A poll that the server has not answered yet. Dropping it gives it up.
pub(crate) struct PendingPoll(Http);

impl PendingPoll {
    pub(crate) async fn response(mut self) -> Response {
        self.0.response().await.expect("a response")
    }
}

impl Polling {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::open_at(addr, "/socket.io/").await
    }

    pub(crate) async fn open_at(addr: SocketAddr, path: &'static str) -> Self {
        let response = get(addr, &format!("{path}?EIO=4&transport=polling")).await;
        assert_eq!(response.status, 200, "{}", response.body);
        let handshake = response.body.strip_prefix('0').expect("an open packet");
        let handshake = Handshake::decode(handshake).expect("a handshake");
        Self { addr, path, sid: handshake.sid, inbox: VecDeque::new() }
    }

    /// A session that is connected to `/`.
    pub(crate) async fn connected(addr: SocketAddr) -> (Self, String) {
        let mut client = Self::open(addr).await;
        client.send("40").await;
        let id = socket_id(&client.text().await, "40");
        (client, id)
    }

    pub(crate) fn target(&self) -> String {
        format!("{}?EIO=4&transport=polling&sid={}", self.path, self.sid)
    }

    pub(crate) async fn get(&self) -> Response {
        get(self.addr, &self.target()).await
    }

    pub(crate) async fn begin_poll(&self) -> PendingPoll {
        let mut http = Http::connect(self.addr).await;
        http.send("GET", &self.target(), &[], b"").await;
        PendingPoll(http)
    }

    pub(crate) async fn post(&self, body: impl AsRef<[u8]>) -> Response {
        request(self.addr, "POST", &self.target(), &[], body.as_ref()).await
    }

    /// Posts what the server has no reason to refuse.
    pub(crate) async fn send(&self, body: impl AsRef<[u8]>) {
        assert_eq!(self.post(body).await.parts(), (200, "ok"));
    }

    /// The next packet; polls for it.
    pub(crate) async fn packet(&mut self) -> Packet {
        while self.inbox.is_empty() {
            let response = self.get().await;
            assert_eq!(response.status, 200, "{}", response.body);
            self.inbox.extend(response.body.split('\x1e').map(Packet::of_payload));
        }
        self.inbox.pop_front().expect("a packet")
    }

    pub(crate) async fn text(&mut self) -> String {
        match self.packet().await {
            Packet::Text(text) => text,
            Packet::Binary(data) => panic!("binary data: {data:?}"),
        }
    }

    /// The next packet that is not a noop of the upgrade.
    pub(crate) async fn text_but_noop(&mut self) -> String {
        loop {
            match self.text().await {
                noop if noop == "6" => {}
                text => return text,
            }
        }
    }

    /// Takes what has come with the last poll, and does not poll.
    pub(crate) fn take_inbox(&mut self) -> Vec<Packet> {
        self.inbox.drain(..).collect()
    }

    /// Asserts that the server knows no such session.
    pub(crate) async fn expect_gone(&self) {
        assert_eq!(self.get().await.parts(), (400, r#"{"code":1,"message":"Session ID unknown"}"#));
    }
}

/// A session has no TCP connection whose end would tell the server, so the client says goodbye.
impl Drop for Polling {
    fn drop(&mut self) {
        let Ok(mut stream) = std::net::TcpStream::connect(self.addr) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1",
            self.target()
        );
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
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

// --- WebSocket ---

/// A receive buffer that does not grow. A smaller one than two packets of the loopback device (64 KiB) makes the kernel
/// wait for its own timers.
const SMALL_BUFFER: u32 = 128 * 1024;

/// What comes over a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    /// The stream ended, with this many bytes of a frame.
    End(usize),
    /// The stream was reset.
    Reset,
}

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
        let mut http = Http { stream, buffer: Vec::new() };
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

/// A client's frame.
pub(crate) fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, opcode, payload, MASK);
    frame
}

/// A client's text frames, one after the other.
pub(crate) fn text_frames<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    texts.into_iter().flat_map(|text| masked(OpCode::Text, text.as_bytes())).collect()
}

/// Reads the frame that `bytes` begin with, and how long it is. A server's frames are final, and have neither mask nor
/// extensions.
fn server_frame(bytes: &[u8]) -> Option<(Received, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, rest) = match second {
        126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        short => (u64::from(short), rest),
    };
    let header = bytes.len() - rest.len();
    assert_eq!(
        header,
        if length < 126 {
            2
        } else if length < 0x1_0000 {
            4
        } else {
            10
        },
        "the shortest form"
    );
    let payload = rest.get(..usize::try_from(length).expect("a length"))?;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => panic!("text of {} bytes that is not UTF-8: {error}", bytes.len()),
    };
    let received = match first {
        0x81 => Received::Text(text(payload)),
        0x82 => Received::Binary(payload.to_vec()),
        0x88 => {
            let (code, reason) = payload.split_first_chunk().expect("a close code");
            Received::Close(u16::from_be_bytes(*code), text(reason))
        }
        0x8a => Received::Pong(payload.to_vec()),
        other => panic!("a frame that begins with {other:#x}"),
    };
    Some((received, header + payload.len()))
}

// --- either ---

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
