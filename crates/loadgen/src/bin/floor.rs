//! The floor: what the plain system calls of a Socket.IO server cost, and nothing else.
//!
//! One thread, `epoll`; every publish that is readable in a turn is encoded once and queued, then each member gets one
//! vectored write. Connecting and `ping` are answered with constants. No limits, no heartbeat, no other transport: it
//! is here to be measured against, and speaks only with the load generator.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socketio_protocol::websocket::{Decoder, Message, OpCode, encode_close, encode_header};

const LISTENER: Token = Token(usize::MAX);

/// `accept_key` of the load generator's key, which is RFC 6455's example.
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const OPEN: &str =
    r#"0{"sid":"AAAAAAAAAAAAAAAAAAAA","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
const WELCOME: &str =
    r#"42["welcome",{"message":"hello","socketId":"BBBBBBBBBBBBBBBBBBBB","serverTime":"2026-01-01T00:00:00.000Z"}]"#;
const PONG: &str = r#"42["pong",{"timestamp":1767225600000}]"#;

struct Conn {
    stream: TcpStream,
    is_upgraded: bool,
    room: Option<u32>,
    decoder: Decoder,
    /// A message whose rest has not arrived.
    carry: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    /// Frames of this turn.
    queued: Vec<Rc<[u8]>>,
}

struct Floor {
    poll: Poll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    names: HashMap<String, u32>,
    rooms: Vec<Room>,
    /// Rooms with frames of this turn.
    touched: Vec<u32>,
    /// Acks of this turn's publishes.
    acks: Vec<(usize, Vec<u8>)>,
    /// The answer to `40`.
    connected: Vec<u8>,
    /// The answer to an upgrade.
    upgraded: Vec<u8>,
}

