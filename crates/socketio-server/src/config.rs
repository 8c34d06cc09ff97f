//! Settings and limits of the engine, each with the reason for its default.

use std::time::Duration;

use ::http::HeaderName;

use crate::Recovery;

/// Which web origins may use the server from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Every origin (`Access-Control-Allow-Origin: *`).
    Any,
    /// The server's own origin, and these, compared letter by letter (`https://studio.example`). Requests without an
    /// `Origin` header, which browsers always send across origins, pass.
    List(Vec<String>),
}

impl Origins {
    /// Whether a request with this `Origin` header, for the host of this `Host` header, is served.
    #[must_use]
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let (Self::List(list), Some(origin)) = (self, origin) else { return true };
        // A proxy may have taken TLS off, so the scheme says nothing.
        let own = origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
        own || list.iter().any(|allowed| allowed == origin)
    }
}

/// Settings and limits of a [`Server`](crate::Server).
#[derive(Debug, Clone)]
pub struct Config {
    /// The engine's path, without a trailing slash; the stock client asks for `/socket.io/`.
    pub path: String,
    /// Threads that carry connections. Default: one for each core.
    pub shards: usize,
    /// Time between heartbeats. Each is sent up to a fifth earlier, at random, so that a fleet does not ping at once.
    /// Default 25 s, as Node's server.
    pub ping_interval: Duration,
    /// How long a heartbeat may stay unanswered. Default 20 s, as Node's server.
    pub ping_timeout: Duration,
    /// How long a new connection may take to connect to a first namespace. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a WebSocket probe may take to finish its upgrade. Default 10 s.
    pub upgrade_timeout: Duration,
    /// How long a client may take to send a request's headers, and then its body. Default 10 s.
    pub request_timeout: Duration,
    /// Largest message of a client in bytes, on either transport: a polling body, a WebSocket message, and an event
    /// with all its attachments. Default 1,000,000, as Node's server.
    pub max_payload: usize,
    /// Most binary attachments of one event. Default 64.
    pub max_attachments: usize,
    /// Origins that browsers may connect from. Default: any.
    pub origins: Origins,
    /// Headers of the handshake request that are kept for [`Socket::header`](crate::Socket::header). Default: none,
    /// because what is kept is paid for by every idle connection.
    pub kept_headers: Vec<HeaderName>,
    /// Bytes waiting for a client at which the server stops reading from it. Default 256 KiB: some thousand
    /// events, far more than a client that reads ever has waiting.
    pub outbox_soft_limit: usize,
    /// Bytes waiting for a client at which its connection is closed. Default 1 MiB: a thousand such clients hold 1 GiB.
    pub outbox_hard_limit: usize,
    /// How long a client with something waiting may take nothing before its connection is closed. Default 15 s.
    pub write_stall_timeout: Duration,
    /// Events of one socket that may wait for a running handler before its connection is no longer read. Default 64.
    pub handler_backlog: usize,
    /// Sockets of a shard that a broadcast is queued for before the shard's other tasks get their turn. Default 2,048,
    /// which takes about 0.3 ms.
    pub fanout_per_turn: usize,
    /// Members of a room, on one shard, from which on broadcasts are written straight to them. Smaller rooms are many, and what
    /// comes for one of them is rarely followed by something for the same: there the outboxes gather more for a write.
    /// Default 64.
    pub large_room: usize,
    /// Connection state recovery: clients that come back get their session, and what they missed. Default: off, because
    /// every event gets an argument more, a string at its end, that handlers see too.
    pub recovery: Option<Recovery>,
    /// Rooms that one socket may be in. Default 1,000.
    pub max_rooms_per_socket: usize,
    /// Acknowledgements that one socket may owe the server. Default 1,000.
    pub max_pending_acks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/socket.io".to_owned(),
            shards: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            upgrade_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            max_payload: 1_000_000,
            max_attachments: 64,
            origins: Origins::Any,
            kept_headers: Vec::new(),
            outbox_soft_limit: 256 * 1024,
            outbox_hard_limit: 1024 * 1024,
            write_stall_timeout: Duration::from_secs(15),
            handler_backlog: 64,
            fanout_per_turn: 2_048,
            large_room: 64,
            recovery: None,
            max_rooms_per_socket: 1_000,
            max_pending_acks: 1_000,
        }
    }
}

/// Shards are named by one byte of a session's id.
pub(crate) const MAX_SHARDS: usize = 256;

/// When a heartbeat follows a namespace's greeting at the earliest, and within as long again, if there is recovery: late
/// enough for most clients to have upgraded and joined their rooms.
pub(crate) const FIRST_HEARTBEAT: Duration = Duration::from_millis(200);

/// Bytes read from a WebSocket at a time, into a buffer that the shard's connections share. 64 KiB is what a
/// default loopback or LAN socket has ready at most in one go.
pub(crate) const READ_BUFFER: usize = 64 * 1024;

/// Reads of one connection before others get their turn.
pub(crate) const READS_PER_TURN: usize = 4;

/// How long one flush turn writes to connections before other tasks get theirs. Longer ones would save little: a turn
/// ends with a look at the sockets, which takes a microsecond or two.
pub(crate) const FLUSH_TURN: Duration = Duration::from_millis(1);

/// Connections that a flush turn writes to between two looks at the clock.
pub(crate) const FLUSHES_PER_LOOK: usize = 8;

/// Bytes of several frames that are put together for one write. More is told to the kernel in pieces.
pub(crate) const SMALL_WRITE: usize = 512;

/// Frames that one vectored write takes. Linux allows 1,024; past 64 the call itself is no longer what costs.
pub(crate) const FRAMES_PER_WRITE: usize = 64;

/// Largest body of one polling response; what is more waits for the next poll.
pub(crate) const POLL_RESPONSE_LIMIT: usize = 1024 * 1024;

/// Bytes that wait for a client's next poll at which it counts as slow: some tens of events, more than come in a round trip.
pub(crate) const SLOW_POLL_BYTES: usize = 16 * 1024;

/// Packets of one polling response: python-engineio takes a response with more for an attack, and gives up.
pub(crate) const POLL_RESPONSE_PACKETS: usize = 16;

/// While a WebSocket probe is under way, polls are answered at this pace, so that the client can pause polling
/// (Node's server does the same).
pub(crate) const PROBE_NOOP_INTERVAL: Duration = Duration::from_millis(100);

/// How long a closed WebSocket connection is still read, so that the kernel does not answer unread bytes with a reset
/// that overtakes our last frames.
pub(crate) const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// Closed polling sessions whose last packets wait for one more poll, for each shard.
pub(crate) const MAX_FAREWELLS: usize = 1024;
