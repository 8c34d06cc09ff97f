use smallvec::SmallVec;

use super::DecodeError;
use crate::json;

/// Checks the placeholders of a binary packet: each names one of the `attachments`, and each attachment has one.
///
/// `json` is valid already, which is what makes so plain a scan of it possible: no recursion, and no number or string
/// is looked at that isn't part of a placeholder. A placeholder is an object in which `_placeholder` is `true`.
pub(super) fn check(json: &str, attachments: usize) -> Result<(), DecodeError> {
    if attachments > json.len() {
        // The count is a peer's word, and memory is only taken for what has arrived.
        return Err(DecodeError::Placeholders);
    }
    let mut scan = Scan { rest: json, open: SmallVec::new(), key: Key::Other };
    let mut seen: SmallVec<[u64; 2]> = SmallVec::from_elem(0, attachments.div_ceil(64));
    while let Some(placeholder) = scan.next_placeholder() {
        let index = placeholder.ok_or(DecodeError::Placeholders)?;
        if index >= attachments {
            return Err(DecodeError::Placeholders);
        }
        if let Some(word) = seen.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }
    let found: usize = seen.iter().map(|word| word.count_ones() as usize).sum();
    if found == attachments { Ok(()) } else { Err(DecodeError::Placeholders) }
}

/// What the scan knows of an array or object whose end it hasn't reached.
#[derive(Clone, Copy)]
enum Open {
    Array,
    Object { marked: bool, index: Option<usize> },
}

/// The key whose value comes next, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Other,
    Placeholder,
    Index,
}

struct Scan<'a> {
    rest: &'a str,
    open: SmallVec<[Open; 8]>,
    key: Key,
}

impl<'a> Scan<'a> {
    /// The attachment that the next placeholder names; `Some(None)` when its `num` is missing or no whole number.
    fn next_placeholder(&mut self) -> Option<Option<usize>> {
        while let Some(&byte) = self.rest.as_bytes().first() {
            match byte {
                b'{' | b'[' => {
                    self.take(1);
                    self.value("");
                    self.open.push(if byte == b'{' {
                        Open::Object { marked: false, index: None }
                    } else {
                        Open::Array
                    });
                }
                b'}' | b']' => {
                    self.take(1);
                    if let Some(Open::Object { marked: true, index }) = self.open.pop() {
                        return Some(index);
                    }
                }
                b'"' => {
                    let literal = self.take(string_len(self.rest));
                    // In valid JSON a colon follows the keys and nothing else.
                    if json::trim_start(self.rest).starts_with(':') {
                        self.key = match json::string(literal).as_deref() {
                            Some("_placeholder") => Key::Placeholder,
                            Some("num") => Key::Index,
                            _ => Key::Other,
                        };
                    } else {
                        self.value(literal);
                    }
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {
                    self.take(1);
                }
                _ => {
                    let literal = self.take(scalar_len(self.rest));
                    self.value(literal);
                }
            }
        }
        None
    }

    /// Notes a value of the object that is open. When a key is there twice its last value counts, as in JavaScript.
    fn value(&mut self, literal: &str) {
        if let Some(Open::Object { marked, index }) = self.open.last_mut() {
            match self.key {
                Key::Placeholder => *marked = literal == "true",
                Key::Index => *index = literal.parse().ok(),
                Key::Other => {}
            }
        }
        self.key = Key::Other;
    }

    fn take(&mut self, len: usize) -> &'a str {
        // Tokens begin and end at ASCII characters, so the text always divides there.
        let (token, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, ""));
        self.rest = rest;
        token
    }
}

/// The length of the string literal that `text` begins with, quotes included.
fn string_len(text: &str) -> usize {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return at + 1,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    text.len()
}

/// The length of the number, `true`, `false` or `null` that `text` begins with.
fn scalar_len(text: &str) -> usize {
    text.bytes()
        .position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'))
        // At least 1, so that the scan gets on whatever the text.
        .map_or(text.len(), |at| at.max(1))
}
