//! Limits of users and publishers, and those that only a process has.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api::{get, metric, post, send};
use crate::client::Client;
use crate::line::Transport;
use crate::server::{KEY, OTHER_KEY, Server, token};

fn progress(step: u64) -> Value {
    json!({"progress": step, "stage": "render"})
}

#[tokio::test]
async fn a_publisher_has_a_rate() {
    // Ten at once.
    let server = Server::start_with(&[("PUBLISH_RATE_PER_KEY", "1")]);
    let item = |number: u64| json!({"kind": "progress", "mediaId": format!("m{number}"), "progress": 1, "stage": "s"});
    let batch: Vec<Value> = (0..8).map(item).collect();
    assert_eq!(post(&server, "/v1/publish", &json!(batch)).await.status, 200);
    assert_eq!(post(&server, "/v1/media/n/progress", &progress(1)).await.status, 200);
    // One is left: a batch may take more than that, and the next request waits until it is paid for.
    assert_eq!(post(&server, "/v1/publish", &json!(batch)).await.status, 200);
    for (path, body) in [("/v1/publish", json!(batch)), ("/v1/media/n/progress", progress(2))] {
        let answer = post(&server, path, &body).await;
        answer.problem(429, "too_many_publishes");
        let wait = answer.header("retry-after").parse::<u32>().expect("a number of seconds");
        // Some seconds may have passed.
        assert!((1..=8).contains(&wait), "{wait}");
    }
    assert_eq!(get(&server, "/v1/media/n").await.json()["payload"]["progress"], 1);

    // Another key, and questions, are not concerned.
    let other = format!("Bearer {OTHER_KEY}");
    let headers = [("authorization", other.as_str()), ("content-type", "application/json")];
    let answer = send(&server, "POST", "/v1/media/n/progress", &headers, progress(3).to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    let metrics = get(&server, "/metrics").await.text;
    assert!(metrics.contains("slop_limits_met_total{limit=\"publish rate per key\"} 2\n"), "{metrics}");
    assert!(!metrics.contains(KEY));
}

#[tokio::test]
async fn a_batch_larger_than_the_burst_is_accepted_and_delays_the_next() {
    // A hundred at once.
    let server = Server::start_with(&[("PUBLISH_RATE_PER_KEY", "10")]);
    let item = |number: usize| json!({"kind": "roomEvent", "room": "r", "event": "e", "data": number});
    let batch = |size| json!((0..size).map(item).collect::<Vec<Value>>());
    let answer = post(&server, "/v1/publish", &batch(110)).await;
    assert_eq!((answer.status, answer.json().as_array().map(Vec::len)), (200, Some(110)), "{}", answer.text);
    let answer = post(&server, "/v1/publish", &batch(2)).await;
    // It is paid for within 1.2 seconds, which may have passed.
    if answer.status != 200 {
        answer.problem(429, "too_many_publishes");
        let wait = answer.header("retry-after").parse().expect("a number of seconds");
        assert!((1..=2).contains(&wait), "{wait}");
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert_eq!(post(&server, "/v1/publish", &batch(110)).await.status, 200);
    }
}

#[tokio::test]
async fn the_connections_of_a_user_share_a_rate() {
    // Ten at once, the connects not among them.
    let server = Server::start_with(&[("EVENT_RATE_PER_USER", "1")]);
    let mut tabs = Vec::new();
    for namespace in ["/", "/media", "/notifications"] {
        tabs.push(Client::connect_as(&server, namespace, &token("ann")).await);
    }
    let mut refused = 0;
    for round in 0..5 {
        for tab in &mut tabs {
            let ack = tab.call("ping", json!([])).await;
            match ack["error"].as_str() {
                Some(error) => {
                    assert_eq!((error, &ack["success"]), ("Too many events", &json!(false)), "round {round}");
                    refused += 1;
                }
                None => assert!(ack["timestamp"].is_u64(), "{ack}"),
            }
        }
    }
    // A second may have passed.
    assert!((3..=5).contains(&refused), "{refused}");
    // Neither another user nor nobody is concerned.
    let mut bob = Client::connect_as(&server, "/", &token("bob")).await;
    let mut nobody = Client::connect(&server, "/").await;
    for client in [&mut bob, &mut nobody] {
        assert!(client.call("ping", json!([])).await["timestamp"].is_u64());
    }
    let metrics = get(&server, "/metrics").await.text;
    let line = format!("slop_limits_met_total{{limit=\"event rate per user\"}} {refused}\n");
    assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
}

#[tokio::test]
async fn who_connects_anew_has_the_rate_that_it_had() {
    let server = Server::start_with(&[("EVENT_RATE_PER_USER", "1")]);
    let mut refused = 0;
    for _ in 0..30 {
        let mut client = Client::connect_as(&server, "/", &token("ann")).await;
        let ack = client.call("ping", json!([])).await;
        refused += u32::from(ack["error"] == "Too many events");
        client.leave().await;
    }
    // Some seconds may have passed.
    assert!((5..=20).contains(&refused), "{refused}");
}

/// The events come while its token is looked at: they are the user's when they are handled.
#[tokio::test]
async fn events_behind_a_login_are_the_users() {
    let server = Server::start_with(&[("EVENT_RATE_PER_USER", "1")]);
    for transport in [Transport::Polling, Transport::WebSocket] {
        let user = format!("{transport:?}");
        let mut client = Client::try_connect_by(transport, &server, "/", json!({})).await.expect("it is taken");
        let login = ("authenticate", json!([{"token": token(&user)}]));
        client.ask_together([login].into_iter().chain((0..100).map(|_| ("ping", json!([]))))).await;
        assert_eq!(client.next_answer().await["success"], true);
        let mut refused = 0;
        for _ in 0..100 {
            refused += u32::from(client.next_answer().await["error"] == "Too many events");
        }
        // Ten at once; some seconds may have passed.
        assert!(refused >= 80, "{transport:?}: {refused}");
    }
}

#[tokio::test]
async fn an_event_with_a_large_answer_counts_as_several() {
    // A thousand at once.
    let server = Server::start_with(&[("EVENT_RATE_PER_SOCKET", "100")]);
    let mut client = Client::connect(&server, "/").await;
    for room in 0..320 {
        assert_eq!(client.call("joinRoom", json!([format!("room-{room}")])).await["success"], true);
    }
    let mut answers = 0;
    while client.call("getConnectionInfo", json!([])).await["error"] != "Too many events" {
        answers += 1;
        assert!(answers < 200, "each is counted as one");
    }
    assert!(answers > 30, "{answers}");
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let server = Server::start();
    let key = format!("Bearer {KEY}");
    let headers = |encoding| {
        [("authorization", key.as_str()), ("content-type", "application/json"), ("content-encoding", encoding)]
    };
    let body = progress(1).to_string();
    for encoding in ["gzip", "deflate", "br", "identity, gzip"] {
        let answer = send(&server, "POST", "/v1/media/m/progress", &headers(encoding), body.as_bytes()).await;
        answer.problem(415, "unsupported_media_type");
    }
    let answer = send(&server, "POST", "/v1/media/m/progress", &headers("identity"), body.as_bytes()).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_bodies_of_publishers_are_bounded_together() {
    let server = Server::start_with(&[("MAX_UNFINISHED_BYTES", "2000000"), ("BODY_TIMEOUT_MS", "60000")]);
    let head = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000000\r\n\r\n"
    );
    let half = [head.as_bytes(), &[b' '; 500_000]].concat();
    let mut publishers = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.expect("the server takes connections");
        // One that is refused is closed while it sends.
        let _ = stream.write_all(&half).await;
        publishers.push(stream);
    }
    let met = "slop_limits_met_total{limit=\"unfinished bytes of publishers\"}";
    let refused = async || metric(&server, met).await as u64;
    let deadline = Instant::now() + Duration::from_secs(10);
    // A buffer that grows has up to twice what came.
    while refused().await < 16 {
        assert!(Instant::now() < deadline, "{} are refused", refused().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused().await <= 18, "{} are refused", refused().await);

    // What is small gets through, what is not is told to come again, and can once the others are gone.
    assert_eq!(post(&server, "/v1/media/m/progress", &progress(1)).await.status, 200);
    let large = json!({"progress": 2, "stage": "x".repeat(900_000)});
    let answer = post(&server, "/v1/media/m/progress", &large).await;
    answer.problem(503, "overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    drop(publishers);
    while post(&server, "/v1/media/m/progress", &large).await.status != 200 {
        assert!(Instant::now() < deadline, "the bodies are still held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_lets() {
    let server = Server::start_after("ulimit -S -n 64", &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("it runs");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line");
    let numbers: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(&server, "/").await);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_named_is_logged_once() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in_with(data.path(), &[("LOG_LEVEL", "warn")], Stdio::piped());
    for client in ["203.0.113.1", "203.0.113.2"] {
        let from = [("x-forwarded-for", client)];
        assert_eq!(send(&server, "GET", "/socket.io/?EIO=4&transport=polling", &from, b"").await.status, 200);
    }
    server.signal("TERM");
    assert!(server.wait().await.success());
    let log = server.log();
    assert_eq!(log.matches("X-Forwarded-For is ignored").count(), 1, "{log}");
}

#[tokio::test]
async fn every_limit_has_its_row() {
    let server = Server::start();
    let metrics = get(&server, "/metrics").await.text;
    let documented = include_str!("../../../../docs/security.md");
    let exported: HashSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("slop_limits_met_total{limit=\"")?.split('"').next())
        .collect();
    for limit in &exported {
        assert!(documented.contains(&format!("`{limit}`")), "{limit} is not in the documentation");
    }
    let list = documented.split("\n### The list\n").nth(1).and_then(|rest| rest.split("\n##").next()).expect("a list");
    let mut rows = 0;
    for row in list.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let counted = row.trim_end_matches([' ', '|']).rsplit('|').next().expect("a last column");
        for name in counted.split('`').skip(1).step_by(2).filter(|name| !name.starts_with("slop_")) {
            assert!(exported.contains(name), "{name} is not exported from the start: {metrics}");
            rows += 1;
        }
    }
    assert!(rows > 10, "{list}");
}
