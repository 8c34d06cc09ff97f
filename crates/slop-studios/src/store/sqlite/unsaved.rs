//! The sessions that have changed since they were saved. The list tells the next process that their saved records are
//! outdated.
//!
//! Sessions are written when there is time: some milliseconds after their clients were informed of a change, and much
//! later if the disk is slow or full. If the process is killed meanwhile, a client would come back in its state before
//! it left a room or logged out, or without a room that it had joined. So the key of a changed session is noted at
//! once, in a mapped file beside the store. The system keeps the file whatever happens to the process, normally without
//! waiting for the disk. A full disk makes no difference where files are written in place.
//!
//! There are two such lists: one for the current changes, the other for the changes that are being written. If that
//! write fails, the keys stay there. If a list is full or a change is lost, any session may be outdated, and the next
//! process uses none.
//!
//! Nothing waits until the lists are on the disk. After a power failure no client is recovered, because the journal was
//! not closed. Only changes after the close of the journal, while the process ends, rely on the system.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::mem;
use std::path::Path;
use std::sync::atomic::{Ordering, compiler_fence};

use memmap2::MmapMut;

use super::super::SessionKey;
use crate::limits::UNSAVED_SESSIONS;
use crate::store::data_dir;
use crate::system::keep_in_memory;

const FILES: [&str; 2] = ["sessions.unsaved-0", "sessions.unsaved-1"];

/// Whether a file of this name is a list.
pub(super) fn is_name(name: &str) -> bool {
    FILES.contains(&name)
}

/// A key, and the CRC-32 of the entry's number and the key. The first entry holds the minimum number of entries in use,
/// in the same form.
type KeyEntry = [u8; 36];

/// The value of a list's first entry if any session may be outdated. An empty entry is zeros.
const ALL: KeyEntry = [0xff; 36];
const NONE: KeyEntry = [0; 36];
const LIST_BYTES: usize = UNSAVED_SESSIONS * size_of::<KeyEntry>();
/// Bytes of a list that are read or written at a time.
const PIECE_BYTES: usize = 64 * 1024;

fn entry(number: usize, key: &SessionKey) -> KeyEntry {
    let mut entry = NONE;
    entry[..32].copy_from_slice(key);
    entry[32..].copy_from_slice(&checksum(number, key).to_le_bytes());
    entry
}

fn checksum(number: usize, key: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(key);
    crc.finalize()
}

/// The key in an entry, unless it is damaged.
fn key_in(number: usize, entry: &KeyEntry) -> Option<SessionKey> {
    let (key, crc) = entry.split_first_chunk()?;
    (checksum(number, key).to_le_bytes() == *crc).then_some(*key)
}

/// The value of the first entry: at least this many other entries are in use.
fn in_use(count: usize) -> KeyEntry {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(count as u64).to_le_bytes());
    entry(0, &key)
}

/// Whether a list may have this many bytes. Lists of other versions have fewer entries.
const fn is_whole(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(size_of::<KeyEntry>() as u64) && bytes <= LIST_BYTES as u64
}

/// The keys of a complete list. `None` if any session may be outdated.
fn keys_in(list: &mut impl Read) -> io::Result<Option<Vec<SessionKey>>> {
    let (mut entry, mut number, mut count, mut keys, mut is_behind) = (NONE, 0, None, Vec::new(), false);
    while read_entry(list, &mut entry)? {
        match (count, entry == NONE) {
            (None, _) => match key_in(0, &entry).and_then(|first| first.first_chunk().copied()) {
                Some(first) => count = Some(u64::from_le_bytes(first)),
                None => return Ok(None),
            },
            (Some(_), true) => is_behind = true,
            (Some(_), false) => match key_in(number, &entry).filter(|_| !is_behind) {
                Some(key) => keys.push(key),
                None => return Ok(None),
            },
        }
        number += 1;
    }
    Ok(Some(keys).filter(|keys| count.is_some_and(|count| keys.len() as u64 >= count)))
}

