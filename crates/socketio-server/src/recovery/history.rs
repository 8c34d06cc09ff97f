//! The broadcasts of this node that returning clients may still ask for, by room.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    config::{MOST_MISSED, Recovery},
    delivery::frame::{Frame, Frames},
    identifier::{Id, Position},
};

/// A remembered broadcast.
pub(crate) struct Entry {
    pub(crate) offset: Position,
    pub(crate) frames: Frames,
    namespace: u16,
    /// Empty for all sockets of the namespace.
    rooms: SmallVec<[Arc<str>; 1]>,
    except: Box<[Box<str>]>,
    except_socket: Option<Id>,
    /// Of the broadcasts with the same key, only the newest is remembered.
    latest: Option<Arc<str>>,
    at: Instant,
}

/// The receivers of a broadcast, as far as recovery is concerned.
pub(crate) struct Audience<'a> {
    pub(crate) namespace: u16,
    pub(crate) rooms: &'a [Box<str>],
    pub(crate) except: &'a [Box<str>],
    pub(crate) except_socket: Option<Id>,
}

/// The remembered broadcasts, and the offsets of all broadcasts.
pub(crate) struct History {
    /// The offset of the last broadcast.
    last: Position,
    /// The offset of the last broadcast before this server's first.
    start: Position,
    /// The offset of the last broadcast that was evicted and not replaced by a newer one.
    forgotten: Position,
    rooms: HashMap<RoomKey, Room>,
    all: Queue,
    latest: Newest,
    age: Duration,
}

/// A namespace and a room in it; `None` for all sockets of the namespace.
type RoomKey = (u16, Option<Arc<str>>);

/// The remembered broadcasts of a room, in order.
#[derive(Default)]
struct Room {
    entries: VecDeque<Arc<Entry>>,
    /// The offset of the newest broadcast for each key, if there are keys. Without this map, a search would take
    /// time in proportion to the keys in the room, while all other threads wait for the history.
    #[expect(clippy::box_collection, reason = "most rooms have no keys, and a map is six words even when it is empty")]
    newest: Option<Box<HashMap<Arc<str>, Position>>>,
}

impl Room {
    /// Adds the newest broadcast. Removes and returns the broadcast that had the same key.
    fn push(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let older = (entry.latest.as_ref())
            .and_then(|key| self.newest.get_or_insert_default().insert(key.clone(), entry.offset))
            .and_then(|older| self.take(older));
        self.entries.push_back(entry);
        older
    }

    /// Removes an entry. Returns false if a newer one replaced it before.
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

    fn take(&mut self, offset: Position) -> Option<Arc<Entry>> {
        let index = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        self.entries.remove(index)
    }
}

/// Broadcasts in order, bounded in bytes.
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

    /// Takes the oldest entry, if it has to be evicted.
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

/// The same for broadcasts with a key. These are also removed from the middle: when every room has a newer one.
#[derive(Default)]
struct Newest {
    /// By offset, each with the number of rooms that have no newer one.
    entries: BTreeMap<Position, (Arc<Entry>, usize)>,
    bytes: usize,
    max_bytes: usize,
}

impl Newest {
    fn push(&mut self, entry: Arc<Entry>, rooms: usize) {
        self.bytes += entry.bytes();
        self.entries.insert(entry.offset, (entry, rooms));
    }

    /// Records that a room has a newer broadcast.
    fn replaced(&mut self, offset: Position) {
        let Some((entry, rooms)) = self.entries.get_mut(&offset) else { return };
        *rooms = rooms.saturating_sub(1);
        if *rooms == 0 {
            self.bytes -= entry.bytes();
            self.entries.remove(&offset);
        }
    }

    /// Takes the oldest entry, if it has to be evicted.
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

/// The approximate bytes of an entry besides its frames.
const ENTRY_OVERHEAD: usize = 256;

/// The bytes, besides the name, of a room with no other entries: its entry in the map, which may be half empty, and a
/// list of one.
const ROOM_OVERHEAD: usize = 192;

impl Entry {
    fn bytes(&self) -> usize {
        let rooms: usize = self.rooms.iter().map(|room| ROOM_OVERHEAD + room.len()).sum();
        let except: usize = self.except.iter().map(|room| size_of::<Box<str>>() + room.len()).sum();
        // The key is in the entry, and in the room's map of the newest.
        let key = self.latest.as_ref().map_or(0, |key| ROOM_OVERHEAD + key.len());
        ENTRY_OVERHEAD + self.frames.iter().map(Frame::len).sum::<usize>() + rooms + except + key
    }
}

impl History {
    /// Remembers broadcasts for `age`.
    pub(crate) fn new(settings: &Recovery, age: Duration) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // 64 bits are enough for half a million years.
        let start = settings.after.unwrap_or(Position::new(now.as_micros() as u64));
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

    /// The offset of the last broadcast.
    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// The offset of the last broadcast before this server's first: this offset and lower ones belong to earlier runs.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// The next broadcast's offset: the given one, or the next number.
    ///
    /// # Errors
    /// If the given offset is not above the last one, which is returned.
    pub(crate) fn next(&mut self, given: Option<Position>) -> Result<Position, Position> {
        let next = given.unwrap_or(self.last.next());
        if next <= self.last {
            return Err(self.last);
        }
        self.last = next;
        Ok(next)
    }

