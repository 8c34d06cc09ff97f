//! The binary `slop-studios`: parses, runs, turns the outcome into an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use slop_studios::cli::Cli;

/// Gives memory back after a crowd has left, and is the faster one for small, short-lived blocks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A usage error ends the process with exit code 2 inside `parse`.
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}
