//! What stands on the command line, or in a file or on standard input instead.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use socketio_protocol::surrogates;

use crate::cli::Failure;
use crate::nearest_path;

/// What stands for standard input.
const STDIN: &str = "-";

/// A JSON value, or `-`, which is no JSON, for the one on standard input.
#[derive(Debug, Clone)]
pub(super) enum Json {
    Given(Value),
    Stdin,
}

impl Json {
    /// For the command line's parser.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            STDIN => Ok(Self::Stdin),
            text => value(text).map(Self::Given),
        }
    }

    pub(super) fn read(&self) -> Result<Value, Failure> {
        match self {
            Self::Given(value) => Ok(value.clone()),
            Self::Stdin => value(&text(Path::new(STDIN))?)
                .map_err(|error| Failure::Usage(format!("what standard input has is {error}"))),
        }
    }
}

fn value(text: &str) -> Result<Value, String> {
    serde_json::from_str(&surrogates::replace_lone(text)).map_err(|error| format!("not JSON: {error}"))
}

/// The file, or standard input for `-`.
pub(super) fn open(path: &Path) -> anyhow::Result<BufReader<Box<dyn Read + Send>>> {
    let input: Box<dyn Read + Send> =
        if path == Path::new(STDIN) {
            Box::new(io::stdin())
        } else {
            let opened = File::open(path);
            Box::new(opened.map_err(|error| {
                anyhow::anyhow!("can't read {}: {}", path.display(), nearest_path::told(path, &error))
            })?)
        };
    Ok(BufReader::new(input))
}

/// All of the file, or of standard input for `-`.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).with_context(|| format!("can't read {}", name(path)))?;
    Ok(text)
}

/// For messages.
pub(super) fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}
