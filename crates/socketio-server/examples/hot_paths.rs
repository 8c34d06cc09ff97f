//! The hot paths, a fixed number of times, for `bench/instructions` to count: events with acks, and broadcasts to a room,
//! each delivered to all before the next. Server and clients are one process.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::json;
use socketio_protocol::websocket::{OpCode, encode_masked};
use socketio_server::{Config, Namespace, Server};

const MEMBERS: usize = 200;
const BROADCASTS: usize = 100;
const EVENTS: usize = 2_000;

fn main() -> io::Result<()> {
    let namespace = Namespace::new("/").on("join", |socket, event| event.ack(&socket.join("room").is_ok())).on(
        "ping",
        |socket, event| {
            let pong = json!({ "timestamp": 1_700_000_000_000_u64 });
            let _ = socket.emit("pong", &pong);
            event.ack(&pong);
        },
    );
    let config = Config {
        shards: 1,
        ping_interval: Duration::from_secs(600),
        event_rate_per_socket: 1_000_000,
        ..Config::default()
    };
    let server = Server::builder(config).namespace(namespace).start(TcpListener::bind("127.0.0.1:0")?)?;
    let mut members = (0..MEMBERS).map(|_| Client::join(server.local_addr())).collect::<io::Result<Vec<_>>>()?;

    let data = json!({ "text": "x".repeat(180) });
    for _ in 0..BROADCASTS {
        let sent = server.handle().to("/", "room").emit("update", &data);
        drop(sent.map_err(io::Error::other)?);
        for member in &mut members {
            member.read_until(b"\"update\"")?;
        }
    }
    for _ in 0..EVENTS {
        let member = &mut members[0];
        member.send(r#"421["ping",null]"#)?;
        member.read_until(b"431[")?;
    }
    println!("members {MEMBERS} broadcasts {BROADCASTS} events {EVENTS}");
    drop(members);
    server.shutdown(Duration::from_millis(500));
    Ok(())
}

/// As much of a client as this takes: it looks for what it waits for in whatever comes.
struct Client(TcpStream);

impl Client {
    fn join(server: SocketAddr) -> io::Result<Self> {
        let mut client = Self(TcpStream::connect(server)?);
        client.0.set_nodelay(true)?;
        client.0.set_read_timeout(Some(Duration::from_secs(60)))?;
        client.0.write_all(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        client.read_until(b"maxPayload")?;
        client.send("40")?;
        client.read_until(b"40{")?;
        client.send(r#"420["join"]"#)?;
        client.read_until(b"430[")?;
        Ok(client)
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        let mut frame = Vec::new();
        encode_masked(&mut frame, OpCode::Text, text.as_bytes(), [1, 2, 3, 4]);
        self.0.write_all(&frame)
    }

    fn read_until(&mut self, wanted: &[u8]) -> io::Result<()> {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.windows(wanted.len()).any(|window| window == wanted) {
            let read = self.0.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        Ok(())
    }
}
