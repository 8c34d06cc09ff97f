//! Limits of the product that no setting changes, each with the reason for its size. The settings' defaults are in
//! [`crate::config::defaults`], the engine's limits in `socketio_server::Config`.

use std::time::Duration;

/// Longest room name and media id in bytes (READINGS, "Rooms"): three UUIDs and their separators.
pub const MAX_NAME_BYTES: usize = 128;

/// Longest name of an event that a publisher sends to a room, in bytes: as for rooms.
pub const MAX_EVENT_NAME_BYTES: usize = 128;

/// Deepest nesting of a publisher's JSON. The protocol has the same limit for clients. The parsers of browsers and of
/// Python (1,000 frames of recursion) accept it with room to spare.
pub const MAX_JSON_DEPTH: usize = 128;

/// Most members of a publish object. The largest of our bodies has eight; a larger object is not one of ours.
pub const MAX_BODY_MEMBERS: usize = 64;

/// A publisher's body up to this size is exempt from the limit on the bytes of all unfinished bodies, as small messages
/// of clients are in the engine: most publishes are smaller.
pub const SMALL_BODY_BYTES: usize = 4096;

/// Most items of one batch. At 1,000 bytes each it fills the default payload limit.
pub const MAX_BATCH_ITEMS: usize = 1_000;

/// Longest `Idempotency-Key` in bytes: seven UUIDs, and the limit of the services that made the header known.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// How long an idempotency key is remembered. Publishers retry for minutes; a day covers an outage of a night.
pub const IDEMPOTENCY_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Items of a batch that count as one idempotency key. Measured: a batch takes 54 bytes for each item. A key of 36
/// bytes takes 210 bytes with its receipt and its entries in the indexes.
pub const BATCH_ITEMS_PER_KEY: usize = 10;

/// The burst of a user's events, and of a publisher's publishes, in seconds of the rate: the backlog of a network
/// outage, or one batch after another.
pub const BURST_SECONDS: u32 = 10;

/// File descriptors reserved for everything but connections: the store, its journal, the log, signals, the issuer's
/// keys. Counted: 15 in a running server, and some more during a change of files.
pub const SPARE_FILES: u64 = 64;

/// File descriptors of each shard. Counted: 4, for its runtime.
pub const FILES_PER_SHARD: u64 = 4;

/// Minimum number of connections of clients, and of other connections, for the server to start: a page or two, and an
/// operator.
pub const FEWEST_CONNECTIONS: u64 = 32;

/// Media items kept; the item with the longest time without news is evicted first. A studio of 1,000 users with 10
/// items a day has 300,000 in the 30 days of their retention.
pub const MAX_MEDIA_ITEMS: u64 = 500_000;

/// Bytes of media states kept, so that large metadata cannot multiply with [`MAX_MEDIA_ITEMS`].
pub const MAX_MEDIA_BYTES: u64 = 512 * 1024 * 1024;

/// Notifications kept for one user: ten pages of a bell menu.
pub const MAX_NOTIFICATIONS_PER_USER: usize = 200;

/// Bytes of notifications kept for all users; the oldest are evicted first. At 500 bytes each, a million.
pub const MAX_NOTIFICATION_BYTES: u64 = 512 * 1024 * 1024;

/// Sessions kept for recovery: three namespaces of 60,000 clients. At 600 bytes each, 120 MB.
pub const MAX_SESSIONS: u64 = 200_000;

/// Bytes of sessions kept, so that sessions in very many rooms cannot multiply with [`MAX_SESSIONS`].
pub const MAX_SESSION_BYTES: u64 = 256 * 1024 * 1024;

/// Retention of a session after its last save. A session is saved when its rooms or its identity change, so this covers
/// a page that was open and quiet for a week. A session that ended is removed at once.
pub const SESSION_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A write to the journal that takes longer than this is slow. It normally takes microseconds; a slower one had to wait
/// for the disk. Shards also write, while the store's thread commits nothing.
pub const SLOW_WRITE: Duration = Duration::from_millis(10);

