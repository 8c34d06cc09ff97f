//! What publishers can rely on.

use serde_json::{Value, json};

use crate::api::{accepted, get, post, post_with};
use crate::client::Client;
use crate::line::Transport;
use crate::server::{OTHER_KEY, Server, token};

#[tokio::test]
async fn a_room_event_reaches_the_room() {
    let server = Server::start();
    let (mut inside, mut outside) = (Client::connect(&server, "/").await, Client::connect(&server, "/").await);
    let joined = json!({"room": "project-1", "success": true});
    assert_eq!(inside.call("joinRoom", json!(["project-1"])).await, joined);
    inside.expect("welcome").await;
    assert_eq!(inside.expect("roomJoined").await, joined);

    let update = json!({"event": "projectUpdate", "data": {"title": "New", "n": 12345678901234567890u64}});
    assert_eq!(accepted(&post(&server, "/v1/rooms/project-1/events", &update).await), 1);
    assert_eq!(inside.expect("projectUpdate").await, update["data"]);
    // There always is an argument: the next one, the offset for recovery, is not to be taken for it.
    for bare in [json!({"event": "bare"}), json!({"event": "bare", "data": null})] {
        accepted(&post(&server, "/v1/rooms/project-1/events", &bare).await);
        assert_eq!(inside.expect("bare").await, Value::Null);
    }
    // The same name on another namespace is another room.
    let elsewhere = json!({"event": "e", "namespace": "/media", "delivery": "latest"});
    assert_eq!(accepted(&post(&server, "/v1/rooms/project-1/events", &elsewhere).await), 0);
    inside.nothing_else().await;
    outside.expect("welcome").await;
    outside.nothing_else().await;
}

/// Spaces may be in the names of rooms, events and media items, so that what stands side by side in them can look alike.
#[tokio::test]
async fn the_newest_takes_the_place_of_nothing_else() {
    let server = Server::start();
    let connected = Client::try_connect_by(Transport::Polling, &server, "/media", json!({})).await;
    let mut client = connected.expect("connected");
    for room in ["a", "a b"] {
        assert_eq!(client.call("joinRoom", json!([room])).await["success"], json!(true));
    }
    assert_eq!(client.call("subscribeMedia", json!(["a b c"])).await["success"], json!(true));
    client.forget();

    // It does not poll, and with so much that waits it counts as slow.
    let publish = async |room: &str, event: &str, data: Value, delivery: &str| {
        let body = json!({"event": event, "data": data, "namespace": "/media", "delivery": delivery});
        assert_eq!(accepted(&post(&server, &format!("/v1/rooms/{room}/events"), &body).await), 1);
    };
    publish("a", "filler", json!("x".repeat(100_000)), "recoverable").await;
    publish("a", "b c", json!(1), "latest").await;
    publish("a%20b", "c", json!(2), "latest").await;
    let progress = json!({"progress": 3, "stage": "s"});
    assert_eq!(accepted(&post(&server, "/v1/media/a%20b%20c/progress", &progress).await), 1);
    publish("a", "b c", json!(4), "latest").await;

    client.expect("filler").await;
    assert_eq!(client.expect("c").await, json!(2));
    assert_eq!(client.expect("mediaProgress").await["progress"], json!(3));
    assert_eq!(client.expect("b c").await, json!(4));
    client.nothing_else().await;
}

#[tokio::test]
async fn a_receipt_says_what_was_brought_into_its_range() {
    let server = Server::start();
    let publish = async |progress: f64, key: &str| {
        let body = json!({"progress": progress, "stage": "s"});
        let answer = post_with(&server, "/v1/media/m/progress", &[("idempotency-key", key)], &body).await;
        accepted(&answer);
        answer.json()
    };
    assert_eq!(publish(-0.5, "a").await["warnings"][0]["message"], "is below 0 and was taken as 0");
    assert!(publish(99.5, "b").await.get("warnings").is_none());
    let above = publish(200.0, "c").await;
    let message = "is above 100 and was taken as 100; lower progress of this attempt will be refused";
    assert_eq!(above["warnings"], json!([{"field": "progress", "message": message}]));
    assert_eq!(publish(200.0, "c").await["warnings"], above["warnings"], "a repeat has the first receipt");
    // What the warning promises.
    let lower = post(&server, "/v1/media/m/progress", &json!({"progress": 99, "stage": "s"})).await;
    assert_eq!(lower.problem(409, "media_conflict"), <[String; 0]>::default());

    let batch = json!([
        {"kind": "progress", "mediaId": "n", "progress": 101, "stage": "s"},
        {"kind": "complete", "mediaId": "n", "url": "https://cdn.example/n"},
    ]);
    let receipts = post(&server, "/v1/publish", &batch).await.json();
    assert_eq!(receipts[0]["warnings"][0]["field"], "progress");
    assert!(receipts[1].get("warnings").is_none(), "{receipts}");
}

