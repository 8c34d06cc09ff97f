//! Connection state recovery: a client whose connection was lost gets its session back, and what it missed.
//!
//! It is Socket.IO's own protocol, so the stock client takes part without knowing. The reply to CONNECT carries a secret
//! (`pid`); every event without an ack id carries an [`Offset`] as one more argument, a string at its end; and a client
//! that comes back says both. What it may have missed is known from three places:
//!
//! - [`history`]: the broadcasts of this node, by room;
//! - [`direct`]: what was emitted to one socket alone, until a heartbeat tells that it has arrived;
//! - [`keeper`]: what outlives the process, if the application keeps sessions.
//!
//! [`sessions`] knows where each session is: with a socket, or kept for a client that is away. [`resume`] brings it back.

mod confirmed;
mod direct;
mod history;
mod keeper;
mod offset;
mod readers;
mod resume;
mod sessions;

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use confirmed::{Confirmed, WatermarkId};
pub(crate) use direct::Direct;
pub(crate) use history::{Audience, Entry, History};
pub use keeper::{Before, MissedEvent, Recalled, SavedSession, SessionKeeper};
pub(crate) use offset::Offset;
pub(crate) use readers::Readers;
pub(crate) use resume::{Wish, resume};
pub(crate) use sessions::{Away, Sessions, TooLate, Whereabouts};

use crate::{Config, SocketRef, identifier::Id};

