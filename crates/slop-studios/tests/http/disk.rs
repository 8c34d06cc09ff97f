//! Disks that are full, broken, stuck or gone.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api::{Answer, accepted, get, metric, post, post_with, value_of};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::{KEY, Server, token};
use crate::store::refused;

const DEADLINE: Duration = Duration::from_secs(20);

const FULL: &str = "write,allocate * fail ENOSPC";
const STUCK: &str = "sync,write * hang";

async fn until(mut what: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !what().await {
        assert!(Instant::now() < deadline, "it did not come about in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn room_event(server: &Server, event: &str, delivery: &str, headers: &[(&str, &str)]) -> Answer {
    post_with(server, "/v1/rooms/r/events", headers, &json!({"event": event, "delivery": delivery})).await
}

fn names(events: Vec<(String, Value)>) -> Vec<String> {
    events.into_iter().map(|(name, _)| name).collect()
}

/// Waits until all that has changed of sessions is in the file: what changes later is written later.
async fn saved(server: &Server) {
    let mut last = Client::connect(server, "/media").await;
    last.expect("welcome").await;
    until(async || metric(server, "slop_sessions_kept").await == metric(server, "slop_sockets").await).await;
    last.leave().await;
    until(async || metric(server, "slop_sessions_kept").await == metric(server, "slop_sockets").await).await;
}

async fn joined(server: &Server) -> Client {
    let mut client = Client::connect(server, "/").await;
    client.expect("welcome").await;
    client.call("joinRoom", json!(["r"])).await;
    client.expect("roomJoined").await;
    client
}

/// A client that is in the room, has got an event, and is saved.
async fn in_room(server: &Server) -> Client {
    let mut client = joined(server).await;
    saved(server).await;
    assert_eq!(accepted(&room_event(server, "first", "durable", &[]).await), 1);
    client.expect("first").await;
    client
}

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

/// The files as a process that is killed now leaves them: how many events of this name the next one finds.
fn found_by_the_next(disk: &FaultyDisk, event: &str) -> u64 {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for name in ["store.db", "store.db-wal"] {
        fs::copy(disk.data().join(name), copy.path().join(name)).expect("a copy");
    }
    let file = rusqlite::Connection::open(copy.path().join("store.db")).expect("it opens");
    file.query_row("SELECT count(*) FROM log WHERE event = ?1", [event], |row| row.get(0)).expect("a log")
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

/// A user who logged out and left a room while the disk was full.
async fn logged_out_on_a_full_disk(disk: &FaultyDisk, server: &Server) -> Client {
    let mut client = Client::connect_as(server, "/", &token("u")).await;
    client.call("joinRoom", json!(["secret"])).await;
    saved(server).await;
    disk.set(FULL);
    client.call("leaveRoom", json!(["secret"])).await;
    client.call("logout", json!([])).await;
    assert_eq!(client.call("getConnectionInfo", json!([])).await["userId"], Value::Null);
    until(async || disk.met() > 0).await;
    client
}

async fn is_anonymous_and_in_no_room(server: &Server, client: &mut Client) {
    assert_eq!(client.call("getConnectionInfo", json!([])).await["userId"], Value::Null);
    assert_eq!(accepted(&post(server, "/v1/rooms/secret/events", &json!({"event": "e"})).await), 0);
    let notification = json!({"type": "info", "title": "t", "message": "m"});
    assert_eq!(accepted(&post(server, "/v1/users/u/notifications", &notification).await), 0);
}

#[tokio::test]
async fn a_logout_that_a_full_disk_did_not_take_is_not_undone_by_a_stop() {
    let disk = FaultyDisk::new();
    let mut server = disk.start(&[]);
    let client = logged_out_on_a_full_disk(&disk, &server).await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(3));
    assert!(disk.log().contains("stopped, and not everything is written"), "{}", disk.log());

    disk.set("");
    let server = disk.start(&[]);
    let (recovered, mut again) = client.come_back(&server, None).await;
    assert!(!recovered);
    is_anonymous_and_in_no_room(&server, &mut again).await;
    assert!(disk.log().contains("which sessions have changed since they were saved is not known"), "{}", disk.log());
}

#[tokio::test]
async fn a_logout_that_a_full_disk_did_not_take_is_not_undone_by_a_kill() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let client = logged_out_on_a_full_disk(&disk, &server).await;
    server.kill();

    disk.set("");
    let server = disk.start(&[]);
    let (recovered, mut again) = client.come_back(&server, None).await;
    assert!(!recovered);
    is_anonymous_and_in_no_room(&server, &mut again).await;
}

/// Nor by the same process, which asks the store for a session that it does not have itself.
#[tokio::test]
async fn a_session_whose_end_the_disk_does_not_take_has_ended() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let mut client = Client::connect_as(&server, "/", &token("u")).await;
    client.call("joinRoom", json!(["secret"])).await;
    saved(&server).await;
    disk.set("write -wal wait 300\nsync -wal fail EIO");
    client.leave().await;
    // Its removal is on the way to the disk.
    until(async || disk.met() > 0).await;
    let (recovered, mut again) = client.come_back(&server, None).await;
    assert!(!recovered);
    disk.set("");
    is_anonymous_and_in_no_room(&server, &mut again).await;
}

