//! Sessions, kept for recovery.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{SessionKey, SessionRecord};
use crate::clock::Moment;

/// Adds a session, and returns its bytes.
pub(super) fn insert(connection: &Connection, session: &SessionRecord) -> rusqlite::Result<u64> {
    // Names and numbers always have a JSON form.
    let rooms = serde_json::to_string(&session.rooms).unwrap_or_default();
    connection
        .prepare_cached(
            "INSERT INTO sessions (key, namespace, socket_id, rooms, data, since_seq, created_at)
             VALUES (:key, :namespace, :socket_id, :rooms, :data, :since_seq, :created_at)",
        )?
        .execute(named_params! {
            ":key": session.key,
            ":namespace": session.namespace,
            ":socket_id": session.socket_id,
            ":rooms": rooms,
            ":data": session.data,
            ":since_seq": session.since_seq,
            ":created_at": session.updated_at.epoch_ms(),
        })?;
    Ok((rooms.len() + session.data.len()) as u64)
}

/// Removes a session, and returns its bytes if there was one.
pub(super) fn remove(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("DELETE FROM sessions WHERE key = ?1 RETURNING octet_length(rooms) + octet_length(data)")?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// Removes all sessions, and returns how many there were.
pub(super) fn remove_all(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute("DELETE FROM sessions", [])
}

pub(super) fn find(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<SessionRecord>> {
    connection
        .prepare_cached("SELECT * FROM sessions WHERE key = ?1")?
        .query_row([key], |row| {
            let rooms: String = row.get("rooms")?;
            Ok(SessionRecord {
                key: *key,
                namespace: row.get("namespace")?,
                socket_id: row.get("socket_id")?,
                rooms: serde_json::from_str(&rooms).unwrap_or_default(),
                data: row.get("data")?,
                since_seq: row.get("since_seq")?,
                updated_at: Moment::from_epoch_ms(row.get("created_at")?),
            })
        })
        .optional()
}
