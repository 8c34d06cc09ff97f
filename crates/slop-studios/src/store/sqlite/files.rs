//! The files that the store has open, and whether their names still lead to them. A deleted or moved file can be
//! written while it is open, but it can't be found afterwards.

use std::io;
use std::path::{Path, PathBuf};

use super::open::FILE;
use crate::store::data_dir::FileId;

/// See the module.
#[derive(Debug)]
pub(super) struct FilesInUse {
    database: (PathBuf, FileId),
    log: (PathBuf, FileId),
}

/// The error for a name that leads to another file or to none.
#[derive(Debug, thiserror::Error)]
#[error("{} was deleted or moved", .file.display())]
pub(super) struct Moved {
    pub(super) file: PathBuf,
    /// Whether the database is still in its place. If so, closing it saves the contents of the write-ahead log. If not,
    /// closing it would remove another store's log.
    pub(super) is_database_there: bool,
}

impl FilesInUse {
    /// Records the files in this folder, which the store has just opened.
    pub(super) fn note(folder: &Path) -> io::Result<Self> {
        let noted = |path: PathBuf| FileId::of(&path).map(|id| (path, id));
        Ok(Self { database: noted(folder.join(FILE))?, log: noted(folder.join(format!("{FILE}-wal")))? })
    }

    /// Checks that all names still lead to the files.
    pub(super) fn check(&self) -> Result<(), Moved> {
        let is_database_there = leads_to(&self.database);
        for (file, is_there) in [(&self.database, is_database_there), (&self.log, leads_to(&self.log))] {
            if !is_there {
                return Err(Moved { file: file.0.clone(), is_database_there });
            }
        }
        Ok(())
    }
}

/// Whether a name still leads to its file. A file that can't be examined, as on a disk with errors, does not count as
/// moved.
fn leads_to((path, id): &(PathBuf, FileId)) -> bool {
    match FileId::of(path) {
        Ok(found) => found == *id,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
