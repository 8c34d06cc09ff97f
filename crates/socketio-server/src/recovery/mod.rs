//! Connection state recovery: a client that lost its connection gets its session back, and the missed events.
//!
//! It is Socket.IO's own protocol, so the standard client takes part without changes. The reply to CONNECT carries a
//! secret (`pid`). Every event without an ack id carries an [`Offset`] as an additional argument, a string at its end.
//! A returning client sends both. The events that it may have missed come from three sources:
//!
//! - [`history`]: the broadcasts of this node, by room;
//! - [`direct`]: the events emitted to one socket alone, until a heartbeat confirms their arrival;
//! - [`keeper`]: the data that outlives the process, if the application keeps sessions.
//!
//! [`sessions`] records where each session is: with a socket, or kept for a client that is away.
//! `connection::resuming` brings it back.

mod confirmed;
mod direct;
mod history;
pub(crate) mod keeper;
mod offset;
mod readers;
mod sessions;

use std::{
    cell::{Cell, RefCell},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use confirmed::{Confirmed, WatermarkId};
pub(crate) use direct::Direct;
pub(crate) use history::{Audience, Entry, History};
pub(crate) use keeper::{Before, Claimed, MissedEvent, NotRecalled, SavedSession, SessionKeeper};
pub(crate) use offset::Offset;
pub(crate) use readers::Readers;
pub(crate) use sessions::{Away, Sessions, TooLate, Whereabouts};

use crate::{
    Config,
    config::Recovery,
    identifier::{Id, Position, SocketRef},
};

/// The recovery data of a node.
pub(crate) struct Memory {
    pub(crate) settings: Recovery,
    history: Mutex<History>,
    sessions: Mutex<Sessions>,
    /// The confirmed position of each shard's sessions; see [`Confirmed`]. It is changed, and reported to the keeper,
    /// under the lock of the sessions: a session that has received less is counted before it is saved.
    confirmed: Box<[AtomicU64]>,
}

impl Memory {
    pub(crate) fn new(settings: &Recovery, config: &Config) -> Self {
        let age = if settings.window.is_zero() {
            // Only sockets that join a room need them.
            TIDY_INTERVAL
        } else {
            // A lost connection is noticed after one heartbeat at the latest. The client's window begins then.
            settings.window + config.ping_interval + config.ping_timeout
        };
        let history = History::new(settings, age);
        let confirmed = (0..config.shards.max(1)).map(|_| AtomicU64::new(history.start().get())).collect();
        Self {
            settings: settings.clone(),
            history: Mutex::new(history),
            sessions: Mutex::new(Sessions::new(settings)),
            confirmed,
        }
    }

    /// Whether sessions can be recovered.
    pub(crate) fn is_on(&self) -> bool {
        !self.settings.window.is_zero()
    }

    /// Locks the broadcasts. A caller that takes an offset, or that sends a command to every shard, posts to the shards
    /// before it releases the lock, so that all shards see one order.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Discards expired data.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.history().trim(now);
        self.forget(&self.sessions().trim(now));
    }

    /// Records that a session is now with a socket. All sessions of the socket's shard have received the broadcasts up
    /// to `confirmed`.
    pub(crate) fn is_with(&self, pid: Id, socket: SocketRef, confirmed: Position) {
        let mut sessions = self.sessions();
        sessions.is_with(pid, socket);
        self.confirm(&sessions, socket.shard.into(), confirmed);
    }

    /// Records that all sessions of a shard have received the broadcasts up to `confirmed`.
    pub(crate) fn confirmed(&self, shard: u8, confirmed: Position) {
        self.confirm(&self.sessions(), shard.into(), confirmed);
    }

    fn confirm(&self, _order: &MutexGuard<'_, Sessions>, shard: usize, confirmed: Position) {
        let Some(known) = self.confirmed.get(shard).filter(|known| known.load(Ordering::Relaxed) != confirmed.get())
        else {
            return;
        };
        let least = || self.confirmed.iter().map(|position| Position::new(position.load(Ordering::Relaxed))).min();
        let before = least();
        known.store(confirmed.get(), Ordering::Relaxed);
        if let (Some(keeper), Some(least)) = (&self.settings.keeper, least().filter(|least| Some(*least) != before)) {
            keeper.confirmed(least);
        }
    }

    /// Keeps the session of a client that may come back.
    pub(crate) fn keep(&self, pid: Id, away: Away) {
        let mut sessions = self.sessions();
        let forgotten = sessions.keep(pid, away);
        self.forget(&forgotten);
    }

    /// Must be called before another caller can lock the sessions: an ended session must not be recalled.
    fn forget(&self, ended: &[Id]) {
        if let Some(keeper) = &self.settings.keeper {
            ended.iter().for_each(|pid| keeper.forget(pid.as_str()));
        }
    }

    /// Ends a session for good.
    pub(crate) fn end(&self, pid: &Id) {
        let mut sessions = self.sessions();
        sessions.end(pid);
        self.forget(&[*pid]);
    }
}

