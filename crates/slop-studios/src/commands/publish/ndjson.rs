//! `publish ndjson`: many events, one JSON object per line, in their order and over one connection.
//!
//! A thread reads ahead. All lines that are present when the last request is answered form the next batch. So events
//! that arrive one by one are published as they arrive, and the events of a file as fast as the server accepts them.
//! Each event has an outcome on standard output: a line of JSON, in the order of the input.

use std::io::{self, BufRead, Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::api::{Answer, Api, NoAnswer, refusal, show_warnings};
use super::input;
use crate::commands::terminal::{compact, one_line};

/// The route for batches.
pub(super) const BATCH: &str = "/v1/publish";

/// The most lines in one request. With this number, the round trip costs each line almost nothing, and outcomes still
/// come soon.
const MAX_LINES: usize = 100;

/// The most bytes in one request, except for a single large line: a quarter of the server's default
/// `MAX_PAYLOAD_BYTES`.
const MAX_REQUEST_BYTES: usize = 250_000;

/// The most bytes in a line: 16 times the default limit of a server.
const MAX_LINE_BYTES: usize = 16_000_000;

/// The maximum number of repeats of a request for which the server was too busy.
const MAX_RETRIES: u32 = 10;

/// The longest wait before a repeat: a publisher's debt after the largest request, at a rate of two a second.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The text for events without an answer.
const UNKNOWN: &str = "whether it was published is not known";

/// A line of the input.
struct Line {
    number: u64,
    /// The event, or the reason why the line is not one.
    event: Result<Box<RawValue>, String>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.get().len())
    }
}

/// The outcome of an event, as JSON.
#[derive(Clone)]
enum Outcome {
    Receipt(String),
    Problem(String),
}

impl Outcome {
    /// The outcome in one answer of a batch.
    fn of(answer: &str) -> Self {
        #[derive(Deserialize)]
        struct Kind {
            /// Only problems have a status.
            status: Option<u16>,
        }
        match serde_json::from_str(answer) {
            Ok(Kind { status: None }) => Self::Receipt(answer.to_owned()),
            _ => Self::Problem(answer.to_owned()),
        }
    }

    /// A problem that does not come from the server.
    fn problem(code: &str, detail: &str) -> Self {
        Self::Problem(json!({"code": code, "detail": detail}).to_string())
    }
}

/// Publishes every line of the file, or of standard input for `-`.
pub(super) async fn run(api: &mut Api<'_>, path: &Path) -> anyhow::Result<()> {
    let input = input::open(path)?;
    let (sender, mut lines) = mpsc::channel(MAX_LINES);
    // The thread ends with the input or with the process: there is no other way to wait for missing input.
    thread::spawn(move || read(input, &sender));
    let mut publisher = Publisher { api, events: 0, failed: 0 };
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(line) => line,
            None => match lines.recv().await {
                Some(line) => line,
                None => break,
            },
        };
        let first = first.with_context(|| format!("can't read {}", input::name(path)))?;
        let (mut bytes, mut batch) = (first.bytes(), vec![first]);
        while batch.len() < MAX_LINES {
            match lines.try_recv() {
                Ok(Ok(line)) if bytes + line.bytes() <= MAX_REQUEST_BYTES => {
                    bytes += line.bytes();
                    batch.push(line);
                }
                Ok(line) => {
                    next = Some(line);
                    break;
                }
                Err(_empty_or_ended) => break,
            }
        }
        publisher.publish(batch).await?;
    }
    match publisher {
        Publisher { failed: 0, .. } => Ok(()),
        Publisher { failed, events, .. } => bail!("{failed} of {events} events were not accepted"),
    }
}

