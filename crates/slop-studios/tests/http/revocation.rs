//! Revoked tokens: who is connected loses its identity, and nobody gets in with one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slop_studios::contract::time::Moment;
use slop_studios::contract::time::epoch_seconds;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::api::{Answer, accepted, metric, post, send};
use crate::client::Client;
use crate::server::{KEY, Server, signed};

const NAMESPACES: [&str; 3] = ["/", "/media", "/notifications"];
const REVOKED: &str = "Token has been revoked";

/// A token that was issued a minute ago.
fn token(user: &str, jti: &str) -> String {
    issued(user, jti, epoch_seconds() - 60)
}

fn issued(user: &str, jti: &str, at: u64) -> String {
    signed(json!({"userId": user, "jti": jti, "iat": at, "exp": epoch_seconds() + 3600}))
}

async fn revoke(server: &Server, path: &str) -> Value {
    let authorization = format!("Bearer {KEY}");
    let answer = send(server, "POST", path, &[("authorization", &authorization)], b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn is_anonymous(client: &mut Client) -> bool {
    let info = client.call("getConnectionInfo", json!([])).await;
    info["authenticated"] == json!(false)
}

/// Checks that the client was told, once.
async fn was_told(client: &mut Client) {
    assert_eq!(client.expect("authError").await, json!({"message": REVOKED}));
    assert!(is_anonymous(client).await);
    client.nothing_else().await;
}

/// Checks that nobody gets in with the token, whichever way.
async fn is_refused(server: &Server, namespace: &'static str, token: &str) {
    let connected = Client::try_connect(server, namespace, json!({"token": token}), None).await;
    let mut client = connected.expect("it is connected without an identity");
    client.expect("welcome").await;
    was_told(&mut client).await;
    let answer = client.call("authenticate", json!([{"token": token}])).await;
    assert_eq!(answer, json!({"success": false, "error": REVOKED}));
    assert_eq!(client.expect("authError").await, json!({"message": REVOKED}));
}

#[tokio::test]
async fn a_user_is_revoked_on_every_namespace() {
    let server = Server::start();
    let (theirs, others) = (token("u", "t1"), token("v", "t2"));
    let mut clients = Vec::new();
    let mut bystanders = Vec::new();
    for namespace in NAMESPACES {
        clients.push(Client::connect_as(&server, namespace, &theirs).await);
        bystanders.push(Client::connect_as(&server, namespace, &others).await);
    }
    // One that logged in by event, and is in a room that needs no identity.
    let mut late = Client::connect(&server, "/").await;
    late.expect("welcome").await;
    assert_eq!(late.call("authenticate", json!([{"token": theirs}])).await["success"], json!(true));
    late.expect("authenticated").await;
    late.call("joinRoom", json!(["open"])).await;
    late.expect("roomJoined").await;
    clients.push(late);

    let answer = revoke(&server, "/v1/users/u/revoke").await;
    assert_eq!((&answer["userId"], &answer["sockets"]), (&json!("u"), &json!(4)), "{answer}");
    for client in &mut clients {
        was_told(client).await;
    }
    for namespace in NAMESPACES {
        is_refused(&server, namespace, &theirs).await;
    }
    for client in &mut bystanders {
        client.nothing_else().await;
        assert!(!is_anonymous(client).await);
    }
    // What is the user's reaches nobody, what is everybody's still does.
    let event = json!({"event": "e"});
    assert_eq!(accepted(&post(&server, "/v1/rooms/user:u/events", &event).await), 0);
    assert_eq!(accepted(&post(&server, "/v1/rooms/open/events", &event).await), 1);
}

#[tokio::test]
async fn a_user_gets_in_with_a_token_that_was_issued_later() {
    let server = Server::start();
    let mut client = Client::connect_as(&server, "/", &token("u", "t1")).await;
    revoke(&server, "/v1/users/u/revoke").await;
    was_told(&mut client).await;
    // Times in tokens are cut to whole seconds: the next one is later for sure.
    let later = issued("u", "t2", epoch_seconds() + 1);
    assert_eq!(client.call("authenticate", json!([{"token": later}])).await["success"], json!(true));
    client.expect("authenticated").await;
    let undated = signed(json!({"userId": "u", "exp": epoch_seconds() + 3600}));
    is_refused(&server, "/media", &undated).await;
}

#[tokio::test]
async fn a_token_is_revoked_on_every_namespace() {
    let server = Server::start();
    let (revoked, kept) = (token("u", "t/1"), token("u", "t2"));
    let (mut clients, mut others) = (Vec::new(), Vec::new());
    for namespace in NAMESPACES {
        clients.push(Client::connect_as(&server, namespace, &revoked).await);
        others.push(Client::connect_as(&server, namespace, &kept).await);
    }
    let answer = revoke(&server, "/v1/tokens/t%2F1/revoke").await;
    assert_eq!((&answer["jti"], &answer["sockets"]), (&json!("t/1"), &json!(3)), "{answer}");
    for client in &mut clients {
        was_told(client).await;
    }
    for namespace in NAMESPACES {
        is_refused(&server, namespace, &revoked).await;
    }
    for client in &mut others {
        client.nothing_else().await;
        assert!(!is_anonymous(client).await);
    }
}

#[tokio::test]
async fn a_revocation_outlives_a_kill() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_in(data.path(), &[]);
    let (of_user, of_token) = (token("u", "t1"), token("v", "t2"));
    revoke(&server, "/v1/users/u/revoke").await;
    revoke(&server, "/v1/tokens/t2/revoke").await;
    server.kill();
    let server = Server::start_in(data.path(), &[]);
    is_refused(&server, "/", &of_user).await;
    is_refused(&server, "/notifications", &of_token).await;
    assert_eq!(metric(&server, "slop_revocations_kept").await, 2.0);
}

/// What is committed comes into force, also if nobody is there any more to hear of it.
#[tokio::test]
async fn a_publisher_that_hangs_up_has_revoked_all_the_same() {
    let server = Server::start();
    let ids: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    for id in &ids {
        let mut stream = TcpStream::connect(server.address).await.expect("the server takes connections");
        let head = format!("POST /v1/tokens/{id}/revoke HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("it is sent");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut refused = 0;
        for id in &ids {
            let connected = Client::try_connect(&server, "/", json!({"token": token("u", id)}), None).await;
            let mut client = connected.expect("it is connected, with an identity or without");
            client.expect("welcome").await;
            refused += u64::from(client.next().await.0 == "authError");
        }
        let kept = metric(&server, "slop_revocations_kept").await as u64;
        if kept > 0 && refused == kept {
            return;
        }
        assert!(Instant::now() < deadline, "{kept} are kept, and {refused} are in force");
    }
}

#[tokio::test]
async fn who_must_authenticate_is_refused() {
    let server = Server::start_with(&[("AUTH_REQUIRED", "true")]);
    let token = token("u", "t1");
    let mut client = Client::connect_as(&server, "/", &token).await;
    client.call("joinRoom", json!(["open"])).await;
    client.expect("roomJoined").await;
    revoke(&server, "/v1/users/u/revoke").await;
    was_told(&mut client).await;
    assert_eq!(accepted(&post(&server, "/v1/rooms/open/events", &json!({"event": "e"})).await), 0);
    let refused = Client::try_connect(&server, "/", json!({"token": token}), None).await.err();
    assert_eq!(refused, Some(json!({"message": "Unauthorized", "data": {"code": "UNAUTHORIZED"}})));
}

/// Whoever is connecting while the revocation is carried out either is told, or did not get in.
#[tokio::test]
async fn nobody_slips_through_while_it_is_carried_out() {
    let server = Server::start();
    let token = token("u", "t1");
    let connecting = (0..30).map(|_| async {
        let connected = Client::try_connect(&server, "/", json!({"token": token}), None).await;
        let mut client = connected.expect("it is connected");
        client.expect("welcome").await;
        client
    });
    let (clients, _) =
        futures_util::future::join(futures_util::future::join_all(connecting), revoke(&server, "/v1/users/u/revoke"))
            .await;
    for mut client in clients {
        assert!(is_anonymous(&mut client).await, "after the answer none has the identity");
    }
}

#[tokio::test]
async fn a_numeric_id_is_revoked_by_its_text() {
    let server = Server::start();
    let large = 1_234_567_890_123_456_789u64;
    for (jti, text) in [(json!(42), "42"), (json!(7.0), "7"), (json!(large), "1234567890123456789")] {
        let now = epoch_seconds();
        let token = signed(json!({"userId": "u", "jti": jti, "iat": now - 60, "exp": now + 3600}));
        let mut client = Client::connect_as(&server, "/", &token).await;
        let answer = revoke(&server, &format!("/v1/tokens/{text}/revoke")).await;
        assert_eq!(answer["sockets"], json!(1), "{text}");
        was_told(&mut client).await;
        is_refused(&server, "/media", &token).await;
    }
}

async fn undo(server: &Server, path: &str) -> Answer {
    send(server, "DELETE", path, &[("authorization", &format!("Bearer {KEY}"))], b"").await
}

async fn is_accepted(server: &Server, token: &str) {
    Client::connect_as(server, "/", token).await;
}

#[tokio::test]
async fn a_revocation_can_be_undone() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_in(data.path(), &[]);
    let (of_user, of_token) = (token("u", "t1"), token("v", "t/2"));
    let mut client = Client::connect_as(&server, "/", &of_user).await;
    let revoked = revoke(&server, "/v1/users/u/revoke").await;
    revoke(&server, "/v1/tokens/t%2F2/revoke").await;
    was_told(&mut client).await;

    let undone = undo(&server, "/v1/users/u/revoke").await;
    assert_eq!((undone.status, undone.json()), (200, json!({"userId": "u", "issuedBefore": revoked["issuedBefore"]})));
    let undone = undo(&server, "/v1/tokens/t%2F2/revoke").await;
    assert_eq!((undone.status, undone.json()), (200, json!({"jti": "t/2"})));
    for path in ["/v1/users/u/revoke", "/v1/tokens/t%2F2/revoke", "/v1/users/w/revoke"] {
        undo(&server, path).await.problem(404, "not_found");
    }
    // Nobody becomes somebody by it, but who asks does.
    assert!(is_anonymous(&mut client).await);
    client.nothing_else().await;
    assert_eq!(client.call("authenticate", json!([{"token": of_user}])).await["success"], json!(true));
    is_accepted(&server, &of_token).await;

    server.kill();
    let server = Server::start_in(data.path(), &[]);
    is_accepted(&server, &of_user).await;
    is_accepted(&server, &of_token).await;
    assert_eq!(metric(&server, "slop_revocations_kept").await, 0.0);
    revoke(&server, "/v1/users/u/revoke").await;
    is_refused(&server, "/", &of_user).await;
}

/// Of one subject, what the store carried out last holds in memory too.
#[tokio::test]
async fn revoking_and_undoing_at_once_agree_with_the_store() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in(data.path(), &[]);
    for round in 0..5 {
        let path = format!("/v1/tokens/t{round}/revoke");
        let own = token("u", &format!("t{round}"));
        let work = (0..40).map(|number| {
            let (server, path) = (&server, &path);
            async move {
                if number % 2 == 0 {
                    assert_eq!(post(server, path, &json!({})).await.status, 200);
                } else {
                    assert!(matches!(undo(server, path).await.status, 200 | 404));
                }
            }
        });
        futures_util::future::join_all(work).await;
        let outcome = async |server: &Server| {
            let connected = Client::try_connect(server, "/", json!({"token": own}), None).await;
            let mut client = connected.expect("it is connected");
            client.expect("welcome").await;
            client.next().await.0
        };
        let in_memory = outcome(&server).await;
        server.kill();
        server = Server::start_in(data.path(), &[]);
        assert_eq!(outcome(&server).await, in_memory, "what the store says");
    }
}

