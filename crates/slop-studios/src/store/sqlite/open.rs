//! Opening the file, and saying plainly why that can't be done.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::retention::Bounds;
use super::schema;
use crate::data_dir::{self, Unusable};

pub(super) const FILE: &str = "store.db";

/// How long the file may be locked by somebody who only looks. A server holds it for as long as it runs.
const LOCKED_FOR: Duration = Duration::from_millis(250);

/// More than the statements that there are.
const STATEMENTS: usize = 64;

/// What a success promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreSync {
    /// What was accepted survives that the machine loses its power: each group is synchronised to the disk.
    Full,
    /// What was accepted survives that the process is killed; the last moments before the machine itself dies may be lost.
    Normal,
}

impl StoreSync {
    /// As the setting names it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
        }
    }
}

/// What to open, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the file.
    pub folder: PathBuf,
    /// What a success promises.
    pub sync: StoreSync,
    /// How much is kept.
    pub bounds: Bounds,
    /// How long room events are kept that are not durable, for clients that come back: as long as a client may be away
    /// and its loss unnoticed. With zero they are not.
    pub journal: Duration,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not there and can't be made.
    #[error("can't use {} as the data folder: {error}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file stands where the folder, or one above it, has to be.
    #[error("{}", data_dir::no_folder(.folder, .file))]
    NotAFolder {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// The file can't be read, written or made.
    #[error("can't open {}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is another user's.
    #[error(
        "{} is another user's: {owner}; give the folder's files to the server's user (chown), or start the server as theirs",
        .file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Whose it is, and who we are.
        owner: String,
    },
    /// No file can be made in the folder, or one that is there can't be written.
    #[error(
        "can't write to {}: {error}; {owner}; let the server's user write there, or set DATA_DIR to another folder",
        .path.display()
    )]
    NotWritable {
        /// The folder or the file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
        /// Whose it is, and who we are.
        owner: String,
    },
    /// Another process has it.
    #[error("the store in {} is in use by another process; each server needs a DATA_DIR of its own", .folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// This version does not know its tables.
    #[error("{} was written by a newer version (schema {found}, this one knows {known})", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// The file's schema.
        found: i64,
        /// The newest that this version knows.
        known: i64,
    },
    /// It is not what it should be.
    #[error("{} is damaged, or is no store: {problem}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Something else, such as a full disk.
    #[error("can't open {}: {problem}", .file.display())]
    Failed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl OpenError {
    pub(super) fn of(error: &rusqlite::Error, folder: &Path) -> Self {
        let (file, problem) = (folder.join(FILE), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { folder: folder.to_owned() },
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged { file, problem },
            _ => Self::Failed { file, problem },
        }
    }
}

/// Opens the file, makes it if there is none, and brings it up to date. It is locked until the connection is closed.
pub(super) fn open(options: &Options) -> Result<Connection, OpenError> {
    let folder = &options.folder;
    if let Some(file) = data_dir::in_the_way(folder) {
        return Err(OpenError::NotAFolder { folder: folder.clone(), file });
    }
    data_dir::create(folder).map_err(|error| OpenError::Folder { folder: folder.clone(), error })?;
    data_dir::claim(folder, is_ours).map_err(|unusable| match unusable {
        Unusable::Failed(error) => OpenError::Folder { folder: folder.clone(), error },
        Unusable::Foreign(file) => OpenError::Foreign { owner: data_dir::owner_of(&file), file },
        Unusable::NotWritable(error) => not_writable(folder, error),
    })?;
    let file = folder.join(FILE);
    // SQLite would let everybody read it, and says only "unable to open" if it can't make it, or "disk I/O error" if it can't
    // write it.
    match data_dir::private_file().create_new(true).open(&file) {
        // To open a pipe would wait for its reader.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && file.is_file() => {
            match data_dir::private_file().open(&file) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(not_writable(&file, error));
                }
                _ => {}
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(OpenError::File { file, error }),
        Ok(_) => {}
    }

    let failed = |error: &rusqlite::Error| OpenError::of(error, folder);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&file, flags).map_err(|error| failed(&error))?;
    lock(&connection).map_err(|error| failed(&error))?;
    let (found, known) = (schema::version(&connection).map_err(|error| failed(&error))?, schema::VERSION);
    if found > known {
        return Err(OpenError::Newer { file, found, known });
    }
    let check: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| failed(&error))?;
    if check != "ok" {
        // The first line says which part, the others where.
        let problem = check.lines().next().unwrap_or_default().trim_matches(|c| c == '*' || c == ' ').to_owned();
        return Err(OpenError::Damaged { file, problem });
    }
    schema::migrate(&mut connection).map_err(|error| match &error {
        rusqlite_migration::Error::RusqliteError { err, .. } => failed(err),
        _ => OpenError::Failed { file: file.clone(), problem: error.to_string() },
    })?;
    settle(&connection, options).map_err(|error| failed(&error))?;
    Ok(connection)
}

fn not_writable(path: &Path, error: io::Error) -> OpenError {
    OpenError::NotWritable { owner: data_dir::owner_of(path), path: path.to_owned(), error }
}

/// Whether a file of this name is the store's: SQLite's, one of the journal's, or a list of sessions.
fn is_ours(name: &str) -> bool {
    name.starts_with(FILE) || super::journal::is_name(name) || super::unsaved::is_name(name)
}

/// With `EXCLUSIVE` before the first access, the lock is taken once and kept, and the write-ahead log needs no shared
/// memory. The system lets go of it however the process ends.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCKED_FOR)?;
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A file that was in this mode before is locked by the first one to write.
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")
}

fn settle(connection: &Connection, options: &Options) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let synchronous = match options.sync {
        StoreSync::Full => "FULL",
        StoreSync::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // KiB, for it is negative: the inner pages of all indexes, and what is hot.
    connection.pragma_update(None, "cache_size", -1024)?;
    // After a burst the write-ahead log is cut to what a checkpoint usually finds.
    connection.pragma_update_and_check(None, "journal_size_limit", 8 * 1024 * 1024, |_| Ok(()))?;
    Ok(())
}

/// A secret that is made once and kept in the file.
pub(super) fn secret(connection: &Connection, name: &str, options: &Options) -> Result<[u8; 16], OpenError> {
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(|error| OpenError::Failed {
        file: options.folder.join(FILE),
        problem: format!("the system has no random numbers: {error}"),
    })?;
    let kept = connection
        .execute("INSERT OR IGNORE INTO secrets (name, value) VALUES (?1, ?2)", (name, fresh))
        .and_then(|_| connection.query_row("SELECT value FROM secrets WHERE name = ?1", [name], |row| row.get(0)));
    kept.map_err(|error| OpenError::of(&error, &options.folder))
}
