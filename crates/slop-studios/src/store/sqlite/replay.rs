//! The events that a client missed in earlier runs of the server, read in slices.
//!
//! The commits of this run don't change these events, as the numbers of this run are higher. So a slice may run between
//! any two turns of the writer. The end of the read checks that no event was removed from the log meanwhile.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, Row};

use super::super::missed::Missed;
use super::super::{MediaState, Replay, Step};
use super::journal::{Earlier, Record};
use super::{log, media};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms;
use crate::limits::{MAX_REPLAY_BYTES, REPLAY_LOOK_AHEAD};

/// See [`Store::replay`](super::super::Store::replay).
#[derive(Debug)]
pub(super) struct ReplayRead {
    earlier: Arc<Earlier>,
    namespace: &'static str,
    rooms: Vec<(Arc<str>, u64)>,
    after: u64,
    until: u64,
    cursor: Cursor,
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
enum Cursor {
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
        namespace: &'static str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> Self {
        Self {
            earlier,
            namespace,
            rooms,
            after,
            until,
            cursor: Cursor::Begin,
            logged: None,
            with_states: None,
            missed: Missed::default(),
            newest: HashMap::new(),
        }
    }

    /// Continues until the read has ended or the time is up, but always makes some progress. Returns `None` if the read
    /// has not ended.
    pub(super) fn go_on(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Option<Replay>> {
        let slice = match self.cursor {
            Cursor::Begin => self.begin(connection)?,
            Cursor::Events { .. } => self.read_events(connection, time_up)?,
            Cursor::States { .. } => self.read_states(connection, time_up)?,
        };
        match (slice, self.cursor) {
            (Slice::Incomplete, _) => Ok(Some(Replay::default())),
            (Slice::Finished, Cursor::Events { .. }) if self.namespace == MEDIA => {
                self.cursor = Cursor::States { room: 0, past: 0 };
                Ok(None)
            }
            (Slice::Finished, _) if self.is_incomplete(connection)? => Ok(Some(Replay::default())),
            (Slice::Finished, _) => Ok(Some(mem::take(&mut self.missed).into_replay(self.until))),
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
        self.cursor = Cursor::Events { room: 0, source: Source::Log, past: 0 };
        Ok(Slice::Unfinished)
    }

    /// The number of rows to examine before it costs less to look up each room.
    fn look_ahead(&self) -> usize {
        self.rooms.len().min(REPLAY_LOOK_AHEAD)
    }

    fn rooms_logged(&self, connection: &Connection) -> rusqlite::Result<Option<HashSet<usize>>> {
        let indexes: HashMap<&str, usize> = self.rooms.iter().map(|(room, _)| &**room).zip(0..).collect();
        let (mut logged, most) = (HashSet::new(), self.look_ahead());
        let mut statement = connection.prepare_cached(
            "SELECT namespace, room, owner_room FROM log WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        )?;
        let mut rows = statement.query((self.after, self.until, most + 1))?;
        for _ in 0..=most {
            let Some(row) = rows.next()? else { return Ok(Some(logged)) };
            if row.get_ref(0)?.as_str()? == self.namespace {
                let rooms = [Some(row.get_ref(1)?.as_str()?), row.get_ref(2)?.as_str_or_null()?];
                logged.extend(rooms.into_iter().flatten().filter_map(|room| indexes.get(room)));
            }
        }
        Ok(None)
    }

    fn rooms_with_states(&self, connection: &Connection) -> rusqlite::Result<Option<HashSet<usize>>> {
        let indexes: HashMap<&str, usize> =
            self.rooms.iter().zip(0..).filter_map(|((room, _), index)| Some((rooms::media_of(room)?, index))).collect();
        let (mut with_states, most) = (HashSet::new(), self.look_ahead());
        let mut statement =
            connection.prepare_cached("SELECT id FROM media WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3")?;
        let mut rows = statement.query((self.after, self.until, most + 1))?;
        for _ in 0..=most {
            let Some(row) = rows.next()? else { return Ok(Some(with_states)) };
            with_states.extend(indexes.get(row.get_ref(0)?.as_str()?));
        }
        Ok(None)
    }

    fn read_events(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Slice> {
        // Events are kept by number, so that an event for several of the rooms occurs once.
        let mut of_room = connection.prepare_cached(
            "SELECT seq, room, owner_room, event, argument, latest FROM log
             WHERE namespace = ?1 AND room = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq",
        )?;
        let mut of_owner = connection.prepare_cached(
            "SELECT seq, room, owner_room, event, argument, latest FROM log
             WHERE namespace = ?1 AND owner_room = ?2 AND seq > ?3 AND seq <= ?4 ORDER BY seq",
        )?;
        while let Cursor::Events { room: index, source, past } = self.cursor
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
                let mut rows = statement.query((self.namespace, room, after, self.until))?;
                while let Some(row) = rows.next()? {
                    let seq = row.get("seq")?;
                    self.missed.add_logged(room, seq, logged(self.namespace, row)?, &mut self.newest);
                    if self.missed.bytes > MAX_REPLAY_BYTES {
                        return Ok(Slice::Incomplete);
                    }
                    if Instant::now() >= time_up {
                        self.cursor = Cursor::Events { room: index, source, past: seq };
                        return Ok(Slice::Unfinished);
                    }
                }
            } else if matches!(source, Source::Journal) {
                for record in self.earlier.events(self.namespace, room, after, self.until) {
                    let seq = record.seq;
                    self.missed.add_logged(room, seq, journaled(record), &mut self.newest);
                    if self.missed.bytes > MAX_REPLAY_BYTES {
                        return Ok(Slice::Incomplete);
                    }
                    if Instant::now() >= time_up {
                        self.cursor = Cursor::Events { room: index, source, past: seq };
                        return Ok(Slice::Unfinished);
                    }
                }
            }
            self.cursor = match source {
                Source::Log => Cursor::Events { room: index, source: Source::LogOfOwner, past: 0 },
                Source::LogOfOwner => Cursor::Events { room: index, source: Source::Journal, past: 0 },
                Source::Journal => {
                    self.newest.clear();
                    Cursor::Events { room: index + 1, source: Source::Log, past: 0 }
                }
            };
            if Instant::now() >= time_up {
                return Ok(Slice::Unfinished);
            }
        }
        Ok(Slice::Finished)
    }

    fn read_states(&mut self, connection: &Connection, time_up: Instant) -> rusqlite::Result<Slice> {
        while let Cursor::States { room: index, past } = self.cursor
            && let Some((room, joined)) = self.rooms.get(index)
        {
            if let Some(id) = rooms::media_of(room) {
                // The client was sent the state when it joined. It may not have received it, unless it received an
                // event since.
                let is_sent_again = *joined >= self.after;
                if is_sent_again || self.with_states.as_ref().is_none_or(|rooms| rooms.contains(&index)) {
                    let state = media::find(connection, id)?.filter(|state| state.seq <= self.until);
                    let is_missed = |state: &MediaState| {
                        is_sent_again || (matches!(state.step, Step::Progress(_)) && state.seq > self.after)
                    };
                    if let Some(state) = state.filter(is_missed) {
                        self.missed.add_state(room, id, &state);
                    }
                }
            } else if let Some(owner) = rooms::user_of(room) {
                let after = self.after.max(*joined).max(past);
                let mut is_time_up = None;
                media::progress_of_owner(connection, owner, after, self.until, |id, state| {
                    let seq = state.seq;
                    self.missed.add_state(room, id, &state);
                    let goes_on = self.missed.bytes <= MAX_REPLAY_BYTES;
                    is_time_up = Some(seq).filter(|_| goes_on && Instant::now() >= time_up);
                    goes_on && is_time_up.is_none()
                })?;
                if let Some(past) = is_time_up {
                    self.cursor = Cursor::States { room: index, past };
                    return Ok(Slice::Unfinished);
                }
            }
            if self.missed.bytes > MAX_REPLAY_BYTES {
                return Ok(Slice::Incomplete);
            }
            self.cursor = Cursor::States { room: index + 1, past: 0 };
            if Instant::now() >= time_up {
                return Ok(Slice::Unfinished);
            }
        }
        Ok(Slice::Finished)
    }
}

/// An event of the log.
fn logged(namespace: &'static str, row: &Row<'_>) -> rusqlite::Result<Envelope> {
    Ok(Envelope {
        namespace,
        room: row.get("room")?,
        owner_room: row.get("owner_room")?,
        event: row.get("event")?,
        argument: row.get("argument")?,
        class: log::class_of(row.get("latest")?),
    })
}

/// An event of the journal.
fn journaled(record: Record<'_>) -> Envelope {
    let Record { namespace, room, event, argument, is_latest, .. } = record;
    let class = if is_latest { Class::Latest } else { Class::Recoverable };
    Envelope { namespace, room: room.into(), owner_room: None, event: event.into(), argument: argument.into(), class }
}
