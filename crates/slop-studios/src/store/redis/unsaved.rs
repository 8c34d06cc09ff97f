//! Changes of sessions that Redis has not confirmed. Nobody waits for them, so a lost connection must not lose them:
//! otherwise a session could be recovered as it was before a logout.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::super::SessionKey;
use super::operation::Operation;
use crate::limits::LAZY_WRITES;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    sessions: HashMap<SessionKey, Changes>,
    /// The number of the last change.
    last: u64,
}

/// The changes of a session since the last that replaced all others.
#[derive(Debug, Default)]
struct Changes {
    operations: Vec<Operation>,
    /// The number of the last of them.
    number: u64,
    /// Resolved when all are confirmed.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Unsaved {
    /// Adds a change, and returns its number. `None` if there are too many sessions with changes.
    pub(super) fn add(&mut self, key: SessionKey, operation: Operation, replaces_others: bool) -> Option<u64> {
        if self.sessions.len() >= LAZY_WRITES && !self.sessions.contains_key(&key) {
            return None;
        }
        self.last += 1;
        let changes = self.sessions.entry(key).or_default();
        if replaces_others {
            changes.operations.clear();
        }
        changes.operations.push(operation);
        changes.number = self.last;
        Some(self.last)
    }

    /// Resolves when the changes of a session are confirmed. `None` if there are none.
    pub(super) fn when_confirmed(&mut self, key: SessionKey) -> Option<oneshot::Receiver<()>> {
        let (confirmed, is_confirmed) = oneshot::channel();
        self.sessions.get_mut(&key)?.waiting.push(confirmed);
        Some(is_confirmed)
    }

    /// Forgets the changes of a session up to this one, which Redis has confirmed.
    pub(super) fn confirmed(&mut self, key: &SessionKey, number: u64) {
        if self.sessions.get(key).is_some_and(|changes| changes.number <= number) {
            self.sessions.remove(key);
        }
    }

    /// Forgets all changes.
    pub(super) fn clear(&mut self) {
        self.sessions.clear();
    }

    /// The number of sessions with such changes.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// All changes, with the number of the last of each session.
    pub(super) fn all(&self) -> Vec<(SessionKey, u64, Vec<Operation>)> {
        let sessions = self.sessions.iter();
        sessions.map(|(key, changes)| (*key, changes.number, changes.operations.clone())).collect()
    }
}
