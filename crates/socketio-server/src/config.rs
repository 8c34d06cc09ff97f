//! Settings and limits of the engine, each with the reason for its default.

use std::time::Duration;

use ::http::HeaderName;
use socketio_protocol::packet::MAX_DEPTH;

use crate::{Origins, Recovery, TrustedProxies};

/// Settings and limits of a [`Server`](crate::Server).
#[derive(Debug, Clone)]
pub struct Config {
    /// The engine's path, without a trailing slash; the stock client asks for `/socket.io/`.
    pub path: String,
    /// A prefix that every path may have or not, the fallback's too, which never sees it: a proxy in front may take it off or
    /// leave it on. Begins with a slash and ends without one. Default: none.
    pub base_path: String,
    /// Threads that carry connections. Default: one for each core.
    pub shards: usize,
    /// Time between heartbeats. Each is sent up to a fifth earlier, at random, so that a fleet does not ping at once.
    /// Default 25 s, as Node's server.
    pub ping_interval: Duration,
    /// How long a heartbeat may stay unanswered. Default 20 s, as Node's server.
    pub ping_timeout: Duration,
    /// How long a new connection may take to connect to a first namespace. Default 45 s, as Node's server: a page may have to ask
    /// for a token first. How many do so at a time is bounded by `max_handshakes`.
    pub connect_timeout: Duration,
    /// How long a WebSocket probe may take to finish its upgrade. Default 10 s.
    pub upgrade_timeout: Duration,
    /// Largest headers of a request in bytes, and of a body's beginning that is read with them; at least 8 KiB. Whoever begins
    /// a request may hold so many until `header_timeout`. Default 32 KiB: a token of 16 KiB in `Authorization`, and as much
    /// again for cookies and what proxies add.
    pub max_header_bytes: usize,
    /// How long a client may take to send a request's headers, from their first byte on; the first request's from when it is
    /// connected. Default 10 s: a request is one packet or two, and even a bad mobile network brings those within some round
    /// trips.
    pub header_timeout: Duration,
    /// How long an HTTP connection may be idle between two requests, as `Keep-Alive: timeout=` says to clients. Default 75 s, as
    /// nginx: longer than the 60 s that load balancers keep theirs idle, so that they are the ones to close.
    pub keep_alive_timeout: Duration,
    /// How long it may then take to send the body. Default 30 s: the largest, at 35 KB/s.
    pub body_timeout: Duration,
    /// Engine.IO connections in all. Past it a client gets 503. Default 100,000, which at 3 KiB each are 300 MB.
    pub max_connections: usize,
    /// TCP connections that are taken besides, so that health checks and publishers come in however many clients are there.
    /// When all are taken, an idle or silent one leaves for each that comes; half of them are never a client's, and a quarter
    /// may be [kept](crate::HttpConnection::keep). Default 1,024: some hundred publishers' and proxies', and as many requests
    /// of polling clients.
    pub max_http_connections: usize,
    /// Engine.IO connections of one client address; 0 for no limit. Past it a client gets 429. TCP connections that speak HTTP
    /// may be as many, and a quarter of `max_http_connections`. Default 20,000: one address can't take more than a fifth of the places, and a company or a carrier's
    /// network behind one address is not that large.
    pub max_connections_per_address: usize,
    /// New Engine.IO connections of one client address each second, and ten times as many at once; 0 for no limit. Past
    /// it a client gets 429. Default 2,000: at 60 µs of work each, 12 % of a core; a full address is back in one burst.
    pub connection_rate_per_address: u32,
    /// What the server waits for, in all: so many bodies of clients and of others, each counted apart, and so many Engine.IO
    /// connections without a namespace; past it a client gets 503. And so many TCP connections speak HTTP without a client's
    /// request under way, which are those that are silent, idle or have sent a part of a request; past it the one leaves that
    /// has been so for longest, of the address with most. Default 10,000: at 11 to 21 KiB each, 210 MB at most; and a fleet of
    /// 100,000 is through in ten rounds.
    pub max_handshakes: usize,
    /// The same of one client address, idle connections not among them, past which a client gets 429, or is closed if it had
    /// begun a request; 0 for no limit. Default 5,000: half of all, so that others get in; and 2,000 long-polling clients that come at once make 4,000 requests.
    pub max_handshakes_per_address: usize,
    /// Requests of one polling session each second, and ten times as many at once; 0 for no limit. Past it each is answered when it
    /// is within the rate again. Default 100: a client that polls and posts in turn over a round trip of 20 ms.
    pub request_rate_per_session: u32,
    /// Messages of one connection each second, and ten times as many at once; 0 for no limit. Events past it are
    /// [refused](crate::Namespace::on_refused), and at twice as many at once the connection is closed. All that its client
    /// sends counts: events, acks, attachments, fragments, control frames; and every KiB of an acknowledgement that it gets. Default 1,000: at 7 µs each, a hundredth of a core.
    pub event_rate_per_socket: u32,
    /// Bytes of messages and of requests' headers that are not whole yet, and of messages that wait to be handled, which each shard
    /// holds for its clients together; a quarter of it for the clients of one address. Past it, connections that hold more than
    /// 4 KiB are closed, and events that would wait are refused. Default 64 MiB: sixty of the largest messages on their way at once.
    pub max_unfinished_bytes: usize,
    /// Bytes that wait for the clients of a shard or may not have arrived; a quarter of it for the clients of one address.
    /// Broadcasts are not counted, since all who wait for one share it. Past half of it, clients that leave more than 4 KiB waiting
    /// are not read; past it their connections are closed, and what may not have arrived is not remembered. Default 256 MiB: a thousand
    /// clients with as much waiting as may before they are not read.
    pub max_unarrived_bytes: usize,
    /// Proxies whose `X-Forwarded-For`, `-Host` and `-Proto` are believed; none of the limits by address is theirs. Default:
    /// none.
    pub trusted_proxies: TrustedProxies,
    /// Largest message of a client in bytes, on either transport: a polling body, a WebSocket message, and an event
    /// with all its attachments. Default 1,000,000, as Node's server.
    pub max_payload: usize,
    /// Most binary attachments of one event. Default 64.
    pub max_attachments: usize,
    /// Arrays and objects of an event that may stand within one another. Default 127, which is also the most: what the
    /// JSON parsers of handlers and of other clients take.
    pub max_json_depth: usize,
    /// Origins that browsers may connect from. Default: any.
    pub origins: Origins,
    /// Whether the whole request that opens a connection is kept for [`Socket::handshake`](crate::Socket::handshake): its query,
    /// path and headers. Default: no, because what is kept is paid for by every idle connection.
    pub keep_handshake: bool,
    /// What the application calls `origins`, for pages that are refused and for the log; without quotes and backslashes.
    /// Default `Config::origins`.
    pub origins_setting: &'static str,
    /// Headers of the handshake request that are kept for [`Socket::header`](crate::Socket::header). Default: none,
    /// because what is kept is paid for by every idle connection. A client that sends one of more than 17 KiB gets 431.
    pub kept_headers: Vec<HeaderName>,
    /// Bytes waiting for a client at which the server stops reading from it. Default 256 KiB: some thousand
    /// events, far more than a client that reads ever has waiting.
    pub outbox_soft_limit: usize,
    /// Bytes waiting for a client at which its connection is closed. Default 1 MiB: four times the soft limit, since answers to what was read come on top.
    pub outbox_hard_limit: usize,
    /// How long a client with something waiting may take nothing before its connection is closed. Default 15 s.
    pub write_stall_timeout: Duration,
    /// Bytes of one connection's events that may wait for running handlers, those that they handle included, before the connection
    /// is no longer read. Default 512 KiB: some 1,500 usual events, which take 256 bytes each besides their text.
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
    /// Rooms that the sockets of a shard are in, each counted for each socket; a quarter of it for the clients of one address. Past it
    /// a socket that is in eight joins no more. Default 1,000,000: ten each of as many connections as there may be.
    pub max_rooms: usize,
    /// Acknowledgements that one socket may owe the server. Default 1,000.
    pub max_pending_acks: usize,
}

