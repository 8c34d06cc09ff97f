//! A socket that joins a room gets what was sent there since an offset that its client knows.

use std::time::Duration;

use serde_json::json;
use socketio_server::{Config, Namespace, Recovery};

use super::client::{Client, recovering, say, studio};
use crate::{client::Ws, harness::TestServer};

on_one_and_three_shards!(who_joins_catches_up, what_was_caught_up_with_is_not_lost);

/// `follow`: joins the room `a`, catches up, and answers with the number of events.
fn following() -> Namespace {
    studio("/").on_async("follow", |socket, event| async move {
        let after: u64 = event.parse(0).expect("a number");
        socket.caught_up().await;
        assert!(socket.can_catch_up(after));
        socket.join("a").expect("a room");
        event.ack(&socket.catch_up("a", after));
    })
}

fn config(shards: usize, window: u64) -> Config {
    let recovery = Recovery { window: Duration::from_secs(window), after: Some(5), ..Recovery::default() };
    recovering(shards, recovery)
}

fn emit(server: &TestServer, room: &str, offset: u64, what: u32) {
    drop(server.handle.to("/", room).offset(offset).emit("said", &what).expect("a name"));
}

async fn who_joins_catches_up(shards: usize) {
    for window in [120, 0] {
        let server = TestServer::start(config(shards, window), |server| server.namespace(following()));
        // Without recovery, events have no offset.
        let mut ws = Ws::open(server.addr).await;
        ws.send(r#"40{"recovery":false}"#).await;
        assert!(!ws.text().await.contains("pid"));
        emit(&server, "a", 9, 1);
        emit(&server, "b", 10, 2);
        drop(server.handle.to("/", "a").room("b").offset(11).latest("k").emit("said", &3).expect("a name"));
        drop(server.handle.to("/", "a").offset(12).latest("k").emit("said", &4).expect("a name"));
        emit(&server, "a", 13, 5);
        ws.send(r#"421["follow",8]"#).await;
        for what in [1, 4, 5] {
            assert_eq!(ws.text().await, format!(r#"42["said",{what}]"#));
        }
        assert_eq!(ws.text().await, "431[3]");
        emit(&server, "a", 14, 6);
        assert_eq!(ws.text().await, r#"42["said",6]"#);
        let mut late = Ws::open(server.addr).await;
        late.send(r#"40{"recovery":false}"#).await;
        assert!(!late.text().await.contains("pid"));
        late.send(r#"422["follow",14]"#).await;
        assert_eq!(late.text().await, "432[0]");
    }
}

async fn what_was_caught_up_with_is_not_lost(shards: usize) {
    let server = TestServer::start(config(shards, 120), |server| server.namespace(following()));
    let mut client = Client::connect(&server).await;
    emit(&server, "a", 9, 1);
    emit(&server, "a", 10, 2);
    // The events are the socket's own: they come before the answer, and their offsets do not go back.
    client.ws.send(r#"421["follow",8]"#).await;
    let before = client.memory.clone();
    for what in [1, 2] {
        let packet = client.ws.text().await;
        assert_eq!(client.memory.event(&packet), ("said".to_owned(), vec![json!(what)]));
    }
    assert_eq!(client.ws.text().await, "431[2]");
    let received = client.memory.offset.clone();
    client.lose(&server).await;
    say(&server, "a", 3).await;
    // Lost with the connection, they come again, before what came later.
    let mut client = Client::back(&server, before).await;
    assert!(client.memory.recovered);
    client.hears(&[1, 2, 3]).await;
    let memory = super::client::Memory { offset: received, ..client.lose(&server).await };
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[3]).await;
}
