//! The server's persistent data: the state of media items, notifications, durable events, sessions, and receipts by
//! idempotency key.
//!
//! [`Store`] states the guarantees of every implementation. [`sqlite`] keeps everything in a file, [`memory`] in the
//! process, [`redis`] in a server for several nodes. [`media`] has the life-cycle rules that all implementations share.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use serde_json::value::RawValue;
pub use socketio_server::Before;

use crate::contract::delivery::Envelope;
use crate::contract::time::Moment;
use crate::limits::ROW_OVERHEAD_BYTES;

mod availability;
mod bounds;
mod control;
pub(crate) mod data_dir;
mod interest;
mod kept_revocations;
pub mod media;
pub mod memory;
pub mod migration;
mod missed;
pub mod redis;
mod revocations;
mod sessions;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

pub use bounds::{Bound, Bounds, KeyBounds, RevocationBound};
pub use control::{Backlog, Ending, StoreControl};
pub use interest::{Room, RoomInterest};
pub use media::{MediaChange, MediaState, Status, Step};
pub use revocations::{Floors, Revocation, RevocationChange, RevocationStore, Revocations, Revoked, RevokedTokens};
pub use sessions::{ClaimedSession, SessionKey, SessionRecord, SessionStore};

/// A store of accepted changes. No other place orders them.
///
/// # Guarantees of every implementation
/// - **Order.** Changes take effect, and are dispatched, in the order of the calls of [`Store::commit`], not in the
///   order in which its futures are polled. So a caller may start several commits and wait for them afterwards.
/// - **Commit, then dispatch.** Changes are handed to the [`Dispatch`] after they are committed, in commit order,
///   before their `commit` returns, if the node has [entered](RoomInterest::enter) their room. A change that was refused or could not be committed is not dispatched.
/// - **Numbered.** Every dispatched event has a number. Numbers rise in dispatch order. No number is ever used twice,
///   not even by the next process after this one was killed.
/// - **Once.** Of several changes with the same idempotency key, or notifications of one user with the same id, one is
///   committed and dispatched. The others are answered with its receipt, even if they arrive at the same time.
/// - **No gap.** [`Store::media_snapshot`] and [`Store::inbox`] tell the number as of which they were read: they include
///   every event up to it, and none after it. Each event up to it was dispatched before they are answered.
/// - **Bounded.** All stored data has a limit; the oldest data is removed first. Idempotency keys and revocations are
///   removed when their time is over, and no sooner. Beyond the limit, a new one is refused.
pub trait Store: SessionStore + RevocationStore + RoomInterest {
    /// The first event number of this process's life. All events with lower numbers were dispatched by earlier
    /// processes.
    fn boot_seq(&self) -> u64;

