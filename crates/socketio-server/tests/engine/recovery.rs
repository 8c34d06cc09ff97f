//! A client that was away gets its session back and what it missed, once and in order; or a new session, and knows it.

mod client;
mod cuts;
mod newest;
mod readers;
mod restart;
mod together;
mod without;

use std::time::Duration;

use serde_json::json;
use socketio_server::{Config, DisconnectReason, Recovery, RecoveryFailure, Socket};

use crate::{
    client::{Http, Polling, Ws},
    harness::{TestServer, eventually, recorder},
};
use client::{Client, Memory, config, failed, recovering, say, server, studio, text};

on_one_and_three_shards!(
    a_session_comes_back_with_what_was_missed,
    a_client_that_has_received_nothing_is_recovered,
    what_was_emitted_to_one_socket_comes_back_too,
    a_client_may_be_back_before_its_loss_is_noticed,
    a_session_comes_back_again_and_again,
    what_is_no_session_is_connected_anew,
    a_session_that_was_left_is_over,
    a_client_that_was_away_for_too_long_is_connected_anew,
    what_is_forgotten_is_not_passed_over_in_silence,
    the_application_may_refuse_a_session_or_parts_of_it,
    of_latest_events_the_newest_comes_back,
    volatile_events_are_not_sent_again,
    an_offset_of_a_session_before_does_no_harm,
    what_a_room_got_before_it_was_joined_is_not_sent,
    arrival_is_known_by_a_heartbeat,
    who_leaves_and_comes_back_at_once_has_left,
    an_answer_to_a_heartbeat_does_not_come_between,
    a_replay_may_be_larger_than_what_else_may_wait,
    who_joins_a_room_while_a_broadcast_rests_still_gets_it,
    who_says_goodbye_while_a_request_is_lost_may_come_back,
);

async fn a_session_comes_back_with_what_was_missed(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    client.join("b").await;
    let mut witness = Client::connect(&server).await;
    witness.join("a").await;
    assert_eq!(say(&server, "a", 1).await, 2);
    client.hears(&[1]).await;
    let id = client.memory.id.clone();

    let memory = client.lose(&server).await;
    for (room, what) in [("a", 2), ("c", 3), ("b", 4), ("a", 5)] {
        say(&server, room, what).await;
    }
    drop(server.handle.broadcast("/").emit("said", &6).expect("a name"));
    drop(server.handle.broadcast("/").except("b").emit("said", &7).expect("a name"));
    drop(server.handle.to("/", "a").room("b").emit("said", &8).expect("a name"));
    drop(server.handle.to("/", &id).emit("said", &9).expect("a name"));
    drop(server.handle.broadcast("/other").emit("said", &10).expect("a name"));

    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    assert_eq!(client.memory.id, id);
    client.hears(&[2, 4, 5, 6, 8, 9]).await;
    assert_eq!(client.ask("rooms", json!([])).await, json!(["a", "b"]));
    // And on it goes.
    assert_eq!(say(&server, "b", 11).await, 1);
    client.hears(&[11]).await;
    witness.hears(&[1, 2, 5, 6, 7, 8]).await;
    assert_eq!(server.metrics().recovered, 1);
    // Of what it says itself it gets nothing, not even later.
    assert_eq!(client.ask("say", json!(["a", 12])).await, true);
    witness.hears(&[12]).await;
    let memory = client.lose(&server).await;
    Client::back(&server, memory).await.hears(&[]).await;
}

async fn a_client_that_has_received_nothing_is_recovered(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.lose(&server).await;
    assert_eq!(memory.offset, None);
    assert_eq!(say(&server, "a", 1).await, 0);
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[1]).await;
}

