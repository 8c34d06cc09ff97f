//! The broadcasts of this node that clients may still ask for, by room.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    config::MOST_MISSED,
    frame::{Frame, Frames},
    identifier::Id,
    recovery::Recovery,
};

/// A remembered broadcast.
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) frames: Frames,
    namespace: u16,
    /// Everyone in the namespace, if empty.
    rooms: SmallVec<[Arc<str>; 1]>,
    except: Box<[Box<str>]>,
    except_socket: Option<Id>,
    /// Of those with the same key only the newest is remembered.
    latest: Option<Arc<str>>,
    at: Instant,
}

/// Whom a broadcast goes to, as far as recovery is concerned.
pub(crate) struct Audience<'a> {
    pub(crate) namespace: u16,
    pub(crate) rooms: &'a [Box<str>],
    pub(crate) except: &'a [Box<str>],
    pub(crate) except_socket: Option<Id>,
}

/// The broadcasts that are remembered, and the numbers of all.
pub(crate) struct History {
    /// The number of the last broadcast.
    last: u64,
    /// The last broadcast before this server's first.
    start: u64,
    /// The last broadcast that is forgotten and was not replaced by a newer one.
    forgotten: u64,
    rooms: HashMap<RoomKey, Room>,
    all: Queue,
    latest: Newest,
    age: Duration,
}

/// A namespace and a room in it; everyone, if it names none.
type RoomKey = (u16, Option<Arc<str>>);

/// What is remembered of a room, in its order.
#[derive(Default)]
struct Room {
    entries: VecDeque<Arc<Entry>>,
    /// The number of the newest for each key, where there are keys. Looking for it among all the others, one would be as
    /// slow as there are keys in the room, while everybody waits for the history.
    #[expect(clippy::box_collection, reason = "most rooms have no keys, and a map is six words even when it is empty")]
    newest: Option<Box<HashMap<Arc<str>, u64>>>,
}

impl Room {
    /// Adds the newest, which replaces the one with its key. Returns that one.
    fn push(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let older = (entry.latest.as_ref())
            .and_then(|key| self.newest.get_or_insert_default().insert(key.clone(), entry.offset))
            .and_then(|older| self.take(older));
        self.entries.push_back(entry);
        older
    }

    /// Forgets an entry; false if it was replaced before.
    fn forget(&mut self, entry: &Entry) -> bool {
        let forgotten = self.take(entry.offset).is_some();
        if forgotten && let (Some(newest), Some(key)) = (&mut self.newest, &entry.latest) {
            newest.remove(key);
            if newest.is_empty() {
                self.newest = None;
            } else if newest.len() * 4 < newest.capacity() {
                newest.shrink_to(newest.len() * 2);
            }
        }
        forgotten
    }

    fn take(&mut self, offset: u64) -> Option<Arc<Entry>> {
        let index = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        self.entries.remove(index)
    }
}

/// Broadcasts in their order, bounded in bytes.
#[derive(Default)]
struct Queue {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    max_bytes: usize,
}

impl Queue {
    fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Takes the oldest, if it has to be forgotten.
    fn pop(&mut self, now: Instant, age: Duration) -> Option<Arc<Entry>> {
        self.entries.front().filter(|first| self.bytes > self.max_bytes || now.duration_since(first.at) > age)?;
        let first = self.entries.pop_front()?;
        self.bytes -= first.bytes();
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
        Some(first)
    }
}

/// The same of those with a key, which leave also from the middle: when every room has a newer one.
#[derive(Default)]
struct Newest {
    /// By their numbers, each with the rooms that have no newer one.
    entries: BTreeMap<u64, (Arc<Entry>, usize)>,
    bytes: usize,
    max_bytes: usize,
}

impl Newest {
    fn push(&mut self, entry: Arc<Entry>, rooms: usize) {
        self.bytes += entry.bytes();
        self.entries.insert(entry.offset, (entry, rooms));
    }

    /// A room has a newer one.
    fn replaced(&mut self, offset: u64) {
        let Some((entry, rooms)) = self.entries.get_mut(&offset) else { return };
        *rooms = rooms.saturating_sub(1);
        if *rooms == 0 {
            self.bytes -= entry.bytes();
            self.entries.remove(&offset);
        }
    }

    /// Takes the oldest, if it has to be forgotten.
    fn pop(&mut self, now: Instant, age: Duration) -> Option<Arc<Entry>> {
        let first = self.entries.first_entry()?;
        if self.bytes <= self.max_bytes && now.duration_since(first.get().0.at) <= age {
            return None;
        }
        let (first, _) = first.remove();
        self.bytes -= first.bytes();
        Some(first)
    }
}

/// What an entry takes beside its frames, roughly.
const ENTRY_OVERHEAD: usize = 256;

/// What it takes beside the name for each room that nothing else is remembered of: its place in the map, which may be half empty,
/// and a list of one.
const ROOM_OVERHEAD: usize = 192;

