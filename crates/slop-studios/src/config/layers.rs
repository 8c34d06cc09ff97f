//! The layers that a setting's text may come from, and their precedence.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::parse::{api_keys, elements, path, secret};
use super::plain_keys;
use super::tables::{self, TABLES, Tables};
use super::{
    Kind, Misspelt, Parsed, SETTINGS, Setting, SettingError, SettingErrors, SettingFlags, Settings, TOKEN_KEYS,
    TOKEN_KEYS_HINT, is_setting, nearest_name,
};
use crate::text::nearest_path;

/// The set of defaults that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `serve`: for deployments.
    Serve,
    /// `dev`: for one person on one machine.
    Dev,
}

/// The origin of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Env,
    /// The file named by `--config`.
    File,
    /// The default, since the setting is not set.
    Default,
    /// The development file in `DATA_DIR`.
    DevFile,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Env => "env",
            Self::File => "file",
            Self::Default => "default",
            Self::DevFile => "development file",
        })
    }
}

/// The text of each setting and its origin, before parsing.
#[derive(Clone)]
pub struct Effective {
    values: BTreeMap<&'static str, (String, Source)>,
    errors: Vec<SettingError>,
    file: Option<PathBuf>,
    tables: Tables,
    misspelt: Vec<Misspelt>,
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows().map(|row| (row.name, (row.shown, row.source)))).finish()
    }
}

/// One line of `check-config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The setting.
    pub name: &'static str,
    /// Its value; asterisks for each secret.
    pub shown: String,
    /// Where the value came from.
    pub source: Source,
}

impl Effective {
    /// Gathers the layers: `flags`, then the process's environment, then the file of `--config`, then the defaults.
    pub fn load(flags: &SettingFlags, profile: Profile) -> Self {
        Self::gather(flags, &std::env::vars_os().collect(), profile)
    }

