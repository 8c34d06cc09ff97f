//! The kept events, and their replay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::{MediaState, Replay, ReplayedEvent, Step};
use super::shelf::Row;
use super::{Item, State};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms;
use crate::contract::time::Moment;
use crate::limits::MAX_REPLAY_BYTES;

/// A kept event.
#[derive(Debug)]
pub(super) struct LogEntry {
    pub(super) envelope: Envelope,
    pub(super) at: Moment,
}

impl Row for LogEntry {
    fn bytes(&self) -> u64 {
        self.envelope.argument.len() as u64
    }

    fn at(&self) -> Moment {
        self.at
    }
}

impl LogEntry {
    fn went_to(&self, namespace: &str, room: &str) -> bool {
        let Envelope { namespace: own, room: first, owner_room, .. } = &self.envelope;
        *own == namespace && (&**first == room || owner_room.as_deref() == Some(room))
    }
}

/// The events of a replay, by their numbers, so that an event for several rooms occurs once.
#[derive(Default)]
struct Missed(BTreeMap<u64, ReplayedEvent>);

impl Missed {
    fn add(&mut self, room: &str, seq: u64, envelope: impl FnOnce() -> Envelope) {
        let added = || ReplayedEvent { seq, envelope: envelope(), rooms: Vec::new() };
        let known = self.0.entry(seq).or_insert_with(added);
        if !known.rooms.iter().any(|known| known == room) {
            known.rooms.push(room.to_owned());
        }
    }

    fn add_state(&mut self, room: &str, id: &str, state: &MediaState) {
        self.add(room, state.seq, || state.envelope(id));
    }
}

impl State {
    /// See [`Store::replay`](super::super::Store::replay).
    pub(super) fn replay(&self, namespace: &str, rooms: &[(Arc<str>, u64)], after: u64, until: u64) -> Replay {
        if self.log_removed > after {
            return Replay::default();
        }
        let mut missed = Missed::default();
        for (room, joined) in rooms {
            self.replay_events(&mut missed, namespace, room, (after.max(*joined), until));
            if namespace == MEDIA {
                self.replay_states(&mut missed, room, *joined, (after, until));
            }
        }
        let bytes: usize =
            missed.0.values().map(|event| event.envelope.event.len() + event.envelope.argument.len()).sum();
        if bytes > MAX_REPLAY_BYTES {
            return Replay::default();
        }
        Replay { complete: true, events: missed.0.into_values().collect(), up_to: until }
    }

    fn replay_events(&self, missed: &mut Missed, namespace: &str, room: &str, (after, until): (u64, u64)) {
        // Of `latest` events, a room keeps the newest of each name.
        let mut newest: HashMap<&str, u64> = HashMap::new();
        for (seq, LogEntry { envelope, .. }) in
            self.log.range(after, until).filter(|(_, entry)| entry.went_to(namespace, room))
        {
            let latest = envelope.class == Class::Latest;
            if latest && let Some(older) = newest.insert(&envelope.event, seq) {
                missed.0.remove(&older);
            }
            missed.add(room, seq, || envelope.clone());
        }
    }

    fn replay_states(&self, missed: &mut Missed, room: &str, joined: u64, (after, until): (u64, u64)) {
        if let Some(id) = rooms::media_of(room) {
            // The client was sent the state when it joined. It may not have received it.
            let is_sent_again = joined >= after;
            let is_missed = |state: &&MediaState| {
                state.seq <= until && (is_sent_again || (matches!(state.step, Step::Progress(_)) && state.seq > after))
            };
            if let Some(state) = self.media_state(id).filter(is_missed) {
                missed.add_state(room, id, state);
            }
        } else if let Some(owner) = rooms::user_of(room) {
            for (_, Item { id, state, .. }) in self.media.range(after.max(joined), until) {
                if matches!(state.step, Step::Progress(_)) && state.owner_id.as_deref() == Some(owner) {
                    missed.add_state(room, id, state);
                }
            }
        }
    }
}
