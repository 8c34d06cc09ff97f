//! Where each session is.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::sync::oneshot;

use crate::{
    SocketRef,
    frame::Frame,
    identifier::Id,
    recovery::{Direct, Recovery, SavedSession},
};

/// The sessions of a node, by their secret.
pub(crate) struct Sessions {
    known: HashMap<Id, Whereabouts>,
    /// Together, and not each for itself between what those who left give back: the system would get none of it.
    kept: Slab<Away>,
    /// Those whose clients are away, in the order in which they left. A session that came back since, or left again, has
    /// an entry that counts no more.
    away: VecDeque<(Id, Instant)>,
    /// What those who are away take.
    away_bytes: usize,
    window: Duration,
    max_sessions: usize,
    max_bytes: usize,
}

/// Where a session is.
pub(crate) enum Whereabouts {
    /// With a socket.
    With(SocketRef),
    /// Its client is away. Where it is kept.
    Away(u32),
    /// A client has come back for it. The senders are dropped when it is with a socket, kept again or has ended.
    Returning(Vec<oneshot::Sender<()>>),
}

/// A session whose client is away, as small as can be: after a crowd has left there are many.
pub(crate) struct Away {
    namespace: u16,
    socket_id: Id,
    rooms: Box<[(Box<str>, u64)]>,
    data: Box<str>,
    received: u64,
    direct: Direct<Frame>,
    since: Instant,
}

/// What a room takes besides its name, and a session besides its rooms and its place among those that are kept.
const OVERHEAD_BYTES: usize = 64;

/// The client was away for too long.
#[derive(Debug)]
pub(crate) struct TooLate;

impl Away {
    pub(crate) fn new(namespace: u16, socket_id: Id, session: SavedSession, direct: Direct<Frame>) -> Self {
        Self {
            namespace,
            socket_id,
            rooms: session.rooms.into_iter().map(|(room, joined)| (room.into(), joined)).collect(),
            data: session.data.into(),
            received: session.since,
            direct,
            since: Instant::now(),
        }
    }

    /// Bytes that it takes. They don't change while it is kept.
    fn bytes(&self) -> usize {
        let rooms: usize = self.rooms.iter().map(|(room, _)| room.len() + OVERHEAD_BYTES).sum();
        size_of::<Self>() + OVERHEAD_BYTES + rooms + self.data.len() + self.direct.held()
    }

    /// The session and what was emitted to it alone. `name` tells the namespaces' names.
    pub(crate) fn unpack(self, name: impl FnOnce(u16) -> &'static str) -> (SavedSession, Direct<Frame>) {
        let mut session = SavedSession::new(name(self.namespace), self.socket_id.as_str(), self.received);
        session.rooms = self.rooms.into_iter().map(|(room, joined)| (room.into(), joined)).collect();
        session.data = self.data.into();
        (session, self.direct)
    }
}

impl Sessions {
    pub(crate) fn new(settings: &Recovery) -> Self {
        Self {
            known: HashMap::new(),
            kept: Slab::new(),
            away: VecDeque::new(),
            away_bytes: 0,
            window: settings.window,
            max_sessions: settings.max_sessions,
            max_bytes: settings.max_session_bytes,
        }
    }

    /// The session is with this socket now.
    pub(crate) fn is_with(&mut self, pid: Id, socket: SocketRef) {
        self.known.insert(pid, Whereabouts::With(socket));
    }

    /// Where the session is.
    pub(crate) fn find(&self, pid: &Id) -> Option<&Whereabouts> {
        self.known.get(pid)
    }

    /// Resolves when the session is on its way back no longer; `None` if it is not.
    pub(crate) fn returned(&mut self, pid: &Id) -> Option<oneshot::Receiver<()>> {
        let Some(Whereabouts::Returning(waiting)) = self.known.get_mut(pid) else { return None };
        let (done, is_done) = oneshot::channel();
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(done);
        Some(is_done)
    }

    /// A client has come back for a session: nobody else can until it is with a socket or has ended. Returns the session,
    /// if it is kept here for its client.
    pub(crate) fn take(&mut self, pid: Id) -> Result<Option<Away>, TooLate> {
        match self.known.insert(pid, Whereabouts::Returning(Vec::new())) {
            Some(Whereabouts::Away(key)) => {
                let Some(away) = self.remove(key) else { return Ok(None) };
                if away.since.elapsed() > self.window { Err(TooLate) } else { Ok(Some(away)) }
            }
            _ => Ok(None),
        }
    }

    /// The session's socket is gone, and its client may come back.
    pub(crate) fn keep(&mut self, pid: Id, away: Away) {
        self.away.push_back((pid, away.since));
        self.away_bytes += away.bytes();
        // They are bounded far below 2^32.
        let key = self.kept.insert(away) as u32;
        self.known.insert(pid, Whereabouts::Away(key));
    }

