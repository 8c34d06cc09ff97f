//! Disks that are full, broken, stuck or gone. This file has what the tests share.

mod failed_commits;
mod full;
mod gone;
mod lifecycle;
mod sessions;
mod slow;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api::{Answer, accepted, metric, post_with};
use crate::client::Client;
use crate::faults::FaultyDisk;
use crate::server::{KEY, Server};

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
