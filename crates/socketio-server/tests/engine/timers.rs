//! The deadlines that sockets set.

use std::time::Duration;

use socketio_server::{Config, Namespace};
use tokio::time::Instant;

use crate::{
    client::Ws,
    harness::{TestServer, echo, eventually},
};

#[tokio::test]
async fn a_sockets_deadline_is_replaced_and_cancelled() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            echo("/")
                .on("set", |socket, event| {
                    let at = event.parse::<u64>(0).map(|after| Instant::now() + Duration::from_millis(after));
                    socket.set_timer(at);
                })
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
    let long = Duration::from_millis(150);

    let began = Instant::now();
    ws.send(r#"42["set",150]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    assert!(began.elapsed() >= long);
    // An earlier one in place of a later, and the other way round; each comes once.
    ws.send(r#"42["set",150]"#).await;
    ws.send(r#"42["set",10]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    let began = Instant::now();
    ws.send(r#"42["set",10]"#).await;
    ws.send(r#"42["set",150]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    assert!(began.elapsed() >= long);
    // Cancelled. Nothing that was replaced above may come either, by now.
    ws.send(r#"42["set",10]"#).await;
    ws.send(r#"42["set",null]"#).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    ws.send(r#"42["message",1]"#).await;
    assert_eq!(ws.text().await, r#"42["message-back",1]"#);
    // One in the past is due at once.
    ws.send(r#"42["set",0]"#).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
    // And of a socket that left, none is.
    ws.send(r#"42["set",20]"#).await;
    ws.send("41").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    ws.enter("/").await;
    assert_eq!(ws.text().await, r#"42["auth",{}]"#);
}

/// A deadline that is replaced, or whose socket is gone, takes no memory until its time has come.
#[tokio::test]
async fn of_many_deadlines_few_are_remembered() {
    const HOUR: Duration = Duration::from_secs(3600);
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            echo("/")
                .on("later", |socket, event| {
                    let begin = Instant::now() + HOUR;
                    (0..1_000).for_each(|number| socket.set_timer(Some(begin + Duration::from_millis(number))));
                    event.ack(&1);
                })
                .on("sooner", |socket, event| {
                    let begin = Instant::now() + HOUR;
                    (0..1_000).for_each(|number| socket.set_timer(Some(begin - Duration::from_millis(number))));
                    event.ack(&1);
                })
                .on("soon", |socket, _| socket.set_timer(Some(Instant::now() + Duration::from_millis(20))))
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let (mut ws, _) = Ws::connected(server.addr).await;
        ws.text().await;
        for event in ["later", "sooner"] {
            ws.send(&format!(r#"421["{event}"]"#)).await;
            assert_eq!(ws.text().await, "431[1]");
        }
        let owners = server.metrics().connections + server.metrics().sockets;
        assert!(server.metrics().timers <= 2 * owners + 64, "{}", server.metrics().timers);
        sockets.push(ws);
    }
    // Those that count are among them.
    for ws in &mut sockets {
        ws.send(r#"42["soon"]"#).await;
        assert_eq!(ws.text().await, r#"42["due",1]"#);
        ws.send(r#"421["later"]"#).await;
        assert_eq!(ws.text().await, "431[1]");
    }
    drop(sockets);
    eventually("all are gone", || server.metrics().connections == 0).await;
    eventually("so are their deadlines", || server.metrics().timers <= 64).await;
}

/// A deadline set before the client is connected counts from then on.
#[tokio::test]
async fn a_deadline_may_be_set_by_who_lets_the_client_in() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/")
                .authorize(|socket, _| {
                    socket.set_timer(Some(Instant::now() + Duration::from_millis(20)));
                    Ok(())
                })
                .on_timer(|socket| socket.emit("due", &1).expect("a name")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    assert_eq!(ws.text().await, r#"42["due",1]"#);
}
