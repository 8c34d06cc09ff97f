//! What a failed commit left in the write-ahead log.

use std::fs;

use serde_json::json;

use super::{in_room, names, room_event};
use crate::api::{accepted, metric, post};
use crate::faults::FaultyDisk;

#[tokio::test]
async fn what_a_failed_commit_left_in_the_log_does_not_come_back() {
    let fsync = ("sync -wal fail EIO", "full");
    for ((faults, sync), delivery, too_early) in [
        (fsync, "recoverable", false),
        (fsync, "recoverable", true),
        (fsync, "durable", true),
        (("write -wal fail-after EIO", "normal"), "recoverable", true),
    ] {
        let disk = FaultyDisk::new();
        let server = disk.start(&[("STORE_SYNC", sync)]);
        let mut client = in_room(&server).await;
        let key = ("idempotency-key", "k");

        disk.set(faults);
        room_event(&server, "failed", "durable", &[key]).await.problem(503, "store_unavailable");
        assert!(disk.met() > 0);
        if too_early {
            // It may not overtake what failed, whether anything of it is kept or not.
            room_event(&server, "too early", delivery, &[]).await.problem(503, "store_unavailable");
        }
        disk.set("");
        assert_eq!(accepted(&room_event(&server, "after", delivery, &[]).await), 1);
        client.expect("after").await;
        client.nothing_else().await;
        server.kill();

        let server = disk.start(&[("STORE_SYNC", sync)]);
        let kept = if delivery == "durable" { 2.0 } else { 1.0 };
        assert_eq!(metric(&server, "slop_log_entries").await, kept);
        let (recovered, mut client) = client.come_back(&server, None).await;
        assert!(recovered);
        client.nothing_else().await;
        let answer = room_event(&server, "failed", "durable", &[key]).await;
        assert_eq!((accepted(&answer), answer.header("idempotent-replayed")), (1, ""));
        client.expect("failed").await;
        client.nothing_else().await;
    }
}

/// Also where the write-ahead log begins anew.
#[tokio::test]
async fn what_failed_does_not_come_back_wherever_the_log_stands() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let large = json!({"event": "large", "delivery": "durable", "data": "x".repeat(100_000)});
    let mut came_back = 0;
    for round in 0..50 {
        // Some 25 pages each; a checkpoint comes after 1,000, and the log begins anew with the next transaction.
        for _ in 0..round % 7 {
            accepted(&post(&server, "/v1/rooms/r/events", &large).await);
        }
        disk.set("sync -wal fail EIO");
        let failed = json!({"event": "failed", "delivery": "durable", "data": "x".repeat(1_000 * (round % 5))});
        post(&server, "/v1/rooms/r/events", &failed).await.problem(503, "store_unavailable");
        came_back += found_by_the_next(&disk, "failed");
        disk.set("");
        assert_eq!(accepted(&room_event(&server, "after", "recoverable", &[]).await), 0);
        assert_eq!(found_by_the_next(&disk, "failed"), 0, "round {round}");
    }
    assert!(came_back > 40, "only {came_back} would have come back");
}

/// The process may be killed before anything was written over what failed. Then it may be there after all; nothing was
/// sent that should have come after it.
#[tokio::test]
async fn what_comes_back_reaches_its_receivers_once() {
    for too_early in [false, true] {
        let disk = FaultyDisk::new();
        let server = disk.start(&[]);
        let client = in_room(&server).await;
        let key = ("idempotency-key", "k");
        disk.set("sync -wal fail EIO");
        room_event(&server, "failed", "durable", &[key]).await.problem(503, "store_unavailable");
        if too_early {
            room_event(&server, "too early", "recoverable", &[]).await.problem(503, "store_unavailable");
        }
        server.kill();
        disk.set("");

        let server = disk.start(&[]);
        let (recovered, mut client) = client.come_back(&server, None).await;
        assert!(recovered);
        room_event(&server, "failed", "durable", &[key]).await;
        assert_eq!(names(client.events().await), ["failed"]);
        assert_eq!(metric(&server, "slop_log_entries").await, 2.0);
    }
}

/// The files as a process that is killed now leaves them: how many events of this name the next one finds.
fn found_by_the_next(disk: &FaultyDisk, event: &str) -> u64 {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for name in ["store.db", "store.db-wal"] {
        fs::copy(disk.data().join(name), copy.path().join(name)).expect("a copy");
    }
    let file = rusqlite::Connection::open(copy.path().join("store.db")).expect("it opens");
    file.query_row("SELECT count(*) FROM log WHERE event = ?1", [event], |row| row.get(0)).expect("a log")
}