/// The interval at which expired data is discarded.
pub(crate) const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// The number of unconfirmed bytes at which a heartbeat ahead of time asks the client whether they have arrived.
pub(crate) const ASK_AT_BYTES: usize = 16 * 1024;

/// The recovery state of a socket.
pub(crate) struct SocketRecovery {
    pub(crate) pid: Id,
    pub(crate) recovered: bool,
    /// The last broadcast that is known to have arrived, or that need not arrive.
    pub(crate) since: Cell<Position>,
    /// The value of `since` once the heartbeat under way is answered.
    pub(crate) asked: Cell<Position>,
    /// The watermark of the session, and its watermark once the heartbeat under way is answered. `None` before the
    /// session is with its socket.
    watermarks: Cell<Option<(WatermarkId, WatermarkId)>>,
    pub(crate) direct: RefCell<Direct>,
    save_state: Cell<SaveState>,
}

/// The keeper's copy of a session, and whether the session is queued to be saved. A session is queued before it is
/// marked as changed, so every changed session is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SaveState {
    /// The keeper has nothing, and the socket is not connected yet.
    New,
    /// The keeper has nothing that a change could make outdated; the session is queued.
    NewQueued,
    /// The keeper has the current session.
    Saved,
    /// The keeper has the current session; the session is queued, to report that its client is back.
    SavedQueued,
    /// The keeper's copy must not be recalled any more; the session is queued.
    ChangedQueued,
}

impl SocketRecovery {
    pub(crate) fn begun(pid: Id, since: Position) -> Box<Self> {
        Self::new(pid, false, since, Direct::default())
    }

    pub(crate) fn resumed(pid: Id, since: Position, direct: Direct) -> Box<Self> {
        Self::new(pid, true, since, direct)
    }

    fn new(pid: Id, recovered: bool, since: Position, direct: Direct) -> Box<Self> {
        let direct = RefCell::new(direct);
        let (asked, since) = (Cell::new(since), Cell::new(since));
        let save_state = Cell::new(if recovered { SaveState::Saved } else { SaveState::New });
        Box::new(Self { pid, recovered, since, asked, watermarks: Cell::default(), direct, save_state })
    }

    /// Whether the session is queued to be saved to the keeper.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self.save_state.get(), SaveState::NewQueued | SaveState::SavedQueued | SaveState::ChangedQueued)
    }

    /// Marks the session as queued. Returns false if it was queued already.
    pub(crate) fn queue(&self) -> bool {
        let queued = match self.save_state.get() {
            SaveState::New => SaveState::NewQueued,
            SaveState::Saved => SaveState::SavedQueued,
            SaveState::NewQueued | SaveState::SavedQueued | SaveState::ChangedQueued => return false,
        };
        self.save_state.set(queued);
        true
    }

    /// Records that the session has changed. It is queued, unless its socket is not connected.
    pub(crate) fn change(&self) {
        if self.save_state.get() == SaveState::SavedQueued {
            self.save_state.set(SaveState::ChangedQueued);
        }
    }

    /// Marks the session as saved. Returns what the keeper had of it before.
    pub(crate) fn save(&self) -> Before {
        match self.save_state.replace(SaveState::Saved) {
            SaveState::New | SaveState::NewQueued => Before::Nothing,
            SaveState::Saved | SaveState::SavedQueued => Before::Valid,
            SaveState::ChangedQueued => Before::Outdated,
        }
    }

    /// Records that the session is now with its socket.
    pub(crate) fn begin(&self, confirmed: &mut Confirmed) {
        let watermark = confirmed.enter(self.since.get());
        self.watermarks.set(Some((watermark, watermark)));
    }

    /// Records that a heartbeat is sent after the broadcast `position`.
    pub(crate) fn ask(&self, position: Position, confirmed: &Confirmed) {
        self.asked.set(position);
        self.watermarks.set(self.watermarks.get().map(|(watermark, _)| (watermark, confirmed.now())));
        self.direct.borrow_mut().ask();
    }

    /// Records that the heartbeat was answered.
    pub(crate) fn answered(&self, confirmed: &mut Confirmed) {
        self.since.set(self.asked.get());
        if let Some((watermark, asked)) = self.watermarks.get() {
            confirmed.advance(watermark, asked);
            self.watermarks.set(Some((asked, asked)));
        }
        self.direct.borrow_mut().answered();
    }

    /// Records that the socket is gone.
    pub(crate) fn end(&self, confirmed: &mut Confirmed) {
        if let Some((watermark, _)) = self.watermarks.take() {
            confirmed.leave(watermark);
        }
    }
}
