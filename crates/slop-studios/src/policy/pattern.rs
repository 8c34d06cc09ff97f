//! Patterns that match names, and templates that are filled with a pattern's captures.

use std::fmt;

/// A pattern for names. `*` matches any text or none. `{id}` matches some text and captures it as `id`. All other text
/// matches itself.
///
/// If a name fits in several ways, each placeholder takes as little as possible, and the last one takes the rest: of
/// `a-b-c`, `{x}-{y}` captures `a` and `b-c`. Each name has exactly one result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    first: Box<str>,
    gaps: Box<[Gap]>,
    /// The names of the placeholders, in their order in the text.
    placeholders: Box<[Box<str>]>,
}

/// A variable part, and the text after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gap {
    is_placeholder: bool,
    then: Box<str>,
}

/// Why a text is not a pattern or a template. The text completes "`name` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The text has no characters.
    #[error("is empty")]
    Empty,
    /// No name has a control character, so the pattern would match no name.
    #[error("has a control character, which no name has")]
    ControlCharacter,
    /// A brace has no partner.
    #[error("has a brace without its partner; a placeholder has the form {{id}}")]
    Brace,
    /// The text between the braces is not a word.
    #[error("has the placeholder {{{0}}}; one is named by letters, digits and underscores")]
    PlaceholderName(String),
    /// Both occurrences of the placeholder would have to match the same text.
    #[error("has the placeholder {{{0}}} twice")]
    Twice(String),
    /// Two placeholders or stars are adjacent, so the end of the first one is undefined.
    #[error("has no text between two of its placeholders and stars, so nothing says where the first ends")]
    Adjacent,
    /// The pattern has no such placeholder.
    #[error("has the placeholder {{{0}}}, which the pattern does not have")]
    Unknown(String),
    /// The captured text would not be used.
    #[error("has the placeholder {{{0}}}, but nothing is filled from a scope; use * instead")]
    NoPlaceholders(String),
}

