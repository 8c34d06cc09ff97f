//! Halves of surrogate pairs in JSON. Whoever cuts a text after so many UTF-16 units cuts some emoji in two, and what
//! its JSON then has (`"\\ud83d"`) stands for no character.

use std::borrow::Cow;

/// Bytes of an escape such as `\ud83d`.
const ESCAPE: usize = 6;

/// Replaces each half without its other half by U+FFFD, as browsers and `TextDecoder` do. Anything else stays as it is,
/// JSON or not.
#[must_use]
pub fn replace_lone(json: &str) -> Cow<'_, str> {
    let mut replaced: Option<String> = None;
    let mut copied = 0;
    let mut rest = json;
    while let Some((_, escape)) = rest.split_once('\\') {
        let at = json.len() - escape.len() - 1;
        rest = match unit(escape) {
            Some(0xd800..=0xdbff) if follows(escape) => escape.get(2 * ESCAPE - 1..).unwrap_or_default(),
            Some(0xd800..=0xdfff) => {
                let text = replaced.get_or_insert_with(|| String::with_capacity(json.len()));
                text.push_str(json.get(copied..at).unwrap_or_default());
                text.push_str("\\ufffd");
                copied = at + ESCAPE;
                escape.get(ESCAPE - 1..).unwrap_or_default()
            }
            // Another escape, of which a second backslash is a part.
            _ => {
                let mut characters = escape.chars();
                characters.next();
                characters.as_str()
            }
        };
    }
    match replaced {
        Some(mut text) => {
            text.push_str(json.get(copied..).unwrap_or_default());
            Cow::Owned(text)
        }
        None => Cow::Borrowed(json),
    }
}

/// The UTF-16 unit of `uXXXX`.
fn unit(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix('u')?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

/// Whether the second half of a pair comes right after this first one.
fn follows(escape: &str) -> bool {
    let next = escape.get(ESCAPE - 1..).and_then(|next| next.strip_prefix('\\'));
    matches!(next.and_then(unit), Some(0xdc00..=0xdfff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_replaced_and_nothing_else_is() {
        for (json, expected) in [
            (r#"{"a":"x \ud83d"}"#, r#"{"a":"x \ufffd"}"#),
            (r#"["\uDE00 y","\ud83d\ud83d\ude00"]"#, r#"["\ufffd y","\ufffd\ud83d\ude00"]"#),
            (r#"["\ud83d\\ude00"]"#, r#"["\ufffd\\ude00"]"#),
            (r#"["\ud83d"#, r#"["\ufffd"#),
        ] {
            assert_eq!(replace_lone(json), expected);
        }
        for same in
            [r#"["\ud83d\ude00"]"#, r#"["\\ud83d"]"#, r#"["\u00e9 \n \" \ud8"]"#, r#"["\ud83"#, "\\", "\\u", "\\é", ""]
        {
            assert!(matches!(replace_lone(same), Cow::Borrowed(text) if text == same), "{same}");
        }
    }
}
