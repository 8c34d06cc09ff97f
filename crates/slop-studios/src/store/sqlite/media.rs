//! The table of media states.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::super::media::{MediaState, Step};
use super::super::{MediaSnapshot, MediaUnderWay, UnderWay};
use crate::contract::time::Moment;

const PROGRESS: i64 = 0;
const COMPLETE: i64 = 1;
const ERROR: i64 = 2;

/// The query for the states of all items, in the order of their last events.
pub(super) const ALL: &str =
    "SELECT owner, attempt, step, progress, payload, created_at, seq, id FROM media ORDER BY seq";

/// The last state of an item.
pub(super) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<MediaState>> {
    let mut statement = connection
        .prepare_cached("SELECT owner, attempt, step, progress, payload, created_at, seq FROM media WHERE id = ?1")?;
    statement.query_row([id], state).optional()
}

/// The last state of an item, when `as_of` is the number of the last event.
pub(super) fn snapshot(connection: &Connection, id: &str, as_of: u64) -> rusqlite::Result<MediaSnapshot> {
    Ok(MediaSnapshot { state: find(connection, id)?, as_of })
}

/// Replaces the earlier state of an item.
pub(super) fn put(connection: &Connection, id: &str, state: &MediaState) -> rusqlite::Result<()> {
    let (step, progress) = match state.step {
        Step::Progress(progress) => (PROGRESS, Some(progress)),
        Step::Complete => (COMPLETE, None),
        Step::Error => (ERROR, None),
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO media (seq, id, owner, attempt, step, progress, payload, created_at)
             VALUES (:seq, :id, :owner, :attempt, :step, :progress, :payload, :created_at)",
        )?
        .execute(named_params! {
            ":seq": state.seq,
            ":id": id,
            ":owner": state.owner_id,
            ":attempt": state.attempt,
            ":step": step,
            ":progress": progress,
            ":payload": state.payload,
            ":created_at": state.updated_at.epoch_ms(),
        })?;
    Ok(())
}

/// Passes the states of an owner's items to `take`. The last event of these items is progress with a number after
/// `after`, up to and including `until`. The states come in the order of these numbers, for as long as `take` returns
/// true.
pub(super) fn progress_of_owner(
    connection: &Connection,
    owner: &str,
    after: u64,
    until: u64,
    mut take: impl FnMut(&str, MediaState) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT owner, attempt, step, progress, payload, created_at, seq, id FROM media
         WHERE owner = ?1 AND step = 0 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
    )?;
    let mut rows = statement.query((owner, after, until))?;
    while let Some(row) = rows.next()? {
        if !take(row.get_ref("id")?.as_str()?, state(row)?) {
            break;
        }
    }
    Ok(())
}

/// The owner of an item, if it is known.
pub(super) fn owner(connection: &Connection, id: &str) -> rusqlite::Result<Option<Arc<str>>> {
    let mut statement = connection.prepare_cached("SELECT owner FROM media WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?.flatten())
}

/// The highest event number in the table.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM media")?.query_row([], |row| row.get(0))
}

/// See [`super::super::Store::media_under_way`].
pub(super) fn under_way(
    connection: &Connection,
    after: u64,
    until: u64,
    most: usize,
) -> rusqlite::Result<MediaUnderWay> {
    let mut statement = connection
        .prepare_cached("SELECT seq, id, step FROM media WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3")?;
    let mut rows = statement.query((after, until, most))?;
    let (mut items, mut looked_at, mut last) = (Vec::new(), 0, after);
    while let Some(row) = rows.next()? {
        let (seq, step): (u64, i64) = (row.get("seq")?, row.get("step")?);
        if step == PROGRESS {
            items.push(UnderWay { media_id: row.get("id")?, seq });
        }
        (looked_at, last) = (looked_at + 1, seq);
    }
    Ok(MediaUnderWay { items, up_to: if looked_at < most { until } else { last } })
}

/// Reads a state. Columns are read by position: a thousand subscriptions are a thousand rows, and names would be looked
/// up in each row.
pub(super) fn state(row: &Row<'_>) -> rusqlite::Result<MediaState> {
    Ok(MediaState {
        owner_id: row.get(0)?,
        attempt: row.get(1)?,
        step: match row.get(2)? {
            PROGRESS => Step::Progress(row.get(3)?),
            COMPLETE => Step::Complete,
            _ => Step::Error,
        },
        payload: row.get(4)?,
        updated_at: Moment::from_epoch_ms(row.get(5)?),
        seq: row.get(6)?,
    })
}