/// Reads the next entry. Returns false at the end.
fn read_entry(list: &mut impl Read, entry: &mut KeyEntry) -> io::Result<bool> {
    match list.read_exact(entry) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Unsaved {
    lists: [List; 2],
    /// The index of the list for current changes.
    current: usize,
    /// Whether a change is lost. No later write makes up for it.
    is_final: bool,
}

/// Keys, one after the other from the second entry on.
#[derive(Debug)]
struct List {
    entries: MmapMut,
    /// The number of entries in use.
    used: usize,
}

/// The sessions whose saved records an earlier process left outdated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Sessions(Vec<SessionKey>),
    /// Any session may be outdated.
    All,
}

impl Found {
    /// Reads the lists. If a list is missing, incomplete or begins with something else, any session may be outdated.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        for name in FILES {
            let path = folder.join(name);
            let is_whole = match fs::symlink_metadata(&path) {
                Ok(file) => file.is_file() && is_whole(file.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !is_whole {
                return Ok(Self::All);
            }
            // Read in pieces, as it is written: memory once used in one large piece stays with the process.
            let mut list = BufReader::with_capacity(PIECE_BYTES, File::open(path)?);
            let Some(keys) = keys_in(&mut list)? else { return Ok(Self::All) };
            found.extend(keys);
        }
        Ok(Self::Sessions(found))
    }
}

impl Unsaved {
    /// Begins with empty lists.
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        let [first, second] = FILES;
        let lists = [List::begin(&folder.join(first))?, List::begin(&folder.join(second))?];
        Ok(Self { lists, current: 0, is_final: false })
    }

    /// Records that a session has changed.
    pub(super) fn add(&mut self, key: &SessionKey) {
        if let Some(list) = self.lists.get_mut(self.current) {
            list.add(key);
        }
    }

    /// Records that all changes so far are about to be written, together with those of a failed write.
    pub(super) fn write(&mut self) {
        let [first, second] = &mut self.lists;
        let (current, other) = if self.current == 0 { (first, second) } else { (second, first) };
        if other.used == 0 {
            self.current = 1 - self.current;
        } else {
            // The last write has failed.
            current.move_to(other);
        }
    }

    /// Records that these changes have been written.
    pub(super) fn written(&mut self) {
        if self.is_final {
            return;
        }
        if let Some(list) = self.lists.get_mut(1 - self.current) {
            list.clear();
        }
    }

    /// Records that a change is lost. Any session may be outdated until the next process has removed them all.
    pub(super) fn lost(&mut self) {
        if !self.is_final {
            self.is_final = true;
            tracing::warn!("changes of sessions are lost: none is recovered after the server has ended");
        }
        self.lists.iter_mut().for_each(List::add_all);
    }
}