/// Settings and limits of connection state recovery; see [`Config::recovery`](crate::Config::recovery).
///
/// A client whose handlers can't take the argument that is added to every event (python-socketio's have to be written for
/// it) declines with `recovery: false` in its `auth` object.
#[derive(Clone)]
pub struct Recovery {
    /// How long a client may be away. Default 2 minutes, as Node's server. With zero no session is recovered, and clients
    /// notice nothing; broadcasts have their numbers still.
    pub window: Duration,
    /// Bytes of broadcasts that are remembered. When there are more, the oldest are forgotten, and clients that missed
    /// them are not recovered. Default 64 MiB.
    pub max_bytes: usize,
    /// The same for broadcasts of which the newest is enough ([`Broadcast::latest`](crate::Broadcast::latest)): apart,
    /// so that they never push out others. Default 16 MiB.
    pub max_latest_bytes: usize,
    /// Bytes emitted to one socket alone that are remembered until it is known that they have arrived. Default 256 KiB,
    /// as much as may wait for a client that is still read from.
    pub max_direct_bytes: usize,
    /// Sessions that are kept for clients that are away. When there are more, those of the address that has most are forgotten, if it has a
    /// sixteenth or more of what is kept, or else the oldest. Default 100,000.
    pub max_sessions: usize,
    /// Bytes that those sessions take: their rooms, their data, and what was emitted to them alone. When it is more, the same are
    /// forgotten. Default 64 MiB: 600 bytes each of as many as there may be.
    pub max_session_bytes: usize,
    /// The first broadcast gets a higher offset than this. Offsets never go back: a server that takes over the sessions
    /// of an earlier one continues after it. Default: the microseconds since 1970.
    pub after: Option<u64>,
    /// The key that tells socket ids from other names. A server that takes over sessions must know their ids.
    /// Default: random.
    pub id_key: Option<[u8; 16]>,
    /// Keeps sessions across the end of the process. Default: none does.
    pub keeper: Option<Arc<dyn SessionKeeper>>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(120),
            max_bytes: 64 * 1024 * 1024,
            max_latest_bytes: 16 * 1024 * 1024,
            max_direct_bytes: 256 * 1024,
            max_sessions: 100_000,
            max_session_bytes: 64 * 1024 * 1024,
            after: None,
            id_key: None,
            keeper: None,
        }
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery").field("window", &self.window).finish_non_exhaustive()
    }
}

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a client that asked for its session got a new one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RecoveryFailure { $($(#[$doc])* $name,)* }

        impl RecoveryFailure {
            /// Every failure, in the order of the table.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// The name in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

failures! {
    /// Nobody knows the session: it ended, or the client was away for too long.
    UnknownSession => "unknown session",
    /// The client's offset is none that it can have got.
    BadOffset => "bad offset",
    /// Something that the client missed is no longer remembered.
    Forgotten => "events forgotten",
    /// The application refused it.
    Refused => "refused",
    /// There are too many rooms for its client to be in all of its rooms again.
    TooManyRooms => "too many rooms",
}

/// What a node remembers for recovery.
pub(crate) struct Memory {
    pub(crate) settings: Recovery,
    history: Mutex<History>,
    sessions: Mutex<Sessions>,
    /// What the sessions of each shard have received; see [`Confirmed`]. Changed, and told to the keeper, under the lock of
    /// the sessions: a session that has received less is taken into account before it is saved.
    confirmed: Box<[AtomicU64]>,
}

impl Memory {
    pub(crate) fn new(settings: &Recovery, config: &Config) -> Self {
        // A lost connection is noticed after a heartbeat at the latest, and from then on the client has its time.
        let age = settings.window + config.ping_interval + config.ping_timeout;
        let history = History::new(settings, age);
        let confirmed = (0..config.shards.max(1)).map(|_| AtomicU64::new(history.start())).collect();
        Self {
            settings: settings.clone(),
            history: Mutex::new(history),
            sessions: Mutex::new(Sessions::new(settings)),
            confirmed,
        }
    }

    /// Whether there is anything that clients may come back for.
    pub(crate) fn is_on(&self) -> bool {
        !self.settings.window.is_zero()
    }

    /// The broadcasts. Whoever takes a number, or has something done on every shard, posts to the shards before letting go,
    /// so that all see one order.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is too old.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.history().trim(now);
        self.forget(&self.sessions().trim(now));
    }

    /// A session is with a socket from now on, of a shard whose sessions have all received what came up to `confirmed`.
    pub(crate) fn is_with(&self, pid: Id, socket: SocketRef, confirmed: u64) {
        let mut sessions = self.sessions();
        sessions.is_with(pid, socket);
        self.confirm(&sessions, socket.shard.into(), confirmed);
    }

    /// All sessions of a shard have received what came up to `confirmed`.
    pub(crate) fn confirmed(&self, shard: u8, confirmed: u64) {
        self.confirm(&self.sessions(), shard.into(), confirmed);
    }

    fn confirm(&self, _order: &MutexGuard<'_, Sessions>, shard: usize, confirmed: u64) {
        let Some(known) = self.confirmed.get(shard).filter(|known| known.load(Ordering::Relaxed) != confirmed) else {
            return;
        };
        let least = || self.confirmed.iter().map(|position| position.load(Ordering::Relaxed)).min();
        let before = least();
        known.store(confirmed, Ordering::Relaxed);
        if let (Some(keeper), Some(least)) = (&self.settings.keeper, least().filter(|least| Some(*least) != before)) {
            keeper.confirmed(least);
        }
    }

    /// Keeps a session whose client may come back.
    pub(crate) fn keep(&self, pid: Id, away: Away) {
        let mut sessions = self.sessions();
        let forgotten = sessions.keep(pid, away);
        self.forget(&forgotten);
    }

    /// To be called before anybody else can ask for the sessions: nobody may have one recalled that has ended.
    fn forget(&self, ended: &[Id]) {
        if let Some(keeper) = &self.settings.keeper {
            ended.iter().for_each(|pid| keeper.forget(pid.as_str()));
        }
    }

    /// A session has ended for good.
    pub(crate) fn end(&self, pid: &Id) {
        let mut sessions = self.sessions();
        sessions.end(pid);
        self.forget(&[*pid]);
    }
}

/// How often what is too old is forgotten.
pub(crate) const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes that may not have arrived at which the client is asked, by a heartbeat ahead of time, whether they have.
pub(crate) const ASK_AT_BYTES: usize = 16 * 1024;

/// What a socket remembers for recovery.
pub(crate) struct SocketRecovery {
    pub(crate) pid: Id,
    pub(crate) recovered: bool,
    /// The last broadcast that is known to have arrived, or to need not.
    pub(crate) since: Cell<u64>,
    /// The same once the heartbeat under way is answered.
    pub(crate) asked: Cell<u64>,
    /// Where it is counted, and where once the heartbeat under way is answered. None before it is with its socket.
    watermarks: Cell<Option<(WatermarkId, WatermarkId)>>,
    pub(crate) direct: RefCell<Direct>,
    save_state: Cell<SaveState>,
}

/// What the keeper has of a session, and whether the session is queued to be given to it. A session that changes is queued
/// first, so there is no changed one that is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SaveState {
    /// The keeper has nothing, and the socket is not connected yet.
    New,
    /// The keeper has nothing, which no change makes wrong; the session is queued.
    NewQueued,
    /// The keeper has the session as it is.
    Saved,
    /// The keeper has the session as it is, and is told that its client is back: the session is queued.
    SavedQueued,
    /// What the keeper has must not be recalled any more; the session is queued.
    ChangedQueued,
}

impl SocketRecovery {
    pub(crate) fn begun(pid: Id, since: u64) -> Box<Self> {
        Self::new(pid, false, since, Direct::default())
    }

    fn resumed(pid: Id, since: u64, direct: Direct) -> Box<Self> {
        Self::new(pid, true, since, direct)
    }

    fn new(pid: Id, recovered: bool, since: u64, direct: Direct) -> Box<Self> {
        let direct = RefCell::new(direct);
        let (asked, since) = (Cell::new(since), Cell::new(since));
        let save_state = Cell::new(if recovered { SaveState::Saved } else { SaveState::New });
        Box::new(Self { pid, recovered, since, asked, watermarks: Cell::default(), direct, save_state })
    }

    /// Whether the session is queued to be given to the keeper.
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self.save_state.get(), SaveState::NewQueued | SaveState::SavedQueued | SaveState::ChangedQueued)
    }

    /// The session is queued from now on. False if it was already.
    pub(crate) fn queue(&self) -> bool {
        let queued = match self.save_state.get() {
            SaveState::New => SaveState::NewQueued,
            SaveState::Saved => SaveState::SavedQueued,
            SaveState::NewQueued | SaveState::SavedQueued | SaveState::ChangedQueued => return false,
        };
        self.save_state.set(queued);
        true
    }

    /// The session has changed. It is queued, unless its socket is not connected.
    pub(crate) fn change(&self) {
        if self.save_state.get() == SaveState::SavedQueued {
            self.save_state.set(SaveState::ChangedQueued);
        }
    }

    /// The keeper is given the session now. Says what it has of it.
    pub(crate) fn save(&self) -> Before {
        match self.save_state.replace(SaveState::Saved) {
            SaveState::New | SaveState::NewQueued => Before::Nothing,
            SaveState::Saved | SaveState::SavedQueued => Before::Valid,
            SaveState::ChangedQueued => Before::Outdated,
        }
    }

    /// The session is with its socket from now on.
    pub(crate) fn begin(&self, confirmed: &mut Confirmed) {
        let watermark = confirmed.enter(self.since.get());
        self.watermarks.set(Some((watermark, watermark)));
    }

    /// A heartbeat goes out after this broadcast.
    pub(crate) fn ask(&self, position: u64, confirmed: &Confirmed) {
        self.asked.set(position);
        self.watermarks.set(self.watermarks.get().map(|(watermark, _)| (watermark, confirmed.now())));
        self.direct.borrow_mut().ask();
    }

    /// The heartbeat was answered.
    pub(crate) fn answered(&self, confirmed: &mut Confirmed) {
        self.since.set(self.asked.get());
        if let Some((watermark, asked)) = self.watermarks.get() {
            confirmed.advance(watermark, asked);
            self.watermarks.set(Some((asked, asked)));
        }
        self.direct.borrow_mut().answered();
    }

    /// The socket has gone.
    pub(crate) fn end(&self, confirmed: &mut Confirmed) {
        if let Some((watermark, _)) = self.watermarks.take() {
            confirmed.leave(watermark);
        }
    }
}
