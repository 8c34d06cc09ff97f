//! The files that the store has open, and whether their names still lead to them. A file that was deleted or moved can be
//! written to for as long as it is open, and nobody finds it afterwards.

use std::io;
use std::path::{Path, PathBuf};

use super::open::FILE;
use crate::data_dir::FileId;

/// See the module.
#[derive(Debug)]
pub(super) struct FilesInUse {
    database: (PathBuf, FileId),
    log: (PathBuf, FileId),
}

/// A name that leads elsewhere or nowhere.
#[derive(Debug, thiserror::Error)]
#[error("{} was deleted or moved", .file.display())]
pub(super) struct Moved {
    pub(super) file: PathBuf,
    /// Whether the database is where it was. Then closing it saves what is in the write-ahead log. Else closing would remove
    /// another store's log.
    pub(super) is_database_there: bool,
}

impl FilesInUse {
    /// Takes note of the files in this folder, which the store has just opened.
    pub(super) fn note(folder: &Path) -> io::Result<Self> {
        let noted = |path: PathBuf| FileId::of(&path).map(|id| (path, id));
        Ok(Self { database: noted(folder.join(FILE))?, log: noted(folder.join(format!("{FILE}-wal")))? })
    }

    /// Whether all names lead to the files.
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

/// What can't be looked at, as on a disk with errors, is not taken for moved.
fn leads_to((path, id): &(PathBuf, FileId)) -> bool {
    match FileId::of(path) {
        Ok(found) => found == *id,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
