//! Starting, being looked at, and ending.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::{accepted, get, post, send};
use crate::client::Client;
use crate::server::Server;

#[tokio::test]
async fn a_server_can_be_looked_at_without_a_key() {
    let server = Server::start();
    let open = async |path: &str| {
        let answer = send(&server, "GET", path, &[], b"").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer
    };
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(open(path).await.json(), json!({"status": "ok"}));
    }
    let index = open("/").await;
    assert!(index.text.contains("/docs") && index.header("content-type").starts_with("text/html"));
    assert!(open("/docs/").await.text.contains("swagger-ui"));
    assert!(open("/docs/swagger-initializer.js").await.text.contains("/openapi.json"));

    let kept = include_str!("../../../../docs/openapi.json");
    assert_eq!(open("/openapi.json").await.json(), serde_json::from_str::<serde_json::Value>(kept).expect("JSON"));
    assert_eq!(send(&server, "HEAD", "/health/live", &[], b"").await.status, 200);
}

#[tokio::test]
async fn metrics_follow_what_happens() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/").await;
    client.call("joinRoom", json!(["user:x"])).await;
    client.call("nonsense", json!([])).await;
    client.call("authenticate", json!([{"token": "x"}])).await;
    get(&server, "/v1/media/m").await;
    let metrics = get(&server, "/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "slop_sockets 1",
        "slop_joins_refused_total{namespace=\"/\"} 1",
        "slop_unknown_events_total{namespace=\"/\"} 1",
        "slop_authentications_total{namespace=\"/\",result=\"invalid\"} 1",
        "slop_http_requests_total{route=\"/v1/media/{mediaId}\",method=\"GET\",status=\"404\"} 1",
        "slop_media_items 0",
        "# EOF",
    ] {
        assert!(metrics.text.lines().any(|found| found == line), "{line} is not in\n{}", metrics.text);
    }
}

#[tokio::test]
async fn a_termination_drains_and_succeeds() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start();
        let mut clients = Vec::new();
        for (namespace, _) in [("/", 0), ("/media", 1), ("/notifications", 2)] {
            clients.push(Client::connect(&server, namespace).await);
        }
        server.signal(signal);
        // Closed, not told to stay away: an Engine.IO close or the end of the connection, never Socket.IO's disconnect.
        for client in &mut clients {
            client.expect("welcome").await;
            client.closed_by_transport().await;
        }
        let status = server.wait().await;
        assert!(status.success(), "{status}");
    }
}

/// So that a balancer can look away before anybody is refused.
#[tokio::test]
async fn readiness_fails_while_all_are_still_served() {
    // The notice is a tenth of it.
    let mut server = Server::start_with(&[("SHUTDOWN_GRACE_MS", "100000")]);
    server.signal("TERM");
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let ready = get(&server, "/health/ready").await;
        if ready.status != 200 {
            ready.problem(503, "draining");
            break;
        }
        assert!(Instant::now() < deadline, "it is still ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(get(&server, "/health/live").await.status, 200);
    let mut client = Client::connect(&server, "/media").await;
    client.expect("welcome").await;
    client.call("subscribeMedia", json!(["m"])).await;
    assert_eq!(accepted(&post(&server, "/v1/media/m/progress", &json!({"progress": 1, "stage": "s"})).await), 1);
    client.expect("mediaProgress").await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(143));
}
