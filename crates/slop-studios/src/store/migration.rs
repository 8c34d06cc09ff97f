//! What moves from one store to another: everything but the log and the sessions. A client that comes back to a session is
//! the only reader of the log, and no session moves.

use std::sync::Arc;

use super::{Fingerprint, Floors, MediaState, Revocation};
use crate::contract::time::Moment;

/// A row that moves.
#[derive(Debug, Clone, PartialEq)]
pub enum Migrated {
    /// The last state of a media item.
    Media(MediaRow),
    /// A notification. Those of a user come in their order.
    Notification(NotificationRow),
    /// What a user has received.
    Received(ReceivedRow),
    /// An idempotency key.
    Key(KeyRow),
    /// A revocation.
    Revocation(Revocation),
    /// The floors that forgotten revocations have left.
    Floors(Floors),
}

/// The last state of a media item.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaRow {
    /// The item.
    pub id: Arc<str>,
    /// Its state. The number orders the items.
    pub state: MediaState,
    /// When it is too old.
    pub until: Moment,
}

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationRow {
    /// The user that it is for.
    pub user: Arc<str>,
    /// The id that its publisher or the server gave it.
    pub id: Arc<str>,
    /// Its number.
    pub seq: u64,
    /// What its publish is compared with if the id comes again.
    pub fingerprint: Fingerprint,
    /// The event's payload.
    pub payload: Arc<str>,
    /// Whether its user has read it.
    pub is_read: bool,
    /// When it is too old.
    pub until: Moment,
}

/// A user has received all notifications up to a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRow {
    /// The user.
    pub user: Arc<str>,
    /// The number.
    pub up_to: u64,
    /// When the user's newest notification is too old.
    pub until: Moment,
}

/// An idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The publisher.
    pub publisher: Arc<str>,
    /// The key.
    pub key: Arc<str>,
    /// What a repeat is compared with.
    pub fingerprint: Fingerprint,
    /// For each accepted item of the batch: its place, the receipt's id, and whether it counts as stored.
    pub receipts: Vec<(u32, Arc<str>, bool)>,
    /// When the key was used.
    pub at: Moment,
    /// When it is forgotten.
    pub until: Moment,
}
