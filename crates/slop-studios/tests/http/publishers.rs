//! Who may publish what: scopes of keys and tokens, and their rotation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use slop_studios::publish::publishers::KeyHash;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api::{Answer, post_with, send};
use crate::client::Client;
use crate::issuer::{Issuer, Key, Says};
use crate::reload::Configured;
use crate::server::{KEY, Server, signed, token_until};

/// The entry of a key.
fn entry(name: &str, key: &str, scopes: &[&str]) -> String {
    let hash = KeyHash::of(key);
    format!("[[publisher_keys]]\nname = {name:?}\nhash = \"{hash}\"\nscopes = {scopes:?}\n")
}

async fn post_as(server: &Server, key: &str, path: &str, body: &Value) -> Answer {
    post_with(server, path, &[("authorization", &format!("Bearer {key}"))], body).await
}

async fn get_as(server: &Server, key: &str, path: &str) -> Answer {
    send(server, "GET", path, &[("authorization", &format!("Bearer {key}"))], b"").await
}

fn progress() -> Value {
    json!({"progress": 1, "stage": "s"})
}

/// Begins a POST that announces a body and sends none of it; what comes is an answer that did not wait for it.
async fn answer_before_the_body(server: &Server, key: &str, path: &str) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000000\r\n\r\n"
    );
    let mut stream = TcpStream::connect(server.address).await.expect("the server takes connections");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "{path} waits for the body");
    answer
}

