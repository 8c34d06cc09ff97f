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

/// Most items of one batch. At 1,000 bytes each it fills the default payload limit.
pub const MAX_BATCH_ITEMS: usize = 1_000;

/// Longest `Idempotency-Key` in bytes: seven UUIDs, and what the services that made the header known allow.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// How long an idempotency key is remembered. Publishers retry for minutes; a day covers a broken night.
pub const IDEMPOTENCY_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a request's body may take. The engine bounds the headers; 1 MB in 30 s is 35 KiB/s.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Media items kept in memory, the longest without news leaving first. With 1 KiB of state each, 100 MiB.
pub const MAX_MEDIA_ITEMS: usize = 100_000;

/// Bytes of media states kept in memory, so that large metadata can't multiply with [`MAX_MEDIA_ITEMS`].
pub const MAX_MEDIA_BYTES: usize = 128 * 1024 * 1024;

/// Notifications kept in memory for one user: ten pages of a bell menu.
pub const MAX_NOTIFICATIONS_PER_USER: usize = 200;

/// Bytes of notifications kept in memory for all users; the oldest leave first.
pub const MAX_NOTIFICATION_BYTES: usize = 128 * 1024 * 1024;

/// Notifications in one answer when the request names no number, and at most.
pub const NOTIFICATIONS_PAGE: usize = 20;
/// See [`NOTIFICATIONS_PAGE`].
pub const MAX_NOTIFICATIONS_PAGE: usize = 100;

/// An expiry further off than this is looked at again on the way: the timer runs on a clock that does not follow
/// corrections of the system's time.
pub const EXPIRY_RECHECK: Duration = Duration::from_secs(60 * 60);
