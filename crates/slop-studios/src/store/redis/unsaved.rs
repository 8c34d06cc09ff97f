//! Changes of sessions that Redis has not confirmed. Nobody waits for them, so a lost connection must not lose them:
//! otherwise a session could be recovered as it was before a logout.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::SessionKey;
use super::operation::Operation;
use crate::limits::LAZY_WRITES;

/// The longest time for which a change is kept. `LATEST_SAVE` in `apply.lua` is longer.
const LATEST_SAVE: Duration = Duration::from_secs(540);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    sessions: HashMap<SessionKey, Changes>,
    /// The number of the last change.
    last: u64,
    /// Whether Redis has refused a change.
    is_refused: bool,
    /// The last number that was confirmed for all connected clients.
    confirmed: Option<u64>,
}

/// The changes of a session since the last that replaced all others.
#[derive(Debug, Default)]
struct Changes {
    operations: Vec<Operation>,
    /// The number of the last of them.
    number: u64,
    /// When the last of them was made.
    at: Option<Instant>,
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
        changes.at = Some(Instant::now());
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

    /// Records the last number that was confirmed for all connected clients.
    pub(super) fn set_confirmed(&mut self, up_to: u64) {
        self.confirmed = Some(up_to);
    }

    pub(super) fn last_confirmed(&self) -> Option<u64> {
        self.confirmed
    }

    /// Records that Redis has refused a change.
    pub(super) fn refused(&mut self) {
        self.is_refused = true;
    }

    /// Whether Redis has refused a change since the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        mem::take(&mut self.is_refused)
    }

    /// Forgets all changes.
    pub(super) fn clear(&mut self) {
        self.sessions.clear();
    }

    /// The number of sessions with such changes.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// All changes, with the number of the last of each session. Those that are too old are forgotten: by now another node
    /// may have ended the session, and forgotten that.
    pub(super) fn all(&mut self) -> Vec<(SessionKey, u64, Vec<Operation>)> {
        self.sessions.retain(|_, changes| changes.at.is_some_and(|at| at.elapsed() < LATEST_SAVE));
        let sessions = self.sessions.iter();
        sessions.map(|(key, changes)| (*key, changes.number, changes.operations.clone())).collect()
    }
}