impl Config {
    /// Says what is wrong with it, for who wrote it.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_path(&self.path)?;
        if !self.base_path.is_empty() {
            check_path(&self.base_path)?;
        }
        let positive = [
            ("max_payload", self.max_payload),
            ("max_json_depth", self.max_json_depth),
            ("outbox_soft_limit", self.outbox_soft_limit),
            ("outbox_hard_limit", self.outbox_hard_limit),
            ("fanout_per_turn", self.fanout_per_turn),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be more than 0"));
        }
        let durations = [
            ("ping_interval", self.ping_interval),
            ("ping_timeout", self.ping_timeout),
            ("connect_timeout", self.connect_timeout),
            ("upgrade_timeout", self.upgrade_timeout),
            ("header_timeout", self.header_timeout),
            ("keep_alive_timeout", self.keep_alive_timeout),
            ("body_timeout", self.body_timeout),
            ("write_stall_timeout", self.write_stall_timeout),
        ];
        match durations.iter().find(|(_, value)| value.is_zero()) {
            Some((name, _)) => Err(format!("{name} must be more than 0")),
            None => Ok(()),
        }
    }
}

/// Says what is wrong with a path that the engine is to speak at.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("path {path:?} must begin with a slash and not end with one"));
    }
    match path.contains("//") || path.contains(['?', '#', ' ']) {
        true => Err(format!("no request has the path {path:?}")),
        false => Ok(()),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/socket.io".to_owned(),
            base_path: String::new(),
            shards: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            max_header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_connections: 100_000,
            max_http_connections: 1024,
            max_connections_per_address: 20_000,
            connection_rate_per_address: 2_000,
            max_handshakes: 10_000,
            max_handshakes_per_address: 5_000,
            request_rate_per_session: 100,
            event_rate_per_socket: 1_000,
            max_unfinished_bytes: 64 * 1024 * 1024,
            max_unarrived_bytes: 256 * 1024 * 1024,
            trusted_proxies: TrustedProxies::default(),
            max_payload: 1_000_000,
            max_attachments: 64,
            max_json_depth: MAX_DEPTH,
            origins: Origins::Any,
            keep_handshake: false,
            origins_setting: "Config::origins",
            kept_headers: Vec::new(),
            outbox_soft_limit: 256 * 1024,
            outbox_hard_limit: 1024 * 1024,
            write_stall_timeout: Duration::from_secs(15),
            handler_backlog: 512 * 1024,
            fanout_per_turn: 2_048,
            large_room: 64,
            recovery: None,
            max_rooms_per_socket: 1_000,
            max_rooms: 1_000_000,
            max_pending_acks: 1_000,
        }
    }
}

