//! The handling of foreign texts in messages.

pub(crate) mod nearest;
pub(crate) mod nearest_path;

/// The first part of a text, of at most `bytes` bytes: no more of a peer's text is logged.
pub(crate) fn excerpt(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_with_a_whole_character() {
        for (bytes, expected) in [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (4, "aéz"), (100, "aéz")] {
            assert_eq!(excerpt("aéz", bytes), expected);
        }
    }
}
