//! The location of each session.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::sync::oneshot;

use crate::{
    SocketRef,
    address::Address,
    config::Recovery,
    delivery::frame::Frame,
    identifier::{Id, IdMap, Position},
    recovery::{Direct, SavedSession},
};

/// The sessions of a node, by their secret.
pub(crate) struct Sessions {
    known: IdMap<Whereabouts>,
    /// Stored together, not in separate allocations. Separate allocations would lie between the memory that departed
    /// clients free, and the system would get none of that memory back.
    kept: Slab<Away>,
    /// The sessions whose clients are away, in the order in which the clients left. If a session came back since, or
    /// left again, its old entry is stale.
    away: VecDeque<(Id, Instant)>,
    /// The usage of the sessions whose clients are away, in total and for each address.
    taken: Taken,
    by_address: HashMap<Address, Taken>,
    /// The addresses that have [many](Taken::is_many_of), and some that had many. No more than 512 addresses have many.
    many: Vec<Address>,
    window: Duration,
    max_sessions: usize,
    max_bytes: usize,
}

/// The usage of sessions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Taken {
    sessions: usize,
    bytes: usize,
}

/// The location of a session.
pub(crate) enum Whereabouts {
    /// With a socket.
    With(SocketRef),
    /// Its client is away. The value is the key of the kept session.
    Away(u32),
    /// A client has come back for it. The senders are dropped when the session is with a socket, is kept again or has
    /// ended.
    Returning(Vec<oneshot::Sender<()>>),
}

/// A session whose client is away. It is as small as possible: after a crowd has left, there are many.
pub(crate) struct Away {
    namespace: u16,
    /// The client's address, unless that is a proxy's.
    address: Option<Address>,
    socket_id: Id,
    rooms: Box<[(Arc<str>, Position)]>,
    data: Box<str>,
    received: Position,
    direct: Direct<Frame>,
    since: Instant,
}

/// The bytes of a room besides its name, and of a session besides its rooms and its entry among the kept sessions.
const OVERHEAD_BYTES: usize = 64;

/// The number of entries that are always tolerated, valid or stale.
const FEW: usize = 64;

/// The share of the limits from which an address has many sessions: so few addresses have that share that they can be
/// checked one by one.
const MANY: f64 = 1.0 / 256.0;

impl Taken {
    /// Its share of the limits `all`.
    fn part_of(&self, all: &Self) -> f64 {
        let part = |taken: usize, all: usize| taken as f64 / all.max(1) as f64;
        part(self.sessions, all.sessions).max(part(self.bytes, all.bytes))
    }

    fn is_many_of(&self, all: &Self) -> bool {
        self.part_of(all) >= MANY
    }

    fn add(&mut self, bytes: usize) {
        self.sessions += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.sessions -= 1;
        self.bytes -= bytes;
    }
}

/// The client was away for too long.
#[derive(Debug)]
pub(crate) struct TooLate;

impl Away {
    pub(crate) fn new(
        namespace: u16,
        address: Option<Address>,
        socket_id: Id,
        session: SavedSession,
        direct: Direct<Frame>,
    ) -> Self {
        Self {
            namespace,
            address,
            socket_id,
            rooms: session.rooms.into(),
            data: session.data.into(),
            received: session.since,
            direct,
            since: Instant::now(),
        }
    }

    /// The bytes that the session takes. They don't change while it is kept.
    fn bytes(&self) -> usize {
        let rooms: usize = self.rooms.iter().map(|(room, _)| room.len() + OVERHEAD_BYTES).sum();
        size_of::<Self>() + OVERHEAD_BYTES + rooms + self.data.len() + self.direct.bytes()
    }

    /// The session and the events emitted to it alone. `name` returns the name of a namespace.
    pub(crate) fn unpack(self, name: impl FnOnce(u16) -> &'static str) -> (SavedSession, Direct<Frame>) {
        let mut session = SavedSession::new(name(self.namespace), self.socket_id.as_str(), self.received);
        session.rooms = self.rooms.into();
        session.data = self.data.into();
        (session, self.direct)
    }
}

impl Sessions {
    pub(crate) fn new(settings: &Recovery) -> Self {
        Self {
            known: IdMap::default(),
            kept: Slab::new(),
            away: VecDeque::new(),
            taken: Taken::default(),
            by_address: HashMap::new(),
            many: Vec::new(),
            window: settings.window,
            max_sessions: settings.max_sessions,
            max_bytes: settings.max_session_bytes,
        }
    }

    /// Records that the session is now with this socket.
    pub(crate) fn is_with(&mut self, pid: Id, socket: SocketRef) {
        self.known.insert(pid, Whereabouts::With(socket));
    }

    /// The location of the session.
    pub(crate) fn find(&self, pid: &Id) -> Option<&Whereabouts> {
        self.known.get(pid)
    }

