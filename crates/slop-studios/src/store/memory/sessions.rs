//! Sessions for recovery.

use std::collections::HashMap;

use super::super::{Amount, Before, Bound, SessionKey, SessionRecord};
use super::shelf::{Row, Shelf};
use crate::contract::time::Moment;

impl Row for SessionRecord {
    fn bytes(&self) -> u64 {
        (self.data.len() + self.rooms.iter().map(|(room, _)| room.len()).sum::<usize>()) as u64
    }

    fn at(&self) -> Moment {
        self.updated_at
    }
}

/// The sessions, in the order in which they were last saved.
#[derive(Debug)]
pub(super) struct KeptSessions {
    kept: Shelf<SessionRecord>,
    numbers: HashMap<SessionKey, u64>,
    next: u64,
    /// Every client that is connected has received all events up to this one.
    confirmed: u64,
}

impl KeptSessions {
    pub(super) fn new(bound: Bound) -> Self {
        Self { kept: Shelf::new(bound), numbers: HashMap::new(), next: 0, confirmed: 0 }
    }

    pub(super) fn amount(&self) -> Amount {
        self.kept.amount()
    }

    pub(super) fn save(&mut self, session: SessionRecord) {
        self.forget(&session.key);
        self.next += 1;
        self.numbers.insert(session.key, self.next);
        let now = session.updated_at;
        self.kept.insert(self.next, SessionRecord { before: Before::Valid, ..session });
        while let Some((_, removed)) = self.kept.pop_excess(now) {
            self.numbers.remove(&removed.key);
        }
    }

    pub(super) fn left(&mut self, key: &SessionKey, since_seq: u64) {
        if let Some(session) = self.numbers.get(key).and_then(|number| self.kept.get_mut(*number)) {
            session.left_at = Some(Moment::now());
            session.since_seq = session.since_seq.max(since_seq);
        }
    }

    pub(super) fn confirmed(&mut self, up_to: u64) {
        self.confirmed = up_to;
    }

    pub(super) fn forget(&mut self, key: &SessionKey) {
        if let Some(number) = self.numbers.remove(key) {
            self.kept.remove(number);
        }
    }

    pub(super) fn find(&self, key: &SessionKey) -> Option<SessionRecord> {
        let mut session = self.kept.get(*self.numbers.get(key)?)?.clone();
        if session.left_at.is_none() {
            session.since_seq = session.since_seq.max(self.confirmed);
        }
        Some(session)
    }
}
