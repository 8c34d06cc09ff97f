//! Keys that are withdrawn, issuers that change, shorter lives: what would refuse a token takes the identity that it gave, from
//! those who are connected and from those who come back.

use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use slop_studios::contract::time::epoch_seconds;

use crate::api::{accepted, post};
use crate::client::Client;
use crate::issuer::{Issuer, Key, Says};
use crate::reload::Configured;
use crate::server::{Server, signed_with};

const INVALID: &str = "Token is invalid";
const EXPIRED: &str = "Token has expired";
const SECRET: &str = "the first secret of these tests without a comma";
const NEXT: &str = "the second secret of these tests without a comma";

/// Secrets come from the file alone.
fn start(toml: &str) -> Configured {
    Configured::start_with(toml, &[("JWT_SECRET", "")])
}

fn secret(secret: &str) -> String {
    format!("jwt_secret = {secret:?}\n")
}

/// Who goes away: in a room that needs no identity, with a session.
async fn member(server: &Server, token: &str) -> Client {
    // By event, so that the client has no token to offer when it connects.
    let mut client = Client::connect(server, "/notifications").await;
    client.expect("welcome").await;
    assert_eq!(client.call("authenticate", json!([{"token": token}])).await["success"], true);
    client.expect("authenticated").await;
    client.call("joinRoom", json!(["open"])).await;
    client.expect("roomJoined").await;
    client
}

/// Comes back for its session and has it.
async fn back(server: &Server, gone: &Client, token: Option<&str>) -> Client {
    let (recovered, client) = gone.come_back(server, token).await;
    assert!(recovered && client.pid == gone.pid, "the session is the same");
    client
}

async fn say(server: &Server, data: u64) {
    let event = json!({"event": "said", "data": data, "namespace": "/notifications", "delivery": "durable"});
    assert_eq!(post(server, "/v1/rooms/open/events", &event).await.status, 200);
}

async fn is_nobody(server: &Server, client: &mut Client) {
    let info = client.call("getConnectionInfo", json!([])).await;
    assert_eq!((&info["authenticated"], &info["rooms"]), (&json!(false), &json!([client.id, "open"])), "{info}");
    let event = json!({"event": "private", "namespace": "/notifications"});
    assert_eq!(accepted(&post(server, "/v1/rooms/user:u/events", &event).await), 0);
    client.nothing_else().await;
}

/// Two who are away while something is said: the first one offers no token when it is back, the second one does.
async fn two_are_away(server: &Server, token: &str) -> [(Client, bool); 2] {
    let away = [(member(server, token).await, false), (member(server, token).await, true)];
    for (client, _) in &away {
        client.cut().await;
    }
    say(server, 1).await;
    away
}

/// Each is told first that it is nobody any more.
async fn come_back_as_nobody(server: &Server, away: [(Client, bool); 2], token: &str, text: &str) {
    for (gone, offers) in away {
        let mut client = back(server, &gone, Some(token).filter(|_| offers)).await;
        assert_eq!(client.expect("authError").await, json!({"message": text}));
        assert_eq!(client.expect("said").await, json!(1));
        is_nobody(server, &mut client).await;
    }
}

/// A token of that secret.
fn by(secret: &str) -> String {
    signed_with(secret, json!({"userId": "u"}))
}

fn signed(claims: Value) -> String {
    signed_with(SECRET, claims)
}

fn pem(folder: &std::path::Path, key: &Key, name: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, key.pem()).expect("the folder can be written");
    path.to_str().expect("UTF-8").to_owned()
}

