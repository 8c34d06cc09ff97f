//! All connections of a load in one `epoll` loop: handshake, reading, writing, leaving.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use socketio_protocol::websocket::{OpCode, encode_masked};

use crate::frame;
use crate::http::{self, Response};
use crate::message::{Message, classify, offset, text_field};

/// Which of a net's connections.
pub type ConnId = usize;

/// Read at a time, for all connections: more than a loopback socket's default receive buffer.
const SCRATCH: usize = 256 * 1024;

/// Taken from `epoll` at a time. A turn sends what it caused when it is over, so it should not take long.
const EVENTS: usize = 1024;

/// The ack id of the handshake's `joinRoom`; loads use other ones.
const JOIN_ACK: u32 = 9;

/// Any mask does; one of zeros would let servers skip their work.
const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x2e];

/// What a connection does before it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// A Socket.IO client.
    Client {
        /// Whether it connects to the contract's three namespaces, or to the default one only.
        three_namespaces: bool,
        /// The number of the room that it joins, once it was told `welcome`.
        room: Option<u16>,
    },
    /// A publisher over HTTP.
    Http,
}

impl Plan {
    /// A client of the default namespace that joins nothing.
    pub const IDLE: Self = Self::Client { three_namespaces: false, room: None };

    /// A client of the default namespace in this room.
    #[must_use]
    pub const fn member(room: u16) -> Self {
        Self::Client { three_namespaces: false, room: Some(room) }
    }
}

/// What a client needs to come back for its session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// The session's secret.
    pub pid: String,
    /// That of the last event.
    pub offset: String,
}

/// The name of the room with this number.
#[must_use]
pub fn room_name(room: u16) -> String {
    format!("room-{room:04}")
}

/// What happens on the connections, told to the load. It answers when the turn is over.
pub trait Load {
    /// The connection did what was planned.
    ///
    /// # Errors
    /// Whatever makes the measurement void.
    fn ready(&mut self, _conn: ConnId, _took: Duration) -> Result<()> {
        bail!("a connection became ready that nobody waited for")
    }

    /// A message, on a connection that is ready.
    ///
    /// # Errors
    /// Whatever makes the measurement void.
    fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()>;

    /// A response to a publisher.
    ///
    /// # Errors
    /// Whatever makes the measurement void.
    fn response(&mut self, _conn: ConnId, response: &Response<'_>) -> Result<()> {
        bail!("an HTTP response of status {} that nobody waited for", response.status)
    }

    /// A connection that leaves is gone.
    ///
    /// # Errors
    /// Whatever makes the measurement void.
    fn left(&mut self, _conn: ConnId) -> Result<()> {
        Ok(())
    }
}

/// A load that is there and says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Idle;

impl Load for Idle {
    fn message(&mut self, _conn: ConnId, message: &Message<'_>, _at: Instant) -> Result<()> {
        match message {
            Message::Other | Message::Welcome => Ok(()),
            message => bail!("an idle connection was sent {message:?}"),
        }
    }
}

/// How clients leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// `socket.disconnect()`.
    Disconnect,
    /// The page is closed: the browser ends the WebSocket, Socket.IO says nothing.
    ClosePage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    /// Waits for its session, and then for an event that it missed.
    Returning {
        recovered: bool,
    },
    Ready,
    /// Keeps HTTP.
    Http,
    Leaving,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    phase: Phase,
    plan: Plan,
    /// Is not read, until `Net::read_paused`.
    is_paused: bool,
    begun: Instant,
    /// The beginning of a frame whose rest has not arrived.
    carry: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// Kept up to date if the load wants to come back for it.
    session: Option<Box<Session>>,
}

/// The connections to one server.
#[derive(Debug)]
pub struct Net {
    server: SocketAddr,
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    conns: Vec<Option<Conn>>,
    open: usize,
    /// Whether clients take note of their sessions.
    keeps_sessions: bool,
    /// Until when the measurement must be over, whatever happens.
    deadline: Instant,
}

impl Net {
    /// A net without connections; after `deadline` every turn fails.
    ///
    /// # Errors
    /// If the system has no `epoll` left.
    pub fn new(server: SocketAddr, deadline: Instant) -> Result<Self> {
        Ok(Self {
            server,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            scratch: vec![0; SCRATCH],
            conns: Vec::new(),
            open: 0,
            keeps_sessions: false,
            deadline,
        })
    }

