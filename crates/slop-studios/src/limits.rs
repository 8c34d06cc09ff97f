//! Limits of the product that no setting changes, each with the reason for its size. The settings' defaults are in
//! [`crate::defaults`], the engine's limits in `socketio_server::Config`.

use std::time::Duration;

/// Longest room name and media id in bytes (READINGS, "Rooms"): three UUIDs and their separators.
pub const MAX_NAME_BYTES: usize = 128;

/// Longest name of an event that a publisher sends to a room, in bytes: as for rooms.
pub const MAX_EVENT_NAME_BYTES: usize = 128;

/// Deepest nesting of a publisher's JSON. The same as the protocol allows clients, and what the parsers of browsers
/// and of Python (1,000 frames of recursion) take with room to spare.
pub const MAX_JSON_DEPTH: usize = 128;

/// Most members of a publish object. The largest of our bodies has eight; more is not ours.
pub const MAX_BODY_MEMBERS: usize = 64;

/// A publisher's body up to this size is let be, however much others hold, as the engine does with clients' messages: most
/// publishes are smaller.
pub const SMALL_BODY_BYTES: usize = 4096;

/// Most items of one batch. At 1,000 bytes each it fills the default payload limit.
pub const MAX_BATCH_ITEMS: usize = 1_000;

/// Longest `Idempotency-Key` in bytes: seven UUIDs, and what the services that made the header known allow.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// How long an idempotency key is remembered. Publishers retry for minutes; a day covers a broken night.
pub const IDEMPOTENCY_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Items of a batch that count as one idempotency key. Measured: a batch takes 54 bytes for each, and a key of 36 bytes 210
/// with its receipt and its entries in the indexes.
pub const BATCH_ITEMS_PER_KEY: usize = 10;

/// Seconds of a user's events, and of a publisher's publishes, that may come at once: what piled up while the network
/// was away, or one batch after another.
pub const BURST_SECONDS: u32 = 10;

/// File descriptors that are left to all but connections: the store, its journal, the log, signals, the issuer's keys. Counted:
/// 15 in a server that runs, and some more while files change.
pub const SPARE_FILES: u64 = 64;

/// File descriptors of each shard. Counted: 4, of its runtime.
pub const FILES_PER_SHARD: u64 = 4;

/// The fewest connections of clients, and the fewest others, that a server starts with: a page or two, and who looks after it.
pub const FEWEST_CONNECTIONS: u64 = 32;

/// Media items kept, the longest without news leaving first. A studio of 1,000 users with 10 items a day has 300,000 in
/// the 30 days after which they leave anyway.
pub const MAX_MEDIA_ITEMS: u64 = 500_000;

/// Bytes of media states kept, so that large metadata can't multiply with [`MAX_MEDIA_ITEMS`].
pub const MAX_MEDIA_BYTES: u64 = 512 * 1024 * 1024;

/// Notifications kept for one user: ten pages of a bell menu.
pub const MAX_NOTIFICATIONS_PER_USER: usize = 200;

/// Bytes of notifications kept for all users; the oldest leave first. At 500 bytes each, a million.
pub const MAX_NOTIFICATION_BYTES: u64 = 512 * 1024 * 1024;

/// Sessions kept for recovery: three namespaces of 60,000 clients. At 600 bytes each, 120 MB.
pub const MAX_SESSIONS: u64 = 200_000;

/// Bytes of sessions kept, so that those in very many rooms can't multiply with [`MAX_SESSIONS`].
pub const MAX_SESSION_BYTES: u64 = 256 * 1024 * 1024;

/// How long a session is kept after it was saved, which is when its rooms or its identity last changed: a page that has
/// been open and quiet for a week. One that ended is forgotten at once.
pub const SESSION_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A write to the journal normally takes microseconds; a longer one had to wait for the disk. Shards write too, while the
/// store's thread commits nothing.
pub const SLOW_WRITE: Duration = Duration::from_millis(10);

/// For how long such writes are left to the store's own thread then: a shard waits for a slow disk once in a while at most.
pub const SLOW_WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Sessions that may have changed and not be written, for each of two lists of 7 MB: as many as are kept, so that no number of
/// clients that change theirs fills it. If there are more, the next process recovers no session.
pub const UNSAVED_SESSIONS: usize = MAX_SESSIONS as usize;

/// How often the server writes down that it is alive: so much more than the window of recovery a client may have been away
/// when the server was killed.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of the journal: as much as the engine remembers in memory for clients that come back, 64 MiB of room events and 16
/// MiB of those of which the newest is enough.
pub const JOURNAL_BYTES: u64 = 80 * 1024 * 1024;

