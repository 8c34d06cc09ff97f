//! Every default and limit of the product, each with the reason for its size.
//!
//! Those that an operator may change are settings (see [`crate::config`]), which take their defaults from here.

/// `serve` is for deployments, where the clients are on other machines.
pub const HOST_SERVE: &str = "0.0.0.0";
/// `dev` prints its secrets, so nobody but this machine is to reach it.
pub const HOST_DEV: &str = "127.0.0.1";
/// The port that the contract's examples connect to.
pub const PORT: &str = "3000";
/// Beside the binary's working directory, so that a first run needs no privileges.
pub const DATA_DIR: &str = "./data";
/// No other origin than the server's own until the operator names one.
pub const CORS_ORIGIN_SERVE: &str = "";
/// Front-end tooling serves pages from any port of this machine, and `file:` pages have the origin `null`.
pub const CORS_ORIGIN_DEV: &str = "*";
/// The contract lets a client authenticate after connecting.
pub const AUTH_REQUIRED: &str = "false";
/// One line for each start, stop and fault; nothing for each connection.
pub const LOG_LEVEL: &str = "info";
/// For eyes; log collectors ask for `json`.
pub const LOG_FORMAT: &str = "text";
/// A line for each request is for those who look for something: the proxy in front has one, and so has `LOG_LEVEL=debug`.
pub const ACCESS_LOG: &str = "false";
/// As every Socket.IO server does: pages have `<script src="/socket.io/socket.io.js">`.
pub const SERVE_CLIENT: &str = "true";

/// Engine.IO's own default: below the 30 s after which the stricter proxies drop an idle connection.
pub const PING_INTERVAL_MS: &str = "25000";
/// Engine.IO's own default: a phone that changes networks has time to come back.
pub const PING_TIMEOUT_MS: &str = "20000";
/// Socket.IO's own default: a page may fetch a token before it connects to a namespace.
pub const CONNECT_TIMEOUT_MS: &str = "45000";
/// Engine.IO's own default (1 MB), in bytes, on both transports.
pub const MAX_PAYLOAD_BYTES: &str = "1000000";
/// Socket.IO's own default: a train's tunnel, a laptop carried to another room, a restart of the server.
pub const RECOVERY_MS: &str = "120000";
/// Orchestrators kill after 30 s; a third of it leaves room for the final commit.
pub const SHUTDOWN_GRACE_MS: &str = "10000";

/// 256 KiB: some 1,000 waiting events of 250 bytes. Past it the client is no longer read from, so it can't
/// make its own replies pile up.
pub const OUTBOX_SOFT_BYTES: &str = "262144";
/// 1 MiB: four times what stops the reading, since answers to what was read come on top. Past it the connection is closed.
pub const OUTBOX_HARD_BYTES: &str = "1048576";
/// Longer than the pause of a laptop's Wi-Fi scan, shorter than a ping interval and its timeout.
pub const WRITE_STALL_MS: &str = "15000";
/// The system's own: Linux lets a connection's buffer grow up to 4 MB (`net.ipv4.tcp_wmem`) if its client is fast and far.
pub const SEND_BUFFER_BYTES: &str = "0";
/// Only the operator knows how long a job may be silent.
pub const MEDIA_STALL_MS: &str = "0";
/// A busy editor has tens of projects open; at 48 bytes of name each, 1,000 rooms cost a socket under 100 KiB.
pub const MAX_ROOMS_PER_SOCKET: &str = "1000";
/// The clock of the issuer is as right as ours: a token ends when it says so. In seconds.
pub const JWT_LEEWAY_SECONDS: &str = "0";
/// A year: no session is meant to be longer, and no revocation is kept for longer. In days.
pub const JWT_MAX_LIFETIME_DAYS: &str = "365";
/// What the clients of issuers have settled on: forged key ids cost the issuer two requests a minute at most.
pub const JWKS_COOLDOWN_MS: &str = "30000";
/// 10 minutes: how long a key that the issuer has withdrawn is believed at most, while the issuer answers.
pub const JWKS_MAX_AGE_MS: &str = "600000";
/// The contract does not have the warning: who wants it says how early.
pub const TOKEN_EXPIRING_NOTICE_MS: &str = "0";
/// At 3 KiB for an idle connection, 300 MB. What the system's limit of open files does not allow is not used.
pub const MAX_CONNECTIONS: &str = "100000";
/// Some hundred publishers and proxies, health checks, and as many requests of polling clients.
pub const MAX_HTTP_CONNECTIONS: &str = "1024";
/// Of one address a fifth of all, so that it can't take every place. What is honest and comes from one address is a company or a
/// carrier's network, which is smaller; a balancer is to be named in `TRUSTED_PROXIES`.
pub const ADDRESSES_THAT_FILL: u64 = 5;
/// At 60 µs of work each, 2,000 a second are 12 % of a core; the burst brings a full address back after a restart.
pub const CONNECTION_RATE_PER_ADDRESS: &str = "2000";
/// At 11 to 21 KiB each, 210 MB at most (measured: 2,000 connections that are silent, idle, or have sent 4 KiB of a request); 100,000 clients that come back at once are through in ten rounds.
pub const MAX_HANDSHAKES: &str = "10000";
/// Of one address half of all, so that others get in; and 2,000 long-polling clients that come at once make 4,000 requests.
pub const ADDRESSES_THAT_HANDSHAKE: u64 = 2;
/// The server has a name of its own, as in the contract's examples, unless the operator says otherwise.
pub const BASE_PATH: &str = "";
/// A token of 16 KiB in `Authorization`, and as much again for cookies and what proxies add.
pub const MAX_HEADER_BYTES: &str = "32768";
/// A request's headers are one packet or two, which even a bad mobile network brings within some round trips.
pub const HEADER_TIMEOUT_MS: &str = "10000";
/// Load balancers and nginx keep a connection idle for 60 s, and are to be the ones to close it; a worker that publishes every
/// minute keeps its own.
pub const KEEP_ALIVE_TIMEOUT_MS: &str = "75000";
/// The largest body in 30 s is 35 KB/s.
pub const BODY_TIMEOUT_MS: &str = "30000";
/// A client that polls and posts in turn over a round trip of 20 ms makes 100 requests a second.
pub const REQUEST_RATE_PER_SESSION: &str = "100";
/// At 7 µs each, 1,000 a second are a hundredth of a core; a page that tracks a pointer sends 60.
pub const EVENT_RATE_PER_SOCKET: &str = "1000";
/// Five busy tabs.
pub const EVENT_RATE_PER_USER: &str = "5000";
/// No event of the contract has one; a page that sends a form with its pictures has tens.
pub const MAX_ATTACHMENTS: &str = "64";
/// As deep as the parsers of the handlers and of other clients go.
pub const MAX_JSON_DEPTH: &str = "127";
/// The contract's server asks for none; what a handler of ours may ask for at once is far less.
pub const MAX_PENDING_ACKS: &str = "1000";
/// 64 MiB for each shard: sixty of the largest messages on their way at once.
pub const MAX_UNFINISHED_BYTES: &str = "67108864";
/// 256 MiB for each shard: a thousand clients with as much waiting as may before they are not read.
pub const MAX_UNARRIVED_BYTES: &str = "268435456";
/// For each shard: ten rooms each of 100,000 connections, at 310 to 850 bytes.
pub const MAX_ROOMS: &str = "1000000";
/// About what the store commits in groups on one slow core; more would only wait there. One item of a batch is one publish.
pub const PUBLISH_RATE_PER_KEY: &str = "10000";
/// A person mistypes twice; a buggy client that retries in a loop is cut off, and so is a guesser.
pub const AUTH_FAILURE_LIMIT: &str = "10";
/// At 210 bytes for a key and its receipt, 420 MB, or 1.1 GB of nothing but large batches: 23 keys a second, day and night.
pub const MAX_IDEMPOTENCY_KEYS: &str = "2000000";
/// A quarter of all, so that one publisher can't take every place: 6 keys a second, day and night.
pub const MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER: &str = "500000";
/// A day covers the night in which a client slept: past it the page is loaded anew. In hours.
pub const LOG_RETENTION_HOURS: &str = "24";
/// 256 MiB: at 500 bytes an event, half a million of them, or a day of six a second.
pub const LOG_MAX_BYTES: &str = "268435456";
/// A page that is opened within a month of the last event sees the result. In days.
pub const MEDIA_RETENTION_DAYS: &str = "30";
/// A season: who was away longer does not scroll back. In days.
pub const NOTIFICATION_RETENTION_DAYS: &str = "90";
/// What a publisher was told is kept must be, whatever happens to the machine; a group shares the cost.
pub const STORE_SYNC: &str = "full";