    /// A receiver that resolves when the session is no longer on its way back; `None` if it is not on its way back.
    pub(crate) fn returned(&mut self, pid: &Id) -> Option<oneshot::Receiver<()>> {
        let Some(Whereabouts::Returning(waiting)) = self.known.get_mut(pid) else { return None };
        let (done, is_done) = oneshot::channel();
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(done);
        Some(is_done)
    }

    /// Takes a session for a returning client. No other client can take it until it is with a socket or has ended.
    /// Returns the session, if it is kept here for its client.
    pub(crate) fn take(&mut self, pid: Id) -> Result<Option<Away>, TooLate> {
        match self.known.insert(pid, Whereabouts::Returning(Vec::new())) {
            Some(Whereabouts::Away(key)) => {
                let Some(away) = self.remove(key) else { return Ok(None) };
                if away.since.elapsed() > self.window { Err(TooLate) } else { Ok(Some(away)) }
            }
            _ => Ok(None),
        }
    }

    /// Keeps a session whose socket is gone and whose client may come back. Returns the secrets of the sessions that
    /// are evicted for it.
    pub(crate) fn keep(&mut self, pid: Id, away: Away) -> Vec<Id> {
        self.away.push_back((pid, away.since));
        self.taken.add(away.bytes());
        if let Some(address) = away.address {
            let all = Taken { sessions: self.max_sessions, bytes: self.max_bytes };
            let taken = self.by_address.entry(address).or_default();
            taken.add(away.bytes());
            if taken.is_many_of(&all) && !self.many.contains(&address) {
                self.many.push(address);
            }
        }
        // The keys are bounded far below 2^32.
        let key = self.kept.insert(away) as u32;
        self.known.insert(pid, Whereabouts::Away(key));
        if self.are_too_many() { self.make_room() } else { Vec::new() }
    }

    /// Evicts sessions of the address that has most, or the oldest sessions if no address has many.
    fn make_room(&mut self) -> Vec<Id> {
        let all = Taken { sessions: self.max_sessions, bytes: self.max_bytes };
        self.many.retain(|address| self.by_address.get(address).is_some_and(|taken| taken.is_many_of(&all)));
        let taken = |address: &Address| self.by_address.get(address).copied().unwrap_or_default();
        let most = self.many.iter().max_by(|a, b| taken(a).part_of(&all).total_cmp(&taken(b).part_of(&all))).copied();
        let mut ended = Vec::new();
        if let Some(address) = most {
            // An eighth of its sessions at a time, because the search has to check all entries.
            let mut left = taken(&address);
            let enough =
                Taken { sessions: left.sessions - (left.sessions / 8).max(1), bytes: left.bytes - left.bytes / 8 };
            for (pid, since) in &self.away {
                if left.sessions <= enough.sessions || left.bytes <= enough.bytes {
                    break;
                }
                if let Some(away) = self.away_since(pid, *since).filter(|away| away.address == Some(address)) {
                    left.remove(away.bytes());
                    ended.push(*pid);
                }
            }
            ended.iter().for_each(|pid| self.end(pid));
        }
        ended.append(&mut self.trim(Instant::now()));
        ended
    }

    /// Ends the session.
    pub(crate) fn end(&mut self, pid: &Id) {
        if let Some(Whereabouts::Away(key)) = self.known.remove(pid) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: u32) -> Option<Away> {
        let away = self.kept.try_remove(key as usize)?;
        self.taken.remove(away.bytes());
        if let Some(address) = away.address
            && let Some(taken) = self.by_address.get_mut(&address)
        {
            taken.remove(away.bytes());
            if *taken == Taken::default() {
                self.by_address.remove(&address);
                self.many.retain(|known| *known != address);
            }
        }
        Some(away)
    }

    /// Whether sessions have to be evicted before they expire.
    fn are_too_many(&self) -> bool {
        self.taken.sessions > self.max_sessions || self.taken.bytes > self.max_bytes
    }

    /// Ends the sessions of clients that were away for too long, and the oldest sessions if there are still too many.
    /// Returns their secrets.
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
        // The stale entries behind the first valid one.
        if self.away.len() > 2 * self.kept.len() + FEW {
            let mut away = mem::take(&mut self.away);
            away.retain(|(pid, since)| self.is_away(pid, *since));
            self.away = away;
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
        if self.by_address.len() * 4 < self.by_address.capacity() {
            self.by_address.shrink_to(self.by_address.len() * 2);
        }
        ended
    }

    fn is_away(&self, pid: &Id, since: Instant) -> bool {
        self.away_since(pid, since).is_some()
    }

    /// The session, if its client has been away since the given time.
    fn away_since(&self, pid: &Id, since: Instant) -> Option<&Away> {
        let Some(Whereabouts::Away(key)) = self.known.get(pid) else { return None };
        self.kept.get(*key as usize).filter(|away| away.since == since)
    }

