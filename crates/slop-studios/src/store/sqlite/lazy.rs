//! The deferred writes: changes of sessions, and how far users have received their notifications. No caller waits for
//! them.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::super::{Before, SessionKey, SessionRecord};
use crate::contract::time::Moment;
use crate::limits::{LAZY_BYTES, LAZY_SESSIONS};

/// The newest change of each session, with a quick hash: the keys are hashes already.
pub(super) type SessionChanges = HashMap<SessionKey, SessionChange, RandomState>;

/// The deferred writes.
#[derive(Debug, Default)]
pub(super) struct Lazy {
    /// Before any of these writes, the stored number for all connected clients (`confirmed`) is lowered to at most this
    /// one.
    pub(super) confirmed_at_most: Option<u64>,
    /// The changes of sessions.
    pub(super) sessions: SessionChanges,
    /// The number up to which all connected clients have received every event.
    pub(super) confirmed: Option<u64>,
    /// The number up to which each user has received notifications.
    pub(super) received: HashMap<Arc<str>, u64>,
}

/// Changes of sessions that are being written, a bounded part with each turn of the writer. So a publisher's answer
/// does not wait for all sessions of a crowd that leaves, or for sessions in a thousand rooms each.
#[derive(Debug, Default)]
pub(super) struct Saving {
    pub(super) sessions: SessionChanges,
    /// The keys of the sessions that the writer has not taken yet.
    left: Vec<SessionKey>,
    /// Written with the last part, because it is valid only after all of these parts are written.
    pub(super) confirmed: Option<u64>,
}

impl Saving {
    /// Takes all changes so far.
    pub(super) fn of(lazy: &mut Lazy) -> Self {
        // The next changes will be about as many, so their map need not grow step by step.
        let next = lazy.sessions.len().min(LAZY_SESSIONS);
        let next = SessionChanges::with_capacity_and_hasher(next, RandomState::default());
        let (sessions, confirmed) = (mem::replace(&mut lazy.sessions, next), lazy.confirmed.take());
        Self { left: sessions.keys().copied().collect(), sessions, confirmed }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.confirmed.is_none()
    }

    /// Moves the next part to `lazy`, which is written now. If it `is_last`, moves all changes.
    pub(super) fn take_part(&mut self, lazy: &mut Lazy, is_last: bool) {
        let mut bytes = 0;
        lazy.sessions.reserve(self.left.len().min(LAZY_SESSIONS));
        while (is_last || (lazy.sessions.len() < LAZY_SESSIONS && bytes < LAZY_BYTES))
            && let Some(key) = self.left.pop()
        {
            if let Some(change) = self.sessions.remove(&key) {
                bytes += change.weight();
                lazy.sessions.insert(key, change);
            }
        }
        if self.sessions.is_empty() {
            lazy.confirmed = self.confirmed.take();
        }
    }
}

/// A change of a session.
#[derive(Debug, Clone)]
pub(super) enum SessionChange {
    Saved(SessionRecord),
    Left(Left),
    Forgotten,
}

/// The departure of a session's client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) at: Moment,
    /// The number of the last event that the client has received.
    pub(super) since_seq: u64,
}

impl SessionChange {
    /// The approximate number of bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Saved(session) => {
                session.data.len()
                    + session.rooms.iter().map(|(room, _)| size_of::<(String, u64)>() + room.len()).sum::<usize>()
            }
            Self::Left(_) | Self::Forgotten => 0,
        }
    }

    /// Whether nothing of the session was written before.
    pub(super) fn is_first(&self) -> bool {
        matches!(self, Self::Saved(SessionRecord { before: Before::Nothing, .. }))
    }

    /// Whether a returning client must not find the record that was saved before.
    pub(super) fn outdates_saved(&self) -> bool {
        match self {
            Self::Saved(session) => session.before == Before::Outdated,
            Self::Forgotten => true,
            Self::Left(_) => false,
        }
    }

    /// Combines two successive changes.
    pub(super) fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::Saved(mut session), Self::Left(left)) => {
                session.left_at = Some(left.at);
                session.since_seq = session.since_seq.max(left.since_seq);
                Self::Saved(session)
            }
            (Self::Saved(earlier), Self::Saved(session)) => {
                let before = if earlier.before == Before::Valid { session.before } else { earlier.before };
                Self::Saved(SessionRecord { before, ..session })
            }
            (Self::Forgotten, Self::Saved(session)) => {
                Self::Saved(SessionRecord { before: Before::Outdated, ..session })
            }
            (Self::Forgotten, Self::Left(_)) => Self::Forgotten,
            (_, next) => next,
        }
    }
}

impl Lazy {
    pub(super) fn is_empty(&self) -> bool {
        let has_confirmed = self.confirmed.is_some() || self.confirmed_at_most.is_some();
        self.sessions.is_empty() && !has_confirmed && self.received.is_empty()
    }

    pub(super) fn received(&mut self, user_id: &Arc<str>, up_to: u64) {
        let known = self.received.entry(Arc::clone(user_id)).or_default();
        *known = up_to.max(*known);
    }
}
