//! The log of durable events. `replay` reads the events that a client missed.

use rusqlite::{Connection, OptionalExtension as _, named_params};

use crate::contract::delivery::{Class, Envelope};
use crate::contract::time::Moment;

/// An event to write.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) seq: u64,
    pub(super) at: Moment,
    pub(super) envelope: &'a Envelope,
}

pub(super) fn append(connection: &Connection, entry: &Entry<'_>) -> rusqlite::Result<()> {
    let envelope = entry.envelope;
    connection
        .prepare_cached(
            "INSERT INTO log (seq, namespace, room, owner_room, event, argument, latest, created_at)
             VALUES (:seq, :namespace, :room, :owner_room, :event, :argument, :latest, :created_at)",
        )?
        .execute(named_params! {
            ":seq": entry.seq,
            ":namespace": envelope.namespace,
            ":room": envelope.room,
            ":owner_room": envelope.owner_room,
            ":event": envelope.event,
            ":argument": envelope.argument,
            ":latest": class_code(envelope.class),
            ":created_at": entry.at.epoch_ms(),
        })?;
    Ok(())
}

/// The class in the column `latest`, which is older than the other classes in the log.
const fn class_code(class: Class) -> u8 {
    match class {
        Class::Durable => 0,
        Class::Latest => 1,
        Class::Recoverable => 2,
    }
}

/// The class of a row.
pub(super) const fn class_of(code: u8) -> Class {
    match code {
        1 => Class::Latest,
        2 => Class::Recoverable,
        _ => Class::Durable,
    }
}

/// Records that all events up to this number are removed.
pub(super) fn removed(connection: &Connection, up_to: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES ('log_removed', ?1)")?
        .execute([up_to])?;
    Ok(())
}

/// The number up to which all events are removed, if any are.
pub(super) fn removed_up_to(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'log_removed'")?
        .query_row([], |row| row.get(0))
        .optional()
}
