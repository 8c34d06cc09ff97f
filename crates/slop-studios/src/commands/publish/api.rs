//! The HTTP API of a running server, over one connection for as long as the server keeps it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::commands::server_url::ServerUrl;
use crate::commands::terminal::printable;
use crate::commands::trust::TlsMistake;

/// A publish takes milliseconds; a server that needs longer than this counts as gone.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for a hundred answers: a receipt has some hundred bytes, and a problem that names every field at fault at most
/// 10 KiB.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// A client of the HTTP API.
#[derive(Debug)]
pub(super) struct Api<'a> {
    url: &'a ServerUrl,
    ca: Option<&'a Path>,
    authorization: HeaderValue,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// The server's answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The wait before the next attempt, if the server names one.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// The reason for a missing answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The request was not sent, so nothing happened.
    NotSent(anyhow::Error),
    /// The answer was lost. It is not known whether the request took effect.
    Lost(anyhow::Error),
}

impl From<NoAnswer> for anyhow::Error {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::NotSent(error) | NoAnswer::Lost(error) => error,
        }
    }
}

impl<'a> Api<'a> {
    /// Makes a client, which connects at the first request.
    pub(super) fn new(url: &'a ServerUrl, ca: Option<&'a Path>, key: &SecretString) -> anyhow::Result<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
            .map_err(|_shows_the_key| anyhow!("the publisher key can't stand in a header"))?;
        authorization.set_sensitive(true);
        Ok(Self { url, ca, authorization, connection: None })
    }

    /// Posts a JSON body.
    pub(super) async fn post(
        &mut self,
        path: &str,
        idempotency_key: Option<&str>,
        body: String,
    ) -> Result<Answer, NoAnswer> {
        let request = self.request(path, idempotency_key, body).map_err(NoAnswer::NotSent)?;
        let url = self.url;
        tokio::time::timeout(RESPONSE_TIMEOUT, self.send(request)).await.unwrap_or_else(|_elapsed| {
            Err(NoAnswer::Lost(anyhow!("no answer from {url} within {} s", RESPONSE_TIMEOUT.as_secs())))
        })
    }

    fn request(&self, path: &str, idempotency_key: Option<&str>, body: String) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url.target(path))
            .header(HOST, self.url.authority())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        request.body(Full::new(Bytes::from(body))).context("make the request")
    }

    async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        loop {
            let kept = self.connection.take();
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await.map_err(NoAnswer::NotSent)?,
            };
            if is_kept && sender.ready().await.is_err() {
                // The server has closed the connection since the last answer.
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let answer = Answer::read(response).await.map_err(NoAnswer::Lost)?;
                    self.connection = Some(sender);
                    return Ok(answer);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    unsent => {
                        let error = anyhow::Error::from(error.into_error());
                        let error = self.url.explain(error.context(format!("no answer from {}", self.url))).await;
                        // A server with another protocol has not understood the request.
                        let is_sent = unsent.is_none() && !error.is::<TlsMistake>();
                        return Err(if is_sent { NoAnswer::Lost(error) } else { NoAnswer::NotSent(error) });
                    }
                },
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.url.connect(self.ca).await?);
        let (sender, connection) = http1::handshake(stream).await.context("begin HTTP")?;
        // The task ends with the sender, or with the runtime if the command gives up.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Answer {
    async fn read(response: Response<Incoming>) -> anyhow::Result<Self> {
        let status = response.status();
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("can't read the answer: {error}"))?.to_bytes();
        Ok(Self { status, retry_after: seconds.map(Duration::from_secs), body })
    }
}

/// Prints a receipt's warnings on standard error, each after `prefix`.
pub(super) fn show_warnings(receipt: &str, prefix: &str) {
    #[derive(Deserialize)]
    struct Receipt {
        #[serde(default)]
        warnings: Vec<Warning>,
    }
    #[derive(Deserialize)]
    struct Warning {
        field: String,
        message: String,
    }
    for Warning { field, message } in serde_json::from_str::<Receipt>(receipt).into_iter().flat_map(|r| r.warnings) {
        eprintln!("warning: {prefix}{} {}", printable(&field), printable(&message));
    }
}

/// The text of a refusal, from `application/problem+json` if it has that form.
pub(super) fn refusal(status: StatusCode, answer: &[u8]) -> String {
    let mut text = status.to_string();
    match serde_json::from_slice::<Map<String, Value>>(answer) {
        Ok(problem) => {
            if let Some(detail) = problem.get("detail").and_then(Value::as_str) {
                text.push_str(": ");
                text.push_str(&printable(detail));
            }
            // The members beyond the standard ones, such as the fields at fault.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_readable() {
        let problem =
            br#"{"type":"about:blank","title":"Conflict","status":409,"detail":"progress went back","mediaId":"m"}"#;
        assert_eq!(refusal(StatusCode::CONFLICT, problem), "409 Conflict: progress went back\n  mediaId: \"m\"");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>\x1b"), r"502 Bad Gateway: <html>\u{1b}");
        assert_eq!(refusal(StatusCode::NOT_FOUND, b""), "404 Not Found");
    }
}
