//! Nothing that must stay secret comes out, however much is logged and whatever goes wrong.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::api::send;
use crate::server::{KEY, OTHER_KEY, SECRET, Server, token, token_until};

const PREVIOUS_SECRET: &str = "an earlier secret of the tests that is as long";

const PREFIXES: [&str; 3] = ["0{\"sid\":\"", "40{\"sid\":\"", "\"pid\":\""];

/// What comes after `prefix` up to the next quote.
fn quoted(text: &str, prefix: &str) -> String {
    let rest = text.split(prefix).nth(1).unwrap_or_else(|| panic!("no {prefix} in {text}"));
    rest.split('"').next().expect("a quote").to_owned()
}

/// A long-polling session: what it is sent is text that can be looked through.
struct Session<'a> {
    server: &'a Server,
    path: String,
    sid: String,
    /// All that came but the answers to CONNECT, which hold the client's own `pid`.
    seen: String,
    pid: String,
}

impl<'a> Session<'a> {
    async fn open(server: &'a Server, connect: &str, headers: &[(&str, &str)]) -> Self {
        let path = "/socket.io/?EIO=4&transport=polling".to_owned();
        let open = send(server, "GET", &path, headers, b"").await;
        let sid = quoted(&open.text, PREFIXES[0]);
        let path = format!("{path}&sid={sid}");
        let mut session = Self { server, path, sid, seen: String::new(), pid: String::new() };
        session.post(connect).await;
        let consent = send(server, "GET", &session.path, &[], b"").await.text;
        session.pid = quoted(&consent, PREFIXES[2]);
        let rest = consent.split_once('\x1e').map_or("", |(_, rest)| rest);
        session.seen.push_str(rest);
        session
    }

    async fn post(&mut self, packet: &str) {
        let answer = send(self.server, "POST", &self.path, &[], packet.as_bytes()).await;
        self.seen.push_str(&answer.text);
    }

    /// Sends, and waits until there is an answer.
    async fn call(&mut self, event: &str, args: Value) {
        let Value::Array(mut args) = args else { panic!("arguments are an array") };
        args.insert(0, event.into());
        self.post(&format!("427{}", Value::Array(args))).await;
        let from = self.seen.len();
        while !self.seen[from..].contains("437[") {
            self.seen.push_str(&send(self.server, "GET", &self.path, &[], b"").await.text);
        }
    }
}

#[tokio::test]
async fn no_secret_comes_out() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let settings = [
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "json"),
        ("JWT_PREVIOUS_SECRETS", PREVIOUS_SECRET),
        ("PUBLISH_CLAIM", "publish"),
    ];
    let mut server = Server::start_in_with(data.path(), &settings, Stdio::piped());
    let mut answers = String::new();
    let tokens = [
        token("1"),
        token("2"),
        token("3"),
        token_until("4", -60),
        "no-header.no-claims-of-anybody.no-signature".to_owned(),
    ];
    let forged = format!("{}x", token("5"));

    let mut first = Session::open(&server, &format!("40{}", json!({"token": tokens[0]})), &[]).await;
    let bearer = format!("Bearer {}", tokens[1]);
    let second = Session::open(&server, "40", &[("authorization", &bearer)]).await;
    let mut third = Session::open(&server, &format!("40{}", json!({"token": tokens[3]})), &[]).await;
    for token in [&tokens[2], &tokens[3], &tokens[4], &forged] {
        third.call("authenticate", json!([{"token": token}])).await;
    }
    // As the name of a room, of an event, of a field; where no token belongs.
    third.call("joinRoom", json!(["a-room"])).await;
    third.call("getConnectionInfo", json!([])).await;
    third.call("logout", json!([])).await;
    first.call("getConnectionInfo", json!([])).await;
    // A client that comes back names its session; so does one that is mistaken.
    first.post("1").await;
    let claim = json!({"pid": first.pid, "offset": "0", "token": tokens[0]});
    let back = Session::open(&server, &format!("40{claim}"), &[]).await;
    let unknown_pid = "AAAAAAAAAAAAAAAAAAAA";
    let claim = json!({"pid": unknown_pid, "offset": "x"});
    let stranger = Session::open(&server, &format!("40{claim}"), &[]).await;
    // What makes no sense is said to make none, and not repeated.
    let mut broken = Session::open(&server, "40", &[]).await;
    broken.post(&format!("42[\"authenticate\",{{\"token\":\"{}\"", tokens[0])).await;

    let publish = async |key: &str, path: &str, body: Value| {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        send(&server, "POST", path, &headers, body.to_string().as_bytes()).await
    };
    let progress = json!({"progress": 1, "stage": "s"});
    let wrong_key = format!("{KEY}-wrong");
    for (key, status) in [(KEY, 200), (OTHER_KEY, 200), (&wrong_key, 401), (&tokens[0], 403), (&forged, 401)] {
        let answer = publish(key, "/v1/media/m/progress", progress.clone()).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answers.push_str(&format!("{:?}{}", answer.headers, answer.text));
        // Of a wrong body the answer names the fields, not what was in them.
        let answer = publish(key, "/v1/media/m/progress", json!({"progress": tokens[2], "stage": [KEY]})).await;
        assert!(answer.status >= 400);
        answers.push_str(&format!("{:?}{}", answer.headers, answer.text));
    }
    let basic = [("authorization", format!("Basic {KEY}"))];
    let basic: Vec<(&str, &str)> = basic.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (path, headers) in [("/v1/media/m", basic.as_slice()), ("/metrics", &[]), ("/health/ready", &[]), ("/", &[])] {
        let answer = send(&server, "GET", path, headers, b"").await;
        answers.push_str(&format!("{:?}{}", answer.headers, answer.text));
    }
    for session in [&first, &second, &third, &back, &stranger, &broken] {
        answers.push_str(&session.seen);
    }
    assert!(answers.contains("authenticated") && answers.contains("authError"), "{answers}");
    assert!(answers.contains("slop_authentications_total"), "{answers}");

    let pids = [&first, &second, &third, &back, &stranger, &broken].map(|session| session.pid.clone());
    let sids = [&first, &second, &third, &back, &stranger, &broken].map(|session| session.sid.clone());
    server.signal("TERM");
    assert!(server.wait().await.success());
    let log = server.log();
    assert!(log.contains(r#""level":"DEBUG""#) && log.contains(r#""level":"INFO""#), "it logs much: {log}");
    let signatures = tokens.iter().chain([&forged]).filter_map(|token| token.rsplit('.').next()).map(str::to_owned);
    let claims = tokens.iter().chain([&forged]).filter_map(|token| token.split('.').nth(1)).map(str::to_owned);
    let secrets = [SECRET, PREVIOUS_SECRET, KEY, OTHER_KEY].map(str::to_owned).into_iter();
    for secret in secrets.chain(signatures).chain(claims).chain(pids).chain(sids) {
        assert!(!log.contains(&secret), "{secret} is in the log:\n{log}");
        assert!(!answers.contains(&secret), "{secret} is in an answer:\n{answers}");
    }
}
