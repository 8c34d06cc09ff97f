//! Reads, in slices, the events that a client missed in earlier lives of the server.
//!
//! No commit of this life changes these events: they have the numbers of earlier lives. So a slice may run between any
//! two turns of the writer. Events that are removed from the log meanwhile are noticed at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;

use super::super::{MediaState, Replay, Step, StoredEvent};
use super::journal::Earlier;
use super::{log, media};
use crate::contract::delivery::Class;
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms;
use crate::limits::{MAX_REPLAY_BYTES, REPLAY_LOOK_AHEAD};

/// See [`Store::replay`](super::super::Store::replay).
#[derive(Debug)]
pub(super) struct ReplayRead {
    earlier: Arc<Earlier>,
    namespace: String,
    rooms: Vec<(Arc<str>, u64)>,
    after: u64,
    until: u64,
    place: Place,
    /// The indexes of the rooms with events in the log. `None` if each room has to be looked up.
    logged: Option<HashSet<usize>>,
    /// The indexes of the rooms of items whose states may have been missed. `None` as above.
    with_states: Option<HashSet<usize>>,
    missed: Missed,
    /// The numbers of the newest events by event name, for the current room and for events of which only the newest
    /// matters.
    newest: HashMap<Arc<str>, u64>,
}

/// The position at which the read continues.
#[derive(Debug, Clone, Copy)]
enum Place {
    Begin,
    /// The events of this room with numbers above `past`.
    Events {
        room: usize,
        source: Source,
        past: u64,
    },
    /// The states of the items whose events this room gets, with numbers above `past`.
    States {
        room: usize,
        past: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Log,
    /// The log's events for which this room is the second room.
    LogOfOwner,
    Journal,
}

/// The outcome of a slice.
enum Slice {
    /// The time is up.
    Unfinished,
    /// Some events are gone, or there are more than can be replayed.
    Incomplete,
    /// There are no more events.
    Finished,
}

impl ReplayRead {
    pub(super) fn new(
        earlier: Arc<Earlier>,
        namespace: &str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> Self {
        Self {
            earlier,
            namespace: namespace.to_owned(),
            rooms,
            after,
            until,
            place: Place::Begin,
            logged: None,
            with_states: None,
            missed: Missed::default(),
            newest: HashMap::new(),
        }
    }

    /// Continues until the read has ended or the time is up, but always makes some progress. Returns `None` if the read
    /// has not ended.
    pub(super) fn go_on(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Option<Replay>> {
        let slice = match self.place {
            Place::Begin => self.begin(connection)?,
            Place::Events { .. } => self.read_events(connection, time_up)?,
            Place::States { .. } => self.read_states(connection, time_up)?,
        };
        match (slice, self.place) {
            (Slice::Incomplete, _) => Ok(Some(Replay::default())),
            (Slice::Finished, Place::Events { .. }) if self.namespace == MEDIA => {
                self.place = Place::States { room: 0, past: 0 };
                Ok(None)
            }
            (Slice::Finished, _) if self.is_incomplete(connection)? => Ok(Some(Replay::default())),
            (Slice::Finished, _) => {
                let events = mem::take(&mut self.missed.events).into_values().collect();
                Ok(Some(Replay { complete: true, events }))
            }
            (Slice::Unfinished, _) => Ok(None),
        }
    }

    fn is_incomplete(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let removed = log::removed_up_to(connection)?;
        Ok(removed.is_some_and(|removed| removed > self.after) || self.earlier.complete_after() > self.after)
    }

    fn begin(&mut self, connection: &Connection) -> rusqlite::Result<Slice> {
        if self.is_incomplete(connection)? {
            return Ok(Slice::Incomplete);
        }
        self.logged = self.rooms_logged(connection)?;
        if self.namespace == MEDIA {
            self.with_states = self.rooms_with_states(connection)?;
        }
        self.place = Place::Events { room: 0, source: Source::Log, past: 0 };
        Ok(Slice::Unfinished)
    }

    /// The number of rows to examine before it costs less to look up each room.
    fn look_ahead(&self) -> usize {
        self.rooms.len().min(REPLAY_LOOK_AHEAD)
    }

    fn rooms_logged(&self, connection: &Connection) -> rusqlite::Result<Option<HashSet<usize>>> {
        let places: HashMap<&str, usize> = self.rooms.iter().map(|(room, _)| &**room).zip(0..).collect();
        let (mut logged, most) = (HashSet::new(), self.look_ahead());
        let mut statement = connection.prepare_cached(
            "SELECT namespace, room, owner_room FROM log WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = statement.query((self.after, self.until, most + 1))?;
        for _ in 0..=most {
            let Some(row) = rows.next()? else { return Ok(Some(logged)) };
            if row.get_ref(0)?.as_str()? == self.namespace {
                let rooms = [Some(row.get_ref(1)?.as_str()?), row.get_ref(2)?.as_str_or_null()?];
                logged.extend(rooms.into_iter().flatten().filter_map(|room| places.get(room)));
            }
        }
        Ok(None)
    }

    fn rooms_with_states(&self, connection: &Connection) -> rusqlite::Result<Option<HashSet<usize>>> {
        let places: HashMap<&str, usize> =
            self.rooms.iter().zip(0..).filter_map(|((room, _), place)| Some((rooms::media_of(room)?, place))).collect();
        let (mut with_states, most) = (HashSet::new(), self.look_ahead());
        let mut statement =
            connection.prepare_cached("SELECT id FROM media WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3")?;
        let mut rows = statement.query((self.after, self.until, most + 1))?;
        for _ in 0..=most {
            let Some(row) = rows.next()? else { return Ok(Some(with_states)) };
            with_states.extend(places.get(row.get_ref(0)?.as_str()?));
        }
        Ok(None)
    }

    fn read_events(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Slice> {
        // Events are kept by number, so that an event for several of the rooms occurs once.
        let mut of_room = connection.prepare_cached(
            "SELECT seq, event, argument, latest FROM log
             WHERE namespace = ?1 AND room = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq",
        )?;
        let mut of_owner = connection.prepare_cached(
            "SELECT seq, event, argument, latest FROM log
             WHERE namespace = ?1 AND owner_room = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq",
        )?;
        while let Place::Events { room: index, source, past } = self.place
            && let Some((room, joined)) = self.rooms.get(index)
        {
            let after = self.after.max(*joined).max(past);
            let is_logged = self.logged.as_ref().is_none_or(|logged| logged.contains(&index));
            let statement = match source {
                Source::Log => Some(&mut of_room),
                Source::LogOfOwner => Some(&mut of_owner),
                Source::Journal => None,
            };
            if let Some(statement) = statement.filter(|_| is_logged) {
                let mut rows = statement.query((&self.namespace, room, after, self.until))?;
                while let Some(row) = rows.next()? {
                    let (seq, event, argument) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    self.missed.add_said(room, seq, event, argument, row.get(3)?, &mut self.newest);
                    if self.missed.bytes > MAX_REPLAY_BYTES {
                        return Ok(Slice::Incomplete);
                    }
                    if Instant::now() >= time_up {
                        self.place = Place::Events { room: index, source, past: seq };
                        return Ok(Slice::Unfinished);
                    }
                }
            } else if matches!(source, Source::Journal) {
                for record in self.earlier.events(&self.namespace, room, after, self.until) {
                    let (seq, event, argument) = (record.seq, record.event.into(), record.argument.into());
                    self.missed.add_said(room, seq, event, argument, record.is_latest, &mut self.newest);
                    if self.missed.bytes > MAX_REPLAY_BYTES {
                        return Ok(Slice::Incomplete);
                    }
                    if Instant::now() >= time_up {
                        self.place = Place::Events { room: index, source, past: seq };
                        return Ok(Slice::Unfinished);
                    }
                }
            }
            self.place = match source {
                Source::Log => Place::Events { room: index, source: Source::LogOfOwner, past: 0 },
                Source::LogOfOwner => Place::Events { room: index, source: Source::Journal, past: 0 },
                Source::Journal => {
                    self.newest.clear();
                    Place::Events { room: index + 1, source: Source::Log, past: 0 }
                }
            };
            if Instant::now() >= time_up {
                return Ok(Slice::Unfinished);
            }
        }
        Ok(Slice::Finished)
    }

    fn read_states(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Slice> {
        while let Place::States { room: index, past } = self.place
            && let Some((room, joined)) = self.rooms.get(index)
        {
            if let Some(id) = rooms::media_of(room) {
                // The client was sent the state when it joined. It may not have received it, unless it received an
                // event since.
                let is_told_again = *joined >= self.after;
                if is_told_again || self.with_states.as_ref().is_none_or(|rooms| rooms.contains(&index)) {
                    let state = media::find(connection, id)?.filter(|state| state.seq <= self.until);
                    let is_missed = |state: &MediaState| {
                        is_told_again || (matches!(state.step, Step::Progress(_)) && state.seq > self.after)
                    };
                    if let Some(state) = state.filter(is_missed) {
                        self.missed.add_state(room, state);
                    }
                }
            } else if let Some(owner) = rooms::user_of(room) {
                let after = self.after.max(*joined).max(past);
                let mut is_time_up = None;
                media::progress_of_owner(connection, owner, after, self.until, |state| {
                    let seq = state.seq;
                    self.missed.add_state(room, state);
                    let goes_on = self.missed.bytes <= MAX_REPLAY_BYTES;
                    is_time_up = Some(seq).filter(|_| goes_on && Instant::now() >= time_up);
                    goes_on && is_time_up.is_none()
                })?;
                if let Some(past) = is_time_up {
                    self.place = Place::States { room: index, past };
                    return Ok(Slice::Unfinished);
                }
            }
            if self.missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Slice::Incomplete);
            }
            self.place = Place::States { room: index + 1, past: 0 };
            if Instant::now() >= time_up {
                return Ok(Slice::Unfinished);
            }
        }
        Ok(Slice::Finished)
    }
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

    /// Adds an event of the log or the journal, unless only the newest of its name in the room matters and the event is
    /// older. `newest` has the numbers of the newest events.
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
            let older = mem::replace(known, seq);
            if older < seq
                && let Some(older) = self.events.remove(&older)
            {
                self.bytes -= older.event.len() + older.argument.len();
            }
        }
        self.add(room, seq, event, argument, latest);
    }

    fn add_state(&mut self, room: &str, state: MediaState) {
        let route = state.step.route();
        self.add(room, state.seq, route.event.into(), state.payload, route.class == Class::Latest);
    }
}
