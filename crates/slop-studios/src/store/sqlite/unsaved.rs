//! The sessions that have changed since they were saved, for the next process: it must not take what was saved of them for
//! what they were.
//!
//! Sessions are written when there is time, some milliseconds after their clients were told of a change. If the process is
//! killed meanwhile, a client would come back as it was before it left a room or logged out, or without a room that it had
//! joined. So a changed session's key is handed to the operating system at once, and the next process forgets the session.
//! There are two files: one for what changes now, the other one for what is being written.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use super::super::SessionKey;
use super::sessions_mark::SessionsMark;
use crate::data_dir;

const FILES: [&str; 2] = ["sessions.unsaved-0", "sessions.unsaved-1"];

/// See the module.
#[derive(Debug)]
pub(super) struct Unsaved {
    files: [List; 2],
    /// Which of the files is for what changes now.
    current: usize,
    /// What is to be done if a key can't be written.
    mark: Arc<Mutex<SessionsMark>>,
}

/// Keys, one after the other.
#[derive(Debug)]
struct List {
    file: File,
    length: u64,
}

/// The sessions that an earlier process had not saved as they were.
pub(super) fn found(folder: &Path) -> io::Result<Vec<SessionKey>> {
    let mut keys = Vec::new();
    for name in FILES {
        match fs::read(folder.join(name)) {
            // A key that was cut off is of a change that nobody was told of.
            Ok(bytes) => keys.extend_from_slice(bytes.as_chunks().0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

impl Unsaved {
    /// Begins with none.
    pub(super) fn begin(folder: &Path, mark: Arc<Mutex<SessionsMark>>) -> io::Result<Self> {
        let list = |name: &str| {
            let file = data_dir::private_file().create(true).truncate(true).open(folder.join(name))?;
            Ok::<_, io::Error>(List { file, length: 0 })
        };
        let [first, second] = FILES;
        Ok(Self { files: [list(first)?, list(second)?], current: 0, mark })
    }

    /// A session has changed.
    pub(super) fn add(&mut self, key: &SessionKey) {
        let Some(list) = self.files.get_mut(self.current) else { return };
        match list.file.write_all_at(key, list.length) {
            Ok(()) => list.length += key.len() as u64,
            // On a full disk, for instance: then no session is good until they are written.
            Err(_) => self.mark.lock().unwrap_or_else(PoisonError::into_inner).remove(),
        }
    }

    /// All changes so far are about to be written, together with those that could not be written before.
    pub(super) fn write(&mut self) {
        let other = 1 - self.current;
        if self.files.get(other).is_some_and(|list| list.length == 0) {
            self.current = other;
        }
    }

    /// They have been written.
    pub(super) fn written(&mut self) -> io::Result<()> {
        let Some(list) = self.files.get_mut(1 - self.current).filter(|list| list.length > 0) else { return Ok(()) };
        list.file.set_len(0)?;
        list.length = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mark = Arc::new(Mutex::new(SessionsMark::find(folder.path()).expect("readable")));
        assert!(found(folder.path()).expect("readable").is_empty());
        let mut unsaved = Unsaved::begin(folder.path(), mark).expect("writable");
        let found = || {
            let mut found: Vec<u8> = found(folder.path()).expect("readable").iter().map(|key| key[0]).collect();
            found.sort_unstable();
            found
        };
        unsaved.add(&[1; 32]);
        unsaved.write();
        unsaved.add(&[2; 32]);
        assert_eq!(found(), [1, 2]);
        unsaved.written().expect("writable");
        assert_eq!(found(), [2]);
        // A write that fails: what it was of is written with the next.
        unsaved.write();
        unsaved.add(&[3; 32]);
        unsaved.write();
        unsaved.add(&[4; 32]);
        assert_eq!(found(), [2, 3, 4]);
        unsaved.written().expect("writable");
        assert_eq!(found(), [3, 4]);
        unsaved.write();
        unsaved.written().expect("writable");
        assert_eq!(found(), [0; 0]);
        unsaved.add(&[5; 32]);
        assert_eq!(found(), [5]);
    }

    #[test]
    fn a_key_that_was_cut_off_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(FILES[1]), [7; 40]).expect("writable");
        assert_eq!(found(folder.path()).expect("readable"), [[7; 32]]);
    }
}