/// What was forgotten under these settings, because the token had ended by them, would be good again under others.
#[tokio::test]
async fn more_leeway_brings_no_revoked_token_back() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start_in(data.path(), &[]);
    let end = epoch_seconds() + 2;
    let token = signed(json!({"userId": "u", "jti": "t", "iat": end - 60, "exp": end}));
    let body = json!({"expiresAt": Moment::from_epoch_ms(end * 1000).to_string()});
    assert_eq!(post(&server, "/v1/tokens/t/revoke", &body).await.status, 200);
    while epoch_seconds() <= end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill();
    let server = Server::start_in(data.path(), &[("JWT_LEEWAY_SECONDS", "3600")]);
    is_refused(&server, "/", &token).await;
}

/// The same of the longest life: two days after a revocation under a longest life of one day.
#[tokio::test]
async fn a_longer_life_brings_no_revoked_token_back() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let day = 86_400;
    let server = Server::start_in(data.path(), &[("JWT_MAX_LIFETIME_DAYS", "1")]);
    revoke(&server, "/v1/users/u/revoke").await;
    revoke(&server, "/v1/tokens/t2/revoke").await;
    server.kill();
    let file = rusqlite::Connection::open(data.path().join("store.db")).expect("the store");
    let aged = file.execute("UPDATE revocations SET at = at - ?1", [2 * day * 1_000]).expect("they are there");
    assert_eq!(aged, 2);
    drop(file);
    // What is over may leave now, if it does for that.
    let server = Server::start_in(data.path(), &[("JWT_MAX_LIFETIME_DAYS", "1")]);
    assert_eq!(
        accepted(
            &post(&server, "/v1/users/x/notifications", &json!({"type": "info", "title": "t", "message": ""})).await
        ),
        0
    );
    server.kill();
    let server = Server::start_in(data.path(), &[("JWT_MAX_LIFETIME_DAYS", "365")]);
    let old = epoch_seconds() - 3 * u64::try_from(day).expect("positive");
    is_refused(&server, "/", &issued("u", "t1", old)).await;
    is_refused(&server, "/media", &issued("v", "t2", old)).await;
}

