//! What the server remembers: the state of media items, notifications, durable events, sessions, and receipts by
//! idempotency key.
//!
//! [`Store`] says what every implementation promises. [`sqlite`] keeps everything in a file; [`media`] has the life rules
//! that all share.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use serde_json::value::RawValue;
pub use socketio_server::Before;

use crate::clock::Moment;

pub mod media;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

pub use media::{MediaChange, MediaState, Status, Step};

/// A store of accepted changes, and the one place that orders them.
///
/// # What every implementation promises
/// - **Order.** Changes take effect, and are dispatched, in the order in which [`Store::commit`] was *called* (not in
///   which its futures are polled), so a caller may start several and wait for them afterwards.
/// - **Commit, then dispatch.** Changes are given to the [`Dispatch`] once they are committed, in commit order, before
///   their `commit` returns. A change that was refused or could not be committed is not dispatched.
/// - **Numbered.** Every dispatched event has a number. Numbers rise in dispatch order and none is ever used twice, not
///   even by the next process after this one was killed.
/// - **Once.** Of changes with the same idempotency key, or notifications of one user with the same id, one is
///   committed and dispatched; the others are answered with its receipt, even when they come at the same time.
/// - **No gap.** [`Store::media_snapshot_then`] and [`Store::inbox_then`] take their place in the same order.
/// - **Bounded.** Whatever is kept has a limit; the oldest leaves first. Idempotency keys and revocations leave when their
///   time is over, and no sooner: one more is refused.
pub trait Store: Debug + Send + Sync {
    /// The first number of this process's life: all events with a lower one were dispatched by its predecessors.
    fn boot_seq(&self) -> u64;

