//! Sessions for recovery, and the numbers up to which their clients have received events.

use rusqlite::{Connection, OptionalExtension as _};

use super::super::{Before, SessionKey, SessionRecord};
use super::lazy::Left;
use crate::contract::time::Moment;

/// The number of remembered runs: more than can pass while a client is away.
const RUNS: u32 = 100;

/// Adds a session that is saved in this run, and returns its bytes.
pub(super) fn insert(connection: &Connection, session: &SessionRecord, boot_seq: u64) -> rusqlite::Result<u64> {
    // Names and numbers always have a JSON form.
    let rooms = serde_json::to_string(&session.rooms).unwrap_or_default();
    // The parameters are positional: each named parameter needs a search, and sessions are written by the thousand.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO sessions (key, namespace, socket_id, rooms, data, since_seq, created_at, life, left_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute((
            session.key,
            &session.namespace,
            &session.socket_id,
            &rooms,
            &session.data,
            session.since_seq,
            session.updated_at.epoch_ms(),
            boot_seq,
            session.left_at.map(Moment::epoch_ms),
        ))?;
    Ok((rooms.len() + session.data.len()) as u64)
}

/// Removes a session, and returns its bytes if there was one.
pub(super) fn remove(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<u64>> {
    // With RETURNING, SQLite would build a table of its own for one row.
    let found: Option<(i64, u64)> = connection
        .prepare_cached("SELECT row, octet_length(rooms) + octet_length(data) FROM sessions WHERE key = ?1")?
        .query_row([key], |found| Ok((found.get(0)?, found.get(1)?)))
        .optional()?;
    let Some((row, bytes)) = found else { return Ok(None) };
    connection.prepare_cached("DELETE FROM sessions WHERE row = ?1")?.execute([row])?;
    Ok(Some(bytes))
}

/// Removes all sessions, because not all of them are up to date.
pub(super) fn remove_all(connection: &Connection) -> rusqlite::Result<()> {
    let forgotten = connection.execute("DELETE FROM sessions", [])?;
    if forgotten > 0 {
        tracing::warn!(forgotten, "which sessions have changed since they were saved is not known; none is recovered");
    }
    Ok(())
}

/// Removes these sessions.
pub(super) fn remove_each(connection: &Connection, keys: &[SessionKey]) -> rusqlite::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    for key in keys {
        remove(&transaction, key)?;
    }
    transaction.commit()
}

/// Records that a session's client has left.
pub(super) fn left(connection: &Connection, key: &SessionKey, left: Left) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE sessions SET left_at = ?2, since_seq = max(since_seq, ?3) WHERE key = ?1")?
        .execute((key, left.at.epoch_ms(), left.since_seq))?;
    Ok(())
}

/// Records the number up to which every connected client of this run has received all events.
pub(super) fn confirmed(connection: &Connection, boot_seq: u64, up_to: u64) -> rusqlite::Result<()> {
    let known = connection
        .prepare_cached("UPDATE lives SET confirmed = ?2 WHERE first_seq = ?1")?
        .execute((boot_seq, up_to))?;
    if known == 0 {
        connection.execute("INSERT INTO lives (first_seq, confirmed) VALUES (?1, ?2)", (boot_seq, up_to))?;
        let newest = "SELECT first_seq FROM lives ORDER BY first_seq DESC LIMIT ?1";
        connection.execute(&format!("DELETE FROM lives WHERE first_seq NOT IN ({newest})"), [RUNS])?;
    }
    Ok(())
}

/// Lowers that number to this one, unless it is already lower: a higher number does not hold yet for some of the
/// sessions that are being written.
pub(super) fn confirmed_at_most(connection: &Connection, boot_seq: u64, up_to: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE lives SET confirmed = ?2 WHERE first_seq = ?1 AND confirmed > ?2")?
        .execute((boot_seq, up_to))?;
    Ok(())
}

/// A session, with the number up to which its client is known to have received events, and the
/// `boot_seq` of the run that saved it.
pub(super) fn find(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<(SessionRecord, u64)>> {
    connection
        .prepare_cached(
            "SELECT sessions.*, lives.confirmed FROM sessions LEFT JOIN lives ON first_seq = life WHERE key = ?1",
        )?
        .query_row([key], |row| {
            let rooms: String = row.get("rooms")?;
            let (since, confirmed): (u64, Option<u64>) = (row.get("since_seq")?, row.get("confirmed")?);
            let left_at: Option<u64> = row.get("left_at")?;
            let record = SessionRecord {
                key: *key,
                namespace: row.get("namespace")?,
                socket_id: row.get("socket_id")?,
                rooms: serde_json::from_str(&rooms).unwrap_or_default(),
                data: row.get("data")?,
                // The confirmed number does not hold for clients that had left by then.
                since_seq: since.max(confirmed.filter(|_| left_at.is_none()).unwrap_or_default()),
                updated_at: Moment::from_epoch_ms(row.get("created_at")?),
                left_at: left_at.map(Moment::from_epoch_ms),
                before: Before::Valid,
                own_events: None,
            };
            Ok((record, row.get("life")?))
        })
        .optional()
}
