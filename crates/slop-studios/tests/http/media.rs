//! Media items: their life as publishers see it, and what subscribers and owners get of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{accepted, get, post};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::{Server, token};

#[tokio::test]
async fn an_item_lives_once_in_each_attempt() {
    let server = Server::start();
    let progress = |progress: f64| json!({"progress": progress, "stage": "render"});
    assert_eq!(post(&server, "/v1/media/m/progress", &progress(50.0)).await.status, 200);
    post(&server, "/v1/media/m/progress", &progress(49.0)).await.problem(409, "media_conflict");
    assert_eq!(post(&server, "/v1/media/m/progress", &progress(250.0)).await.status, 200);
    let state = get(&server, "/v1/media/m").await.json();
    assert_eq!(state["payload"], json!({"mediaId": "m", "progress": 100, "stage": "render"}));
    assert_eq!((&state["status"], &state["attempt"]), (&json!("progress"), &json!(1)));
    assert_eq!(state.get("ownerId"), None);

    let failed = json!({"error": "out of memory", "code": "OOM", "ownerId": "u"});
    assert_eq!(post(&server, "/v1/media/m/error", &failed).await.status, 200);
    post(&server, "/v1/media/m/complete", &json!({"url": "x"})).await.problem(409, "media_conflict");
    let again = json!({"progress": 0, "stage": "render", "attempt": 2});
    assert_eq!(post(&server, "/v1/media/m/progress", &again).await.status, 200);
    let late = json!({"url": "x", "attempt": 1});
    post(&server, "/v1/media/m/complete", &late).await.problem(409, "media_conflict");
    let stolen = json!({"url": "x", "ownerId": "v"});
    post(&server, "/v1/media/m/complete", &stolen).await.problem(409, "media_conflict");
    assert_eq!(post(&server, "/v1/media/m/complete", &json!({"url": "x"})).await.status, 200);
    let state = get(&server, "/v1/media/m").await.json();
    assert_eq!((&state["status"], &state["attempt"], &state["ownerId"]), (&json!("complete"), &json!(2), &json!("u")));
}

#[tokio::test]
async fn an_item_without_news_ends_if_that_is_asked_for() {
    const PATIENCE: Duration = Duration::from_millis(600);
    let server = Server::start_with(&[("MEDIA_STALL_MS", "600")]);
    let mut client = Client::connect(&server, "/media").await;
    client.expect("welcome").await;
    let items = ["busy", "done", "dead"];
    for item in items {
        assert_eq!(client.call("subscribeMedia", json!([item])).await["success"], true);
    }
    let begun = Instant::now();
    let progress = json!({"progress": 50, "stage": "render"});
    for item in items {
        accepted(&post(&server, &format!("/v1/media/{item}/progress"), &progress).await);
        client.expect("mediaProgress").await;
    }
    accepted(&post(&server, "/v1/media/done/complete", &json!({"url": "x"})).await);
    client.expect("mediaComplete").await;
    // The first says something until the last was given up.
    let stalled = loop {
        accepted(&post(&server, "/v1/media/busy/progress", &progress).await);
        match client.next().await {
            (name, payload) if name == "mediaProgress" => assert_eq!(payload["mediaId"], "busy"),
            (name, payload) => break (name, payload),
        }
        tokio::time::sleep(PATIENCE / 20).await;
    };
    assert!(begun.elapsed() >= PATIENCE, "not before its time");
    let expected = json!({"mediaId": "dead", "error": "No news for 0.6 s", "code": "STALLED"});
    assert_eq!(stalled, ("mediaError".to_owned(), expected));
    let state = get(&server, "/v1/media/dead").await.json();
    assert_eq!(state["status"], "error");
    // Whoever comes late sees it too, and a worker that was only slow begins a new attempt.
    post(&server, "/v1/media/dead/complete", &json!({"url": "x"})).await.problem(409, "media_conflict");
    accepted(&post(&server, "/v1/media/dead/complete", &json!({"url": "x", "attempt": 2})).await);
    assert_eq!(get(&server, "/v1/media/done").await.json()["status"], "complete");
    assert_eq!(get(&server, "/v1/media/busy").await.json()["status"], "progress");
    let metrics = get(&server, "/metrics").await.text;
    assert!(metrics.contains("slop_media_stalled_total 1\n"), "{metrics}");
}

/// The patience of a server, a longer time in which no publisher is heard, and a shorter one in which a live item must not
/// end after it.
const PATIENCE_MS: &str = "4000";
const UNHEARD: Duration = Duration::from_secs(5);
const RETRY_AFTER: Duration = Duration::from_millis(1_200);