    /// Records that the order has come to this offset, and that the broadcasts up to it were sent or are not for this
    /// server. Returns false if it had come so far before.
    pub(crate) fn advance(&mut self, to: Position) -> bool {
        let is_later = to > self.last;
        self.last = self.last.max(to);
        is_later
    }

    /// Remembers the broadcast that got the last offset.
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
                // A room that is named twice has replaced the entry with itself.
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

    /// Evicts entries that are too old or exceed a limit.
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

    /// The newest broadcast to a room after `offset`, up to and including `until`, that does not leave out this socket.
    /// The outer `None` means that some of these broadcasts are no longer remembered.
    pub(crate) fn newest_in(
        &self,
        (namespace, room): (u16, &str),
        (socket, is_in): (&Id, impl Fn(&str) -> bool),
        offset: Position,
        until: Position,
    ) -> Option<Option<Arc<Entry>>> {
        if !self.reaches(offset) {
            return None;
        }
        let Some(room) = self.rooms.get(&(namespace, Some(room.into()))) else { return Some(None) };
        let mut newer = room.entries.iter().rev().take_while(|entry| entry.offset > offset);
        let is_left_out =
            |entry: &Entry| entry.except_socket == Some(*socket) || entry.except.iter().any(|room| is_in(room));
        Some(newer.find(|entry| entry.offset <= until && !is_left_out(entry)).cloned())
    }

    /// Whether every broadcast after `offset` is remembered, as far as no newer one replaces it.
    fn reaches(&self, offset: Position) -> bool {
        offset >= self.forgotten || self.start >= self.forgotten
    }

    /// The broadcasts after `offset` for a socket in these rooms, in order. Each room comes with the last broadcast
    /// before the socket joined it. `None` if some of them may have been evicted, or if there are too many.
    pub(crate) fn missed(
        &self,
        namespace: u16,
        socket: &Id,
        rooms: &[(Arc<str>, Position)],
        offset: Position,
        until: Position,
    ) -> Option<Vec<Arc<Entry>>> {
        if !self.reaches(offset) {
            return None;
        }
        let own = (Arc::from(socket.as_str()), Position::NONE);
        let named = rooms.iter().cloned().chain([own]);
        let keys = named.map(|(room, joined)| (Some(room), joined)).chain([(None, Position::NONE)]);
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

    /// The number of remembered broadcasts, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.all.entries.len() + self.latest.entries.len(), self.all.bytes + self.latest.bytes)
    }
}

impl Entry {
    /// The rooms under which the entry is remembered.
    fn keys(&self) -> impl Iterator<Item = RoomKey> {
        let everyone = self.rooms.is_empty().then_some((self.namespace, None));
        self.rooms.iter().map(|room| (self.namespace, Some(room.clone()))).chain(everyone)
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const LAST: Position = Position::new(u64::MAX);
    const AGE: Duration = Duration::from_secs(60);

    fn history(max_latest_bytes: usize) -> History {
        History::new(&Recovery { max_latest_bytes, after: Some(Position::NONE), ..Recovery::default() }, AGE)
    }

    /// Remembers a broadcast to these rooms. Returns its offset.
    fn push(history: &mut History, rooms: &[&str], latest: Option<&str>) -> u64 {
        let rooms: Vec<Box<str>> = rooms.iter().map(|&room| room.into()).collect();
        let number = history.next(None).expect("the next number");
        let audience = Audience { namespace: 0, rooms: &rooms, except: &[], except_socket: None };
        history.push(&audience, latest, smallvec![Frame::text(|out| out.extend_from_slice(b"42[]"))]);
        number.get()
    }

    fn missed(history: &History, room: &str) -> Vec<u64> {
        let socket = Id::parse("AAAAAAAAAAAAAAAAAAAA").expect("an id");
        let missed = history
            .missed(0, &socket, &[(room.into(), Position::NONE)], Position::NONE, LAST)
            .expect("nothing is forgotten");
        missed.iter().map(|entry| entry.offset.get()).collect()
    }

    /// A member that a broadcast under way has not reached gets it with the others.
    #[test]
    fn the_newest_is_not_past_what_was_asked_for() {
        let (mut history, socket) = (history(0), Id::parse("AAAAAAAAAAAAAAAAAAAA").expect("an id"));
        let offsets = [(); 3].map(|()| push(&mut history, &["a"], None));
        let newest = |after: u64, until: u64| {
            let found = history.newest_in((0, "a"), (&socket, |_: &str| false), after.into(), until.into());
            found.expect("nothing is forgotten").map(|entry| entry.offset.get())
        };
        assert_eq!(newest(0, offsets[2]), Some(offsets[2]));
        assert_eq!(newest(0, offsets[1]), Some(offsets[1]));
        assert_eq!(newest(offsets[1], offsets[1]), None);
    }

    #[test]
    fn too_many_are_not_sent_again() {
        let (mut history, socket) = (history(0), Id::parse("AAAAAAAAAAAAAAAAAAAA").expect("an id"));
        let rooms = ["a", "b"].map(|room| (room.into(), Position::NONE));
        let count =
            |history: &History| history.missed(0, &socket, &rooms, Position::NONE, LAST).map(|missed| missed.len());
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
        // A room that is named twice has the entry once.
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
        let mut history =
            History::new(&Recovery { max_bytes: most, after: Some(Position::NONE), ..Recovery::default() }, AGE);
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
        // A key that is used again is new.
        push(&mut history, &["a"], Some("key 1"));
        assert_eq!(keys(&history), 1);
    }
}
