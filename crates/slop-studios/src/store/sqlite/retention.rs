//! What leaves, and when: by age and by size, the oldest first, a few rows at a time so that the writer never stalls.

use std::time::Duration;

use rusqlite::Connection;

use super::super::{Amount, Usage};
use super::log;
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
    /// Idempotency keys.
    pub receipts: Bound,
}

/// A table of which the oldest rows leave.
struct Shelf {
    /// Key, time and bytes of the oldest rows, at most so many.
    oldest: &'static str,
    /// Removes all up to a key.
    remove: &'static str,
    /// Rows and bytes of all.
    total: &'static str,
}

const MEDIA: Shelf = Shelf {
    oldest: "SELECT seq, created_at, octet_length(payload) FROM media ORDER BY seq LIMIT ?1",
    remove: "DELETE FROM media WHERE seq <= ?1",
    total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM media",
};
const NOTIFICATIONS: Shelf = Shelf {
    oldest: "SELECT seq, created_at, octet_length(payload) FROM notifications ORDER BY seq LIMIT ?1",
    remove: "DELETE FROM notifications WHERE seq <= ?1",
    total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM notifications",
};
const LOG: Shelf = Shelf {
    oldest: "SELECT seq, created_at, octet_length(argument) FROM log ORDER BY seq LIMIT ?1",
    remove: "DELETE FROM log WHERE seq <= ?1",
    total: "SELECT count(*), coalesce(sum(octet_length(argument)), 0) FROM log",
};
const SESSIONS: Shelf = Shelf {
    oldest: "SELECT row, created_at, octet_length(rooms) + octet_length(data) FROM sessions ORDER BY row LIMIT ?1",
    remove: "DELETE FROM sessions WHERE row <= ?1",
    total: "SELECT count(*), coalesce(sum(octet_length(rooms) + octet_length(data)), 0) FROM sessions",
};
const RECEIPTS: Shelf = Shelf {
    oldest: "SELECT row, created_at, 0 FROM receipts ORDER BY row LIMIT ?1",
    remove: "DELETE FROM receipts WHERE row <= ?1",
    total: "SELECT count(*), 0 FROM receipts",
};

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
    fn tables(&self) -> [(Shelf, Bound, fn(&mut Usage) -> &mut Amount); 5] {
        [
            (MEDIA, self.media, |usage| &mut usage.media),
            (NOTIFICATIONS, self.notifications, |usage| &mut usage.notifications),
            (LOG, self.log, |usage| &mut usage.log),
            (SESSIONS, self.sessions, |usage| &mut usage.sessions),
            (RECEIPTS, self.receipts, |usage| &mut usage.receipts),
        ]
    }

    /// Counts what is kept.
    pub(super) fn count(&self, connection: &Connection) -> rusqlite::Result<Usage> {
        let mut usage = Usage::default();
        for (shelf, _, amount) in self.tables() {
            let total = |row: &rusqlite::Row<'_>| Ok(Amount { rows: row.get(0)?, bytes: row.get(1)? });
            *amount(&mut usage) = connection.query_row(shelf.total, [], total)?;
        }
        Ok(usage)
    }

    /// Whether anything is larger than it may be.
    pub(super) fn exceeded(&self, mut usage: Usage) -> bool {
        self.tables().into_iter().any(|(_, bound, amount)| amount(&mut usage).exceeds(&bound))
    }

    /// Removes at most `most` rows of each kind, inside a transaction, and says whether there may be more to remove.
    pub(super) fn enforce(
        &self,
        connection: &Connection,
        usage: &mut Usage,
        now: Moment,
        most: usize,
    ) -> rusqlite::Result<bool> {
        let mut more = false;
        for (shelf, bound, amount) in self.tables() {
            let amount = amount(usage);
            let oldest = now.before(bound.age).epoch_ms();
            let (mut up_to, mut removed) = (None, 0);
            let mut statement = connection.prepare_cached(shelf.oldest)?;
            let mut rows = statement.query([most])?;
            while let Some(row) = rows.next()? {
                if row.get::<_, u64>(1)? >= oldest && !amount.exceeds(&bound) {
                    break;
                }
                up_to = Some(row.get::<_, u64>(0)?);
                amount.remove(row.get(2)?);
                removed += 1;
            }
            drop(rows);
            if let Some(up_to) = up_to {
                connection.prepare_cached(shelf.remove)?.execute([up_to])?;
                if shelf.remove == LOG.remove {
                    log::removed(connection, up_to)?;
                }
            }
            more |= removed == most;
        }
        Ok(more)
    }
}
