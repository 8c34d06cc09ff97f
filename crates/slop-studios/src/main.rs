//! The binary `slop-studios`: parses, runs, turns the outcome into an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use slop_studios::commands::Cli;

fn main() -> ExitCode {
    // A usage error ends the process with exit code 2 inside `parse`.
    match Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
