//! Handlers that panic: they are counted, end their own connection if its client could be left in doubt, and nothing
//! else.

use socketio_server::{Config, DisconnectReason, Namespace, RawEndpoint};
use tokio::time::Instant;

use crate::{
    client::{Client, Via, Ws, text_frames},
    harness::{Recorder, TestServer, recorder},
};

fn fragile(recorder: &Recorder) -> Namespace {
    let [after, ends] = [(); 2].map(|()| recorder.clone());
    Namespace::new("/")
        .on("sync", |_, _| panic!("sync"))
        .on_async("before the future", |_, _| {
            if true {
                panic!("before the future")
            }
            std::future::ready(())
        })
        .on_async("in the future", |_, _| async {
            tokio::task::yield_now().await;
            panic!("in the future");
        })
        .on_async("wait", |_, _| tokio::task::yield_now())
        .on("timer", |socket, _| socket.set_timer(Some(Instant::now())))
        .on("ping", |socket, _| socket.emit("pong", &1).expect("a name"))
        .on("after", move |_, _| after.note("after"))
        .on_timer(|_| panic!("timer"))
        .on_disconnect(move |_, reason| ends.note(reason.as_str()))
}

/// A client of the same shard that is served before and after.
async fn serves(client: &mut Ws) {
    client.send(r#"42["ping"]"#).await;
    assert_eq!(client.text().await, r#"42["pong",1]"#);
}

#[tokio::test]
async fn a_panic_ends_the_clients_connection_and_no_other() {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server
            .namespace(fragile(&recorder))
            .namespace(Namespace::new("/connect").on_connect(|_| panic!("on_connect")))
            .raw_endpoint(RawEndpoint::new("/raw", |_, _| panic!("raw")))
    });
    let (mut bystander, _) = Ws::connected(server.addr).await;
    let mut panics = 0;
    for packets in [
        &[r#"42["sync"]"#][..],
        &[r#"42["before the future"]"#],
        &[r#"42["in the future"]"#],
        // With what is behind it, which must not be handled.
        &[r#"42["sync"]"#, r#"42["after"]"#],
        &[r#"42["before the future"]"#, r#"42["after"]"#],
        &[r#"42["in the future"]"#, r#"42["after"]"#],
        // From the backlog of another.
        &[r#"42["wait"]"#, r#"42["sync"]"#, r#"42["after"]"#],
        &[r#"42["wait"]"#, r#"42["before the future"]"#, r#"42["after"]"#],
        &[r#"42["wait"]"#, r#"42["in the future"]"#, r#"42["after"]"#],
    ] {
        let (mut ws, _) = Ws::connected(server.addr).await;
        ws.send_raw(&text_frames(packets.iter().copied())).await;
        assert_eq!(ws.closed().await, (1011, "handler panic".to_owned()), "{packets:?}");
        assert_eq!(seen.next().await, "handler panic", "{packets:?}");
        panics += 1;
        assert_eq!(server.metrics().handler_panics, panics, "{packets:?}");
        serves(&mut bystander).await;
    }
    let mut ws = Ws::open(server.addr).await;
    ws.send("40/connect,").await;
    assert!(ws.text().await.starts_with("40/connect,"));
    assert_eq!(ws.closed().await, (1011, "handler panic".to_owned()));
    let mut ws = Ws::open_at(server.addr, "/raw").await;
    ws.send("4x").await;
    assert_eq!(ws.closed().await, (1011, "handler panic".to_owned()));
    serves(&mut bystander).await;
    panics += 2;
    assert_eq!(server.ended(DisconnectReason::HandlerPanic), panics);

    // Over polling, the client may come back as well.
    let mut client = Client::connected(server.addr, Via::Polling).await;
    client.send(r#"42["sync"]"#).await;
    assert_eq!(seen.next().await, "handler panic");
    let Client::Polling(polling) = &client else { unreachable!("it was asked for") };
    polling.expect_gone().await;
    serves(&mut bystander).await;
    server.expect_panics(panics + 1);
    drop(bystander);
    assert_eq!(seen.next().await, "transport close");
    assert_eq!(seen.so_far(), [""; 0]);
}

#[tokio::test]
async fn a_panic_while_authorizing_is_a_refusal_that_says_nothing() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").authorize(|_, _| panic!("the secret is 123")))
    });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        client.send("40").await;
        assert_eq!(client.text().await, r#"44{"message":"Internal server error"}"#);
    }
    assert_eq!(server.metrics().sockets_connected, 0);
    server.expect_panics(2);
}

/// No packet of the client was lost to these, so its connection goes on.
#[tokio::test]
async fn a_panic_of_the_applications_own_work_ends_nothing() {
    let (recorder, mut seen) = recorder();
    let (references, mut reference) = tokio::sync::mpsc::unbounded_channel();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(fragile(&recorder).on_connect(move |socket| {
            socket.join("room").expect("a room");
            references.send(socket.reference()).expect("the test runs");
        }))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    let socket = reference.recv().await.expect("a socket");
    server.handle.with_socket(socket, |_| panic!("with_socket"));
    serves(&mut ws).await;
    server.handle.for_each("/", |_| panic!("for_each"));
    serves(&mut ws).await;
    server.handle.for_each_in_room("/", "room", |_| panic!("for_each_in_room"));
    serves(&mut ws).await;
    ws.send(r#"42["timer"]"#).await;
    serves(&mut ws).await;
    crate::harness::eventually("the timer", || server.metrics().handler_panics == 4).await;
    serves(&mut ws).await;
    assert_eq!(server.handle.to("/", "room").emit("pong", &1).expect("a name").await, 1);
    assert_eq!(ws.text().await, r#"42["pong",1]"#);
    assert_eq!(seen.so_far(), [""; 0]);
    server.expect_panics(4);
}

#[tokio::test]
async fn a_panic_in_on_disconnect_leaves_nothing_behind() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/")
                .on_connect(|socket| assert_eq!(socket.join("room"), Ok(true)))
                .on_disconnect(|_, _| panic!("on_disconnect")),
        )
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send("41").await;
    ws.enter("/").await;
    drop(ws);
    server.all_ended(DisconnectReason::TransportClose).await;
    assert_eq!(server.handle.to("/", "room").emit("x", &1).expect("a name").await, 0);
    assert_eq!(server.metrics().sockets, 0);
    server.expect_panics(2);
}
