//! The server's data folder. It contains secrets and users' data, so only its owner may read it.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Creates the folder and its missing parent folders.
///
/// # Errors
/// If the system does not permit it, or the path is taken by something else.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    builder.mode(0o700);
    builder.create(path)
}

/// The file at the path of the folder or of one of its parents, if there is one.
pub(crate) fn in_the_way(folder: &Path) -> Option<PathBuf> {
    let is_no_folder = |path: &&Path| fs::metadata(path).is_ok_and(|found| !found.is_dir());
    folder.ancestors().find(is_no_folder).map(Path::to_owned)
}

/// The error text for such a file.
pub(crate) fn no_folder(folder: &Path, file: &Path) -> String {
    let file = if file == folder { "it".to_owned() } else { file.display().to_string() };
    format!(
        "DATA_DIR is {}, but {file} is a file and no folder: move the file away, or set DATA_DIR (--data-dir) to a folder",
        folder.display()
    )
}

/// The options to open a file in the folder that only its owner may read.
pub(crate) fn private_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    options.mode(0o600);
    options
}

/// The mode bits of other users' access to a file.
const OTHERS: u32 = 0o077;

/// The mode bits of other users' right to add files to a folder and remove them.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// The reason why the folder can't be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// The system does not permit a look into the folder.
    Failed(io::Error),
    /// A file belongs to another user, who could read and change its contents.
    Foreign(PathBuf),
    /// No file can be created in the folder.
    NotWritable(io::Error),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Makes sure that the server can write into the folder, and that only the server's user can access the server's files.
/// `is_ours` recognizes the server's files by their names.
///
/// # Errors
/// If the server can't write into the folder, or a file belongs to another user.
pub(crate) fn claim(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), Unusable> {
    claim_as(folder, rustix::process::geteuid().as_raw(), is_ours)
}

fn claim_as(folder: &Path, user: u32, is_ours: impl Fn(&str) -> bool) -> Result<(), Unusable> {
    let mut opened = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(&is_ours) {
            continue;
        }
        // The owner and mode of a link's target count. A file that is gone by now is ignored.
        let Ok(file) = fs::metadata(&path) else { continue };
        if file.uid() != user {
            return Err(Unusable::Foreign(path));
        }
        if file.mode() & OTHERS != 0 {
            opened.push(path);
        }
    }
    opened.iter().for_each(|path| close_to_others(path));
    can_write(folder)?;
    if fs::metadata(folder)?.mode() & OTHERS_MAY_WRITE != 0 {
        tracing::warn!(
            folder = %folder.display(),
            "other users may put files into the data folder, in the place of the store's: take that from them (chmod 700)"
        );
    }
    Ok(())
}

/// Removes other users' access to a file of the server. Not every file system keeps modes.
fn close_to_others(path: &Path) {
    let mode = |path: &Path| fs::metadata(path).map(|file| file.mode() & 0o777);
    let Ok(before) = mode(path) else { return };
    let changed = fs::set_permissions(path, fs::Permissions::from_mode(before & 0o700)).and_then(|()| mode(path));
    let (file, before) = (path.display(), format!("{before:04o}"));
    match changed {
        Ok(now) if now & OTHERS == 0 => {
            tracing::warn!(%file, before, "a file of the store was open to other users: they may use it no longer");
        }
        _ => tracing::warn!(%file, before, "a file of the store is open to other users, and that can't be changed"),
    }
}

/// Checks that a file can be created in the folder. If it can't, SQLite reports only "disk I/O error" or "unable to
/// open".
fn can_write(folder: &Path) -> Result<(), Unusable> {
    let path = folder.join("store.probe");
    match private_file().create(true).truncate(true).open(&path) {
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Err(Unusable::NotWritable(error))
        }
        // A full disk may still have room for the existing files.
        Err(_) => Ok(()),
    }
}

/// The owner and mode of a file or folder, and the server's user, for the operator who corrects them.
pub(crate) fn owner_of(path: &Path) -> String {
    let user = rustix::process::geteuid().as_raw();
    match fs::metadata(path) {
        Ok(file) => format!(
            "it belongs to user {} with mode {:04o}, and the server runs as user {user}",
            file.uid(),
            file.mode() & 0o7777
        ),
        Err(_) => format!("the server runs as user {user}"),
    }
}

/// The identity of a file: its device and its inode number. No other file has both while that file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// # Errors
    /// If the path leads to no file.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn files_of_ours_are_closed_to_others_and_those_of_others_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
        for file in [&ours, &other] {
            fs::write(file, "x").expect("it can be written");
            fs::set_permissions(file, fs::Permissions::from_mode(0o664)).expect("it is ours");
        }
        let user = fs::metadata(&ours).expect("it is there").uid();
        assert!(claim_as(folder.path(), user, |name| name == "ours").is_ok());
        assert_eq!((mode(&ours), mode(&other)), (0o600, 0o664));
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o664)).expect("it is ours");
        let refused = claim_as(folder.path(), user + 1, |name| name == "ours");
        assert!(matches!(&refused, Err(Unusable::Foreign(file)) if *file == ours));
        assert_eq!(mode(&ours), 0o664, "nothing is changed of what is refused");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing is left behind");
    }
}
