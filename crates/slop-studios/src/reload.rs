//! Changing what is in force without a restart: on SIGHUP the settings are read again, and what can change is
//! exchanged.
//!
//! It happens in two steps. First every part prepares what it would put in force, and may refuse; only if all could,
//! each does. So a configuration that is wrong anywhere changes nothing.

use std::fmt;
use std::sync::Arc;

use crate::config::{Effective, Settings};
use crate::metrics::Metrics;

/// What reads the settings again: flags and environment as the process was started with them, and the file as it is now.
pub(crate) type Load = Box<dyn Fn() -> Effective + Send>;

/// What is left to be done once every part is prepared. It can't fail.
pub(crate) type Apply = Box<dyn FnOnce()>;

type Prepare = Box<dyn Fn(&Settings) -> anyhow::Result<Apply>>;

/// Everything that can be changed, and how.
pub(crate) struct Reload {
    load: Load,
    parts: Vec<Prepare>,
    /// The settings that the parts put in force. The rest take effect when the server is started again.
    reloaded: Vec<&'static str>,
    /// What the server was started with: a setting that needs a restart stays different until there is one.
    at_start: Effective,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

impl Reload {
    /// Reloads nothing yet.
    pub(crate) fn new(load: Load, metrics: Arc<Metrics>) -> Self {
        let at_start = load();
        Self { load, parts: Vec::new(), reloaded: Vec::new(), at_start, metrics }
    }

    /// Adds something that can change with these settings. `prepare` checks and makes all that may fail, such as reading files, and changes
    /// nothing; what it returns puts it in force.
    pub(crate) fn part(
        mut self,
        settings: &[&'static str],
        prepare: impl Fn(&Settings) -> anyhow::Result<Apply> + 'static,
    ) -> Self {
        self.parts.push(Box::new(prepare));
        self.reloaded.extend_from_slice(settings);
        self
    }

    /// Reads the settings again and puts them in force, or says what is wrong with them and changes nothing.
    pub(crate) fn run(&self) {
        let effective = (self.load)();
        let settings = match effective.settings() {
            Ok(settings) => settings,
            Err(errors) => {
                for error in &errors.0 {
                    tracing::error!(%error, "the configuration was not reloaded");
                }
                return self.metrics.reloaded(false);
            }
        };
        match self.parts.iter().map(|prepare| prepare(&settings)).collect::<anyhow::Result<Vec<Apply>>>() {
            Ok(prepared) => prepared.into_iter().for_each(|apply| apply()),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the configuration was not reloaded");
                return self.metrics.reloaded(false);
            }
        }
        self.metrics.reloaded(true);
        for warning in settings.warnings() {
            tracing::warn!("{warning}");
        }
        self.at_start.differing(&effective).filter(|name| !self.reloaded.contains(name)).for_each(say_restart_needed);
        tracing::info!("the configuration was reloaded");
    }
}

/// Tells the operator that a setting was read and is not in force.
pub(crate) fn say_restart_needed(setting: &'static str) {
    tracing::warn!(setting, "a setting has changed that takes effect at the next start");
}
