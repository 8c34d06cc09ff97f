//! Every default and limit of the product, each with the reason for its size.
//!
//! The values that an operator may change are settings (see [`crate::config`]). The settings take their defaults from
//! here.

/// `serve` is for deployments, where the clients are on other machines.
pub const HOST_SERVE: &str = "0.0.0.0";
/// `dev` prints its secrets, so only this machine may reach it.
pub const HOST_DEV: &str = "127.0.0.1";
/// The port that the contract's examples connect to.
pub const PORT: &str = "3000";
/// In the working directory, so that a first run needs no privileges.
pub const DATA_DIR: &str = "./data";
/// Only the server's own origin, until the operator names others.
pub const CORS_ORIGIN_SERVE: &str = "";
/// Front-end tooling serves pages from any port of this machine, and `file:` pages have the origin `null`.
pub const CORS_ORIGIN_DEV: &str = "*";
/// The contract lets a client authenticate after connecting.
pub const AUTH_REQUIRED: &str = "false";
/// One line for each start, stop and fault; nothing for each connection.
pub const LOG_LEVEL: &str = "info";
/// For people; log collectors need `json`.
pub const LOG_FORMAT: &str = "text";
/// A line for each request is useful only in an investigation. The proxy in front has such a log, and so has
/// `LOG_LEVEL=debug`.
pub const ACCESS_LOG: &str = "false";
/// As in every Socket.IO server: pages have `<script src="/socket.io/socket.io.js">`.
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
/// Orchestrators kill a process after 30 s; a third of that leaves time for the last commit.
pub const SHUTDOWN_GRACE_MS: &str = "10000";

/// 256 KiB: some 1,000 queued events of 250 bytes. Above it the server stops reading from the client, so that the
/// client can't pile up its own replies.
pub const OUTBOX_SOFT_BYTES: &str = "262144";
/// 1 MiB: four times the limit that stops reading, since the answers to events already read are added. Above it the
/// connection is closed.
pub const OUTBOX_HARD_BYTES: &str = "1048576";
/// Longer than the pause of a laptop's Wi-Fi scan, shorter than a ping interval and its timeout.
pub const WRITE_STALL_MS: &str = "15000";
/// The system's default: Linux lets a connection's buffer grow up to 4 MB (`net.ipv4.tcp_wmem`) if its client is fast
/// and far away.
pub const SEND_BUFFER_BYTES: &str = "0";
/// Only the operator knows how long a job may be silent.
pub const MEDIA_STALL_MS: &str = "0";
/// A busy editor has tens of projects open; at 48 bytes of name each, 1,000 rooms cost a socket under 100 KiB.
pub const MAX_ROOMS_PER_SOCKET: &str = "1000";
/// In seconds. The issuer's clock is as correct as the server's: a token ends at its stated time.
pub const JWT_LEEWAY_SECONDS: &str = "0";
/// A year, in days: no session should last longer.
pub const JWT_MAX_LIFETIME_DAYS: &str = "365";
/// The usual value in clients of issuers: forged key ids cost the issuer two requests a minute at most.
pub const JWKS_COOLDOWN_MS: &str = "30000";
/// 10 minutes: the longest time that a key withdrawn by the issuer is still accepted, while the issuer answers.
pub const JWKS_MAX_AGE_MS: &str = "600000";
/// The contract does not have this warning. An operator who wants it sets the time.
pub const TOKEN_EXPIRING_NOTICE_MS: &str = "0";
/// At 3 KiB for an idle connection, 300 MB. If the system's limit on open files is lower, that limit applies.
pub const MAX_CONNECTIONS: &str = "100000";
/// A few hundred publishers and proxies, health checks, and as many requests of polling clients.
pub const MAX_HTTP_CONNECTIONS: &str = "1024";
/// One address may have a fifth of all connections, so that it can't take all of them. The honest clients behind one
/// address are those of a company or a carrier's network, which are fewer. A load balancer must be named in
/// `TRUSTED_PROXIES`.
pub const ADDRESSES_THAT_FILL: u64 = 5;
/// At 60 µs of work each, 2,000 a second are 12 % of a core. The burst lets all clients of a full address reconnect
/// after a restart.
pub const CONNECTION_RATE_PER_ADDRESS: &str = "2000";
/// At 11 to 21 KiB each, 210 MB at most (measured: 2,000 connections that are silent, idle, or have sent 4 KiB of a
/// request). 100,000 clients that reconnect at once are admitted in ten rounds.
pub const MAX_HANDSHAKES: &str = "10000";
/// One address may have half of all, so that others get in. 2,000 long-polling clients that connect at once make 4,000
/// requests.
pub const ADDRESSES_THAT_HANDSHAKE: u64 = 2;
/// The server has a host name of its own, as in the contract's examples, unless the operator sets a prefix.
pub const BASE_PATH: &str = "";
/// A token of 16 KiB in `Authorization`, and as much again for cookies and the headers of proxies.
pub const MAX_HEADER_BYTES: &str = "32768";
/// A request's headers fit in one or two packets, which arrive within some round trips even on a bad mobile network.
pub const HEADER_TIMEOUT_MS: &str = "10000";
/// Load balancers and nginx keep a connection idle for 60 s, and should be the side that closes it. A worker that
/// publishes every minute keeps its connection.
pub const KEEP_ALIVE_TIMEOUT_MS: &str = "75000";
/// The largest body in 30 s is 35 KB/s.
pub const BODY_TIMEOUT_MS: &str = "30000";
/// A client that polls and posts in turn over a round trip of 20 ms makes 100 requests a second.
pub const REQUEST_RATE_PER_SESSION: &str = "100";
/// At 7 µs each, 1,000 a second are a hundredth of a core; a page that tracks a pointer sends 60.
pub const EVENT_RATE_PER_SOCKET: &str = "1000";
/// Five busy tabs.
pub const EVENT_RATE_PER_USER: &str = "5000";
/// No event of the contract has an attachment; a page that sends a form with its pictures has tens.
pub const MAX_ATTACHMENTS: &str = "64";
/// The maximum depth of the parsers in the handlers and in other clients.
pub const MAX_JSON_DEPTH: &str = "127";
/// The contract's server requests no acks. A handler of this server requests far fewer at once.
pub const MAX_PENDING_ACKS: &str = "1000";
/// 64 MiB for each shard: sixty of the largest messages in transit at once.
pub const MAX_UNFINISHED_BYTES: &str = "67108864";
/// 256 MiB for each shard: a thousand clients, each with `OUTBOX_SOFT_BYTES` waiting, after which a client is not read.
pub const MAX_UNARRIVED_BYTES: &str = "268435456";
/// For each shard: ten rooms for each of 100,000 connections, at 310 to 850 bytes each.
pub const MAX_ROOMS: &str = "1000000";
/// About the number that the store commits in groups on one slow core; more would only wait there. One item of a batch
/// is one publish.
pub const PUBLISH_RATE_PER_KEY: &str = "10000";
/// A person mistypes twice. A faulty client that retries in a loop is disconnected, and so is an attacker who guesses.
pub const AUTH_FAILURE_LIMIT: &str = "10";
/// At 210 bytes for a key and its receipt, 420 MB; with large batches only, 1.1 GB. That is 23 keys a second, day and
/// night.
pub const MAX_IDEMPOTENCY_KEYS: &str = "2000000";
/// A quarter of all, so that one publisher can't take all of them: 6 keys a second, day and night.
pub const MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER: &str = "500000";
/// A day, in hours: it covers a night in which a client sleeps. After a longer time the page is loaded anew.
pub const LOG_RETENTION_HOURS: &str = "24";
/// 256 MiB: half a million events of 500 bytes, or six events a second for a day.
pub const LOG_MAX_BYTES: &str = "268435456";
/// In days. A page opened within a month of the last event shows the result.
pub const MEDIA_RETENTION_DAYS: &str = "30";
/// A season, in days: a user who was away longer does not scroll back.
pub const NOTIFICATION_RETENTION_DAYS: &str = "90";
/// A publish confirmed to its publisher must survive, whatever happens to the machine. A group of publishes shares the
/// cost.
pub const STORE_SYNC: &str = "full";
/// Whatever a publisher's key may send: an operator who switches the emitters on trusts who can write to Redis.
pub const EMITTER_EVENTS: &str = "/:*,/media:*,/notifications:*";
/// The product's name.
pub const REDIS_PREFIX: &str = "slop";