    /// The session has ended.
    pub(crate) fn end(&mut self, pid: &Id) {
        if let Some(Whereabouts::Away(key)) = self.known.remove(pid) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: u32) -> Option<Away> {
        let away = self.kept.try_remove(key as usize)?;
        self.away_bytes -= away.bytes();
        Some(away)
    }

    /// Whether the oldest have to be forgotten before their time.
    pub(crate) fn are_too_many(&self) -> bool {
        self.kept.len() > self.max_sessions || self.away_bytes > self.max_bytes
    }

    /// Forgets sessions whose clients were away for too long, and the oldest if there are too many. Returns their secrets.
    pub(crate) fn trim(&mut self, now: Instant) -> Vec<Id> {
        let mut ended = Vec::new();
        while let Some(&(pid, since)) = self.away.front()
            && (self.are_too_many() || now.duration_since(since) > self.window || !self.is_away(&pid, since))
        {
            self.away.pop_front();
            if self.is_away(&pid, since) {
                self.end(&pid);
                ended.push(pid);
            }
        }
        if self.away.len() * 4 < self.away.capacity() {
            self.away.shrink_to(self.away.len() * 2);
        }
        if self.kept.len() * 4 < self.kept.capacity() {
            self.kept.shrink_to_fit();
        }
        if self.known.len() * 4 < self.known.capacity() {
            self.known.shrink_to(self.known.len() * 2);
        }
        ended
    }

    fn is_away(&self, pid: &Id, since: Instant) -> bool {
        let Some(Whereabouts::Away(key)) = self.known.get(pid) else { return false };
        self.kept.get(*key as usize).is_some_and(|away| away.since == since)
    }

    /// How many clients are away.
    pub(crate) fn away(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identifier::Entropy;

    fn away() -> Away {
        let id = Entropy::new().session_id(0);
        Away::new(0, id, SavedSession::new("/", id.as_str(), 0), Direct::default())
    }

    #[test]
    fn a_session_comes_back_once() {
        let (mut sessions, pid) = (Sessions::new(&Recovery::default()), Entropy::new().session_id(0));
        assert!(matches!(sessions.take(pid), Ok(None)));
        sessions.keep(pid, away());
        assert_eq!(sessions.away(), 1);
        assert!(matches!(sessions.take(pid), Ok(Some(_))));
        assert!(matches!(sessions.find(&pid), Some(Whereabouts::Returning(_))));
        let mut returned = sessions.returned(&pid).expect("it is on its way");
        assert!(returned.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        assert_eq!(sessions.away(), 0);
        sessions.end(&pid);
        assert!(sessions.find(&pid).is_none());
        assert!(returned.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(sessions.returned(&pid).is_none());
    }

    #[test]
    fn sessions_are_bounded_in_bytes() {
        let mut entropy = Entropy::new();
        let large = || {
            let rooms = (0..10).map(|number| (number.to_string().repeat(100), 0)).collect();
            let id = Entropy::new().session_id(0);
            let session = SavedSession { rooms, ..SavedSession::new("/", id.as_str(), 0) };
            Away::new(0, id, session, Direct::default())
        };
        let settings = Recovery { max_session_bytes: 2 * large().bytes(), ..Recovery::default() };
        assert!(large().bytes() > 1000);
        let mut sessions = Sessions::new(&settings);
        let pids: Vec<Id> = (0..3).map(|_| entropy.session_id(0)).collect();
        for pid in &pids {
            sessions.keep(*pid, large());
        }
        assert!(sessions.are_too_many());
        assert!(sessions.trim(Instant::now()) == [pids[0]]);
        assert!(!sessions.are_too_many());
        assert!(matches!(sessions.take(pids[1]), Ok(Some(_))));
        sessions.end(&pids[2]);
        assert_eq!((sessions.away(), sessions.away_bytes), (0, 0));
    }

    #[test]
    fn sessions_are_bounded_in_time_and_number() {
        let mut entropy = Entropy::new();
        let mut sessions = Sessions::new(&Recovery { max_sessions: 2, ..Recovery::default() });
        let pids: Vec<Id> = (0..3).map(|_| entropy.session_id(0)).collect();
        for pid in &pids {
            sessions.keep(*pid, away());
        }
        // The first came back and left again: it is the youngest now.
        assert!(matches!(sessions.take(pids[0]), Ok(Some(_))));
        sessions.keep(pids[0], away());
        assert!(sessions.trim(Instant::now()) == [pids[1]]);
        assert_eq!(sessions.away(), 2);
        let later = Instant::now() + Duration::from_secs(121);
        assert!(sessions.trim(later) == [pids[2], pids[0]]);
        assert_eq!((sessions.known.len(), sessions.away.len(), sessions.away()), (0, 0, 0));
    }
}
