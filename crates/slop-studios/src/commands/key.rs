//! `key`: makes keys for publishers.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::commands::failure::Failure;
use crate::contract::rooms::check_name;
use crate::publish::publishers::{KeyHash, new_key};
use crate::publish::scope::Scope;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a publisher key: the key goes to standard error, the entry of the configuration file that lets it in to standard output
    ///
    /// The key is shown this once: the file has its hash only. So `slop-studios key new ... >> slop.toml` is all that the file needs.
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Whose key it is. A new key with the name of an old one takes its place without losing what was begun
    #[arg(long)]
    name: String,
    /// What it is for, as media, media.progress:render-* or rooms.emit:project-*; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = scope)]
    scopes: Vec<String>,
    /// Print a JSON object with both, the key too, on standard output instead
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &KeyCommand) -> Result<(), Failure> {
    let KeyCommand::New(args) = command;
    check_name(&args.name).map_err(|error| Failure::Usage(format!("--name {error}")))?;
    let key = new_key().map_err(anyhow::Error::from).context("can't make a key")?;
    let (key, hash) = (key.expose_secret(), KeyHash::of(key.expose_secret()).to_string());
    let text = if args.json {
        json!({"key": key, "name": args.name, "hash": hash, "scopes": args.scopes}).to_string() + "\n"
    } else {
        // Not beside the entry on standard output: that output is appended to a file, which must not contain the key.
        let text = format!(
            "The key, for the publisher. It is shown this once:\n\
             {key}\n\
             The entry for the file of --config; SIGHUP puts it in force:\n"
        );
        std::io::stderr().write_all(text.as_bytes()).context("can't write the key")?;
        // JSON's strings and lists of strings are valid TOML too. The file's last line may lack a line break.
        let (name, hash, scopes) = (json!(args.name), json!(hash), json!(args.scopes));
        format!("\n[[publisher_keys]]\nname = {name}\nhash = {hash}\nscopes = {scopes}\n")
    };
    std::io::stdout().write_all(text.as_bytes()).context("can't write the entry")?;
    Ok(())
}

fn scope(text: &str) -> Result<String, String> {
    Scope::parse(text).map(|scope| scope.to_string()).map_err(|error| error.to_string())
}