/// Reads lines as long as there is a receiver. Empty lines are skipped.
fn read(mut input: impl BufRead, lines: &mpsc::Sender<io::Result<Line>>) {
    for number in 1.. {
        let mut bytes = Vec::new();
        let line = match input.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(MAX_LINE_BYTES) if !bytes.ends_with(b"\n") => match input.skip_until(b'\n') {
                Ok(_) => Ok(Line { number, event: Err(format!("it has more than {MAX_LINE_BYTES} bytes")) }),
                Err(error) => Err(error),
            },
            Ok(_) if bytes.trim_ascii().is_empty() => continue,
            Ok(_) => Ok(Line { number, event: serde_json::from_slice(&bytes).map_err(|error| describe(&error)) }),
            Err(error) => Err(error),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// The error in a line, with its position.
fn describe(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

struct Publisher<'p, 'a> {
    api: &'p mut Api<'a>,
    events: usize,
    failed: usize,
}

impl Publisher<'_, '_> {
    /// Publishes these lines and prints the outcome of each. An error ends the command.
    async fn publish(&mut self, batch: Vec<Line>) -> anyhow::Result<()> {
        let mut parts = vec![batch];
        while let Some(mut lines) = parts.pop() {
            let events: Vec<&str> = lines.iter().filter_map(|line| Some(line.event.as_ref().ok()?.get())).collect();
            if events.is_empty() {
                self.tell(&lines, std::iter::empty())?;
                continue;
            }
            let (count, body) = (events.len(), format!("[{}]", events.join(",")));
            let outcome = match self.ask(body).await {
                Ok(Answer { status: StatusCode::OK | StatusCode::MULTI_STATUS, body, .. }) => {
                    match serde_json::from_slice::<Vec<Box<RawValue>>>(&body) {
                        Ok(answers) if answers.len() == count => {
                            self.tell(&lines, answers.iter().map(|answer| Outcome::of(answer.get())))?;
                            continue;
                        }
                        _ => Outcome::problem("no_answer", &format!("the server's answer makes no sense; {UNKNOWN}")),
                    }
                }
                // One line is at fault. It is found by repeated halving.
                Ok(Answer { status: StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, .. })
                    if lines.len() > 1 =>
                {
                    let behind = lines.split_off(lines.len() / 2);
                    parts.push(behind);
                    parts.push(lines);
                    continue;
                }
                Ok(answer) if is_about_the_events(answer.status) => match std::str::from_utf8(&answer.body) {
                    Ok(problem) if serde_json::from_str::<&RawValue>(problem).is_ok() => {
                        Outcome::Problem(problem.to_owned())
                    }
                    _ => Outcome::problem("refused", &answer.status.to_string()),
                },
                Ok(answer) => return Err(anyhow!(refusal(answer.status, &answer.body)).context(untried(&lines))),
                Err(NoAnswer::NotSent(error)) => return Err(error.context(untried(&lines))),
                Err(NoAnswer::Lost(error)) => {
                    Outcome::problem("no_answer", &format!("{}; {UNKNOWN}", one_line(&error)))
                }
            };
            self.tell(&lines, std::iter::repeat_n(outcome, count))?;
        }
        Ok(())
    }

    /// Posts a batch. Repeats the request if the server did nothing and asks for a later attempt.
    async fn ask(&mut self, body: String) -> Result<Answer, NoAnswer> {
        for _ in 0..MAX_RETRIES {
            let answer = self.api.post(BATCH, None, body.clone()).await?;
            match answer {
                Answer {
                    status: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE,
                    retry_after: Some(wait),
                    ..
                } if wait <= LONGEST_WAIT => {
                    eprintln!(
                        "the server is asked for too much ({}); trying again in {} s",
                        answer.status,
                        wait.as_secs()
                    );
                    tokio::time::sleep(wait).await;
                }
                answer => return Ok(answer),
            }
        }
        self.api.post(BATCH, None, body).await
    }

    /// Prints the outcome of each line: the line's own error, or the next of `outcomes`.
    fn tell(&mut self, lines: &[Line], mut outcomes: impl Iterator<Item = Outcome>) -> anyhow::Result<()> {
        let mut text = String::new();
        for line in lines {
            let outcome = match &line.event {
                Ok(_) => outcomes.next().context("an outcome is missing")?,
                Err(error) => Outcome::problem("malformed", &format!("the line is not JSON: {error}")),
            };
            let (number, ok, name, json) = match &outcome {
                Outcome::Receipt(json) => (line.number, true, "receipt", json),
                Outcome::Problem(json) => (line.number, false, "problem", json),
            };
            show_warnings(json, &format!("line {number}: "));
            self.events += 1;
            self.failed += usize::from(!ok);
            text.push_str(&format!("{{\"line\":{number},\"ok\":{ok},\"{name}\":{}}}\n", compact(json)));
        }
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("can't write the outcomes")
    }
}

/// The message that these lines and all after them were not published.
fn untried(lines: &[Line]) -> String {
    format!("line {} and all after it were not published", lines.first().map_or(0, |line| line.number))
}

/// Whether the status refuses the contents of this request, or may be temporary. With any other status, the next
/// request would fail too.
fn is_about_the_events(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::BAD_REQUEST
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::TOO_MANY_REQUESTS
        )
}