impl Entry {
    fn bytes(&self) -> usize {
        let rooms: usize = self.rooms.iter().map(|room| ROOM_OVERHEAD + room.len()).sum();
        let except: usize = self.except.iter().map(|room| size_of::<Box<str>>() + room.len()).sum();
        // In the entry, and in the room's map of the newest.
        let key = self.latest.as_ref().map_or(0, |key| ROOM_OVERHEAD + key.len());
        ENTRY_OVERHEAD + self.frames.iter().map(Frame::len).sum::<usize>() + rooms + except + key
    }
}

impl History {
    /// Remembers broadcasts for `age`.
    pub(crate) fn new(settings: &Recovery, age: Duration) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // Half a million years fit.
        let start = settings.after.unwrap_or(now.as_micros() as u64);
        Self {
            last: start,
            start,
            forgotten: start,
            rooms: HashMap::new(),
            all: Queue { max_bytes: settings.max_bytes, ..Queue::default() },
            latest: Newest { max_bytes: settings.max_latest_bytes, ..Newest::default() },
            age,
        }
    }

    /// The number of the last broadcast.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The last broadcast before this server's first: it and those before it are of earlier lives.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The next broadcast's number: the one that is asked for, unless that is no higher than the last.
    pub(crate) fn next(&mut self, wanted: Option<u64>) -> u64 {
        self.last = wanted.unwrap_or_default().max(self.last + 1);
        self.last
    }

    /// Remembers the broadcast that got the last number.
    pub(crate) fn push(&mut self, audience: &Audience<'_>, latest: Option<&str>, frames: Frames) {
        let now = Instant::now();
        let entry = Arc::new(Entry {
            offset: self.last,
            frames,
            namespace: audience.namespace,
            rooms: audience.rooms.iter().map(|room| Arc::from(&**room)).collect(),
            except: audience.except.into(),
            except_socket: audience.except_socket,
            latest: latest.map(Into::into),
            at: now,
        });
        let mut rooms = 0;
        for key in entry.keys() {
            rooms += 1;
            if let Some(older) = self.rooms.entry(key).or_default().push(entry.clone()) {
                // A room that is named twice has replaced the entry by itself.
                if older.offset == entry.offset { rooms -= 1 } else { self.latest.replaced(older.offset) }
            }
        }
        if entry.latest.is_some() {
            self.latest.push(entry, rooms);
        } else {
            self.all.push(entry);
        }
        self.trim(now);
    }

    /// Forgets what is too old or too much.
    pub(crate) fn trim(&mut self, now: Instant) {
        while let Some(first) = self.all.pop(now, self.age).or_else(|| self.latest.pop(now, self.age)) {
            for key in first.keys() {
                let Some(room) = self.rooms.get_mut(&key) else { continue };
                if room.forget(&first) {
                    self.forgotten = self.forgotten.max(first.offset);
                }
                if room.entries.is_empty() {
                    self.rooms.remove(&key);
                }
            }
        }
        if self.rooms.is_empty() {
            self.rooms = HashMap::new();
        }
    }

    /// The broadcasts after `offset` for a socket in these rooms, each of which it joined after the broadcast named with
    /// it, in their order; `None` if some may be forgotten, or they are too many.
    pub(crate) fn missed(
        &self,
        namespace: u16,
        socket: &Id,
        rooms: &[(Arc<str>, u64)],
        offset: u64,
        until: u64,
    ) -> Option<Vec<Arc<Entry>>> {
        if offset < self.forgotten && self.start < self.forgotten {
            return None;
        }
        let own = (Arc::from(socket.as_str()), 0);
        let named = rooms.iter().cloned().chain([own]);
        let keys = named.map(|(room, joined)| (Some(room), joined)).chain([(None, 0)]);
        let mut missed: Vec<Arc<Entry>> = Vec::new();
        for (room, joined) in keys {
            let Some(room) = self.rooms.get(&(namespace, room)) else { continue };
            let newer = room.entries.iter().rev().take_while(|entry| entry.offset > offset.max(joined));
            let most = (MOST_MISSED + 1).saturating_sub(missed.len());
            missed.extend(newer.filter(|entry| entry.offset <= until).take(most).cloned());
        }
        if missed.len() > MOST_MISSED {
            return None;
        }
        missed.retain(|entry| {
            let is_in = |room: &str| room == socket.as_str() || rooms.iter().any(|(name, _)| &**name == room);
            entry.except_socket != Some(*socket) && !entry.except.iter().any(|room| is_in(room))
        });
        missed.sort_unstable_by_key(|entry| entry.offset);
        missed.dedup_by_key(|entry| entry.offset);
        Some(missed)
    }

    /// How many broadcasts are remembered, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.all.entries.len() + self.latest.entries.len(), self.all.bytes + self.latest.bytes)
    }
}

