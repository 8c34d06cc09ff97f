//! The limits of what a store keeps.

use std::time::Duration;

use crate::limits::CLOCK_SKEW_SECONDS;

/// The limit of one kind of data.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The maximum age.
    pub age: Duration,
    /// The maximum number of rows.
    pub rows: u64,
    /// The maximum number of bytes, with ids and indexes counted by
    /// [`ROW_OVERHEAD_BYTES`](crate::limits::ROW_OVERHEAD_BYTES).
    pub bytes: u64,
}

/// The limits of all kinds of data.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Media items, from their last event on.
    pub media: Bound,
    /// Notifications of all users.
    pub notifications: Bound,
    /// Notifications of one user.
    pub notifications_per_user: usize,
    /// Durable events.
    pub log: Bound,
    /// Sessions, from when they were last saved.
    pub sessions: Bound,
    /// Idempotency keys. None is removed before its time; a new one is refused instead.
    pub idempotency_keys: KeyBounds,
    /// Revocations. None is removed by age alone.
    pub revocations: RevocationBound,
}

/// The limits of remembered idempotency keys. A batch counts as one key for every
/// [`BATCH_ITEMS_PER_KEY`](crate::limits::BATCH_ITEMS_PER_KEY) of its items.
#[derive(Debug, Clone, Copy)]
pub struct KeyBounds {
    /// The maximum age.
    pub age: Duration,
    /// The maximum of all publishers.
    pub of_all: u64,
    /// The maximum of one publisher.
    pub of_publisher: u64,
}

/// The limit of revocations, and the settings that say when one is over.
#[derive(Debug, Clone, Copy)]
pub struct RevocationBound {
    /// The maximum number.
    pub rows: u64,
    /// The maximum lifetime of a token after its issue.
    pub max_lifetime: Duration,
    /// How long a token is accepted after its `exp`, and how far in the future it may have been issued.
    pub leeway: Duration,
}

impl RevocationBound {
    /// How long after a revocation a token that it covers may have been issued.
    pub(super) fn skew(&self) -> Duration {
        self.leeway.max(Duration::from_secs(CLOCK_SKEW_SECONDS))
    }
}