/// The longest retention, in days: a century, so that no sum overflows.
pub const MAX_RETENTION_DAYS: u64 = 36_500;
/// The longest time a browser's timer can hold (2^31 - 1 ms). The stock client waits for
/// `pingInterval + pingTimeout`; past this its timer fires at once and it disconnects in a loop.
pub const MAX_TIMER_MS: u64 = 2_147_483_647;
/// The largest payload limit: the WebSocket decoder holds one whole message per connection.
pub const MAX_PAYLOAD_LIMIT_BYTES: u64 = 1 << 30;
/// What a 10 Gbit/s path of 200 ms has under way. The system may give less (`net.core.wmem_max`).
pub const MAX_SEND_BUFFER_BYTES: u64 = 256 * 1024 * 1024;
/// The engine can't go deeper.
pub const MAX_JSON_DEPTH_LIMIT: u64 = 127;
/// The largest rate, so that ten seconds' worth is still a number: a million a second is more than a machine can do.
pub const MAX_RATE: u64 = 1_000_000;
/// The engine names a session's shard by one byte.
pub const MAX_SHARDS: u64 = 256;
/// RFC 7518 §3.2 asks for an HMAC key no shorter than the hash; 32 bytes suit HS256. Shorter is warned about.
pub const RECOMMENDED_SECRET_BYTES: usize = 32;
/// The most that clocks may be off by, in seconds: an hour, as after a change of the time zone that was done wrong.
pub const MAX_LEEWAY_SECONDS: u64 = 3_600;
/// 128 bits of hexadecimal, out of reach of guessing. Shorter is warned about.
pub const RECOMMENDED_KEY_BYTES: usize = 32;

/// A token with generous claims is 2 KiB; Node's server refuses 16 KiB of headers, so none can be longer.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// A UUID is 36 bytes and a federated subject under 100; `user:{userId}` must stay a valid room name.
pub const MAX_USER_ID_BYTES: usize = 128;
/// RFC 5321: 64 for the local part, `@`, 255 for the domain.
pub const MAX_EMAIL_BYTES: usize = 320;
/// Clocks under NTP agree within a second, and times in tokens are cut to whole seconds. It applies to `nbf` and
/// `iat` only: a token is never accepted once `exp` has come.
pub const CLOCK_SKEW_SECONDS: u64 = 2;
/// 9999-12-31T23:59:59Z, the last second that ISO 8601 writes with four digits. Later expiries (often milliseconds
/// taken for seconds) are cut to it, so that adding to one can't overflow.
pub const MAX_EXPIRY_SECONDS: u64 = 253_402_300_799;