    fn gather(flags: &SettingFlags, env: &BTreeMap<OsString, OsString>, profile: Profile) -> Self {
        let mut errors = Vec::new();
        let (mut file, tables) = match &flags.config {
            Some(path) => read_file(path, &mut errors),
            None => Default::default(),
        };
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let from_file = file.remove(setting.name).map(|text| (text, Source::File));
            let value = flags
                .values
                .get(setting.name)
                .map(|text| (text.clone(), Source::Flag))
                .or_else(|| {
                    let value = env.get(OsStr::new(setting.name)).filter(|value| !value.is_empty())?;
                    match value.clone().into_string() {
                        Ok(text) => Some((text, Source::Env)),
                        Err(_) => {
                            errors.push(SettingError::Value {
                                name: setting.name,
                                origin: origin(setting.name, Source::Env, None),
                                problem: "is not UTF-8 text".to_owned(),
                            });
                            None
                        }
                    }
                })
                .or(from_file)
                .unwrap_or_else(|| (setting.default_text(profile, &values), Source::Default));
            values.insert(setting.name, value);
        }
        let mut effective = Self { values, errors, file: flags.config.clone(), tables, misspelt: Vec::new() };
        effective.misspelt = effective.find_misspelt(env, profile);
        effective
    }

    fn find_misspelt(&self, env: &BTreeMap<OsString, OsString>, profile: Profile) -> Vec<Misspelt> {
        // `API_KEY` is the key that `publish` sends. It counts as a misspelt setting only if the server has no key at
        // all.
        let has_keys = self.values.get("API_KEYS").is_some_and(|(_, source)| *source != Source::Default)
            || !self.tables.publisher_keys.is_empty()
            || profile == Profile::Dev;
        let set = env.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(name, _)| name.to_str());
        set.filter(|name| *name != "API_KEY" || !has_keys)
            .filter(|name| SETTINGS.iter().all(|setting| setting.name != *name))
            .filter_map(|name| {
                let upper = name.to_ascii_uppercase();
                // One letter added, removed or replaced, or two letters swapped.
                let meant = SETTINGS.iter().find(|setting| strsim::osa_distance(&upper, setting.name) <= 1)?;
                Some(Misspelt { variable: name.to_owned(), setting: meant.name })
            })
            .collect()
    }

    /// Environment variables that are probably meant to be settings.
    pub fn misspelt(&self) -> &[Misspelt] {
        &self.misspelt
    }

    /// The tables, which only the file can hold.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The settings with a different value in `other`.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> + 'a {
        let names = SETTINGS.iter().map(|setting| setting.name);
        names.filter(|name| self.text(name) != other.text(name))
    }

    /// The text of a setting, if it has one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(text, _)| text.as_str())
    }

    /// Whether no key to verify tokens is set.
    pub fn lacks_token_keys(&self) -> bool {
        TOKEN_KEYS.iter().all(|name| self.text(name).is_none_or(|text| text.trim().is_empty()))
    }

    /// Sets an unset setting to the value from its development file.
    pub fn set_from_dev_file(&mut self, name: &'static str, value: &SecretString) {
        self.values.insert(name, (value.expose_secret().to_owned(), Source::DevFile));
    }

    /// The rows of `check-config`, in the order of the settings table.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        SETTINGS.iter().filter_map(|setting| {
            let (text, source) = self.values.get(setting.name)?;
            let shown = match setting.kind {
                Kind::Secret if text.is_empty() => String::new(),
                Kind::Secret => "********".to_owned(),
                Kind::SecretList => vec!["********"; elements(text).count()].join(","),
                _ => text.clone(),
            };
            Some(Row { name: setting.name, shown, source: *source })
        })
    }

    /// Parses one setting's text; a problem goes to `errors`.
    pub(super) fn parse<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
        errors: &mut Vec<SettingError>,
    ) -> Option<T> {
        let (text, source) = self.values.get(name)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                errors.push(SettingError::Value { name, origin: origin(name, *source, self.file.as_deref()), problem });
                None
            }
        }
    }

    /// Parses only the secret that signs tokens.
    ///
    /// # Errors
    /// When the file can't be used, or `JWT_SECRET` is missing or can't be used.
    pub fn signing_secret(&self) -> Result<SecretString, SettingErrors> {
        let missing = || self.failed(vec![SettingError::Missing { name: "JWT_SECRET", hint: TOKEN_KEYS_HINT }]);
        self.single("JWT_SECRET", secret)?.ok_or_else(missing)
    }

    /// Parses only the publishers' keys.
    ///
    /// # Errors
    /// When the file can't be used, or `API_KEYS` can't.
    pub fn api_keys(&self) -> Result<Vec<SecretString>, SettingErrors> {
        self.single("API_KEYS", api_keys)
    }

    /// Parses only the folder for the server's data.
    ///
    /// # Errors
    /// When the file can't be used, or `DATA_DIR` can't.
    pub fn data_dir(&self) -> Result<PathBuf, SettingErrors> {
        self.single("DATA_DIR", path)
    }

    fn single<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, SettingErrors> {
        let mut errors = self.errors.clone();
        match self.parse(name, parse, &mut errors) {
            Some(value) if errors.is_empty() => Ok(value),
            _ => Err(self.failed(errors)),
        }
    }

    /// Parses and checks everything.
    ///
    /// # Errors
    /// All problems.
    pub fn settings(&self) -> Result<Settings, SettingErrors> {
        let mut errors = self.errors.clone();
        self.check_token_keys(&mut errors);
        let parsed = Parsed::of(self, &mut errors);
        parsed.contradictions(&mut errors);
        match parsed.complete(self) {
            Some(settings) if errors.is_empty() => Ok(settings),
            _ => Err(self.failed(errors)),
        }
    }

    fn failed(&self, errors: Vec<SettingError>) -> SettingErrors {
        SettingErrors { errors, misspelt: self.misspelt.clone() }
    }

    /// The problems of the files that the settings name, whatever other problems the settings have.
    pub(crate) fn file_problems(&self) -> Vec<String> {
        Parsed::of(self, &mut Vec::new()).file_problems()
    }

    /// Checks that at least one of the settings with token keys is set.
    fn check_token_keys(&self, errors: &mut Vec<SettingError>) {
        // A file that can't be read may contain the key.
        let may_have_key = |error: &SettingError| match error {
            SettingError::File { .. } => true,
            SettingError::Value { name, .. } => TOKEN_KEYS.contains(name),
            _ => false,
        };
        if self.lacks_token_keys() && !errors.iter().any(may_have_key) {
            errors.push(SettingError::Missing { name: "JWT_SECRET", hint: TOKEN_KEYS_HINT });
        }
    }
}

