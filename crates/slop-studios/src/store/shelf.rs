//! A map that is bounded in entries and bytes; what was not touched for longest leaves first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Bookkeeping of an entry in both maps, roughly: two keys, a place, the nodes.
const ENTRY_OVERHEAD: usize = 160;

#[derive(Debug)]
pub(super) struct Shelf<K: ?Sized, V> {
    entries: HashMap<Arc<K>, Entry<V>>,
    by_age: BTreeMap<u64, Arc<K>>,
    next_place: u64,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Entry<V> {
    place: u64,
    bytes: usize,
    value: V,
}

impl<K: Eq + Hash + ?Sized, V> Shelf<K, V> {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), by_age: BTreeMap::new(), next_place: 0, bytes: 0, max_entries, max_bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Puts a value that weighs `bytes` in the newest place, instead of an older one of the same key. The newest is
    /// kept even if it is larger than the limit.
    pub(super) fn put(&mut self, key: Arc<K>, value: V, bytes: usize) {
        self.remove(&key);
        let (place, bytes) = (self.next_place, bytes.saturating_add(ENTRY_OVERHEAD));
        self.next_place += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.by_age.insert(place, Arc::clone(&key));
        self.entries.insert(key, Entry { place, bytes, value });
        while self.len() > 1 && (self.len() > self.max_entries || self.bytes > self.max_bytes) {
            self.remove_oldest();
        }
    }

    /// Removes the oldest entries for as long as `outdated` says so.
    pub(super) fn remove_while(&mut self, outdated: impl Fn(&V) -> bool) {
        while let Some((_, key)) = self.by_age.first_key_value()
            && self.get(key).is_none_or(&outdated)
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_first() {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_age.remove(&entry.place);
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(shelf: &Shelf<str, u32>) -> Vec<&str> {
        shelf.by_age.values().map(AsRef::as_ref).collect()
    }

    #[test]
    fn the_longest_untouched_leaves_first() {
        let mut shelf = Shelf::new(2, usize::MAX);
        shelf.put("a".into(), 1, 0);
        shelf.put("b".into(), 2, 0);
        shelf.put("a".into(), 3, 0);
        shelf.put("c".into(), 4, 0);
        assert_eq!(keys(&shelf), ["a", "c"]);
        assert_eq!((shelf.get("a"), shelf.get("b")), (Some(&3), None));
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let mut shelf = Shelf::new(usize::MAX, 3 * ENTRY_OVERHEAD + 100);
        for (value, key) in ["a", "b", "c"].into_iter().enumerate() {
            shelf.put(key.into(), value as u32, 50);
        }
        assert_eq!(keys(&shelf), ["b", "c"]);
        shelf.put("d".into(), 3, 1_000_000);
        assert_eq!(keys(&shelf), ["d"]);
        shelf.put("e".into(), 4, 0);
        assert_eq!(keys(&shelf), ["e"]);
        shelf.remove_while(|_| true);
        assert_eq!((shelf.len(), shelf.bytes()), (0, 0));
    }
}