/// What may not have arrived when the token was revoked is not sent again to whoever comes back for the session.
#[tokio::test]
async fn what_was_on_its_way_to_the_user_is_not_repeated() {
    let server = Server::start();
    let own = token("u", "t1");
    let notification = json!({"type": "info", "title": "private", "message": "m"});
    assert_eq!(post(&server, "/v1/users/u/notifications", &notification).await.status, 200);
    let result = json!({"url": "https://cdn.example/private.png", "ownerId": "u"});
    assert_eq!(post(&server, "/v1/media/m/complete", &result).await.status, 200);

    // Neither reads what it is sent, so the server can't know of it: what waited in the inbox, and the state of an item.
    let connected = Client::try_connect(&server, "/notifications", json!({"token": own}), None).await;
    let mut notified = connected.expect("connected");
    notified.expect("welcome").await;
    let mut subscriber = Client::connect_as(&server, "/media", &own).await;
    subscriber.call("joinRoom", json!(["open"])).await;
    subscriber.expect("roomJoined").await;
    assert_eq!(subscriber.call("subscribeMedia", json!(["m"])).await["success"], json!(true));
    for client in [&notified, &subscriber] {
        client.cut().await;
    }
    revoke(&server, "/v1/users/u/revoke").await;
    let event = json!({"event": "said", "namespace": "/media"});
    assert_eq!(post(&server, "/v1/rooms/open/events", &event).await.status, 200);
    for (gone, then) in [(&notified, None), (&subscriber, Some("said"))] {
        let (recovered, mut client) = gone.come_back(&server, None).await;
        assert!(recovered, "the session is the same");
        assert_eq!(client.expect("authError").await, json!({"message": REVOKED}));
        if let Some(then) = then {
            client.expect(then).await;
        }
        client.nothing_else().await;
    }
    // The notification waits for the user still.
    let later = issued("u", "t2", epoch_seconds() + 1);
    let mut client = Client::connect_as(&server, "/notifications", &later).await;
    assert_eq!(client.expect("notification").await["title"], "private");
}

