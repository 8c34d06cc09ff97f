//! `completions`: what a shell needs to complete this command line.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::Failure;

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that reads it
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, command: &mut Command) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    // Written to the output itself, it would end in a panic where that is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, &name, &mut script);
    let script = String::from_utf8(script).context("make the completions")?;
    // clap_complete 4.6 writes the hyphen of our name in two ways in bash's script, so that no command below it is found.
    let script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    std::io::stdout().write_all(script.as_bytes()).context("write the completions")?;
    Ok(())
}
