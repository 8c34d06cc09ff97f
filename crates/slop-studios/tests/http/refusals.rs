//! Who is turned away is seen: in the log, once a minute or each, and in the metrics.

use serde_json::{Value, json};
use slop_studios::publish::publishers::KeyHash;

use crate::api::{get, post_with, send, value_of};
use crate::client::Client;
use crate::server::{KEY, Server, signed, signed_with, token, token_until};

const OTHER_SECRET: &str = "a secret of nobody that the server knows of";

/// The lines about refusals of this level.
fn refusals(log: &[Value], level: &str) -> Vec<Value> {
    log.iter().filter(|line| line["message"] == "refused" && line["level"] == level).cloned().collect()
}

fn of<'a>(refusals: &'a [Value], reason: &str) -> Vec<&'a Value> {
    refusals.iter().filter(|line| line["reason"] == reason).collect()
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

async fn publish(server: &Server, key: &str, path: &str, body: &Value) -> u16 {
    post_with(server, path, &[("authorization", &format!("Bearer {key}"))], body).await.status
}

#[tokio::test]
async fn a_publisher_that_is_turned_away_is_warned_of_once_and_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("slop.toml");
    let hash = KeyHash::of("the-mailer's-key");
    let settings = format!(
        "publish_claim = \"publish\"\n[[publisher_keys]]\nname = \"mailer\"\nhash = \"{hash}\"\nscopes = [\"users.notify\"]\n"
    );
    std::fs::write(&config, settings).expect("it can be written");
    let mut server = start_with_file("warn", &config, &[]);

    let progress = json!({"progress": 1, "stage": "s"});
    let path = "/v1/media/m/progress";
    for _ in 0..5 {
        assert_eq!(publish(&server, "a-wrong-key", path, &progress).await, 401);
    }
    assert_eq!(send(&server, "GET", "/v1/media/m", &[("user-agent", "curl/8.5.0")], b"").await.status, 401);
    assert_eq!(publish(&server, "the-mailer's-key", path, &progress).await, 403);
    let batch = json!([{"kind": "progress", "mediaId": "a", "progress": 1, "stage": "s"},
        {"kind": "complete", "mediaId": "b", "url": "u"}]);
    assert_eq!(publish(&server, "the-mailer's-key", "/v1/publish", &batch).await, 207);
    assert_eq!(publish(&server, &token("u"), path, &progress).await, 403);
    assert_eq!(publish(&server, &token_until("u", -60), path, &progress).await, 401);
    assert_eq!(publish(&server, KEY, path, &progress).await, 200);

    let metrics = get(&server, "/metrics").await.text;
    let counted = |reason: &str| value_of(&metrics, &format!("slop_refusals_total{{reason=\"{reason}\"}}"));
    assert_eq!(counted("unknown publisher key"), Some(5.0));
    assert_eq!(counted("no publisher key"), Some(1.0));
    assert_eq!(counted("publisher scope"), Some(4.0));
    assert_eq!(counted("publisher token"), Some(1.0));
    assert_eq!(counted("publishing off"), Some(0.0), "from the start");

    let log = server.log_lines().await;
    let warned = refusals(&log, "WARN");
    assert!(refusals(&log, "DEBUG").is_empty());
    let counts = |reason: &str| of(&warned, reason).iter().map(|line| line["count"].clone()).collect::<Vec<_>>();
    // At once, and at the end of the server what came within the minute.
    assert_eq!(counts("unknown publisher key"), [1, 4]);
    assert_eq!(counts("no publisher key"), [1]);
    assert_eq!(counts("publisher scope"), [1, 3]);
    assert_eq!(counts("publisher token"), [1]);
    assert_eq!(warned.len(), 6);
    for (reason, detail, setting) in [
        ("unknown publisher key", "POST /v1/media/m/progress", "API_KEYS or [[publisher_keys]]"),
        ("no publisher key", "GET /v1/media/m, by curl/8.5.0", "API_KEYS or [[publisher_keys]]"),
        ("publisher token", "POST /v1/media/m/progress: its `exp` was", "JWT_LEEWAY_SECONDS"),
        (
            "publisher scope",
            "key:mailer: no scope of the publisher covers media.progress:m",
            "scopes of [[publisher_keys]], or the token's claim of PUBLISH_CLAIM",
        ),
    ] {
        let line = of(&warned, reason)[0];
        assert!(text(line, "detail").starts_with(detail), "{line}");
        assert_eq!((text(line, "setting"), text(line, "client")), (setting, "127.0.0.1"), "{line}");
    }
    assert_eq!(text(of(&warned, "publisher scope")[1], "detail"), "token:u: the publisher has no scopes");
}