/// How long, after a slow write, only the store's own thread writes to the journal: a shard waits for a slow disk at
/// most once in this time.
pub const SLOW_WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Maximum number of sessions with unwritten changes, for each of two lists of 7 MB. As many sessions are kept, so that
/// no number of clients that change their sessions fills a list. Beyond it, the next process recovers no session.
pub const UNSAVED_SESSIONS: usize = MAX_SESSIONS as usize;

/// How often the server records that it is alive. If the server was killed, a client may have been away for this much
/// longer than the recovery window.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of the journal: as much as the engine keeps in memory for recovery. That is 64 MiB of room events, and 16 MiB
/// of events of which only the newest matters.
pub const JOURNAL_BYTES: u64 = 80 * 1024 * 1024;

/// Bytes of a file of the journal, unless one group is larger: a twentieth, because a file is removed as a whole. The
/// file that is being written counts as memory of the process.
pub const JOURNAL_SEGMENT_BYTES: usize = 4 * 1024 * 1024;

/// Minimum growth of a file of the journal in bytes: one `write` for some two hundred events.
pub const JOURNAL_GROWTH_BYTES: usize = 64 * 1024;

/// Bytes of a row besides its payload: ids, names, and its entries in the indexes. Measured: 150 to 300 bytes.
pub const ROW_OVERHEAD_BYTES: u64 = 256;

/// Requests that may wait for the store: the largest batches of sixteen publishers at once. Beyond it, a publisher is
/// asked to retry later. With a disk that takes 100 ms for a group, a full queue is empty after three seconds.
pub const STORE_QUEUE_REQUESTS: usize = 16_384;

/// The part of these for requests of clients, which no publisher waits for: subscriptions, inboxes, pages of
/// notifications and read marks. A quarter, so that clients cannot fill the queue for publishers.
pub const STORE_QUEUE_CLIENT_REQUESTS: usize = STORE_QUEUE_REQUESTS / 4;

/// Bytes of requests that may wait for the store, so that large payloads cannot multiply with [`STORE_QUEUE_REQUESTS`].
pub const STORE_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Most requests that are committed together. At some 20 µs each, the first waits for 10 ms of work.
pub const GROUP_REQUESTS: usize = 512;

/// Bytes after which no more requests are committed together: about the size of a checkpoint.
pub const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// How long sessions and similar writes wait for others before they are written, if the store has no other work and
/// fewer than [`LAZY_SESSIONS`] wait. A client that connects changes its session with each answer: it joins rooms and
/// subscribes. Most of these changes are written together. A killed process loses the writes of this time, and the
/// sessions are not recovered.
pub const LAZY_WRITES_AFTER: Duration = Duration::from_millis(50);

/// How long these writes, and the search for expired rows, wait after a failed commit: a full disk costs no processor
/// time.
pub const LAZY_WRITES_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Maximum number of sessions, and of users' inboxes, that wait to be written. As many may be kept; more are dropped
/// and counted.
pub const LAZY_WRITES: usize = 200_000;

/// Sessions that are written with one group: as many as the group's requests.
pub const LAZY_SESSIONS: usize = 512;

/// Bytes of sessions after which no more sessions are written with one group: a quarter of the bytes of the group's
/// requests, and seven sessions in 1,000 rooms with the longest names.
pub const LAZY_BYTES: usize = 1024 * 1024;

/// How often the store checks that its files are still in place. A check is two system calls. Until a check finds the
/// files missing, the answer to publishers says that their events are stored.
pub const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the store looks for expired rows: retention is a matter of hours.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// Time until the next look, if there were more rows than one look removes.
pub const RETENTION_AGAIN: Duration = Duration::from_millis(50);

/// Rows of a kind that are removed at once: some milliseconds in which no publish is committed. Twice the requests of
/// the group are added, so that more rows leave than arrive.
pub const RETENTION_ROWS: usize = 256;

/// Bytes of events that are replayed to one socket: the default limit of a client's outbox. More would close its
/// connection.
pub const MAX_REPLAY_BYTES: usize = 1024 * 1024;

