//! The entries of the writer's queue: requests, and reads for clients that come back from earlier runs of the server.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::{
    Change, ChangeKind, Committed, IdempotencyKey, Inbox, MediaSnapshot, ReadMark, Revocation, Revocations, Revoked,
    StoreError, Unread,
};

/// The channel for the answer to a request.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the writer.
pub(super) enum Request {
    Commit { change: Change, reply: Reply<Committed> },
    CheckKey { key: IdempotencyKey, reply: Reply<()> },
    MarkRead { user_id: Arc<str>, mark: ReadMark, reply: Reply<Unread> },
    Revoke { revocation: Revocation, reply: Reply<Revocations> },
    UndoRevocation { subject: Revoked, reply: Reply<Option<Revocation>> },
    TryToWrite { reply: Reply<()> },
    Snapshot { media_id: Arc<str>, reply: Reply<MediaSnapshot> },
    Inbox { user_id: Arc<str>, limit: usize, reply: Reply<Inbox> },
    Read(Box<GroupRead>),
}

/// A read after the commit of its group, with the number of the group's last event.
type GroupRead = dyn FnOnce(&Connection, u64) + Send;

impl Request {
    /// Whether a client sent the request, so that no publisher waits for it.
    pub(super) fn is_from_client(&self) -> bool {
        matches!(self, Self::Snapshot { .. } | Self::Inbox { .. } | Self::Read(_) | Self::MarkRead { .. })
    }

    /// The approximate number of bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Commit { change, .. } => match &change.what {
                    ChangeKind::Media(media) => media.payload.len(),
                    ChangeKind::Notification(notification) => notification.payload.len(),
                    ChangeKind::Room(event) => event.argument.len(),
                },
                Self::MarkRead { mark: ReadMark::Ids(ids), .. } => ids.iter().map(String::len).sum(),
                _ => 0,
            }
    }
}

/// A read for a returning client.
pub(super) struct Recall {
    read: Box<RecallRead>,
    /// The permit. It is released when the read is dropped, whether a caller still waits or not.
    _permit: OwnedSemaphorePermit,
}

type RecallRead = dyn FnMut(&Connection, Instant) -> bool + Send;

impl Recall {
    pub(super) fn new(
        read: impl FnMut(&Connection, Instant) -> bool + Send + 'static,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { read: Box::new(read), _permit: permit }
    }

    /// Reads until it has answered or the time is up, but always makes some progress. Returns whether it has answered.
    pub(super) fn go_on(&mut self, connection: &Connection, time_up: Instant) -> bool {
        (self.read)(connection, time_up)
    }
}