#[tokio::test]
async fn a_user_is_reached_on_every_device_and_by_nobody_else() {
    let server = Server::start();
    let mut devices = [
        Client::connect_as(&server, "/notifications", &token("u1")).await,
        Client::connect_as(&server, "/notifications", &token("u1")).await,
    ];
    let mut other = Client::connect_as(&server, "/notifications", &token("u2")).await;
    let body = json!({"type": "success", "title": "Done", "message": "Ready.", "data": {"mediaId": "m"}});
    let answer = post(&server, "/v1/users/u1/notifications", &body).await;
    assert_eq!(accepted(&answer), 2);
    assert_eq!(answer.json()["stored"], json!(true));
    for device in &mut devices {
        let mut notification = device.expect("notification").await;
        assert_eq!(notification["id"], answer.json()["id"]);
        assert_eq!(notification["timestamp"].as_str().map(str::len), Some(24));
        for field in ["id", "timestamp"] {
            notification.as_object_mut().expect("an object").remove(field);
        }
        assert_eq!(notification, body);
    }
    other.nothing_else().await;

    let listed = get(&server, "/v1/users/u1/notifications").await.json();
    assert_eq!(listed["notifications"][0]["id"], answer.json()["id"]);
    assert_eq!(listed.get("next"), None);
}

#[tokio::test]
async fn a_repeat_gets_the_first_receipt_and_reaches_nobody() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/").await;
    client.expect("welcome").await;
    client.call("joinRoom", json!(["r"])).await;
    client.expect("roomJoined").await;

    let (path, key) = ("/v1/rooms/r/events", ("idempotency-key", "k1"));
    let body = json!({"event": "e"});
    let mut requests = tokio::task::JoinSet::new();
    let server = std::sync::Arc::new(server);
    for _ in 0..20 {
        let (server, body) = (std::sync::Arc::clone(&server), body.clone());
        requests.spawn(async move {
            let answer = post_with(&server, path, &[key], &body).await;
            (answer.json(), answer.header("idempotent-replayed") == "true")
        });
    }
    let answers = requests.join_all().await;
    assert!(answers.windows(2).all(|pair| pair[0].0 == pair[1].0), "{answers:?}");
    assert_eq!(answers[0].0["delivered"], json!(1));
    assert_eq!(answers.iter().filter(|(_, replayed)| !replayed).count(), 1);

    let reused = post_with(&server, path, &[key], &json!({"event": "other"})).await;
    reused.problem(422, "idempotency_key_reused");
    let reused = post_with(&server, "/v1/rooms/s/events", &[key], &body).await;
    reused.problem(422, "idempotency_key_reused");
    // Another publisher's key is another one.
    let other = format!("Bearer {OTHER_KEY}");
    let answer = post_with(&server, path, &[key, ("authorization", other.as_str())], &body).await;
    assert_eq!((accepted(&answer), answer.header("idempotent-replayed")), (1, ""));

    client.expect("e").await;
    client.expect("e").await;
    client.nothing_else().await;
}

#[tokio::test]
async fn a_batch_pushes_no_key_out() {
    let server = Server::start_with(&[("MAX_IDEMPOTENCY_KEYS", "1000")]);
    let (path, event) = ("/v1/rooms/r/events", json!({"event": "e"}));
    let first = post_with(&server, path, &[("idempotency-key", "a")], &event).await;
    let item = |data: u32| json!({"kind": "roomEvent", "room": "r", "event": "e", "data": data});
    for name in ["b", "c"] {
        let batch = json!((0..1_000).map(item).collect::<Vec<_>>());
        assert_eq!(post_with(&server, "/v1/publish", &[("idempotency-key", name)], &batch).await.status, 200);
    }
    let again = post_with(&server, path, &[("idempotency-key", "a")], &event).await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (first.json(), "true"));
}

