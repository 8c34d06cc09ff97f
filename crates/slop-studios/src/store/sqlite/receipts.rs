//! Receipts by idempotency key. A key is one row, with the receipts of all items of a batch. So a request is remembered
//! or forgotten as a whole.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use serde::{Deserialize, Serialize};

use super::super::{Fingerprint, IdempotencyKey};
use crate::contract::time::Moment;
use crate::limits::{BATCH_ITEMS_PER_KEY, RETENTION_ROWS};

/// The receipt of an accepted publish: its id, whether it is stored, and the number of sockets that it was queued for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt(pub(super) Arc<str>, pub(super) bool, pub(super) u64);

/// A publisher, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    publisher: Arc<str>,
    key: Arc<str>,
}

/// An item of a request with a key. Each item has a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeyedItem {
    name: Name,
    number: u32,
}

impl KeyedItem {
    /// The item of a key. A request that is not a batch has one item.
    pub(super) fn of(key: &IdempotencyKey) -> Self {
        let (publisher, name) = (Arc::clone(&key.publisher), Arc::clone(&key.key));
        Self { name: Name { publisher, key: name }, number: key.item.unwrap_or(0) }
    }
}

/// The stored use of a key.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) fingerprint: Fingerprint,
    row: i64,
    at: Moment,
    /// The receipts by item number.
    receipts: BTreeMap<u32, Receipt>,
    is_changed: bool,
    /// The cost as stored in the row.
    written_cost: u64,
}

impl Remembered {
    /// The receipt of an item, if the item was accepted.
    pub(super) fn receipt(&self, item: &KeyedItem) -> Option<&Receipt> {
        self.receipts.get(&item.number)
    }

    /// The cost of the key.
    fn cost(&self) -> u64 {
        cost(self.receipts.len())
    }
}

fn cost(items: usize) -> u64 {
    items.div_ceil(BATCH_ITEMS_PER_KEY).max(1) as u64
}

/// The keys that a transaction has used, so that a row is read and written once for all items of its batch.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<Name, Remembered>);

impl Keys {
    /// The use of a key, unless it was at `since` or earlier.
    pub(super) fn find(
        &mut self,
        connection: &Connection,
        item: &KeyedItem,
        since: Moment,
    ) -> rusqlite::Result<Option<&mut Remembered>> {
        let known = match self.0.entry(item.name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match read(connection, vacant.key())? {
                Some(read) => vacant.insert(read),
                None => return Ok(None),
            },
        };
        Ok((known.at > since).then_some(known))
    }

    /// Remembers a receipt, and returns the increase of the total cost of all keys. A key that is too old is replaced.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        key: &IdempotencyKey,
        (at, since): (Moment, Moment),
        receipt: Receipt,
    ) -> rusqlite::Result<i64> {
        let item = KeyedItem::of(key);
        if let Some(known) = self.find(connection, &item, since)? {
            let before = known.cost();
            known.receipts.insert(item.number, receipt);
            known.is_changed = true;
            return Ok(known.cost() as i64 - before as i64);
        }
        let freed = match self.0.remove(&item.name) {
            Some(_too_old) => forget(connection, &item.name)?,
            None => 0,
        };
        let receipts = BTreeMap::from([(item.number, receipt)]);
        let row = insert(connection, &item.name, &key.fingerprint, at, &receipts)?;
        let (fingerprint, cost) = (key.fingerprint, cost(receipts.len()));
        let remembered = Remembered { fingerprint, row, at, receipts, is_changed: false, written_cost: cost };
        self.0.insert(item.name, remembered);
        Ok(cost as i64 - freed as i64)
    }

    /// Records the number of sockets that a publish was queued for, if its receipt still exists.
    pub(super) fn set_delivered(
        &mut self,
        connection: &Connection,
        item: &KeyedItem,
        delivered: u64,
    ) -> rusqlite::Result<()> {
        if let Some(known) = self.find(connection, item, Moment::from_epoch_ms(0))?
            && let Some(receipt) = known.receipts.get_mut(&item.number)
        {
            receipt.2 = delivered;
            known.is_changed = true;
        }
        Ok(())
    }

    /// Writes the changed keys. The transaction is committed afterwards.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for (_, known) in self.0.drain() {
            if known.is_changed {
                connection
                    .prepare_cached("UPDATE idempotency_keys SET receipts = ?2 WHERE row = ?1")?
                    .execute((known.row, json(&known.receipts)?))?;
            }
            if known.cost() != known.written_cost {
                connection
                    .prepare_cached("UPDATE idempotency_keys SET cost = ?2 WHERE row = ?1")?
                    .execute((known.row, known.cost()))?;
            }
        }
        Ok(())
    }

    /// Clears the keys at the end of the transaction.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn json(receipts: &BTreeMap<u32, Receipt>) -> rusqlite::Result<String> {
    serde_json::to_string(receipts).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn read(connection: &Connection, name: &Name) -> rusqlite::Result<Option<Remembered>> {
    let remembered = |row: &Row<'_>| {
        let receipts = parsed(&row.get::<_, String>("receipts")?)?;
        Ok(Remembered {
            fingerprint: row.get("fingerprint")?,
            row: row.get("row")?,
            at: Moment::from_epoch_ms(row.get("created_at")?),
            receipts,
            is_changed: false,
            written_cost: row.get("cost")?,
        })
    };
    connection
        .prepare_cached(
            "SELECT receipts, fingerprint, row, cost, created_at FROM idempotency_keys
             WHERE publisher = (SELECT id FROM publishers WHERE name = ?1) AND key = ?2",
        )?
        .query_row((&name.publisher, &name.key), remembered)
        .optional()
}

