//! Settings and limits of the engine, each with the reason for its default.

use std::{fmt, sync::Arc, time::Duration};

use ::http::HeaderName;
use socketio_protocol::packet::MAX_DEPTH;

use crate::{address::TrustedProxies, identifier::Position, origin::Origins, recovery::keeper::SessionKeeper};

/// Settings and limits of a [`Server`](crate::Server).
#[derive(Debug, Clone)]
pub struct Config {
    /// The engine's path, without a trailing slash; the stock client asks for `/socket.io/`.
    pub path: String,
    /// An optional prefix of every path, including the fallback's paths. A proxy in front may remove the prefix or keep
    /// it; the fallback never sees it. Begins with a slash and ends without one. Default: none.
    pub base_path: String,
    /// Threads that serve connections. Default: one for each core.
    pub shards: usize,
    /// Time between heartbeats. Each is sent up to a fifth earlier, at random, so that many clients do not get a ping
    /// at once. Default 25 s, as in Node's server.
    pub ping_interval: Duration,
    /// How long a heartbeat may stay unanswered. Default 20 s, as in Node's server.
    pub ping_timeout: Duration,
    /// How long a new connection may take to connect to a first namespace. Default 45 s, as in Node's server: a page
    /// may have to fetch a token first. `max_handshakes` limits the number of such connections.
    pub connect_timeout: Duration,
    /// How long a WebSocket probe may take to finish its upgrade. Default 10 s.
    pub upgrade_timeout: Duration,
    /// Largest size of a request's headers in bytes, including the beginning of a body that is read with them; at least
    /// 8 KiB. A client that begins a request may hold this many bytes until `header_timeout`. Default 32 KiB: a token
    /// of 16 KiB in `Authorization`, and as much again for cookies and the headers of proxies.
    pub max_header_bytes: usize,
    /// How long a client may take to send a request's headers, counted from their first byte. For the first request it
    /// is counted from the start of the connection. Default 10 s: a request is one or two packets, and even a bad
    /// mobile network delivers them within some round trips.
    pub header_timeout: Duration,
    /// How long an HTTP connection may be idle between two requests. `Keep-Alive: timeout=` tells it to clients.
    /// Default 75 s, as in nginx. This is longer than the 60 s of load balancers, so that the load balancer closes
    /// first.
    pub keep_alive_timeout: Duration,
    /// How long a client may then take to send the request's body. Default 30 s: the largest body, at 35 KB/s.
    pub body_timeout: Duration,
    /// Most Engine.IO connections in total. Past it a client gets 503. Default 100,000: 300 MB at 3 KiB each.
    pub max_connections: usize,
    /// Most TCP connections in addition to those, so that health checks and publishers can connect, however many
    /// clients there are. When all are in use, each new connection closes an idle or silent one. Half of them are never
    /// available to clients, and a quarter may be [kept](crate::HttpConnection::keep). Default 1,024: some hundred
    /// connections of publishers and proxies, and as many requests of polling clients.
    pub max_http_connections: usize,
    /// Most Engine.IO connections of one client address; 0 for no limit. Past it a client gets 429. The limit for an
    /// address's TCP connections that speak HTTP is this number plus a quarter of `max_http_connections`, or none.
    /// Default 20,000: one address can't take more than a fifth of the connections, and a company's or a carrier's
    /// network behind one address is not that large.
    pub max_connections_per_address: usize,
    /// New Engine.IO connections of one client address per second, with a burst of ten times as many; 0 for no limit.
    /// Past it a client gets 429. Default 2,000: 12 % of a core, at 60 µs of work each. All clients of a full address
    /// can reconnect in one burst.
    pub connection_rate_per_address: u32,
    /// Most handshakes in progress, in total. It limits three kinds, each counted separately: bodies of clients, bodies
    /// of other peers, and Engine.IO connections without a namespace. Past it a client gets 503. It also limits the TCP
    /// connections that speak HTTP without a client's request in progress: silent ones, idle ones, and those with a
    /// part of a request received. Past it the server closes the one that has been in this state longest, of the
    /// address with the most. Default 10,000: 210 MB at most, at 11 to 21 KiB each. 100,000 clients then connect in ten
    /// rounds.
    pub max_handshakes: usize,
    /// The same limit for one client address, idle connections not included; 0 for no limit. Past it a client gets 429,
    /// or its connection is closed if it had begun a request. Default 5,000: half of the total, so that other addresses
    /// get in. 2,000 long-polling clients that connect at once make 4,000 requests.
    pub max_handshakes_per_address: usize,
    /// Requests of one polling session per second, with a burst of ten times as many; 0 for no limit. Past it each
    /// request is answered only when the session is within the rate again. Default 100: a client that polls and posts
    /// in turn over a round trip of 20 ms.
    pub request_rate_per_session: u32,
    /// Messages of one connection per second, with a burst of ten times as many; 0 for no limit. Events past it are
    /// [refused](crate::Namespace::on_refused), and at twice the burst the connection is closed. Everything that the
    /// client sends counts: events, acks, attachments, fragments, control frames. Every KiB of an ack that it receives
    /// counts, too. Default 1,000: a hundredth of a core, at 7 µs each.
    pub event_rate_per_socket: u32,
    /// Most bytes of incomplete messages and request headers, and of messages queued for handlers, for all clients of
    /// one shard; a quarter of it for the clients of one address. Past it, connections that hold more than 4 KiB are
    /// closed, and events that would be queued are refused. Default 64 MiB: sixty of the largest messages in transit at
    /// once.
    pub max_unfinished_bytes: usize,
    /// Most bytes that are queued for the clients of one shard or may not have arrived; a quarter of it for the clients
    /// of one address. Broadcasts are not counted, since all their receivers share one copy. Past half of it, the
    /// server stops reading from clients with more than 4 KiB queued. Past all of it, their connections are closed, and
    /// events that may not have arrived are not remembered. Default 256 MiB: a thousand clients, each with
    /// `outbox_soft_limit` queued.
    pub max_unarrived_bytes: usize,
    /// Proxies whose `X-Forwarded-For`, `-Host` and `-Proto` are trusted. The limits by address do not apply to them.
    /// Default: none.
    pub trusted_proxies: TrustedProxies,
    /// Largest message of a client in bytes, on either transport: a polling body, a WebSocket message, and an event
    /// with all its attachments. Default 1,000,000, as in Node's server.
    pub max_payload: usize,
    /// Most binary attachments of one event. Default 64.
    pub max_attachments: usize,
    /// Deepest nesting of arrays and objects in an event. Default 127, which is also the maximum: the JSON parsers of
    /// handlers and of other clients accept no more.
    pub max_json_depth: usize,
    /// Origins that browsers may connect from. Default: any.
    pub origins: Origins,
    /// Whether the whole request that opens a connection is kept for [`Socket::handshake`](crate::Socket::handshake):
    /// its query, path and headers. Default: no, because the kept data costs memory for every idle connection.
    pub keep_handshake: bool,
    /// The application's name for `origins`, for refused pages and for the log; without quotes and backslashes. Default
    /// `Config::origins`.
    pub origins_setting: &'static str,
    /// Headers of the handshake request that are kept for [`Socket::header`](crate::Socket::header). Default: none,
    /// because the kept data costs memory for every idle connection. A client that sends such a header of more than 17
    /// KiB gets 431.
    pub kept_headers: Vec<HeaderName>,
    /// Bytes queued for a client at which the server stops reading from it. Default 256 KiB: some thousand events, far
    /// more than are ever queued for a client that reads.
    pub outbox_soft_limit: usize,
    /// Bytes queued for a client at which its connection is closed. Default 1 MiB: four times the soft limit, since the
    /// answers to messages already read come on top.
    pub outbox_hard_limit: usize,
    /// How long a client with queued bytes may take none of them before its connection is closed. Default 15 s.
    pub write_stall_timeout: Duration,
    /// Bytes of one connection's events that may wait for running handlers, including the events being handled, before
    /// the server stops reading from the connection. Default 512 KiB: some 1,500 usual events, which take 256 bytes
    /// each in addition to their text.
    pub handler_backlog: usize,
    /// Sockets of a shard that a broadcast is queued for before the shard's other tasks get their turn. Default 2,048:
    /// about 0.3 ms.
    pub fanout_per_turn: usize,
    /// Members of a room, on one shard, from which on broadcasts are written directly to the members. There are many
    /// smaller rooms, and a broadcast to one of them is rarely followed by another to the same room. For these the
    /// outboxes gather more frames for a write. Default 64.
    pub large_room: usize,
    /// Connection state recovery: clients that reconnect get their session back, and the events that they missed.
    /// Default: off, because every event gets one more argument, a string at its end, which handlers also see.
    pub recovery: Option<Recovery>,
    /// Rooms that one socket may be in. Default 1,000.
    pub max_rooms_per_socket: usize,
    /// Most room memberships of the sockets of one shard; a quarter of it for the clients of one address. Past it a
    /// socket in eight or more rooms can't join another. Default 1,000,000: ten for each of `max_connections`.
    pub max_rooms: usize,
    /// Acknowledgements that one socket may owe the server. Default 1,000.
    pub max_pending_acks: usize,
}

