//! The command line: the list of commands, and a file for each.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::SettingFlags;

mod check_config;
mod completions;
mod dev;
mod dev_files;
mod explain;
mod failure;
mod key;
mod listen;
mod migrate;
mod publish;
mod serve;
mod server_url;
mod terminal;
mod token;
mod trust;

pub use failure::Failure;

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
        /// Keep all published data in memory: it is lost when the server ends
        #[arg(long)]
        memory: bool,
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
    ///
    /// With REDIS_URL, it also connects to Redis, and reports whether nodes can use it. It changes nothing there.
    CheckConfig {
        /// Do not connect to Redis
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        flags: SettingFlags,
    },
    /// Take the folder of one stopped server to Redis, for a cluster
    ///
    /// From DATA_DIR to REDIS_URL: media items, notifications, idempotency keys and revocations. Clients begin anew.
    Migrate {
        /// Show what would be done. Nothing is written to Redis
        #[arg(long)]
        dry_run: bool,
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
    /// If the command fails: the text for standard error, with the exit code.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let done = match self.command {
            // A stopped server has its own exit codes.
            Command::Serve { flags } => return serve::run(&flags),
            Command::Dev { memory, flags } => return dev::run(&flags, memory),
            Command::Token(args) => token::run(&args),
            Command::Publish(args) => publish::run(&args),
            Command::Listen(args) => listen::run(args),
            // The answer is also in the exit code.
            Command::Explain(args) => return explain::run(&args),
            Command::Key(command) => key::run(&command),
            Command::CheckConfig { offline, flags } => check_config::run(&flags, offline),
            Command::Migrate { dry_run, flags } => migrate::run(&flags, dry_run),
            Command::Completions(args) => completions::run(&args, &mut Self::command()),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The commands and arguments below this one without a help text.
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
