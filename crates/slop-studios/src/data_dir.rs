//! The folder for what the server keeps: secrets and users' data, so nobody but its owner is to look into it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::{fs, io};

/// Makes the folder, and those above it, if they are not there.
///
/// # Errors
/// If the system does not let us, or something else is in the place.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// How a file is opened there that only its owner may read.
pub(crate) fn private_file() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

/// Which file a name leads to: its device and its number, which no other file has while that one is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// # Errors
    /// If the name leads nowhere.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }
}