/// Bytes of a file of the journal, unless one group is larger: a twentieth, since a file is removed as a whole. The one that is
/// written counts as memory of the process.
pub const JOURNAL_SEGMENT_BYTES: usize = 4 * 1024 * 1024;

/// Bytes by which a file of the journal grows at least: a `write` for some two hundred events.
pub const JOURNAL_GROWTH_BYTES: usize = 64 * 1024;

/// What a row takes besides its payload: ids, names, and its entries in the indexes. Measured: 150 to 300 bytes.
pub const ROW_OVERHEAD_BYTES: u64 = 256;

/// Requests that may wait for the store: the largest batches of sixteen publishers at once. Past it a publisher is told to
/// try again later, which a disk that takes 100 ms for a group needs after three seconds.
pub const STORE_QUEUE_REQUESTS: usize = 16_384;

/// Of these, what clients ask and no publisher waits for: subscriptions, inboxes, pages of notifications and marks in them. A
/// quarter, so that clients can't take a publisher's place.
pub const STORE_QUEUE_QUESTIONS: usize = STORE_QUEUE_REQUESTS / 4;

/// Bytes of requests that may wait for the store, so that large payloads can't multiply with [`STORE_QUEUE_REQUESTS`].
pub const STORE_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Most requests that are committed together. At some 20 µs each, the first waits for 10 ms of work.
pub const GROUP_REQUESTS: usize = 512;

/// Bytes after which no more requests are committed together: about what a checkpoint moves.
pub const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// How long sessions and the like wait for others before they are written, if nothing else is: a crowd that connects
/// costs at most 100 commits a second, and what a killed process forgets is too recent for a client to have used.
pub const LAZY_WRITES_AFTER: Duration = Duration::from_millis(10);

/// How long they, and the search for what is too old, wait after a commit that failed: a full disk costs no processor time.
pub const LAZY_WRITES_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Most sessions, and most users' inboxes, that wait to be written. As many as may be kept; more are dropped and counted.
pub const LAZY_WRITES: usize = 200_000;

/// Sessions that are written with one group: as many as its requests.
pub const LAZY_SESSIONS: usize = 512;

/// Bytes of sessions after which no more of them are written with one group: a quarter of what its requests may have, and seven
/// sessions in 1,000 rooms with the longest names.
pub const LAZY_BYTES: usize = 1024 * 1024;

/// How often the store looks whether its files are still where they were. A look is two system calls; until one finds them
/// gone, publishers are told that their events are stored.
pub const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the store looks for what is too old: retention is a matter of hours.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(10);

/// When it looks again if there was more than it removes at once.
pub const RETENTION_AGAIN: Duration = Duration::from_millis(50);

/// Rows of a kind that are removed at once: some milliseconds, in which no publish is committed. Twice the requests of the
/// group come on top, so that more leaves than comes.
pub const RETENTION_ROWS: usize = 256;

/// Bytes of events that are replayed to one socket: what may wait for a client by default. More would close its connection.
pub const MAX_REPLAY_BYTES: usize = 1024 * 1024;

/// Clients that are read for at a time when they come back for sessions from before a restart; the others wait in the order
/// in which they came. What was read for one and not yet sent is [`MAX_REPLAY_BYTES`] at most, so 32 MiB of all.
pub const RECALLS: usize = 32;

/// How long the store reads for them between two of its turns, unless the last turn took more than four times as long: a
/// commit that waits meanwhile takes a millisecond more, and a disk that takes 100 ms for each leaves them a fifth of the time.
pub const RECALL_SLICE: Duration = Duration::from_millis(1);

/// The same after the slowest turns: a disk that hung for ten seconds is no reason to keep a commit for two more.
pub const RECALL_SLICE_AT_MOST: Duration = Duration::from_millis(25);

/// Logged events that are looked at to find the rooms in which something was missed, and no more than there are rooms. A look is
/// a step to the next row, and to look for the events of a room takes two searches of an index. If more was logged, that is
/// done for each room.
pub const REPLAY_LOOK_AHEAD: usize = 1_024;

/// Notifications in one answer when the request names no number, and at most.
pub const NOTIFICATIONS_PAGE: usize = 20;
/// See [`NOTIFICATIONS_PAGE`].
pub const MAX_NOTIFICATIONS_PAGE: usize = 100;