/// A worker's next news of the item `m`, some time after it can be heard again.
async fn is_heard_again(server: &Server) {
    tokio::time::sleep(RETRY_AFTER).await;
    let answer = post(server, "/v1/media/m/progress", &json!({"progress": 51, "stage": "render"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn an_item_is_not_given_up_because_the_disk_was_full() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[("MEDIA_STALL_MS", PATIENCE_MS)]);
    accepted(&post(&server, "/v1/media/m/progress", &json!({"progress": 50, "stage": "render"})).await);
    disk.set("write,allocate * fail ENOSPC\n");
    let durable = json!({"event": "e", "delivery": "durable"});
    post(&server, "/v1/rooms/r/events", &durable).await.problem(503, "store_unavailable");
    assert!(disk.met() > 0);
    // Nobody tries meanwhile.
    tokio::time::sleep(UNHEARD).await;
    assert_eq!(get(&server, "/v1/media/m").await.json()["status"], "progress");
    disk.set("");
    is_heard_again(&server).await;
}

#[tokio::test]
async fn an_item_is_not_given_up_because_the_server_stood_still() {
    let server = Server::start_with(&[("MEDIA_STALL_MS", PATIENCE_MS)]);
    accepted(&post(&server, "/v1/media/m/progress", &json!({"progress": 50, "stage": "render"})).await);
    // Its silence has begun.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.signal("STOP");
    tokio::time::sleep(UNHEARD).await;
    server.signal("CONT");
    is_heard_again(&server).await;
}

#[tokio::test]
async fn subscribing_acks_then_shows_the_last_event() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/media").await;
    client.expect("welcome").await;
    let subscribed = json!({"success": true, "mediaId": "m"});
    assert_eq!(client.call("subscribeMedia", json!(["m"])).await, subscribed);
    client.nothing_else().await;

    let complete = json!({"url": "https://cdn/x", "thumbnailUrl": "https://cdn/y", "metadata": {"width": 512}});
    assert_eq!(accepted(&post(&server, "/v1/media/m/complete", &complete).await), 1);
    let expected =
        json!({"mediaId": "m", "url": "https://cdn/x", "thumbnailUrl": "https://cdn/y", "metadata": {"width": 512}});
    assert_eq!(client.expect("mediaComplete").await, expected);

    let mut late = Client::connect(&server, "/media").await;
    late.expect("welcome").await;
    assert_eq!(late.call("subscribeMedia", json!(["m"])).await, subscribed);
    assert_eq!(late.expect("mediaComplete").await, expected);
    // Twice is fine.
    assert_eq!(late.call("subscribeMedia", json!(["m"])).await, subscribed);
    assert_eq!(late.expect("mediaComplete").await, expected);
    late.nothing_else().await;

    for item in ["m", "unknown"] {
        let left = client.call("unsubscribeMedia", json!([item])).await;
        assert_eq!(left, json!({"success": true, "mediaId": item}));
    }
    let again = json!({"progress": 1, "stage": "s", "attempt": 2});
    assert_eq!(accepted(&post(&server, "/v1/media/m/progress", &again).await), 1);
    late.expect("mediaProgress").await;
    client.nothing_else().await;

    for (args, error) in [
        (json!([]), "Media id is required"),
        (json!([5]), "Media id must be a string"),
        (json!([["m"]]), "Media id must be a string"),
        (json!([""]), "Media id must not be empty"),
        (json!(["a\u{7}"]), "Media id must not contain control characters"),
    ] {
        let refused = json!({"success": false, "error": error});
        assert_eq!(client.call("subscribeMedia", args.clone()).await, refused);
        assert_eq!(client.call("unsubscribeMedia", args).await, refused);
    }
}

#[tokio::test]
async fn media_is_on_its_namespace_only() {
    let server = Server::start();
    for namespace in ["/", "/notifications"] {
        let mut client = Client::connect(&server, namespace).await;
        for event in ["subscribeMedia", "unsubscribeMedia"] {
            let answer = client.call(event, json!(["m"])).await;
            assert_eq!(answer, json!({"success": false, "error": format!("{event} works only on /media")}));
        }
    }
}

/// No gap, no duplicate and no step back, at whatever moment a client subscribes. A client that subscribes again without
/// leaving gets the newest event again at most.
#[tokio::test]
async fn a_subscription_in_a_stream_misses_nothing() {
    const STEPS: u32 = 1_000;
    let server = std::sync::Arc::new(Server::start());
    let mut subscribers = tokio::task::JoinSet::new();
    for n in 0..12u64 {
        let server = std::sync::Arc::clone(&server);
        subscribers.spawn(async move {
            let mut client = Client::connect(&server, "/media").await;
            client.expect("welcome").await;
            let subscribes_again = n % 3 == 0;
            let mut snapshots = 0;
            let mut last: Option<u64> = None;
            loop {
                // Moments that have nothing to do with the stream's pace.
                tokio::time::sleep(std::time::Duration::from_micros(1 + (n * 7_919 + snapshots * 104_729) % 20_000))
                    .await;
                assert_eq!(client.call("subscribeMedia", json!(["m"])).await["success"], json!(true));
                let mut is_repeated = subscribes_again;
                for _ in 0..20 {
                    let (event, payload) = client.next().await;
                    if event == "mediaComplete" {
                        // The end follows the last step, or is the snapshot.
                        assert!(last.is_none_or(|last| last == u64::from(STEPS)), "{last:?}");
                        // To a repeated subscription, the end may come twice.
                        if !subscribes_again {
                            client.nothing_else().await;
                        }
                        return snapshots;
                    }
                    let step = payload["message"].as_str().and_then(|step| step.parse().ok()).expect("a step");
                    // The newest event of the answer was delivered before, or is the next one.
                    let repeats = last == Some(step) && std::mem::take(&mut is_repeated);
                    assert!(repeats || last.is_none_or(|last| step == last + 1), "{step} after {last:?}");
                    last = Some(step);
                }
                snapshots += 1;
                if !subscribes_again {
                    client.call("unsubscribeMedia", json!(["m"])).await;
                    client.forget();
                    last = None;
                }
            }
        });
    }
    for step in 1..=STEPS {
        let body = json!({"progress": f64::from(step) / 10.0, "stage": "s", "message": step.to_string()});
        assert_eq!(post(&server, "/v1/media/m/progress", &body).await.status, 200);
    }
    assert_eq!(post(&server, "/v1/media/m/complete", &json!({"url": "u"})).await.status, 200);
    let snapshots: u64 = subscribers.join_all().await.into_iter().sum();
    assert!(snapshots > 12, "only {snapshots} subscriptions fell into the stream");
}

#[tokio::test]
async fn an_owner_gets_everything_once_and_others_nothing() {
    let server = Server::start();
    let mut owner = Client::connect_as(&server, "/media", &token("u")).await;
    let mut other = Client::connect_as(&server, "/media", &token("v")).await;
    let mut anonymous = Client::connect(&server, "/media").await;
    anonymous.expect("welcome").await;
    // All three may wait for an item that nobody has heard of.
    for client in [&mut owner, &mut other, &mut anonymous] {
        assert_eq!(client.call("subscribeMedia", json!(["m"])).await["success"], json!(true));
    }
    let body = |step: u32| json!({"progress": step, "stage": "s"});
    assert_eq!(accepted(&post(&server, "/v1/media/m/progress", &body(1)).await), 3);
    for client in [&mut owner, &mut other, &mut anonymous] {
        client.expect("mediaProgress").await;
    }
    let owned = json!({"progress": 2, "stage": "s", "ownerId": "u"});
    assert_eq!(accepted(&post(&server, "/v1/media/m/progress", &owned).await), 1);
    assert_eq!(accepted(&post(&server, "/v1/media/m/progress", &body(3)).await), 1);
    for progress in [2, 3] {
        assert_eq!(owner.expect("mediaProgress").await["progress"], json!(progress));
    }
    owner.nothing_else().await;
    for client in [&mut other, &mut anonymous] {
        client.nothing_else().await;
        let refused = client.call("subscribeMedia", json!(["m"])).await;
        assert_eq!(refused, json!({"success": false, "error": "Not allowed"}));
    }
    // A device that has not subscribed gets the owner's events too.
    let mut second = Client::connect_as(&server, "/media", &token("u")).await;
    assert_eq!(accepted(&post(&server, "/v1/media/m/complete", &json!({"url": "x"})).await), 2);
    second.expect("mediaComplete").await;
    second.nothing_else().await;
}

#[tokio::test]
async fn a_subscription_does_not_outlive_the_identity_that_allowed_it() {
    let server = Server::start();
    let mut client = Client::connect_as(&server, "/media", &token("u")).await;
    for item in ["owned", "free"] {
        assert_eq!(client.call("subscribeMedia", json!([item])).await["success"], json!(true));
    }
    let owned = json!({"progress": 1, "stage": "s", "ownerId": "u"});
    accepted(&post(&server, "/v1/media/owned/progress", &owned).await);
    client.expect("mediaProgress").await;

    let answer = client.call("authenticate", json!([{"token": token("v")}])).await;
    assert_eq!(answer, json!({"success": true, "userId": "v"}));
    client.expect("authenticated").await;
    assert_eq!(accepted(&post(&server, "/v1/media/owned/complete", &json!({"url": "x"})).await), 0);
    assert_eq!(accepted(&post(&server, "/v1/media/free/complete", &json!({"url": "x"})).await), 1);
    let (event, payload): (String, Value) = client.next().await;
    assert_eq!((event.as_str(), &payload["mediaId"]), ("mediaComplete", &json!("free")));
    client.nothing_else().await;
}

#[tokio::test]
async fn an_item_is_not_given_up_because_the_disk_was_slow() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[("MEDIA_STALL_MS", PATIENCE_MS)]);
    accepted(&post(&server, "/v1/media/m/progress", &json!({"progress": 50, "stage": "render"})).await);
    // Its silence has begun.
    tokio::time::sleep(Duration::from_secs(1)).await;
    disk.set("sync * hang\n");
    let durable = json!({"event": "e", "delivery": "durable"});
    let (answer, ()) = tokio::join!(post(&server, "/v1/rooms/r/events", &durable), async {
        tokio::time::sleep(UNHEARD).await;
        disk.set("");
    });
    assert_eq!(answer.status, 200);
    is_heard_again(&server).await;
}
