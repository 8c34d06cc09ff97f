//! How the server starts and stops on a bad disk.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{FULL, STUCK, in_room, publish_into, room_event, saved, until};
use crate::api::{accepted, get, metric};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::token;

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