/// Bytes of notifications in one answer, unless the first alone is larger; the next page goes on from there. A hundred usual
/// ones are a quarter of it, and it is three quarters of what may wait for a client that is still read.
pub const MAX_NOTIFICATIONS_PAGE_BYTES: usize = 192 * 1024;

/// Notifications that waited for a user and are sent at once; the next ones follow when these have arrived.
pub const INBOX_BATCH: usize = 100;

/// Bytes after which such a batch ends, if it has one notification at least. Half of what the engine remembers by default of
/// what went to one socket alone, and an eighth of what may wait for a client.
pub const INBOX_BATCH_BYTES: usize = 128 * 1024;

/// How long a socket waits at most, and half of it at least, until its user's inbox is read again that the store could not give:
/// a queue that is full is half empty by then.
pub const INBOX_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The same when it failed several times: each doubles the wait up to this. A disk that was full for an hour is not asked by
/// 10,000 sockets more than 500 times a second.
pub const INBOX_AGAIN_AT_LATEST: Duration = Duration::from_secs(30);

/// Notifications that one `markNotificationsRead` may name: as many as a user can have.
pub const MAX_IDS_PER_MARK: usize = MAX_NOTIFICATIONS_PER_USER;

/// Longest `jti` by which a token can be revoked, in bytes: a UUID is 36, and issuers that hash take 88 at most.
pub const MAX_TOKEN_ID_BYTES: usize = 256;

/// Revocations kept. At some 120 bytes each in memory, 60 MB: every user of a studio of 100,000, and four logouts of
/// each within the life of a token. They stay for as long as there is room; then those leave that are over by the settings in
/// force. If none is, one more is refused: a token of the oldest would be valid again.
pub const MAX_REVOCATIONS: u64 = 500_000;

/// Longest claim `iss` that is kept with an identity, in bytes, so that a session can be held against `JWT_ISSUER` without its
/// token: longer than any URL that an issuer has for a name. A longer one is kept only if `JWT_ISSUER` names it.
pub const MAX_ISSUER_BYTES: usize = 1024;

/// Bytes that the texts of a claim `aud` take which is kept with an identity, for `JWT_AUDIENCE`: 20 services by their URLs. If
/// they take more, those are kept first that `JWT_AUDIENCE` names.
pub const MAX_AUDIENCE_BYTES: usize = 1024;

/// Longest key id of a token that is kept with an identity, in bytes: a SHA-512 in hexadecimal is half of it. Of a longer one
/// its hash is kept.
pub const MAX_KEY_ID_BYTES: usize = 256;

/// How long an issuer may take to answer for its keys, body and all. Below `CONNECT_TIMEOUT_MS`, so that who waits for the
/// keys to connect is still there.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long at least passes between two warnings of one reason: an attack costs the log a line a minute for each.
pub const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes that are logged of what a refusal was about: a method, a path with two ids, and a sentence.
pub const MAX_REFUSAL_DETAIL_BYTES: usize = 256;

/// Longest `X-Request-Id` that is taken over, in bytes: a UUID has 36, and the trace headers of the large balancers under 100.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// Bytes of a path that are logged: longer than every path of the API with usual ids.
pub const MAX_LOGGED_PATH_BYTES: usize = 512;

/// How soon an issuer that failed is asked again without anybody waiting, if the cooldown is shorter still.
pub const JWKS_RETRY: Duration = Duration::from_secs(1);

/// Largest key set in bytes: 64 RSA keys of 4096 bits, with a certificate chain each.
pub const MAX_JWKS_BYTES: usize = 512 * 1024;

/// Most keys of a set. Issuers have two or three, of each tenant perhaps; a token without a key id is tried with all.
pub const MAX_JWKS_KEYS: usize = 64;

/// Largest file of public keys in bytes: some hundred keys.
pub const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// A certificate with less left than this is warned about: those that renew themselves do so with 30 days left, or at the
/// latest with a third of a 45-day one's life.
pub const CERTIFICATE_EXPIRES_SOON: Duration = Duration::from_secs(10 * 24 * 60 * 60);

/// How long browsers shall remember to come over TLS only (`Strict-Transport-Security`): a year, which is what the lists of
/// browsers ask for. Subdomains are left to those who run them.
pub const HSTS: &str = "max-age=31536000";

/// An expiry further off than this is looked at again on the way: the timer runs on a clock that does not follow
/// corrections of the system's time.
pub const EXPIRY_RECHECK: Duration = Duration::from_secs(60 * 60);