/// Connections that may be on their way out at a time, to make room for others. So many file descriptors more than the limits
/// say may be open for a moment.
pub const MAX_LEAVING: usize = 64;

/// Of how many connections of an address one leaves at a time: who has 16 loses one, who has 1,024 loses 64, so that the
/// search for the oldest costs each newcomer 16 looks.
pub(crate) const LEAVING_PER_ADDRESS: usize = 16;

/// Bytes of a request's headers, and of a TLS handshake, that are read at a time. So much, at most, of the next request is taken in while one is under
/// way; and hyper, whose buffer grows when a read fills it, stays with 8 KiB for those whose headers fit.
pub(crate) const SMALL_READ: usize = 4 * 1024;

/// hyper's buffer is at least as large.
pub(crate) const MIN_HEADER_BYTES: usize = 8 * 1024;

/// The shortest header that counts, with its name, colon and line end: so many bytes of [`Config::max_header_bytes`] are one
/// header at most. By default 2,048 headers; a request through several proxies has 50. hyper takes 100 unless told otherwise.
pub(crate) const SHORT_HEADER: usize = 16;

/// Bytes of one of the [`Config::kept_headers`], held for as long as the connection: a token of 16 KiB, and the name of its
/// scheme.
pub(crate) const MAX_KEPT_HEADER_BYTES: usize = 17 * 1024;

