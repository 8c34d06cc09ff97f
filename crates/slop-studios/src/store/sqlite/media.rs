//! The table of media states.

use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, named_params};

use super::super::media::{MediaState, Step};
use super::super::{MediaUnderWay, UnderWay};
use crate::clock::Moment;

const PROGRESS: i64 = 0;
const COMPLETE: i64 = 1;
const ERROR: i64 = 2;

/// The last state of an item.
pub(super) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<MediaState>> {
    let mut statement = connection.prepare_cached("SELECT * FROM media WHERE id = ?1")?;
    statement.query_row([id], state).optional()
}

/// Puts a state in the place of the one before.
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

/// The states of all items of an owner whose last event is progress with a number after `after`, up to and with `until`.
pub(super) fn progress_of_owner(
    connection: &Connection,
    owner: &str,
    after: u64,
    until: u64,
) -> rusqlite::Result<Vec<MediaState>> {
    let mut statement: CachedStatement<'_> =
        connection.prepare_cached("SELECT * FROM media WHERE owner = ?1 AND step = 0 AND seq > ?2 AND seq <= ?3")?;
    statement.query_map((owner, after, until), state)?.collect()
}

/// The highest number.
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

fn state(row: &Row<'_>) -> rusqlite::Result<MediaState> {
    Ok(MediaState {
        owner_id: row.get("owner")?,
        attempt: row.get("attempt")?,
        step: match row.get("step")? {
            PROGRESS => Step::Progress(row.get("progress")?),
            COMPLETE => Step::Complete,
            _ => Step::Error,
        },
        payload: row.get("payload")?,
        updated_at: Moment::from_epoch_ms(row.get("created_at")?),
        seq: row.get("seq")?,
    })
}