#[tokio::test]
async fn sessions_that_were_written_after_all_are_recovered() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let client = logged_out_on_a_full_disk(&disk, &server).await;
    disk.set("");
    until(async || disk.log().contains("the store can be written again")).await;
    until(async || {
        ["sessions.unsaved-0", "sessions.unsaved-1"].iter().all(|name| {
            let list = fs::read(disk.data().join(name)).expect("it is there");
            // The first place has the number of those in use.
            list.iter().skip(36).all(|byte| *byte == 0)
        })
    })
    .await;
    server.kill();

    let mut server = disk.start(&[]);
    let (recovered, mut again) = client.come_back(&server, None).await;
    assert!(recovered);
    is_anonymous_and_in_no_room(&server, &mut again).await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
}

/// Publishes until the store is not what it was, and checks that the server says so everywhere.
async fn noticed(disk: &FaultyDisk, server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while room_event(server, "e", "durable", &[]).await.status == 200 {
        assert!(Instant::now() < deadline, "it is noticed within seconds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for delivery in ["durable", "recoverable", "latest"] {
        room_event(server, "e", delivery, &[]).await.problem(503, "store_unavailable");
    }
    get(server, "/health/ready").await.problem(503, "store_unavailable");
    assert_eq!(get(server, "/health/live").await.status, 200);
    assert_eq!(metric(server, "slop_store_writable").await, 0.0);
    assert_eq!(disk.log().matches("was deleted or moved").count(), 1, "{}", disk.log());
}

#[tokio::test]
async fn a_data_folder_that_was_deleted_is_noticed() {
    let disk = FaultyDisk::new();
    let mut server = disk.start(&[]);
    let mut client = in_room(&server).await;
    fs::remove_dir_all(disk.data()).expect("it can be removed");
    noticed(&disk, &server).await;
    // Clients stay.
    client.events().await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(3));
    assert!(!disk.data().exists());
}

#[tokio::test]
async fn a_data_folder_that_was_replaced_is_noticed_and_left_alone() {
    let disk = FaultyDisk::new();
    let mut server = disk.start(&[]);
    let client = in_room(&server).await;
    let (data, moved) = (disk.data(), disk.data().with_file_name("moved"));
    fs::rename(&data, &moved).expect("it can be moved");
    fs::create_dir(&data).expect("a folder");
    for name in ["store.db", "store.db-wal", "sessions.unsaved-0"] {
        fs::write(data.join(name), "another's").expect("it can be written");
    }
    noticed(&disk, &server).await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(3));
    for name in ["store.db", "store.db-wal", "sessions.unsaved-0"] {
        assert_eq!(fs::read_to_string(data.join(name)).expect("it is there"), "another's");
    }

    // What was changed meanwhile is in no file, so nobody comes back to what was before.
    fs::remove_dir_all(&data).expect("it can be removed");
    fs::rename(&moved, &data).expect("it can be moved");
    let server = disk.start(&[]);
    assert!(metric(&server, "slop_log_entries").await >= 1.0);
    assert!(!client.come_back(&server, None).await.0);
}

#[tokio::test]
async fn a_write_ahead_log_that_was_deleted_is_noticed_and_nothing_of_it_is_lost() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    in_room(&server).await;
    fs::remove_file(disk.data().join("store.db-wal")).expect("it is there");
    assert_eq!(room_event(&server, "into the void", "durable", &[]).await.status, 200);
    noticed(&disk, &server).await;
    // Its clients are still there.
    let said = refused(&disk.data()).await;
    assert!(said.contains("in use by another process"), "{said}");
    server.kill();
    let server = disk.start(&[]);
    assert!(metric(&server, "slop_log_entries").await >= 2.0);
}