/// The query for all keys, in the order of their use.
pub(super) const ALL: &str = "SELECT name, key, fingerprint, receipts, created_at FROM idempotency_keys
    JOIN publishers ON publishers.id = publisher ORDER BY row";

/// The receipts of a row: the item's number, the id, and whether it is stored.
pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Vec<(u32, Arc<str>, bool)>> {
    let receipts = parsed(&row.get::<_, String>("receipts")?)?;
    Ok(receipts.into_iter().map(|(item, Receipt(id, stored, _delivered))| (item, id, stored)).collect())
}

fn parsed(receipts: &str) -> rusqlite::Result<BTreeMap<u32, Receipt>> {
    serde_json::from_str(receipts)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()))
}

fn insert(
    connection: &Connection,
    name: &Name,
    fingerprint: &Fingerprint,
    at: Moment,
    receipts: &BTreeMap<u32, Receipt>,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("INSERT INTO publishers (name) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([&name.publisher])?;
    connection
        .prepare_cached(
            "INSERT INTO idempotency_keys (publisher, key, fingerprint, receipts, cost, created_at)
             VALUES ((SELECT id FROM publishers WHERE name = :publisher), :key, :fingerprint, :receipts, :cost, :created_at)",
        )?
        .insert(named_params! {
            ":publisher": name.publisher,
            ":key": name.key,
            ":fingerprint": fingerprint,
            ":receipts": json(receipts)?,
            ":cost": cost(receipts.len()),
            ":created_at": at.epoch_ms(),
        })
}

/// Forgets a key, and returns its cost.
fn forget(connection: &Connection, name: &Name) -> rusqlite::Result<u64> {
    let freed = connection
        .prepare_cached(
            "DELETE FROM idempotency_keys
             WHERE publisher = (SELECT id FROM publishers WHERE name = ?1) AND key = ?2 RETURNING cost",
        )?
        .query_row((&name.publisher, &name.key), |row| row.get(0))
        .optional()?;
    Ok(freed.unwrap_or(0))
}

/// The total cost of all keys.
pub(super) fn used(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(sum(used), 0) FROM publishers", [], |row| row.get(0))
}

/// The total cost of a publisher's keys.
pub(super) fn used_by(connection: &Connection, publisher: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(sum(used), 0) FROM publishers WHERE name = ?1")?
        .query_row([publisher], |row| row.get(0))
}

/// The last of the oldest keys whose total cost reaches `excess`, and the time of its use. The keys are those of all
/// publishers or of one. If more than [`RETENTION_ROWS`] keys are needed, it is the last of that many.
pub(super) fn last_in_the_way(
    connection: &Connection,
    publisher: Option<&str>,
    excess: u64,
) -> rusqlite::Result<Option<(i64, Moment)>> {
    let mut statement = connection.prepare_cached(match publisher {
        Some(_) => {
            "SELECT row, created_at, cost FROM idempotency_keys
             WHERE publisher = (SELECT id FROM publishers WHERE name = ?2) ORDER BY row LIMIT ?1"
        }
        None => "SELECT row, created_at, cost FROM idempotency_keys WHERE ?2 IS NULL ORDER BY row LIMIT ?1",
    })?;
    let mut rows = statement.query((RETENTION_ROWS, publisher))?;
    let (mut last, mut sum) = (None, 0);
    while sum < excess
        && let Some(row) = rows.next()?
    {
        last = Some((row.get(0)?, Moment::from_epoch_ms(row.get(1)?)));
        sum += row.get::<_, u64>(2)?;
    }
    Ok(last)
}

/// Forgets the keys, of all publishers or of one, up to this row that were used at `since` or earlier. Returns the
/// number of rows and their total cost.
pub(super) fn forget_up_to(
    connection: &Connection,
    publisher: Option<&str>,
    row: i64,
    since: Moment,
) -> rusqlite::Result<(usize, u64)> {
    let mut statement = connection.prepare_cached(match publisher {
        Some(_) => {
            "DELETE FROM idempotency_keys WHERE publisher = (SELECT id FROM publishers WHERE name = ?3)
             AND row <= ?1 AND created_at <= ?2 RETURNING cost"
        }
        None => "DELETE FROM idempotency_keys WHERE ?3 IS NULL AND row <= ?1 AND created_at <= ?2 RETURNING cost",
    })?;
    let mut rows = statement.query((row, since.epoch_ms(), publisher))?;
    let (mut removed, mut freed) = (0, 0);
    while let Some(row) = rows.next()? {
        removed += 1;
        freed += row.get::<_, u64>(0)?;
    }
    Ok((removed, freed))
}

/// Forgets at most `most` keys that are too old, the oldest first. Returns the number of rows and their total cost.
pub(super) fn forget_old(
    connection: &Connection,
    now: Moment,
    age: Duration,
    most: usize,
) -> rusqlite::Result<(usize, u64)> {
    let since = now.before(age);
    let mut statement =
        connection.prepare_cached("SELECT row, created_at FROM idempotency_keys ORDER BY row LIMIT ?1")?;
    let mut rows = statement.query([most])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let at: u64 = row.get(1)?;
        if at > now.epoch_ms() {
            // The clock was ahead. Keys used at that time would stay for as long as the clock was ahead, and keep the
            // keys behind them.
            connection
                .prepare_cached("UPDATE idempotency_keys SET created_at = ?1 WHERE created_at > ?1")?
                .execute([now.epoch_ms()])?;
            break;
        }
        if at > since.epoch_ms() {
            break;
        }
        last = Some(row.get(0)?);
    }
    drop(rows);
    last.map_or(Ok((0, 0)), |last| forget_up_to(connection, None, last, since))
}
