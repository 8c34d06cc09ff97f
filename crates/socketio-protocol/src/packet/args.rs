use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{DecodeError, Limits, MAX_ARGS};
use crate::json;

/// Most events have a name and one to three arguments: those cost no allocation.
type Elements<'a> = SmallVec<[&'a RawValue; 4]>;

/// The JSON array of an event or ack, checked, its elements kept as the text they came as.
#[derive(Debug, Clone)]
pub struct Args<'a> {
    json: &'a str,
    elements: Elements<'a>,
}

impl<'a> Args<'a> {
    /// Checks that `json` is an array, in one pass, and notes where its elements are.
    ///
    /// # Errors
    ///
    /// [`DecodeError::PayloadType`] when it isn't an array, [`DecodeError::Json`], [`DecodeError::TooDeep`] and
    /// [`DecodeError::TooManyArgs`].
    pub fn parse(json: &'a str) -> Result<Self, DecodeError> {
        Self::parse_with(json, Limits::default())
    }

    /// The same with other [`Limits`].
    ///
    /// # Errors
    ///
    /// As [`Args::parse`].
    pub fn parse_with(json: &'a str, limits: Limits) -> Result<Self, DecodeError> {
        let json = json::trim(json);
        if !json.starts_with('[') {
            return Err(DecodeError::PayloadType);
        }
        if json::nests_too_deep(json, limits.max_depth) {
            return Err(DecodeError::TooDeep);
        }
        let mut too_many = false;
        let mut reader = serde_json::Deserializer::from_str(json);
        let collector = Collector { too_many: &mut too_many };
        match reader.deserialize_seq(collector) {
            Ok(elements) => {
                reader.end().map_err(|_| DecodeError::Json)?;
                Ok(Self { json, elements })
            }
            Err(_) if too_many => Err(DecodeError::TooManyArgs),
            Err(_) => Err(DecodeError::Json),
        }
    }

    /// The text of the whole array, brackets included.
    #[must_use]
    pub fn as_json(&self) -> &'a str {
        self.json
    }

    /// The text between the brackets, which [`super::encode_ack`] takes.
    #[must_use]
    pub fn elements_json(&self) -> &'a str {
        self.json.strip_prefix('[').and_then(|json| json.strip_suffix(']')).map_or("", json::trim)
    }

    /// The number of elements; an event's name is one of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether the array is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The element at `index`; an event's name is at 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a RawValue> {
        self.elements.get(index).copied()
    }

    /// All elements in order.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, &'a RawValue>> {
        self.elements.iter().copied()
    }

    /// All elements in order, as a slice.
    #[must_use]
    pub fn as_slice(&self) -> &[&'a RawValue] {
        &self.elements
    }

    /// The first element as an event's name: a string, or the text of a number.
    ///
    /// It is borrowed unless the string has escapes, of which those that are no Unicode become U+FFFD. `None` when
    /// there is no such element.
    #[must_use]
    pub fn event_name(&self) -> Option<Cow<'a, str>> {
        let name = self.get(0)?.get();
        match name.as_bytes().first()? {
            b'"' => json::string(name),
            b'-' | b'0'..=b'9' => Some(Cow::Borrowed(name)),
            _ => None,
        }
    }
}

impl<'a, 'i> IntoIterator for &'i Args<'a> {
    type Item = &'a RawValue;
    type IntoIter = std::iter::Copied<std::slice::Iter<'i, &'a RawValue>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

struct Collector<'c> {
    too_many: &'c mut bool,
}

impl<'de> Visitor<'de> for Collector<'_> {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Elements::new();
        while let Some(element) = array.next_element()? {
            if elements.len() == MAX_ARGS {
                *self.too_many = true;
                return Err(A::Error::custom("too many elements"));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}
