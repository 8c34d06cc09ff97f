//! `publish ndjson`: many events, a JSON object a line, in their order and over one connection.
//!
//! A thread reads ahead. Whatever lines are there when the last request is answered go out as one batch: events that come one
//! by one are published as they come, and those of a file as fast as the server takes them. Each has an outcome on standard
//! output, a line of JSON in the order of the input.

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

/// The route that takes several.
pub(super) const BATCH: &str = "/v1/publish";

/// Lines of one request: at this number the way to the server and back costs each next to nothing, and outcomes still come soon.
const MAX_LINES: usize = 100;

/// Bytes of one request, a single large line aside: a quarter of the server's default `MAX_PAYLOAD_BYTES`.
const MAX_REQUEST_BYTES: usize = 250_000;

/// Bytes of a line: 16 times what a server takes by default.
const MAX_LINE_BYTES: usize = 16_000_000;

/// How often a request is sent again that the server was too busy for.
const MAX_RETRIES: u32 = 10;

/// The longest that is waited before it is: what a publisher owes to its rate after the largest of our requests, at two a second.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is said of events whose answer did not come.
const UNKNOWN: &str = "whether it was published is not known";

/// A line of the input.
struct Line {
    number: u64,
    /// The event, or why it is none.
    event: Result<Box<RawValue>, String>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.event.as_ref().map_or(0, |event| event.get().len())
    }
}

/// What became of an event, as JSON.
#[derive(Clone)]
enum Outcome {
    Receipt(String),
    Problem(String),
}

impl Outcome {
    /// One answer of a batch's.
    fn of(answer: &str) -> Self {
        #[derive(Deserialize)]
        struct Kind {
            /// Problems have one.
            status: Option<u16>,
        }
        match serde_json::from_str(answer) {
            Ok(Kind { status: None }) => Self::Receipt(answer.to_owned()),
            _ => Self::Problem(answer.to_owned()),
        }
    }

    /// What the server did not say itself.
    fn problem(code: &str, detail: &str) -> Self {
        Self::Problem(json!({"code": code, "detail": detail}).to_string())
    }
}

/// Publishes every line of the file, or of standard input for `-`.
pub(super) async fn run(api: &mut Api<'_>, path: &Path) -> anyhow::Result<()> {
    let input = input::open(path)?;
    let (sender, mut lines) = mpsc::channel(MAX_LINES);
    // It ends with the input, or with the process: what is not there to be read can't be waited for otherwise.
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

/// Reads lines for as long as somebody takes them; empty ones are passed over.
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
            Ok(_) => Ok(Line { number, event: serde_json::from_slice(&bytes).map_err(|error| place_of(&error)) }),
            Err(error) => Err(error),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// What is wrong with a line, and where in it.
fn place_of(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

struct Publisher<'p, 'a> {
    api: &'p mut Api<'a>,
    events: usize,
    failed: usize,
}

impl Publisher<'_, '_> {
    /// Publishes these lines and tells what became of each. An error ends it all.
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
                // One line is to blame, and is found by halves.
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

    /// Posts a batch, again if nothing has come of it but the wish that it come later.
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

    /// Prints the outcome of each line: what is wrong with it, or the next of these.
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

/// That nothing was done of these lines and those behind them.
fn untried(lines: &[Line]) -> String {
    format!("line {} and all after it were not published", lines.first().map_or(0, |line| line.number))
}

/// Whether this refuses what is in the request, or may be over by the next one. Else the next would fare no better.
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
