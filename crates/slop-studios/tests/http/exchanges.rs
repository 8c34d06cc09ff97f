//! A request's id in answers and in the log, the access log, and what is printed where the log is JSON.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::{get, post, post_with, send};
use crate::server::{KEY, Server, token};

const ID: &str = "x-request-id";

fn requests(log: &[Value]) -> Vec<&Value> {
    log.iter().filter(|line| line["message"] == "request").collect()
}

#[tokio::test]
async fn a_request_has_an_id_in_its_answer_its_problem_and_the_log() {
    let mut server = Server::start_logging("info", &[("ACCESS_LOG", "true")]);
    let given = "deploy-7/8e03978e-40d5";
    let answer = send(&server, "GET", "/v1/media/m", &[(ID, given)], b"").await;
    answer.problem(401, "unauthorized");
    assert_eq!((answer.header(ID), &answer.json()["requestId"]), (given, &json!(given)));
    let answer = post_with(&server, "/v1/rooms/r/events", &[(ID, given)], &json!({"event": "e"})).await;
    assert_eq!((answer.status, answer.header(ID)), (200, given));

    // Without one, or with one that is not fit for a log, it is made.
    let long = "x".repeat(129);
    let mut made = HashSet::new();
    for headers in [&[][..], &[(ID, "")], &[(ID, "a b")], &[(ID, &*long)]] {
        for path in ["/v1/nothing", "/health/live", "/", "/metrics"] {
            let answer = send(&server, "GET", path, headers, b"").await;
            let id = answer.header(ID).to_owned();
            assert!(uuid::Uuid::parse_str(&id).is_ok(), "{path} {headers:?}: {id:?}");
            if answer.status != 200 {
                assert_eq!(answer.json()["requestId"], json!(id));
            }
            assert!(made.insert(id), "it was there before");
        }
    }
    // Errors of the HTTP library, too; and an item of a batch is not a request.
    let answer = send(&server, "DELETE", "/v1/publish", &[(ID, given)], b"").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!((answer.header("allow"), &answer.json()["requestId"]), ("POST", &json!(given)));
    let batch = post(&server, "/v1/publish", &json!([{"kind": "nothing"}])).await;
    assert_eq!((batch.status, &batch.json()[0]["requestId"]), (207, &Value::Null));
    assert_eq!(send(&server, "HEAD", "/v1/nothing", &[(ID, given)], b"").await.header(ID), given);

    let log = server.log_lines().await;
    let logged: HashSet<_> = requests(&log).iter().filter_map(|line| line["request_id"].as_str()).collect();
    assert!(logged.contains(given) && made.iter().all(|id| logged.contains(&**id)), "{log:?}");
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_and_no_secret() {
    let mut server = Server::start_logging("info", &[("ACCESS_LOG", "true"), ("PUBLISH_CLAIM", "publish")]);
    let body = json!({"progress": 1, "stage": "a-word-of-the-body"});
    assert_eq!(post(&server, "/v1/media/m/progress", &body).await.status, 200);
    let user = token("u");
    let bearer = format!("Bearer {user}");
    send(&server, "GET", "/v1/media/m?secret=in-the-query", &[("authorization", &bearer)], b"").await;
    send(&server, "GET", "/health/live", &[], b"").await;
    // Clients' requests have no line.
    send(&server, "GET", "/socket.io/?EIO=4&transport=polling", &[], b"").await;
    let log = server.log_lines().await;
    let lines = requests(&log);
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (line["method"].as_str(), line["path"].as_str(), line["status"].as_u64(), line["publisher"].as_str())
        })
        .collect();
    let [(method, path, status, Some(publisher)), rest @ ..] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((*method, *path, *status), (Some("POST"), Some("/v1/media/m/progress"), Some(200)));
    // A plain key has no name: a part of its hash stands for it.
    assert!(publisher.len() == 16 && !KEY.contains(publisher), "{publisher}");
    assert_eq!(
        rest,
        [
            (Some("GET"), Some("/v1/media/m"), Some(403), Some("token:u")),
            (Some("GET"), Some("/health/live"), Some(200), None)
        ]
    );
    for line in &lines {
        assert_eq!((&line["level"], &line["client"]), (&json!("INFO"), &json!("127.0.0.1")), "{line}");
        let took = line["took_ms"].as_f64().expect("a number");
        assert!((0.0..60_000.0).contains(&took) && took > 0.0, "{line}");
    }
    let text: String = log.iter().map(Value::to_string).collect();
    for secret in [KEY, &user, "a-word-of-the-body", "in-the-query"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn without_an_access_log_requests_are_logged_at_debug() {
    for (level, expected) in [("info", 0), ("debug", 1)] {
        let mut server = Server::start_logging(level, &[]);
        assert_eq!(get(&server, "/health/live").await.status, 200);
        let log = server.log_lines().await;
        assert_eq!(requests(&log).len(), expected, "{level}: {log:?}");
    }
}

#[tokio::test]
async fn the_start_is_logged_with_what_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("slop.toml");
    let rules = "[[rooms]]\nname = \"project-*\"\nallow = \"anyone\"\n";
    std::fs::write(&config, rules).expect("it can be written");
    let data = folder.path().join("data");
    let mut command =
        Server::command(&data, &[("LOG_LEVEL", "info"), ("LOG_FORMAT", "json"), ("STORE_SYNC", "normal")]);
    command.arg("--config").arg(&config).stderr(std::process::Stdio::piped());
    let mut server = Server::spawn(command);
    let url = format!("http://{}", server.address);
    let log = server.log_lines().await;
    let line = log.iter().find(|line| line["message"] == "started").unwrap_or_else(|| panic!("{log:?}"));
    for (field, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("url", json!(url)),
        ("data_dir", json!(data)),
        ("store_sync", json!("normal")),
        ("shards", json!(2)),
        ("room_rules", json!(1)),
        ("media_rules", json!(0)),
        ("auth_required", json!(false)),
        ("token_secrets", json!(1)),
        ("token_key_files", json!(0)),
        ("token_key_set", json!(false)),
        ("publisher_keys", json!(2)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
}
