//! The form in which an event is shown: one line, without characters that a terminal would act upon.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::value::RawValue;

use crate::commands::terminal::compact;

/// A received event.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// The time of arrival, in UTC with milliseconds.
    pub(super) time: String,
    pub(super) namespace: &'a str,
    pub(super) event: Cow<'a, str>,
    /// The arguments after the name, as JSON.
    pub(super) args: &'a [&'a RawValue],
    /// The sizes in bytes of the binary attachments. Placeholders in the arguments stand for them.
    pub(super) attachments: &'a [usize],
}

impl Line<'_> {
    /// `time namespace event args…`
    pub(super) fn text(&self) -> String {
        format!("{} {} {}{}", self.time, compact(self.namespace), self.name(), self.arguments())
    }

    /// The event's name, as JSON if it could be mistaken for something else.
    pub(super) fn name(&self) -> Cow<'_, str> {
        let plain = |character: char| !character.is_whitespace() && !character.is_control();
        if !self.event.is_empty() && self.event.chars().all(plain) {
            Cow::Borrowed(self.event.as_ref())
        } else {
            Cow::Owned(json_string(&self.event))
        }
    }

    /// The arguments, each after a space.
    pub(super) fn arguments(&self) -> String {
        let mut text = String::new();
        for arg in self.args {
            text.push(' ');
            text.push_str(&compact(arg.get()));
        }
        if !self.attachments.is_empty() {
            let _infallible = write!(
                text,
                " ({} attachments, {} bytes)",
                self.attachments.len(),
                self.attachments.iter().sum::<usize>()
            );
        }
        text
    }

    /// `{"time":…,"namespace":…,"event":…,"args":[…]}`, and `"attachments":[SIZE…]` when there are any.
    pub(super) fn json(&self) -> String {
        let args: Vec<String> = self.args.iter().map(|arg| compact(arg.get())).collect();
        let mut text = format!(
            r#"{{"time":"{}","namespace":{},"event":{},"args":[{}]"#,
            self.time,
            json_string(self.namespace),
            json_string(&self.event),
            args.join(",")
        );
        if !self.attachments.is_empty() {
            let _infallible = write!(text, r#","attachments":{:?}"#, self.attachments);
        }
        text.push('}');
        text
    }
}

fn json_string(text: &str) -> String {
    compact(&serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(event: &str, args: &[&str]) -> (String, String) {
        let args: Vec<Box<RawValue>> =
            args.iter().map(|arg| RawValue::from_string((*arg).to_owned()).expect("JSON")).collect();
        let args: Vec<&RawValue> = args.iter().map(AsRef::as_ref).collect();
        let line = Line {
            time: "2026-11-23T08:00:00.000Z".to_owned(),
            namespace: "/media",
            event: Cow::Borrowed(event),
            args: &args,
            attachments: &[],
        };
        (line.text(), line.json())
    }

    #[test]
    fn one_line_whatever_the_sender_wrote() {
        let (text, json) = shown("projectUpdate", &["{\n  \"a\": [1,\r\n 2],\t\"b\": \" \\\" { \\\\\" }", "null"]);
        assert_eq!(text, r#"2026-11-23T08:00:00.000Z /media projectUpdate {"a":[1,2],"b":" \" { \\"} null"#);
        assert_eq!(
            json,
            r#"{"time":"2026-11-23T08:00:00.000Z","namespace":"/media","event":"projectUpdate","args":[{"a":[1,2],"b":" \" { \\"},null]}"#
        );
    }

    #[test]
    fn a_terminal_gets_no_commands() {
        let (text, json) = shown("a\u{1b}[2J b", &["\"\u{9b}31m\u{7f}\""]);
        assert_eq!(text, r#"2026-11-23T08:00:00.000Z /media "a\u001b[2J b" "\u009b31m\u007f""#);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["event"], "a\u{1b}[2J b");
        assert_eq!(value["args"][0], "\u{9b}31m\u{7f}");
    }
}