    /// Applies a change and dispatches it. See the trait for order and idempotency. Dropping the future does not undo
    /// the change.
    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Checks whether the changes of a request can be committed with this key, each under its [`IdempotencyKey::item`].
    /// The key must belong to no other request, and there must be room for it. The key belongs to the request from the
    /// first accepted change on.
    fn check_key(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The last state of a media item. See the trait for its place in the order.
    fn media_snapshot(&self, media_id: &str) -> BoxFuture<'_, Result<MediaSnapshot, StoreError>>;

    /// The owners of these media items, as far as they are known. Like [`SessionStore::session`], it takes no place in
    /// the order.
    fn media_owners(&self, media_ids: Vec<Box<str>>) -> BoxFuture<'_, Result<MediaOwners, StoreError>>;

    /// The number of the last event of any media item, or 0 if there is none.
    fn newest_media(&self) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// The unfinished media items whose last event has a number after `after`, up to and including `until`, in the
    /// order of these numbers. It examines at most `most` items, and reports how far it came.
    fn media_under_way(&self, after: u64, until: u64, most: usize) -> BoxFuture<'_, Result<MediaUnderWay, StoreError>>;

    /// A user's notifications, newest first: at most `limit`, and only those older than the one with the id `before`.
    /// Large notifications make a page shorter: it has at most
    /// [`MAX_NOTIFICATIONS_PAGE_BYTES`](crate::limits::MAX_NOTIFICATIONS_PAGE_BYTES) or one notification.
    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>>;

    /// A user's undelivered notifications: at most `limit`, and about [`INBOX_BATCH_BYTES`]. See the trait for its place
    /// in the order.
    ///
    /// [`INBOX_BATCH_BYTES`]: crate::limits::INBOX_BATCH_BYTES
    fn inbox(&self, user_id: &str, limit: usize) -> BoxFuture<'_, Result<Inbox, StoreError>>;

    /// Records that a user has received every notification up to this number on some socket. It never waits. If the
    /// process is killed right afterwards, the user may get the last ones again.
    fn received(&self, user_id: &str, up_to: u64);

    /// Marks notifications of a user as read and returns the number of unread ones. If that number changed, a
    /// [`CommittedEvent::Unread`] is dispatched.
    fn mark_read(&self, user_id: &str, mark: ReadMark) -> BoxFuture<'_, Result<Unread, StoreError>>;

    /// The events for these rooms of a namespace with numbers after `after`, up to and including `until`, in order. For
    /// each room, only the events after the number beside it are returned. The result contains:
    /// - the durable events;
    /// - all other room events of earlier runs of the server, for as long after the start as clients of those runs may
    ///   come back;
    /// - the last progress of the media items whose events these rooms get, if its number is in the range.
    ///
    /// For an item whose room was joined after `after`, the state as of `until` is always included. The client was sent
    /// the state when it joined, but may not have received it.
    ///
    /// `until` is before the start of this run, unless the store has [other nodes](RoomInterest::has_other_nodes). Then the
    /// read has a place in the order, like [`Store::inbox`]. Otherwise it takes none, and is done in slices, so that changes
    /// wait a bounded time for it, whatever its size.
    fn replay(
        &self,
        namespace: &'static str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Replay, StoreError>>;

    /// Whether this node is the one that ends media items without news. Asked before each look at them; without a question
    /// for some seconds, another node is.
    fn is_watching(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// The moment since which every requested change was accepted, except changes that broke a rule. If the last change
    /// could not be committed, the store tries a write that changes nothing, and returns the error of that write. So
    /// the moment changes whenever a publisher may have been told to try again.
    fn writable_since(&self) -> BoxFuture<'_, Result<Instant, StoreError>>;

    /// Whether the store still accepts changes. It does until it is closed or has broken down for good.
    fn is_open(&self) -> bool;

    /// The amount of stored data, for metrics.
    fn usage(&self) -> Usage;
}

/// See [`Store::media_snapshot`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MediaSnapshot {
    /// The last state of the item, if it is known.
    pub state: Option<MediaState>,
    /// The number of the last event of any kind that was dispatched before.
    pub as_of: u64,
}

/// See [`Store::media_owners`].
pub type MediaOwners = Vec<(Box<str>, Arc<str>)>;

/// The receiver of a store's committed events.
pub trait Dispatch: Debug + Send + Sync {
    /// Queues committed events for their receivers, and returns a delivery for each, in the same order. It is called in
    /// commit order, with events that were committed together. It must be quick and must not wait for the store.
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery>;

    /// Records that the order has come to this number: every event up to it was dispatched, or is not for this node.
    fn advance(&self, _seq: u64) {}

    /// Enforces a change of the revocations. The future ends when it is in force, with the number of sockets that have
    /// lost their identities. Called only by a store with [other nodes](RoomInterest::has_other_nodes), for the changes of
    /// all nodes, one after the other.
    fn revoked(&self, _change: RevocationChange) -> BoxFuture<'static, u64> {
        Box::pin(std::future::ready(0))
    }

    /// Ends what the members of a room have, after events of the room were lost: they may not continue. Called only by a
    /// store with other nodes.
    fn lost(&self, _room: &Room) {}

    /// Takes a session away from this node, and returns it, if the node has it. See [`SessionStore::claim_session`] for
    /// the form of its secret id.
    fn hand_over(&self, _sealed: &str) -> BoxFuture<'static, Option<SessionRecord>> {
        Box::pin(std::future::ready(None))
    }

