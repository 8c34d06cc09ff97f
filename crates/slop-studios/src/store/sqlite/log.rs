//! The log of durable events, and what a client missed of them.

use std::collections::{BTreeMap, HashMap};
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
        let after = after.max(*joined);
        let mut newest = HashMap::new();
        let mut rows = entries.query((namespace, room, after, until))?;
        while let Some(row) = rows.next()? {
            let (event, argument): (Arc<str>, Arc<str>) = (row.get(1)?, row.get(2)?);
            missed.add_said(room, row.get(0)?, event, argument, row.get(3)?, &mut newest);
            if missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Replay::default());
            }
        }
        for record in earlier.events(namespace, room, after, until) {
            let (event, argument) = (record.event.into(), record.argument.into());
            missed.add_said(room, record.seq, event, argument, record.is_latest, &mut newest);
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
                missed.add_states(room, state.filter(is_missed));
            } else if let Some(owner) = rooms::user_of(room) {
                let after = after.max(*joined);
                missed.add_states(room, media::progress_of_owner(connection, owner, after, until)?);
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
    fn add(&mut self, room: &str, seq: u64, event: Arc<str>, argument: Arc<str>, latest: bool) {
        let event = self.events.entry(seq).or_insert_with(|| {
            self.bytes += event.len() + argument.len();
            StoredEvent { seq, event, argument, latest, rooms: Vec::new() }
        });
        if !event.rooms.iter().any(|known| known == room) {
            event.rooms.push(room.to_owned());
        }
    }

    /// The same of a log's event, unless only the newest of its name in the room matters and it is not that. `newest` has the
    /// numbers of these.
    fn add_said(
        &mut self,
        room: &str,
        seq: u64,
        event: Arc<str>,
        argument: Arc<str>,
        latest: bool,
        newest: &mut HashMap<Arc<str>, u64>,
    ) {
        if latest {
            let known = newest.entry(Arc::clone(&event)).or_insert(seq);
            if seq < *known {
                return;
            }
            let older = std::mem::replace(known, seq);
            if older < seq
                && let Some(older) = self.events.remove(&older)
            {
                self.bytes -= older.event.len() + older.argument.len();
            }
        }
        self.add(room, seq, event, argument, latest);
    }

    fn add_states(&mut self, room: &str, states: impl IntoIterator<Item = MediaState>) {
        for state in states {
            let is_latest = matches!(state.step, Step::Progress(_));
            self.add(room, state.seq, state.step.event().into(), state.payload, is_latest);
        }
    }
}
