//! `publish`: posts events to a running server over its HTTP API.

mod api;
mod input;
mod ndjson;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use hyper::StatusCode;
use secrecy::SecretString;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::dev_files::DevFile;
use super::server_url::ServerUrl;
use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags};
use api::{Answer, Api, refusal, show_warnings};
use input::Json;
use ndjson::BATCH;

/// The help heading of the options that all events share.
const SERVER: &str = "Server and key";

/// What to publish, and where.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The server
    #[arg(long, global = true, help_heading = SERVER, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    url: ServerUrl,
    /// File with the certificates of the CAs to trust (PEM), instead of the system's
    #[arg(long, global = true, help_heading = SERVER, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A publisher key [env: API_KEY]; without one the first of API_KEYS, else that of `dev` in DATA_DIR
    #[arg(long, global = true, help_heading = SERVER)]
    key: Option<SecretString>,
    /// Makes a repeat return the first receipt
    #[arg(long, global = true, help_heading = SERVER, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Folder in which `dev` keeps its key [default: ./data] [env: DATA_DIR]
    #[arg(long, global = true, help_heading = SERVER, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// TOML file with settings
    #[arg(long, global = true, help_heading = SERVER, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    event: Event,
}

#[derive(Debug, Subcommand)]
enum Event {
    /// A media item's progress
    Progress {
        /// The media item's id
        media_id: String,
        /// In percent, 0 to 100
        #[arg(long, value_name = "PERCENT", allow_negative_numbers = true, value_parser = percent)]
        progress: f64,
        /// What is being done, as render
        #[arg(long)]
        stage: String,
        /// A text for people
        #[arg(long)]
        message: Option<String>,
        #[command(flatten)]
        item: MediaItem,
    },
    /// A media item is complete
    Complete {
        /// The media item's id
        media_id: String,
        /// Where the media is
        media_url: String,
        /// Where a small picture of it is
        #[arg(long, value_name = "URL")]
        thumbnail_url: Option<String>,
        /// More about it, a JSON object; - reads it from standard input
        #[arg(long, value_name = "JSON", value_parser = Json::parse, allow_hyphen_values = true)]
        metadata: Option<Json>,
        #[command(flatten)]
        item: MediaItem,
    },
    /// A media item failed
    Error {
        /// The media item's id
        media_id: String,
        /// What went wrong, for people
        error: String,
        /// What went wrong, for programs
        #[arg(long)]
        code: Option<String>,
        #[command(flatten)]
        item: MediaItem,
    },
    /// A notification to a user
    Notification {
        /// The user's id
        user_id: String,
        /// The headline
        #[arg(long)]
        title: String,
        /// The text
        #[arg(long)]
        message: String,
        /// What it is about
        #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t)]
        kind: NotificationType,
        /// More about it, a JSON object; - reads it from standard input
        #[arg(long, value_name = "JSON", value_parser = Json::parse, allow_hyphen_values = true)]
        data: Option<Json>,
        /// The notification's id, which makes a repeat return the first receipt
        #[arg(long)]
        id: Option<String>,
    },
    /// Any event to a room
    Room {
        /// The room's name, or user: and a user's id
        room: String,
        /// The event's name, as projectUpdate
        event: String,
        /// What it carries, JSON; - reads it from standard input
        #[arg(value_name = "JSON", value_parser = Json::parse, allow_hyphen_values = true)]
        data: Json,
        /// The namespace that the room is in
        #[arg(long, default_value = "/")]
        namespace: String,
        /// What becomes of it when a client is slow or away
        #[arg(long, value_enum)]
        delivery: Option<Delivery>,
    },
    /// One event of any kind, as a JSON object: {"kind": "progress", "mediaId": "m1", "progress": 40, "stage": "render"}
    ///
    /// It is an item of the HTTP API's batches: `kind` is progress, complete, error, notification or roomEvent.
    Json {
        /// The file that has it; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Many events over one connection, a JSON object a line
    ///
    /// Each line is one event as `json` takes it. They are published in their order, and as they come. Each has an outcome on
    /// standard output, {"line": 1, "ok": true, "receipt": {...}} or {"line": 2, "ok": false, "problem": {...}}, in the same
    /// order; one that is refused does not stop the next. The exit code is 1 if any was not accepted.
    Ndjson {
        /// The file that has them; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct MediaItem {
    /// The user who owns the item, and gets its events without subscribing
    #[arg(long, value_name = "USER_ID")]
    owner: Option<String>,
    /// The attempt that this belongs to; a new one may begin after the end of the last
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum NotificationType {
    #[default]
    Info,
    Success,
    Warning,
    Error,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Delivery {
    Recoverable,
    Durable,
    Latest,
}

pub(crate) fn run(args: &PublishArgs) -> Result<(), Failure> {
    let key = publisher_key(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let mut api = Api::new(&args.url, args.ca.as_deref(), &key)?;
    if let Event::Ndjson { file } = &args.event {
        if args.idempotency_key.is_some() {
            let problem = "--idempotency-key is for one request, and `ndjson` makes as many as it takes: give notifications an id";
            return Err(Failure::Usage(problem.to_owned()));
        }
        return Ok(runtime.block_on(ndjson::run(&mut api, file))?);
    }
    let (path, body) = args.event.request()?;
    let answer = runtime.block_on(api.post(&path, args.idempotency_key.as_deref(), body));
    let Answer { status, body, .. } = answer.map_err(anyhow::Error::from)?;
    let (status, receipt) = match &args.event {
        Event::Json { .. } => only_item(status, &body),
        _ => (status, String::from_utf8_lossy(&body).into_owned()),
    };
    if !status.is_success() {
        return Err(anyhow!("{} refused it: {}", args.url, refusal(status, receipt.as_bytes())).into());
    }
    show_warnings(&receipt, "");
    writeln!(std::io::stdout(), "{receipt}").context("can't write the receipt")?;
    Ok(())
}

/// The answer to the only item of a batch: its receipt or its problem.
fn only_item(status: StatusCode, answer: &[u8]) -> (StatusCode, String) {
    let items: Vec<&RawValue> = serde_json::from_slice(answer).unwrap_or_default();
    let text = match items.as_slice() {
        [item] => item.get().to_owned(),
        _ => String::from_utf8_lossy(answer).into_owned(),
    };
    let refused = serde_json::from_str::<Value>(&text).ok().and_then(|item| item.get("status")?.as_u64());
    let refused = refused.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
    (refused.unwrap_or(status), text)
}

fn publisher_key(args: &PublishArgs) -> Result<SecretString, Failure> {
    if let Some(key) = &args.key {
        return Ok(key.clone());
    }
    if let Ok(key) = std::env::var("API_KEY")
        && !key.is_empty()
    {
        return Ok(SecretString::from(key));
    }
    let flags = SettingFlags::of(args.config.clone(), [("DATA_DIR", args.data_dir.clone())]);
    let effective = Effective::load(&flags, Profile::Serve);
    if let Some(key) = effective.api_keys()?.into_iter().next() {
        return Ok(key);
    }
    let data_dir = effective.data_dir()?;
    DevFile::PublisherKey.read(&data_dir)?.ok_or_else(|| {
        Failure::Usage(format!(
            "no publisher key: give --key, or set API_KEY or API_KEYS ({} has no development key either)",
            data_dir.display()
        ))
    })
}

impl Event {
    /// The path and body of the request to the HTTP API.
    fn request(&self) -> Result<(String, String), Failure> {
        let mut body = Map::new();
        let path = match self {
            Self::Progress { media_id, progress, stage, message, item } => {
                body.insert("progress".to_owned(), Value::from(*progress));
                body.insert("stage".to_owned(), Value::from(stage.as_str()));
                insert(&mut body, "message", message.as_deref());
                item.insert(&mut body);
                format!("/v1/media/{}/progress", segment(media_id))
            }
            Self::Complete { media_id, media_url, thumbnail_url, metadata, item } => {
                body.insert("url".to_owned(), Value::from(media_url.as_str()));
                insert(&mut body, "thumbnailUrl", thumbnail_url.as_deref());
                insert(&mut body, "metadata", metadata.as_ref().map(Json::read).transpose()?);
                item.insert(&mut body);
                format!("/v1/media/{}/complete", segment(media_id))
            }
            Self::Error { media_id, error, code, item } => {
                body.insert("error".to_owned(), Value::from(error.as_str()));
                insert(&mut body, "code", code.as_deref());
                item.insert(&mut body);
                format!("/v1/media/{}/error", segment(media_id))
            }
            Self::Notification { user_id, title, message, kind, data, id } => {
                body.insert("type".to_owned(), Value::from(name_of(kind)));
                body.insert("title".to_owned(), Value::from(title.as_str()));
                body.insert("message".to_owned(), Value::from(message.as_str()));
                insert(&mut body, "data", data.as_ref().map(Json::read).transpose()?);
                insert(&mut body, "id", id.as_deref());
                format!("/v1/users/{}/notifications", segment(user_id))
            }
            Self::Room { room, event, data, namespace, delivery } => {
                body.insert("event".to_owned(), Value::from(event.as_str()));
                body.insert("data".to_owned(), data.read()?);
                body.insert("namespace".to_owned(), Value::from(namespace.as_str()));
                insert(&mut body, "delivery", delivery.as_ref().map(name_of));
                format!("/v1/rooms/{}/events", segment(room))
            }
            Self::Json { file } | Self::Ndjson { file } => {
                let text = input::text(file)?;
                let item: &RawValue = serde_json::from_str(&text)
                    .map_err(|error| Failure::Usage(format!("{} is not JSON: {error}", input::name(file))))?;
                return Ok((BATCH.to_owned(), format!("[{}]", item.get())));
            }
        };
        Ok((path, Value::Object(body).to_string()))
    }
}

impl MediaItem {
    fn insert(&self, body: &mut Map<String, Value>) {
        insert(body, "ownerId", self.owner.as_deref());
        insert(body, "attempt", self.attempt);
    }
}

fn insert(body: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

/// The API's name of a value, which is also its name on the command line.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One segment of a path: RFC 3986's unreserved characters as they are, others percent-encoded.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _infallible = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Parses a percentage. Other numbers are refused: the server would move them into this range, and refuse all progress
/// after 100.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "not a number from 0 to 100".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::kind::Kind;

    /// A kind without a subcommand does not compile.
    const fn subcommand(kind: Kind) -> &'static str {
        match kind {
            Kind::Progress => "progress",
            Kind::Complete => "complete",
            Kind::Error => "error",
            Kind::Notification => "notification",
            Kind::RoomEvent => "room",
        }
    }

    #[test]
    fn every_kind_has_a_subcommand() {
        let command = PublishArgs::augment_args(clap::Command::new("publish"));
        for (name, kind) in Kind::ALL {
            assert!(command.find_subcommand(subcommand(*kind)).is_some(), "{name}");
        }
    }

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(segment("project-1_~."), "project-1_~.");
        assert_eq!(segment("a/b?c#d%e é"), "a%2Fb%3Fc%23d%25e%20%C3%A9");
    }
}
