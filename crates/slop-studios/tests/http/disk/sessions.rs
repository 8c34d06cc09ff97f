//! Sessions whose changes the disk does not take.

use std::fs;

use serde_json::{Value, json};

use super::{FULL, saved, until};
use crate::api::{accepted, post};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::{Server, token};

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
