//! `serve`: settings, log, server.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::cli::Failure;
use crate::config::{Effective, Profile, SettingFlags, Settings};
use crate::logging;
use crate::reload;

pub(crate) fn run(flags: &SettingFlags) -> Result<ExitCode, Failure> {
    let settings = Effective::load(flags, Profile::Serve).settings()?;
    let flags = flags.clone();
    let load = move || Effective::load(&flags, Profile::Serve);
    start(settings, Some(Box::new(load)), |_| String::new())
}

/// Serves until told to stop; `load` is what SIGHUP reads the settings with. Once it listens, the line that tools wait for goes out first, then what `more` makes.
pub(super) fn start(
    settings: Settings,
    load: Option<reload::Load>,
    more: impl FnOnce(SocketAddr) -> String,
) -> Result<ExitCode, Failure> {
    logging::init(settings.log_level, settings.log_format);
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }
    let scheme = settings.scheme();
    let stopped = crate::serve::run(settings, load, |address| {
        let text = format!("listening on {scheme}://{address}\n{}", more(address));
        let mut output = std::io::stdout().lock();
        if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // Whoever closed our standard output may still want the server.
            tracing::warn!(%error, "can't write the start-up line");
        }
    })?;
    Ok(ExitCode::from(stopped.exit_code()))
}
