//! Who may be where, by the rules of the configuration.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_websockets::{ClientBuilder, Message};

use crate::api::{accepted, post};
use crate::client::Client;
use crate::reload::Configured;
use crate::server::{Server, signed, token};

const RULES: &str = r#"
    [[rooms]]
    name = "project-{id}"
    allow = { claim = "projects", contains = "{id}" }
    [[rooms]]
    name = "lobby"
    allow = "anyone"
    [[rooms]]
    name = "*"
    allow = "authenticated"
    [[media]]
    name = "team-{team}-*"
    allow = { claim = "team", equals = "{team}" }
    allow_owned = { claim = "team", equals = "{team}" }
"#;

/// The same, with the rooms of projects and the items of teams closed.
const CLOSED: &str = r#"
    [[rooms]]
    name = "project-*"
    allow = "nobody"
    [[media]]
    name = "*"
    allow = "nobody"
"#;

fn not_allowed() -> Value {
    json!({"success": false, "error": "Not allowed"})
}

/// Sockets that get an event of the room.
async fn reached(server: &Server, room: &str) -> u64 {
    accepted(&post(server, &format!("/v1/rooms/{room}/events"), &json!({"event": "e"})).await)
}

fn member(user: &str) -> String {
    signed(json!({"userId": user, "projects": ["1", 2], "team": "red"}))
}

#[tokio::test]
async fn rules_decide_by_the_tokens_claims() {
    let server = Configured::start_with(RULES, &[("LOG_LEVEL", "debug")]);
    let mut alice = Client::connect_as(&server, "/", &member("alice")).await;
    let mut bob = Client::connect_as(&server, "/", &token("bob")).await;
    let mut nobody = Client::connect(&server, "/").await;
    for room in ["project-1", "project-2", "lobby", "other"] {
        assert_eq!(alice.call("joinRoom", json!([room])).await["success"], true, "{room}");
    }
    assert_eq!(alice.call("joinRoom", json!(["project-3"])).await, not_allowed());
    assert_eq!(bob.call("joinRoom", json!(["project-1"])).await, not_allowed());
    assert_eq!(bob.call("joinRoom", json!(["other"])).await["success"], true);
    assert_eq!(nobody.call("joinRoom", json!(["other"])).await, not_allowed());
    assert_eq!(nobody.call("joinRoom", json!(["lobby"])).await["success"], true);
    let log = server.log();
    assert!(log.contains("project-3") && log.contains("[[rooms]] 1 (\\\"project-{id}\\\")"), "{log}");

    // The same socket as somebody else has what that one may have, and no more.
    assert_eq!(alice.call("authenticate", json!([{"token": token("alice")}])).await["success"], true);
    assert_eq!(reached(&server, "project-1").await, 0);
    assert_eq!(reached(&server, "other").await, 2);
    alice.call("logout", json!([])).await;
    assert_eq!(reached(&server, "other").await, 1);
    assert_eq!(reached(&server, "lobby").await, 2);
}

#[tokio::test]
async fn an_owned_item_is_shared_with_whom_the_rules_name() {
    let server = Configured::start(RULES);
    let mut alice = Client::connect_as(&server, "/media", &member("alice")).await;
    let mut bob = Client::connect_as(&server, "/media", &token("bob")).await;
    let progress = json!({"progress": 1, "stage": "s", "ownerId": "carol"});
    for item in ["team-red-1", "m"] {
        accepted(&post(&server, &format!("/v1/media/{item}/progress"), &progress).await);
    }
    assert_eq!(alice.call("subscribeMedia", json!(["team-red-1"])).await["success"], true);
    assert_eq!(alice.call("subscribeMedia", json!(["m"])).await, not_allowed());
    assert_eq!(bob.call("subscribeMedia", json!(["team-red-1"])).await, not_allowed());

    // Nobody knows the owner yet, and the rule is for both.
    assert_eq!(alice.call("subscribeMedia", json!(["team-red-2"])).await["success"], true);
    assert_eq!(accepted(&post(&server, "/v1/media/team-red-2/progress", &progress).await), 1);
}

#[tokio::test]
async fn a_reload_ends_what_is_no_longer_allowed() {
    let server = Configured::start(RULES);
    let mut rooms = Client::connect_as(&server, "/", &member("alice")).await;
    let mut media = Client::connect_as(&server, "/media", &member("alice")).await;
    for room in ["project-1", "lobby"] {
        assert_eq!(rooms.call("joinRoom", json!([room])).await["success"], true);
    }
    assert_eq!(media.call("subscribeMedia", json!(["team-red-1"])).await["success"], true);
    assert_eq!((reached(&server, "project-1").await, reached(&server, "lobby").await), (1, 1));
    rooms.events().await;

    server.reload(CLOSED).await;
    let progress = json!({"progress": 1, "stage": "s"});
    assert_eq!(accepted(&post(&server, "/v1/media/team-red-1/progress", &progress).await), 0);
    assert_eq!((reached(&server, "project-1").await, reached(&server, "lobby").await), (0, 1));
    let names: Vec<String> = rooms.events().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["e"], "the lobby's event, and no word of the room that was left");
    let info = rooms.call("getConnectionInfo", json!([])).await;
    assert_eq!(info["rooms"], json!([rooms.id, "user:alice", "lobby"]));
    assert_eq!(server.metric("slop_room_memberships_ended_total").await, 1);
    assert_eq!(server.metric("slop_subscriptions_ended_total").await, 1);

    // What is allowed again has to be joined again, by the claims that were kept.
    server.reload(RULES).await;
    assert_eq!(reached(&server, "project-1").await, 0);
    assert_eq!(rooms.call("joinRoom", json!(["project-1"])).await["success"], true);
}