/// Names the flag, variable or key that a value came from.
fn origin(name: &str, source: Source, file: Option<&Path>) -> String {
    let key = name.to_ascii_lowercase();
    match (source, file) {
        (Source::Flag, _) => format!("--{}", key.replace('_', "-")),
        (Source::File, Some(file)) => format!("`{key}` in {}", file.display()),
        (source, _) => source.to_string(),
    }
}

/// Reads the settings of a TOML file as texts by name, and its tables.
fn read_file(path: &Path, errors: &mut Vec<SettingError>) -> (BTreeMap<&'static str, String>, Tables) {
    let mut found = BTreeMap::new();
    let mut unusable = |problem: String| {
        errors.push(SettingError::File { file: path.to_owned(), problem });
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            unusable(nearest_path::describe(path, &error));
            return (found, Tables::default());
        }
    };
    let mut table: toml::Table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // The error's own text quotes the line, which may hold a secret.
            let error: toml::de::Error = error;
            let location = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| format!("line {}: ", before.matches('\n').count() + 1))
                .unwrap_or_default();
            unusable(format!("{location}{}", error.message()));
            return (found, Tables::default());
        }
    };
    let tables = tables::take(&mut table, path, errors);
    let plain_keys = plain_keys::lines(&text, &texts_of(table.get("api_keys")), &tables.publisher_keys);
    errors.extend(plain_keys.into_iter().map(|line| SettingError::PlainKey { file: path.to_owned(), line }));
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == key) else {
            if let Some(setting) = value.as_table().and_then(|table| table.keys().find(|key| is_setting(key))) {
                let (file, setting) = (path.to_owned(), setting.clone());
                errors.push(SettingError::Section { file, table: key, setting });
                continue;
            }
            let keys: Vec<String> = SETTINGS.iter().map(Setting::key).collect();
            let nearest = nearest_name(&key, keys.iter().map(String::as_str).chain(TABLES));
            errors.push(SettingError::UnknownKey { file: path.to_owned(), key, nearest });
            continue;
        };
        match toml_text(setting.kind, value) {
            Ok(text) => {
                found.insert(setting.name, text);
            }
            Err(problem) => errors.push(SettingError::Value {
                name: setting.name,
                origin: origin(setting.name, Source::File, Some(path)),
                problem,
            }),
        }
    }
    (found, tables)
}

/// The elements of a list, which may also be written as one text.
fn texts_of(list: Option<&toml::Value>) -> Vec<&str> {
    match list {
        Some(toml::Value::String(text)) => elements(text).collect(),
        Some(toml::Value::Array(texts)) => texts.iter().filter_map(toml::Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Converts a TOML value to the text of an environment variable.
fn toml_text(kind: Kind, value: toml::Value) -> Result<String, String> {
    let wanted = match kind {
        Kind::Text | Kind::Secret => "a string",
        Kind::Number => "a whole number",
        Kind::Boolean => "true or false",
        Kind::List | Kind::SecretList => "a list of strings",
    };
    let is = |type_name: &str| format!("must be {wanted}, not of the type {type_name}");
    match (kind, value) {
        (Kind::Text | Kind::Secret | Kind::List | Kind::SecretList, toml::Value::String(text)) => Ok(text),
        (Kind::Number, toml::Value::Integer(number)) => Ok(number.to_string()),
        (Kind::Boolean, toml::Value::Boolean(value)) => Ok(value.to_string()),
        (Kind::List | Kind::SecretList, toml::Value::Array(values)) => {
            let texts = values
                .into_iter()
                .map(|value| match value {
                    toml::Value::String(text) if text.contains(',') => Err("has an element with a comma".to_owned()),
                    // An empty element would be lost in the joined text. The list would then allow what it was meant to
                    // restrict.
                    toml::Value::String(text) if text.trim().is_empty() => Err("has an empty element".to_owned()),
                    toml::Value::String(text) => Ok(text),
                    other => Err(is(&format!("list with {}", other.type_str()))),
                })
                .collect::<Result<Vec<_>, _>>()?;
            Ok(texts.join(","))
        }
        (_, other) => Err(is(other.type_str())),
    }
}
