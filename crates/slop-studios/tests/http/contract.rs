//! The contract's events that are the same on every namespace.

use serde_json::{Value, json};

use crate::api::{accepted, get, post};
use crate::client::Client;
use crate::server::{Server, token, token_until};

const NAMESPACES: [(&str, &str); 3] = [
    ("/", "Connected to Slop Studios 3"),
    ("/media", "Connected to media namespace"),
    ("/notifications", "Connected to notifications namespace"),
];

fn iso(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.'
}

#[tokio::test]
async fn a_connection_is_welcomed_then_told_who_it_is() {
    let server = Server::start();
    for (namespace, greeting) in NAMESPACES {
        let mut client = Client::connect(&server, namespace).await;
        let welcome = client.expect("welcome").await;
        assert_eq!((&welcome["message"], &welcome["socketId"]), (&json!(greeting), &json!(client.id)));
        assert!(iso(&welcome["serverTime"]));
        client.nothing_else().await;

        let auth = json!({"token": token("u")});
        let mut client = Client::try_connect(&server, namespace, auth, None).await.expect("connected");
        client.expect("welcome").await;
        let authenticated = client.expect("authenticated").await;
        assert_eq!((&authenticated["userId"], &authenticated["email"]), (&json!("u"), &json!("u@example.com")));
        assert!(iso(&authenticated["authenticatedAt"]));

        let auth = json!({"token": token_until("u", -1)});
        let mut client = Client::try_connect(&server, namespace, auth, None).await.expect("connected");
        client.expect("welcome").await;
        assert_eq!(client.expect("authError").await, json!({"message": "Token has expired"}));
        let info = client.call("getConnectionInfo", json!([])).await;
        assert_eq!(info["authenticated"], json!(false));
    }
    // The header stands in for auth.token, and auth.token goes before it.
    let (u, v) = (token("u"), token("v"));
    for (auth, expected) in [(json!({}), "u"), (json!({"token": v}), "v")] {
        let mut client = Client::try_connect(&server, "/", auth, Some(&u)).await.expect("connected");
        client.expect("welcome").await;
        assert_eq!(client.expect("authenticated").await["userId"], json!(expected));
    }
    for nothing in [json!({"token": null}), json!({"token": ""})] {
        let mut client = Client::try_connect(&server, "/", nothing, None).await.expect("connected");
        client.expect("welcome").await;
        client.nothing_else().await;
    }
}

#[tokio::test]
async fn a_required_token_is_required() {
    let server = Server::start_with(&[("AUTH_REQUIRED", "true")]);
    let unauthorized = json!({"message": "Unauthorized", "data": {"code": "UNAUTHORIZED"}});
    for auth in [json!({}), json!({"token": "x"}), json!({"token": token_until("u", -1)})] {
        let refused = Client::try_connect(&server, "/", auth, None).await.err();
        assert_eq!(refused, Some(unauthorized.clone()));
    }
    let mut client = Client::connect_as(&server, "/media", &token("u")).await;
    for (event, name) in [("joinRoom", "r"), ("subscribeMedia", "m")] {
        assert_eq!(client.call(event, json!([name])).await["success"], json!(true));
    }
    client.expect("roomJoined").await;
    // Without its identity it has nothing.
    client.call("logout", json!([])).await;
    client.expect("loggedOut").await;
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!(info["rooms"], json!([client.id]));
    for (event, name) in [("joinRoom", "r"), ("subscribeMedia", "m")] {
        assert_eq!(client.call(event, json!([name])).await, json!({"success": false, "error": "Not allowed"}));
    }
    assert_eq!(accepted(&post(&server, "/v1/media/m/complete", &json!({"url": "x"})).await), 0);
}

#[tokio::test]
async fn authentication_changes_where_one_is() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/").await;
    client.expect("welcome").await;
    for (payload, error) in [
        (json!([]), "Token is required"),
        (json!([{}]), "Token is required"),
        (json!(["x"]), "Token is required"),
        (json!([{"token": 5}]), "Token is invalid"),
        (json!([{"token": "x"}]), "Token is invalid"),
        (json!([{"token": token_until("u", -1)}]), "Token has expired"),
    ] {
        let answer = client.call("authenticate", payload).await;
        assert_eq!(answer, json!({"success": false, "error": error}));
        assert_eq!(client.expect("authError").await, json!({"message": error}));
    }
    for user in ["u", "u", "v"] {
        let answer = client.call("authenticate", json!([{"token": token(user)}])).await;
        assert_eq!(answer, json!({"success": true, "userId": user}));
        assert_eq!(client.expect("authenticated").await["userId"], json!(user));
    }
    client.call("joinRoom", json!(["r"])).await;
    client.expect("roomJoined").await;
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!(info["rooms"], json!([client.id, "user:v", "r"]));
    assert_eq!((&info["authenticated"], &info["connected"]), (&json!(true), &json!(true)));
    assert!(iso(&info["connectedAt"]));
    assert_eq!(accepted(&post(&server, "/v1/rooms/user:u/events", &json!({"event": "e"})).await), 0);
    assert_eq!(accepted(&post(&server, "/v1/rooms/user:v/events", &json!({"event": "e"})).await), 1);
    client.expect("e").await;
    // A failure leaves the identity as it was.
    client.call("authenticate", json!([{"token": "x"}])).await;
    client.expect("authError").await;
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!(info["authenticated"], json!(true));

    for _ in 0..2 {
        assert_eq!(client.call("logout", json!([])).await, json!({"success": true}));
        assert!(client.expect("loggedOut").await["message"].is_string());
    }
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!((&info["rooms"], &info["authenticated"]), (&json!([client.id, "r"]), &json!(false)));
}

