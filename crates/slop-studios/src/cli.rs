//! The command line: what there is to call, and where each call goes.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands::terminal::one_line;
use crate::commands::{check_config, completions, dev, explain, key, listen, publish, serve, token};
use crate::config::{SettingErrors, SettingFlags};

/// The real-time server of Slop Studios 3: a Socket.IO server, and the commands to try it
#[derive(Debug, Parser)]
#[command(name = "slop-studios", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server, and run it until it is told to stop
    ///
    /// A setting comes from its flag, else from the environment, else from the file of --config, else from its default.
    Serve {
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Serve with safe development defaults, and print a token, a publisher key and commands to try
    ///
    /// Secrets that aren't set are made once and kept in DATA_DIR.
    Dev {
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Mint a token for tests, and print it
    Token(token::TokenArgs),
    /// Publish an event, or many, to a running server, and print the receipts
    Publish(publish::PublishArgs),
    /// Show a running server's events as they come
    Listen(listen::ListenArgs),
    /// Say whether a client may join a room or subscribe to a media item, and which rule says so
    ///
    /// The exit code is 0 if it may, and 1 if not.
    Explain(Box<explain::ExplainArgs>),
    /// Make keys for publishers
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Check the settings as `serve` would, and show where each comes from
    CheckConfig {
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Print a shell's completions of this command line
    ///
    /// For bash: source <(slop-studios completions bash)
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Runs the command to its end, and returns the exit code to end with.
    ///
    /// # Errors
    /// What to print to standard error, with the exit code to end with.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let done = match self.command {
            // A server that was told to stop has more to say than that it did.
            Command::Serve { flags } => return serve::run(&flags),
            Command::Dev { flags } => return dev::run(&flags),
            Command::Token(args) => token::run(&args),
            Command::Publish(args) => publish::run(&args),
            Command::Listen(args) => listen::run(args),
            // Its answer is the exit code too.
            Command::Explain(args) => return explain::run(&args),
            Command::Key(command) => key::run(&command),
            Command::CheckConfig { flags } => check_config::run(&flags),
            Command::Completions(args) => completions::run(&args, &mut Self::command()),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Why a command ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The settings can't be used; each problem is on a line of its own.
    #[error(transparent)]
    Settings(#[from] SettingErrors),
    /// The settings or the files that they name can't be used; each problem is on a line of its own.
    #[error("{}", lines(.settings.as_ref(), .files))]
    Configuration {
        /// What is wrong with the settings.
        settings: Option<SettingErrors>,
        /// What is wrong with the files.
        files: Vec<String>,
    },
    /// What the user asked for makes no sense, in a way that the parser couldn't see.
    #[error("error: {0}")]
    Usage(String),
    /// It was tried and failed.
    #[error("error: {}", one_line(.0))]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    /// 2 for what has to be called or configured otherwise, 1 for what failed.
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

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The commands and arguments below this one that the help says nothing of.
    fn undescribed(command: &Command, path: &str) -> Vec<String> {
        let path = format!("{path} {}", command.get_name());
        let is_silent =
            |text: Option<&clap::builder::StyledStr>| text.is_none_or(|text| text.to_string().trim().is_empty());
        let own = is_silent(command.get_about()).then(|| path.clone());
        let arguments = command.get_arguments().filter(|argument| is_silent(argument.get_help()));
        let arguments = arguments.map(|argument| format!("{path} {}", argument.get_id()));
        let below = command.get_subcommands().flat_map(|command| undescribed(command, &path));
        own.into_iter().chain(arguments).chain(below).collect()
    }

    #[test]
    fn everything_is_described() {
        let mut command = Cli::command();
        command.build();
        assert_eq!(undescribed(&command, ""), <[&str; 0]>::default());
    }
}
