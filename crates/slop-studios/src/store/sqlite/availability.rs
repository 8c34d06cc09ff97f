//! Since when the store has taken every change.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Availability(Mutex<State>);

#[derive(Debug)]
struct State {
    since: Instant,
    /// The last transaction failed.
    is_failing: bool,
}

impl Default for Availability {
    fn default() -> Self {
        Self(Mutex::new(State { since: Instant::now(), is_failing: false }))
    }
}

impl Availability {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while transactions fail.
    pub(super) fn since(&self) -> Option<Instant> {
        let state = self.state();
        (!state.is_failing).then_some(state.since)
    }

    /// A transaction failed.
    pub(super) fn failed(&self) {
        self.state().is_failing = true;
    }

    /// A transaction was committed, after one that had failed.
    pub(super) fn committed(&self) {
        *self.state() = State { since: Instant::now(), is_failing: false };
    }

    /// A request did not fit into the queue, or the journal did not take an event. The next one may be taken.
    pub(super) fn refused(&self) {
        self.state().since = Instant::now();
    }
}