/// Number of clients whose replays are read at the same time, when they come back for sessions from before a restart.
/// Other clients wait in order of arrival. The events that were read for one client and not yet sent are at most
/// [`MAX_REPLAY_BYTES`], so 32 MiB in total.
pub const RECALLS: usize = 32;

/// How long the store reads replays between two of its turns, unless the last turn took more than four times as long. A
/// waiting commit takes a millisecond more. A disk that takes 100 ms for each commit leaves a fifth of the time to
/// replays.
pub const RECALL_SLICE: Duration = Duration::from_millis(1);

/// The same after the slowest turns: a disk that hung for ten seconds is no reason to delay a commit by two more.
pub const RECALL_SLICE_AT_MOST: Duration = Duration::from_millis(25);

/// Logged events that are read to find the rooms with missed events; no more than the number of rooms. A read is a step
/// to the next row, while a search for the events of one room takes two searches of an index. If more events were
/// logged, that search is done for each room.
pub const REPLAY_LOOK_AHEAD: usize = 1_024;

/// Default number of notifications in one answer.
pub const NOTIFICATIONS_PAGE: usize = 20;
/// Maximum number of notifications in one answer. See [`NOTIFICATIONS_PAGE`].
pub const MAX_NOTIFICATIONS_PAGE: usize = 100;

/// Bytes of notifications in one answer, unless the first alone is larger; the next page continues from there. A
/// hundred usual notifications are a quarter of it. It is three quarters of the outbox size at which the server stops
/// reading from a client.
pub const MAX_NOTIFICATIONS_PAGE_BYTES: usize = 192 * 1024;

/// Pending notifications of a user that are sent at once; the next ones follow when these have arrived.
pub const INBOX_BATCH: usize = 100;

/// Bytes after which such a batch ends, if it has at least one notification. Half of the engine's default memory for
/// events to one socket alone, and an eighth of the outbox limit of a client.
pub const INBOX_BATCH_BYTES: usize = 128 * 1024;

/// Maximum wait of a socket after the store could not give its user's inbox; half of it is the minimum. By then, a full
/// queue is half empty.
pub const INBOX_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The same after several failures: each failure doubles the wait up to this. If a disk was full for an hour, 10,000
/// sockets ask at most 500 times a second.
pub const INBOX_AGAIN_AT_LATEST: Duration = Duration::from_secs(30);

/// Notifications that one `markNotificationsRead` may name: as many as a user can have.
pub const MAX_IDS_PER_MARK: usize = MAX_NOTIFICATIONS_PER_USER;

/// Longest `jti` by which a token can be revoked, in bytes: a UUID has 36, and issuers that hash use at most 88.
pub const MAX_TOKEN_ID_BYTES: usize = 256;

/// Revocations kept. At some 120 bytes each in memory, 60 MB: every user of a studio of 100,000, and four logouts of
/// each within the life of a token. They stay for as long as there is room. Then the revocations that are over by the
/// settings in force are evicted. If there are none, a new revocation is refused: otherwise a token of the oldest one
/// would be valid again.
pub const MAX_REVOCATIONS: u64 = 500_000;

/// Longest claim `iss` that is stored with an identity, in bytes, so that a session can be checked against `JWT_ISSUER`
/// without its token. It is longer than any URL that names an issuer. A longer claim is stored only if `JWT_ISSUER`
/// names it.
pub const MAX_ISSUER_BYTES: usize = 1024;

/// Bytes of the texts of a claim `aud` that are stored with an identity, for `JWT_AUDIENCE`: 20 services by their URLs.
/// If the texts take more, those that `JWT_AUDIENCE` names are stored first.
pub const MAX_AUDIENCE_BYTES: usize = 1024;

/// Longest key id of a token that is stored with an identity, in bytes: twice a SHA-512 in hexadecimal. A longer key id
/// is stored as its hash.
pub const MAX_KEY_ID_BYTES: usize = 256;

