//! The tables of the configuration file, which no flag or variable can hold: the rules for rooms and media items, and
//! the publishers' keys.
//!
//! All errors are collected, each with its entry. Unknown keys are refused, since a misspelt key would leave a room
//! open.

use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use super::{SETTINGS, Setting, SettingError, is_setting, nearest_name};
use crate::contract::rooms::{USER_PREFIX, check_name};
use crate::identity::ClaimPath;
use crate::policy::{Allow, Condition, MediaRule, Pattern, RoomRule, Rules, Subject, Template};
use crate::publish::body::TargetNamespace;
use crate::publish::publishers::{KeyHash, ScopedKey};
use crate::publish::scope::{Scope, Scopes};

/// The tables' names, as they stand in the file.
pub(super) const TABLES: [&str; 3] = [ROOMS, MEDIA, PUBLISHER_KEYS];
const ROOMS: &str = "rooms";
const MEDIA: &str = "media";
const PUBLISHER_KEYS: &str = "publisher_keys";

/// The valid forms of `allow`, for error messages.
const ALLOW_FORMS: &str = "must be \"anyone\", \"authenticated\", \"nobody\", a condition as { claim = \"projects\", \
                           contains = \"{id}\" }, or a list of conditions of which one must hold";

/// The valid forms of a condition.
const CONDITION_FORMS: &str = "must be a condition as { claim = \"projects\", contains = \"{id}\" }, \
                               { claim = \"team\", equals = \"{team}\" } or { user = \"{id}\" }";

/// The contents of the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// `[[rooms]]` and `[[media]]`.
    pub rules: Rules,
    /// `[[publisher_keys]]`.
    pub publisher_keys: Vec<ScopedKey>,
}

/// Takes the tables out of the file's root table.
pub(super) fn take(table: &mut Table, file: &Path, errors: &mut Vec<SettingError>) -> Tables {
    let errors_before = errors.len();
    let rooms = each(table, ROOMS, file, errors, room_rule);
    let media = each(table, MEDIA, file, errors, media_rule);
    let publisher_keys = each(table, PUBLISHER_KEYS, file, errors, publisher_key);
    let tables = Tables { rules: Rules { rooms, media }, publisher_keys };
    // The numbers match those in the file only if no entry is missing.
    if errors.len() == errors_before {
        tables.refuse_what_has_no_effect(file, errors);
    }
    tables
}

fn each<T>(
    table: &mut Table,
    name: &'static str,
    file: &Path,
    errors: &mut Vec<SettingError>,
    read: impl Fn(&mut Entry) -> Option<T>,
) -> Vec<T> {
    let entries = match table.remove(name) {
        None => return Vec::new(),
        Some(Value::Array(entries)) => entries,
        Some(other) => vec![other],
    };
    let mut all = Vec::new();
    for (number, value) in (1..).zip(entries) {
        let mut entry = Entry { problems: Vec::new(), table: Table::new(), known: Vec::new() };
        match value {
            Value::Table(table) => {
                entry.table = table;
                all.extend(read(&mut entry));
                entry.refuse_the_rest();
            }
            other => {
                let problem = format!("must be a table under [[{name}]], not of the type {}", other.type_str());
                entry.problems.push(problem);
            }
        }
        errors.extend(entry.problems.into_iter().map(|problem| entry_error(name, number, file, problem)));
    }
    all
}

fn entry_error(table: &'static str, number: usize, file: &Path, problem: String) -> SettingError {
    SettingError::Entry { table, number, file: file.to_owned(), problem }
}

impl Tables {
    /// The tables of a file's text, for tests.
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<SettingError>> {
        let mut errors = Vec::new();
        let tables = take(&mut text.parse().expect("TOML"), Path::new("slop.toml"), &mut errors);
        if errors.is_empty() { Ok(tables) } else { Err(errors) }
    }

    /// Refuses entries without effect, which are never intended.
    fn refuse_what_has_no_effect(&self, file: &Path, errors: &mut Vec<SettingError>) {
        let rooms = self.rules.rooms.iter().map(|rule| rule.name.is_everything() && rule.namespace.is_none());
        let media = self.rules.media.iter().map(|rule| rule.name.is_everything());
        for (table, fits_all) in [(ROOMS, rooms.collect::<Vec<_>>()), (MEDIA, media.collect())] {
            if let Some(at) = fits_all.iter().position(|all| *all)
                && at + 1 < fits_all.len()
            {
                let problem = format!("is never asked: number {} fits every name already", at + 1);
                errors.push(entry_error(table, at + 2, file, problem));
            }
        }
        for (index, key) in self.publisher_keys.iter().enumerate() {
            if self.publisher_keys.iter().take(index).any(|earlier| earlier.hash == key.hash) {
                errors.push(entry_error(PUBLISHER_KEYS, index + 1, file, "has the hash of an earlier one".to_owned()));
            }
        }
    }
}

