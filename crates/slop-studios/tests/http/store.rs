//! What outlives the server, and what it says when it can't keep anything.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{accepted, get, post, post_with};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::{Server, token};

#[tokio::test]
async fn what_was_accepted_survives_a_kill() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_in(data.path(), &[]);
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    let (complete, key) = (json!({"url": "https://example.com/m", "ownerId": "u"}), ("idempotency-key", "k1"));
    let first = post_with(&server, "/v1/media/m/complete", &[key], &complete).await;
    assert_eq!(first.json()["stored"], json!(true));
    let notification = json!({"type": "info", "title": "t", "message": "m", "id": "n1"});
    assert_eq!(accepted(&post(&server, "/v1/users/u/notifications", &notification).await), 1);
    client.expect("notification").await;
    let durable = json!({"event": "e", "delivery": "durable"});
    assert_eq!(post(&server, "/v1/rooms/r/events", &durable).await.json()["stored"], json!(true));
    let state = get(&server, "/v1/media/m").await.json();
    let listed = get(&server, "/v1/users/u/notifications").await.json();
    server.kill();

    let server = Server::start_in(data.path(), &[]);
    assert_eq!(get(&server, "/v1/media/m").await.json(), state);
    assert_eq!(get(&server, "/v1/users/u/notifications").await.json(), listed);
    let repeat = post_with(&server, "/v1/media/m/complete", &[key], &complete).await;
    assert_eq!((repeat.json(), repeat.header("idempotent-replayed")), (first.json(), "true"));
    let repeat = post(&server, "/v1/users/u/notifications", &notification).await;
    assert_eq!(repeat.json(), json!({"id": "n1", "stored": true, "delivered": 1}));
    post(&server, "/v1/media/m/complete", &complete).await.problem(409, "media_conflict");

    // Who comes after the end, and after the restart, sees it at once.
    let mut late = Client::connect_as(&server, "/media", &token("u")).await;
    let subscribed = late.call("subscribeMedia", json!(["m"])).await;
    assert_eq!(subscribed, json!({"success": true, "mediaId": "m"}));
    assert_eq!(late.expect("mediaComplete").await["url"], complete["url"]);
}

#[tokio::test]
async fn batches_are_repeated_across_a_restart() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in(data.path(), &[("STORE_SYNC", "normal")]);
    let items: Vec<Value> = (0..100)
        .map(|n| json!({"kind": "complete", "mediaId": format!("m{n}"), "url": "u"}))
        .chain([json!({"kind": "roomEvent", "room": "r", "event": "e"}), json!({"kind": "nothing"})])
        .collect();
    let (items, key) = (json!(items), ("idempotency-key", "batch"));
    let first = post_with(&server, "/v1/publish", &[key], &items).await.json();
    server.signal("TERM");
    assert!(server.wait().await.success());
    // Told to end, it leaves one tidy file.
    assert!(data.path().join("store.db").exists() && !data.path().join("store.db-wal").exists());

    let server = Server::start_in(data.path(), &[]);
    assert_eq!(post_with(&server, "/v1/publish", &[key], &items).await.json(), first);
    let metrics = get(&server, "/metrics").await.text;
    // The room event is logged for its key's sake.
    for line in ["slop_media_items 100", "slop_log_entries 101", "slop_store_queue_length 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn on_a_full_disk_publishers_are_told_and_clients_stay() {
    let disk = FaultyDisk::new();
    let server = disk.start(&[]);
    let mut client = Client::connect_as(&server, "/notifications", &token("u")).await;
    let notify = async |title: &str| {
        let body = json!({"type": "info", "title": title, "message": "x".repeat(20_000)});
        post(&server, "/v1/users/u/notifications", &body).await
    };
    assert_eq!(accepted(&notify("before").await), 1);
    assert_eq!(client.expect("notification").await["title"], "before");

    // Some more fit in, and then one does in part.
    disk.set("write,allocate * room 1000000\n");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut written = 0;
    loop {
        assert!(Instant::now() < deadline, "the disk is full");
        let answer = notify("into what is left").await;
        if answer.status != 200 {
            answer.problem(503, "store_unavailable");
            assert_eq!(answer.header("retry-after"), "1");
            break;
        }
        written += 1;
    }
    for _ in 0..20 {
        notify("refused").await.problem(503, "store_unavailable");
    }
    assert_eq!(get(&server, "/v1/users/u/notifications").await.status, 200);

    assert!(written > 0 && disk.met() > 0, "{written}");
    disk.set("");
    assert_eq!(accepted(&notify("after").await), 1);
    for _ in 0..written {
        assert_eq!(client.expect("notification").await["title"], "into what is left");
    }
    assert_eq!(client.expect("notification").await["title"], "after");
    client.nothing_else().await;
    let metrics = get(&server, "/metrics").await.text;
    assert!(metrics.contains(&format!("slop_notifications_kept {}\n", written + 2)), "{metrics}");
}

