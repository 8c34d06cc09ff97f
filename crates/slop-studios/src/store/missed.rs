//! The events of a replay, while they are collected.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;

use super::{MediaState, Replay, ReplayedEvent};
use crate::contract::delivery::{Class, Envelope};

/// The events by their numbers, so that an event for several rooms occurs once.
#[derive(Debug, Default)]
pub(in crate::store) struct Missed {
    events: BTreeMap<u64, ReplayedEvent>,
    /// The bytes of their names and arguments.
    pub(in crate::store) bytes: usize,
}

impl Missed {
    /// The replay of these events, which were read up to a number.
    pub(in crate::store) fn into_replay(self, up_to: u64) -> Replay {
        Replay { complete: true, events: self.events.into_values().collect(), up_to }
    }

    /// Adds an event that went to this room.
    pub(in crate::store) fn add(&mut self, room: &str, seq: u64, envelope: Envelope) {
        let event = self.events.entry(seq).or_insert_with(|| {
            self.bytes += bytes(&envelope);
            ReplayedEvent { seq, envelope, rooms: Vec::new() }
        });
        if !event.rooms.iter().any(|known| known == room) {
            event.rooms.push(room.to_owned());
        }
    }

    /// Adds an event of the log or the journal, unless only the newest of its name in the room matters and the event is
    /// older. `newest` has the numbers of the newest events.
    pub(in crate::store) fn add_logged(
        &mut self,
        room: &str,
        seq: u64,
        envelope: Envelope,
        newest: &mut HashMap<Arc<str>, u64>,
    ) {
        if envelope.class == Class::Latest {
            let known = newest.entry(Arc::clone(&envelope.event)).or_insert(seq);
            if seq < *known {
                return;
            }
            let older = mem::replace(known, seq);
            if older < seq
                && let Some(older) = self.events.remove(&older)
            {
                self.bytes -= bytes(&older.envelope);
            }
        }
        self.add(room, seq, envelope);
    }

    pub(in crate::store) fn add_state(&mut self, room: &str, media_id: &str, state: &MediaState) {
        self.add(room, state.seq, state.envelope(media_id));
    }
}

fn bytes(envelope: &Envelope) -> usize {
    envelope.event.len() + envelope.argument.len()
}
