//! The sessions of several namespaces share a connection: they are lost together and come back one by one.

use serde_json::json;
use socketio_server::EventArgs;

use super::client::{Client, Memory, config, say, server, studio, text};
use crate::{
    client::Ws,
    harness::{TestServer, recorder},
};

on_one_and_three_shards!(
    all_sessions_of_a_connection_come_back_before_its_loss_is_noticed,
    a_heartbeat_under_way_does_not_confirm_another_session_s_replay,
    an_event_before_a_replay_does_not_move_the_offset,
    a_heartbeat_for_an_event_before_a_replay_comes_behind_it,
    what_was_for_a_member_is_not_sent_again_to_others,
);

const OTHER: &str = "/other";

/// The packet by which a session of the other namespace is claimed.
fn claim_other(memory: &Memory) -> String {
    let packet = memory.connect_packet();
    match packet.strip_prefix("40") {
        Some(auth) => format!("40{OTHER},{auth}"),
        None => unreachable!("a CONNECT packet begins with 40"),
    }
}

/// The reply to CONNECT or the event in a packet of the other namespace, as the default namespace would have it.
fn of_other(packet: &str) -> String {
    packet.replacen(&format!("{OTHER},"), "", 1)
}

async fn connect_both(server: &TestServer) -> (Client, Memory) {
    let mut client = Client::connect(server).await;
    let mut other = Memory::default();
    client.ws.send(&claim_other(&other)).await;
    other.connected(&of_other(&client.ws.text().await));
    (client, other)
}

async fn all_sessions_of_a_connection_come_back_before_its_loss_is_noticed(shards: usize) {
    let server = server(shards);
    for round in 0..50 {
        let (client, other) = connect_both(&server).await;
        let mut next = Ws::open(server.addr).await;
        next.send(&client.memory.connect_packet()).await;
        next.send(&claim_other(&other)).await;
        let (mut back, mut other_back) = (client.memory.clone(), other.clone());
        for _ in 0..2 {
            let packet = next.text().await;
            let memory = if packet.contains(OTHER) { &mut other_back } else { &mut back };
            memory.connected(&of_other(&packet));
        }
        assert!(back.recovered && other_back.recovered, "round {round}");
        assert_eq!((back.id, other_back.id), (client.memory.id, other.id));
    }
}

async fn a_heartbeat_under_way_does_not_confirm_another_session_s_replay(shards: usize) {
    let namespace = |name| studio(name).on("ask", |socket, _| socket.when_arrived(|| {}));
    let server =
        TestServer::start(config(shards), |server| server.namespace(namespace("/")).namespace(namespace(OTHER)));
    let (mut client, other) = connect_both(&server).await;
    // An event of the other namespace is sent and not confirmed: the heartbeat behind it is not answered.
    client.ws.send(&format!(r#"42{OTHER},["echo",1]"#)).await;
    client.ws.send(r#"42["ask"]"#).await;
    client.ws.text().await;
    assert_eq!(client.ws.text().await, "2");
    let memory = client.lose(&server).await;

    let mut client = Client::back(&server, memory).await;
    client.ws.send(r#"42["ask"]"#).await;
    assert_eq!(client.ws.text().await, "2");
    client.ws.send(&claim_other(&other)).await;
    let mut back = other.clone();
    back.connected(&of_other(&client.ws.text().await));
    assert!(back.recovered);
    // The answer to the heartbeat that went out before the replay. The client never sees the replay itself.
    assert!(client.ws.text().await.contains(OTHER));
    client.ws.send("3").await;
    client.ask("rooms", json!([])).await;
    client.lose(&server).await;

    let mut ws = Ws::open(server.addr).await;
    ws.send(&claim_other(&other)).await;
    back.connected(&of_other(&ws.text().await));
    assert!(back.recovered);
    assert_eq!(back.event(&of_other(&ws.text().await)).1, [json!(1)]);
}

async fn an_event_before_a_replay_does_not_move_the_offset(shards: usize) {
    let namespace = studio("/").before_replay(|socket| socket.emit("said", &0).expect("a name"));
    let server = TestServer::start(config(shards), |server| server.namespace(namespace));
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let mut memory = client.lose(&server).await;
    say(&server, "a", 1).await;
    for _ in 0..2 {
        let mut client = Client::back(&server, memory.clone()).await;
        assert!(client.memory.recovered);
        let packet = client.ws.text().await;
        assert_eq!(client.memory.event(&packet).1, [json!(0)]);
        // Only that arrived, and the line is lost again.
        memory = client.lose(&server).await;
    }
    let mut client = Client::back(&server, memory).await;
    client.hears(&[0, 1]).await;
    let memory = client.lose(&server).await;
    Client::back(&server, memory).await.hears(&[0]).await;
}

async fn a_heartbeat_for_an_event_before_a_replay_comes_behind_it(shards: usize) {
    let (recorder, mut seen) = recorder();
    let namespace = studio("/").before_replay(move |socket| {
        let recorder = recorder.clone();
        socket.emit("said", &0).expect("a name");
        socket.when_arrived(move || recorder.note("arrived"));
    });
    let server = TestServer::start(config(shards), |server| server.namespace(namespace));
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.lose(&server).await;
    say(&server, "a", 1).await;
    // Of what is sent, two packets arrive; a heartbeat among them is answered.
    let mut client = Client::back(&server, memory.clone()).await;
    for _ in 0..2 {
        if client.ws.text().await == "2" {
            client.ws.send("3").await;
        }
    }
    client.lose(&server).await;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    for expected in [0, 1] {
        let packet = client.ws.text().await;
        assert_eq!(client.memory.event(&packet).1, [json!(expected)]);
    }
    assert_eq!(client.ws.text().await, "2");
    assert_eq!(seen.so_far(), [""; 0]);
    client.ws.send("3").await;
    assert_eq!(seen.next().await, "arrived");
}

async fn what_was_for_a_member_is_not_sent_again_to_others(shards: usize) {
    let namespace = studio("/")
        .on("echo in", |socket, event| {
            let args = EventArgs::from_raw(event.arg(1).expect("an argument").get());
            socket.emit_args_in(&text(&event, 0), "said", &args).expect("a name");
        })
        .restore(|socket, _, _| {
            socket.leave("secret");
            true
        });
    let server = TestServer::start(config(shards), |server| server.namespace(namespace));
    let mut client = Client::connect(&server).await;
    client.join("open").await;
    client.join("secret").await;
    let memory = client.memory.clone();
    for (room, what) in [("open", 1), ("secret", 2), ("open", 3)] {
        client.ws.send(&format!(r#"42["echo in","{room}",{what}]"#)).await;
    }
    client.hears(&[1, 2, 3]).await;
    client.lose(&server).await;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[1, 3]).await;
}