/// One Redis without replicas.
pub const REDIS_WAIT: &str = "0";
/// More replicas than a studio has.
pub const MAX_REDIS_REPLICAS: u64 = 100;
/// The longest prefix: a namespace, a room and an id stand behind it in each name.
pub const MAX_REDIS_PREFIX_BYTES: usize = 64;
/// 256 bits, as many as the keys that are derived from it.
pub const LEAST_CLUSTER_SECRET_BYTES: usize = 32;
/// The longest retention, in days: a century, so that no sum overflows.
pub const MAX_RETENTION_DAYS: u64 = 36_500;
/// The longest time a browser's timer can hold (2^31 - 1 ms). The stock client waits for
/// `pingInterval + pingTimeout`; past this its timer fires at once and it disconnects in a loop.
pub const MAX_TIMER_MS: u64 = 2_147_483_647;
/// The largest payload limit: the WebSocket decoder holds one whole message per connection.
pub const MAX_PAYLOAD_LIMIT_BYTES: u64 = 1 << 30;
/// The bytes in transit on a 10 Gbit/s path of 200 ms. The system may give less (`net.core.wmem_max`).
pub const MAX_SEND_BUFFER_BYTES: u64 = 256 * 1024 * 1024;
/// The engine's maximum depth.
pub const MAX_JSON_DEPTH_LIMIT: u64 = 127;
/// The largest rate, so that ten seconds' worth still fits in its integer: a million a second is more than a machine
/// can do.
pub const MAX_RATE: u64 = 1_000_000;
/// The engine identifies a session's shard by one byte.
pub const MAX_SHARDS: u64 = 256;
/// RFC 7518 §3.2 requires an HMAC key no shorter than the hash; 32 bytes suit HS256. A shorter secret causes a warning.
pub const RECOMMENDED_SECRET_BYTES: usize = 32;
/// The largest permitted clock difference, in seconds: an hour, as after a wrong change of the time zone.
pub const MAX_LEEWAY_SECONDS: u64 = 3_600;
/// 128 bits in hexadecimal, which can't be guessed. A shorter key causes a warning.
pub const RECOMMENDED_KEY_BYTES: usize = 32;
