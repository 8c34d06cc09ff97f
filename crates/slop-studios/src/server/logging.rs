//! The log: one stream on standard error. Standard output is reserved for the output of commands.
//!
//! An operator who chooses JSON collects both streams. So every line is then a JSON object: the log, a panic, and the
//! server's start-up text on standard output.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::OnceLock;

use serde::Serialize;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};
use crate::contract::time::Moment;

/// The handle that changes the level of the process's log.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging for the process. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    // It fails only if a subscriber already exists, as in a test with two servers.
    let started = match format {
        LogFormat::Text => subscriber.with(layer).try_init(),
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        let _ = LEVEL.set(handle);
        if format == LogFormat::Json {
            log_panics();
        }
    }
}

/// Logs panics, which otherwise go to standard error as text.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
        tracing::error!(backtrace, "{panic}");
    }));
}

/// The server's text on standard output once it listens, in the form of the log: the line that tools wait for, then
/// `more` for people.
pub(crate) fn start_up_text(format: LogFormat, url: &str, more: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: Moment,
        level: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<&'a str>,
        target: &'static str,
    }

    let line = |message, url| {
        let line = Line { timestamp: Moment::now(), level: "INFO", message, url, target: env!("CARGO_CRATE_NAME") };
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    };
    match format {
        LogFormat::Text => format!("listening on {url}\n{more}"),
        LogFormat::Json if more.is_empty() => line("listening", Some(url)),
        LogFormat::Json => line("listening", Some(url)) + &line(more.trim(), None),
    }
}

/// Changes the log to messages of this level and more severe ones.
pub(crate) fn set_level(level: LogLevel) {
    // It fails only if there is no log.
    let _no_log = LEVEL.get().map(|handle| handle.reload(filter(level)));
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_text_has_the_form_of_the_log() {
        let text = |format, more| start_up_text(format, "http://[::1]:1", more);
        assert_eq!(text(LogFormat::Text, "\nmore\n"), "listening on http://[::1]:1\n\nmore\n");
        for (more, messages) in
            [("", &["listening"][..]), ("\na \"guide\"\nof lines\n", &["listening", "a \"guide\"\nof lines"])]
        {
            let text = text(LogFormat::Json, more);
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let found: Vec<_> = lines.iter().map(|line| line["message"].as_str().expect("a text")).collect();
            assert_eq!(found, messages);
            assert_eq!(lines[0]["url"], "http://[::1]:1");
            assert!(lines.iter().all(|line| line["level"] == "INFO" && line["timestamp"].is_string()), "{text}");
        }
    }
}
