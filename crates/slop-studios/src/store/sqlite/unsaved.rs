//! The sessions that have changed since they were saved, for the next process: it must not take what was saved of them for
//! what they are.
//!
//! Sessions are written when there is time, some milliseconds after their clients were told of a change, and much later
//! where the disk is slow. If the process is killed meanwhile, a client would come back as it was before it left a room or
//! logged out, or without a room that it had joined. So the key of a session that changes is noted at once, in a mapped file
//! beside the store: the system keeps it whatever becomes of the process, normally without waiting for the disk, and a full
//! one makes no difference where files are written in place. There are two such lists: one for what changes now, the other
//! one for what is being written.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use memmap2::MmapMut;

use super::super::SessionKey;
use crate::data_dir;
use crate::limits::UNSAVED_SESSIONS;

const FILES: [&str; 2] = ["sessions.unsaved-0", "sessions.unsaved-1"];

/// In the first place of a list, if there was no room for all keys. An empty place is zeros.
const ALL: SessionKey = [0xff; 32];
const NONE: SessionKey = [0; 32];

/// See the module.
#[derive(Debug)]
pub(super) struct Unsaved {
    lists: [List; 2],
    /// Which of the lists is for what changes now.
    current: usize,
}

/// Keys, one after the other from the second place on.
#[derive(Debug)]
struct List {
    places: MmapMut,
    /// How many places are in use.
    used: usize,
}

/// What an earlier process had not saved as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Sessions(Vec<SessionKey>),
    /// Any session may be among it.
    All,
}

impl Found {
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let mut found = Vec::new();
        for name in FILES {
            let bytes = match fs::read(folder.join(name)) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (keys, _) = bytes.as_chunks();
            if keys.first() == Some(&ALL) {
                return Ok(Self::All);
            }
            found.extend(keys.iter().skip(1).take_while(|key| **key != NONE));
        }
        Ok(Self::Sessions(found))
    }
}

impl Unsaved {
    /// Begins with none.
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        let [first, second] = FILES;
        Ok(Self { lists: [List::begin(&folder.join(first))?, List::begin(&folder.join(second))?], current: 0 })
    }

    /// A session has changed.
    pub(super) fn add(&mut self, key: &SessionKey) {
        if let Some(list) = self.lists.get_mut(self.current) {
            list.add(key);
        }
    }

    /// All changes so far are about to be written, together with those that could not be written before.
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

    /// They have been written.
    pub(super) fn written(&mut self) {
        if let Some(list) = self.lists.get_mut(1 - self.current) {
            list.clear();
        }
    }
}

impl List {
    fn begin(path: &Path) -> io::Result<Self> {
        let mut file = data_dir::private_file().read(true).create(true).truncate(true).open(path)?;
        // Written, not only made so long: its places on the disk are there from now on.
        file.write_all(&vec![0; UNSAVED_SESSIONS * size_of::<SessionKey>()])?;
        Ok(Self { places: map(&file)?, used: 0 })
    }

    fn add(&mut self, key: &SessionKey) {
        let (places, _) = self.places.as_chunks_mut();
        match places.get_mut(1 + self.used) {
            Some(place) => {
                *place = *key;
                self.used += 1;
            }
            None => self.add_all(),
        }
    }

    fn move_to(&mut self, other: &mut Self) {
        let (places, _) = self.places.as_chunks();
        if places.first() == Some(&ALL) {
            other.add_all();
        }
        places.iter().skip(1).take(self.used).for_each(|key| other.add(key));
        self.clear();
    }

    /// There is no room for all keys.
    fn add_all(&mut self) {
        let (places, _) = self.places.as_chunks_mut();
        places.iter_mut().take(1).for_each(|first| *first = ALL);
        self.used = self.used.max(1);
    }

    fn clear(&mut self) {
        let (places, _) = self.places.as_chunks_mut();
        // From the end on: what is left if the process ends meanwhile is from the beginning.
        places.iter_mut().take(1 + self.used).rev().for_each(|place: &mut SessionKey| *place = NONE);
        self.used = 0;
    }
}

/// The file as memory.
#[expect(
    unsafe_code,
    reason = "another process could change the file under a slice; nobody else has business in the folder"
)]
fn map(file: &File) -> io::Result<MmapMut> {
    // SAFETY: the file belongs to this process, which holds the store's lock and neither shortens it nor maps it again. What
    // is read from it is plain bytes.
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

    #[test]
    fn what_is_not_written_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let found = || found(folder.path());
        assert_eq!(found(), [0; 0]);
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        unsaved.add(&[1; 32]);
        unsaved.write();
        unsaved.add(&[2; 32]);
        assert_eq!(found(), [1, 2]);
        unsaved.written();
        assert_eq!(found(), [2]);
        // A write that fails: what it was of is written with the next.
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
    fn where_there_is_no_room_for_all_any_may_be_among_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut unsaved = Unsaved::begin(folder.path()).expect("writable");
        for _ in 1..UNSAVED_SESSIONS {
            unsaved.add(&[1; 32]);
        }
        assert_eq!(found(folder.path()).len(), UNSAVED_SESSIONS - 1);
        unsaved.add(&[2; 32]);
        assert_eq!(Found::read(folder.path()).expect("readable"), Found::All);
        unsaved.write();
        unsaved.written();
        assert_eq!(found(folder.path()), [0; 0]);
    }
}
