//! A disk that is slow or stuck, while clients and publishers ask for much.

use serde_json::{Value, json};

use super::{STUCK, in_room, names, publish_into, until};
use crate::api::{accepted, get, metric, post, value_of};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::token;

/// A page that opens with very many items, while publishers keep a slow disk busy.
#[tokio::test]
async fn a_thousand_subscriptions_take_a_handful_of_commits() {
    const MANY: usize = 1_000;
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let mut media = Client::connect(&server, "/media").await;
    let mut beside = media.try_beside("/", json!({})).await.expect("the server takes it");
    disk.set("sync * wait 100");
    let publish = async |publisher: usize| {
        for number in 0.. {
            let path = format!("/v1/media/p{publisher}-{number}/complete");
            assert_eq!(post(&server, &path, &json!({"url": "u"})).await.status, 200);
        }
    };
    let commits = async || metric(&server, "slop_store_commit_duration_seconds_count").await;
    let page = async {
        until(async || commits().await > 2.0).await;
        let before = commits().await;
        media.ask_together((0..MANY).map(|number| ("subscribeMedia", json!([format!("m{number}")])))).await;
        for _ in 0..5 {
            assert!(beside.call("ping", json!([])).await["timestamp"].is_u64());
        }
        assert!(commits().await - before < 20.0, "another namespace is answered at once");
        for _ in 0..MANY {
            assert_eq!(media.next_answer().await["success"], true);
        }
        commits().await - before
    };
    let taken = tokio::select! {
        ((), ()) = async { tokio::join!(publish(1), publish(2)) } => unreachable!("they go on"),
        taken = page => taken,
    };
    assert!(taken < 100.0, "{taken} commits");
}

/// Who asks for something is told to come again; who waits gets what there is when there is room again, and gets it once.
#[tokio::test]
async fn a_full_queue_loses_nothing_that_clients_wait_for() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let away = in_room(&server).await;
    for title in ["1", "2"] {
        let body = json!({"type": "info", "title": title, "message": "m"});
        assert_eq!(accepted(&post(&server, "/v1/users/u/notifications", &body).await), 0);
    }
    server.kill();
    let server = std::sync::Arc::new(disk.start(&[]));
    disk.set(STUCK);
    let first = publish_into(&disk, &server, 1).await;
    let items: Vec<Value> =
        (0..1_000).map(|n| json!({"kind": "complete", "mediaId": n.to_string(), "url": "u"})).collect();
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..17 {
        let (server, items) = (std::sync::Arc::clone(&server), json!(items));
        publishers.spawn(async move { post(&server, "/v1/publish", &items).await.status });
    }
    until(async || metric(&server, "slop_store_queue_length").await == 16_384.0).await;

    let mut user = Client::connect_as(&server, "/notifications", &token("u")).await;
    let refused = json!({"success": false, "error": "Try again later"});
    assert_eq!(user.call("listNotifications", json!([])).await, refused);
    assert_eq!(user.call("markNotificationsRead", json!([{"ids": ["1"]}])).await, refused);
    let mut other = Client::connect(&server, "/media").await;
    assert_eq!(other.call("subscribeMedia", json!(["m"])).await, refused);
    get(&server, "/v1/users/u/notifications").await.problem(503, "overloaded");
    get(&server, "/v1/media/m").await.problem(503, "overloaded");
    let coming_back = {
        let server = std::sync::Arc::clone(&server);
        tokio::spawn(async move { away.come_back(&server, None).await.0 })
    };
    let waits = async || value_of(&get(&server, "/metrics").await.text, "slop_store_recalls_waiting") == Some(1.0);
    until(async || coming_back.is_finished() || waits().await).await;

    disk.set("");
    let recovered = coming_back.await.expect("it is answered");
    let mut titles = Vec::new();
    while titles.len() < 2 {
        let (name, payload) = user.next().await;
        if name == "notification" {
            titles.push(payload["title"].as_str().expect("a title").to_owned());
        }
    }
    assert_eq!(titles, ["1", "2"]);
    assert!(recovered);
    drop(first);
    publishers.join_all().await;
    user.events().await;
    let body = json!({"type": "info", "title": "3", "message": "m"});
    assert_eq!(accepted(&post(&server, "/v1/users/u/notifications", &body).await), 1);
    assert_eq!(names(user.events().await), ["notification", "unreadCount"]);
}