/// Seconds of a client address's new connections that it may make at once: all its clients, after a restart.
pub(crate) const CONNECTION_BURST_SECONDS: u32 = 10;

/// Seconds of a session's requests, and of a connection's messages, that may come at once: what piled up while the network
/// was away.
pub(crate) const BURST_SECONDS: u32 = 10;

/// An unfinished message up to this size is let be, however much others hold: ten usual events, and 20,000 of them are
/// 80 MB.
pub(crate) const SMALL_UNFINISHED: usize = 4 * 1024;

/// So much that waits for a client or may not have arrived is let be, however much others hold: forty answers.
pub(crate) const SMALL_UNARRIVED: usize = 4 * 1024;

/// What may not have arrived is counted in steps of so many bytes: a few answers each.
pub(crate) const REMEMBERED_STEP: usize = 512;

/// What a frame that waits for a client takes besides its text: itself, its counts, its place in the outbox.
pub(crate) const FRAME_OVERHEAD: usize = 80;

/// So many rooms a socket is let join, however many others are in: its user's, and those of a page.
pub(crate) const FEW_ROOMS: usize = 8;

/// One address may hold so much of [`Config::max_unfinished_bytes`], [`Config::max_unarrived_bytes`] and [`Config::max_rooms`], a
/// quarter: sixteen of the largest messages by default.
pub(crate) const ADDRESS_SHARE: usize = 4;

/// What an event that waits takes besides its text, the future that handles it included.
pub(crate) const EVENT_OVERHEAD: usize = 256;

/// Events of a socket that are handled side by side, where their handler [allows it](crate::Namespace::on_overlapping). So a
/// thousand of them take some thirty turns of whatever answers them.
pub(crate) const MAX_OVERLAPPING: usize = 32;

/// Their answers may wait for the client although they are so many times more than [`Config::outbox_hard_limit`], since it has asked
/// for them: 128 KiB each by default.
pub(crate) const LARGEST_ANSWERS: usize = 4;

/// After so many times of [`Config::write_stall_timeout`] without the other side taking anything the kernel ends a TCP
/// connection (`TCP_USER_TIMEOUT`): for what the engine does not see, such as an answer over plain HTTP. Twice, so that
/// a WebSocket ends by its own timer, which says why.
pub(crate) const USER_TIMEOUT_STALLS: u32 = 2;

/// Shards are named by one byte of a session's id.
pub(crate) const MAX_SHARDS: usize = 256;

/// When a heartbeat follows a namespace's greeting at the earliest, and within as long again, if there is recovery: late
/// enough for most clients to have upgraded and joined their rooms.
pub(crate) const FIRST_HEARTBEAT: Duration = Duration::from_millis(200);

/// Time on its shard that a connection's messages may take each second, on the average: a message that takes longer than its
/// share of it, by [`Config::event_rate_per_socket`], counts as several. By default a share is 70 µs, ten times what an event
/// takes.
pub(crate) const WORK_PER_SECOND: Duration = Duration::from_millis(70);

/// A message counts as no more than a tenth of what may come each second, however long it takes.
pub(crate) const LONGEST_WORK_SHARE: u32 = 10;

/// For how long a connection handles what its client sends, before others get their turn: some tens of events.
pub(crate) const SLICE: Duration = Duration::from_micros(200);

/// How far a client may be ahead of its rate for its messages to be handled at once: by default 100 events, more than a page
/// sends when it opens. Those of a client that is further ahead wait for a turn.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);

