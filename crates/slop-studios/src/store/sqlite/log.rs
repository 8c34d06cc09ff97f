//! The log of durable events, and what a client missed of them.

use std::collections::{BTreeMap, HashSet, btree_map};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{MediaState, Replay, Step, StoredEvent};
use super::journal::Earlier;
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

/// See [`Store::replay`](super::super::Store::replay).
pub(super) fn replay(
    connection: &Connection,
    earlier: &Earlier,
    namespace: &str,
    rooms: &[(String, u64)],
    after: u64,
    until: u64,
) -> rusqlite::Result<Replay> {
    let removed: Option<u64> = connection
        .prepare_cached("SELECT value FROM meta WHERE name = 'log_removed'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if removed.is_some_and(|removed| removed > after) || earlier.complete_after() > after {
        return Ok(Replay::default());
    }

    // By number, so that an event which went to several of the rooms is there once.
    let mut missed = Missed::default();
    let mut entries = connection.prepare_cached(
        "SELECT seq, event, argument, latest FROM log WHERE namespace = ?1 AND room = ?2 AND seq > ?3 AND seq <= ?4
         UNION ALL
         SELECT seq, event, argument, latest FROM log
         WHERE namespace = ?1 AND owner_room = ?2 AND seq > ?3 AND seq <= ?4",
    )?;
    for (room, joined) in rooms {
        let (after, mut has_latest) = (after.max(*joined), false);
        let mut rows = entries.query((namespace, room, after, until))?;
        while let Some(row) = rows.next()? {
            let is_latest = row.get(3)?;
            has_latest |= is_latest;
            missed.add(room, row.get(0)?, is_latest, || Ok((row.get(1)?, row.get(2)?)))?;
            if missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Replay::default());
            }
        }
        for record in earlier.events(namespace, room, after, until) {
            has_latest |= record.is_latest;
            missed.add(room, record.seq, record.is_latest, || Ok((record.event.into(), record.argument.into())))?;
            if missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Replay::default());
            }
        }
        if has_latest {
            missed.keep_newest(room);
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
        latest: bool,
        read: impl FnOnce() -> rusqlite::Result<(Arc<str>, Arc<str>)>,
    ) -> rusqlite::Result<()> {
        let event = match self.events.entry(seq) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let (event, argument) = read()?;
                self.bytes += event.len() + argument.len();
                place.insert(StoredEvent { seq, event, argument, latest, rooms: Vec::new() })
            }
        };
        if !event.rooms.iter().any(|known| known == room) {
            event.rooms.push(room.to_owned());
        }
        Ok(())
    }

    fn add_states(&mut self, room: &str, states: impl IntoIterator<Item = MediaState>) -> rusqlite::Result<()> {
        for state in states {
            let (event, is_latest) = (state.step.event().into(), matches!(state.step, Step::Progress(_)));
            self.add(room, state.seq, is_latest, || Ok((event, state.payload)))?;
        }
        Ok(())
    }

    /// Of the events of this room of which only the newest of a name matters, leaves that one.
    fn keep_newest(&mut self, room: &str) {
        let mut names = HashSet::new();
        let of_room = |event: &&StoredEvent| event.latest && event.rooms.iter().any(|known| known == room);
        let newest_first = self.events.values().rev().filter(of_room);
        let older: Vec<StoredEvent> =
            newest_first.filter(|event| !names.insert(Arc::clone(&event.event))).cloned().collect();
        for event in older {
            self.bytes -= event.event.len() + event.argument.len();
            self.events.remove(&event.seq);
        }
    }
}