/// How long an issuer may take to answer with its keys, including the body. Below `CONNECT_TIMEOUT_MS`, so that clients
/// that wait for the keys during the connect are still there.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum time between two warnings with the same reason: an attack costs the log one line a minute for each reason.
pub const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a refusal's detail that are logged: a method, a path with two ids, and a sentence.
pub const MAX_REFUSAL_DETAIL_BYTES: usize = 256;

/// Longest `X-Request-Id` that is accepted, in bytes: a UUID has 36, and the trace headers of the large load balancers
/// have under 100.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// Bytes of a path that are logged: longer than every path of the API with usual ids.
pub const MAX_LOGGED_PATH_BYTES: usize = 512;

/// Minimum time before a failed issuer is asked again without a waiting caller, if the cooldown is even shorter.
pub const JWKS_RETRY: Duration = Duration::from_secs(1);

/// Largest key set in bytes: 64 RSA keys of 4096 bits, with a certificate chain each.
pub const MAX_JWKS_BYTES: usize = 512 * 1024;

/// Most keys of a set. Issuers have two or three, of each tenant perhaps; a token without a key id is tried with all.
pub const MAX_JWKS_KEYS: usize = 64;

/// Largest file of public keys in bytes: some hundred keys.
pub const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// Remaining time below which the server warns about a certificate: automatic renewal happens with 30 days left, or at
/// the latest with a third of the life of a 45-day certificate left.
pub const CERTIFICATE_EXPIRES_SOON: Duration = Duration::from_secs(10 * 24 * 60 * 60);

/// How long browsers remember to use TLS only (`Strict-Transport-Security`): a year, as the lists of browsers require.
/// Subdomains are left to their operators.
pub const HSTS: &str = "max-age=31536000";

/// A later expiry is checked again after this time: the timer runs on a clock that does not follow corrections of the
/// system's time.
pub const EXPIRY_RECHECK: Duration = Duration::from_secs(60 * 60);

/// Longest token in bytes. A token with generous claims has 2 KiB; Node's server refuses 16 KiB of headers, so no token
/// can be longer.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longest user id in bytes. A UUID has 36 and a federated subject under 100; `user:{userId}` must stay a valid room
/// name.
pub const MAX_USER_ID_BYTES: usize = 128;
/// Longest email address in bytes. RFC 5321: 64 for the local part, `@`, 255 for the domain.
pub const MAX_EMAIL_BYTES: usize = 320;
/// Tolerated clock skew. Clocks under NTP agree within a second, and times in tokens are cut to whole seconds. It
/// applies only to `nbf` and `iat`: a token is never accepted once `exp` has passed.
pub const CLOCK_SKEW_SECONDS: u64 = 2;
/// Latest expiry: 9999-12-31T23:59:59Z, the last second that ISO 8601 writes with four digits. Later expiries (often
/// milliseconds taken for seconds) are cut to it, so that an addition to one cannot overflow.
pub const MAX_EXPIRY_SECONDS: u64 = 253_402_300_799;

/// Bytes of emitters' messages that wait, with [`EMITTER_MESSAGE_OVERHEAD_BYTES`] for each: a second's worth at 64 MiB/s, or
/// 100,000 small messages. Redis does not wait for a reader of its channels, so more messages are dropped.
pub const EMITTER_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// What a waiting message takes besides its bytes: the channel, and the entry in the queue.
pub const EMITTER_MESSAGE_OVERHEAD_BYTES: usize = 512;

/// Messages of emitters that are published together: they share a round trip to Redis.
pub const EMITTER_BATCH: usize = 64;

/// Bytes after which such a batch ends, so that the decoding of one takes less than a tenth of a second.
pub const EMITTER_BATCH_BYTES: usize = 1024 * 1024;

/// Deepest nesting of an emitter's MessagePack: [`MAX_JSON_DEPTH`], and three levels around the arguments. The decoder
/// counts each level twice.
pub const MAX_EMITTER_DEPTH: usize = 2 * (MAX_JSON_DEPTH + 3);

/// Rooms that a message of an emitter may name. More than one is refused; the limit is for the decoding.
pub const MAX_EMITTER_ROOMS: usize = 1_000;
