//! Long-polling.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use socketio_protocol::engine_io::Handshake;

use super::{Http, Packet, Response, get, request, socket_id};

/// How a waiting poll is answered when its session ends through no wish of either side: the stock client comes back by itself.
pub(crate) const CLOSED: (u16, &str) = (200, "1");

/// The same for a client that would not come back after that.
pub(crate) const COME_BACK: (u16, &str) = (503, r#"{"code":3,"message":"Service unavailable"}"#);

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

    /// Sends the next requests to another address.
    pub(crate) fn go_to(&mut self, addr: SocketAddr) {
        self.addr = addr;
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