#[tokio::test]
async fn an_identity_ends_with_its_token() {
    let server = Server::start();
    // The second is cut from the clock, so this is 3 to 4 seconds from now.
    let mut client = Client::connect_as(&server, "/", &token_until("u", 4)).await;
    let mut renewed = Client::connect_as(&server, "/", &token_until("u", 4)).await;
    renewed.call("authenticate", json!([{"token": token("u")}])).await;
    renewed.expect("authenticated").await;

    let begun = std::time::Instant::now();
    assert_eq!(client.expect("authError").await, json!({"message": "Token has expired"}));
    assert!(begun.elapsed().as_millis() < 5_000);
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!((&info["authenticated"], &info["rooms"]), (&json!(false), &json!([client.id])));
    assert_eq!(accepted(&post(&server, "/v1/rooms/user:u/events", &json!({"event": "e"})).await), 1);
    // A longer token in time keeps the identity.
    renewed.expect("e").await;
    renewed.nothing_else().await;
}

#[tokio::test]
async fn too_many_failures_end_the_connection() {
    let server = Server::start_with(&[("AUTH_FAILURE_LIMIT", "3")]);
    let mut client = Client::connect(&server, "/").await;
    for _ in 0..2 {
        client.call("authenticate", json!([{"token": "x"}])).await;
    }
    // A success begins the count again.
    client.call("authenticate", json!([{"token": token("u")}])).await;
    for _ in 0..3 {
        let answer = client.call("authenticate", json!([{"token": "x"}])).await;
        assert_eq!(answer["error"], json!("Token is invalid"));
    }
    client.closed().await;
}

#[tokio::test]
async fn failures_count_on_the_connection() {
    let bad = json!({"token": "x"});
    for required in ["false", "true"] {
        let server = Server::start_with(&[("AUTH_FAILURE_LIMIT", "4"), ("AUTH_REQUIRED", required)]);
        let mut client = Client::connect_as(&server, "/", &token("u")).await;
        let again = async |client: &Client| match client.try_beside("/media", bad.clone()).await {
            Ok(mut beside) => {
                assert_eq!(required, "false");
                for event in ["welcome", "authError"] {
                    beside.expect(event).await;
                }
                beside.leave().await;
            }
            Err(error) => assert_eq!((required, &error["message"]), ("true", &json!("Unauthorized"))),
        };
        for _ in 0..3 {
            again(&client).await;
        }
        // A success begins the count again, on whichever socket.
        client.call("authenticate", json!([{"token": token("u")}])).await;
        client.call("authenticate", json!([bad])).await;
        for _ in 0..2 {
            again(&client).await;
        }
        assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true);
        let last = client.try_beside("/media", bad.clone()).await;
        assert_eq!(last.is_err(), required == "true");
        client.closed().await;
        let metrics = get(&server, "/metrics").await.text;
        assert!(metrics.contains("slop_limits_met_total{limit=\"failed authentications\"} 1\n"), "{metrics}");
    }
}