impl Entry {
    /// The rooms that it is remembered under.
    fn keys(&self) -> impl Iterator<Item = RoomKey> {
        let everyone = self.rooms.is_empty().then_some((self.namespace, None));
        self.rooms.iter().map(|room| (self.namespace, Some(room.clone()))).chain(everyone)
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    fn history(max_latest_bytes: usize) -> History {
        History::new(&Recovery { max_latest_bytes, after: Some(0), ..Recovery::default() }, AGE)
    }

    /// Remembers a broadcast to these rooms; returns its number.
    fn push(history: &mut History, rooms: &[&str], latest: Option<&str>) -> u64 {
        let rooms: Vec<Box<str>> = rooms.iter().map(|&room| room.into()).collect();
        let number = history.next(None);
        let audience = Audience { namespace: 0, rooms: &rooms, except: &[], except_socket: None };
        history.push(&audience, latest, smallvec![Frame::text(|out| out.extend_from_slice(b"42[]"))]);
        number
    }

    fn missed(history: &History, room: &str) -> Vec<u64> {
        let socket = Id::parse("AAAAAAAAAAAAAAAAAAAA").expect("an id");
        let missed = history.missed(0, &socket, &[(room.into(), 0)], 0, u64::MAX).expect("nothing is forgotten");
        missed.iter().map(|entry| entry.offset).collect()
    }

    #[test]
    fn too_many_are_not_sent_again() {
        let (mut history, socket) = (history(0), Id::parse("AAAAAAAAAAAAAAAAAAAA").expect("an id"));
        let rooms = [("a".into(), 0), ("b".into(), 0)];
        let count = |history: &History| history.missed(0, &socket, &rooms, 0, u64::MAX).map(|missed| missed.len());
        for number in 0..MOST_MISSED {
            push(&mut history, &[["a", "b"][number % 2]], None);
        }
        assert_eq!(count(&history), Some(MOST_MISSED));
        push(&mut history, &["c"], None);
        assert_eq!(count(&history), Some(MOST_MISSED));
        push(&mut history, &["a"], None);
        assert_eq!(count(&history), None);
    }

    fn keys(history: &History) -> usize {
        history.rooms.values().filter_map(|room| room.newest.as_ref()).map(|newest| newest.len()).sum()
    }

    #[test]
    fn of_each_key_a_room_has_the_newest() {
        let mut history = history(1 << 20);
        push(&mut history, &["a", "b"], Some("x"));
        push(&mut history, &["a"], None);
        push(&mut history, &["a"], Some("y"));
        push(&mut history, &["a"], Some("x"));
        // The same room named twice has it once.
        push(&mut history, &["b", "b"], Some("y"));
        assert_eq!(missed(&history, "a"), [2, 3, 4]);
        assert_eq!(missed(&history, "b"), [1, 5]);
        assert_eq!(keys(&history), 4);
    }

    #[test]
    fn what_is_replaced_takes_no_memory() {
        let mut history = history(10 * ENTRY_OVERHEAD);
        push(&mut history, &["other"], Some("kept"));
        for number in 0..1_000 {
            push(&mut history, &["a", "b"], Some("x"));
            push(&mut history, &["b"], Some("x"));
            assert!(history.size().0 <= 3, "{number}: {:?}", history.size());
        }
        assert_eq!(missed(&history, "other"), [1]);
        push(&mut history, &["a"], Some("x"));
        assert_eq!(history.size().0, 3);
        history.trim(Instant::now() + 2 * AGE);
        assert_eq!(history.size(), (0, 0));
    }

    #[test]
    fn names_count_towards_what_is_remembered() {
        let most = 1 << 20;
        let mut history = History::new(&Recovery { max_bytes: most, after: Some(0), ..Recovery::default() }, AGE);
        for number in 0..20_000 {
            push(&mut history, &[&format!("{number:0128}")], None);
        }
        let (entries, bytes) = history.size();
        assert!(bytes <= most);
        assert!(entries * (ENTRY_OVERHEAD + ROOM_OVERHEAD + 128) <= most, "{entries}");
        assert_eq!(history.rooms.len(), entries);
    }

    #[test]
    fn keys_are_forgotten_with_their_entries() {
        let mut history = history(10 * ENTRY_OVERHEAD);
        for number in 0..1_000 {
            push(&mut history, &["a"], Some(&format!("key {number}")));
        }
        assert!(keys(&history) < 10, "{}", keys(&history));
        assert_eq!(keys(&history), history.size().0);
        push(&mut history, &["a"], None);
        history.trim(Instant::now() + 2 * AGE);
        assert_eq!((keys(&history), history.rooms.len(), history.size()), (0, 0, (0, 0)));
        // One that comes again is new.
        push(&mut history, &["a"], Some("key 1"));
        assert_eq!(keys(&history), 1);
    }
}
