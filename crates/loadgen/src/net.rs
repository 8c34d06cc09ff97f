//! All connections of a load in one `epoll` loop: handshake, reading, writing, leaving.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};

use socketio_protocol::websocket::{OpCode, encode_masked};

use crate::http::Response;
use crate::message::Message;

mod conn;

pub use conn::encode_text;
use conn::{Conn, MASK, Phase, Read, advance, read, send_text, write};

/// Which of a net's connections.
pub type ConnId = usize;

/// Read at a time, for all connections: more than a loopback socket's default receive buffer.
const SCRATCH: usize = 256 * 1024;

/// Taken from `epoll` at a time. A turn sends what it caused when it is over, so it should not take long.
const EVENTS: usize = 1024;

/// What a connection does before it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// A Socket.IO client.
    Client {
        /// Whether it connects to the contract's three namespaces, or to the default one only.
        three_namespaces: bool,
        /// The number of the room that it joins, once it has received `welcome`.
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
    /// Whether a server has given it back to its client.
    pub is_recovered: bool,
}

/// The name of the room with this number.
#[must_use]
pub fn room_name(room: u16) -> String {
    format!("room-{room:04}")
}

/// The events of the connections, reported to the load. The load answers when the turn is over.
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

    /// The server that new connections go to.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Has all connections that begin from now on go to another server.
    pub fn go_to(&mut self, server: SocketAddr) {
        self.server = server;
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

    /// Begins a connection of a client that comes back for its session, and joins its room if the server has no such session.
    /// It is ready when a missed event has come, or else when it has joined.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn come_back_or_join(&mut self, session: Session, room: u16) -> Result<ConnId> {
        self.begin(Plan::member(room), Some(Box::new(session)))
    }

    /// How many clients have been given back their sessions.
    #[must_use]
    pub fn recovered(&self) -> usize {
        let sessions = self.conns.iter().flatten().filter_map(|conn| conn.session.as_ref());
        sessions.filter(|session| session.is_recovered).count()
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
        let mut sent = 0;
        while leaving.0 < ids.len() {
            while sent < ids.len() && sent < leaving.0 + concurrency {
                self.leave(ids[sent], how)?;
                sent += 1;
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
