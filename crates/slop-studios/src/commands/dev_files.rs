//! The secrets of development: made at random once, kept in `DATA_DIR`, readable by their owner only.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};

use crate::store::data_dir;

/// 256 bits: as long as HS256's hash.
const SECRET_BYTES: usize = 32;

/// The secrets, each in a file of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum DevFile {
    /// The secret that signs tokens.
    JwtSecret,
    /// The key of publishers.
    PublisherKey,
}

impl DevFile {
    fn path(self, data_dir: &Path) -> PathBuf {
        data_dir.join(match self {
            Self::JwtSecret => "dev-jwt-secret",
            Self::PublisherKey => "dev-publisher-key",
        })
    }

    /// The secret, if `dev` has made it.
    pub(super) fn read(self, data_dir: &Path) -> anyhow::Result<Option<SecretString>> {
        if let Some(file) = data_dir::in_the_way(data_dir) {
            bail!(data_dir::no_folder(data_dir, &file));
        }
        let path = self.path(data_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("can't read {}", path.display()));
            }
        };
        let secret = text.trim();
        if secret.is_empty() {
            bail!("{} is empty: delete it, and `dev` makes a new one", path.display());
        }
        Ok(Some(SecretString::from(secret)))
    }

    /// The secret, made now if there is none.
    pub(super) fn read_or_create(self, data_dir: &Path) -> anyhow::Result<SecretString> {
        if let Some(secret) = self.read(data_dir)? {
            return Ok(secret);
        }
        let path = self.path(data_dir);
        let create = || {
            data_dir::create(data_dir)?;
            match write_private(&path, &random_hex()?) {
                // Another server has created it in the meantime.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                outcome => outcome,
            }
        };
        create().with_context(|| format!("can't create {}", path.display()))?;
        self.read(data_dir)?.with_context(|| format!("{} vanished", path.display()))
    }
}

fn random_hex() -> io::Result<SecretString> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(SecretString::from(hex))
}

fn write_private(path: &Path, secret: &SecretString) -> io::Result<()> {
    let mut file = data_dir::private_file().create_new(true).open(path)?;
    file.write_all(secret.expose_secret().as_bytes())?;
    file.write_all(b"\n")
}