/// Whoever loses its identity on the way back, and is the user again later, gets what was not repeated.
#[tokio::test]
async fn what_was_not_repeated_is_sent_when_the_user_is_back() {
    let server = Server::start();
    let notification = json!({"type": "info", "title": "private", "message": "m"});
    assert_eq!(post(&server, "/v1/users/u/notifications", &notification).await.status, 200);
    let auth = json!({"token": token("u", "t1")});
    let mut gone = Client::try_connect(&server, "/notifications", auth, None).await.expect("connected");
    gone.expect("welcome").await;
    gone.cut().await;
    revoke(&server, "/v1/tokens/t1/revoke").await;
    let (_, mut client) = gone.come_back(&server, None).await;
    was_told(&mut client).await;
    assert_eq!(client.call("authenticate", json!([{"token": token("u", "t2")}])).await["success"], json!(true));
    client.expect("authenticated").await;
    assert_eq!(client.expect("notification").await["title"], "private");
}

#[tokio::test]
async fn the_body_says_when_the_token_ends_by_itself() {
    let server = Server::start();
    let end = "2096-10-02T07:06:40.000Z";
    let kept_until = |answer: Value| answer["keptUntil"].as_str().expect("a time").to_owned();
    let year = kept_until(post(&server, "/v1/tokens/t1/revoke", &json!({})).await.json());
    let capped = kept_until(post(&server, "/v1/tokens/t2/revoke", &json!({"expiresAt": end})).await.json());
    assert!(capped.as_str() < end && capped >= year, "no token lives for longer than a year: {capped}");
    let soon = Moment::now().after(Duration::from_secs(3_600)).to_string();
    let exact = post(&server, "/v1/tokens/t3/revoke", &json!({"expiresAt": soon})).await.json();
    assert_eq!(kept_until(exact), soon);
}