    /// Begins anew after events were lost: no client may continue, and nothing that was dispatched before counts. Called
    /// only by a store with other nodes.
    fn reset(&self) {}
}

/// A committed event and its place in the order.
#[derive(Debug, Clone, Copy)]
pub struct Dispatched<'a> {
    /// Its number: higher than that of every event dispatched before, in this run of the server or an earlier one.
    pub seq: u64,
    /// The event.
    pub event: CommittedEvent<'a>,
}

/// A committed change, as its receivers see it.
#[derive(Debug, Clone, Copy)]
pub enum CommittedEvent<'a> {
    /// An event to send.
    Event {
        /// The event and its destination.
        envelope: &'a Envelope,
        /// The further effect on sockets.
        effect: Effect<'a>,
    },
    /// A user has read notifications.
    Unread {
        /// The user.
        user_id: &'a Arc<str>,
        /// The number of unread notifications that are left.
        unread: u64,
    },
}

/// An effect at the event's place in the order, besides the event itself.
#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    /// Nothing.
    None,
    /// The event is the first of a media item that names the owner. Sockets that may not follow the item from here on
    /// leave its room before the event.
    OwnerKnown {
        /// The item.
        media_id: &'a Arc<str>,
        /// The owner.
        owner_id: &'a Arc<str>,
    },
    /// The event is a notification. The user's sockets record it after the event.
    Notified {
        /// The user.
        user_id: &'a Arc<str>,
        /// The number of the user's unread notifications, including this one.
        unread: u64,
    },
}

/// The number of this node's sockets that an event was queued for, once it is known. Several callers may await it.
#[derive(Debug, Clone)]
pub struct Delivery(Shared<Pin<Box<dyn Future<Output = u64> + Send>>>);

impl Delivery {
    /// A delivery whose count is the output of `count`.
    pub fn new(count: impl Future<Output = u64> + Send + 'static) -> Self {
        let count: Pin<Box<dyn Future<Output = u64> + Send>> = Box::pin(count);
        Self(count.shared())
    }

    /// A delivery with a known count.
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

/// A change to commit.
#[derive(Debug, Clone)]
pub struct Change {
    /// The receipt's id: the notification's id, or else an id made by the server.
    pub id: Arc<str>,
    /// When it was accepted.
    pub at: Moment,
    /// The publisher's idempotency key, if there is one.
    pub key: Option<IdempotencyKey>,
    /// The kind of the change.
    pub what: ChangeKind,
}

/// The kind of a [`Change`].
#[derive(Debug, Clone)]
pub enum ChangeKind {
    /// A step of a media item.
    Media(MediaChange),
    /// A notification for a user.
    Notification(NotificationChange),
    /// An event for a room. Unless it is durable, only its receipt is kept.
    Room(Envelope),
}

/// The SHA-256 of a request's content. It distinguishes a repeat from another use of the same key.
pub type Fingerprint = [u8; 32];

/// An `Idempotency-Key` and the request that it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The publisher. Keys of different publishers are different keys.
    pub publisher: Arc<str>,
    /// The header's value.
    pub key: Arc<str>,
    /// The index of the change in a request with several changes.
    pub item: Option<u32>,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
}

/// A notification to keep and send.
#[derive(Debug, Clone)]
pub struct NotificationChange {
    /// The user that receives it.
    pub user_id: Arc<str>,
    /// Its id, unique among the user's notifications.
    pub id: Arc<str>,
    /// The fingerprint of the publisher's request. It distinguishes a repeat from another use of the id.
    pub fingerprint: Fingerprint,
    /// The event's payload, JSON.
    pub payload: Arc<str>,
}

/// The result of a change that was not refused.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The change's id. For a repeat, the id of the first change.
    pub id: Arc<str>,
    /// Whether the change outlives this process.
    pub stored: bool,
    /// Whether the change was committed before, so that this is its receipt.
    pub repeated: bool,
    /// The delivery of the event.
    pub delivery: Delivery,
}