    /// Applies a change and dispatches it. See the trait for order and idempotency. Dropping the future does not undo
    /// the change.
    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Whether the changes of a request can be committed with this key, each under its [`IdempotencyKey::item`]: that it
    /// belongs to no other request, and that there is a place for it. It is the request's from the first change on that is
    /// accepted.
    fn check_key(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The last state of a media item, if it is known.
    fn media_state(&self, media_id: &str) -> BoxFuture<'_, Result<Option<MediaState>, StoreError>>;

    /// The owners of these media items, as far as they are known. As [`Store::session`] it takes no place in the order.
    fn media_owners(&self, media_ids: Vec<Box<str>>) -> BoxFuture<'_, Result<MediaOwners, StoreError>>;

    /// Runs `then` with the last state of a media item, in order with the dispatches: whatever was dispatched before is
    /// in the state, and whatever is not in the state is dispatched after `then` has returned. `then` must be quick
    /// and must not wait for the store.
    fn media_snapshot_then(&self, media_id: &str, then: SnapshotThen) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The number of the last event of any media item, 0 without one.
    fn newest_media(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// The media items that have not ended and whose last event has a number after `after`, up to and with `until`; in the
    /// order of these numbers. It looks at `most` items, and says how far it came.
    fn media_under_way(&self, after: u64, until: u64, most: usize) -> BoxFuture<'_, Result<MediaUnderWay, StoreError>>;

    /// A user's notifications, newest first: at most `limit`, and only those older than the one with the id `before`. Fewer
    /// if they are large: a page has at most [`MAX_NOTIFICATIONS_PAGE_BYTES`](crate::limits::MAX_NOTIFICATIONS_PAGE_BYTES)
    /// or one notification.
    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>>;

    /// Runs `then` with what a user has not received, at most `limit` of it and some [`INBOX_BATCH_BYTES`]; in order with the
    /// dispatches, as [`Store::media_snapshot_then`].
    ///
    /// [`INBOX_BATCH_BYTES`]: crate::limits::INBOX_BATCH_BYTES
    fn inbox_then(&self, user_id: &str, limit: usize, then: InboxThen) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Takes note that a user has received every notification up to this number on some socket. It never waits; if the
    /// process is killed at once, the user may get the last ones again.
    fn received(&self, user_id: &str, up_to: u64);

    /// Marks notifications of a user as read and returns how many are unread now. If that changed, an
    /// [`CommittedEvent::Unread`] is dispatched.
    fn mark_read(&self, user_id: &str, mark: ReadMark) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// The durable events after the number `after`, up to and with `until`, that went to any of these rooms of a
    /// namespace, in order, and of each room only those after the number beside it; with them all other room events of
    /// earlier lives, for as long after the start as clients may come back from those; and the last progress of the media
    /// items whose events these rooms get, if it lies there too. Of an item whose room was joined after `after`, the
    /// state as of `until` is there in any case: it was sent at the joining, and need not have arrived.
    ///
    /// `until` is before this life. It takes no place in the order and is read in slices, so that changes wait a bounded time
    /// for it, however much it is.
    fn replay(
        &self,
        namespace: &str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Replay, StoreError>>;

    /// Keeps a session for recovery, instead of an older one of the same key. It never waits for the disk. If the process is
    /// killed before it is written, an older one that it changes is not found by the next either.
    fn save_session(&self, session: SessionRecord);

    /// A session's client has gone and may come back. It has received every event up to `since_seq`. It never waits.
    fn session_left(&self, key: SessionKey, since_seq: u64);

    /// Every client that is there, of those whose sessions are kept, has received every event up to this one. It takes its
    /// place in the order of the calls of [`Store::save_session`] and [`Store::session_left`], and never waits.
    fn sessions_confirmed(&self, up_to: u64);

    /// Forgets a session. As [`Store::save_session`].
    fn forget_session(&self, key: SessionKey);

    /// A session that an earlier life of the server kept, with what its client is known to have received, and when it was
    /// last known to be there. None if that is not known. It stays. What was saved, left or forgotten before is heeded; no
    /// other place in the order is taken, so that changes wait a bounded time for it, however many ask.
    fn session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>>;

    /// Keeps a revocation, together with an older one of the same subject, and returns what had to leave for it. What
    /// [`Store::revocations`] returns in this and the next process has it, for as long as there is room or it is not over.
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'_, Result<Revocations, StoreError>>;

    /// Forgets the revocation of a subject and returns it, if one is kept.
    fn undo_revocation(&self, subject: Revoked) -> BoxFuture<'_, Result<Option<Revocation>, StoreError>>;

    /// All revocations that are kept.
    fn revocations(&self) -> BoxFuture<'_, Result<Revocations, StoreError>>;

    /// Since when every change that was asked for was taken, but for those that broke a rule. If the last one could not be
    /// committed, a write that changes nothing is tried, and the error is what became of it. So the moment changes whenever
    /// a publisher may have been told to come again.
    fn writable_since(&self) -> BoxFuture<'_, Result<Instant, StoreError>>;

    /// Whether it still takes changes; it does until it is closed or has broken down for good.
    fn is_open(&self) -> bool;

    /// How much is kept, for metrics.
    fn usage(&self) -> Usage;
}

/// See [`Store::media_snapshot_then`].
pub type SnapshotThen = Box<dyn FnOnce(Option<&MediaState>) + Send>;

/// See [`Store::media_owners`].
pub type MediaOwners = Vec<(Box<str>, Arc<str>)>;

/// See [`Store::inbox_then`].
pub type InboxThen = Box<dyn FnOnce(&Inbox) + Send>;

/// Where a store hands over what it committed.
pub trait Dispatch: Debug + Send + Sync {
    /// Queues committed events for their receivers, and returns a delivery for each, in the same order. Called in commit
    /// order with what was committed together; must be quick and must not wait for the store.
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery>;
}

/// A committed event in its place.
#[derive(Debug, Clone, Copy)]
pub struct Dispatched<'a> {
    /// Its number: higher than that of every event dispatched before, in this life or an earlier one.
    pub seq: u64,
    /// The event.
    pub event: CommittedEvent<'a>,
}

/// A committed change as its receivers are concerned.
#[derive(Debug, Clone, Copy)]
pub enum CommittedEvent<'a> {
    /// A media item has a new state.
    Media {
        /// The item.
        media_id: &'a Arc<str>,
        /// Its state now; the event is in it.
        state: &'a MediaState,
        /// Whether this change was the first to name the owner.
        owner_became_known: bool,
    },
    /// A user has a new notification.
    Notification {
        /// The notification.
        notification: &'a NotificationChange,
        /// How many the user has not read, with this one.
        unread: u64,
    },
    /// A user has read notifications.
    Unread {
        /// The user.
        user_id: &'a Arc<str>,
        /// How many are left.
        unread: u64,
    },
    /// A publisher's event for a room.
    Room(&'a RoomEvent),
}

/// The number of this node's sockets that an event was queued for, once it is known. It may be awaited by several.
#[derive(Debug, Clone)]
pub struct Delivery(Shared<Pin<Box<dyn Future<Output = u64> + Send>>>);

impl Delivery {
    /// A delivery that `count` reports on.
    pub fn new(count: impl Future<Output = u64> + Send + 'static) -> Self {
        let count: Pin<Box<dyn Future<Output = u64> + Send>> = Box::pin(count);
        Self(count.shared())
    }

    /// A delivery of which the count is known.
    pub fn known(count: u64) -> Self {
        Self::new(std::future::ready(count))
    }

    /// The number of sockets, if it is known already.
    pub fn if_known(&self) -> Option<u64> {
        self.0.clone().now_or_never()
    }

    /// Waits for the number of sockets.
    pub async fn sockets(self) -> u64 {
        self.0.await
    }
}

/// Something to commit.
#[derive(Debug, Clone)]
pub struct Change {
    /// The receipt's id: the notification's, else one of the server's.
    pub id: Arc<str>,
    /// When it was accepted.
    pub at: Moment,
    /// The publisher's idempotency key, if there is one.
    pub key: Option<IdempotencyKey>,
    /// What changes.
    pub what: What,
}

/// See [`Change`].
#[derive(Debug, Clone)]
pub enum What {
    /// A media item goes on.
    Media(MediaChange),
    /// A user is told something.
    Notification(NotificationChange),
    /// A room is told something. Unless it is durable, nothing is kept of it but the receipt.
    Room(RoomEvent),
}

/// The SHA-256 of what a request asks for, to tell a repeat from another use of its key.
pub type Fingerprint = [u8; 32];

/// An `Idempotency-Key` and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Whose key it is: those of different publishers are different.
    pub publisher: Arc<str>,
    /// The header's value.
    pub key: Arc<str>,
    /// The place in a request of several changes.
    pub item: Option<u32>,
    /// What the request asks for.
    pub fingerprint: Fingerprint,
}

/// A notification to keep and send.
#[derive(Debug, Clone)]
pub struct NotificationChange {
    /// Whom it is for.
    pub user_id: Arc<str>,
    /// Its id, unique among the user's.
    pub id: Arc<str>,
    /// What the publisher asked for, to tell a repeat from another use of the id.
    pub fingerprint: Fingerprint,
    /// The event's payload, JSON.
    pub payload: Arc<str>,
}

/// An event for the sockets in a room.
#[derive(Debug, Clone)]
pub struct RoomEvent {
    /// The namespace, one of the server's.
    pub namespace: &'static str,
    /// The room.
    pub room: Arc<str>,
    /// The event's name.
    pub event: Arc<str>,
    /// The event's argument, JSON; empty for an event without one.
    pub argument: Arc<str>,
    /// What is to be done for those who are not there to read it.
    pub class: Class,
}

/// What is done for receivers that are slow or away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It is replayed to those who reconnect soon.
    Recoverable,
    /// It is stored, and replayed even if the server is killed.
    Durable,
    /// Only the newest matters.
    Latest,
}

