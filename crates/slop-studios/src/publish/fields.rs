//! Reads the members of a JSON object one by one and collects every error, so that a publisher gets all errors at once,
//! by the names of its own fields.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use socketio_protocol::surrogates;
use utoipa::ToSchema;

use crate::limits::{MAX_BODY_MEMBERS, MAX_JSON_DEPTH};
use crate::text::nearest::nearest;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field of the body, or the parameter of the path, query or header; empty for the body as a whole.
    pub field: Cow<'static, str>,
    /// What is wrong with it, to follow its name.
    pub message: Cow<'static, str>,
}

impl FieldError {
    /// An error of this field.
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why a publish could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// It is not JSON.
    Malformed(String),
    /// It is JSON, but has the wrong form.
    Invalid(Vec<FieldError>),
}

impl ReadError {
    fn whole(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(vec![FieldError::new("", message)])
    }
}

/// Checks that a body is JSON text that is safe to store and forward. Halves of surrogate pairs in it become U+FFFD.
///
/// # Errors
/// If it is not UTF-8, or nested deeper than [`MAX_JSON_DEPTH`].
pub fn check_text(body: &[u8]) -> Result<Cow<'_, str>, ReadError> {
    let text = std::str::from_utf8(body).map_err(|_error| ReadError::Malformed("body is not UTF-8".into()))?;
    if is_nested_too_deeply(text) {
        return Err(ReadError::Malformed(format!("body is nested deeper than {MAX_JSON_DEPTH} levels")));
    }
    Ok(surrogates::replace_lone(text))
}

/// Whether the JSON is nested too deeply. The JSON parser does not look into unparsed values, so the depth is counted
/// here.
fn is_nested_too_deeply(json: &str) -> bool {
    // Most bodies have so few brackets that the brackets within strings need not be excluded.
    if json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() <= MAX_JSON_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return true;
        }
    }
    false
}

/// The items of a JSON array, unparsed.
///
/// # Errors
/// If the text is not JSON, or not an array.
pub fn parse_array(json: &str) -> Result<Vec<&RawValue>, ReadError> {
    serde_json::from_str(json).map_err(|error| read_error(&error, "must be an array"))
}

fn read_error(error: &serde_json::Error, wrong_shape: &'static str) -> ReadError {
    if error.is_data() {
        ReadError::whole(wrong_shape)
    } else {
        ReadError::Malformed(format!("body is not JSON: {error}"))
    }
}

/// The unread members of an object, and the errors of the members that were read.
#[derive(Debug)]
pub struct Fields<'a> {
    members: Vec<(String, &'a RawValue)>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Starts to read an object.
    ///
    /// # Errors
    /// If the text is not JSON, or not an object, or names a member twice.
    pub fn parse(json: &'a str) -> Result<Self, ReadError> {
        let members: Members<'a> =
            serde_json::from_str(json).map_err(|error| read_error(&error, "must be an object"))?;
        if members.too_many {
            return Err(ReadError::whole(format!("must not have more than {MAX_BODY_MEMBERS} fields")));
        }
        let mut errors = Vec::new();
        for (index, (name, _)) in members.list.iter().enumerate() {
            if members.list.iter().take(index).any(|(earlier, _)| earlier == name) {
                errors.push(FieldError::new(shown(name), "is given twice"));
            }
        }
        Ok(Self { members: members.list, known: Vec::new(), errors })
    }

    /// Adds an error.
    pub fn refuse(&mut self, field: &'static str, message: impl Into<Cow<'static, str>>) {
        self.errors.push(FieldError::new(field, message));
    }

    fn take(&mut self, field: &'static str) -> Option<&'a str> {
        self.known.push(field);
        let index = self.members.iter().position(|(name, _)| name == field)?;
        let (_, value) = self.members.swap_remove(index);
        // Clients in languages that cannot omit a field send null instead.
        Some(value.get()).filter(|json| *json != "null")
    }

    fn parsed<T: Deserialize<'a>>(&mut self, field: &'static str, must_be: &'static str) -> Option<T> {
        let json = self.take(field)?;
        let parsed = serde_json::from_str(json);
        if parsed.is_err() {
            self.refuse(field, must_be);
        }
        parsed.ok()
    }

    /// Reports a missing required field, unless the field was present and invalid.
    fn required<T>(&mut self, field: &'static str, errors_before: usize, value: Option<T>) -> Option<T> {
        if value.is_none() && self.errors.len() == errors_before {
            self.refuse(field, "is required");
        }
        value
    }

    /// A string.
    pub fn string(&mut self, field: &'static str) -> Option<String> {
        self.parsed(field, "must be a string")
    }

    /// A required string.
    pub fn present_string(&mut self, field: &'static str) -> Option<String> {
        let before = self.errors.len();
        let value = self.string(field);
        self.required(field, before, value)
    }

    /// A required string that is not empty.
    pub fn required_string(&mut self, field: &'static str) -> Option<String> {
        let value = self.present_string(field)?;
        if value.is_empty() {
            self.refuse(field, "must not be empty");
            return None;
        }
        Some(value)
    }

    /// A required number. JSON has no infinite numbers.
    pub fn required_number(&mut self, field: &'static str) -> Option<f64> {
        let before = self.errors.len();
        let value = self.parsed::<f64>(field, "must be a number").filter(|number| number.is_finite());
        self.required(field, before, value)
    }

    /// A whole number from 1.
    pub fn ordinal(&mut self, field: &'static str) -> Option<u32> {
        const MUST_BE: &str = "must be a whole number from 1 to 4294967295";
        let value: u32 = self.parsed(field, MUST_BE)?;
        if value == 0 {
            self.refuse(field, MUST_BE);
            return None;
        }
        Some(value)
    }

    /// An object, which is forwarded unchanged.
    pub fn object(&mut self, field: &'static str) -> Option<Box<RawValue>> {
        let value: Box<RawValue> = self.parsed(field, "must be an object")?;
        if !value.get().starts_with('{') {
            self.refuse(field, "must be an object");
            return None;
        }
        Some(value)
    }

    /// Any JSON, including `null`, which is forwarded unchanged.
    pub fn anything(&mut self, field: &'static str) -> Option<Box<RawValue>> {
        let is_null = self.members.iter().any(|(name, value)| name == field && value.get() == "null");
        let value = self.parsed(field, "must be JSON");
        if is_null { serde_json::from_str("null").ok() } else { value }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, field: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let word = self.string(field)?;
        let choice = choices.iter().find(|(name, _)| *name == word);
        if choice.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.refuse(field, format!("must be one of: {}", names.join(", ")));
        }
        choice.map(|(_, value)| *value)
    }

    /// One of a few words, required.
    pub fn required_choice<T: Copy>(&mut self, field: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let before = self.errors.len();
        let value = self.choice(field, choices);
        self.required(field, before, value)
    }

    /// Stops reading the object, and returns the errors so far.
    #[must_use]
    pub fn finish_with_errors_so_far(self) -> ReadError {
        ReadError::Invalid(self.errors)
    }

    /// Returns the value if there is no error and no unknown field. If a misspelt `ownerId` passed, the owner's media
    /// would be visible to everybody.
    ///
    /// # Errors
    /// Every error.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, ReadError> {
        for (name, _) in std::mem::take(&mut self.members) {
            if self.errors.iter().any(|error| error.field == name) {
                continue;
            }
            let message: Cow<'static, str> = match nearest(&name, self.known.iter().copied()) {
                Some(known) => format!("is not a field here; did you mean {known}?").into(),
                None => "is not a field here".into(),
            };
            self.errors.push(FieldError::new(shown(&name), message));
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ReadError::Invalid(self.errors)),
        }
    }
}