/// Each handler asks for its publisher itself, so one that forgets to would be open.
#[tokio::test]
async fn without_a_key_only_what_is_described_so_is_open() {
    let server = Server::start();
    let description = send(&server, "GET", "/openapi.json", &[], b"").await.json();
    let mut open = Vec::new();
    for (pattern, operations) in description["paths"].as_object().expect("paths") {
        let path: Vec<_> = pattern.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        for (method, operation) in operations.as_object().expect("operations") {
            let answer = send(&server, &method.to_uppercase(), &path.join("/"), &[], b"").await;
            if operation.get("security").is_some() {
                open.push((pattern.as_str(), answer.status));
            } else {
                answer.problem(401, "unauthorized");
            }
        }
    }
    assert_eq!(open, [("/health/live", 200), ("/health/ready", 200), ("/metrics", 200)]);
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say() {
    let config = entry("renderer", "render-key", &["media:render-*", "rooms.emit:project-*"])
        + &entry("mailer", "mail-key", &["users.notify"]);
    let server = Configured::start_with(&config, &[("API_KEYS", "")]);
    let notification = json!({"type": "info", "title": "t", "message": "m"});
    let event = json!({"event": "e"});
    for (key, path, body, missing) in [
        ("render-key", "/v1/media/render-1/progress", progress(), None),
        ("render-key", "/v1/media/other/progress", progress(), Some("media.progress:other")),
        ("render-key", "/v1/rooms/project-1/events", event.clone(), None),
        ("render-key", "/v1/rooms/lobby/events", event.clone(), Some("rooms.emit:lobby")),
        ("render-key", "/v1/rooms/user:7/events", event.clone(), Some("users.emit:7")),
        ("render-key", "/v1/users/7/notifications", notification.clone(), Some("users.notify:7")),
        ("mail-key", "/v1/users/7/notifications", notification.clone(), None),
        ("mail-key", "/v1/rooms/user:7/events", event.clone(), Some("users.emit:7")),
    ] {
        let answer = post_as(&server, key, path, &body).await;
        match missing {
            None => assert_eq!(answer.status, 200, "{path}: {}", answer.text),
            Some(missing) => {
                answer.problem(403, "not_in_scope");
                assert_eq!(answer.json()["detail"], format!("no scope of the publisher covers {missing}"));
                assert!(answer.header("www-authenticate").contains("insufficient_scope"));
            }
        }
    }
    assert_eq!(get_as(&server, "render-key", "/v1/media/render-1").await.status, 200);
    get_as(&server, "render-key", "/v1/media/other").await.problem(403, "not_in_scope");
    get_as(&server, "mail-key", "/v1/users/7/notifications").await.problem(403, "not_in_scope");
    get_as(&server, "no-key", "/v1/media/render-1").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn no_body_is_taken_in_from_who_may_not_publish() {
    let config = "publish_claim = \"publish\"\n".to_owned() + &entry("mailer", "mail-key", &["users.notify:7"]);
    let server = Configured::start_with(&config, &[("API_KEYS", "")]);
    let user = token_until("alice", 60);
    for (key, path, detail) in [
        (user.as_str(), "/v1/publish", "the publisher has no scopes"),
        (&user, "/v1/media/m/progress", "the publisher has no scopes"),
        (&user, "/v1/tokens/t/revoke", "the publisher has no scopes"),
        ("mail-key", "/v1/media/m/progress", "no scope of the publisher covers media.progress:m"),
        ("mail-key", "/v1/media/m/complete", "no scope of the publisher covers media.complete:m"),
        ("mail-key", "/v1/media/m/error", "no scope of the publisher covers media.error:m"),
        ("mail-key", "/v1/users/8/notifications", "no scope of the publisher covers users.notify:8"),
        ("mail-key", "/v1/rooms/user:7/events", "no scope of the publisher covers users.emit:7"),
        ("mail-key", "/v1/rooms/lobby/events", "no scope of the publisher covers rooms.emit:lobby"),
    ] {
        let answer = answer_before_the_body(&server, key, path).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        assert!(answer.contains("not_in_scope") && answer.contains(detail), "{path}: {answer}");
    }
    assert_eq!(server.metric("slop_publishes_total{kind=\"roomEvent\",outcome=\"refused\"}").await, 2);
}

#[tokio::test]
async fn in_a_batch_the_item_is_refused() {
    let server = Configured::start_with(&entry("renderer", "key", &["media:a"]), &[("API_KEYS", "")]);
    let item = |id: &str| json!({"kind": "progress", "mediaId": id, "progress": 1, "stage": "s"});
    let answer = post_as(&server, "key", "/v1/publish", &json!([item("a"), item("b"), item("a")])).await;
    assert_eq!(answer.status, 207, "{}", answer.text);
    let answers = answer.json();
    let of = |index: usize| answers[index].get("code").cloned();
    assert_eq!([of(0), of(1), of(2)], [None, Some(json!("not_in_scope")), None], "{answers}");
    assert_eq!(server.metric("slop_publishes_total{kind=\"progress\",outcome=\"refused\"}").await, 1);
}

#[tokio::test]
async fn a_token_publishes_what_its_claim_says() {
    let server = Configured::start_with("publish_claim = \"publish\"\n", &[("API_KEYS", "")]);
    let token = |publish: Value| signed(json!({"sub": "worker-1", "publish": publish}));
    for scopes in [json!(["media:m"]), json!("users media:m")] {
        let answer = post_as(&server, &token(scopes), "/v1/media/m/progress", &progress()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    for scopes in [json!(["rooms"]), json!(null), json!({"media": true}), json!(["media:n", "nonsense"])] {
        let answer = post_as(&server, &token(scopes), "/v1/media/m/progress", &progress()).await;
        answer.problem(403, "not_in_scope");
    }
    let user = token_until("alice", 60);
    post_as(&server, &user, "/v1/media/m/progress", &progress()).await.problem(403, "not_in_scope");
    let expired = post_as(&server, &token_until("alice", -1), "/v1/media/m/progress", &progress()).await;
    expired.problem(401, "unauthorized");
    assert!(expired.text.contains("Token has expired"), "{}", expired.text);

    // Without the setting, no token is a publisher's.
    let server = Configured::start("");
    post_as(&server, &token(json!(["*"])), "/v1/media/m/progress", &progress()).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_publishers_token_is_good_with_a_key_that_is_new_to_us() {
    let [known, new] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&known]));
    let url = issuer.url();
    let settings = [("JWKS_URL", url.as_str()), ("JWKS_COOLDOWN_MS", "1"), ("PUBLISH_CLAIM", "publish")];
    let server = Server::start_with(&settings);
    issuer.says(Says::keys(&[&known, &new]));
    let token = new.signed(&json!({"sub": "worker-1", "publish": "media"}));
    let answer = post_as(&server, &token, "/v1/media/m/progress", &progress()).await;
    assert_eq!((answer.status, issuer.fetches()), (200, 2), "{}", answer.text);
    // Who has a key of the server's own makes nobody ask.
    get_as(&server, "no.such.key", "/v1/media/m").await.problem(401, "unauthorized");
    assert_eq!((get_as(&server, KEY, "/v1/media/m").await.status, issuer.fetches()), (200, 2));
}

#[tokio::test]
async fn a_revoked_token_publishes_no_more() {
    let server = Server::start_with(&[("PUBLISH_CLAIM", "publish")]);
    let token = signed(json!({"sub": "worker-1", "jti": "t1", "publish": "media"}));
    let publish = async || post_as(&server, &token, "/v1/media/m/progress", &progress()).await;
    assert_eq!(publish().await.status, 200);
    assert_eq!(post_as(&server, KEY, "/v1/tokens/t1/revoke", &json!({})).await.status, 200);
    let refused = publish().await;
    refused.problem(401, "unauthorized");
    assert!(refused.text.contains("Token has been revoked"), "{}", refused.text);
}

#[tokio::test]
async fn to_revoke_takes_a_scope_of_its_own() {
    let config = entry("mailer", "mail-key", &["users", "media", "rooms"])
        + &entry("accounts", "accounts-key", &["revoke.user"])
        + &entry("security", "security-key", &["revoke:4*"])
        + &entry("undo", "undo-key", &["unrevoke.user"]);
    let server = Configured::start(&config);
    let mut client = Client::connect_as(&server, "/", &token_until("42", 60)).await;
    for (key, path, missing) in [
        ("mail-key", "/v1/users/42/revoke", Some("revoke.user:42")),
        ("mail-key", "/v1/tokens/42/revoke", Some("revoke.token:42")),
        ("accounts-key", "/v1/tokens/42/revoke", Some("revoke.token:42")),
        ("security-key", "/v1/users/7/revoke", Some("revoke.user:7")),
        ("security-key", "/v1/tokens/4f-1/revoke", None),
    ] {
        let answer = post_as(&server, key, path, &json!({})).await;
        match missing {
            None => assert_eq!(answer.status, 200, "{path}: {}", answer.text),
            Some(missing) => {
                answer.problem(403, "not_in_scope");
                assert_eq!(answer.json()["detail"], format!("no scope of the publisher covers {missing}"));
            }
        }
    }
    assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true, "nothing was revoked of it");
    let revoked = post_as(&server, "accounts-key", "/v1/users/42/revoke", &json!({})).await;
    assert_eq!((revoked.status, &revoked.json()["sockets"]), (200, &json!(1)), "{}", revoked.text);
    assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], false);

    // Who may throw users out may not let them in again.
    for (key, path, missing) in [
        ("accounts-key", "/v1/users/42/revoke", Some("unrevoke.user:42")),
        ("security-key", "/v1/tokens/4f-1/revoke", Some("unrevoke.token:4f-1")),
        ("undo-key", "/v1/tokens/4f-1/revoke", Some("unrevoke.token:4f-1")),
        ("undo-key", "/v1/users/42/revoke", None),
    ] {
        let answer = send(&server, "DELETE", path, &[("authorization", &format!("Bearer {key}"))], b"").await;
        match missing {
            None => assert_eq!(answer.status, 200, "{path}: {}", answer.text),
            Some(missing) => {
                answer.problem(403, "not_in_scope");
                assert_eq!(answer.json()["detail"], format!("no scope of the publisher covers {missing}"));
            }
        }
    }
}