/// What became of a change that was not refused.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The change's id; for a repeat, that of the first.
    pub id: Arc<str>,
    /// Whether it outlives this process.
    pub stored: bool,
    /// Whether it was committed before, and this is its receipt.
    pub repeated: bool,
    /// Who got it.
    pub delivery: Delivery,
}

/// See [`Store::media_under_way`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaUnderWay {
    /// By the number of the last event.
    pub items: Vec<UnderWay>,
    /// There are no others up to and with this number.
    pub up_to: u64,
}

/// A media item that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// The item.
    pub media_id: Arc<str>,
    /// The number of its last event.
    pub seq: u64,
}

/// A page of a user's notifications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotificationsPage {
    /// Newest first.
    pub notifications: Vec<KeptNotification>,
    /// The id to ask before for the next page, if there is more.
    pub next: Option<Arc<str>>,
    /// How many of all the user has not read.
    pub unread: u64,
}

/// A notification as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptNotification {
    /// The event's payload, JSON.
    pub payload: Arc<str>,
    /// Whether the user has read it.
    pub read: bool,
}

impl KeptNotification {
    /// The event's payload with `read` as one more field.
    ///
    /// # Errors
    /// If the payload is not an object.
    pub fn with_read_mark(&self) -> Result<Box<RawValue>, serde_json::Error> {
        let fields = self.payload.strip_suffix('}').unwrap_or_default();
        RawValue::from_string(format!("{fields},\"read\":{}}}", self.read))
    }
}

/// What waits for a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbox {
    /// What was not received on any socket, oldest first.
    pub undelivered: Vec<InboxItem>,
    /// There is more of it.
    pub more: bool,
    /// How many the user has not read, received or not.
    pub unread: u64,
    /// The number of the last event that was dispatched before, whatever it was.
    pub as_of: u64,
}

