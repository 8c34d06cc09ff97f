//! The log of durable events. `replay` reads what a client missed of them.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use crate::clock::Moment;

/// An event to write down.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) seq: u64,
    pub(super) at: Moment,
    pub(super) namespace: &'a str,
    pub(super) room: &'a str,
    /// The other room that it went to.
    pub(super) owner_room: Option<&'a str>,
    pub(super) event: &'a str,
    pub(super) argument: &'a str,
    /// Of those of its name in its room, only the newest matters.
    pub(super) is_latest: bool,
}

pub(super) fn append(connection: &Connection, entry: &Entry<'_>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO log (seq, namespace, room, owner_room, event, argument, latest, created_at)
             VALUES (:seq, :namespace, :room, :owner_room, :event, :argument, :latest, :created_at)",
        )?
        .execute(named_params! {
            ":seq": entry.seq,
            ":namespace": entry.namespace,
            ":room": entry.room,
            ":owner_room": entry.owner_room,
            ":event": entry.event,
            ":argument": entry.argument,
            ":latest": entry.is_latest,
            ":created_at": entry.at.epoch_ms(),
        })?;
    Ok(())
}

/// Takes note that everything up to this number is gone.
pub(super) fn removed(connection: &Connection, up_to: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('log_removed', ?1)")?
        .execute([up_to])?;
    Ok(())
}

/// The number up to which everything is gone, if anything is.
pub(super) fn removed_up_to(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'log_removed'")?
        .query_row([], |row| row.get(0))
        .optional()
}
