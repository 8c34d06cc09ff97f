//! The problems of a configuration.

use std::fmt;
use std::path::PathBuf;

use crate::text::nearest::nearest;

/// A problem of one setting, or of the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// The setting is missing and has no default.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// The purpose of the setting, and how to make a value.
        hint: &'static str,
    },
    /// Its value can't be used.
    #[error("{name} (from {origin}) {problem}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The flag, variable or key that holds it.
        origin: String,
        /// The flaw of the value, and the valid values.
        problem: String,
    },
    /// The setting contradicts another one.
    #[error("{name} {problem}")]
    Contradiction {
        /// The setting.
        name: &'static str,
        /// The other setting, and the reason.
        problem: String,
    },
    /// The file has an unknown key.
    #[error("unknown setting `{key}` in {}{}", .file.display(), suggestion_text(.nearest.as_deref()))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key as written in the file.
        key: String,
        /// The most similar existing key.
        nearest: Option<String>,
    },
    /// An entry of one of the file's tables can't be used.
    #[error("[[{table}]] {number} in {}: {problem}", .file.display())]
    Entry {
        /// The table.
        table: &'static str,
        /// The position of the entry in the table, from 1.
        number: usize,
        /// The file.
        file: PathBuf,
        /// The flaw of the entry.
        problem: String,
    },
    /// The file has settings in a table.
    #[error(
        "[{table}] in {} is no table of this file: settings such as `{setting}` stand at its top, in none", .file.display()
    )]
    Section {
        /// The file.
        file: PathBuf,
        /// The table's name.
        table: String,
        /// The first setting in the table.
        setting: String,
    },
    /// The file has a publisher's key in plain text.
    #[error(
        "line {line} of {} has a publisher's key in plain text: take it out, since [[publisher_keys]] need its hash only, and \
         make another one (slop-studios key new) if others may have read it",
        .file.display()
    )]
    PlainKey {
        /// The file.
        file: PathBuf,
        /// The number of the line.
        line: usize,
    },
    /// The file can't be read or is not TOML.
    #[error("can't use {}: {problem}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The reason, without any of the file's text, which may be a secret.
        problem: String,
    },
}

/// An environment variable that resembles a setting but is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt {
    /// The variable.
    pub variable: String,
    /// The setting.
    pub setting: &'static str,
}

impl fmt::Display for Misspelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, setting } = self;
        write!(f, "the variable {variable} is no setting and has no effect; did you mean {setting}?")
    }
}

fn suggestion_text(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Every problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingErrors {
    /// The problems, at least one.
    pub errors: Vec<SettingError>,
    /// Variables that may have been meant for a setting, such as a missing one.
    pub misspelt: Vec<Misspelt>,
}

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.errors.iter().map(|error| format!("error: {error}"));
        let warnings = self.misspelt.iter().map(|misspelt| format!("warning: {misspelt}"));
        f.write_str(&errors.chain(warnings).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for SettingErrors {}

/// The most similar of these names, if any is similar at all.
pub(super) fn nearest_name<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    nearest(written, names).map(str::to_owned)
}
