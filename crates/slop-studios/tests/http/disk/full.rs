//! What is published on a full disk.

use std::fs;

use serde_json::json;

use super::{FULL, in_room, joined, names, room_event};
use crate::api::{accepted, get, metric, post};
use crate::faults::FaultyDisk;

/// An event that the journal did not take could be lost, although its publisher was told that it is accepted.
#[tokio::test]
async fn on_a_full_disk_no_event_is_accepted_and_then_they_are() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let mut client = in_room(&server).await;
    let large = |event: &str, delivery: &str| {
        // The journal has room for some small ones.
        json!({"event": event, "delivery": delivery, "data": "x".repeat(100_000)})
    };
    disk.set(FULL);
    for delivery in ["recoverable", "latest"] {
        let refused = post(&server, "/v1/rooms/r/events", &large("refused", delivery)).await;
        refused.problem(503, "store_unavailable");
    }
    disk.set("");
    assert_eq!(accepted(&post(&server, "/v1/rooms/r/events", &large("accepted", "recoverable")).await), 1);
    client.expect("accepted").await;
    client.nothing_else().await;
}

/// Also small ones, once the room is used up that was made before.
#[tokio::test]
async fn on_a_full_disk_what_is_accepted_outlives_the_process() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let client = in_room(&server).await;
    disk.set(FULL);
    let mut taken = Vec::new();
    loop {
        let name = taken.len().to_string();
        let event = json!({"event": name, "data": "x".repeat(1_000)});
        let answer = post(&server, "/v1/rooms/r/events", &event).await;
        if answer.status == 503 {
            answer.problem(503, "store_unavailable");
            break;
        }
        accepted(&answer);
        taken.push(name);
    }
    assert!((1..100).contains(&taken.len()), "{}", taken.len());
    server.kill();
    disk.set("");
    let server = disk.start(&[]);
    let (recovered, mut client) = client.come_back(&server, None).await;
    assert!(recovered);
    assert_eq!(names(client.events().await), taken);
}

/// Each try to begin another file of the journal has another name.
#[tokio::test]
async fn on_a_full_disk_refused_events_leave_nothing_behind() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let large = json!({"event": "e", "data": "x".repeat(900_000)});
    for _ in 0..4 {
        accepted(&post(&server, "/v1/rooms/r/events", &large).await);
    }
    let files = || fs::read_dir(disk.data()).expect("a folder").count();
    let before = files();
    disk.set(FULL);
    for _ in 0..10 {
        post(&server, "/v1/rooms/r/events", &large).await.problem(503, "store_unavailable");
    }
    assert_eq!(files(), before);
    disk.set("");
    accepted(&post(&server, "/v1/rooms/r/events", &large).await);
    assert_eq!(files(), before + 1);
}

#[tokio::test]
async fn at_the_largest_size_of_a_file_no_event_is_accepted_and_then_they_are() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let mut client = in_room(&server).await;
    let limit = |bytes: Option<u64>| {
        let pid = rustix::process::Pid::from_raw(server.pid().cast_signed());
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit).expect("it may be set");
    };
    limit(Some(1));
    let large = json!({"event": "refused", "data": "x".repeat(100_000)});
    post(&server, "/v1/rooms/r/events", &large).await.problem(503, "store_unavailable");
    room_event(&server, "refused", "durable", &[]).await.problem(503, "store_unavailable");
    limit(None);
    for (name, delivery) in [("first", "durable"), ("second", "recoverable")] {
        assert_eq!(accepted(&room_event(&server, name, delivery, &[]).await), 1);
        client.expect(name).await;
    }
    client.nothing_else().await;
}

/// Without recovery there is no journal, and nothing of what failed is in the log: nothing has to wait for the disk.
#[tokio::test]
async fn on_a_full_disk_events_that_need_none_go_out() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[("RECOVERY_MS", "0")]);
    let mut client = joined(&server).await;
    disk.set(FULL);
    room_event(&server, "kept", "durable", &[]).await.problem(503, "store_unavailable");
    assert_eq!(metric(&server, "slop_store_writable").await, 0.0);
    assert_eq!(get(&server, "/health/ready").await.status, 200);
    assert_eq!(accepted(&room_event(&server, "not kept", "recoverable", &[]).await), 1);
    client.expect("not kept").await;
    client.nothing_else().await;
    disk.set("");
    assert_eq!(accepted(&room_event(&server, "again", "durable", &[]).await), 1);
    assert_eq!(metric(&server, "slop_store_writable").await, 1.0);
}
