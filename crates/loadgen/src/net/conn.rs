//! One connection of a net: its phases, and what it reads and writes in each.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mio::event::Event;
use mio::net::TcpStream;
use socketio_protocol::websocket::{OpCode, encode_masked};

use super::{ConnId, Load, Plan, Session, room_name};
use crate::frame;
use crate::http;
use crate::message::{Message, classify, offset, text_field};

/// The ack id of the handshake's `joinRoom`; loads use other ones.
const JOIN_ACK: u32 = 9;

/// Any mask does; one of zeros would let servers skip their work.
pub(super) const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x2e];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP.
    Connecting,
    /// The upgrade is sent.
    Upgrading,
    /// Waits for Engine.IO's handshake.
    Opening,
    /// Waits for so many namespaces and, unless it came, for `welcome`.
    Entering {
        namespaces: u8,
        welcomed: bool,
    },
    Joining,
    /// Waits for its session and for an event that it missed. Socket.IO's server sends the event first.
    Returning {
        recovered: bool,
        has_event: bool,
    },
    Ready,
    /// Keeps HTTP.
    Http,
    Leaving,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) phase: Phase,
    pub(super) plan: Plan,
    /// Is not read, until `Net::read_paused`.
    pub(super) is_paused: bool,
    pub(super) begun: Instant,
    /// The beginning of a frame whose rest has not arrived.
    pub(super) carry: Vec<u8>,
    /// What the socket did not take.
    pub(super) unsent: Vec<u8>,
    /// Kept up to date if the load wants to come back for it.
    pub(super) session: Option<Box<Session>>,
}

pub(super) enum Read {
    Open,
    Closed,
}

pub(super) fn advance(
    conn: &mut Conn,
    id: ConnId,
    event: &Event,
    scratch: &mut [u8],
    load: &mut impl Load,
) -> Result<Read> {
    if event.is_writable() {
        if conn.phase == Phase::Connecting {
            connected(conn, id, load)?;
        } else if !conn.unsent.is_empty() {
            let unsent = std::mem::take(&mut conn.unsent);
            write(conn, &unsent)?;
        }
    }
    if (event.is_readable() || event.is_read_closed()) && !conn.is_paused {
        return read(conn, id, scratch, event.is_read_closed(), load);
    }
    Ok(Read::Open)
}

fn connected(conn: &mut Conn, id: ConnId, load: &mut impl Load) -> Result<()> {
    if let Some(error) = conn.stream.take_error()? {
        return Err(error).context("connect");
    }
    match conn.stream.peer_addr() {
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
        result => result?,
    };
    conn.stream.set_nodelay(true)?;
    if conn.plan == Plan::Http {
        conn.phase = Phase::Http;
        return load.ready(id, conn.begun.elapsed());
    }
    conn.phase = Phase::Upgrading;
    write(conn, http::UPGRADE)
}

/// Reads until nothing is left. The registration is edge-triggered: a read that did not fill the buffer has taken
/// all there was, unless the end of the stream stands behind it.
pub(super) fn read(conn: &mut Conn, id: ConnId, scratch: &mut [u8], ends: bool, load: &mut impl Load) -> Result<Read> {
    loop {
        let kept = conn.carry.len();
        if kept > scratch.len() / 2 {
            bail!("a message of more than {kept} bytes");
        }
        match conn.stream.read(&mut scratch[kept..]) {
            Ok(0) => return Ok(Read::Closed),
            Ok(len) => {
                scratch[..kept].copy_from_slice(&conn.carry);
                conn.carry.clear();
                let input = &scratch[..kept + len];
                let taken = take_all(conn, id, input, load)?;
                conn.carry.extend_from_slice(&input[taken..]);
                if kept + len < scratch.len() && !ends {
                    return Ok(Read::Open);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Read::Open),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read"),
        }
    }
}

/// Takes everything off `input` that is there whole; returns how much that was.
fn take_all(conn: &mut Conn, id: ConnId, input: &[u8], load: &mut impl Load) -> Result<usize> {
    let at = Instant::now();
    let mut taken = 0;
    loop {
        let rest = &input[taken..];
        if matches!(conn.phase, Phase::Upgrading | Phase::Http) {
            let Some(response) = http::response(rest)? else { return Ok(taken) };
            taken += response.len;
            if conn.phase == Phase::Http {
                load.response(id, &response)?;
            } else if response.status == 101 {
                conn.phase = Phase::Opening;
            } else {
                bail!("status {} for an upgrade: {}", response.status, String::from_utf8_lossy(response.body));
            }
            continue;
        }
        let Some(frame) = frame::next(rest)? else { return Ok(taken) };
        taken += frame.len;
        match frame.opcode {
            frame::TEXT => {
                let message = classify(frame.payload);
                if let (Some(session), Some(offset)) = (&mut conn.session, offset(frame.payload)) {
                    offset.clone_into(&mut session.offset);
                }
                if conn.phase == Phase::Ready && message != Message::Ping {
                    load.message(id, &message, at)?;
                } else {
                    shake_hands(conn, id, &message, load)?;
                }
            }
            frame::PING => {
                let mut pong = Vec::new();
                encode_masked(&mut pong, OpCode::Pong, frame.payload, MASK);
                write(conn, &pong)?;
            }
            frame::CLOSE if conn.phase != Phase::Leaving => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                bail!("the server closed a connection in phase {:?} with code {code:?}", conn.phase);
            }
            // The end of the stream is the server's to make.
            _ => {}
        }
    }
}

