//! Opening the file, and the errors that explain why it can't be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::Bounds;
use super::schema;
use crate::store::data_dir::{self, Unusable};

pub(super) const FILE: &str = "store.db";

/// How long to wait while a process that only reads the file has it locked. A server holds the lock for as long as it
/// runs.
const LOCKED_FOR: Duration = Duration::from_millis(250);

/// The capacity of the statement cache: more than the number of statements.
const STATEMENTS: usize = 64;

/// The durability of accepted changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreSync {
    /// Accepted changes survive a power failure of the machine: each group is synchronised to the disk.
    Full,
    /// Accepted changes survive a kill of the process. If the machine itself dies, the last moments before may be lost.
    Normal,
}

impl StoreSync {
    /// The name of the value in the settings.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
        }
    }
}

/// The options for opening a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the file.
    pub folder: PathBuf,
    /// The durability of accepted changes.
    pub sync: StoreSync,
    /// The limits of the stored data.
    pub bounds: Bounds,
    /// How long room events that are not durable are kept, for returning clients: as long as a client may be away and
    /// its loss unnoticed. With zero they are not kept.
    pub journal: Duration,
}

/// The reason why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder does not exist and can't be created.
    #[error("can't use {} as the data folder: {error}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// No server has kept anything in the folder.
    #[error(
        "there is no store in {}: set DATA_DIR (--data-dir) to the folder of the server to migrate", .folder.display()
    )]
    NoStore {
        /// The folder.
        folder: PathBuf,
    },
    /// The path of the folder, or of one of its parents, is taken by a file.
    #[error("{}", data_dir::no_folder(.folder, .file))]
    NotAFolder {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: PathBuf,
    },
    /// The file can't be read, written or created.
    #[error("can't open {}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file belongs to another user.
    #[error(
        "{} is another user's: {owner}; give the folder's files to the server's user (chown), or start the server as theirs",
        .file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// The owner, and the server's user.
        owner: String,
    },
    /// No file can be created in the folder, or an existing file can't be written.
    #[error(
        "can't write to {}: {error}; {owner}; let the server's user write there, or set DATA_DIR to another folder",
        .path.display()
    )]
    NotWritable {
        /// The folder or the file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
        /// The owner, and the server's user.
        owner: String,
    },
    /// Another process uses the store.
    #[error("the store in {} is in use by another process; each server needs a DATA_DIR of its own", .folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// This version does not know the file's tables.
    #[error("{} was written by a newer version (schema {found}, this one knows {known})", .file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// The file's schema.
        found: i64,
        /// The newest that this version knows.
        known: i64,
    },
    /// The file is damaged or is not a store.
    #[error("{} is damaged, or is no store: {problem}", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The problem.
        problem: String,
    },
    /// Another error, such as a full disk.
    #[error("can't open {}: {problem}", .file.display())]
    Failed {
        /// The file.
        file: PathBuf,
        /// The problem.
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

/// Opens the file, creates it if there is none, and migrates it to the newest version. It is locked until the
/// connection is closed.
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
    // SQLite would make the file readable for everybody. It reports only "unable to open" if it can't create the file,
    // or "disk I/O error" if it can't write it.
    match data_dir::private_file().create_new(true).open(&file) {
        // Opening a pipe would wait for its reader.
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
        // The first line names the damaged part, the others the places in it.
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

/// Whether a file with this name belongs to the store: it is one of SQLite's, a journal file, or a list of sessions.
fn is_ours(name: &str) -> bool {
    name.starts_with(FILE) || super::journal::is_name(name) || super::unsaved::is_name(name)
}

/// Locks the file. With `EXCLUSIVE` before the first access, the lock is taken once and kept, and the write-ahead log
/// needs no shared memory. The system releases the lock however the process ends.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCKED_FOR)?;
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // If the file was in this mode before, only the first write takes the lock.
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
    // In KiB, because the number is negative: the inner pages of all indexes, and the frequently used pages.
    connection.pragma_update(None, "cache_size", -1024)?;
    // After a burst the write-ahead log is truncated to its usual size at a checkpoint.
    connection.pragma_update_and_check(None, "journal_size_limit", 8 * 1024 * 1024, |_| Ok(()))?;
    Ok(())
}

/// A secret that is generated once and kept in the file.
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