/// A field name of the publisher, shortened for the answer.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

#[derive(Debug)]
struct Members<'a> {
    list: Vec<(String, &'a RawValue)>,
    too_many: bool,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members { list: Vec::new(), too_many: false };
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    if members.list.len() < MAX_BODY_MEMBERS {
                        members.list.push((name, value));
                    } else {
                        members.too_many = true;
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(result: Result<(), ReadError>) -> Vec<(String, String)> {
        match result {
            Err(ReadError::Invalid(errors)) => {
                errors.into_iter().map(|error| (error.field.into_owned(), error.message.into_owned())).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let mut fields = Fields::parse(r#"{"title":"","progress":"5","attempt":0,"data":[],"ownerID":"u","x":1}"#)
            .expect("an object");
        fields.required_string("title");
        fields.required_string("stage");
        fields.required_number("progress");
        fields.ordinal("attempt");
        fields.object("data");
        fields.string("ownerId");
        let errors = invalid(fields.finish(Some(())));
        let expected = [
            ("title", "must not be empty"),
            ("stage", "is required"),
            ("progress", "must be a number"),
            ("attempt", "must be a whole number from 1 to 4294967295"),
            ("data", "must be an object"),
            ("ownerID", "is not a field here; did you mean ownerId?"),
            ("x", "is not a field here"),
        ];
        for (field, message) in expected {
            assert!(errors.contains(&(field.to_owned(), message.to_owned())), "{field} {message}: {errors:?}");
        }
        assert_eq!(errors.len(), expected.len());
    }

    #[test]
    fn null_is_left_out() {
        let mut fields = Fields::parse(r#"{"a":null,"b":null,"c": null}"#).expect("an object");
        assert_eq!(fields.string("a"), None);
        assert_eq!(fields.anything("b").map(|raw| raw.get().to_owned()).as_deref(), Some("null"));
        assert_eq!(fields.required_string("c"), None);
        assert_eq!(invalid(fields.finish(Some(()))), [("c".to_owned(), "is required".to_owned())]);
    }

    #[test]
    fn json_is_distinguished_from_what_is_not() {
        for malformed in ["", "{", r#"{"a":}"#, "{} {}", r#"{"a":1,}"#] {
            assert!(matches!(Fields::parse(malformed), Err(ReadError::Malformed(_))), "{malformed}");
        }
        for other in ["1", "[]", "null", r#""{}""#] {
            assert!(matches!(Fields::parse(other), Err(ReadError::Invalid(_))), "{other}");
        }
        let twice = Fields::parse(r#"{"a":1,"a":2}"#).expect("an object");
        assert_eq!(invalid(twice.finish(Some(()))).len(), 1);
    }

    #[test]
    fn depth_is_bounded_wherever_it_is() {
        let deep = |levels: usize| format!(r#"{{"data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(check_text(deep(MAX_JSON_DEPTH - 1).as_bytes()).is_ok());
        assert!(check_text(deep(MAX_JSON_DEPTH).as_bytes()).is_err());
        let text = format!(r#"["{}\"{}"]"#, "[".repeat(1_000), "{".repeat(1_000));
        assert!(check_text(text.as_bytes()).is_ok());
        assert!(check_text(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn members_are_bounded() {
        let object: Vec<String> = (0..=MAX_BODY_MEMBERS).map(|n| format!("\"m{n}\":1")).collect();
        assert!(Fields::parse(&format!("{{{}}}", object.join(","))).is_err());
    }
}
