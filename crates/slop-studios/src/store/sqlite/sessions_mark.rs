//! The mark that the saved sessions are complete: a file beside the store, which is removed before a session could come
//! back as it no longer is.
//!
//! Sessions are written when there is time, and a disk may refuse them for long. A logout that could not be written must not
//! be undone by the next start. To remove a file takes no room, so it works on a full disk; where the file is missing, no
//! saved session is used.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

const FILE: &str = "sessions.complete";

/// See the module.
#[derive(Debug)]
pub(super) struct SessionsMark {
    /// Open, so that the file is found even if the folder has been moved.
    folder: File,
    /// Whether the file is there, as far as is known.
    is_set: bool,
    /// Whether a change is lost, so that the sessions will not be complete before the next start.
    is_final: bool,
    /// Whether the last try failed, so that it is one line in the log.
    failing: bool,
}

impl SessionsMark {
    /// Finds out whether the mark is set in this folder.
    pub(super) fn find(folder: &Path) -> io::Result<Self> {
        let is_set = folder.join(FILE).try_exists()?;
        Ok(Self { folder: File::open(folder)?, is_set, is_final: false, failing: false })
    }

    /// Whether the saved sessions are complete.
    pub(super) fn is_set(&self) -> bool {
        self.is_set
    }

    /// All changes of sessions have been written.
    pub(super) fn set(&mut self) {
        if self.is_set || self.is_final {
            return;
        }
        // Not synchronised: after a power failure it may be missing, which is the safe side.
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&self.folder, FILE, flags, Mode::RUSR | Mode::WUSR) {
            Ok(_file) => (self.is_set, self.failing) = (true, false),
            Err(error) => {
                self.failed(error, "mark the saved sessions as complete; they can't be recovered after a restart");
            }
        }
    }

    /// A change of a session could not be written yet.
    pub(super) fn remove(&mut self) {
        if !self.is_set {
            return;
        }
        // Not synchronised to the disk, which may not answer: the system does that within seconds.
        match unlinkat(&self.folder, FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                (self.is_set, self.failing) = (false, false);
                tracing::warn!("sessions could not be saved: none is recovered if the server ends before they are");
            }
            Err(error) => self.failed(
                error,
                "mark the saved sessions as incomplete; if the server ends now, clients may come back as they were before \
                 they left a room or logged out",
            ),
        }
    }

    /// A change of a session is lost.
    pub(super) fn remove_for_good(&mut self) {
        self.is_final = true;
        self.remove();
    }

    fn failed(&mut self, error: Errno, what: &str) {
        if !self.failing {
            self.failing = true;
            tracing::error!(%error, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_while_the_sessions_are_complete() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let is_set = || SessionsMark::find(folder.path()).expect("readable").is_set();
        let mut mark = SessionsMark::find(folder.path()).expect("readable");
        assert!(!is_set());
        mark.set();
        assert!(is_set() && mark.is_set());
        mark.remove();
        assert!(!is_set() && !mark.is_set());
        mark.set();
        assert!(is_set());
        mark.remove_for_good();
        mark.set();
        assert!(!is_set() && !mark.is_set());
    }

    #[test]
    fn it_is_removed_from_a_folder_that_was_moved() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (folder, moved) = (place.path().join("data"), place.path().join("moved"));
        std::fs::create_dir(&folder).expect("a folder");
        let mut mark = SessionsMark::find(&folder).expect("readable");
        mark.set();
        std::fs::rename(&folder, &moved).expect("it can be moved");
        mark.remove();
        assert!(!SessionsMark::find(&moved).expect("readable").is_set());
    }

    #[test]
    fn what_cannot_be_removed_is_tried_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A folder of this name can't be unlinked, not even by root.
        std::fs::create_dir(folder.path().join(FILE)).expect("a folder");
        let mut mark = SessionsMark::find(folder.path()).expect("readable");
        mark.remove();
        assert!(mark.is_set());
        std::fs::remove_dir(folder.path().join(FILE)).expect("it is there");
        mark.remove();
        assert!(!mark.is_set());
    }
}