/// What was in force, the token that it accepts, what is in force then, and what the client is told.
fn withdrawals(folder: &std::path::Path, issuer: &Issuer, key: &Key) -> Vec<(String, String, String, &'static str)> {
    let now = epoch_seconds();
    let file = pem(folder, key, "key.pem");
    let own = secret(SECRET);
    let with = |more: &str| format!("{own}{more}\n");
    let dated = |iat: u64, exp: u64| signed(json!({"userId": "u", "iat": iat, "exp": exp}));
    let named = signed(json!({"userId": "u", "iss": "https://a.example", "aud": ["x", "realtime"]}));
    let jwks = with(&format!("jwks_url = {:?}\njwks_cooldown_ms = 1", issuer.url()));
    vec![
        (secret(NEXT), by(NEXT), own.clone(), INVALID),
        (with(&format!("jwt_previous_secrets = [{NEXT:?}]")), by(NEXT), own.clone(), INVALID),
        (with(&format!("jwt_public_keys = [{file:?}]")), key.token("u"), own.clone(), INVALID),
        (jwks, key.token("u"), own.clone(), INVALID),
        (own.clone(), named.clone(), with("jwt_issuer = [\"https://b.example\"]"), INVALID),
        (with("jwt_audience = [\"realtime\"]"), named, with("jwt_audience = [\"other\"]"), INVALID),
        (own.clone(), dated(now - 2 * 86_400, now + 3_600), with("jwt_max_lifetime_days = 1"), EXPIRED),
        (with("jwt_leeway_seconds = 600"), dated(now - 600, now - 60), own.clone(), EXPIRED),
    ]
}

#[tokio::test]
async fn what_refuses_the_token_after_a_restart_refuses_the_session() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = Key::new("a");
    let issuer = Issuer::new(Says::keys(&[&key]));
    for (before, token, after, text) in withdrawals(folder.path(), &issuer, &key) {
        let mut server = start(&before);
        let away = two_are_away(&server, &token).await;
        server.restart(&after).await;
        come_back_as_nobody(&server, away, &token, text).await;
    }
}

#[tokio::test]
async fn a_key_set_without_the_key_refuses_the_session() {
    let [key, other] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&key]));
    let toml = format!("jwks_url = {:?}\njwks_cooldown_ms = 1\n", issuer.url());
    let mut server = start(&toml);
    let token = key.token("u");
    let away = two_are_away(&server, &token).await;
    issuer.says(Says::keys(&[&other]));
    server.restart(&toml).await;
    come_back_as_nobody(&server, away, &token, INVALID).await;
}

#[tokio::test]
async fn a_key_that_is_withdrawn_while_a_client_is_away_refuses_the_session() {
    let server = start(&secret(SECRET));
    let away = two_are_away(&server, &by(SECRET)).await;
    server.reload(&secret(NEXT)).await;
    come_back_as_nobody(&server, away, &by(SECRET), INVALID).await;
    // A good token of the user's does better.
    let client = member(&server, &by(NEXT)).await;
    client.cut().await;
    say(&server, 1).await;
    server.reload(&secret(SECRET)).await;
    let mut client = back(&server, &client, Some(&by(SECRET))).await;
    client.expect("said").await;
    assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true);
    client.nothing_else().await;
}

/// Before anything else is sent to it: what is published after the reload comes behind.
#[tokio::test]
async fn who_is_connected_loses_the_identity_of_a_withdrawn_key() {
    let server = start(&format!("{}jwt_previous_secrets = [{NEXT:?}]\n", secret(SECRET)));
    let mut stays = member(&server, &by(SECRET)).await;
    let mut goes = member(&server, &by(NEXT)).await;
    server.reload(&secret(SECRET)).await;
    say(&server, 1).await;
    assert_eq!(goes.expect("authError").await, json!({"message": INVALID}));
    assert_eq!(goes.expect("said").await, json!(1));
    assert_eq!(goes.call("getConnectionInfo", json!([])).await["authenticated"], false);
    assert_eq!(stays.expect("said").await, json!(1));
    assert_eq!(stays.call("getConnectionInfo", json!([])).await["authenticated"], true);
    let event = json!({"event": "private", "namespace": "/notifications"});
    assert_eq!(accepted(&post(&server, "/v1/rooms/user:u/events", &event).await), 1, "the one who stays");
    stays.expect("private").await;
    for client in [&mut goes, &mut stays] {
        client.nothing_else().await;
    }
    assert_eq!(server.metric("slop_identities_withdrawn_total").await, 1);
}