/// Starts publishes that will not be answered. When it returns, the store has one in hand, and all others wait for it.
async fn publish_into(disk: &FaultyDisk, server: &Server, count: usize) -> Vec<TcpStream> {
    let met = disk.met();
    let mut publishers = Vec::new();
    for n in 0..count {
        let mut publisher = TcpStream::connect(server.address).await.expect("the server takes connections");
        let body = r#"{"url":"u"}"#;
        let request = format!(
            "POST /v1/media/m{n}/complete HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        publisher.write_all(request.as_bytes()).await.expect("it is read");
        publishers.push(publisher);
        until(async || disk.met() > met).await;
    }
    let waiting = count.saturating_sub(1) as f64;
    until(async || metric(server, "slop_store_queue_length").await == waiting).await;
    publishers
}

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

#[tokio::test]
async fn a_stop_has_one_deadline_however_slow_the_disk_is() {
    for (faults, what) in [(STUCK, "stuck"), ("sync * wait 20000", "slow")] {
        let disk = FaultyDisk::new();
        let mut server = disk.start(&[("SHUTDOWN_GRACE_MS", "1000")]);
        let mut client = Client::connect_as(&server, "/", &token("u")).await;
        saved(&server).await;
        disk.set(faults);
        let _publishers = publish_into(&disk, &server, 20).await;
        client.call("logout", json!([])).await;
        let began = Instant::now();
        server.signal("TERM");
        assert_eq!(server.exit_code().await, Some(3), "{what}");
        // The grace period, the margin of three seconds, the last mark, and a second for a slow machine.
        assert!(began.elapsed() < Duration::from_millis(5_500), "{what}: {:?}", began.elapsed());
        let log = disk.log();
        let said = log.lines().find(|line| line.contains("stopped, and not everything is written"));
        let said = said.unwrap_or_else(|| panic!("{what}: {log}"));
        assert!(said.contains("requests=20") && said.contains("sessions=1"), "{what}: {said}");

        disk.set("");
        let server = disk.start(&[]);
        let (recovered, mut again) = client.come_back(&server, None).await;
        assert!(!recovered);
        assert_eq!(again.call("getConnectionInfo", json!([])).await["userId"], Value::Null);
    }
}

/// Everything is written then, but whether the files are closed is unknown.
#[tokio::test]
async fn a_stop_says_so_if_the_store_does_not_end() {
    for faults in ["sync .log hang", "sync /store.db hang", "unlink -wal hang"] {
        let disk = FaultyDisk::new();
        let mut server = disk.start(&[("SHUTDOWN_GRACE_MS", "1000")]);
        let client = in_room(&server).await;
        assert_eq!(accepted(&room_event(&server, "e", "recoverable", &[]).await), 1);
        disk.set(faults);
        server.signal("TERM");
        assert_eq!(server.exit_code().await, Some(3), "{faults}: {}", disk.log());
        assert!(disk.log().contains("the store did not end in time"), "{faults}: {}", disk.log());
        assert!(!disk.log().contains("not everything is written"), "{faults}: {}", disk.log());

        disk.set("");
        let server = disk.start(&[]);
        assert!(client.come_back(&server, None).await.0, "{faults}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    // In the first tenth of the grace period, and, with a short one, while the drain waits for a publisher.
    for (grace, faults, second, code) in [
        ("300000", "", "TERM", 128 + 15),
        ("300000", "", "INT", 128 + 2),
        ("300000", STUCK, "TERM", 3),
        ("10000", STUCK, "TERM", 3),
    ] {
        let disk = FaultyDisk::new();
        let mut server = disk.start(&[("SHUTDOWN_GRACE_MS", grace)]);
        let _client = in_room(&server).await;
        disk.set(faults);
        let _publishers = publish_into(&disk, &server, usize::from(!faults.is_empty())).await;
        server.signal("TERM");
        if grace == "300000" {
            until(async || get(&server, "/health/ready").await.status == 503).await;
        } else {
            until(async || TcpStream::connect(server.address).await.is_err()).await;
        }
        let began = Instant::now();
        server.signal(second);
        assert_eq!(server.exit_code().await, Some(code), "{grace} {faults}");
        assert!(began.elapsed() < Duration::from_secs(4), "{grace} {faults}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_used_is_an_error_at_the_start() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    in_room(&server).await;
    server.kill();
    for (faults, says) in [
        (FULL, "database or disk is full"),
        ("open /store.db fail EROFS", "can't open "),
        ("open -wal fail EACCES", "can't open "),
        ("read -wal fail EIO", "disk I/O error"),
        ("sync * fail EIO", "disk I/O error"),
    ] {
        disk.set(faults);
        let log = disk.log().len();
        let mut child = disk.command(&[]).stdout(std::process::Stdio::null()).spawn().expect("the binary starts");
        let mut status = None;
        until(async || {
            status = child.try_wait().expect("it can be waited for");
            status.is_some()
        })
        .await;
        let said = disk.log().split_off(log);
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{faults}: {said}");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{faults}: {said}");
        assert!(errors[0].contains(says) && errors[0].contains("store.db"), "{faults}: {said}");
    }
    // None of them has harmed what was there.
    disk.set("");
    let server = disk.start(&[]);
    assert_eq!(metric(&server, "slop_log_entries").await, 1.0);
}