#[tokio::test]
async fn who_uses_more_keys_than_are_remembered_is_told_and_nothing_is_published() {
    let limits = [("MAX_IDEMPOTENCY_KEYS", "3"), ("MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER", "2")];
    let server = Server::start_with(&limits);
    let mut client = Client::connect(&server, "/").await;
    client.expect("welcome").await;
    client.call("joinRoom", json!(["r"])).await;
    client.expect("roomJoined").await;
    let other = format!("Bearer {OTHER_KEY}");
    let publish = async |publisher: Option<&str>, name: &str| {
        let mut headers = vec![("idempotency-key", name)];
        headers.extend(publisher.map(|publisher| ("authorization", publisher)));
        post_with(&server, "/v1/rooms/r/events", &headers, &json!({"event": "e", "data": name})).await
    };
    for name in ["a", "b"] {
        assert_eq!(accepted(&publish(None, name).await), 1);
        assert_eq!(client.expect("e").await, json!(name));
    }
    let batch = json!([{"kind": "roomEvent", "room": "r", "event": "e"}]);
    let answers =
        [publish(None, "c").await, post_with(&server, "/v1/publish", &[("idempotency-key", "d")], &batch).await];
    for answer in answers {
        answer.problem(429, "too_many_idempotency_keys");
        let wait: u32 = answer.header("retry-after").parse().expect("a number of seconds");
        assert!((86_300..=86_400).contains(&wait), "{wait}");
    }
    assert_eq!(publish(None, "a").await.header("idempotent-replayed"), "true");
    client.nothing_else().await;

    // Another publisher has places of its own, as long as there are any.
    assert_eq!(accepted(&publish(Some(&other), "a").await), 1);
    client.expect("e").await;
    publish(Some(&other), "b").await.problem(503, "too_many_idempotency_keys");
    assert_eq!(publish(Some(&other), "a").await.header("idempotent-replayed"), "true");
    client.nothing_else().await;
    // Without a key nothing has to be remembered.
    accepted(&post(&server, "/v1/rooms/r/events", &json!({"event": "e"})).await);
    let metrics = get(&server, "/metrics").await.text;
    for line in [
        "slop_idempotency_keys 3",
        "slop_limits_met_total{limit=\"idempotency keys\"} 1",
        "slop_limits_met_total{limit=\"idempotency keys per publisher\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_key_is_free_until_something_was_accepted_with_it() {
    // A hundred at once, and small bodies.
    let server = Server::start_with(&[("PUBLISH_RATE_PER_KEY", "10"), ("MAX_PAYLOAD_BYTES", "20000")]);
    let key = ("idempotency-key", "k1");
    let event = |data: Value| json!({"kind": "roomEvent", "room": "r", "event": "e", "data": data});
    accepted(&post(&server, "/v1/media/m/complete", &json!({"url": "x"})).await);

    // One that was refused, by a rule of its own or of the item's life.
    post_with(&server, "/v1/media/m/progress", &[key], &json!({"progress": 1, "stage": "s"}))
        .await
        .problem(409, "media_conflict");
    post_with(&server, "/v1/media/m/progress", &[key], &json!({"progress": 1})).await.problem(422, "invalid");
    // A batch as a whole, or in each of its items.
    let large = json!([event(json!("x".repeat(30_000)))]);
    post_with(&server, "/v1/publish", &[key], &large).await.problem(413, "too_large");
    let conflict = json!([{"kind": "error", "mediaId": "m", "error": "e"}, {"kind": "nothing"}]);
    let refused = post_with(&server, "/v1/publish", &[key], &conflict).await;
    assert_eq!((refused.status, refused.header("idempotent-replayed")), (207, ""));
    let items = |count: usize| json!((0..count).map(|n| event(json!(n))).collect::<Vec<_>>());
    let corrected = post_with(&server, "/v1/publish", &[key], &items(2)).await;
    assert_eq!((corrected.status, corrected.header("idempotent-replayed")), (200, ""), "{}", corrected.text);
    let again = post_with(&server, "/v1/publish", &[key], &items(2)).await;
    assert_eq!((again.json(), again.header("idempotent-replayed")), (corrected.json(), "true"));
    post_with(&server, "/v1/publish", &[key], &items(3)).await.problem(422, "idempotency_key_reused");

    // One that came too soon.
    let key = ("idempotency-key", "k2");
    assert_eq!(post(&server, "/v1/publish", &items(130)).await.status, 200);
    let early = post_with(&server, "/v1/publish", &[key], &items(3)).await;
    early.problem(429, "too_many_publishes");
    let wait = early.header("retry-after").parse().expect("a number of seconds");
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    assert_eq!(post_with(&server, "/v1/publish", &[key], &items(2)).await.status, 200);
}

#[tokio::test]
async fn a_repeated_batch_is_a_replay_if_it_publishes_nothing() {
    let server = Server::start();
    let publish = async || {
        let batch = json!([
            {"kind": "roomEvent", "room": "r", "event": "e"},
            {"kind": "progress", "mediaId": "m", "progress": 10, "stage": "s"},
        ]);
        let answer = post_with(&server, "/v1/publish", &[("idempotency-key", "k")], &batch).await;
        (answer.status, answer.header("idempotent-replayed").to_owned(), answer.json())
    };
    let progress = |progress: u32, attempt: u32| json!({"progress": progress, "stage": "s", "attempt": attempt});
    accepted(&post(&server, "/v1/media/m/progress", &progress(50, 1)).await);
    let (status, replayed, first) = publish().await;
    assert_eq!((status, &*replayed, &first[1]["status"]), (207, "", &json!(409)));
    let (status, replayed, second) = publish().await;
    assert_eq!((status, &*replayed, &second), (207, "true", &first));
    // Now the item takes it.
    accepted(&post(&server, "/v1/media/m/progress", &progress(0, 2)).await);
    let (status, replayed, third) = publish().await;
    assert_eq!((status, &*replayed, &third[0]), (200, "", &first[0]));
    assert_eq!(publish().await, (200, "true".to_owned(), third));
}

#[tokio::test]
async fn a_notification_id_is_published_once() {
    let server = Server::start();
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    let body = json!({"type": "info", "title": "t", "message": "m", "id": "n1"});
    let first = post(&server, "/v1/users/u/notifications", &body).await.json();
    assert_eq!(first, json!({"id": "n1", "stored": true, "delivered": 1}));
    assert_eq!(post(&server, "/v1/users/u/notifications", &body).await.json(), first);
    let other = json!({"type": "info", "title": "another", "message": "m", "id": "n1"});
    post(&server, "/v1/users/u/notifications", &other).await.problem(422, "notification_id_reused");
    client.expect("notification").await;
    client.nothing_else().await;
}

#[tokio::test]
async fn a_batch_is_carried_out_in_order_with_a_receipt_each() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/").await;
    client.expect("welcome").await;
    client.call("joinRoom", json!(["r"])).await;
    client.expect("roomJoined").await;

    let items: Vec<Value> =
        (0..200).map(|n| json!({"kind": "roomEvent", "room": "r", "event": "e", "data": n})).collect();
    let answer = post(&server, "/v1/publish", &json!(items)).await;
    assert_eq!(answer.status, 200);
    let receipts = answer.json();
    let receipts = receipts.as_array().expect("an array");
    assert_eq!(receipts.len(), 200);
    assert!(receipts.iter().all(|receipt| receipt["delivered"] == json!(1)));
    for n in 0..200 {
        assert_eq!(client.expect("e").await, json!(n));
    }

    let items = json!([
        {"kind": "complete", "mediaId": "m", "url": "u"},
        {"kind": "progress", "mediaId": "m", "progress": 1, "stage": "s"},
        {"kind": "roomEvent", "room": "r", "event": "after"},
        {"kind": "roomEvent", "room": "r", "event": "pong"},
        5
    ]);
    let key = ("idempotency-key", "batch");
    let first = post_with(&server, "/v1/publish", &[key], &items).await;
    assert_eq!(first.status, 207);
    let answers = first.json();
    let statuses: Vec<Option<u64>> =
        answers.as_array().expect("an array").iter().map(|answer| answer["status"].as_u64()).collect();
    assert_eq!(statuses, [None, Some(409), None, Some(422), Some(422)]);
    assert_eq!(answers[3]["errors"][0]["field"], json!("event"));
    client.expect("after").await;
    // The repeat has the same receipts, and reaches nobody.
    assert_eq!(post_with(&server, "/v1/publish", &[key], &items).await.json(), answers);
    client.nothing_else().await;
    post_with(&server, "/v1/publish", &[key], &json!([])).await.problem(422, "idempotency_key_reused");

    let too_many: Vec<Value> = (0..1_001).map(|_| json!(1)).collect();
    post(&server, "/v1/publish", &json!(too_many)).await.problem(422, "invalid");
    assert_eq!(post(&server, "/v1/publish", &json!([])).await.json(), json!([]));
}

#[tokio::test]
async fn notifications_are_paged() {
    let server = Server::start();
    for n in 0..5 {
        let body = json!({"type": "info", "title": "t", "message": "m", "id": format!("n{n}")});
        assert_eq!(post(&server, "/v1/users/u/notifications", &body).await.status, 200);
    }
    let mut ids = Vec::new();
    let mut path = "/v1/users/u/notifications?limit=2".to_owned();
    loop {
        let page = get(&server, &path).await.json();
        let page_ids = page["notifications"].as_array().expect("an array");
        ids.extend(page_ids.iter().map(|notification| notification["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/users/u/notifications?limit=2&before={next}");
    }
    assert_eq!(ids, ["n4", "n3", "n2", "n1", "n0"]);
}
