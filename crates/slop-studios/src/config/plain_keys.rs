//! Finds publishers' keys in plain text in the file, in a comment for example. The file has hashes so that its readers
//! can't publish.

use crate::publish::publishers::{KEY_DIGITS, KEY_PREFIX, KeyHash, ScopedKey};

/// The numbers, from 1, of the lines with a plain key: a key made by `key new`, or a key whose hash is in `hashed`. The
/// keys in `api_keys` are meant to be plain.
pub(super) fn lines(text: &str, api_keys: &[&str], hashed: &[ScopedKey]) -> Vec<usize> {
    let is_hashed = |word: &str| {
        let hash = (!hashed.is_empty()).then(|| KeyHash::of(word));
        hash.is_some_and(|hash| hashed.iter().any(|key| key.hash == hash))
    };
    let has_key = |line: &str| {
        let words = line.split(|letter: char| letter.is_whitespace() || "\"'`,#()[]".contains(letter));
        let mut words = words.chain(made_keys(line)).filter(|word| !api_keys.contains(word));
        words.any(|word| is_made_key(word) || is_hashed(word))
    };
    (1..).zip(text.lines()).filter(|(_, line)| has_key(line)).map(|(number, _)| number).collect()
}

/// The parts of a line in the form of a key made by `key new`, whatever surrounds them.
fn made_keys(line: &str) -> impl Iterator<Item = &str> {
    let from = line.match_indices(KEY_PREFIX).filter_map(|(start, _)| line.get(start..));
    from.filter_map(|rest| rest.get(..KEY_PREFIX.len() + KEY_DIGITS)).filter(|key| is_made_key(key))
}

fn is_made_key(word: &str) -> bool {
    word.strip_prefix(KEY_PREFIX)
        .is_some_and(|digits| digits.len() == KEY_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn keys_are_found_wherever_they_stand() {
        let made = format!("{KEY_PREFIX}{}", "0a".repeat(KEY_DIGITS / 2));
        let own = "an-own-key=";
        let hashed = [ScopedKey { name: "a".into(), hash: KeyHash::of(own), scopes: Arc::default() }];
        let text = format!(
            "# {made}\nport = 1\nhash = \"{made}\"\nname = 'key:{made}'\n# {made}0 or slop_0a\n# is {own}, of a\nx=\"{own}\"\n"
        );
        assert_eq!(lines(&text, &[], &hashed), [1, 3, 4, 5, 6, 7]);
        assert_eq!(lines(&text, &[], &[]), [1, 3, 4, 5]);
        assert!(lines(&text, &[&made, own], &hashed).is_empty());
    }
}