/// A notification that waits for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxItem {
    /// The number it was dispatched with.
    pub seq: u64,
    /// Its id.
    pub id: Arc<str>,
    /// The event's payload, JSON.
    pub payload: Arc<str>,
}

/// Which notifications a user has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadMark {
    /// These; those that are not kept are passed over.
    Ids(Vec<String>),
    /// This one and all older ones.
    UpTo(String),
}

/// What a client missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Whether it is all: nothing of it has been removed, and it is no more than can be replayed.
    pub complete: bool,
    /// In the order in which they were dispatched.
    pub events: Vec<StoredEvent>,
}

/// An event as it was dispatched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The number it was dispatched with.
    pub seq: u64,
    /// The event's name.
    pub event: Arc<str>,
    /// The event's argument, JSON; empty for an event without one.
    pub argument: Arc<str>,
    /// Whether it is the last progress of a media item, of which there may have been more.
    pub latest: bool,
    /// Of the rooms that were asked for, those that it went to.
    pub rooms: Vec<String>,
}

/// The SHA-256 of a session's secret id.
pub type SessionKey = [u8; 32];

/// What a socket needs to be recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// What it is found by.
    pub key: SessionKey,
    /// The socket's namespace.
    pub namespace: String,
    /// The socket's id.
    pub socket_id: String,
    /// The rooms that it was in, each with the number after which it joined.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// What else the product keeps of it, JSON.
    pub data: String,
    /// The number that the client has received everything up to, if it does not know better.
    pub since_seq: u64,
    /// When it was saved.
    pub updated_at: Moment,
    /// When its client was last known to be there; none if it is there now.
    pub left_at: Option<Moment>,
    /// What was kept of it before.
    pub before: Before,
}

/// Tokens that are good no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Which tokens.
    pub subject: Revoked,
    /// When they were revoked: of a user's tokens, it is those that were issued before.
    pub at: Moment,
    /// The claim `exp` of a single token, if it is known.
    pub expires_at: Option<Moment>,
}

/// Revocations, and what those that were forgotten have left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// In no order.
    pub list: Vec<Revocation>,
    /// What is refused in place of what was forgotten.
    pub floors: Floors,
}

/// Tokens that are refused because a revocation that may have covered them was forgotten. When that happens they have ended
/// by the settings of that time; without these they would be good again under others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floors {
    /// Those that were issued before it, and those that don't say when.
    pub issued: Option<Moment>,
    /// Those whose `exp` is not after it.
    pub expired: Option<Moment>,
}

impl Floors {
    /// Whatever one of the two refuses.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { issued: self.issued.max(other.issued), expired: self.expired.max(other.expired) }
    }
}

/// Which tokens are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All that a user had.
    User(Arc<str>),
    /// The one with this `jti`.
    Token(Arc<str>),
}

/// How much a store keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Media items.
    pub media: Amount,
    /// Notifications of all users.
    pub notifications: Amount,
    /// Durable events.
    pub log: Amount,
    /// Sessions for recovery.
    pub sessions: Amount,
    /// What the idempotency keys count as: one each, and a batch as one for every ten of its items.
    pub idempotency_keys: u64,
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Revocations.
    pub revocations: Amount,
    /// Requests that wait for their turn.
    pub queued: u64,
    /// Reads for clients that come back that wait for their turn.
    pub recalls: u64,
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// In how many rows.
    pub rows: u64,
    /// Bytes of what is in them, without ids, names and indexes.
    pub bytes: u64,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The life rules of a media item forbid the change.
    #[error(transparent)]
    Media(#[from] media::Refused),
    /// The idempotency key belongs to another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The user has another notification with this id.
    #[error("the notification id was used for another notification")]
    NotificationIdReused,
    /// The user has no notification with the id.
    #[error("no such notification is kept")]
    UnknownNotification,
    /// As many idempotency keys are remembered as may be. Nothing happened.
    #[error("too many idempotency keys are remembered")]
    TooManyKeys {
        /// Of the publisher, else of all.
        of_publisher: bool,
        /// How many may be.
        limit: u64,
        /// When the next one leaves.
        wait: Duration,
    },
    /// As many revocations are kept as may be.
    #[error("too many revocations are kept")]
    TooManyRevocations,
    /// Too much waits for the store. Nothing happened.
    #[error("too much waits for the store")]
    Overloaded,
    /// The store could not do it. A change was not dispatched. It is not kept, unless the process or the machine dies before
    /// the store has committed anything else; until then nothing is dispatched either.
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
}
