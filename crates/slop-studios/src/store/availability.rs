//! The moment since which the store has accepted every change.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub(in crate::store) struct Availability(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    /// Whether the last transaction failed.
    is_failing: bool,
}

impl Default for Availability {
    fn default() -> Self {
        Self(Mutex::new(State { since: Instant::now(), is_failing: false }))
    }
}

impl Availability {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment; `None` while transactions fail.
    pub(in crate::store) fn since(&self) -> Option<Instant> {
        let state = self.state();
        (!state.is_failing).then_some(state.since)
    }

    /// Records that a transaction failed.
    pub(in crate::store) fn failed(&self) {
        self.state().is_failing = true;
    }

    /// Records that a transaction was committed after a failed one.
    pub(in crate::store) fn committed(&self) {
        *self.state() = State { since: Instant::now(), is_failing: false };
    }

    /// Records that a request did not fit into the queue, or that the journal did not accept an event. The next one may
    /// be accepted.
    pub(in crate::store) fn refused(&self) {
        self.state().since = Instant::now();
    }
}