/// One of several tables with the same name.
struct Entry {
    table: Table,
    known: Vec<&'static str>,
    problems: Vec<String>,
}

impl Entry {
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn refuse(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.problems.push(format!("`{key}` {problem}"));
    }

    fn string(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.refuse(key, format_args!("must be a string, not of the type {}", other.type_str()));
                None
            }
        }
    }

    fn required<T>(&mut self, key: &'static str, take: impl Fn(&mut Self, &'static str) -> Option<T>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.refuse(key, "is required");
            return None;
        }
        take(self, key)
    }

    fn pattern(&mut self, key: &'static str) -> Option<Pattern> {
        let text = self.required(key, Self::string)?;
        let pattern = Pattern::parse(&text);
        pattern.map_err(|error| self.refuse(key, error)).ok()
    }

    /// The clients that are allowed. If the pattern was refused, there is none, and placeholders can't be checked.
    fn allow(&mut self, key: &'static str, pattern: Option<&Pattern>) -> Option<Allow> {
        let (value, pattern) = (self.take(key)?, pattern?);
        let allow = match value {
            Value::String(word) => match word.as_str() {
                "anyone" => Ok(Allow::Anyone),
                "authenticated" => Ok(Allow::Authenticated),
                "nobody" => Ok(Allow::Nobody),
                _ => Err(format!("is {word:?}, but {ALLOW_FORMS}")),
            },
            Value::Table(table) => condition(table, pattern).map(|condition| Allow::Those([condition].into())),
            Value::Array(conditions) if !conditions.is_empty() => {
                let conditions = conditions.into_iter().map(|value| match value {
                    Value::Table(table) => condition(table, pattern),
                    _ => Err(ALLOW_FORMS.to_owned()),
                });
                conditions.collect::<Result<_, _>>().map(Allow::Those)
            }
            _ => Err(ALLOW_FORMS.to_owned()),
        };
        allow.map_err(|problem| self.refuse(key, problem)).ok()
    }

    fn refuse_the_rest(&mut self) {
        for key in self.table.keys() {
            if is_setting(key) {
                // In TOML, a key below a table's header belongs to the table.
                self.problems.push(format!(
                    "has `{key}`, which is a setting of the server: move it to the top of the file, above the first table"
                ));
                continue;
            }
            let settings: Vec<String> = SETTINGS.iter().map(Setting::key).collect();
            let nearest = nearest_name(key, self.known.iter().copied().chain(settings.iter().map(String::as_str)));
            let nearest = match nearest {
                Some(name) if is_setting(&name) => format!(
                    "; did you mean the setting `{name}`? Settings stand at the top of the file, above the first table"
                ),
                Some(name) => format!("; did you mean `{name}`?"),
                None => String::new(),
            };
            self.problems.push(format!("has the unknown key `{key}`{nearest}"));
        }
    }
}

fn condition(mut table: Table, pattern: &Pattern) -> Result<Condition, String> {
    let parts = ["user", "claim", "equals", "contains"].map(|key| table.remove(key));
    if let Some(key) = table.keys().next() {
        return Err(format!("has the unknown key `{key}`: it {CONDITION_FORMS}"));
    }
    let template = |value: Value| match value {
        Value::String(text) => {
            let template = Template::parse(&text, pattern);
            template.map_err(|error| format!("has the value {text:?}, which {error}"))
        }
        _ => Err(CONDITION_FORMS.to_owned()),
    };
    let (subject, value) = match parts {
        [Some(value), None, None, None] => (Subject::User, value),
        [None, Some(claim), Some(value), None] => (Subject::ClaimEquals(claim_path(claim)?), value),
        [None, Some(claim), None, Some(value)] => (Subject::ClaimContains(claim_path(claim)?), value),
        _ => return Err(CONDITION_FORMS.to_owned()),
    };
    Ok(Condition { subject, value: template(value)? })
}

