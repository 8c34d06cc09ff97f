//! What waits for a user, and that it comes once.

use serde_json::{Value, json};

use crate::api::{accepted, metric, post};
use crate::client::Client;
use crate::line::Transport;
use crate::server::{Server, token};

async fn notify(server: &Server, user: &str, title: &str, message: &str) {
    let body = json!({"type": "info", "title": title, "message": message});
    let answer = post(server, &format!("/v1/users/{user}/notifications"), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// The titles of the next notifications, whatever else comes between.
async fn titles(client: &mut Client, count: usize) -> Vec<String> {
    let mut titles = Vec::new();
    while titles.len() < count {
        let (name, payload) = client.next().await;
        if name == "notification" {
            titles.push(payload["title"].as_str().expect("a title").to_owned());
        }
    }
    titles
}

#[tokio::test]
async fn a_logout_repeats_nothing_to_the_same_user() {
    let server = Server::start();
    notify(&server, "u", "waited", "").await;
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    assert_eq!(titles(&mut client, 1).await, ["waited"]);
    client.events().await;
    notify(&server, "u", "live", "").await;
    assert_eq!(titles(&mut client, 1).await, ["live"]);
    // It reads nothing until all is done, so it does not answer the heartbeat that came behind either.
    for _ in 0..3 {
        client.emit("logout", json!([])).await;
        client.emit("authenticate", json!([{"token": token("u")}])).await;
    }
    client.emit("joinRoom", json!(["done"])).await;
    let done = json!({"event": "done", "namespace": "/notifications"});
    while accepted(&post(&server, "/v1/rooms/done/events", &done).await) == 0 {}
    for name in ["loggedOut", "authenticated"].repeat(3) {
        client.expect(name).await;
    }
    client.expect("roomJoined").await;
    client.expect("done").await;
    notify(&server, "u", "later", "").await;
    assert_eq!(client.expect("notification").await["title"], "later");
    client.nothing_else().await;

    client.call("logout", json!([])).await;
    notify(&server, "u", "between", "").await;
    notify(&server, "v", "another's", "").await;
    client.call("authenticate", json!([{"token": token("u")}])).await;
    assert_eq!(titles(&mut client, 1).await, ["between"]);
    client.call("authenticate", json!([{"token": token("v")}])).await;
    assert_eq!(titles(&mut client, 1).await, ["another's"]);
    client.nothing_else().await;
}

/// The next count that the client is told, whatever else comes between.
async fn count(client: &mut Client) -> Value {
    loop {
        let (name, payload) = client.next().await;
        if name == "unreadCount" {
            return payload["count"].clone();
        }
    }
}

#[tokio::test]
async fn what_is_on_its_way_to_a_client_that_leaves_the_namespace_goes_to_the_next() {
    let server = Server::start();
    let mut other = Client::connect_as(&server, "/", &token("u")).await;
    let auth = json!({"token": token("u")});
    let mut leaving = other.try_beside("/notifications", auth).await.expect("the server takes it");
    notify(&server, "u", "first", "").await;
    assert_eq!(titles(&mut leaving, 1).await, ["first"]);
    leaving.events().await;
    notify(&server, "u", "second", "").await;
    leaving.leave().await;
    // Only now the heartbeat is answered that came behind it, by the connection, which stands.
    for _ in 0..2 {
        other.events().await;
    }
    let mut next = Client::connect_as(&server, "/notifications", &token("u")).await;
    assert_eq!(titles(&mut next, 1).await, ["second"]);
}

#[tokio::test]
async fn a_client_that_comes_back_is_told_the_count_and_every_change_of_it() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in(data.path(), &[]);
    notify(&server, "u", "1", "").await;
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    assert_eq!(titles(&mut client, 1).await, ["1"]);
    assert_eq!(client.call("listNotifications", json!([])).await["unreadCount"], 1);
    notify(&server, "u", "2", "").await;
    assert_eq!(count(&mut client).await, 2);
    for is_restarted in [false, true] {
        client.events().await;
        client.cut().await;
        // Without an event of its own: only the count tells of it.
        let mut elsewhere = Client::connect_as(&server, "/notifications", &token("u")).await;
        let listed = elsewhere.call("listNotifications", json!([])).await;
        let all = json!([{"upTo": listed["notifications"][0]["id"]}]);
        assert_eq!(elsewhere.call("markNotificationsRead", all).await["unreadCount"], 0);
        drop(elsewhere);
        if is_restarted {
            server.signal("TERM");
            assert!(server.wait().await.success());
            server = Server::start_in(data.path(), &[]);
        }
        let id = client.id.clone();
        (_, client) = client.come_back(&server, None).await;
        assert_eq!(client.id, id, "it is recovered");
        assert_eq!(client.expect("unreadCount").await["count"], 0);
        notify(&server, "u", "live", "").await;
        client.expect("notification").await;
        assert_eq!(client.expect("unreadCount").await["count"], 1);
        client.nothing_else().await;
    }
}

#[tokio::test]
async fn the_count_is_told_again_after_another_user_or_nobody_was_there() {
    let server = Server::start();
    notify(&server, "v", "of v", "").await;
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    assert_eq!(client.call("listNotifications", json!([])).await["unreadCount"], 0);
    client.call("authenticate", json!([{"token": token("u")}])).await;
    client.expect("authenticated").await;
    client.nothing_else().await;
    client.call("logout", json!([])).await;
    notify(&server, "u", "while nobody was there", "").await;
    client.call("authenticate", json!([{"token": token("u")}])).await;
    assert_eq!(count(&mut client).await, 1);
    client.call("authenticate", json!([{"token": token("v")}])).await;
    assert_eq!(titles(&mut client, 1).await, ["of v"]);
    assert_eq!(count(&mut client).await, 1);
    notify(&server, "v", "live", "").await;
    assert_eq!(count(&mut client).await, 2);
}

#[tokio::test]
async fn authenticating_again_reads_nothing_again() {
    let server = Server::start();
    notify(&server, "u", "first", "").await;
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    assert_eq!(titles(&mut client, 1).await, ["first"]);
    client.events().await;
    let requests = async || metric(&server, "slop_store_group_size_sum").await;
    notify(&server, "u", "before", "").await;
    let before = requests().await;
    for token in [token("u").as_str(), "none"].repeat(5) {
        client.call("authenticate", json!([{"token": token}])).await;
    }
    notify(&server, "u", "after", "").await;
    assert_eq!(titles(&mut client, 2).await, ["before", "after"]);
    assert_eq!(requests().await - before, 1.0, "the last notification");
}

/// Who it is may change while the inbox is read.
#[tokio::test]
async fn a_change_of_the_user_while_the_inbox_is_read_loses_nothing() {
    let server = Server::start();
    for round in 0..20 {
        let (u, v) = (format!("u{round}"), format!("v{round}"));
        for user in [&u, &v] {
            notify(&server, user, user, "").await;
        }
        let mut client = Client::connect(&server, "/notifications").await;
        for user in [&u, &v, &u] {
            client.emit("authenticate", json!([{"token": token(user)}])).await;
        }
        client.emit("logout", json!([])).await;
        client.emit("authenticate", json!([{"token": token(&u)}])).await;
        notify(&server, &u, "live", "").await;
        let mut missing = vec![u.as_str(), "live"];
        while !missing.is_empty() {
            let title = titles(&mut client, 1).await;
            missing.retain(|missing| *missing != title[0]);
        }
    }
}

#[tokio::test]
async fn large_ones_come_in_batches_that_a_client_can_take() {
    let server = Server::start();
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for title in &expected {
        notify(&server, "u", title, &"x".repeat(20_000)).await;
    }
    let auth = json!({"token": token("u")});
    let connected = Client::try_connect_by(Transport::Polling, &server, "/notifications", auth).await;
    let mut client = connected.expect("connected");
    assert_eq!(titles(&mut client, 100).await, expected);
    client.nothing_else().await;
    notify(&server, "u", "large", &"x".repeat(500_000)).await;
    assert_eq!(titles(&mut client, 1).await, ["large"]);
    client.nothing_else().await;
}

#[tokio::test]
async fn the_newest_wait_and_nobody_is_told_of_those_that_left() {
    const KEPT: usize = 200;
    let server = Server::start();
    let mut watching = Client::connect_as(&server, "/notifications", &token("v")).await;
    assert_eq!(watching.call("listNotifications", json!([])).await["unreadCount"], 0);
    for user in ["u", "v"] {
        for title in 0..KEPT + 3 {
            notify(&server, user, &title.to_string(), "").await;
        }
    }
    let mut late = Client::connect_as(&server, "/notifications", &token("u")).await;
    let expected: Vec<String> = (3..KEPT + 3).map(|title| title.to_string()).collect();
    assert_eq!(titles(&mut late, KEPT).await, expected);
    late.nothing_else().await;
    assert_eq!(late.call("listNotifications", json!([])).await["unreadCount"], KEPT);

    // The number changes with what comes, and stays where one leaves for each.
    let counts: Vec<Value> = watching
        .events()
        .await
        .into_iter()
        .filter(|(name, _)| name == "unreadCount")
        .map(|(_, payload)| payload["count"].clone())
        .collect();
    let expected: Vec<Value> = (1..=KEPT + 3).map(|count| json!(count.min(KEPT))).collect();
    assert_eq!(counts, expected);
}
