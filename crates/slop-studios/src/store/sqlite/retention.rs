//! Retention: rows are removed by age and by size, the oldest first, a few at a time so that the writer never stalls.

use rusqlite::{Connection, Row};

use super::super::{Amount, Bound, Bounds, Usage};
use super::{log, receipts, revocations};
use crate::contract::time::Moment;

/// A table whose oldest rows are removed.
struct BoundedTable {
    bound: fn(&Bounds) -> Bound,
    amount: fn(&mut Usage) -> &mut Amount,
    /// The query for the number of rows and bytes.
    total: &'static str,
    /// The query for key, time and bytes of the oldest rows, up to a number of rows.
    oldest: &'static str,
    /// The statement that removes all rows up to a key.
    remove: &'static str,
    /// Records that removal.
    removed: fn(&Connection, u64) -> rusqlite::Result<()>,
}

const TABLES: [BoundedTable; 4] = [
    BoundedTable {
        bound: |bounds| bounds.media,
        amount: |usage| &mut usage.media,
        total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM media",
        oldest: "SELECT seq, created_at, octet_length(payload) FROM media ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM media WHERE seq <= ?1",
        removed: |_, _| Ok(()),
    },
    BoundedTable {
        bound: |bounds| bounds.notifications,
        amount: |usage| &mut usage.notifications,
        total: "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM notifications",
        oldest: "SELECT seq, created_at, octet_length(payload) FROM notifications ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM notifications WHERE seq <= ?1",
        removed: |_, _| Ok(()),
    },
    BoundedTable {
        bound: |bounds| bounds.log,
        amount: |usage| &mut usage.log,
        total: "SELECT count(*), coalesce(sum(octet_length(argument)), 0) FROM log",
        oldest: "SELECT seq, created_at, octet_length(argument) FROM log ORDER BY seq LIMIT ?1",
        remove: "DELETE FROM log WHERE seq <= ?1",
        removed: log::removed,
    },
    BoundedTable {
        bound: |bounds| bounds.sessions,
        amount: |usage| &mut usage.sessions,
        total: "SELECT count(*), coalesce(sum(octet_length(rooms) + octet_length(data)), 0) FROM sessions",
        oldest: "SELECT row, created_at, octet_length(rooms) + octet_length(data) FROM sessions ORDER BY row LIMIT ?1",
        remove: "DELETE FROM sessions WHERE row <= ?1",
        removed: |_, _| Ok(()),
    },
];

impl Bounds {
    /// Counts the data in the file.
    pub(super) fn count(connection: &Connection) -> rusqlite::Result<Usage> {
        let mut usage = Usage::default();
        for table in TABLES {
            let total = |row: &Row<'_>| Ok(Amount { rows: row.get(0)?, bytes: row.get(1)? });
            *(table.amount)(&mut usage) = connection.query_row(table.total, [], total)?;
        }
        usage.revocations.rows = revocations::count(connection)?;
        usage.idempotency_keys = receipts::used(connection)?;
        Ok(usage)
    }

    /// Whether any limit is exceeded.
    pub(super) fn exceeded(&self, mut usage: Usage) -> bool {
        TABLES.iter().any(|table| (table.amount)(&mut usage).exceeds(&(table.bound)(self)))
    }

    /// Removes at most `most` rows of each kind, inside a transaction, and returns whether there may be more to remove.
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
        for table in TABLES {
            more |= table.remove_oldest(connection, &(table.bound)(self), (table.amount)(usage), now, most)? == most;
        }
        Ok(more)
    }
}

impl BoundedTable {
    /// Removes rows while they are too old or too many, and returns the number of removed rows.
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
