//! What publishers get wrong, and how they are told.

use serde_json::json;

use crate::api::{get, post, post_with, send};
use crate::server::{KEY, Server};

#[tokio::test]
async fn every_error_is_a_problem() {
    let server = Server::start();
    let key = format!("Bearer {KEY}");
    let (auth, json_type) = (("authorization", key.as_str()), ("content-type", "application/json"));
    let progress = "/v1/media/m/progress";

    let answer = send(&server, "POST", progress, &[json_type], b"{}").await;
    answer.problem(401, "unauthorized");
    assert!(answer.header("www-authenticate").starts_with("Bearer "));
    for wrong in ["Bearer x", "Basic x", "Bearer", KEY] {
        let answer = send(&server, "POST", progress, &[("authorization", wrong), json_type], b"{}").await;
        answer.problem(401, "unauthorized");
    }

    for (content_type, status, code) in [
        ("text/plain", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("application/json; charset=utf-8", 422, "invalid"),
    ] {
        let answer = send(&server, "POST", progress, &[auth, ("content-type", content_type)], b"{}").await;
        answer.problem(status, code);
    }
    send(&server, "POST", progress, &[auth], b"{}").await.problem(415, "unsupported_media_type");

    for malformed in [&b""[..], b"{", b"\xff", b"{\"progress\":1,}", &b"[".repeat(200)] {
        let answer = send(&server, "POST", progress, &[auth, json_type], malformed).await;
        answer.problem(400, "malformed");
    }
    let huge = vec![b' '; 1_000_001];
    send(&server, "POST", progress, &[auth, json_type], &huge).await.problem(413, "too_large");

    let answer = send(&server, "DELETE", "/v1/media/m", &[auth], b"").await;
    answer.problem(405, "method_not_allowed");
    assert!(answer.header("allow").contains("GET"));
    get(&server, "/v1/nothing").await.problem(404, "not_found");
    get(&server, "/v1/media/m").await.problem(404, "not_found");
    get(&server, "/v1/media/%ff").await.problem(400, "malformed");
    get(&server, "/v1/users/u/notifications?limit=0").await.problem(422, "invalid");
    assert_eq!(get(&server, "/v1/users/u/notifications?before=n").await.problem(422, "invalid"), ["before"]);
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let server = Server::start();
    let long = "x".repeat(129);
    let cases = [
        ("/v1/media/m/progress", json!({}), "progress stage"),
        ("/v1/media/m/progress", json!({"progress": "50", "stage": ""}), "progress stage"),
        ("/v1/media/m/progress", json!({"progress": 1, "stage": "s", "attempt": 0}), "attempt"),
        ("/v1/media/m/progress", json!({"progress": 1, "stage": "s", "ownerId": ""}), "ownerId"),
        ("/v1/media/m/progress", json!({"progress": 1, "stage": "s", "ownerID": "u"}), "ownerID"),
        ("/v1/media/m/progress", json!([1]), ""),
        ("/v1/media/a%0Ab/error", json!({"error": "e"}), "mediaId"),
        ("/v1/media/m/complete", json!({"url": "", "metadata": [1]}), "url metadata"),
        ("/v1/media/m/error", json!({"error": 5, "code": 5}), "error code"),
        ("/v1/users/u/notifications", json!({"type": "loud", "title": "t", "message": "m"}), "type"),
        ("/v1/users/u/notifications", json!({"type": "info", "title": "t", "message": "m", "id": long}), "id"),
        ("/v1/rooms/r/events", json!({"event": "mediaComplete"}), "event"),
        ("/v1/rooms/r/events", json!({"event": "disconnect"}), "event"),
        ("/v1/rooms/r/events", json!({"event": "e", "namespace": "/x", "delivery": "y"}), "namespace delivery"),
        ("/v1/rooms/r/events", json!({"event": "e", "delivery": "lasting"}), "delivery"),
        ("/v1/rooms/%00media:m/events", json!({"event": "e"}), "room"),
        ("/v1/publish", json!({}), ""),
    ];
    for (path, body, fields) in cases {
        let named = post(&server, path, &body).await.problem(422, "invalid");
        assert_eq!(named.join(" "), fields, "{path} {body}");
    }
    let answer = post_with(&server, "/v1/rooms/r/events", &[("idempotency-key", "a b")], &json!({"event": "e"})).await;
    assert_eq!(answer.problem(422, "invalid"), ["Idempotency-Key"]);
}

#[tokio::test]
async fn without_publisher_keys_nothing_can_be_published() {
    let server = Server::start_with(&[("API_KEYS", "")]);
    let answer = post(&server, "/v1/rooms/r/events", &json!({"event": "e"})).await;
    answer.problem(403, "publishing_off");
    assert!(answer.text.contains("API_KEYS"));
    assert_eq!(get(&server, "/health/ready").await.status, 200);
}
