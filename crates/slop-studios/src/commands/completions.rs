//! `completions`: the script with which a shell completes this command line.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::commands::failure::Failure;

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that reads it
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, command: &mut Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    // A direct write to the output would panic if the output is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, &name, &mut script);
    let script = String::from_utf8(script).context("make the completions")?;
    // In bash's script, clap_complete 4.6 writes the hyphen of the program's name in two ways, so that no subcommand is
    // found.
    let script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    std::io::stdout().write_all(script.as_bytes()).context("write the completions")?;
    Ok(())
}