async fn what_was_emitted_to_one_socket_comes_back_too(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.memory.clone();
    // All of this is sent, and the client dies before it has read it; between two broadcasts, in its place.
    client.ws.send(r#"42["echo",1]"#).await;
    eventually("it is sent", || server.metrics().packets_queued >= 3).await;
    say(&server, "a", 2).await;
    client.ws.send(r#"42["echo",3]"#).await;
    client.ws.send(r#"42["echo",4]"#).await;
    client.has_been_sent(&server, 6).await;
    say(&server, "a", 5).await;
    client.lose(&server).await;
    say(&server, "a", 6).await;

    let mut client = Client::back(&server, memory).await;
    client.hears(&[1, 2, 3, 4, 5, 6]).await;
    // A part of it is read, and the client dies again.
    let fresh = Memory { offset: None, ..client.lose(&server).await };
    let mut client = Client::back(&server, fresh).await;
    for expected in [1, 2, 3] {
        let packet = client.ws.text().await;
        assert_eq!(client.memory.event(&packet).1, [json!(expected)]);
    }
    let memory = client.lose(&server).await;
    Client::back(&server, memory).await.hears(&[4, 5, 6]).await;
}

async fn a_client_may_be_back_before_its_loss_is_noticed(shards: usize) {
    let server = server(shards);
    let mut lost = Client::connect(&server).await;
    lost.join("a").await;
    say(&server, "a", 1).await;
    lost.hears(&[1]).await;
    // Sent, but never read.
    say(&server, "a", 2).await;
    let mut client = Client::back(&server, lost.memory.clone()).await;
    assert!(client.memory.recovered);
    client.hears(&[2]).await;
    assert_eq!(say(&server, "a", 3).await, 1);
    client.hears(&[3]).await;
    assert_eq!(server.ended(DisconnectReason::SessionResumed), 1);
    assert_eq!(lost.ws.text().await.find("said"), Some(4));
    let _ = lost.ws.recv().await;
}

async fn a_session_comes_back_again_and_again(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let id = client.memory.id.clone();
    for round in 0..10 {
        let memory = client.lose(&server).await;
        say(&server, "a", 2 * round).await;
        client = Client::back(&server, memory).await;
        assert!(client.memory.recovered && client.memory.id == id, "round {round}");
        say(&server, "a", 2 * round + 1).await;
        client.hears(&[2 * round, 2 * round + 1]).await;
    }
}

async fn what_is_no_session_is_connected_anew(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    say(&server, "a", 1).await;
    client.hears(&[1]).await;
    let memory = client.lose(&server).await;

    // Somebody else's guesses; each gets a session like everyone.
    let guess = |pid: &str| Memory { pid: Some(pid.to_owned()), ..Memory::default() };
    for other in [guess("AAAAAAAAAAAAAAAAAAAA"), guess(&memory.id)] {
        let mut stranger = Client::back(&server, other).await;
        assert!(!stranger.memory.recovered && stranger.memory.id != memory.id);
        stranger.hears(&[]).await;
    }
    assert_eq!(failed(&server, RecoveryFailure::UnknownSession), 2);
    // What is not even asked for is not counted.
    for auth in ["{}", r#"{"pid":5}"#, r#"{"pid":"short"}"#, r#"{"pid":null,"offset":"1"}"#] {
        let mut ws = Ws::open(server.addr).await;
        ws.send(&format!("40{auth}")).await;
        Memory::default().connected(&ws.text().await);
    }
    // Another namespace's session is none of this one's, and its own is over then.
    let mut ws = Ws::open(server.addr).await;
    ws.send(&memory.connect_packet().replacen("40", "40/other,", 1)).await;
    assert!(!ws.text().await.contains(memory.pid.as_ref().expect("a pid")));
    let anew = Client::back(&server, memory.clone()).await;
    assert!(!anew.memory.recovered);
    assert_eq!(failed(&server, RecoveryFailure::UnknownSession), 4);

    for offset in ["", "x", "ffffffffffffffff", "1.2"] {
        let mut client = Client::connect(&server).await;
        client.join("a").await;
        let mut memory = client.lose(&server).await;
        memory.offset = Some(offset.to_owned());
        let before = failed(&server, RecoveryFailure::BadOffset);
        assert!(!Client::back(&server, memory).await.memory.recovered, "{offset}");
        assert_eq!(failed(&server, RecoveryFailure::BadOffset), before + 1);
    }
    // A session is one client's at a time, and one that is connected has no second one.
    let mut client = Client::connect(&server).await;
    client.ws.send(&client.memory.connect_packet().replacen("40", "40/other,", 1)).await;
    let mut second = Memory::default();
    second.connected(&client.ws.text().await.replacen("/other,", "", 1));
    assert_ne!(second.pid, client.memory.pid);
    client.hears(&[]).await;
}

async fn a_session_that_was_left_is_over(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.ws.send("41").await;
    client.ws.send("40").await;
    let mut memory = client.memory.clone();
    memory.connected(&client.ws.text().await);
    assert!(!memory.recovered);
    drop(client.ws);
    let old = Memory { offset: None, ..client.memory };
    assert!(!Client::back(&server, old).await.memory.recovered);
}

async fn a_client_that_was_away_for_too_long_is_connected_anew(shards: usize) {
    let recovery = Recovery { window: Duration::from_millis(50), ..Recovery::default() };
    let server = TestServer::start(recovering(shards, recovery), |server| server.namespace(studio("/")));
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.lose(&server).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut client = Client::back(&server, memory).await;
    assert!(!client.memory.recovered);
    assert_eq!(client.ask("rooms", json!([])).await, json!([]));
    assert_eq!(failed(&server, RecoveryFailure::UnknownSession), 1);
    assert_eq!(server.metrics().sessions_away, 0);
}

async fn what_is_forgotten_is_not_passed_over_in_silence(shards: usize) {
    let recovery = Recovery { max_bytes: 5_000, max_direct_bytes: 300, ..Recovery::default() };
    let server = TestServer::start(recovering(shards, recovery), |server| server.namespace(studio("/")));
    let join = async |server: &TestServer| {
        let mut client = Client::connect(server).await;
        client.join("a").await;
        client
    };
    let client = join(&server).await;
    let memory = client.lose(&server).await;
    for what in 0..100 {
        say(&server, "a", what).await;
    }
    assert!(server.metrics().history_bytes <= 5_000);
    assert!(!Client::back(&server, memory).await.memory.recovered);
    assert_eq!(failed(&server, RecoveryFailure::Forgotten), 1);
    // Who missed none of that is recovered still.
    let client = join(&server).await;
    let memory = client.lose(&server).await;
    say(&server, "a", 100).await;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[100]).await;
    // The same of what was for the socket alone.
    let memory = client.memory.clone();
    for what in 0..30 {
        client.ws.send(&format!(r#"42["echo",{what}]"#)).await;
    }
    client.ws.send(r#"42["rooms"]"#).await;
    for _ in 0..30 {
        client.ws.text().await;
    }
    client.lose(&server).await;
    assert!(!Client::back(&server, memory).await.memory.recovered);
    assert_eq!(failed(&server, RecoveryFailure::Forgotten), 2);
}

async fn the_application_may_refuse_a_session_or_parts_of_it(shards: usize) {
    let (recorder, mut seen) = recorder();
    let notes = recorder.clone();
    let named = studio("/")
        .on("name", |socket: &Socket, event| {
            socket.set_data(text(&event, 0));
            socket.session_changed();
            event.ack(&true);
        })
        .save(|socket| socket.with_data(|name: &mut String| name.clone()).unwrap_or_default())
        .restore(move |socket, name, auth| {
            notes.note(format!("restore {name} {}", auth.is_some_and(|auth| auth.get().contains("pid"))));
            socket.set_data(name.to_owned());
            socket.leave("secret");
            name != "nobody"
        })
        .on_connect(|socket| socket.emit("hello", &"new").expect("a name"))
        .on_recovered(move |socket| {
            socket.emit("said", &77).expect("a name");
            recorder.note(format!("recovered {}", socket.recovered()));
        });
    let server = TestServer::start(config(shards), |server| server.namespace(named));
    let connect = async |name: &str| {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.memory.event(&client.ws.text().await).0, "hello");
        assert_eq!(client.ask("name", json!([name])).await, true);
        client.join("open").await;
        client.join("secret").await;
        client
    };
    let memory = connect("anna").await.lose(&server).await;
    say(&server, "secret", 1).await;
    say(&server, "open", 2).await;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[2, 77]).await;
    assert_eq!(client.ask("rooms", json!([])).await, json!(["open"]));
    assert_eq!([seen.next().await, seen.next().await], ["restore anna true", "recovered true"]);

    let memory = connect("nobody").await.lose(&server).await;
    say(&server, "open", 3).await;
    let mut anew = Client::back(&server, memory).await;
    assert!(!anew.memory.recovered);
    assert_eq!(anew.memory.event(&anew.ws.text().await), ("hello".to_owned(), vec![json!("new")]));
    assert_eq!(anew.ask("rooms", json!([])).await, json!([]));
    assert_eq!(failed(&server, RecoveryFailure::Refused), 1);
    client.hears(&[3]).await;
}

async fn of_latest_events_the_newest_comes_back(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.lose(&server).await;
    let progress = |key: &str, what: u32| {
        drop(server.handle.to("/", "a").latest(key).emit("said", &what).expect("a name"));
    };
    progress("x", 1);
    progress("y", 2);
    say(&server, "a", 3).await;
    progress("x", 4);
    say(&server, "a", 5).await;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[2, 3, 4, 5]).await;
}

async fn volatile_events_are_not_sent_again(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    say(&server, "a", 1).await;
    assert_eq!(server.handle.to("/", "a").volatile().emit("said", &2).expect("a name").await, 1);
    // It has an offset like any other: that of what came before.
    client.hears(&[1, 2]).await;
    let memory = client.lose(&server).await;
    assert_eq!(server.handle.to("/", "a").volatile().emit("said", &3).expect("a name").await, 0);
    say(&server, "a", 4).await;
    Client::back(&server, memory).await.hears(&[4]).await;
}

async fn an_offset_of_a_session_before_does_no_harm(shards: usize) {
    let server = server(shards);
    let mut first = Client::connect(&server).await;
    for what in 0..5 {
        first.ws.send(&format!(r#"42["echo",{what}]"#)).await;
    }
    first.hears(&[0, 1, 2, 3, 4]).await;
    // The stock client keeps its offset when its session is lost.
    let stale = first.memory.offset.clone();
    first.ws.send("41").await;
    drop(first);
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    client.ws.send(r#"42["echo",5]"#).await;
    client.has_been_sent(&server, 10).await;
    let mut memory = client.memory.clone();
    client.lose(&server).await;
    memory.offset = stale;
    let mut client = Client::back(&server, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[5]).await;
}

async fn what_a_room_got_before_it_was_joined_is_not_sent(shards: usize) {
    let server = server(shards);
    let mut client = Client::connect(&server).await;
    say(&server, "a", 1).await;
    client.join("a").await;
    say(&server, "a", 2).await;
    let memory = client.memory.clone();
    client.lose(&server).await;
    Client::back(&server, memory).await.hears(&[2]).await;
}

async fn arrival_is_known_by_a_heartbeat(shards: usize) {
    let (recorder, mut seen) = recorder();
    let namespace = studio("/").on("tell", move |socket, event| {
        let (what, recorder) = (text(&event, 0), recorder.clone());
        socket.emit("said", &1).expect("a name");
        socket.when_arrived(move || recorder.note(format!("{what} arrived")));
    });
    let server = TestServer::start(config(shards), |server| server.namespace(namespace));
    let mut client = Client::connect(&server).await;
    client.ws.send(r#"42["tell","one"]"#).await;
    client.ws.send(r#"42["tell","two"]"#).await;
    client.memory.event(&client.ws.text().await);
    // The question comes at once, behind the event; the second waits for the first one's answer.
    assert_eq!(client.ws.text().await, "2");
    client.memory.event(&client.ws.text().await);
    assert_eq!(seen.so_far(), [""; 0]);
    client.ws.send("3").await;
    assert_eq!(seen.next().await, "one arrived");
    assert_eq!(client.ws.text().await, "2");
    client.ws.send("3").await;
    assert_eq!(seen.next().await, "two arrived");
    // What has arrived is not remembered: even a client that forgot its offset does not get it again.
    let memory = Memory { offset: None, ..client.lose(&server).await };
    Client::back(&server, memory).await.hears(&[]).await;
}

/// `socket.disconnect().connect()`: the stock client still names the session, and the new connection may be read first.
async fn who_leaves_and_comes_back_at_once_has_left(shards: usize) {
    let server = server(shards);
    for _ in 0..100 {
        let Client { mut ws, memory } = Client::connect(&server).await;
        let mut next = Ws::open(server.addr).await;
        ws.send("41").await;
        next.send(&memory.connect_packet()).await;
        let mut anew = Memory { pid: memory.pid.clone(), ..Memory::default() };
        anew.connected(&next.text().await);
        assert!(!anew.recovered);
        assert_ne!(anew.id, memory.id);
    }
}

/// The client's last word on its old connection comes while the server waits for that one's end.
async fn an_answer_to_a_heartbeat_does_not_come_between(shards: usize) {
    let namespace = studio("/").on("ask", |socket, _| socket.when_arrived(|| {}));
    let server = TestServer::start(config(shards), |server| server.namespace(namespace));
    for round in 0..200 {
        let Client { mut ws, memory } = Client::connect(&server).await;
        ws.send(r#"42["ask"]"#).await;
        assert_eq!(ws.text().await, "2");
        let mut next = Ws::open(server.addr).await;
        next.send(&memory.connect_packet()).await;
        ws.send("3").await;
        let mut back = Memory { pid: memory.pid.clone(), ..Memory::default() };
        back.connected(&next.text().await);
        assert!(back.recovered, "round {round}");
    }
}

async fn a_replay_may_be_larger_than_what_else_may_wait(shards: usize) {
    const EVENTS: u32 = 100;
    let config = Config { outbox_soft_limit: 16 * 1024, outbox_hard_limit: 32 * 1024, ..config(shards) };
    let server = TestServer::start(config, |server| server.namespace(studio("/")));
    let mut client = Client::connect(&server).await;
    client.join("a").await;
    let memory = client.lose(&server).await;
    let large = "x".repeat(2_000);
    for what in 0..EVENTS {
        let said = server.handle.to("/", "a").emit("said", &(what, &large)).expect("a name");
        assert_eq!(said.await, 0);
    }
    // Between two polls nothing of it leaves.
    let mut polling = Polling::open(server.addr).await;
    polling.send(memory.connect_packet()).await;
    let mut memory = memory;
    memory.connected(&polling.text().await);
    assert!(memory.recovered);
    for what in 0..EVENTS {
        let (_, args) = memory.event(&polling.text().await);
        assert_eq!(args[0][0], what);
    }
    // From then on no more may wait for it than for others.
    for what in 0..EVENTS {
        drop(server.handle.to("/", "a").emit("said", &(what, &large)).expect("a name"));
    }
    polling.expect_gone().await;
}

/// What a socket is sent while a broadcast to two rooms rests must not say that it has that broadcast, whichever room it
/// joins meanwhile.
async fn who_joins_a_room_while_a_broadcast_rests_still_gets_it(shards: usize) {
    const BROADCAST: u32 = 99;
    const OTHERS: u32 = 6;
    for joins in ["elsewhere", "a"] {
        let config = Config { fanout_per_turn: 1, ..config(shards) };
        let server = TestServer::start(config, |server| {
            server.namespace(studio("/").on_async("both", |socket, event| {
                let joins: String = event.parse(0).expect("a string");
                async move {
                    drop(socket.handle().to("/", "a").room("b").emit("said", &BROADCAST).expect("a name"));
                    for turn in 0..OTHERS {
                        socket.emit("said", &turn).expect("a name");
                        tokio::task::yield_now().await;
                        socket.join(&joins).expect("a room");
                    }
                }
            }))
        });
        let mut client = Client::connect(&server).await;
        client.join("b").await;
        let mut others = Vec::new();
        for _ in 0..OTHERS * shards as u32 {
            let mut other = Client::connect(&server).await;
            other.join("a").await;
            others.push(other);
        }
        client.ws.send(&format!(r#"42["both","{joins}"]"#)).await;
        let mut before = 0;
        let memory = loop {
            let memory = client.memory.clone();
            let packet = client.ws.text().await;
            if client.memory.event(&packet).1 == [json!(BROADCAST)] {
                break memory;
            }
            before += 1;
        };
        assert!(before > 2, "it came after {before} others");
        client.lose(&server).await;
        let expected: Vec<u32> = [BROADCAST].into_iter().chain(before..OTHERS).collect();
        Client::back(&server, memory).await.hears(&expected).await;
    }
}

/// The stock client whose connections are cut says that it closes. The server may still wait for the body of its last request,
/// or have a poll of it.
async fn who_says_goodbye_while_a_request_is_lost_may_come_back(shards: usize) {
    let server = server(shards);
    for is_post in [true, false] {
        let mut memory = Memory::default();
        let mut polling = Polling::open(server.addr).await;
        polling.send("40").await;
        memory.connected(&polling.text().await);
        polling.send(r#"427["join","a"]"#).await;
        assert_eq!(polling.text().await, "437[true]");
        let mut lost = Http::connect(server.addr).await;
        let _poll = if is_post {
            let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n4", polling.target());
            lost.send_raw(head.as_bytes()).await;
            eventually("a body is awaited", || server.metrics().unfinished_bytes > 0).await;
            assert_eq!(polling.post("1").await.status, 400);
            None
        } else {
            let poll = polling.begin_poll().await;
            server.settle().await;
            assert_eq!(polling.get().await.status, 400);
            Some(poll)
        };
        eventually("the session is kept", || server.metrics().sessions_away == 1).await;
        say(&server, "a", 1).await;
        let mut client = Client::back(&server, memory).await;
        assert!(client.memory.recovered);
        client.hears(&[1]).await;
        client.ws.send("41").await;
        server.settle().await;
    }
}
