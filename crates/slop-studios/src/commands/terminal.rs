//! Text made fit for a terminal.

/// With control characters escaped, which a terminal may take for commands.
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

/// An error and its causes on one line. Libraries differ in whether an error's text has its cause's in it; what was said
/// already is left out.
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
    fn a_cause_is_said_once() {
        let error = anyhow::anyhow!("refused").context("send: refused").context("publish");
        assert_eq!(one_line(&error), "publish: send: refused");
    }
}