#[tokio::test]
async fn who_is_connected_loses_the_identity_of_a_key_that_left_the_set() {
    let [a, b] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&a, &b]));
    let server = start(&format!("jwks_url = {:?}\njwks_cooldown_ms = 1\n", issuer.url()));
    let (mut by_a, mut by_b) = (member(&server, &a.token("u")).await, member(&server, &b.token("v")).await);
    // A key that is new to the server has it fetch the set. One that only comes disturbs nobody.
    let fetch = async |key: &Key| Client::connect_as(&server, "/", &key.token("w")).await;
    let [c, d] = ["c", "d"].map(Key::new);
    issuer.says(Says::keys(&[&a, &b, &c]));
    fetch(&c).await;
    for client in [&mut by_a, &mut by_b] {
        client.nothing_else().await;
    }
    issuer.says(Says::keys(&[&d, &b]));
    fetch(&d).await;
    say(&server, 1).await;
    assert_eq!(by_a.expect("authError").await, json!({"message": INVALID}));
    assert_eq!(by_a.expect("said").await, json!(1));
    by_b.expect("said").await;
    is_nobody(&server, &mut by_a).await;
    assert_eq!(by_b.call("getConnectionInfo", json!([])).await["authenticated"], true);
    by_b.nothing_else().await;
}

/// The same keys, wherever they stand in the configuration.
#[tokio::test]
async fn keys_that_stay_disturb_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = Key::new("a");
    let issuer = Issuer::new(Says::keys(&[&key]));
    let file = pem(folder.path(), &key, "key.pem");
    let own = secret(SECRET);
    let of_file = format!("{own}jwt_public_keys = [{file:?}]\n");
    let of_set = format!("{own}jwks_url = {:?}\n", issuer.url());
    let rotated = format!("{}jwt_previous_secrets = [{SECRET:?}]\n", secret(NEXT));
    let strict = format!("{own}jwt_issuer = [\"i\"]\njwt_audience = [\"a\"]\njwt_max_lifetime_days = 1\n");
    let (now, by_key) = (epoch_seconds(), key.token("u"));
    let full = signed(json!({"userId": "u", "iss": "i", "aud": "a", "iat": now, "exp": now + 3_600}));
    for (before, token, after) in [
        (&own, &by(SECRET), &own),
        (&own, &by(SECRET), &rotated),
        (&own, &full, &strict),
        (&strict, &full, &own),
        (&of_file, &by_key, &of_file),
        (&of_file, &by_key, &of_set),
        (&of_set, &by_key, &of_file),
        (&of_set, &by_key, &of_set),
    ] {
        let mut server = start(before);
        let client = member(&server, token).await;
        client.cut().await;
        say(&server, 1).await;
        server.restart(after).await;
        let mut client = back(&server, &client, None).await;
        client.expect("said").await;
        assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true, "{before} {after}");
        client.nothing_else().await;
    }
}

/// What is not known yet is not withdrawn: until the set is there the identity counts, and then the set decides.
#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_withdraws_nothing() {
    for stays in [true, false] {
        let [key, other] = ["a", "b"].map(Key::new);
        let issuer = Issuer::new(Says::keys(&[&key]));
        let toml = format!("{}jwks_url = {:?}\njwks_cooldown_ms = 1\n", secret(SECRET), issuer.url());
        let mut server = start(&toml);
        let client = member(&server, &key.token("u")).await;
        client.cut().await;
        say(&server, 1).await;
        issuer.says(Says::status(503, "retry-after: 1"));
        server.restart(&toml).await;
        let mut client = back(&server, &client, Some(&key.token("u"))).await;
        client.expect("said").await;
        assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true);
        client.nothing_else().await;

        issuer.says(Says::keys(&[if stays { &key } else { &other }]));
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.metric("slop_jwks_keys").await == 0 {
            assert!(Instant::now() < deadline, "the set is not fetched");
        }
        if !stays {
            assert_eq!(client.expect("authError").await, json!({"message": INVALID}));
        }
        assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], stays);
        client.nothing_else().await;
    }
}

