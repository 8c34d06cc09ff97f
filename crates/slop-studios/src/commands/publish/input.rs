//! Input from the command line, or from a file or standard input instead.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;
use socketio_protocol::surrogates;

use crate::commands::failure::Failure;
use crate::text::nearest_path;

/// The path that stands for standard input.
const STDIN: &str = "-";

/// A JSON value, or `-` for the value on standard input. `-` is not JSON.
#[derive(Debug, Clone)]
pub(super) enum Json {
    Given(Value),
    Stdin,
}

impl Json {
    /// Parses an argument of the command line.
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

/// Opens the file, or standard input for `-`.
pub(super) fn open(path: &Path) -> anyhow::Result<BufReader<Box<dyn Read + Send>>> {
    let input: Box<dyn Read + Send> = if path == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        let opened = File::open(path);
        Box::new(opened.map_err(|error| {
            anyhow::anyhow!("can't read {}: {}", path.display(), nearest_path::describe(path, &error))
        })?)
    };
    Ok(BufReader::new(input))
}

/// Reads all of the file, or of standard input for `-`.
pub(super) fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).with_context(|| format!("can't read {}", name(path)))?;
    Ok(text)
}

/// The name of the input, for messages.
pub(super) fn name(path: &Path) -> String {
    if path == Path::new(STDIN) { "standard input".to_owned() } else { path.display().to_string() }
}
