//! Files that are deleted, moved or replaced while the server runs.

use std::fs;
use std::time::{Duration, Instant};

use super::{in_room, room_event};
use crate::api::{get, metric};
use crate::faults::FaultyDisk;
use crate::server::Server;
use crate::store::refused;

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