/// A key id that no key has is none either.
#[tokio::test]
async fn another_algorithm_of_the_same_secret_is_the_same_key() {
    let mut server = start(&secret(SECRET));
    let mut header = Header::new(jsonwebtoken::Algorithm::HS512);
    header.kid = Some("any".to_owned());
    let token =
        encode(&header, &json!({"userId": "u"}), &EncodingKey::from_secret(SECRET.as_bytes())).expect("it signs");
    let client = member(&server, &token).await;
    client.cut().await;
    server.restart(&secret(SECRET)).await;
    let mut client = back(&server, &client, None).await;
    assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], true);
    client.nothing_else().await;
}

/// Waits until the server counts one, without a word to or from the clients.
async fn counted(server: &Configured, metric: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.metric(metric).await == 0 {
        assert!(Instant::now() < deadline, "{metric} stays 0");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The server takes the identity while the line is dead and it does not know, and is restarted then.
#[tokio::test]
async fn what_was_lost_on_a_dead_line_is_told_after_a_restart() {
    for (is_revoked, text) in [(false, EXPIRED), (true, "Token has been revoked")] {
        for offers in [false, true] {
            let toml = secret(SECRET);
            let mut server = start(&toml);
            let lifetime = if is_revoked { 3_600 } else { 2 };
            let now = epoch_seconds();
            let token = signed(json!({"userId": "u", "iat": now - 60, "exp": now + lifetime}));
            // From here on it reads nothing and says nothing.
            let client = member(&server, &token).await;
            if is_revoked {
                assert_eq!(post(&server, "/v1/users/u/revoke", &json!({})).await.status, 200);
            } else {
                counted(&server, "slop_identities_expired_total").await;
            }
            server.restart(&toml).await;
            let mut client = back(&server, &client, Some(token.as_str()).filter(|_| offers)).await;
            assert_eq!(client.expect("authError").await, json!({"message": text}));
            is_nobody(&server, &mut client).await;
        }
    }
}

/// For as long as the client may not have got it, and no longer.
#[tokio::test]
async fn an_auth_error_that_may_be_lost_is_sent_again() {
    let mut server = start(&secret(SECRET));
    let client = member(&server, &by(SECRET)).await;
    client.cut().await;
    server.restart(&secret(NEXT)).await;
    // Has its session back, and is cut off before it has read anything more.
    let again = back(&server, &client, None).await;
    again.cut().await;
    server.restart(&secret(NEXT)).await;
    let mut again = back(&server, &client, None).await;
    assert_eq!(again.expect("authError").await, json!({"message": INVALID}));
    // It answers the heartbeat that asks whether that has arrived.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        again.nothing_else().await;
        again.cut().await;
        again = back(&server, &again, None).await;
        match again.events().await.as_slice() {
            [] => return,
            [(event, _)] if event == "authError" && Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A client that was nobody, and offers a bad token when it comes back, is told as one that connects with it.
#[tokio::test]
async fn a_bad_token_is_not_passed_over_in_silence() {
    let server = start(&secret(SECRET));
    let mut client = Client::connect(&server, "/notifications").await;
    client.expect("welcome").await;
    client.cut().await;
    let ended = signed(json!({"userId": "u", "exp": epoch_seconds() - 1}));
    let mut client = back(&server, &client, Some(&ended)).await;
    assert_eq!(client.expect("authError").await, json!({"message": EXPIRED}));
    client.nothing_else().await;
    client.cut().await;
    let mut client = back(&server, &client, None).await;
    let told: Vec<(String, Value)> = client.events().await;
    assert!(told.iter().all(|(event, _)| event == "authError"), "{told:?}");
}
