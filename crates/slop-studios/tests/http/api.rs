//! A publisher.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::server::{KEY, Server};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the answer is JSON")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that it is a problem of this status and kind, and returns its fields' names.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Vec<String> {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let problem = self.json();
        assert_eq!(
            (self.status, &problem["status"], &problem["code"]),
            (status, &status.into(), &code.into()),
            "{problem}"
        );
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// A request with everything about it chosen by the test.
pub(crate) async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    send_to(server.address, method, path, headers, body).await
}

pub(crate) async fn send_to(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the server takes connections");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1 begins");
    let connection = tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).expect("a request");
    let response = sender.send_request(request).await.expect("it is answered");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the answer is whole").to_bytes();
    drop(sender);
    connection.abort();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8(body.to_vec()).expect("the answer is text"),
    }
}

fn authorization(key: &str) -> String {
    format!("Bearer {key}")
}

pub(crate) async fn post(server: &Server, path: &str, body: &Value) -> Answer {
    post_with(server, path, &[], body).await
}

/// With more headers.
pub(crate) async fn post_with(server: &Server, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let authorization = authorization(KEY);
    let mut all = vec![("authorization", authorization.as_str()), ("content-type", "application/json")];
    all.retain(|(name, _)| headers.iter().all(|(given, _)| given != name));
    all.extend_from_slice(headers);
    send(server, "POST", path, &all, body.to_string().as_bytes()).await
}

pub(crate) async fn get(server: &Server, path: &str) -> Answer {
    send(server, "GET", path, &[("authorization", &authorization(KEY))], b"").await
}

/// A number of `/metrics`, which has to be there.
pub(crate) async fn metric(server: &Server, name: &str) -> f64 {
    let text = get(server, "/metrics").await.text;
    value_of(&text, name).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

/// A number in the text of `/metrics`, by its name and labels.
pub(crate) fn value_of(metrics: &str, name: &str) -> Option<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

/// Publishes what has to be accepted, and returns the number of sockets that got it.
#[track_caller]
pub(crate) fn accepted(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["delivered"].as_u64().expect("a receipt")
}