    /// The number of clients that are away.
    pub(crate) fn away(&self) -> usize {
        self.kept.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identifier::Entropy;

    fn away() -> Away {
        let id = Entropy::new().session_id(0);
        Away::new(0, None, id, SavedSession::new("/", id.as_str(), Position::NONE), Direct::default())
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
        let large = |address: Option<IpAddr>| {
            let rooms = (0..10).map(|number| (number.to_string().repeat(100).into(), Position::NONE)).collect();
            let id = Entropy::new().session_id(0);
            let session = SavedSession { rooms, ..SavedSession::new("/", id.as_str(), Position::NONE) };
            Away::new(0, address.map(Address::of), id, session, Direct::default())
        };
        let settings = Recovery { max_session_bytes: 2 * large(None).bytes(), ..Recovery::default() };
        assert!(large(None).bytes() > 1000);
        let mut sessions = Sessions::new(&settings);
        let pids: Vec<Id> = (0..3).map(|_| entropy.session_id(0)).collect();
        assert!(pids.iter().map(|pid| sessions.keep(*pid, large(None))).eq([vec![], vec![], vec![pids[0]]]));
        assert!(!sessions.are_too_many());
        assert!(matches!(sessions.take(pids[1]), Ok(Some(_))));
        sessions.end(&pids[2]);
        assert_eq!((sessions.away(), sessions.taken), (0, Taken::default()));
    }

    /// An address that has many sessions makes room for other addresses with its own sessions.
    #[test]
    fn no_address_pushes_out_the_sessions_of_others() {
        let mut entropy = Entropy::new();
        let mut sessions = Sessions::new(&Recovery { max_sessions: 64, ..Recovery::default() });
        let mut keep = |sessions: &mut Sessions, number: u16| {
            let [high, low] = number.to_be_bytes();
            let address = Address::of(IpAddr::from([192, 0, high, low]));
            let (pid, away) = (entropy.session_id(0), away());
            (pid, sessions.keep(pid, Away { address: Some(address), ..away }))
        };
        let others: Vec<Id> = (1..5).map(|last| keep(&mut sessions, last).0).collect();
        let greedy: Vec<Id> = (0..60).map(|_| keep(&mut sessions, 9).0).collect();
        assert!(keep(&mut sessions, 5).1 == greedy[..7]);
        for _ in 0..200 {
            keep(&mut sessions, 9);
        }
        assert!(others.iter().all(|pid| matches!(sessions.find(pid), Some(Whereabouts::Away(_)))));
        assert!(sessions.find(&greedy[59]).is_none());
        // If no address has many sessions, the oldest sessions go first.
        let mut sessions = Sessions::new(&Recovery { max_sessions: 1_000, ..Recovery::default() });
        let all: Vec<Id> = (0..1_000).map(|number| keep(&mut sessions, number).0).collect();
        assert!(keep(&mut sessions, 1_000).1 == [all[0]]);
        // Of two addresses that have many sessions, the one with more loses sessions.
        let mut sessions = Sessions::new(&Recovery { max_sessions: 64, ..Recovery::default() });
        let some: Vec<Id> = (0..25).map(|_| keep(&mut sessions, 8).0).collect();
        let more: Vec<Id> = (0..39).map(|_| keep(&mut sessions, 9).0).collect();
        assert!(keep(&mut sessions, 8).1 == more[..4]);
        assert!(matches!(sessions.take(some[0]), Ok(Some(_))));
        sessions.end(&some[0]);
        let later = Instant::now() + Duration::from_secs(121);
        assert_eq!(sessions.trim(later).len(), 60);
        assert_eq!((sessions.taken, sessions.by_address.len(), sessions.many.len()), (Taken::default(), 0, 0));
    }

    /// The stale entries are behind the entry of a client that stays away.
    #[test]
    fn entries_that_do_not_count_are_few() {
        let mut entropy = Entropy::new();
        let mut sessions = Sessions::new(&Recovery::default());
        sessions.keep(entropy.session_id(0), away());
        for _ in 0..1_000 {
            let pid = entropy.session_id(0);
            sessions.keep(pid, away());
            sessions.end(&pid);
        }
        sessions.trim(Instant::now());
        assert_eq!((sessions.away(), sessions.away.len()), (1, 1));
    }

    #[test]
    fn sessions_are_bounded_in_time_and_number() {
        let mut entropy = Entropy::new();
        let mut sessions = Sessions::new(&Recovery { max_sessions: 2, ..Recovery::default() });
        let pids: Vec<Id> = (0..3).map(|_| entropy.session_id(0)).collect();
        assert!(sessions.keep(pids[0], away()).is_empty() && sessions.keep(pids[1], away()).is_empty());
        // The first client came back and left again: its session is the youngest now.
        assert!(matches!(sessions.take(pids[0]), Ok(Some(_))));
        assert!(sessions.keep(pids[0], away()).is_empty());
        assert!(sessions.keep(pids[2], away()) == [pids[1]]);
        assert_eq!(sessions.away(), 2);
        let later = Instant::now() + Duration::from_secs(121);
        assert!(sessions.trim(later) == [pids[0], pids[2]]);
        assert_eq!((sessions.known.len(), sessions.away.len(), sessions.away()), (0, 0, 0));
    }
}