/// What a server says that can't start with this data folder.
pub(crate) async fn refused(data: &Path) -> String {
    refused_as(Server::command(data, &[])).await
}

/// The same, as the command says.
async fn refused_as(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("it can be waited for").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it runs");
            panic!("it serves");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let output = child.wait_with_output().expect("it ended");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*stdout), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.into_owned()
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_an_error_at_the_start() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in(data.path(), &[]);
    let said = refused(data.path()).await;
    assert!(said.starts_with("error: the store in ") && said.contains("in use by another process"), "{said}");
    // The other one does not mind.
    accepted(&post(&server, "/v1/media/m/complete", &json!({"url": "u"})).await);
    // Killed, it would leave all in the write-ahead log, from which the file can be mended.
    server.signal("TERM");
    assert!(server.wait().await.success());

    let file = data.path().join("store.db");
    std::fs::write(&file, [b'x'; 10_000]).expect("it can be written");
    let said = refused(data.path()).await;
    assert!(said.contains("store.db is damaged, or is no store"), "{said}");
    let said = refused(&file).await;
    assert!(said.contains("DATA_DIR is ") && said.contains("it is a file and no folder"), "{said}");
}

/// Whom the server runs as where the test may choose: root is kept from nothing.
const NOBODY: u32 = 65_534;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
}

#[tokio::test]
async fn a_folder_or_file_that_is_not_the_servers_says_what_to_do() {
    let place = tempfile::tempdir().expect("a temporary folder");
    set_mode(place.path(), 0o755);
    let data = place.path().join("data");
    let mut server = Server::start_in(&data, &[]);
    server.signal("TERM");
    assert!(server.wait().await.success());
    let is_root = fs::metadata(&data).expect("it is there").uid() == 0;
    let (folder, file) = (data.display().to_string(), data.join("store.db"));
    let command = || {
        let mut command = Server::command(&data, &[]);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let give = |to: u32| {
        for entry in fs::read_dir(&data).expect("a folder") {
            chown(entry.expect("a file").path(), Some(to), Some(to)).expect("root may do that");
        }
    };
    if is_root {
        // Another user's files, in a folder of its own.
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may do that");
        let said = refused_as(command()).await;
        let whose = " is another user's: it belongs to user 0 with mode 0600, and the server runs as user 65534";
        assert!(said.contains(whose), "{said}");
        assert!(said.contains(&folder) && said.contains("(chown)"), "{said}");
        give(NOBODY);
        chown(&data, Some(0), Some(0)).expect("root may do that");
    }
    // Its own files, in a folder that takes no others.
    set_mode(&data, 0o555);
    let said = refused_as(command()).await;
    assert!(said.contains(&format!("can't write to {folder}: Permission denied")), "{said}");
    assert!(said.contains("with mode 0555, and the server runs as user ") && said.contains("set DATA_DIR"), "{said}");
    set_mode(&data, 0o755);
    if is_root {
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may do that");
    }
    set_mode(&file, 0o400);
    let said = refused_as(command()).await;
    assert!(said.contains(&format!("can't write to {}: Permission denied", file.display())), "{said}");
    set_mode(&file, 0o600);
    let server = Server::spawn(command());
    accepted(&post(&server, "/v1/media/m/complete", &json!({"url": "u"})).await);
}

/// As another umask, a copy, or an earlier backup has left them.
#[tokio::test]
async fn files_that_others_could_read_are_closed_to_them_and_logged() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_in(data.path(), &[]);
    accepted(&post(&server, "/v1/rooms/r/events", &json!({"event": "e", "delivery": "durable"})).await);
    server.kill();
    let files = || fs::read_dir(data.path()).expect("a folder").map(|file| file.expect("a file").path());
    let names = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    for file in files() {
        set_mode(&file, 0o644);
    }
    set_mode(data.path(), 0o770);
    let mut server = Server::start_in_with(data.path(), &[("LOG_LEVEL", "warn")], Stdio::piped());
    for file in files() {
        assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600, "{}", file.display());
    }
    server.signal("TERM");
    assert!(server.wait().await.success());
    let log = server.log();
    for file in ["store.db", "store.db-wal", "sessions.unsaved-0", "sessions.unsaved-1"] {
        let is_it = |line: &&str| line.contains(&format!("{file} ")) && line.contains("open to other users");
        assert_eq!(log.lines().filter(is_it).count(), 1, "{file}: {log}");
    }
    assert!(log.contains("events-") && log.contains("before=\"0644\""), "{log}");
    assert!(log.contains("other users may put files into the data folder"), "{log}");
    let left: Vec<_> = files().map(|path| names(&path)).filter(|name| name.contains("probe")).collect();
    assert_eq!(left, [""; 0]);
}
