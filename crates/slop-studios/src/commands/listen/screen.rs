//! Events as a terminal shows them: in colours, and the progress of a media item as a bar on one line.

use clap::builder::styling::{AnsiColor, Effects, Style};
use serde::Deserialize;

use super::line::Line;
use crate::commands::terminal::{compact, is_screen, printable, wants_colours};

/// Moves to the beginning of the line and clears it (ECMA-48: CR and EL).
const BEGIN_AGAIN: &str = "\r\x1b[2K";
/// Cuts off text that does not fit on the line: on the next line it could not be cleared (DECAWM).
const CUT_OFF: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Cells of a bar: 5 % each.
const CELLS: usize = 20;

const TIME: Style = Style::new().effects(Effects::DIMMED);
const NAMESPACE: Style = AnsiColor::Cyan.on_default();
const EVENT: Style = Style::new().effects(Effects::BOLD);
const GOOD: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);
const BAD: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
const BAR: Style = AnsiColor::Green.on_default();

/// A terminal.
#[derive(Debug)]
pub(super) struct Screen {
    has_colours: bool,
    /// The media item of the bar on the last line.
    bar: Option<String>,
}

/// The payload of `mediaProgress`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    media_id: String,
    progress: f64,
    stage: String,
    message: Option<String>,
}

impl Screen {
    /// The terminal on standard output; `None` if it is no terminal, or can't move its cursor.
    pub(super) fn of_standard_output() -> Option<Self> {
        is_screen().then(|| Self { has_colours: wants_colours(), bar: None })
    }

    /// The text that shows the event.
    pub(super) fn draw(&mut self, line: &Line<'_>) -> String {
        let progress = match (&*line.event, line.args) {
            ("mediaProgress", [argument]) => serde_json::from_str::<Progress>(argument.get()).ok(),
            _ => None,
        };
        match progress {
            Some(progress) => self.bar(line, progress),
            None => format!("{}{}\n", if self.end_bar() { "\n" } else { "" }, self.event(line)),
        }
    }

    /// Ends the bar. Returns whether there was one, so that the cursor has to leave its line.
    pub(super) fn end_bar(&mut self) -> bool {
        self.bar.take().is_some()
    }

    /// The text of a bar. It replaces the last bar if that is for the same item.
    fn bar(&mut self, line: &Line<'_>, progress: Progress) -> String {
        let is_next = self.bar.as_ref().is_some_and(|item| *item != progress.media_id);
        let begin = if is_next { "\n" } else { BEGIN_AGAIN };
        // Rounded down: only completed work counts.
        let percent = progress.progress.clamp(0.0, 100.0).floor();
        // The value fits: it is at most the number of cells.
        let full = (percent / 100.0 * CELLS as f64) as usize;
        let bar = format!("[{}{}]", self.styled(BAR, &"#".repeat(full)), "-".repeat(CELLS - full));
        let mut text = format!(
            "{begin}{CUT_OFF}{} {} {bar} {percent:>3.0} % {}",
            self.head(line, EVENT),
            printable(&progress.media_id),
            printable(&progress.stage)
        );
        if let Some(message) = &progress.message {
            text.push_str(": ");
            text.push_str(&printable(message));
        }
        text.push_str(WRAP);
        self.bar = Some(progress.media_id);
        text
    }

    fn event(&self, line: &Line<'_>) -> String {
        let style = match &*line.event {
            "mediaComplete" | "authenticated" => GOOD,
            "mediaError" | "authError" => BAD,
            _ => EVENT,
        };
        format!("{}{}", self.head(line, style), line.arguments())
    }

    /// Time, namespace and name.
    fn head(&self, line: &Line<'_>, event: Style) -> String {
        let namespace = self.styled(NAMESPACE, &compact(line.namespace));
        format!("{} {namespace} {}", self.styled(TIME, &line.time), self.styled(event, &line.name()))
    }

    fn styled(&self, style: Style, text: &str) -> String {
        match self.has_colours && !text.is_empty() {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::value::RawValue;

    use super::*;

    fn drawn(screen: &mut Screen, event: &str, argument: &str) -> String {
        let argument = RawValue::from_string(argument.to_owned()).expect("JSON");
        let (time, event) = ("T".to_owned(), Cow::Borrowed(event));
        screen.draw(&Line { time, namespace: "/media", event, args: &[&*argument], attachments: &[] })
    }

    #[test]
    fn a_bar_moves_on_its_line() {
        let mut screen = Screen { has_colours: false, bar: None };
        let progress = |item: &str, progress: u8| {
            format!(r#"{{"mediaId":"{item}","progress":{progress},"stage":"render","message":"\u001b[2J"}}"#)
        };
        let bar = |begin: &str, item: &str, bar: &str| {
            format!(r"{begin}{CUT_OFF}T /media mediaProgress {item} {bar} % render: \u{{1b}}[2J{WRAP}")
        };
        assert_eq!(
            drawn(&mut screen, "mediaProgress", &progress("m", 9)),
            bar(BEGIN_AGAIN, "m", "[#-------------------]   9")
        );
        assert_eq!(
            drawn(&mut screen, "mediaProgress", &progress("m", 100)),
            bar(BEGIN_AGAIN, "m", "[####################] 100")
        );
        assert_eq!(
            drawn(&mut screen, "mediaProgress", &progress("n", 0)),
            bar("\n", "n", "[--------------------]   0")
        );
        assert_eq!(
            drawn(&mut screen, "mediaComplete", r#"{"mediaId":"n"}"#),
            "\nT /media mediaComplete {\"mediaId\":\"n\"}\n"
        );
        assert_eq!(drawn(&mut screen, "mediaProgress", "5"), "T /media mediaProgress 5\n");
    }

    #[test]
    fn what_ends_an_item_has_a_colour() {
        let mut screen = Screen { has_colours: true, bar: None };
        let shown = drawn(&mut screen, "mediaError", "1");
        assert!(shown.contains("\x1b[31m") && shown.contains("mediaError\x1b[0m"), "{shown:?}");
    }
}
