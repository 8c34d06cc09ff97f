//! The log: one stream on standard error, so that standard output stays for what a command has to say.

use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// What changes the level of the process's log.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging for the process. A second call changes nothing.
pub fn init(level: LogLevel, format: LogFormat) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    // It fails only when a subscriber is there already, as in a test that runs two servers.
    let started = match format {
        LogFormat::Text => subscriber.with(layer).try_init(),
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Logs what is of this level or more severe from now on.
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
