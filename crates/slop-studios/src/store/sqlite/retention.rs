//! What leaves, and when: by age and by size, the oldest first, a few rows at a time so that the writer never stalls.

use std::time::Duration;

use rusqlite::{Connection, Row};

use super::super::{Amount, Usage};
use super::revocations::{self, RevocationBound};
use super::{log, receipts};
use crate::clock::Moment;
use crate::limits::ROW_OVERHEAD_BYTES;

/// How much of something is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// For how long.
    pub age: Duration,
    /// In how many rows at most.
    pub rows: u64,
    /// How many bytes at most, ids and indexes counted by [`ROW_OVERHEAD_BYTES`].
    pub bytes: u64,
}

/// How much of everything is kept.
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
    /// Idempotency keys. None leaves before its time: one more is refused.
    pub idempotency_keys: KeyBounds,
    /// Revocations, none of which leaves by age alone.
    pub revocations: RevocationBound,
}

/// How many idempotency keys are remembered, a batch counting as one for every
/// [`BATCH_ITEMS_PER_KEY`](crate::limits::BATCH_ITEMS_PER_KEY) of its items.
#[derive(Debug, Clone, Copy)]
pub struct KeyBounds {
    /// For how long.
    pub age: Duration,
    /// Of all publishers.
    pub of_all: u64,
    /// Of one publisher.
    pub of_publisher: u64,
}

/// A table of which the oldest rows leave.
struct Shelf {
    bound: fn(&Bounds) -> Bound,
    amount: fn(&mut Usage) -> &mut Amount,
    /// Rows and bytes of all.
    total: &'static str,
    /// Key, time and bytes of the oldest rows, at most so many.
    oldest: &'static str,
    /// Removes all up to a key.
    remove: &'static str,
    /// Takes note of that.
    removed: fn(&Connection, u64) -> rusqlite::Result<()>,
}

const SHELVES: [Shelf; 4] = [
    Shelf {
        bound: |bounds| bounds.media,
        amount: |usage| &mut usage.media,
        total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM media",
        oldest: "SELECT seq, created_at, octet_length(payload) FROM media ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM media WHERE seq <= ?1",
        removed: |_, _| Ok(()),
    },
    Shelf {
        bound: |bounds| bounds.notifications,
        amount: |usage| &mut usage.notifications,
        total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM notifications",
        oldest: "SELECT seq, created_at, octet_length(payload) FROM notifications ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM notifications WHERE seq <= ?1",
        removed: |_, _| Ok(()),
    },
    Shelf {
        bound: |bounds| bounds.log,
        amount: |usage| &mut usage.log,
        total: "SELECT count(*), coalesce(sum(octet_length(argument)), 0) FROM log",
        oldest: "SELECT seq, created_at, octet_length(argument) FROM log ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM log WHERE seq <= ?1",
        removed: log::removed,
    },
    Shelf {
        bound: |bounds| bounds.sessions,
        amount: |usage| &mut usage.sessions,
        total: "SELECT count(*), coalesce(sum(octet_length(rooms) + octet_length(data)), 0) FROM sessions",
        oldest: "SELECT row, created_at, octet_length(rooms) + octet_length(data) FROM sessions ORDER BY row LIMIT ?1",
        remove: "DELETE FROM sessions WHERE row <= ?1",
        removed: |_, _| Ok(()),
    },
];

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.rows += 1;
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, bytes: u64) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn exceeds(&self, bound: &Bound) -> bool {
        self.rows > bound.rows || self.bytes + self.rows * ROW_OVERHEAD_BYTES > bound.bytes
    }
}

impl Bounds {
    /// Counts what is kept in the file.
    pub(super) fn count(connection: &Connection) -> rusqlite::Result<Usage> {
        let mut usage = Usage::default();
        for shelf in SHELVES {
            let total = |row: &Row<'_>| Ok(Amount { rows: row.get(0)?, bytes: row.get(1)? });
            *(shelf.amount)(&mut usage) = connection.query_row(shelf.total, [], total)?;
        }
        usage.revocations.rows = revocations::count(connection)?;
        usage.idempotency_keys = receipts::used(connection)?;
        Ok(usage)
    }

    /// Whether anything is larger than it may be.
    pub(super) fn exceeded(&self, mut usage: Usage) -> bool {
        SHELVES.iter().any(|shelf| (shelf.amount)(&mut usage).exceeds(&(shelf.bound)(self)))
    }

    /// Removes at most `most` rows of each kind, inside a transaction, and says whether there may be more to remove.
    pub(super) fn enforce(
        &self,
        connection: &Connection,
        usage: &mut Usage,
        now: Moment,
        most: usize,
    ) -> rusqlite::Result<bool> {
        let (forgotten, freed) = receipts::forget_old(connection, now, self.idempotency_keys.age, most)?;
        usage.idempotency_keys = usage.idempotency_keys.saturating_sub(freed);
        let mut more = forgotten == most;
        for shelf in SHELVES {
            more |= shelf.remove_oldest(connection, &(shelf.bound)(self), (shelf.amount)(usage), now, most)? == most;
        }
        Ok(more)
    }
}

impl Shelf {
    /// Removes rows for as long as they are too old or too many, and says how many that were.
    fn remove_oldest(
        &self,
        connection: &Connection,
        bound: &Bound,
        amount: &mut Amount,
        now: Moment,
        most: usize,
    ) -> rusqlite::Result<usize> {
        let since = now.before(bound.age).epoch_ms();
        let (mut up_to, mut removed) = (0, 0);
        let mut statement = connection.prepare_cached(self.oldest)?;
        let mut rows = statement.query([most])?;
        while let Some(row) = rows.next()? {
            if row.get::<_, u64>(1)? >= since && !amount.exceeds(bound) {
                break;
            }
            up_to = row.get(0)?;
            amount.remove(row.get(2)?);
            removed += 1;
        }
        if removed > 0 {
            connection.prepare_cached(self.remove)?.execute([up_to])?;
            (self.removed)(connection, up_to)?;
        }
        Ok(removed)
    }
}