fn claim_path(value: Value) -> Result<ClaimPath, String> {
    let names = match value {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) => names.into_iter().map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let path = names.and_then(ClaimPath::new);
    path.ok_or_else(|| {
        "has a `claim` that is neither a claim's name nor a list of the names on the way to one".to_owned()
    })
}

fn room_rule(entry: &mut Entry) -> Option<RoomRule> {
    let name = entry.pattern("name");
    if let Some(pattern) = &name {
        if pattern.beginning().starts_with(USER_PREFIX) {
            entry.refuse("name", "begins with `user:`, whose rooms are their users' whatever a rule says");
        } else if let Err(error) = fits_a_name(pattern) {
            entry.refuse("name", error);
        }
    }
    let namespace = entry.string("namespace").and_then(|text| {
        let known = TargetNamespace::ALL.iter().map(|(name, _)| *name).find(|name| *name == text);
        if known.is_none() {
            entry.refuse("namespace", format_args!("is {text:?}, not one of /, /media and /notifications"));
        }
        known
    });
    let allow = entry.required("allow", |entry, key| entry.allow(key, name.as_ref()));
    Some(RoomRule { name: name?, namespace, allow: allow? })
}

fn media_rule(entry: &mut Entry) -> Option<MediaRule> {
    let name = entry.pattern("name");
    if let Some(Err(error)) = name.as_ref().map(fits_a_name) {
        entry.refuse("name", error);
    }
    let allow = entry.required("allow", |entry, key| entry.allow(key, name.as_ref()));
    // The contract's own rule, unless the operator sets another: an item with an owner is for the owner only.
    let allow_owned = entry.allow("allow_owned", name.as_ref()).unwrap_or(Allow::Nobody);
    Some(MediaRule { name: name?, allow: allow?, allow_owned })
}

/// Checks that names can match the pattern: otherwise it protects nothing.
fn fits_a_name(pattern: &Pattern) -> Result<(), String> {
    match pattern.beginning() {
        "" => Ok(()),
        beginning => check_name(beginning).map_err(|error| error.to_string()),
    }
}

