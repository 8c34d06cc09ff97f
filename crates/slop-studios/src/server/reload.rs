//! Changes settings without a restart. On SIGHUP the settings are read again, and the ones that can change are put in
//! force.
//!
//! A reload has two steps. First every part prepares its change, and may fail. Only if all parts succeed, each applies
//! its change. So a configuration with any error changes nothing.

use std::fmt;
use std::sync::Arc;

use crate::config::{Effective, Settings};
use crate::metrics::Metrics;

/// Reads the settings again: the flags and the environment from the start of the process, and the file in its current
/// state.
pub(crate) type Load = Box<dyn Fn() -> Effective + Send>;

/// Applies a prepared change. It can't fail.
pub(crate) type Apply = Box<dyn FnOnce()>;

type Prepare = Box<dyn Fn(&Settings) -> anyhow::Result<Apply>>;

/// The parts that a reload can change.
pub(crate) struct Reload {
    load: Load,
    parts: Vec<Prepare>,
    /// The settings that a reload puts in force. The rest take effect at the next start.
    reloaded: Vec<&'static str>,
    /// The settings at the start. A changed setting that needs a restart differs from them until the restart.
    at_start: Effective,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

impl Reload {
    /// Makes a reload without parts.
    pub(crate) fn new(load: Load, metrics: Arc<Metrics>) -> Self {
        let at_start = load();
        Self { load, parts: Vec::new(), reloaded: Vec::new(), at_start, metrics }
    }

    /// Adds a part that depends on these settings. `prepare` does all work that may fail, such as reading files, and
    /// changes nothing. The function that it returns applies the change.
    pub(crate) fn part(
        mut self,
        settings: &[&'static str],
        prepare: impl Fn(&Settings) -> anyhow::Result<Apply> + 'static,
    ) -> Self {
        self.parts.push(Box::new(prepare));
        self.reloaded.extend_from_slice(settings);
        self
    }

    /// Reads the settings again and puts them in force. If they have errors, it logs the errors and changes nothing.
    pub(crate) fn run(&self) {
        let effective = (self.load)();
        let settings = match effective.settings() {
            Ok(settings) => settings,
            Err(errors) => {
                for error in &errors.errors {
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

/// Logs that a setting was read but is not in force.
pub(crate) fn say_restart_needed(setting: &'static str) {
    tracing::warn!(setting, "a setting has changed that takes effect at the next start");
}