impl List {
    fn begin(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for its reader.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other(format!("{} is not a file", path.display())));
        }
        // A process that is killed here leaves the list unchanged or empty, or leaves a damaged one if there was one.
        let mut file = data_dir::private_file().read(true).create(true).truncate(false).open(path)?;
        // The zeros are written, not only the length set, so that the blocks on the disk exist from now on.
        let mut writer = BufWriter::with_capacity(PIECE_BYTES, &mut file);
        writer.write_all(&in_use(0))?;
        for _ in 1..UNSAVED_SESSIONS {
            writer.write_all(&NONE)?;
        }
        writer.flush()?;
        drop(writer);
        file.set_len(LIST_BYTES as u64)?;
        let entries = map(&file)?;
        keep_in_memory(&entries);
        Ok(Self { entries, used: 0 })
    }

    fn entries(&mut self) -> &mut [KeyEntry] {
        self.entries.as_chunks_mut().0
    }

    fn add(&mut self, key: &SessionKey) {
        let number = 1 + self.used;
        let Some(free) = self.entries().get_mut(number) else { return self.add_all() };
        *free = entry(number, key);
        self.used = number;
        // The count follows the key: a process that is killed in between leaves one key more than the count.
        compiler_fence(Ordering::Release);
        self.count(in_use(number));
    }

    /// Sets the first entry, unless any session may already be outdated.
    fn count(&mut self, count: KeyEntry) {
        self.entries().iter_mut().take(1).filter(|first| **first != ALL).for_each(|first| *first = count);
    }

    fn move_to(&mut self, other: &mut Self) {
        let used = self.used;
        let entries = self.entries();
        if entries.first() == Some(&ALL) {
            other.add_all();
        }
        for key in (0..).zip(entries.iter()).skip(1).take(used).filter_map(|(number, entry)| key_in(number, entry)) {
            other.add(&key);
        }
        self.clear();
    }

    /// Records that any session may be outdated, whether its key has an entry or not.
    fn add_all(&mut self) {
        self.entries().iter_mut().take(1).for_each(|first| *first = ALL);
        self.used = self.used.max(1);
    }

    fn clear(&mut self) {
        let used = mem::take(&mut self.used);
        let entries = self.entries();
        // A process that is killed in between may leave extra keys, but no outdated session is missing. The entries are
        // cleared from the end on, so that no key is behind an empty entry.
        entries.iter_mut().take(1).for_each(|first| *first = in_use(0));
        compiler_fence(Ordering::Release);
        entries.iter_mut().skip(1).take(used).rev().for_each(|entry| *entry = NONE);
    }
}

