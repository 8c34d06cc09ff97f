//! What the server remembers: the state of media items, notifications, and receipts by idempotency key.
//!
//! [`Store`] says what every implementation promises. [`memory`] keeps everything in this process, bounded and gone
//! with it; [`media`] has the life rules that all share.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};

use crate::clock::Moment;

pub mod media;
pub mod memory;
mod shelf;
#[cfg(test)]
mod suite;

pub use media::{MediaChange, MediaState, Status, Step};

/// A store of accepted changes, and the one place that orders them.
///
/// # What every implementation promises
/// - **Order.** Changes take effect, and are dispatched, in the order in which [`Store::commit`] was *called* (not in
///   which its futures are polled), so a caller may start several and wait for them afterwards.
/// - **Commit, then dispatch.** A change is given to the [`Dispatch`] once it is committed, one change at a time and in
///   commit order, before its `commit` returns. A refused change is not dispatched. A store that survives the process
///   commits to its medium first.
/// - **Once.** Of changes with the same idempotency key, or notifications of one user with the same id, one is
///   committed and dispatched; the others are answered with its receipt, even when they come at the same time.
/// - **No gap.** [`Store::media_snapshot_then`] takes its place in the same order.
/// - **Bounded.** Whatever is kept has a limit; what leaves first is named there.
pub trait Store: Debug + Send + Sync {
    /// Whether what is committed outlives the process.
    fn is_durable(&self) -> bool;

    /// Applies a change and dispatches it. See the trait for order and idempotency. Dropping the future does not undo
    /// the change.
    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Remembers that an idempotency key belongs to a request, without a receipt of its own: for requests of several
    /// changes, which have a receipt each under [`IdempotencyKey::item`].
    fn claim(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The last state of a media item, if it is known.
    fn media_state(&self, media_id: &str) -> BoxFuture<'_, Result<Option<MediaState>, StoreError>>;

    /// Runs `then` with the last state of a media item, in order with the dispatches: whatever was dispatched before is
    /// in the state, and whatever is not in the state is dispatched after `then` has returned. `then` must be quick
    /// and must not call the store.
    fn media_snapshot_then(&self, media_id: &str, then: SnapshotThen) -> BoxFuture<'_, Result<(), StoreError>>;

    /// A user's notifications, newest first: at most `limit`, and only those older than the one with the id `before`.
    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>>;

    /// How much is kept, for metrics.
    fn usage(&self) -> Usage;
}

/// See [`Store::media_snapshot_then`].
pub type SnapshotThen = Box<dyn FnOnce(Option<&MediaState>) + Send>;

/// Where a store hands over what it committed.
pub trait Dispatch: Debug + Send + Sync {
    /// Queues a committed event for its receivers. Called in commit order; must be quick and must not call the store.
    fn dispatch(&self, event: CommittedEvent<'_>) -> Delivery;
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
    Notification(&'a NotificationChange),
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
    /// A room is told something. Nothing is kept of it but the receipt.
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

/// A page of a user's notifications.
#[derive(Debug, Clone, Default)]
pub struct NotificationsPage {
    /// The payloads, JSON, newest first.
    pub payloads: Vec<Arc<str>>,
    /// The id to ask before for the next page, if there is more.
    pub next: Option<Arc<str>>,
}

/// How much a store keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Media items.
    pub media_items: usize,
    /// Bytes of media states.
    pub media_bytes: usize,
    /// Notifications of all users.
    pub notifications: usize,
    /// Bytes of notifications.
    pub notification_bytes: usize,
    /// Idempotency keys.
    pub idempotency_keys: usize,
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
    /// No notification of the user has the id that the page is to begin after.
    #[error("no such notification is kept")]
    UnknownNotification,
}
