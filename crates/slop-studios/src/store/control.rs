//! The lifecycle of a store: what only the composition root may do with it.

use std::sync::Arc;
use std::time::Instant;

use super::Store;

/// A store that can be ended.
pub trait StoreControl: Store {
    /// The key that distinguishes socket ids from other names, for this process and later ones.
    fn socket_id_key(&self) -> [u8; 16];

    /// The address at which this node reaches another one, if that is running.
    fn address_of_node(&self, _tag: u32) -> Option<Arc<str>> {
        None
    }

    /// Sets the digest of the rules by which this node decides, for a comparison with other nodes.
    fn set_rules(&self, _digest: String) {}

    /// Carries out the queued requests, and closes the store. It waits only until `deadline`. Later requests get
    /// [`StoreError::Unavailable`](super::StoreError::Unavailable).
    fn close_by(&self, deadline: Instant) -> Ending;

    /// Prevents the next process from recovering any session, because changes of some sessions are not written. It may
    /// wait for the disk.
    fn void_sessions(&self);
}

/// The way in which a store ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ending {
    /// The data that was not written by the deadline.
    pub unwritten: Backlog,
    /// Whether the store had broken down before.
    pub is_broken: bool,
    /// Whether the store had not ended by the deadline. Even with nothing left to write, it may still wait for the
    /// disk.
    pub is_late: bool,
}

/// The amount of unwritten data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Unanswered requests.
    pub requests: usize,
    /// Changes of sessions.
    pub sessions: usize,
    /// Users whose received notifications are not recorded as received.
    pub inboxes: usize,
}