#[tokio::test]
async fn rooms_that_are_not_ones_own_are_refused() {
    let server = Server::start();
    let other = Client::connect(&server, "/").await;
    let mut client = Client::connect_as(&server, "/", &token("u")).await;
    let not_allowed = json!({"success": false, "error": "Not allowed"});
    for room in ["user:v", "user:", "user:u2", &other.id] {
        for event in ["joinRoom", "leaveRoom"] {
            assert_eq!(client.call(event, json!([room])).await, not_allowed, "{event} {room}");
        }
    }
    for own in ["user:u".to_owned(), client.id.clone()] {
        let joined = json!({"success": true, "room": own});
        assert_eq!(client.call("joinRoom", json!([own])).await, joined);
        client.expect("roomJoined").await;
        assert_eq!(client.call("leaveRoom", json!([own])).await, not_allowed);
    }
    for (args, error) in [
        (json!([]), "Room name is required"),
        (json!([null]), "Room name is required"),
        (json!([1]), "Room name must be a string"),
        (json!([["a"]]), "Room name must be a string"),
        (json!([{"room": "a"}]), "Room name must be a string"),
        (json!([""]), "Room name must not be empty"),
        (json!(["x".repeat(129)]), "Room name must not be longer than 128 bytes"),
        (json!(["\u{0}media:m"]), "Room name must not contain control characters"),
    ] {
        for event in ["joinRoom", "leaveRoom"] {
            let answer = client.call(event, args.clone()).await;
            assert_eq!(answer, json!({"success": false, "error": error}), "{event} {args}");
        }
    }
    // The longest that a user's id makes is one's own all the same, or another's.
    let (id, other) = ("i".repeat(128), "j".repeat(128));
    let mut long = Client::connect_as(&server, "/", &token(&id)).await;
    let own = format!("user:{id}");
    let joined = json!({"success": true, "room": own});
    assert_eq!(long.call("joinRoom", json!([own])).await, joined);
    assert_eq!(long.expect("roomJoined").await, joined);
    assert_eq!(long.call("leaveRoom", json!([own])).await, not_allowed);
    assert_eq!(long.call("joinRoom", json!([format!("user:{other}")])).await, not_allowed);
    let left = json!({"success": true, "room": "never-joined"});
    assert_eq!(client.call("leaveRoom", json!(["never-joined"])).await, left);
    assert_eq!(client.expect("roomLeft").await, left);
    client.nothing_else().await;
}

#[tokio::test]
async fn a_socket_is_in_so_many_rooms_and_still_gets_its_users() {
    let server = Server::start_with(&[("MAX_ROOMS_PER_SOCKET", "3")]);
    let mut client = Client::connect(&server, "/media").await;
    assert_eq!(client.call("joinRoom", json!(["a"])).await["success"], json!(true));
    assert_eq!(client.call("joinRoom", json!(["b"])).await["success"], json!(true));
    assert_eq!(client.call("subscribeMedia", json!(["m"])).await["success"], json!(true));
    for (event, name) in [("joinRoom", "c"), ("subscribeMedia", "n")] {
        let refused = json!({"success": false, "error": "Too many rooms and subscriptions"});
        assert_eq!(client.call(event, json!([name])).await, refused);
    }
    // What one is in already is no more.
    assert_eq!(client.call("joinRoom", json!(["a"])).await["success"], json!(true));
    assert_eq!(client.call("subscribeMedia", json!(["m"])).await["success"], json!(true));
    client.call("authenticate", json!([{"token": token("u")}])).await;
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!(info["rooms"], json!([client.id, "user:u", "a", "b"]));
    client.call("leaveRoom", json!(["a"])).await;
    assert_eq!(client.call("joinRoom", json!(["c"])).await["success"], json!(true));
    client.call("unsubscribeMedia", json!(["m"])).await;
    assert_eq!(client.call("subscribeMedia", json!(["n"])).await["success"], json!(true));
}

#[tokio::test]
async fn ping_and_heartbeat_answer_twice() {
    let server = Server::start();
    for (namespace, _) in NAMESPACES {
        let mut client = Client::connect(&server, namespace).await;
        client.expect("welcome").await;
        for args in [json!([]), json!([{}]), json!([null])] {
            let ack = client.call("ping", args).await;
            assert_eq!(client.expect("pong").await, ack);
            assert!(ack["timestamp"].as_u64().is_some_and(|timestamp| timestamp > 1_700_000_000_000));
        }
        for (args, known) in [
            (json!([{"timestamp": 1_700_000_000_000u64}]), true),
            (json!([{"timestamp": 9_700_000_000_000u64}]), true),
            (json!([]), false),
            (json!([null]), false),
            (json!([{"timestamp": "5"}]), false),
            (json!([{"timestamp": 0}]), false),
            (json!([{"timestamp": -5}]), false),
            (json!(["x"]), false),
        ] {
            let ack = client.call("heartbeat", args.clone()).await;
            assert_eq!(client.expect("heartbeatAck").await, ack);
            assert!(iso(&ack["serverTime"]));
            assert_eq!(ack["latency"].as_u64().is_some(), known, "{args} {ack}");
            assert!(ack.as_object().is_some_and(|ack| ack.contains_key("latency")));
        }
        // Without an ack the event still comes.
        client.emit("ping", json!([])).await;
        client.expect("pong").await;
    }
}

#[tokio::test]
async fn an_unknown_event_is_answered_if_it_asks() {
    let server = Server::start();
    let mut client = Client::connect(&server, "/").await;
    client.expect("welcome").await;
    for event in ["nonsense", "notification", "error", "__proto__", ""] {
        let answer = client.call(event, json!([1])).await;
        assert_eq!(answer, json!({"success": false, "error": format!("Unknown event: {event}")}));
        client.emit(event, json!([1])).await;
    }
    client.nothing_else().await;
}