#[tokio::test]
async fn a_session_that_comes_back_has_what_the_rules_allow_now() {
    let server = Configured::start(RULES);
    let mut alice = Client::connect_as(&server, "/", &member("alice")).await;
    for room in ["project-1", "lobby"] {
        assert_eq!(alice.call("joinRoom", json!([room])).await["success"], true);
    }
    let (pid, offset) = (alice.pid.clone().expect("a session"), alice.offset.clone());
    drop(alice);
    for room in ["project-1", "lobby"] {
        let event = json!({"event": "missed", "data": room});
        assert_eq!(post(&server, &format!("/v1/rooms/{room}/events"), &event).await.status, 200);
    }
    server.reload(CLOSED).await;
    let auth = json!({"pid": pid, "offset": offset});
    let mut back = Client::try_connect(&server, "/", auth, None).await.expect("the session is there");
    assert_eq!(back.pid, Some(pid), "the session is the same");
    assert_eq!(back.expect("missed").await, "lobby");
    assert_eq!(back.call("getConnectionInfo", json!([])).await["rooms"], json!([back.id, "user:alice", "lobby"]));
    // The claims came back with it: what the rules allow again can be joined without another token.
    server.reload(RULES).await;
    assert_eq!(back.call("joinRoom", json!(["project-1"])).await["success"], true);
}

/// The rules may have come to name other claims while the client was away, and the stock client offers its token again.
#[tokio::test]
async fn a_token_offered_on_return_is_looked_at_by_the_rules_in_force() {
    let server = Configured::start("");
    let alice = Client::connect_as(&server, "/", &member("alice")).await;
    let mut auth = json!({"pid": alice.pid, "offset": alice.offset});
    drop(alice);
    server.reload(RULES).await;
    let mut back = Client::try_connect(&server, "/", auth.clone(), None).await.expect("the session is there");
    assert_eq!(back.pid.as_deref(), auth["pid"].as_str());
    assert_eq!(back.call("joinRoom", json!(["project-1"])).await, not_allowed(), "its claims were not kept");
    auth["offset"] = json!(back.offset);
    drop(back);
    auth["token"] = member("alice").into();
    let mut back = Client::try_connect(&server, "/", auth.clone(), None).await.expect("the session is there");
    assert_eq!(back.pid.as_deref(), auth["pid"].as_str());
    assert_eq!(back.call("joinRoom", json!(["project-1"])).await["success"], true);
}

/// Namespaces of one connection: each is who it is by itself, whether it was connected before or after.
#[tokio::test]
async fn an_identity_is_of_one_namespace() {
    let server = Configured::start(RULES);
    let address = format!("ws://{}/socket.io/?EIO=4&transport=websocket", server.address);
    let (mut socket, _) = ClientBuilder::new().uri(&address).expect("an address").connect().await.expect("a WebSocket");
    let authenticate = json!(["authenticate", {"token": member("alice")}]);
    let join = json!(["joinRoom", "project-1"]);
    let sent = ["40".to_owned(), "40/media,".to_owned(), format!("420{authenticate}"), "40/notifications,".to_owned()];
    let joins = ["421".to_owned(), "42/media,1".to_owned(), "42/notifications,1".to_owned()];
    for text in sent.into_iter().chain(joins.map(|start| format!("{start}{join}"))) {
        socket.send(Message::text(text)).await.expect("the connection stands");
    }
    let mut texts = Vec::new();
    let answers = ["431[", "43/media,1[", "43/notifications,1["];
    while !answers.iter().all(|start| texts.iter().any(|text: &String| text.starts_with(start))) {
        let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("something comes");
        texts.extend(message.expect("it stands").expect("a message").as_text().map(str::to_owned));
    }
    let success =
        answers.map(|start| texts.iter().any(|text| text.starts_with(start) && text.contains(r#""success":true"#)));
    assert_eq!(success, [true, false, false], "{texts:#?}");
    // Nor does the user's room of the others have anybody in it.
    for (namespace, sockets) in [("/", 1), ("/media", 0), ("/notifications", 0)] {
        let event = json!({"event": "e", "namespace": namespace});
        assert_eq!(accepted(&post(&server, "/v1/rooms/user:alice/events", &event).await), sockets, "{namespace}");
    }
}

#[tokio::test]
async fn the_start_says_what_is_open_to_anyone() {
    let open = Configured::start_with("", &[("LOG_LEVEL", "warn")]);
    assert!(open.log().contains("clients without a token can join any room"), "{}", open.log());
    let closed = "[[rooms]]\nname = \"*\"\nallow = \"authenticated\"\n[[media]]\nname = \"*\"\nallow = \"nobody\"\n";
    let closed = Configured::start_with(closed, &[("LOG_LEVEL", "warn")]);
    assert!(!closed.log().contains("without a token"), "{}", closed.log());
}
