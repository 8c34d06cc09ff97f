//! `publish`: posts one event to a running server over its HTTP API.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::dev_files::DevFile;
use super::server_url::ServerUrl;
use super::terminal::printable;
use crate::cli::Failure;
use crate::config::{Effective, Profile, SettingFlags};

/// A publish takes milliseconds; a server that needs longer than this is as good as gone.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// A receipt or problem is a few hundred bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// What to publish, and where.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The server
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    url: ServerUrl,
    /// File with the certificates of the CAs to trust (PEM), instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A publisher key [env: API_KEY]; without one the first of API_KEYS, else that of `dev` in DATA_DIR
    #[arg(long, global = true)]
    key: Option<SecretString>,
    /// Makes a repeat return the first receipt
    #[arg(long, global = true, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Folder in which `dev` keeps its key [default: ./data] [env: DATA_DIR]
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// TOML file with settings
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    event: Event,
}

#[derive(Debug, Subcommand)]
enum Event {
    /// A media item's progress
    Progress {
        media_id: String,
        /// In percent, 0 to 100
        #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
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
        media_id: String,
        /// Where the media is
        media_url: String,
        #[arg(long, value_name = "URL")]
        thumbnail_url: Option<String>,
        /// More about it, a JSON object
        #[arg(long, value_name = "JSON", value_parser = json)]
        metadata: Option<Value>,
        #[command(flatten)]
        item: MediaItem,
    },
    /// A media item failed
    Error {
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
        user_id: String,
        #[arg(long)]
        title: String,
        #[arg(long)]
        message: String,
        #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t)]
        kind: NotificationType,
        /// More about it, a JSON object
        #[arg(long, value_name = "JSON", value_parser = json)]
        data: Option<Value>,
        /// The notification's id, which makes a repeat return the first receipt
        #[arg(long)]
        id: Option<String>,
    },
    /// Any event to a room
    Room {
        room: String,
        /// The event's name, as projectUpdate
        event: String,
        /// What it carries, JSON
        #[arg(value_name = "JSON", value_parser = json, allow_hyphen_values = true)]
        data: Value,
        /// The namespace that the room is in
        #[arg(long, default_value = "/")]
        namespace: String,
        /// What becomes of it when a client is slow or away
        #[arg(long, value_enum)]
        delivery: Option<Delivery>,
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
    let (path, body) = args.event.request();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let request = post(args, &key, &path, body);
    let (status, answer) = runtime.block_on(async {
        tokio::time::timeout(RESPONSE_TIMEOUT, request)
            .await
            .with_context(|| format!("no answer from {} within {} s", args.url, RESPONSE_TIMEOUT.as_secs()))?
    })?;
    if !status.is_success() {
        return Err(anyhow!("{} refused it: {}", args.url, refusal(status, &answer)).into());
    }
    let mut output = std::io::stdout().lock();
    output.write_all(&answer).and_then(|()| output.write_all(b"\n")).context("can't write the receipt")?;
    Ok(())
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
    /// The path and body of the HTTP API.
    fn request(&self) -> (String, Value) {
        let mut body = Map::new();
        let path = match self {
            Self::Progress { media_id, progress, stage, message, item } => {
                // A number that JSON hasn't becomes null, which the server names as the fault it is.
                body.insert("progress".to_owned(), Value::from(*progress));
                body.insert("stage".to_owned(), Value::from(stage.as_str()));
                insert(&mut body, "message", message.as_deref());
                item.insert(&mut body);
                format!("/v1/media/{}/progress", segment(media_id))
            }
            Self::Complete { media_id, media_url, thumbnail_url, metadata, item } => {
                body.insert("url".to_owned(), Value::from(media_url.as_str()));
                insert(&mut body, "thumbnailUrl", thumbnail_url.as_deref());
                insert(&mut body, "metadata", metadata.clone());
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
                insert(&mut body, "data", data.clone());
                insert(&mut body, "id", id.as_deref());
                format!("/v1/users/{}/notifications", segment(user_id))
            }
            Self::Room { room, event, data, namespace, delivery } => {
                body.insert("event".to_owned(), Value::from(event.as_str()));
                body.insert("data".to_owned(), data.clone());
                body.insert("namespace".to_owned(), Value::from(namespace.as_str()));
                insert(&mut body, "delivery", delivery.as_ref().map(name_of));
                format!("/v1/rooms/{}/events", segment(room))
            }
        };
        (path, Value::Object(body))
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

/// The API's name of a value, which is the command line's.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

async fn post(args: &PublishArgs, key: &SecretString, path: &str, body: Value) -> anyhow::Result<(StatusCode, Bytes)> {
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
        .map_err(|_shows_the_key| anyhow!("the publisher key can't stand in a header"))?;
    authorization.set_sensitive(true);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(args.url.target(path))
        .header(HOST, args.url.authority())
        .header(AUTHORIZATION, authorization)
        .header(CONTENT_TYPE, "application/json");
    if let Some(key) = &args.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Full::new(Bytes::from(body.to_string()))).context("make the request")?;

    let stream = TokioIo::new(args.url.connect(args.ca.as_deref()).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.context("begin HTTP")?;
    // It ends with the sender, or with the runtime if we give up.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.with_context(|| format!("no answer from {}", args.url))?;
    let status = response.status();
    let answer = match Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await {
        Ok(answer) => answer.to_bytes(),
        Err(error) => bail!("can't read the answer: {error}"),
    };
    Ok((status, answer))
}

/// What a refusal says, from `application/problem+json` if it is that.
fn refusal(status: StatusCode, answer: &[u8]) -> String {
    let mut text = status.to_string();
    match serde_json::from_slice::<Map<String, Value>>(answer) {
        Ok(problem) => {
            if let Some(detail) = problem.get("detail").and_then(Value::as_str) {
                text.push_str(": ");
                text.push_str(&printable(detail));
            }
            // What the standard members don't say, such as the fields at fault.
            for (name, value) in &problem {
                if !matches!(name.as_str(), "type" | "title" | "status" | "detail" | "instance") {
                    let _infallible = write!(text, "\n  {}: {}", printable(name), printable(&value.to_string()));
                }
            }
        }
        Err(_no_json) => {
            let start: String = String::from_utf8_lossy(answer).chars().take(200).collect();
            if !start.is_empty() {
                text.push_str(": ");
                text.push_str(&printable(&start));
            }
        }
    }
    text
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

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stays_one_segment() {
        assert_eq!(segment("project-1_~."), "project-1_~.");
        assert_eq!(segment("a/b?c#d%e é"), "a%2Fb%3Fc%23d%25e%20%C3%A9");
    }

    #[test]
    fn refusals_are_readable() {
        let problem =
            br#"{"type":"about:blank","title":"Conflict","status":409,"detail":"progress went back","mediaId":"m"}"#;
        assert_eq!(refusal(StatusCode::CONFLICT, problem), "409 Conflict: progress went back\n  mediaId: \"m\"");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>\x1b"), r"502 Bad Gateway: <html>\u{1b}");
        assert_eq!(refusal(StatusCode::NOT_FOUND, b""), "404 Not Found");
    }
}
