//! The log of durable events, and what a client missed of them.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{MediaState, Replay, Step, StoredEvent};
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
            missed.add(room, row.get(0)?, || Ok((row.get(1)?, row.get(2)?)))?;
            if missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Replay::default());
            }
        }
    }
    if namespace == MEDIA {
        for (room, joined) in rooms {
            if let Some(id) = rooms::media_of(room) {
                let state = media::find(connection, id)?.filter(|state| state.seq <= until);
                let is_missed = |state: &MediaState| {
                    // The state that it was told at the joining need not have arrived, unless it got something since.
                    *joined >= after || (matches!(state.step, Step::Progress(_)) && state.seq > after)
                };
                missed.add_states(room, state.filter(is_missed))?;
            } else if let Some(owner) = rooms::user_of(room) {
                let after = after.max(*joined);
                missed.add_states(room, media::progress_of_owner(connection, owner, after, until)?)?;
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
    /// Adds an event that went to this room.
    fn add(
        &mut self,
        room: &str,
        seq: u64,
        read: impl FnOnce() -> rusqlite::Result<(Arc<str>, Arc<str>)>,
    ) -> rusqlite::Result<()> {
        let event = match self.events.entry(seq) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let (event, argument) = read()?;
                self.bytes += event.len() + argument.len();
                place.insert(StoredEvent { seq, event, argument, latest: false, rooms: Vec::new() })
            }
        };
        if !event.rooms.iter().any(|known| known == room) {
            event.rooms.push(room.to_owned());
        }
        Ok(())
    }

    fn add_states(&mut self, room: &str, states: impl IntoIterator<Item = MediaState>) -> rusqlite::Result<()> {
        for state in states {
            let event = state.step.event().into();
            self.add(room, state.seq, || Ok((event, state.payload)))?;
            if let (Step::Progress(_), Some(added)) = (state.step, self.events.get_mut(&state.seq)) {
                added.latest = true;
            }
        }
        Ok(())
    }
}
