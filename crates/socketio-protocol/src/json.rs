//! The little of JSON that the codecs write and check themselves.

use serde_json::value::RawValue;

use crate::surrogates::replace_lone;

/// How many arrays and objects may stand within one another, the outermost included.
///
/// It is what `serde_json` reads by default, so that whatever is let in can be deserialised further on.
pub(crate) const MAX_DEPTH: usize = 127;

const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Why a text was not taken as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Syntax,
    TooDeep,
}

/// The text without the white space JSON allows around a value.
pub(crate) fn trim(text: &str) -> &str {
    // Hardly any client sends some.
    match text.as_bytes() {
        [b'[', .., b']'] => text,
        _ => text.trim_matches(WHITE_SPACE),
    }
}

/// The text without the white space before a value.
pub(crate) fn trim_start(text: &str) -> &str {
    text.trim_start_matches(WHITE_SPACE)
}

/// Checks that `text` is one JSON value, nested no deeper than `max_depth` or [`MAX_DEPTH`].
pub(crate) fn parse(text: &str, max_depth: usize) -> Result<&RawValue, Fault> {
    if nests_too_deep(text, max_depth) {
        return Err(Fault::TooDeep);
    }
    serde_json::from_str(text).map_err(|_| Fault::Syntax)
}

/// Tells whether `text`, if it is JSON, nests deeper than `max_depth` or [`MAX_DEPTH`].
///
/// `serde_json` checks raw values without recursion and so without a limit of its own.
pub(crate) fn nests_too_deep(text: &str, max_depth: usize) -> bool {
    let max_depth = max_depth.min(MAX_DEPTH);
    // Nearly every payload has so few opening brackets that where they stand doesn't matter; counting vectorises.
    text.len() > max_depth && opening_brackets(text) > max_depth && depth_exceeds(text, max_depth)
}

fn opening_brackets(text: &str) -> usize {
    // Chunks of 255 keep the inner count within a byte, which is what lets it run 16 bytes at a time.
    text.as_bytes()
        .chunks(255)
        .map(|chunk| {
            // '[' and '{' differ in this bit only.
            let count = chunk.iter().fold(0u8, |count, byte| count + u8::from(byte | 0x20 == b'{'));
            usize::from(count)
        })
        .sum()
}

fn depth_exceeds(text: &str, max_depth: usize) -> bool {
    let mut depth = 0usize;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    false
}

/// Reads a string literal, borrowing it unless it has escapes.
///
/// `None` when `literal` isn't a string. Lone surrogates, which JSON can spell, become U+FFFD.
pub(crate) fn string(literal: &str) -> Option<std::borrow::Cow<'_, str>> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str::<String>(&replace_lone(literal)).ok().map(Into::into)
    } else {
        Some(inner.into())
    }
}

/// Appends `text` as a JSON string literal, escaped as `JSON.stringify` does.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 0x0f)]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Appends `number` in decimal.
pub(crate) fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn the_deepest_value_let_in_can_be_deserialised() {
        let deepest = nested(MAX_DEPTH);
        assert!(parse(&deepest, MAX_DEPTH).is_ok());
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());

        let deeper = nested(MAX_DEPTH + 1);
        assert_eq!(parse(&deeper, usize::MAX).unwrap_err(), Fault::TooDeep);
        assert!(serde_json::from_str::<serde_json::Value>(&deeper).is_err());
    }

    #[test]
    fn the_limit_may_be_lower() {
        assert!(parse(&nested(3), 3).is_ok());
        assert_eq!(parse(&nested(4), 3).unwrap_err(), Fault::TooDeep);
    }

    #[test]
    fn brackets_side_by_side_or_in_strings_are_no_nesting() {
        let flat = format!("[{}[]]", "[],".repeat(1000));
        assert!(parse(&flat, 2).is_ok());
        let quoted = format!(r#"["\"{}"]"#, "[{".repeat(1000));
        assert!(parse(&quoted, 1).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in any::<String>(), control in "[\\x00-\\x1f\"\\\\a]{0,40}") {
            for text in [text, control] {
                let mut out = Vec::new();
                write_string(&mut out, &text);
                let literal = String::from_utf8(out).unwrap();
                prop_assert_eq!(&literal, &serde_json::to_string(&text).unwrap());
                prop_assert_eq!(string(&literal).unwrap(), text);
            }
        }

        #[test]
        fn integers_are_written_in_decimal(number in any::<u64>(), shift in 0u32..64) {
            let number = number >> shift;
            let mut out = Vec::new();
            write_integer(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