#[tokio::test]
async fn keys_are_rotated_without_a_dropped_connection() {
    let (old, new) = (entry("worker", "old-key", &["rooms"]), entry("worker", "new-key", &["rooms"]));
    let server = Arc::new(Configured::start_with(&old, &[("API_KEYS", "")]));
    let mut client = Client::connect(&server, "/").await;
    client.call("joinRoom", json!(["r"])).await;

    // A publisher that has the old key until the new one is in force, and goes on all the while.
    let (stop, changed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let published = Arc::new(AtomicU64::new(0));
    let publisher = tokio::spawn({
        let (server, stop, changed, published) = (server.clone(), stop.clone(), changed.clone(), published.clone());
        async move {
            while !stop.load(Ordering::Acquire) {
                let key = if changed.load(Ordering::Acquire) { "new-key" } else { "old-key" };
                let answer = post_as(&server, key, "/v1/rooms/r/events", &json!({"event": "e"})).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                published.fetch_add(1, Ordering::AcqRel);
            }
        }
    });
    let some_more = async || {
        let goal = published.load(Ordering::Acquire) + 20;
        while published.load(Ordering::Acquire) < goal && !publisher.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    some_more().await;
    let first = [("authorization", "Bearer old-key"), ("idempotency-key", "k")];
    let first = post_with(&server, "/v1/rooms/r/events", &first, &json!({"event": "once"})).await;
    server.reload(&(old + &new)).await;
    some_more().await;
    changed.store(true, Ordering::Release);
    some_more().await;
    server.reload(&new).await;
    some_more().await;
    stop.store(true, Ordering::Release);
    publisher.await.expect("every publish was accepted");

    post_as(&server, "old-key", "/v1/rooms/r/events", &json!({"event": "e"})).await.problem(401, "unauthorized");
    // The publisher is the same one, whichever key it has: what it repeats is known.
    let again = [("authorization", "Bearer new-key"), ("idempotency-key", "k")];
    let again = post_with(&server, "/v1/rooms/r/events", &again, &json!({"event": "once"})).await;
    assert_eq!((again.header("idempotent-replayed"), again.json()), ("true", first.json()));
    let events = client.events().await;
    let count = |name: &str| events.iter().filter(|(event, _)| event == name).count() as u64;
    assert_eq!((count("e"), count("once")), (published.load(Ordering::Acquire), 1), "the client has missed nothing");
}

#[tokio::test]
async fn the_api_is_off_until_a_reload_brings_a_key() {
    let server = Configured::start_with("", &[("API_KEYS", ""), ("LOG_LEVEL", "warn")]);
    assert!(server.log().contains("nothing can be published"), "{}", server.log());
    post_as(&server, "key", "/v1/media/m/progress", &progress()).await.problem(403, "publishing_off");
    server.reload("api_keys = [\"key\"]\n").await;
    assert_eq!(post_as(&server, "key", "/v1/media/m/progress", &progress()).await.status, 200);
    server.reload("").await;
    post_as(&server, "key", "/v1/media/m/progress", &progress()).await.problem(403, "publishing_off");
}