/// How long turns are given to those who wait for one, before the others get theirs: some ten slices.
pub(crate) const TURN: Duration = Duration::from_millis(2);

/// Rooms of a socket from which on its end waits for a turn, if the client has hung up: to leave them, and to keep what it was in,
/// takes a microsecond each.
pub(crate) const MANY_ROOMS: usize = 64;

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

/// A replay, or events that are larger by themselves, may wait for a client although they are so many times larger than
/// [`Config::outbox_hard_limit`]: broadcasts are the history's, which is bounded, and no copies. More than that the client would
/// hardly ever get in one piece.
pub(crate) const LARGEST_WAIT: usize = 16;

/// A client that comes back while much waits for others waits for a second at most, and looks so often whether that is over.
pub(crate) const CROWDED_PAUSE: Duration = Duration::from_millis(20);
pub(crate) const CROWDED_PAUSES: usize = 50;

/// Sessions of one address that a shard has the keeper read at a time. Some are with the keeper while others are on their way, so
/// that it is never idle.
pub(crate) const READS_PER_ADDRESS: usize = 8;

/// Bytes of an answer that cost as much as an event: an event that is acknowledged with more counts as several.
pub(crate) const ANSWER_PER_MESSAGE: usize = 1024;

/// Broadcasts that a client may have missed when it comes back: to send them again takes half a microsecond each, in one piece, since
/// nothing may come between. So these are 10 ms, and 160 a second for two minutes.
pub(crate) const MOST_MISSED: usize = 20_000;

/// Frames that one vectored write takes. Linux allows 1,024; past 64 the call itself is no longer what costs.
pub(crate) const FRAMES_PER_WRITE: usize = 64;

/// Largest body of one polling response; what is more waits for the next poll.
pub(crate) const POLL_RESPONSE_LIMIT: usize = 1024 * 1024;

/// Bytes that wait for a client's next poll at which it counts as slow: some tens of events, more than come in a round trip.
pub(crate) const SLOW_POLL_BYTES: usize = 16 * 1024;

/// Packets of one polling response: python-engineio takes a response with more for an attack, and gives up.
pub(crate) const POLL_RESPONSE_PACKETS: usize = 16;

/// Bytes that a client may send before its TLS handshake is done. A ClientHello has 300 to 600 bytes, 1,800 with a post-quantum
/// key, and tickets of ours add 250. rustls would hold 64 KiB of one.
pub(crate) const MAX_TLS_HANDSHAKE_BYTES: usize = 8 * 1024;

/// Bytes of a TLS connection that may be encrypted and not yet taken by the kernel: one record, the most that is encrypted
/// at a time. It comes on top of the outbox for no more than its few bytes of overhead, since it counts as waiting.
pub(crate) const TLS_BUFFER: usize = 16 * 1024;

/// What is offered by ALPN: there is nothing else that we speak.
pub(crate) const TLS_PROTOCOL: &[u8] = b"http/1.1";

/// While a WebSocket probe is under way, polls are answered at this pace, so that the client can pause polling
/// (Node's server does the same).
pub(crate) const PROBE_NOOP_INTERVAL: Duration = Duration::from_millis(100);

/// How long a closed WebSocket connection is still read, so that the kernel does not answer unread bytes with a reset
/// that overtakes our last frames. As long may the last words of TLS take.
pub(crate) const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// How long a client's HTTP connection is still read when its request was answered before all of it had come: for as long as
/// something comes, and no more than the second in all. As nginx's `lingering_timeout` and `lingering_time`.
pub(crate) const HTTP_LINGER_SILENCE: Duration = Duration::from_secs(5);
pub(crate) const HTTP_LINGER: Duration = Duration::from_secs(30);

/// Bytes that are read of it then: more than Linux holds of what was on its way, 6 MiB. Who sends more than that does not listen.
pub(crate) const CLOSE_LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Closed polling sessions whose last packets wait for one more poll, for each shard.
pub(crate) const MAX_FAREWELLS: usize = 1024;
