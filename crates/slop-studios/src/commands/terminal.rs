//! Text for a terminal, and the capabilities of a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};

/// Whether standard output is a terminal that can move its cursor.
pub(super) fn is_screen() -> bool {
    stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether colours are wanted there (<https://no-color.org>).
pub(super) fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Escapes control characters, which a terminal may take for commands.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// JSON without the white space between its tokens, and with control characters in its strings escaped.
pub(super) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        // JSON allows DEL and the C1 controls unescaped; a terminal may take them for commands.
        if character.is_control() {
            let _infallible = write!(text, "\\u{:04x}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

/// An error and its causes on one line. In some libraries, an error's text contains the text of its cause; repeated
/// text is left out.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{one_line, printable};

    #[test]
    fn only_control_characters_change() {
        assert_eq!(printable("grün 🟢\u{1b}[2J\u{9b}m\n"), r"grün 🟢\u{1b}[2J\u{9b}m\n");
    }

    #[test]
    fn a_cause_is_printed_once() {
        let error = anyhow::anyhow!("refused").context("send: refused").context("publish");
        assert_eq!(one_line(&error), "publish: send: refused");
    }
}