#[tokio::test]
async fn a_token_that_has_ended_is_not_said_to_be_revoked() {
    let server = Server::start();
    let over = json!({"expiresAt": "2020-01-01T01:00:00+01:00"});
    let path = "/v1/tokens/t1/revoke";
    assert_eq!(post(&server, path, &over).await.problem(422, "invalid"), ["expiresAt"]);
    // Until it is accepted no more it can be revoked.
    let server = Server::start_with(&[("JWT_LEEWAY_SECONDS", "60")]);
    let ending = |ago| json!({"expiresAt": Moment::now().before(Duration::from_secs(ago)).to_string()});
    assert_eq!(post(&server, path, &ending(5)).await.status, 200);
    assert_eq!(post(&server, path, &ending(60)).await.problem(422, "invalid"), ["expiresAt"]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = Server::start();
    let authorization = format!("Bearer {KEY}");
    let key = ("authorization", authorization.as_str());
    let json = ("content-type", "application/json");
    let path = "/v1/tokens/t/revoke";
    for (headers, body, status, code) in [
        (&[key, json][..], &b"{"[..], 400, "malformed"),
        (&[key, json], b"[]", 422, "invalid"),
        (&[key, json], br#"{"expiresAt": 5}"#, 422, "invalid"),
        (&[key, json], br#"{"expiresAt": "soon"}"#, 422, "invalid"),
        (&[key, json], br#"{"until": "2030-01-01T00:00:00Z"}"#, 422, "invalid"),
        (&[key], b"{}", 415, "unsupported_media_type"),
        (&[json], b"{}", 401, "unauthorized"),
        (&[("authorization", "Bearer wrong"), json], b"{}", 401, "unauthorized"),
    ] {
        send(&server, "POST", path, headers, body).await.problem(status, code);
    }
    let long = format!("/v1/tokens/{}/revoke", "x".repeat(257));
    assert_eq!(post(&server, &long, &json!({})).await.problem(422, "invalid"), ["jti"]);
    assert_eq!(post(&server, "/v1/users/a%0Ab/revoke", &json!({})).await.problem(422, "invalid"), ["userId"]);
    assert_eq!(post(&server, "/v1/users/u/revoke", &json!({"x": 1})).await.problem(422, "invalid"), ["x"]);
    send(&server, "GET", path, &[key], b"").await.problem(405, "method_not_allowed");
}