    /// The server that it connects to.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// How many connections there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Begins a connection. [`Load::ready`] tells when its plan is carried out.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn connect(&mut self, plan: Plan) -> Result<ConnId> {
        let session = self.keeps_sessions.then(Box::default);
        self.begin(plan, session)
    }

    /// Has all clients that connect from now on take note of their sessions.
    pub fn keep_sessions(&mut self) {
        self.keeps_sessions = true;
    }

    /// Cuts all connections at once, as a network does; returns the sessions of those clients that have one.
    pub fn cut_all(&mut self) -> Vec<Session> {
        self.open = 0;
        let gone = self.conns.iter_mut().filter_map(Option::take);
        gone.filter_map(|conn| {
            // With a reset. If that can't be, it is an end, which is as sudden.
            let _ = set_socket_linger(&conn.stream, Some(Duration::ZERO));
            conn.session.map(|session| *session)
        })
        .collect()
    }

    /// Begins a connection of a client that comes back for its session. It is ready when an event has come.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn come_back(&mut self, session: Session) -> Result<ConnId> {
        self.begin(Plan::IDLE, Some(Box::new(session)))
    }

    fn begin(&mut self, plan: Plan, session: Option<Box<Session>>) -> Result<ConnId> {
        let begun = Instant::now();
        let id = self.conns.len();
        let mut stream = TcpStream::connect(self.server).context("connect")?;
        self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
        self.conns.push(Some(Conn {
            stream,
            phase: Phase::Connecting,
            plan,
            is_paused: false,
            begun,
            carry: Vec::new(),
            unsent: Vec::new(),
            session,
        }));
        self.open += 1;
        Ok(id)
    }

    /// Carries out all plans, `concurrency` at a time. Returns the connections and how long each took.
    ///
    /// # Errors
    /// If one fails.
    pub fn connect_all(
        &mut self,
        plans: impl IntoIterator<Item = Plan>,
        concurrency: usize,
    ) -> Result<(Vec<ConnId>, Vec<Duration>)> {
        struct Arriving(Vec<Duration>);
        impl Load for Arriving {
            fn ready(&mut self, _conn: ConnId, took: Duration) -> Result<()> {
                self.0.push(took);
                Ok(())
            }
            fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
                Idle.message(conn, message, at)
            }
        }
        let mut plans = plans.into_iter();
        let (mut ids, mut arriving) = (Vec::new(), Arriving(Vec::new()));
        loop {
            while ids.len() < arriving.0.len() + concurrency {
                let Some(plan) = plans.next() else { break };
                ids.push(self.connect(plan)?);
            }
            if arriving.0.len() == ids.len() {
                return Ok((ids, arriving.0));
            }
            self.turn(&mut arriving, TICK)
                .with_context(|| format!("connecting, {} of {} done", arriving.0.len(), ids.len()))?;
        }
    }

    /// Lets time pass, answering heartbeats.
    ///
    /// # Errors
    /// If a connection fails.
    pub fn rest(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.turn(&mut Idle, left)?;
        }
        Ok(())
    }

    /// Lets connections leave and waits until the server has closed them, `concurrency` at a time.
    ///
    /// # Errors
    /// If a server does not close its side.
    pub fn leave_all(&mut self, ids: &[ConnId], how: Leave, concurrency: usize) -> Result<()> {
        struct Leaving(usize);
        impl Load for Leaving {
            fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
                Idle.message(conn, message, at)
            }
            fn left(&mut self, _conn: ConnId) -> Result<()> {
                self.0 += 1;
                Ok(())
            }
        }
        let mut leaving = Leaving(0);
        let mut told = 0;
        while leaving.0 < ids.len() {
            while told < ids.len() && told < leaving.0 + concurrency {
                self.leave(ids[told], how)?;
                told += 1;
            }
            self.turn(&mut leaving, TICK).with_context(|| format!("leaving, {} of {} gone", leaving.0, ids.len()))?;
        }
        Ok(())
    }

    fn leave(&mut self, id: ConnId, how: Leave) -> Result<()> {
        let conn = self.conn(id)?;
        conn.phase = Phase::Leaving;
        let mut frames = Vec::new();
        if how == Leave::Disconnect {
            encode_text(&mut frames, b"41");
        }
        // 1001 (going away) is what browsers send when a page is closed, 1005 (no code) what `close()` sends.
        let code: &[u8] = if how == Leave::ClosePage { &1001u16.to_be_bytes() } else { &[] };
        encode_masked(&mut frames, OpCode::Close, code, MASK);
        write(conn, &frames)
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_text(&mut self, id: ConnId, text: &[u8]) -> Result<()> {
        send_text(self.conn(id)?, text)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn send_raw(&mut self, id: ConnId, bytes: &[u8]) -> Result<()> {
        write(self.conn(id)?, bytes)
    }

    /// Stops reading from a connection but for [`Net::read_paused`]: a slow client.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn pause(&mut self, id: ConnId) -> Result<()> {
        self.conn(id)?.is_paused = true;
        Ok(())
    }

    /// Stops reading from a connection for good, with as little room as the system gives for what arrives.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn stop(&mut self, id: ConnId) -> Result<()> {
        let conn = self.conn(id)?;
        set_socket_recv_buffer_size(&conn.stream, 1)?;
        conn.is_paused = true;
        Ok(())
    }

    /// Reads what has arrived on a paused connection.
    ///
    /// # Errors
    /// If the connection fails, or the load does.
    pub fn read_paused(&mut self, id: ConnId, load: &mut impl Load) -> Result<()> {
        let conn = self.conns.get_mut(id).and_then(Option::as_mut).context("a connection that is gone")?;
        match read(conn, id, &mut self.scratch, false, load)? {
            Read::Open => Ok(()),
            Read::Closed => bail!("the server closed a slow connection"),
        }
    }

    /// Waits for events, `timeout` at most, and tells the load of each.
    ///
    /// # Errors
    /// If a connection fails, the load does, or the measurement's deadline is over.
    pub fn turn(&mut self, load: &mut impl Load, timeout: Duration) -> Result<()> {
        if Instant::now() >= self.deadline {
            bail!("the measurement took too long");
        }
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            let Token(id) = event.token();
            let Some(slot) = self.conns.get_mut(id) else { continue };
            let Some(conn) = slot else { continue };
            match advance(conn, id, event, &mut self.scratch, load) {
                Ok(Read::Open) => {}
                Ok(Read::Closed) if conn.phase == Phase::Leaving => {
                    *slot = None;
                    self.open -= 1;
                    load.left(id)?;
                }
                Ok(Read::Closed) => bail!("the server closed a connection in phase {:?}", conn.phase),
                Err(_) if conn.phase == Phase::Leaving => {
                    // A reset instead of an end: gone is gone.
                    *slot = None;
                    self.open -= 1;
                    load.left(id)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn conn(&mut self, id: ConnId) -> Result<&mut Conn> {
        self.conns.get_mut(id).and_then(Option::as_mut).ok_or_else(|| anyhow!("a connection that is gone"))
    }
}

/// How long a turn waits when nothing else says so.
pub const TICK: Duration = Duration::from_millis(100);

enum Read {
    Open,
    Closed,
}

fn advance(conn: &mut Conn, id: ConnId, event: &Event, scratch: &mut [u8], load: &mut impl Load) -> Result<Read> {
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
fn read(conn: &mut Conn, id: ConnId, scratch: &mut [u8], ends: bool, load: &mut impl Load) -> Result<Read> {
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
            let Some(Session { pid, offset }) = conn.session.as_deref() else { return Ok(()) };
            let connect = format!(r#"40{{"pid":"{pid}","offset":"{offset}"}}"#);
            conn.phase = Phase::Returning { recovered: false };
            return send_text(conn, connect.as_bytes());
        }
        (Phase::Returning { recovered: false }, Message::Connected(answer)) => {
            let pid = conn.session.as_ref().map(|session| &*session.pid);
            if text_field(answer, "pid") != pid {
                bail!("the session was not recovered: {}", String::from_utf8_lossy(answer));
            }
            conn.phase = Phase::Returning { recovered: true };
            return Ok(());
        }
        (Phase::Returning { recovered: true }, Message::Update(_)) => {
            conn.phase = Phase::Ready;
            return load.ready(id, conn.begun.elapsed());
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

fn send_text(conn: &mut Conn, text: &[u8]) -> Result<()> {
    let mut frame = Vec::with_capacity(text.len() + 14);
    encode_text(&mut frame, text);
    write(conn, &frame)
}

/// Appends a text message, to be sent raw.
pub fn encode_text(out: &mut Vec<u8>, text: &[u8]) {
    encode_masked(out, OpCode::Text, text, MASK);
}

fn write(conn: &mut Conn, mut bytes: &[u8]) -> Result<()> {
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
