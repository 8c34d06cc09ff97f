//! Requests and responses on a TCP connection.

use std::{io::ErrorKind, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::harness::within;

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

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
    pub(super) stream: TcpStream,
    pub(super) buffer: Vec<u8>,
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
