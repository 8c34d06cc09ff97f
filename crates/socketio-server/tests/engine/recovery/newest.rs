//! A socket that joins a room is sent the newest event there since a position that its client knows.

use std::time::Duration;

use serde_json::json;
use socketio_server::{Config, Namespace, Position, Recovery};

use super::client::{Client, Memory, recovering, say, studio};
use crate::{client::Ws, harness::TestServer};

on_one_and_three_shards!(
    who_joins_gets_the_newest_since,
    what_is_sent_again_is_not_lost,
    forgotten_broadcasts_are_an_error,
);

/// `follow`: joins the room `a`, unless it is a member. Sends the newest event after a number, and answers whether there
/// is one.
fn following() -> Namespace {
    studio("/").on_async("follow", |socket, event| async move {
        let after: u64 = event.parse(0).expect("a number");
        socket.caught_up().await;
        let Ok(newest) = socket.newest_in("a", Position::new(after)) else { return event.ack(&"forgotten") };
        socket.join("a").expect("a room");
        newest.iter().for_each(|newest| socket.send_again(newest));
        event.ack(&newest.is_some());
    })
}

fn start(shards: usize, recovery: Recovery) -> TestServer {
    let recovery = Recovery { after: Some(Position::new(5)), ..recovery };
    TestServer::start(recovering(shards, recovery), |server| server.namespace(following()))
}

fn emit(server: &TestServer, room: &str, offset: u64, what: u32) {
    drop(server.handle.to("/", room).offset(offset).emit("said", &what).expect("a name"));
}

/// A client without recovery, whose events have no offset.
async fn plain(server: &TestServer) -> Ws {
    let mut ws = Ws::open(server.addr).await;
    ws.send(r#"40{"recovery":false}"#).await;
    assert!(!ws.text().await.contains("pid"));
    ws
}

async fn hears(ws: &mut Ws, texts: &[&str]) {
    for text in texts {
        assert_eq!(ws.text().await, *text);
    }
}

async fn who_joins_gets_the_newest_since(shards: usize) {
    for window in [120, 0] {
        let server = start(shards, Recovery { window: Duration::from_secs(window), ..Recovery::default() });
        let mut ws = plain(&server).await;
        emit(&server, "a", 9, 1);
        drop(server.handle.to("/", "a").room("b").offset(11).latest("k").emit("said", &2).expect("a name"));
        drop(server.handle.to("/", "a").offset(12).latest("k").emit("said", &3).expect("a name"));
        emit(&server, "b", 13, 4);
        ws.send(r#"421["follow",8]"#).await;
        hears(&mut ws, &[r#"42["said",3]"#, "431[true]"]).await;
        emit(&server, "a", 14, 5);
        hears(&mut ws, &[r#"42["said",5]"#]).await;
        // A member gets no older event again.
        ws.send(r#"422["follow",8]"#).await;
        hears(&mut ws, &[r#"42["said",5]"#, "432[true]"]).await;
        let mut late = plain(&server).await;
        late.send(r#"423["follow",14]"#).await;
        hears(&mut late, &["433[false]"]).await;
        // Who is left out of a broadcast is not sent it here either.
        let mut left_out = plain(&server).await;
        left_out.send(r#"424["join","out"]"#).await;
        hears(&mut left_out, &["434[true]"]).await;
        drop(server.handle.to("/", "a").except("out").offset(15).emit("said", &6).expect("a name"));
        left_out.send(r#"425["follow",8]"#).await;
        hears(&mut left_out, &[r#"42["said",5]"#, "435[true]"]).await;
    }
}

async fn what_is_sent_again_is_not_lost(shards: usize) {
    let server = start(shards, Recovery::default());
    let mut client = Client::connect(&server).await;
    emit(&server, "a", 9, 1);
    client.ws.send(r#"421["follow",8]"#).await;
    let before = client.memory.clone();
    let packet = client.ws.text().await;
    assert_eq!(client.memory.event(&packet), ("said".to_owned(), vec![json!(1)]));
    assert_eq!(client.ws.text().await, "431[true]");
    let received = client.memory.offset.clone();
    client.lose(&server).await;
    say(&server, "a", 2).await;
    // Lost with the connection, it comes again, before what came later.
    let mut client = Client::back(&server, before).await;
    assert!(client.memory.recovered);
    client.hears(&[1, 2]).await;
    let memory = Memory { offset: received, ..client.lose(&server).await };
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[2]).await;
}

async fn forgotten_broadcasts_are_an_error(shards: usize) {
    let server = start(shards, Recovery { max_bytes: 1, ..Recovery::default() });
    emit(&server, "b", 9, 1);
    let mut ws = plain(&server).await;
    ws.send(r#"421["follow",8]"#).await;
    hears(&mut ws, &[r#"431["forgotten"]"#]).await;
    ws.send(r#"422["follow",9]"#).await;
    hears(&mut ws, &["432[false]"]).await;
    let without = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(following()));
    let mut ws = plain(&without).await;
    ws.send(r#"423["follow",9]"#).await;
    hears(&mut ws, &[r#"433["forgotten"]"#]).await;
}