/// Everything before a connection is ready, and the heartbeat.
fn shake_hands(conn: &mut Conn, id: ConnId, message: &Message<'_>, load: &mut impl Load) -> Result<()> {
    let Plan::Client { three_namespaces, room } = conn.plan else { bail!("a message for an HTTP connection") };
    match (conn.phase, message) {
        (Phase::Leaving, _) => return Ok(()),
        (_, Message::Ping) => return send_text(conn, b"3"),
        (phase, Message::Refused) => bail!("the server refused a namespace in phase {phase:?}"),
        (Phase::Opening, Message::Open) if conn.session.as_ref().is_some_and(|session| !session.pid.is_empty()) => {
            return come_back(conn, id, (false, false), message, load);
        }
        (Phase::Returning { recovered, has_event }, message) => {
            return come_back(conn, id, (recovered, has_event), message, load);
        }
        (Phase::Opening, Message::Open) => {
            conn.phase = Phase::Entering { namespaces: if three_namespaces { 3 } else { 1 }, welcomed: false };
            // As the stock client: one write for each namespace's CONNECT.
            send_text(conn, b"40")?;
            if three_namespaces {
                send_text(conn, b"40/media,")?;
                send_text(conn, b"40/notifications,")?;
            }
            return Ok(());
        }
        (Phase::Entering { namespaces, welcomed }, Message::Connected(answer)) if namespaces > 0 => {
            if let (Some(session), Some(pid)) = (&mut conn.session, text_field(answer, "pid")) {
                pid.clone_into(&mut session.pid);
            }
            conn.phase = Phase::Entering { namespaces: namespaces - 1, welcomed };
        }
        (Phase::Entering { namespaces, .. }, Message::Welcome) => {
            conn.phase = Phase::Entering { namespaces, welcomed: true };
        }
        (Phase::Joining, Message::Ack(JOIN_ACK, args)) => {
            if !args.windows(4).any(|part| part == b"true") {
                bail!("joinRoom was answered with {}", String::from_utf8_lossy(args));
            }
            conn.phase = Phase::Ready;
            return load.ready(id, conn.begun.elapsed());
        }
        (_, Message::Other) => return Ok(()),
        (phase, message) => bail!("{message:?} in phase {phase:?}"),
    }
    if conn.phase == (Phase::Entering { namespaces: 0, welcomed: true }) {
        match room {
            Some(room) => {
                conn.phase = Phase::Joining;
                send_text(conn, format!(r#"42{JOIN_ACK}["joinRoom","{}"]"#, room_name(room)).as_bytes())?;
            }
            None => {
                conn.phase = Phase::Ready;
                load.ready(id, conn.begun.elapsed())?;
            }
        }
    }
    Ok(())
}

/// Everything before a client that comes back for its session is ready. `so_far`: whether it has its session, and an event.
fn come_back(
    conn: &mut Conn,
    id: ConnId,
    so_far: (bool, bool),
    message: &Message<'_>,
    load: &mut impl Load,
) -> Result<()> {
    let Some(Session { pid, offset, is_recovered }) = conn.session.as_deref_mut() else {
        bail!("a client without a session")
    };
    let (recovered, has_event) = match (so_far, message) {
        (_, Message::Open) => {
            let connect = format!(r#"40{{"pid":"{pid}","offset":"{offset}"}}"#);
            conn.phase = Phase::Returning { recovered: false, has_event: false };
            return send_text(conn, connect.as_bytes());
        }
        ((false, has_event), Message::Connected(answer)) if text_field(answer, "pid") == Some(pid) => {
            *is_recovered = true;
            (true, has_event)
        }
        ((false, false), Message::Connected(_)) if matches!(conn.plan, Plan::Client { room: Some(_), .. }) => {
            // A new session: it goes on as a new client.
            conn.phase = Phase::Entering { namespaces: 0, welcomed: false };
            return Ok(());
        }
        ((false, _), Message::Connected(answer)) => {
            bail!("the session was not recovered: {}", String::from_utf8_lossy(answer))
        }
        ((recovered, false), Message::Update(_)) => (recovered, true),
        (_, Message::Other) => return Ok(()),
        (_, message) => bail!("{message:?} to a client that comes back"),
    };
    conn.phase = Phase::Returning { recovered, has_event };
    if recovered && has_event {
        conn.phase = Phase::Ready;
        load.ready(id, conn.begun.elapsed())?;
    }
    Ok(())
}

pub(super) fn send_text(conn: &mut Conn, text: &[u8]) -> Result<()> {
    let mut frame = Vec::with_capacity(text.len() + 14);
    encode_text(&mut frame, text);
    write(conn, &frame)
}

/// Appends a text message, to be sent raw.
pub fn encode_text(out: &mut Vec<u8>, text: &[u8]) {
    encode_masked(out, OpCode::Text, text, MASK);
}

pub(super) fn write(conn: &mut Conn, mut bytes: &[u8]) -> Result<()> {
    if conn.unsent.is_empty() {
        while !bytes.is_empty() {
            match conn.stream.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("write"),
            }
        }
    }
    conn.unsent.extend_from_slice(bytes);
    Ok(())
}
