//! `serve`: settings, log, server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use super::terminal::one_line;
use crate::commands::failure::Failure;
use crate::config::{Effective, LogFormat, LogLevel, Profile, SettingFlags, Settings};
use crate::server::{Keep, logging, reload};

pub(crate) fn run(flags: &SettingFlags) -> Result<ExitCode, Failure> {
    let settings = Effective::load(flags, Profile::Serve).settings()?;
    let flags = flags.clone();
    let load = move || Effective::load(&flags, Profile::Serve);
    let keep = Keep::of(&settings);
    start(settings, keep, Some(Box::new(load)), |_| String::new())
}

/// Serves until a signal ends the server. SIGHUP reads the settings with `load`. Once the server listens, it prints the
/// line that tools wait for, then the text of `more`.
pub(super) fn start(
    settings: Settings,
    keep: Keep,
    load: Option<reload::Load>,
    more: impl FnOnce(SocketAddr) -> String,
) -> Result<ExitCode, Failure> {
    logging::init(settings.log_level, settings.log_format);
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let (scheme, format, level) = (settings.scheme(), settings.log_format, settings.log_level);
    let stopped = crate::server::run(settings, keep, load, |address| {
        let text = logging::start_up_text(format, &format!("{scheme}://{address}"), &more(address));
        let mut output = std::io::stdout().lock();
        if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // The server continues: a closed standard output does not mean that it is no longer needed.
            tracing::warn!(%error, "can't write the start-up line");
        }
    });
    match stopped {
        Ok(stopped) => Ok(ExitCode::from(stopped.exit_code())),
        // `main` would print it as text.
        Err(error) if format == LogFormat::Json && level != LogLevel::Off => {
            tracing::error!(error = one_line(&error), "the server failed");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}