/// A piece of a pattern's or template's text.
enum Piece<'t> {
    Text(&'t str),
    Star,
    Placeholder(&'t str),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Why the text is not a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut first = String::new();
        let mut gaps: Vec<(bool, String)> = Vec::new();
        let mut placeholders: Vec<Box<str>> = Vec::new();
        for piece in pieces(text, true)? {
            let is_placeholder = match piece {
                Piece::Text(text) => {
                    gaps.last_mut().map_or(&mut first, |(_, then)| then).push_str(text);
                    continue;
                }
                Piece::Placeholder(name) if placeholders.iter().any(|known| &**known == name) => {
                    return Err(PatternError::Twice(name.to_owned()));
                }
                Piece::Placeholder(name) => {
                    placeholders.push(name.into());
                    true
                }
                Piece::Star => false,
            };
            if gaps.last().is_some_and(|(_, then)| then.is_empty()) {
                return Err(PatternError::Adjacent);
            }
            gaps.push((is_placeholder, String::new()));
        }
        let gaps = gaps.into_iter().map(|(is_placeholder, then)| Gap { is_placeholder, then: then.into() }).collect();
        Ok(Self { text: text.into(), first: first.into(), gaps, placeholders: placeholders.into() })
    }

    /// The captures of the name, if it fits the pattern.
    #[must_use]
    pub fn matches<'n>(&self, name: &'n str) -> Option<Captures<'n>> {
        let mut captures = Vec::new();
        let mut rest = name.strip_prefix(&*self.first)?;
        let last = self.gaps.len().checked_sub(1);
        for (index, gap) in self.gaps.iter().enumerate() {
            let least = if gap.is_placeholder { rest.chars().next()?.len_utf8() } else { 0 };
            let length = if Some(index) == last {
                rest.strip_suffix(&*gap.then).map(str::len).filter(|length| *length >= least)?
            } else {
                // The first place leaves the most text for the rest of the pattern, so no later place could fit if this
                // one does not.
                rest.get(least..)?.find(&*gap.then)? + least
            };
            let (found, after) = rest.split_at_checked(length)?;
            if gap.is_placeholder {
                captures.push(found);
            }
            rest = after.get(gap.then.len()..)?;
        }
        rest.is_empty().then_some(Captures(captures))
    }

    /// Whether the pattern matches every name.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        &*self.text == "*"
    }

    /// The text that every matching name begins with.
    #[must_use]
    pub fn beginning(&self) -> &str {
        &self.first
    }

    /// The names of the placeholders, each with its text in `captures`.
    pub fn captured<'a>(&'a self, captures: &'a Captures<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.placeholders.iter().map(|name| &**name).zip(captures.0.iter().copied())
    }

    /// Checks that the pattern has no placeholders.
    ///
    /// # Errors
    /// The first placeholder.
    pub fn without_placeholders(self) -> Result<Self, PatternError> {
        match self.placeholders.first() {
            None => Ok(self),
            Some(name) => Err(PatternError::NoPlaceholders(name.to_string())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The captured texts of a name, in the order of the pattern's placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captures<'n>(Vec<&'n str>);

/// Text with placeholders of a pattern, to be filled with the pattern's captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// The index of the placeholder in the pattern.
    Capture(usize),
}

impl Template {
    /// Reads a template for names that `pattern` matches. A star stands for itself.
    ///
    /// # Errors
    /// Why the text is not a template.
    pub fn parse(text: &str, pattern: &Pattern) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let parts = pieces(text, false)?.into_iter().map(|piece| match piece {
            Piece::Placeholder(name) => (pattern.placeholders.iter().position(|known| &**known == name))
                .map(Part::Capture)
                .ok_or_else(|| PatternError::Unknown(name.to_owned())),
            Piece::Text(text) => Ok(Part::Text(text.into())),
            Piece::Star => Ok(Part::Text("*".into())),
        });
        Ok(Self { text: text.into(), parts: parts.collect::<Result<_, _>>()? })
    }

    /// The text with the captures in place of its placeholders.
    #[must_use]
    pub fn fill(&self, captures: &Captures<'_>) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.to_string(),
            Part::Capture(index) => captures.0.get(*index).copied().unwrap_or_default().to_owned(),
        };
        self.parts.iter().map(text).collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits a text at its placeholders, and at its stars if `stars` is true.
fn pieces(text: &str, stars: bool) -> Result<Vec<Piece<'_>>, PatternError> {
    if text.chars().any(char::is_control) {
        return Err(PatternError::ControlCharacter);
    }
    let special = |character| matches!(character, '{' | '}') || (stars && character == '*');
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.find(special).and_then(|at| rest.split_at_checked(at)) {
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        if let Some(after) = after.strip_prefix('*') {
            pieces.push(Piece::Star);
            rest = after;
            continue;
        }
        let (name, after) =
            after.strip_prefix('{').and_then(|after| after.split_once('}')).ok_or(PatternError::Brace)?;
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !is_word {
            return Err(PatternError::PlaceholderName(name.to_owned()));
        }
        pieces.push(Piece::Placeholder(name));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The captures, joined by `|`; `None` if the name does not fit.
    fn found(pattern: &str, name: &str) -> Option<String> {
        let pattern = Pattern::parse(pattern).expect("a pattern");
        pattern.matches(name).map(|captures| captures.0.join("|"))
    }

    #[test]
    fn names_fit_or_not() {
        for (pattern, name, expected) in [
            ("lobby", "lobby", Some("")),
            ("lobby", "lobby2", None),
            ("lobby", "Lobby", None),
            ("*", "anything at all", Some("")),
            ("public-*", "public-", Some("")),
            ("public-*", "public-a", Some("")),
            ("public-*", "private-a", None),
            ("*-public", "a-public", Some("")),
            ("*-public", "a-public-b", None),
            ("a*b*c", "abc", Some("")),
            ("a*b*c", "a-c-b-c", Some("")),
            ("a*b*c", "acb", None),
            ("project-{id}", "project-123", Some("123")),
            ("project-{id}", "project-1-2:3", Some("1-2:3")),
            ("project-{id}", "project-", None),
            ("{team}/{room}", "red/a/b", Some("red|a/b")),
            ("{team}/{room}", "/a/b", Some("/a|b")),
            ("{team}/{room}", "red/", None),
            ("org-{org}-doc-{doc}-end", "org-a-doc-b-doc-c-end", Some("a|b-doc-c")),
            ("org-{org}-doc-{doc}-end", "org-a-doc--end", None),
            ("aa{x}aa", "aaaa", None),
            ("aa{x}aa", "aaaaa", Some("a")),
            ("{x}é", "éé", Some("é")),
            ("{x}é", "é", None),
            ("☃{x}", "☃☃", Some("☃")),
        ] {
            assert_eq!(found(pattern, name).as_deref(), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_can_not_be_a_pattern_says_why() {
        for (pattern, error) in [
            ("", PatternError::Empty),
            ("a\nb", PatternError::ControlCharacter),
            ("{id", PatternError::Brace),
            ("id}", PatternError::Brace),
            ("{}", PatternError::PlaceholderName(String::new())),
            ("{a b}", PatternError::PlaceholderName("a b".to_owned())),
            ("{a{b}}", PatternError::PlaceholderName("a{b".to_owned())),
            ("{a}-{a}", PatternError::Twice("a".to_owned())),
            ("{a}{b}", PatternError::Adjacent),
            ("{a}*", PatternError::Adjacent),
            ("**", PatternError::Adjacent),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(error), "{pattern}");
        }
    }

    #[test]
    fn templates_are_filled_from_what_was_found() {
        let pattern = Pattern::parse("org-{org}/{doc}").expect("a pattern");
        let captures = pattern.matches("org-a/b*").expect("it fits");
        for (template, filled) in [("{org}", "a"), ("{doc}:{org}!", "b*:a!"), ("admin", "admin"), ("*", "*")] {
            assert_eq!(Template::parse(template, &pattern).expect("a template").fill(&captures), filled);
        }
        assert_eq!(Template::parse("{other}", &pattern), Err(PatternError::Unknown("other".to_owned())));
        assert_eq!(Template::parse("", &pattern), Err(PatternError::Empty));
    }
}
