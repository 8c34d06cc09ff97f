//! Connecting to namespaces, leaving them, and being sent away.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_server::{Config, ConnectError, DisconnectReason, Namespace};
use tokio::sync::Semaphore;

use crate::{
    client::{Client, Polling, Via, Ws, socket_id, text_frames},
    harness::{TestServer, echo, recorder},
};

on_one_and_three_shards!(
    clients_connect_to_namespaces,
    an_unknown_namespace_is_refused,
    a_namespace_twice_ends_the_connection,
    one_namespace_is_left_and_the_other_stays,
    events_for_a_namespace_that_was_left_are_ignored,
    refusals_carry_message_and_data,
    a_client_waits_for_what_its_admission_needs,
    a_handler_disconnects_one_namespace,
    a_handler_closes_the_connection,
    each_socket_has_one_end,
);

async fn clients_connect_to_namespaces(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        for (ask, consent, auth) in [
            ("40", "40", r#"42["auth",{}]"#),
            ("40/,", "40", r#"42["auth",{}]"#),
            (r#"40{"token":"123"}"#, "40", r#"42["auth",{"token":"123"}]"#),
            ("40/custom,", "40/custom,", r#"42/custom,["auth",{}]"#),
            ("40/custom", "40/custom,", r#"42/custom,["auth",{}]"#),
            (r#"40/custom,{"token":"abc"}"#, "40/custom,", r#"42/custom,["auth",{"token":"abc"}]"#),
        ] {
            let mut client = Client::open(server.addr, via).await;
            client.send(ask).await;
            let id = socket_id(&client.text().await, consent);
            assert_eq!(id.len(), 20);
            assert!(server.handle.is_socket_id(&id));
            assert_eq!(client.text().await, auth, "{ask}");
        }
    }
    assert_eq!(server.metrics().sockets_connected, 12);
}

async fn an_unknown_namespace_is_refused(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        client.send("40/random").await;
        assert_eq!(client.text().await, r#"44/random,{"message":"Invalid namespace"}"#);
        // The connection is as good as before.
        client.send("40/custom,").await;
        socket_id(&client.text().await, "40/custom,");
    }
}

async fn a_namespace_twice_ends_the_connection(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        for namespace in ["40", "40/custom,"] {
            let mut client = Client::open(server.addr, via).await;
            client.send(namespace).await;
            client.text().await;
            client.text().await;
            client.send_and_be_closed(namespace).await;
        }
    }
}

async fn one_namespace_is_left_and_the_other_stays(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, r#"42["auth",{}]"#);
        client.send("40/custom").await;
        let first = socket_id(&client.text().await, "40/custom,");
        assert_eq!(client.text().await, r#"42/custom,["auth",{}]"#);
        client.send("41/custom").await;
        client.send(r#"42["message","message to main namespace"]"#).await;
        assert_eq!(client.text().await, r#"42["message-back","message to main namespace"]"#);

        // Back again, as somebody else.
        client.send("40/custom,").await;
        assert_ne!(socket_id(&client.text().await, "40/custom,"), first);
        assert_eq!(client.text().await, r#"42/custom,["auth",{}]"#);
        client.send("41").await;
        client.send(r#"42/custom,["message",1]"#).await;
        assert_eq!(client.text().await, r#"42/custom,["message-back",1]"#);
    }
    assert_eq!(server.ended(DisconnectReason::ClientNamespace), 4);
}

async fn events_for_a_namespace_that_was_left_are_ignored(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let before = server.metrics().events_stray;
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, r#"42["auth",{}]"#);
        // Left, never connected to, unknown; each kind of packet.
        client.send("40/custom,").await;
        client.text().await;
        client.text().await;
        client.send("41/custom,").await;
        for namespace in ["/custom", "/random"] {
            client.send(&format!(r#"42{namespace},["message",1]"#)).await;
            client.send(&format!("43{namespace},0[]")).await;
            client.send(&format!("41{namespace},")).await;
            client.send(&format!(r#"451-{namespace},["message",{{"_placeholder":true,"num":0}}]"#)).await;
            client.send_binary(&[1]).await;
        }
        client.send(r#"42["message",2]"#).await;
        assert_eq!(client.text().await, r#"42["message-back",2]"#);
        assert_eq!(server.metrics().events_stray - before, 8);
    }
}

#[derive(Deserialize)]
struct Auth {
    token: String,
}

async fn refusals_carry_message_and_data(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/private")
                .authorize(|socket, auth: Option<&RawValue>| {
                    assert!(!socket.is_connected());
                    assert!(socket.join("too early").is_err());
                    socket.emit("too early", &1).expect("a name");
                    let token =
                        auth.and_then(|auth| serde_json::from_str(auth.get()).ok()).map(|auth: Auth| auth.token);
                    match token.as_deref() {
                        Some("good") => Ok(()),
                        Some("old") => Err(ConnectError::new("token \"expired\"")
                            .with_data(&serde_json::json!({"code": "EXPIRED", "retry": true}))),
                        _ => Err(ConnectError::new("authentication required")),
                    }
                })
                .on_connect(move |socket| recorder.note(socket.namespace())),
        )
    });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        for (ask, refusal) in [
            ("40/private,", r#"44/private,{"message":"authentication required"}"#),
            (r#"40/private,{"token":7}"#, r#"44/private,{"message":"authentication required"}"#),
            (
                r#"40/private,{"token":"old"}"#,
                r#"44/private,{"message":"token \"expired\"","data":{"code":"EXPIRED","retry":true}}"#,
            ),
        ] {
            client.send(ask).await;
            assert_eq!(client.text().await, refusal);
        }
        assert_eq!(seen.so_far(), [""; 0], "nobody was connected");
        client.send(r#"40/private,{"token":"good"}"#).await;
        socket_id(&client.text().await, "40/private,");
        assert_eq!(seen.next().await, "/private");
    }
    assert_eq!(server.metrics().sockets_connected, 2);
}

async fn a_client_waits_for_what_its_admission_needs(shards: usize) {
    let (recorder, mut seen) = recorder();
    let key = Arc::new(Semaphore::new(0));
    let (on_its_way, there) = (key.clone(), key.clone());
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        let asked = recorder.clone();
        let slow = Namespace::new("/slow")
            .before_connect(move |auth, headers| {
                assert!(headers.is_none_or(HeaderMap::is_empty), "none is kept");
                auth?;
                asked.note("asked");
                let key = on_its_way.clone();
                Some(async move { key.acquire().await.expect("it is not closed").forget() })
            })
            .authorize(move |_, _| match there.try_acquire() {
                Ok(_) => Ok(()),
                Err(_) => Err(ConnectError::new("no key")),
            });
        server.namespace(slow).namespace(echo("/"))
    });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        // Without anything to wait for, the answer comes at once.
        client.send("40/slow,").await;
        assert_eq!(client.text().await, r#"44/slow,{"message":"no key"}"#);
        client.send(r#"40/slow,{"token":1}"#).await;
        assert_eq!(seen.next().await, "asked");
        // Nobody else waits, on the same connection either.
        client.send("40").await;
        socket_id(&client.text().await, "40");
        assert_eq!(client.text().await, r#"42["auth",{}]"#);
        key.add_permits(2);
        socket_id(&client.text().await, "40/slow,");
        key.try_acquire().expect("one was left").forget();
    }
    // A client that is gone when the time has come is not connected, and one that asks twice ends its connection.
    let mut client = Ws::open(server.addr).await;
    client.send(r#"40/slow,{"token":1}"#).await;
    assert_eq!(seen.next().await, "asked");
    client.send(r#"40/slow,{"token":1}"#).await;
    client.closed().await;
    let before = server.metrics().sockets_connected;
    key.add_permits(2);
    let mut other = Ws::open(server.addr).await;
    other.send("40").await;
    socket_id(&other.text().await, "40");
    assert_eq!(server.metrics().sockets_connected, before + 1);
}

/// Notes events and ends; `bye` leaves the namespace, `close` ends the connection.
fn leaving(name: &'static str, recorder: &crate::harness::Recorder) -> Namespace {
    let (events, ends) = (recorder.clone(), recorder.clone());
    Namespace::new(name)
        .on("bye", |socket, _| {
            socket.emit("first", &1).expect("a name");
            socket.disconnect();
            assert!(!socket.is_connected());
            // Nothing can follow, and asking twice is asking once.
            socket.emit("last", &2).expect("a name");
            socket.disconnect();
            assert!(socket.join("room").is_err());
        })
        .on("close", |socket, _| socket.close_connection())
        .fallback(move |socket, event| events.note(format!("{} {}", socket.namespace(), event.name())))
        .on_disconnect(move |socket, reason| {
            assert!(!socket.is_connected());
            ends.note(format!("{} {}", socket.namespace(), reason.as_str()));
        })
}

async fn a_handler_disconnects_one_namespace(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(leaving("/a", &recorder)).namespace(leaving("/b", &recorder))
    });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        for namespace in ["/a", "/b"] {
            client.send(&format!("40{namespace},")).await;
            client.text().await;
        }
        client.send(r#"42/a,["bye"]"#).await;
        assert_eq!(client.text().await, r#"42/a,["first",1]"#);
        assert_eq!(client.text().await, "41/a,");
        assert_eq!(seen.next().await, "/a server namespace disconnect");
        client.send(r#"42/a,["late"]"#).await;
        client.send(r#"42/b,["still here"]"#).await;
        assert_eq!(seen.next().await, "/b still here");
        // And back, if the client wants.
        client.send("40/a,").await;
        socket_id(&client.text().await, "40/a,");
        client.send(r#"42/a,["again"]"#).await;
        assert_eq!(seen.next().await, "/a again");
        drop(client);
        let reason = "transport close";
        assert_eq!(seen.next_sorted(2).await, [format!("/a {reason}"), format!("/b {reason}")]);
    }
}

/// An event behind the one whose handler sent the client away is not handled, even if both came together.
#[tokio::test]
async fn after_a_disconnect_no_event_is_handled() {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(leaving("/a", &recorder)).namespace(leaving("/b", &recorder))
    });
    let mut ws = Ws::open(server.addr).await;
    ws.enter("/a").await;
    ws.enter("/b").await;
    let packets = [r#"42/a,["bye"]"#, r#"42/a,["late"]"#, r#"42/a,["bye"]"#, r#"42/b,["heard"]"#];
    ws.send_raw(&text_frames(packets)).await;
    let notes = seen.next_sorted(2).await;
    assert_eq!(notes, ["/a server namespace disconnect", "/b heard"]);
    assert_eq!(ws.text().await, r#"42/a,["first",1]"#);
    assert_eq!(ws.text().await, "41/a,");

    ws.send_raw(&text_frames([r#"42/b,["close"]"#, r#"42/b,["late"]"#, "40/a,"])).await;
    assert_eq!(ws.text().await, "41/b,");
    assert_eq!(ws.closed().await.0, 1000);
    server.all_ended(DisconnectReason::ServerNamespace).await;
    assert_eq!(seen.so_far(), ["/b server namespace disconnect"]);

    let session = Polling::open(server.addr).await;
    session.send("40/a,\x1e40/b,").await;
    session.get().await;
    session.send("42/a,[\"bye\"]\x1e42/a,[\"late\"]\x1e42/b,[\"heard\"]").await;
    assert_eq!(seen.next_sorted(2).await, ["/a server namespace disconnect", "/b heard"]);
    session.get().await;
    session.send("42/b,[\"close\"]\x1e42/b,[\"late\"]").await;
    assert_eq!(session.get().await.parts(), (200, "41/b,"));
    assert_eq!(session.get().await.parts(), (200, "1"));
    assert_eq!(seen.next().await, "/b server namespace disconnect");
    assert_eq!(seen.so_far(), [""; 0]);
}

async fn a_handler_closes_the_connection(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(leaving("/a", &recorder)).namespace(leaving("/b", &recorder))
    });
    let ends = ["/a server namespace disconnect", "/b server namespace disconnect"];

    let mut ws = Ws::open(server.addr).await;
    ws.enter("/a").await;
    ws.enter("/b").await;
    ws.send(r#"42/b,["close"]"#).await;
    assert_eq!(ws.text().await, "41/a,");
    assert_eq!(ws.text().await, "41/b,");
    assert_eq!(ws.closed().await, (1000, "server namespace disconnect".to_owned()));
    assert_eq!(seen.next_sorted(2).await, ends);

    // Over polling, whether a poll waits for it or comes later, and whoever asks.
    for waiting in [true, false] {
        let mut session = Polling::open(server.addr).await;
        session.send("40/a,\x1e40/b,").await;
        session.text().await;
        session.text().await;
        let poll = if waiting { Some(session.begin_poll().await) } else { None };
        server.settle().await;
        server.handle.for_each("/a", |socket| socket.close_connection());
        assert_eq!(seen.next_sorted(2).await, ends);
        let mut packets = match poll {
            Some(poll) => poll.response().await.body,
            None => session.get().await.body,
        };
        if !packets.ends_with("\x1e1") {
            packets = format!("{packets}\x1e{}", session.get().await.body);
        }
        assert_eq!(packets, "41/a,\x1e41/b,\x1e1");
        session.expect_gone().await;
    }
}

async fn each_socket_has_one_end(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        let namespace = |name| {
            let (begun, ended) = (recorder.clone(), recorder.clone());
            Namespace::new(name)
                .on_connect(move |socket| {
                    socket.join("room").expect("a room");
                    begun.note(format!("begin {}", socket.id()));
                })
                .on_disconnect(move |socket, reason| {
                    assert_eq!(socket.rooms(), ["room"], "its rooms can still be read");
                    assert!(socket.in_room("room"));
                    ended.note(format!("end {} {}", socket.id(), reason.as_str()));
                })
        };
        server.namespace(namespace("/a")).namespace(namespace("/b")).namespace(echo("/"))
    });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        let mut ids = Vec::new();
        for namespace in ["/a", "/b"] {
            client.send(&format!("40{namespace},")).await;
            ids.push(socket_id(&client.text().await, &format!("40{namespace},")));
            assert_eq!(seen.next().await, format!("begin {}", ids.last().expect("an id")));
        }
        client.send("41/a,").await;
        assert_eq!(seen.next().await, format!("end {} client namespace disconnect", ids[0]));
        drop(client);
        assert_eq!(seen.next().await, format!("end {} transport close", ids[1]));
        assert_eq!(server.handle.broadcast("/a").emit("x", &1).expect("a name").await, 0);
        assert_eq!(server.handle.to("/b", "room").emit("x", &1).expect("a name").await, 0);
        assert_eq!(seen.so_far(), [""; 0]);
    }
}

#[tokio::test]
async fn what_is_emitted_while_connecting_follows_the_consent() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_connect(|socket| {
            for number in 0..3 {
                socket.emit("number", &number).expect("a name");
            }
        }))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    for number in 0..3 {
        assert_eq!(ws.text().await, format!(r#"42["number",{number}]"#));
    }
    let session = Polling::open(server.addr).await;
    session.send("40").await;
    let body = session.get().await.body;
    let (consent, rest) = body.split_once('\x1e').expect("several packets");
    socket_id(consent, "40");
    assert_eq!(rest, "42[\"number\",0]\x1e42[\"number\",1]\x1e42[\"number\",2]");
}

/// A stock client may emit in the same tick as it connects.
#[tokio::test]
async fn events_right_behind_the_connect_are_handled() {
    let server = TestServer::echo(Config { shards: 3, ..Config::default() });
    for round in 0..100 {
        let mut ws = Ws::open(server.addr).await;
        ws.send_raw(&text_frames(["40", &format!(r#"420["message-with-ack",{round}]"#)])).await;
        socket_id(&ws.text().await, "40");
        assert_eq!(ws.text().await, r#"42["auth",{}]"#);
        assert_eq!(ws.text().await, format!("430[{round}]"));
    }
}

#[tokio::test]
async fn a_socket_knows_its_namespace_id_and_data() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/data")
                .on_connect(|socket| {
                    assert_eq!(socket.with_data(|_: &mut String| ()), None);
                    socket.set_data("text".to_owned());
                    socket.set_data(1_u32);
                    assert_eq!(socket.with_data(|_: &mut String| ()), None, "of another type");
                    assert_eq!(socket.with_data(|_: &mut u32| socket.with_data(|_: &mut u32| ())), Some(None));
                })
                .on("data", |socket, event| {
                    let count = socket.with_data(|count: &mut u32| std::mem::replace(count, *count + 1));
                    assert!(socket.connected_at().elapsed().is_ok_and(|elapsed| elapsed < Duration::from_secs(60)));
                    event.ack(&(socket.id(), socket.namespace(), count));
                }),
        )
    });
    let mut ws = Ws::open(server.addr).await;
    let id = ws.enter("/data").await;
    for count in 1..4 {
        ws.send(r#"42/data,7["data"]"#).await;
        assert_eq!(ws.text().await, format!(r#"43/data,7[["{id}","/data",{count}]]"#));
    }
}