fn start_with_file(level: &str, config: &std::path::Path, settings: &[(&str, &str)]) -> Server {
    let data = config.parent().expect("a folder").join("data");
    let mut all = vec![("LOG_LEVEL", level), ("LOG_FORMAT", "json")];
    all.extend_from_slice(settings);
    let mut command = Server::command(&data, &all);
    command.arg("--config").arg(config).stderr(std::process::Stdio::piped());
    Server::spawn(command)
}

/// As docs/security.md says: which key or claim it failed at is in the log, and the token is not.
#[tokio::test]
async fn each_refused_token_is_logged_at_debug_with_its_flaw() {
    let mut server = Server::start_logging(
        "debug",
        &[("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "studio"), ("JWT_MAX_LIFETIME_DAYS", "1")],
    );
    let now = slop_studios::contract::time::epoch_seconds();
    let with = |more: Value| {
        let mut claims = json!({"userId": "u", "iss": "https://id.example", "aud": "studio", "exp": now + 60});
        claims.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        claims
    };
    let cases = [
        ("malformed token", json!("no.token"), "it is no JSON Web Token"),
        ("malformed token", json!(5), "`token` is no text"),
        ("token key", json!(signed_with(OTHER_SECRET, with(json!({})))), "none of the keys for HS256 has signed it"),
        ("token issuer", json!(signed(with(json!({"iss": "https://evil.example"})))), "its issuer is \"https://evil"),
        ("token audience", json!(signed(with(json!({"aud": "shop"})))), "it is for another audience"),
        ("token expired", json!(signed(with(json!({"exp": now - 30})))), "its `exp` was 3"),
        ("token expired", json!(signed(with(json!({"iat": now - 90_000})))), "its longest lifetime after `iat`"),
        ("token not yet valid", json!(signed(with(json!({"nbf": now + 60})))), "its `nbf` is "),
        ("token without user", json!(signed(with(json!({"userId": null})))), "none of its claims"),
    ];
    for (_, token, _) in &cases {
        let mut client =
            Client::try_connect(&server, "/media", json!({"token": token}), None).await.expect("the connection stands");
        client.expect("welcome").await;
        client.expect("authError").await;
        client.call("authenticate", json!([{"token": token}])).await;
        client.expect("authError").await;
    }
    let log = server.log_lines().await;
    let (told, warned) = (refusals(&log, "DEBUG"), refusals(&log, "WARN"));
    assert_eq!(told.len(), 2 * cases.len());
    for (pair, (reason, token, flaw)) in told.chunks(2).zip(&cases) {
        for (line, asked) in pair.iter().zip(["connect to /media: ", "authenticate to /media: "]) {
            assert_eq!((text(line, "reason"), text(line, "client")), (*reason, "127.0.0.1"), "{line}");
            let detail = text(line, "detail").strip_prefix(asked).unwrap_or_default();
            assert!(detail.starts_with(flaw), "{line}, not {flaw}");
            assert!(token.as_str().is_none_or(|token| !line.to_string().contains(token)), "{line}");
        }
        assert_eq!(of(&warned, reason).first().map(|line| &line["count"]), Some(&json!(1)));
    }
    let setting = |reason: &str| of(&warned, reason).first().map(|line| text(line, "setting").to_owned());
    assert_eq!(setting("token issuer").as_deref(), Some("JWT_ISSUER"));
    assert_eq!(setting("token audience").as_deref(), Some("JWT_AUDIENCE"));
    assert_eq!(setting("token key").as_deref(), Some("JWT_SECRET, JWT_PREVIOUS_SECRETS, JWT_PUBLIC_KEYS or JWKS_URL"));
}

#[tokio::test]
async fn a_client_without_the_token_that_it_needs_is_logged() {
    let mut server = Server::start_logging("warn", &[("AUTH_REQUIRED", "true")]);
    assert!(Client::try_connect(&server, "/", json!({}), None).await.is_err());
    assert!(Client::try_connect(&server, "/", json!({"token": "x"}), None).await.is_err());
    let warned = refusals(&server.log_lines().await, "WARN");
    let reasons: Vec<_> = warned.iter().map(|line| (text(line, "reason"), text(line, "setting"))).collect();
    assert_eq!(reasons, [("no token", "AUTH_REQUIRED"), ("malformed token", "")]);
}

/// A page of another origin, a client from before 3.0, and one with another parser.
#[tokio::test]
async fn a_client_that_the_engine_turns_away_is_logged_and_counted() {
    let mut server = Server::start_logging("warn", &[("CORS_ORIGIN", "https://studio.example")]);
    let polling = "/socket.io/?EIO=4&transport=polling";
    let from_page = [("origin", "https://elsewhere.example"), ("user-agent", "Firefox")];
    let refused = send(&server, "GET", polling, &from_page, b"").await;
    assert!(refused.status == 403 && refused.text.contains("CORS_ORIGIN"), "{}", refused.text);
    let old = [("user-agent", "node-XMLHttpRequest")];
    assert_eq!(send(&server, "GET", "/socket.io/?EIO=3&transport=polling", &old, b"").await.status, 400);
    let opened = send(&server, "GET", polling, &[("user-agent", "msgpack")], b"").await;
    let sid = opened.text.split('"').nth(3).expect("a sid").to_owned();
    // CONNECT as socket.io-msgpack-parser writes it.
    let answer = send(&server, "POST", &format!("{polling}&sid={sid}"), &[], b"bg6R0eXBlAKRkYXRhwKNuc3ChLw==").await;
    assert!(matches!(answer.status, 200 | 400), "{}", answer.status);

    let metrics = get(&server, "/metrics").await.text;
    let log = server.log_lines().await;
    let warned = refusals(&log, "WARN");
    for (reason, setting, detail) in [
        ("origin", "CORS_ORIGIN", "https://elsewhere.example"),
        ("protocol version", "", "node-XMLHttpRequest"),
        ("parser", "", "MessagePack"),
    ] {
        assert_eq!(value_of(&metrics, &format!("slop_refusals_total{{reason=\"{reason}\"}}")), Some(1.0), "{reason}");
        let [line] = of(&warned, reason)[..] else { panic!("{reason}: {warned:?}") };
        assert_eq!((text(line, "setting"), text(line, "client")), (setting, "127.0.0.1"), "{line}");
        assert!(text(line, "detail").contains(detail), "{line}");
    }
}

/// What others write is cut and escaped: it makes no line of its own, and no long one.
#[tokio::test]
async fn what_a_client_wrote_is_in_one_short_line() {
    let mut server = Server::start_logging("debug", &[]);
    let path = format!("/v1/media/{}%0A%1B[2J/progress", "x".repeat(10_000));
    assert_eq!(publish(&server, "wrong", &path, &json!({})).await, 401);
    let mut client = Client::connect(&server, "/").await;
    client.emit(&format!("\u{1b}[2J\nevent{}", "y".repeat(10_000)), json!([])).await;
    client.call("ping", json!([])).await;
    server.signal("TERM");
    assert!(server.wait().await.success());
    let log = server.log();
    assert!(log.contains("unknown publisher key") && log.contains("unknown event"), "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok() && line.len() < 2_000, "{line}");
    }
}

/// A page that is told nothing, since it does not ask: who develops it finds the name in the log.
#[tokio::test]
async fn an_unknown_event_is_logged_at_debug_with_the_name_that_was_meant() {
    let mut server = Server::start_logging("debug", &[]);
    let mut client = Client::connect(&server, "/media").await;
    for event in ["join", "subscribe", "chat message"] {
        client.emit(event, json!(["room"])).await;
    }
    client.call("leave", json!(["room"])).await;
    let log = server.log_lines().await;
    let told: Vec<_> = log.iter().filter(|line| line["message"] == "unknown event").collect();
    let nearest: Vec<_> = told.iter().map(|line| (text(line, "event"), line["nearest"].as_str())).collect();
    assert_eq!(
        nearest,
        [
            ("join", Some("joinRoom")),
            ("subscribe", Some("subscribeMedia")),
            ("chat message", None),
            ("leave", Some("leaveRoom"))
        ]
    );
    assert!(told.iter().all(|line| line["level"] == "DEBUG" && line["namespace"] == "/media"));
    let callbacks: Vec<_> = told.iter().map(|line| &line["has_callback"]).collect();
    assert_eq!(callbacks, [&json!(false), &json!(false), &json!(false), &json!(true)]);
}