fn main() -> Result<()> {
    let port = std::env::var("PORT").unwrap_or_default().parse().unwrap_or(0);
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on http://{}", listener.local_addr()?);

    let mut upgraded = UPGRADED.to_vec();
    frame(&mut upgraded, OPEN.as_bytes());
    let mut connected = Vec::new();
    frame(&mut connected, br#"40{"sid":"BBBBBBBBBBBBBBBBBBBB"}"#);
    frame(&mut connected, WELCOME.as_bytes());
    let mut floor = Floor {
        poll,
        conns: Vec::new(),
        free: Vec::new(),
        names: HashMap::new(),
        rooms: Vec::new(),
        touched: Vec::new(),
        acks: Vec::new(),
        connected,
        upgraded,
    };
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 * 1024];
    loop {
        match floor.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                floor.accept(&listener)?;
                continue;
            }
            let Token(id) = event.token();
            let Some(mut conn) = floor.conns.get_mut(id).and_then(Option::take) else { continue };
            if event.is_writable() && !conn.unsent.is_empty() {
                let unsent = std::mem::take(&mut conn.unsent);
                write(&mut conn, &[IoSlice::new(&unsent)]);
            }
            if floor.read(id, &mut conn, &mut scratch, event.is_read_closed()) {
                floor.conns[id] = Some(conn);
            } else {
                floor.forget(id, &conn);
            }
        }
        floor.flush();
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            stream.set_nodelay(true)?;
            let id = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            self.conns[id] = Some(Conn {
                stream,
                is_upgraded: false,
                room: None,
                decoder: Decoder::new(1_000_000),
                carry: Vec::new(),
                unsent: Vec::new(),
            });
        }
    }

    /// Whether the connection goes on.
    fn read(&mut self, id: usize, conn: &mut Conn, scratch: &mut [u8], ends: bool) -> bool {
        loop {
            let kept = conn.carry.len();
            let len = match conn.stream.read(&mut scratch[kept..]) {
                Ok(0) => return false,
                Ok(len) => len,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            scratch[..kept].copy_from_slice(&conn.carry);
            conn.carry = Vec::new();
            let mut input = &mut scratch[..kept + len];
            if !conn.is_upgraded {
                if !input.ends_with(b"\r\n\r\n") {
                    conn.carry = input.to_vec();
                    continue;
                }
                conn.is_upgraded = true;
                write(conn, &[IoSlice::new(&self.upgraded)]);
                input = &mut [];
            }
            loop {
                // The decoder's borrow ends with the message, which the connection is needed for.
                let mut decoder = std::mem::replace(&mut conn.decoder, Decoder::new(1_000_000));
                let taken = match decoder.next(input) {
                    Ok(Some((taken, Message::Text(text)))) => {
                        self.text(id, conn, text);
                        taken
                    }
                    Ok(Some((_, Message::Close(_)))) => {
                        let close = encode_close(socketio_protocol::websocket::CloseCode::NORMAL, "");
                        write(conn, &[IoSlice::new(&close)]);
                        return false;
                    }
                    Ok(Some((taken, _))) => taken,
                    Ok(None) => break,
                    Err(_) => return false,
                };
                conn.decoder = decoder;
                input = &mut input[taken..];
            }
            conn.carry = input.to_vec();
            if kept + len < scratch.len() && !ends {
                return true;
            }
        }
    }

    fn text(&mut self, id: usize, conn: &mut Conn, text: &str) {
        if text == "40" {
            return write(conn, &[IoSlice::new(&self.connected)]);
        }
        if let Some(namespace) = text.strip_prefix("40/") {
            let mut answer = Vec::new();
            frame(&mut answer, format!(r#"40/{namespace}{{"sid":"BBBBBBBBBBBBBBBBBBBB"}}"#).as_bytes());
            return write(conn, &[IoSlice::new(&answer)]);
        }
        let Some((ack, arguments)) = text.strip_prefix("42").and_then(|rest| rest.split_once('[')) else { return };
        let mut answer = Vec::new();
        if arguments.starts_with(r#""ping""#) {
            frame(&mut answer, PONG.as_bytes());
            frame(&mut answer, format!(r#"43{ack}[{{"timestamp":1767225600000}}]"#).as_bytes());
            write(conn, &[IoSlice::new(&answer)]);
        } else if let Some(name) = arguments.strip_prefix(r#""joinRoom",""#) {
            let room = self.room(name.trim_end_matches("\"]"));
            self.rooms[room as usize].members.push(id);
            conn.room = Some(room);
            frame(&mut answer, format!(r#"43{ack}[{{"success":true}}]"#).as_bytes());
            write(conn, &[IoSlice::new(&answer)]);
        } else if let Some((name, data)) =
            arguments.strip_prefix(r#""publish",""#).and_then(|rest| rest.split_once("\","))
        {
            let room = self.room(name);
            let mut event = Vec::with_capacity(data.len() + 24);
            frame_of(&mut event, &[br#"42["update","#, data.as_bytes()]);
            let queued = &mut self.rooms[room as usize].queued;
            if queued.is_empty() {
                self.touched.push(room);
            }
            queued.push(event.into());
            frame(&mut answer, format!("43{ack}[true]").as_bytes());
            match self.acks.last_mut() {
                Some((last, acks)) if *last == id => acks.append(&mut answer),
                _ => self.acks.push((id, answer)),
            }
        }
    }

    fn room(&mut self, name: &str) -> u32 {
        if let Some(room) = self.names.get(name) {
            return *room;
        }
        let room = self.rooms.len() as u32;
        self.rooms.push(Room::default());
        self.names.insert(name.to_owned(), room);
        room
    }

    fn flush(&mut self) {
        for (id, ack) in self.acks.drain(..) {
            if let Some(conn) = self.conns[id].as_mut() {
                write(conn, &[IoSlice::new(&ack)]);
            }
        }
        for room in self.touched.drain(..) {
            let room = &mut self.rooms[room as usize];
            let slices: Vec<IoSlice<'_>> = room.queued.iter().map(|event| IoSlice::new(event)).collect();
            for &id in &room.members {
                if let Some(conn) = self.conns[id].as_mut() {
                    write(conn, &slices);
                }
            }
            room.queued.clear();
        }
    }

    fn forget(&mut self, id: usize, conn: &Conn) {
        if let Some(room) = conn.room {
            let members = &mut self.rooms[room as usize].members;
            if let Some(index) = members.iter().position(|member| *member == id) {
                members.swap_remove(index);
            }
        }
        self.free.push(id);
    }
}

/// Writes what the socket takes and keeps the rest.
fn write(conn: &mut Conn, slices: &[IoSlice<'_>]) {
    let mut taken = 0;
    if conn.unsent.is_empty() {
        // A socket that is gone shows when it is read.
        taken = conn.stream.write_vectored(slices).unwrap_or(0);
    }
    for slice in slices {
        if taken >= slice.len() {
            taken -= slice.len();
        } else {
            conn.unsent.extend_from_slice(&slice[taken..]);
            taken = 0;
        }
    }
}

fn frame(out: &mut Vec<u8>, text: &[u8]) {
    frame_of(out, &[text]);
}

/// Appends a text message made of parts.
fn frame_of(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let (header, len) = encode_header(OpCode::Text, parts.iter().map(|part| part.len()).sum());
    out.extend_from_slice(&header[..len]);
    for part in parts {
        out.extend_from_slice(part);
    }
}