fn publisher_key(entry: &mut Entry) -> Option<ScopedKey> {
    let name = entry.required("name", Entry::string).filter(|name| {
        let good = check_name(name);
        if let Err(error) = &good {
            entry.refuse("name", error);
        }
        good.is_ok()
    });
    let hash = entry.required("hash", Entry::string).and_then(|text| {
        let hash = KeyHash::parse(&text);
        if hash.is_none() {
            // The message does not show the value, which may be the key itself.
            entry.refuse("hash", "must be sha256: and 64 hexadecimal digits, as `slop-studios key new` prints it");
        }
        hash
    });
    let scopes = entry.required("scopes", |entry, key| match entry.take(key)? {
        Value::Array(scopes) if !scopes.is_empty() => {
            let scopes = scopes.into_iter().map(|scope| match scope {
                Value::String(text) => Scope::parse(&text).map_err(|error| error.to_string()),
                other => Err(format!("must be a list of strings, but has one of the type {}", other.type_str())),
            });
            scopes.collect::<Result<Scopes, _>>().map_err(|problem| entry.refuse(key, problem)).ok()
        }
        _ => {
            entry.refuse(key, "must be a list of scopes, as [\"media\", \"rooms.emit:project-*\"]");
            None
        }
    });
    Some(ScopedKey { name: name?.into(), hash: hash?, scopes: Arc::new(scopes?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of a text, and its errors.
    fn read(text: &str) -> (Tables, Vec<String>) {
        match Tables::parse(text) {
            Ok(tables) => (tables, Vec::new()),
            Err(errors) => (Tables::default(), errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn tables_are_read_in_their_order() {
        let (tables, errors) = read(
            r#"
            [[rooms]]
            name = "project-{id}"
            allow = { claim = "projects", contains = "{id}" }
            [[rooms]]
            name = "*"
            namespace = "/media"
            allow = [{ user = "admin" }, { claim = ["realm_access", "role"], equals = "staff" }]
            [[media]]
            name = "public-*"
            allow = "anyone"
            allow_owned = "authenticated"
            [[media]]
            name = "*"
            allow = "nobody"
            [[publisher_keys]]
            name = "workers"
            hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            scopes = ["media:render-*", "rooms"]
            "#,
        );
        assert_eq!(errors, <[&str; 0]>::default());
        let rooms: Vec<String> = tables.rules.rooms.iter().map(|rule| rule.allow.to_string()).collect();
        assert_eq!(
            rooms,
            [r#"claim projects contains "{id}""#, r#"user "admin" or claim realm_access → role equals "staff""#]
        );
        assert_eq!(tables.rules.rooms.last().and_then(|rule| rule.namespace), Some("/media"));
        let owned: Vec<_> = tables.rules.media.iter().map(|rule| (&rule.allow, &rule.allow_owned)).collect();
        assert_eq!(owned, [(&Allow::Anyone, &Allow::Authenticated), (&Allow::Nobody, &Allow::Nobody)]);
        let key = tables.publisher_keys.first().expect("a key");
        assert_eq!((&*key.name, key.scopes.to_string().as_str()), ("workers", "media:render-*, rooms"));
    }

    #[test]
    fn all_that_is_wrong_is_named_with_its_entry() {
        let hash = KeyHash::of("k");
        let (_, errors) = read(&format!(
            r#"
            media = "x"
            [[rooms]]
            nmae = "a"
            allow = "anyone"
            [[rooms]]
            name = "b-{{id}}"
            allow = {{ claim = "c", contains = "{{x}}" }}
            namespace = "/admin"
            [[rooms]]
            name = "*"
            allow = "everybody"
            [[rooms]]
            name = "user:{{id}}"
            allow = []
            [[rooms]]
            name = "*"
            allow = "nobody"
            [[rooms]]
            name = "late"
            allow = {{ claim = "c" }}
            [[publisher_keys]]
            name = "a"
            hash = "{hash}"
            scopes = ["medai"]
            [[publisher_keys]]
            hash = "the key itself"
            scopes = []
            [[publisher_keys]]
            name = "b"
            hash = "{hash}"
            scopes = ["*"]
            [[publisher_keys]]
            name = "c"
            hash = "{hash}"
            scopes = ["*"]
            "#
        ));
        let allow = format!("`allow` is \"everybody\", but {ALLOW_FORMS}");
        let expected = [
            "[[rooms]] 1 in slop.toml: `name` is required",
            "[[rooms]] 1 in slop.toml: has the unknown key `nmae`; did you mean `name`?",
            "[[rooms]] 2 in slop.toml: `namespace` is \"/admin\", not one of /, /media and /notifications",
            "[[rooms]] 2 in slop.toml: `allow` has the value \"{x}\", which has the placeholder {x}, which the pattern does not have",
            &format!("[[rooms]] 3 in slop.toml: {allow}"),
            "[[rooms]] 4 in slop.toml: `name` begins with `user:`, whose rooms are their users' whatever a rule says",
            &format!("[[rooms]] 4 in slop.toml: `allow` {ALLOW_FORMS}"),
            &format!("[[rooms]] 6 in slop.toml: `allow` {CONDITION_FORMS}"),
            "[[media]] 1 in slop.toml: must be a table under [[media]], not of the type string",
            "[[publisher_keys]] 1 in slop.toml: `scopes` has \"medai\", which no operation begins with; did you mean media?",
            "[[publisher_keys]] 2 in slop.toml: `name` is required",
            "[[publisher_keys]] 2 in slop.toml: `hash` must be sha256: and 64 hexadecimal digits, as `slop-studios key new` prints it",
            "[[publisher_keys]] 2 in slop.toml: `scopes` must be a list of scopes, as [\"media\", \"rooms.emit:project-*\"]",
        ];
        for line in expected {
            assert!(errors.iter().any(|error| error == line), "{line}\nis not in\n{errors:#?}");
        }
        assert!(!errors.iter().any(|error| error.contains("the key itself")));
    }

    #[test]
    fn what_has_no_effect_is_refused() {
        let (_, errors) = read(
            r#"
            [[rooms]]
            name = "*"
            allow = "nobody"
            [[rooms]]
            name = "late"
            allow = "anyone"
            [[media]]
            name = "*"
            allow = "nobody"
            [[publisher_keys]]
            name = "a"
            hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            scopes = ["*"]
            [[publisher_keys]]
            name = "b"
            hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            scopes = ["*"]
            "#,
        );
        assert_eq!(
            errors,
            [
                "[[rooms]] 2 in slop.toml: is never asked: number 1 fits every name already",
                "[[publisher_keys]] 2 in slop.toml: has the hash of an earlier one",
            ]
        );
    }
}
