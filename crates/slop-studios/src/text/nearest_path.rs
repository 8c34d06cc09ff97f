//! The file that was most likely meant, for messages about a missing file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::text::nearest::most_alike;

/// Below this likeness the nearest name is a coincidence: `slop.tml` and `slop.toml` have 0.98, `cert.pem` and
/// `key.pem` 0.78.
const LIKENESS: f64 = 0.85;

/// Maximum number of names in a folder that are compared.
const MAX_NAMES: usize = 10_000;

/// The system's error for the file, and the most similar path if there is one.
pub(crate) fn describe(path: &Path, error: &io::Error) -> String {
    let meant = (error.kind() == io::ErrorKind::NotFound).then(|| meant(path)).flatten();
    match meant {
        Some(meant) => format!("{error}; did you mean {}?", meant.display()),
        None => error.to_string(),
    }
}

/// The path with its first missing name replaced by the most similar existing name.
fn meant(path: &Path) -> Option<PathBuf> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).last()?;
    let name = missing.file_name()?.to_str()?;
    let folder = missing.parent()?;
    let read = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let names = fs::read_dir(read).ok()?.take(MAX_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let nearest = most_alike(LIKENESS, names.map(|other| (strsim::jaro_winkler(name, &other), other)))?;
    // `join` with an empty path would append a slash.
    let rest = path.strip_prefix(missing).ok().filter(|rest| !rest.as_os_str().is_empty());
    let nearest = folder.join(nearest);
    let meant = rest.map_or_else(|| nearest.clone(), |rest| nearest.join(rest));
    meant.exists().then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_may_be_wrong() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir(at("slop-studios")).expect("a folder");
        fs::write(at("slop-studios/slop.toml"), "").expect("a file");
        let right = Some(at("slop-studios/slop.toml"));
        for wrong in ["slop-studios/slop.tml", "slop-studios/Slop.toml", "slop-studio/slop.toml"] {
            assert_eq!(meant(&at(wrong)), right, "{wrong}");
        }
        for other in ["slop-studios/key.pem", "slop-studio/slop.tml", "elsewhere/slop.toml"] {
            assert_eq!(meant(&at(other)), None, "{other}");
        }
    }
}