/// See [`Store::media_under_way`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaUnderWay {
    /// The items, in the order of the numbers of their last events.
    pub items: Vec<UnderWay>,
    /// There are no other items up to and including this number.
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
    /// The notifications, newest first.
    pub notifications: Vec<KeptNotification>,
    /// The value of `before` for the next page, if there is one.
    pub next: Option<Arc<str>>,
    /// The number of all unread notifications of the user.
    pub unread: Unread,
}

/// The number of a user's unread notifications at a place in the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// The number of unread notifications.
    pub count: u64,
    /// The number of the last event of any kind that the count includes.
    pub as_of: u64,
}

/// A stored notification.
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

/// A user's undelivered notifications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The notifications that were not received on any socket, oldest first.
    pub undelivered: Vec<InboxItem>,
    /// Whether there are more undelivered notifications.
    pub more: bool,
    /// The number of the user's unread notifications, received or not.
    pub unread: u64,
    /// The number of the last event of any kind that was dispatched before.
    pub as_of: u64,
}

/// An undelivered notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxItem {
    /// The number it was dispatched with.
    pub seq: u64,
    /// Its id.
    pub id: Arc<str>,
    /// The event's payload, JSON.
    pub payload: Arc<str>,
}

/// The notifications that a user has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadMark {
    /// The notifications with these ids. Ids of notifications that are not stored are ignored.
    Ids(Vec<String>),
    /// The notification with this id, and all older ones.
    UpTo(String),
}

/// The events that a client missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Whether the events are complete: none of them has been removed, and together they do not exceed the limit of a
    /// replay.
    pub complete: bool,
    /// The events, in dispatch order.
    pub events: Vec<ReplayedEvent>,
    /// The number up to which they were read: the requested one, or that of the last event if it is lower.
    pub up_to: u64,
}

/// An event of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayedEvent {
    /// The number it was dispatched with.
    pub seq: u64,
    /// The event as it was dispatched. Of class [`Latest`](crate::contract::delivery::Class::Latest), only the newest is in
    /// the replay.
    pub envelope: Envelope,
    /// The requested rooms with this event among the missed ones.
    pub rooms: Vec<String>,
}

/// The amount of data in a store.
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
    /// The cost of the idempotency keys: one for each key, and for a batch one for every ten of its items.
    pub idempotency_keys: u64,
    /// Bytes of the journal's files.
    pub journal_bytes: u64,
    /// Revocations.
    pub revocations: Amount,
    /// Queued requests.
    pub queued: u64,
    /// Queued reads for returning clients.
    pub recalls: u64,
}

/// An amount of stored data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of rows.
    pub rows: u64,
    /// The bytes of their contents, without ids, names and indexes.
    pub bytes: u64,
}

impl Amount {
    pub(in crate::store) fn add(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes;
    }

    pub(in crate::store) fn remove(&mut self, bytes: u64) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(in crate::store) fn exceeds(&self, bound: &Bound) -> bool {
        self.rows > bound.rows || self.bytes + self.rows * ROW_OVERHEAD_BYTES > bound.bytes
    }
}

/// The reason why a store did not carry out a request.
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
    /// The limit of remembered idempotency keys is reached. Nothing was changed.
    #[error("too many idempotency keys are remembered")]
    TooManyKeys {
        /// Whether the limit is that of one publisher. Otherwise it is that of all publishers.
        of_publisher: bool,
        /// The limit.
        limit: u64,
        /// The time until a key is removed.
        wait: Duration,
    },
    /// The limit of stored revocations is reached.
    #[error("too many revocations are kept")]
    TooManyRevocations,
    /// The store's queue is full. Nothing was changed.
    #[error("too much waits for the store")]
    Overloaded,
    /// The store could not carry out the request. A change was not dispatched. It is not kept, unless the process or
    /// the machine dies before the store has committed anything else. Until then nothing is dispatched either.
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The stored data of the request is damaged, or of another program. Nothing was changed.
    #[error("the stored data is damaged: {0}")]
    Damaged(Arc<str>),
}