impl Config {
    /// Checks the settings, and describes a mistake for the author of the configuration.
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

/// Checks a path of the engine, and describes its mistake.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("path {path:?} must begin with a slash and not end with one"));
    }
    match path.contains("//") || path.contains(['?', '#', ' ']) {
        true => Err(format!("no request has the path {path:?}")),
        false => Ok(()),
    }
}

impl Config {
    /// The longest time in which a node answers a request that another node forwards, at work as usual: the body's time,
    /// and the time in which a client without a heartbeat gives up its session. A poll is answered by the next
    /// heartbeat. By default 75 s.
    pub(crate) fn longest_answer(&self) -> Duration {
        self.body_timeout + self.longest_silence()
    }

    /// The longest time without a byte on the connection of a session. By default 45 s.
    pub(crate) fn longest_silence(&self) -> Duration {
        self.ping_interval + self.ping_timeout
    }

    /// How long the kernel waits for a peer that takes nothing.
    pub(crate) fn tcp_user_timeout(&self) -> Duration {
        self.write_stall_timeout.saturating_mul(USER_TIMEOUT_STALLS)
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

/// Most connections that may be closing at a time to make room for others. For a moment, this many more file
/// descriptors may be open than the limits allow.
pub const MAX_LEAVING: usize = 64;

/// Connections of an address for each one that closes at a time: an address with 16 loses one, an address with 1,024
/// loses 64. So the search for the oldest costs each new connection 16 checks.
pub(crate) const LEAVING_PER_ADDRESS: usize = 16;

/// Bytes of a request's headers, and of a TLS handshake, that are read at a time. At most this many bytes of the next
/// request are read while a request is in progress. hyper's buffer grows when a read fills it, so it stays at 8 KiB for
/// requests whose headers fit.
pub(crate) const SMALL_READ: usize = 4 * 1024;

/// Smallest size of hyper's buffer.
pub(crate) const MIN_HEADER_BYTES: usize = 8 * 1024;

/// Size of the shortest header that counts, with its name, colon and line end: this many bytes of
/// [`Config::max_header_bytes`] allow one header. By default 2,048 headers; a request through several proxies has 50.
/// hyper's own default is 100.
pub(crate) const SHORT_HEADER: usize = 16;

/// Most bytes of one of the [`Config::kept_headers`], held for as long as the connection: a token of 16 KiB, and the
/// name of its scheme.
pub(crate) const MAX_KEPT_HEADER_BYTES: usize = 17 * 1024;

/// Burst of a client address's new connections, in seconds of its rate: all its clients, after a restart.
pub(crate) const CONNECTION_BURST_SECONDS: u32 = 10;

/// Burst of a session's requests, and of a connection's messages, in seconds of the rate: the backlog after a network
/// outage.
pub(crate) const BURST_SECONDS: u32 = 10;

/// Size up to which an unfinished message is always allowed, however much other clients hold: ten usual events. 20,000
/// such messages are 80 MB.
pub(crate) const SMALL_UNFINISHED: usize = 4 * 1024;

/// Bytes that are always allowed to be queued for a client or may not have arrived, however much other clients hold:
/// forty answers.
pub(crate) const SMALL_UNARRIVED: usize = 4 * 1024;

/// Step in bytes for the count of events that may not have arrived: a few answers each.
pub(crate) const REMEMBERED_STEP: usize = 512;

/// Bytes that a queued frame takes in addition to its text: the frame itself, its counts, its entry in the outbox.
pub(crate) const FRAME_OVERHEAD: usize = 80;

/// Rooms that a socket may always join, however many rooms others are in: its user's room, and those of a page.
pub(crate) const FEW_ROOMS: usize = 8;

/// Divisor for the share of one address in [`Config::max_unfinished_bytes`], [`Config::max_unarrived_bytes`] and
/// [`Config::max_rooms`]. The share is a quarter: sixteen of the largest messages by default.
pub(crate) const ADDRESS_SHARE: usize = 4;

/// Bytes that a queued event takes in addition to its text, including its handler's future.
pub(crate) const EVENT_OVERHEAD: usize = 256;

/// Most events of a socket that are handled concurrently, if their handler [allows
/// it](crate::Namespace::on_overlapping). A thousand of them then take some thirty turns of the service that answers
/// them.
pub(crate) const MAX_OVERLAPPING: usize = 32;

/// Multiple of [`Config::outbox_hard_limit`] that the queued answers to such events may reach, since the client has
/// asked for them: 128 KiB each by default.
pub(crate) const LARGEST_ANSWERS: usize = 4;

/// Multiple of [`Config::write_stall_timeout`] after which the kernel ends a TCP connection whose peer takes nothing
/// (`TCP_USER_TIMEOUT`). It is for data that the engine does not see, such as an answer over plain HTTP. It is two, so
/// that a WebSocket ends by its own timer, which reports the reason.
pub(crate) const USER_TIMEOUT_STALLS: u32 = 2;

/// How long another node may take to accept a connection for a forwarded request. Nodes are in one network, where it
/// takes a millisecond. A client that waits longer does better with a new session.
pub(crate) const FORWARD_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest buffer of a forwarded request's connection, on the node that forwards. It is for the head of the answer; the
/// body is passed on as it arrives.
pub(crate) const FORWARD_BUFFER: usize = 16 * 1024;

/// How long another node may take to send the head of a request that it forwards. It sends the head together with the
/// start of the connection; only a node that can't keep up needs seconds. It is shorter than
/// [`Config::header_timeout`], because a shutdown waits for such a connection.
pub(crate) const NODE_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Most shards: one byte of a session's id names its shard.
pub(crate) const MAX_SHARDS: usize = 256;

/// Shortest delay between a namespace's greeting and the next heartbeat, if there is recovery. The longest delay is
/// twice that. It is late enough for most clients to have upgraded and joined their rooms.
pub(crate) const FIRST_HEARTBEAT: Duration = Duration::from_millis(200);

/// Average time per second that a connection's messages may take on its shard. A message that takes longer than its
/// share, by [`Config::event_rate_per_socket`], counts as several. By default a share is 70 µs, ten times the cost of
/// an event.
pub(crate) const WORK_PER_SECOND: Duration = Duration::from_millis(70);

/// A message counts as at most a tenth of the messages allowed each second, however long it takes.
pub(crate) const LONGEST_WORK_SHARE: u32 = 10;

/// How long a connection handles its client's messages before others get their turn: some tens of events.
pub(crate) const SLICE: Duration = Duration::from_micros(200);

/// How far a client may be ahead of its rate for its messages to be handled at once: by default 100 events, more than a
/// page sends when it opens. The messages of a client further ahead wait for a turn.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);

/// How long turns are given to the connections and tasks in the queue before others get theirs: some ten slices.
pub(crate) const TURN: Duration = Duration::from_millis(2);

/// Rooms of a socket from which on the end of the socket waits for a turn, if the client has hung up. Leaving the rooms
/// and remembering them takes a microsecond for each.
pub(crate) const MANY_ROOMS: usize = 64;

/// Bytes read from a WebSocket at a time, into a buffer that the shard's connections share. A default loopback or LAN
/// socket has at most 64 KiB ready at once.
pub(crate) const READ_BUFFER: usize = 64 * 1024;

/// Reads of one connection before others get their turn.
pub(crate) const READS_PER_TURN: usize = 4;

/// How long one flush turn writes to connections before other tasks get their turn. A longer turn would save little: a
/// turn ends with a poll of the sockets, which takes a microsecond or two.
pub(crate) const FLUSH_TURN: Duration = Duration::from_millis(1);

/// Connections that a flush turn writes to between two checks of the clock.
pub(crate) const FLUSHES_PER_LOOK: usize = 8;

/// Most bytes of several frames that are copied together for one write. More bytes are passed to the kernel in separate
/// pieces.
pub(crate) const SMALL_WRITE: usize = 512;

/// Multiple of [`Config::outbox_hard_limit`] that a replay, or events that are larger than the limit by themselves, may
/// reach in a client's outbox. Their broadcasts belong to the history, which is bounded, and are not copies. A client
/// would hardly ever receive more than that in one piece.
pub(crate) const LARGEST_WAIT: usize = 16;

/// The longest time for which a client is sent nothing because its changed session is being saved. After it, the client
/// is served, although its session may come back as it was before the change, if the server is killed then.
pub const SAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Interval and number of the checks that a reconnecting client makes while many bytes are queued for others. It waits
/// for a second at most.
pub(crate) const CROWDED_PAUSE: Duration = Duration::from_millis(20);
pub(crate) const CROWDED_PAUSES: usize = 50;

/// Sessions of one address that a shard reads from the keeper at a time. The keeper handles some of them while others
/// are in transit, so that it is never idle.
pub(crate) const READS_PER_ADDRESS: usize = 8;

/// Bytes of an ack that cost as much as an event. An event with a larger ack counts as several.
pub(crate) const ANSWER_PER_MESSAGE: usize = 1024;

/// Most missed broadcasts of a client that reconnects. Their replay takes half a microsecond each, without a break,
/// since nothing may come in between. So this number takes 10 ms. It is two minutes of 160 broadcasts a second.
pub(crate) const MOST_MISSED: usize = 20_000;

/// Most frames in one vectored write. Linux allows 1,024; past 64 the call itself is no longer the main cost.
pub(crate) const FRAMES_PER_WRITE: usize = 64;

/// Largest body of one polling response. The remaining packets wait for the next poll.
pub(crate) const POLL_RESPONSE_LIMIT: usize = 1024 * 1024;

/// Bytes queued for a client's next poll at which the client counts as slow: some tens of events, more than arrive in a
/// round trip.
pub(crate) const SLOW_POLL_BYTES: usize = 16 * 1024;

/// Most packets in one polling response. python-engineio takes a response with more for an attack, and gives up.
pub(crate) const POLL_RESPONSE_PACKETS: usize = 16;

/// Most bytes that a client may send before its TLS handshake is done. A ClientHello has 300 to 600 bytes, 1,800 with a
/// post-quantum key, and our session tickets add 250. rustls would hold 64 KiB of a ClientHello.
pub(crate) const MAX_TLS_HANDSHAKE_BYTES: usize = 8 * 1024;

/// Most bytes of a TLS connection that are encrypted and not yet taken by the kernel: one record, the most that is
/// encrypted at a time. Only its few bytes of overhead come on top of the outbox, since the record counts as queued.
pub(crate) const TLS_BUFFER: usize = 16 * 1024;

/// The protocol offered by ALPN. The server speaks no other.
pub(crate) const TLS_PROTOCOL: &[u8] = b"http/1.1";

/// While a WebSocket probe is under way, polls are answered at this pace, so that the client can pause polling
/// (Node's server does the same).
pub(crate) const PROBE_NOOP_INTERVAL: Duration = Duration::from_millis(100);

/// How long a closed WebSocket connection is still read, so that the kernel does not answer unread bytes with a reset
/// that overtakes our last frames. The end of a TLS stream may take as long.
pub(crate) const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// How long a client's HTTP connection is still read if its request was answered before all of it had arrived. The
/// first is the longest pause between bytes. The second is the longest time in total. They are nginx's
/// `lingering_timeout` and `lingering_time`.
pub(crate) const HTTP_LINGER_SILENCE: Duration = Duration::from_secs(5);
pub(crate) const HTTP_LINGER: Duration = Duration::from_secs(30);

/// Most bytes that are then read from the connection. This is more than Linux holds of the data in transit, 6 MiB. A
/// client that sends more does not read its answer.
pub(crate) const CLOSE_LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Most closed polling sessions, for each shard, whose last packets wait for one more poll.
pub(crate) const MAX_FAREWELLS: usize = 1024;

/// Settings and limits of connection state recovery; see [`Config::recovery`](crate::Config::recovery).
///
/// If a client's handlers can't take the additional argument of every event, the client declines with `recovery: false`
/// in its `auth` object. (Handlers of python-socketio have to be written for that argument.)
#[derive(Clone)]
pub struct Recovery {
    /// How long a client may be away. Default 2 minutes, as in Node's server. With zero, no session is recovered, and
    /// clients notice nothing. Broadcasts still have their positions, and are remembered for a few seconds, for
    /// [`Socket::newest_in`](crate::Socket::newest_in).
    pub window: Duration,
    /// The limit of remembered broadcasts, in bytes. Above it, the oldest are evicted, and clients that missed them are
    /// not recovered. Default 64 MiB.
    pub max_bytes: usize,
    /// The same limit for broadcasts of which only the newest is needed
    /// ([`Broadcast::latest`](crate::Broadcast::latest)). It is separate, so that they never evict other broadcasts.
    /// Default 16 MiB.
    pub max_latest_bytes: usize,
    /// The limit of remembered events emitted to one socket alone, in bytes. They are remembered until their arrival is
    /// confirmed. Default 256 KiB, as many bytes as may wait for a client that is still read from.
    pub max_direct_bytes: usize,
    /// The limit of sessions kept for clients that are away. Above it, sessions of the address with the most are
    /// evicted, if it has a 256th of a limit or more; otherwise the oldest sessions are evicted. Default
    /// 100,000.
    pub max_sessions: usize,
    /// The limit of the bytes of those sessions: their rooms, their data, and the events emitted to them alone. Above
    /// it, the same sessions are evicted. Default 64 MiB: 600 bytes for each session of the maximum number.
    pub max_session_bytes: usize,
    /// The first broadcast gets a higher offset than this. Offsets never decrease: a server that takes over the
    /// sessions of an earlier one continues after its offsets. Default: the microseconds since 1970.
    pub after: Option<Position>,
    /// The key that distinguishes socket ids from other names. A server that takes over sessions must recognize their
    /// ids. Default: random.
    pub id_key: Option<[u8; 16]>,
    /// The keeper of sessions across the end of the process. Default: none.
    pub keeper: Option<Arc<dyn SessionKeeper>>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(120),
            max_bytes: 64 * 1024 * 1024,
            max_latest_bytes: 16 * 1024 * 1024,
            max_direct_bytes: 256 * 1024,
            max_sessions: 100_000,
            max_session_bytes: 64 * 1024 * 1024,
            after: None,
            id_key: None,
            keeper: None,
        }
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("window", &self.window).finish_non_exhaustive()
    }
}
