//! The failure of a command, and its exit code.

use std::process::ExitCode;

use super::terminal::one_line;
use crate::config::SettingErrors;

/// The failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings can't be used; each problem is on a line of its own.
    #[error(transparent)]
    Settings(#[from] SettingErrors),
    /// The settings or the files that they name can't be used; each problem is on a line of its own.
    #[error("{}", lines(.settings.as_ref(), .files))]
    Configuration {
        /// The problems of the settings.
        settings: Option<SettingErrors>,
        /// The problems of the files.
        files: Vec<String>,
    },
    /// The arguments make no sense, in a way that the parser can't detect.
    #[error("error: {0}")]
    Usage(String),
    /// The command ran and failed.
    #[error("error: {}", one_line(.0))]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    /// The exit code: 2 for wrong arguments or settings, 1 for a failed command.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) | Self::Usage(_) | Self::Configuration { settings: Some(_), .. } => ExitCode::from(2),
            Self::Failed(_) | Self::Configuration { settings: None, .. } => ExitCode::FAILURE,
        }
    }
}

fn lines(settings: Option<&SettingErrors>, files: &[String]) -> String {
    let settings = settings.map(ToString::to_string);
    let files = files.iter().map(|problem| format!("error: {problem}"));
    settings.into_iter().chain(files).collect::<Vec<_>>().join("\n")
}
