//! Clients and servers that do without recovery, or with a part of it.

use std::time::Duration;

use socketio_server::{Config, EventArgs, Position, Recovery};

use super::client::{Client, recovering, say, server, studio};
use crate::{
    client::Ws,
    harness::{TestServer, recorder},
};

/// Who declines gets events as they are.
#[tokio::test]
async fn a_client_may_decline() {
    let server = server(1);
    let mut ws = Ws::open(server.addr).await;
    ws.send(r#"40{"recovery":false}"#).await;
    assert!(!ws.text().await.contains("pid"));
    ws.send(r#"42["echo",1]"#).await;
    assert_eq!(ws.text().await, r#"42["said",1]"#);
    ws.send(r#"420["join","a"]"#).await;
    assert_eq!(ws.text().await, "430[true]");
    let mut other = Client::connect(&server).await;
    other.join("a").await;
    for what in 2..40 {
        assert_eq!(say(&server, "a", what).await, 2);
        assert_eq!(ws.text().await, format!(r#"42["said",{what}]"#));
        other.hears(&[what]).await;
    }
    drop(server.handle.to("/", "a").emit_args("none", &EventArgs::from_raw("")).expect("a name"));
    assert_eq!(ws.text().await, r#"42["none"]"#);
}

/// Numbers can be had without the rest.
#[tokio::test]
async fn a_window_of_nothing_only_numbers() {
    let (recorder, mut seen) = recorder();
    let namespace = studio("/").on("joined", move |socket, event| {
        recorder.note(format!("{:?} {:?}", socket.joined_at("a"), socket.joined_at("b")));
        event.ack(&true);
    });
    let recovery = Recovery { window: Duration::ZERO, after: Some(Position::new(5)), ..Recovery::default() };
    let server = TestServer::start(recovering(1, recovery), |server| server.namespace(namespace));
    let mut ws = Ws::open(server.addr).await;
    ws.send("40").await;
    assert!(!ws.text().await.contains("pid"));
    drop(server.handle.to("/", "a").offset(9).emit("said", &1).expect("a name"));
    server.settle().await;
    for packet in [r#"420["join","a"]"#, r#"420["joined"]"#] {
        ws.send(packet).await;
        assert_eq!(ws.text().await, "430[true]");
    }
    assert_eq!(seen.next().await, "Some(Position(9)) None");
    let past = server.handle.to("/", "a").offset(9).emit("said", &0).expect_err("it is not above the last");
    assert_eq!(past.to_string(), "offset 9 is not above 9, that of the last broadcast");
    drop(server.handle.to("/", "a").offset(11).emit("said", &2).expect("a name"));
    assert_eq!(ws.text().await, r#"42["said",2]"#);
    assert_eq!(server.metrics().history_entries, 2, "for sockets that join the room, for a few seconds");
}

/// Recovery is for those who ask for it: without, no event has an argument more.
#[tokio::test]
async fn without_recovery_nothing_is_added() {
    let server = TestServer::echo(Config { shards: 1, ..Config::default() });
    let mut ws = Ws::open(server.addr).await;
    ws.send(r#"40{"pid":"AAAAAAAAAAAAAAAAAAAA","offset":"1"}"#).await;
    assert!(!ws.text().await.contains("pid"));
    assert_eq!(ws.text().await, r#"42["auth",{"pid":"AAAAAAAAAAAAAAAAAAAA","offset":"1"}]"#);
}
