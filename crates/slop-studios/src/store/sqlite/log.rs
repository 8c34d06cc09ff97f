//! The log of durable events, and what a client missed of them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{MediaState, Replay, StoredEvent};
use super::media;
use crate::clock::Moment;
use crate::limits::MAX_REPLAY_BYTES;
use crate::namespaces::MEDIA;
use crate::rooms;

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
}

pub(super) fn append(connection: &Connection, entry: &Entry<'_>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO log (seq, namespace, room, owner_room, event, argument, created_at)
             VALUES (:seq, :namespace, :room, :owner_room, :event, :argument, :created_at)",
        )?
        .execute(named_params! {
            ":seq": entry.seq,
            ":namespace": entry.namespace,
            ":room": entry.room,
            ":owner_room": entry.owner_room,
            ":event": entry.event,
            ":argument": entry.argument,
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

/// See [`Store::replay`](super::super::Store::replay).
pub(super) fn replay(
    connection: &Connection,
    namespace: &str,
    rooms: &[(String, u64)],
    after: u64,
    until: u64,
) -> rusqlite::Result<Replay> {
    let removed: Option<u64> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'log_removed'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if removed.is_some_and(|removed| removed > after) {
        return Ok(Replay::default());
    }

    // By number, so that an event which went to several of the rooms is there once.
    let mut missed = Missed::default();
    let mut entries = connection.prepare_cached(
        "SELECT seq, event, argument FROM log WHERE namespace = ?1 AND room = ?2 AND seq > ?3 AND seq <= ?4
         UNION ALL
         SELECT seq, event, argument FROM log WHERE namespace = ?1 AND owner_room = ?2 AND seq > ?3 AND seq <= ?4",
    )?;
    for (room, joined) in rooms {
        let mut rows = entries.query((namespace, room, after.max(*joined), until))?;
        while let Some(row) = rows.next()? {
            missed.add(StoredEvent { seq: row.get(0)?, event: row.get(1)?, argument: row.get(2)?, latest: false });
            if missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Replay::default());
            }
        }
    }
    if namespace == MEDIA {
        for (room, joined) in rooms {
            let after = after.max(*joined);
            if let Some(id) = rooms::media_of(room) {
                missed.add_progress(media::progress_between(connection, id, after, until)?);
            } else if let Some(owner) = rooms::user_of(room) {
                missed.add_progress(media::progress_of_owner(connection, owner, after, until)?);
            }
        }
    }
    let complete = missed.bytes <= MAX_REPLAY_BYTES;
    Ok(Replay { complete, events: if complete { missed.events.into_values().collect() } else { Vec::new() } })
}

#[derive(Debug, Default)]
struct Missed {
    events: BTreeMap<u64, StoredEvent>,
    bytes: usize,
}

impl Missed {
    fn add(&mut self, event: StoredEvent) {
        self.bytes += event.event.len() + event.argument.len();
        self.events.insert(event.seq, event);
    }

    fn add_progress(&mut self, states: impl IntoIterator<Item = MediaState>) {
        for state in states {
            let (event, argument) = (state.step.event().into(), state.payload);
            self.add(StoredEvent { seq: state.seq, event, argument, latest: true });
        }
    }
}