/// Maps the file into memory.
#[expect(
    unsafe_code,
    reason = "another process could change the file under a slice; nobody else has business in the folder"
)]
fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: the file belongs to this process, which holds the store's lock and neither shortens it nor maps it again.
    // Its contents are read as plain bytes.
    unsafe { MmapMut::map_mut(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &Path) -> Vec<u8> {
        match Found::read(folder).expect("readable") {
            Found::Sessions(keys) => {
                let mut keys: Vec<u8> = keys.iter().map(|key| key[0]).collect();
                keys.sort_unstable();
                keys
            }
            Found::All => panic!("there was room for all"),
        }
    }

    fn is_any(folder: &Path) -> bool {
        Found::read(folder).expect("readable") == Found::All
    }

    #[test]
    fn what_is_not_written_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let found = || found(folder.path());
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        assert_eq!(found(), [0; 0]);
        unsaved.add(&[1; 32]);
        unsaved.write();
        unsaved.add(&[2; 32]);
        assert_eq!(found(), [1, 2]);
        unsaved.written();
        assert_eq!(found(), [2]);
        // A failed write: its changes are written with the next one.
        unsaved.write();
        unsaved.add(&[3; 32]);
        unsaved.write();
        unsaved.add(&[4; 32]);
        assert_eq!(found(), [2, 3, 4]);
        unsaved.written();
        assert_eq!(found(), [4]);
        unsaved.write();
        unsaved.written();
        assert_eq!(found(), [0; 0]);
        unsaved.add(&[5; 32]);
        assert_eq!(found(), [5]);
        drop(unsaved);
        Unsaved::begin(folder.path()).expect("writable");
        assert_eq!(found(), [0; 0]);
    }

    #[test]
    fn a_list_of_another_size_is_a_list() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut list = vec![NONE; 4096];
        (list[0], list[1]) = (in_use(1), entry(1, &[7; 32]));
        for name in FILES {
            fs::write(folder.path().join(name), list.as_flattened()).expect("writable");
        }
        assert_eq!(found(folder.path()), [7, 7]);
        fs::write(folder.path().join(FILES[0]), &list.as_flattened()[..100]).expect("writable");
        assert!(is_any(folder.path()));
    }

    #[test]
    fn where_there_is_no_room_for_all_any_may_be_among_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        for _ in 1..UNSAVED_SESSIONS {
            unsaved.add(&[1; 32]);
        }
        assert_eq!(found(folder.path()).len(), UNSAVED_SESSIONS - 1);
        unsaved.add(&[2; 32]);
        assert!(is_any(folder.path()));
        unsaved.write();
        unsaved.written();
        assert_eq!(found(folder.path()), [0; 0]);
    }

    #[test]
    fn after_a_loss_any_may_be_among_them_for_the_rest_of_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        unsaved.write();
        // The loss happens during a write, which succeeds.
        unsaved.lost();
        unsaved.written();
        for key in 1..4 {
            assert!(is_any(folder.path()));
            unsaved.add(&[key; 32]);
            unsaved.write();
            unsaved.written();
        }
        assert!(is_any(folder.path()));
        drop(unsaved);
        Unsaved::begin(folder.path()).expect("writable");
        assert_eq!(found(folder.path()), [0; 0]);
    }

    #[test]
    fn it_is_noted_in_a_folder_that_was_moved() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let (folder, moved) = (parent.path().join("data"), parent.path().join("moved"));
        fs::create_dir(&folder).expect("a folder");
        let mut unsaved = Unsaved::begin(&folder).expect("writable");
        fs::rename(&folder, &moved).expect("it can be moved");
        unsaved.add(&[1; 32]);
        assert_eq!(found(&moved), [1]);
        unsaved.lost();
        assert!(is_any(&moved));
    }

    #[test]
    fn a_list_that_is_not_whole_says_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(is_any(folder.path()), "there is none");
        for name in FILES {
            let file = folder.path().join(name);
            let damages: [fn(&Path) -> io::Result<()>; 5] = [
                |file| fs::write(file, vec![0; LIST_BYTES]),
                |file| fs::remove_file(file),
                |file| fs::write(file, ""),
                |file| fs::write(file, vec![0; LIST_BYTES - 1]),
                |file| fs::write(file, vec![1; LIST_BYTES]),
            ];
            for damage in damages {
                // The earlier contents, of any length, make no difference to the next list.
                drop(Unsaved::begin(folder.path()).expect("writable"));
                assert_eq!(found(folder.path()), [0; 0]);
                damage(&file).expect("it can be changed");
                assert!(is_any(folder.path()));
            }
            fs::write(&file, vec![1; 2 * LIST_BYTES]).expect("it can be written");
            drop(Unsaved::begin(folder.path()).expect("writable"));
            assert_eq!(found(folder.path()), [0; 0]);
        }
    }

    #[test]
    fn a_changed_byte_of_a_list_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        for key in [0, 1, 2] {
            unsaved.add(&[key; 32]);
        }
        assert_eq!(found(folder.path()), [0, 1, 2]);
        let file = folder.path().join(FILES[0]);
        let whole = fs::read(&file).expect("a list");
        for at in (0..4 * size_of::<KeyEntry>()).chain([LIST_BYTES - 1]) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).expect("it can be changed");
            assert!(is_any(folder.path()), "byte {at}");
        }
        // Any entry that is empty again.
        for number in 1..4 {
            let mut damaged = whole.clone();
            damaged[number * size_of::<KeyEntry>()..][..size_of::<KeyEntry>()].fill(0);
            fs::write(&file, damaged).expect("it can be changed");
            assert!(is_any(folder.path()), "entry {number}");
        }
        fs::write(&file, &whole).expect("it can be changed");
        assert_eq!(found(folder.path()), [0, 1, 2]);
    }

    /// The process was killed between the key and the count.
    #[test]
    fn a_key_that_is_not_counted_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        unsaved.add(&[1; 32]);
        unsaved.lists[0].count(in_use(0));
        assert_eq!(found(folder.path()), [1]);
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join(FILES[0]);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
        assert!(made.success());
        assert_eq!(Found::read(folder.path()).expect("readable"), Found::All);
        let refused = Unsaved::begin(folder.path()).expect_err("a pipe is no list");
        assert!(refused.to_string().contains("sessions.unsaved-0 is not a file"), "{refused}");
    }
}
