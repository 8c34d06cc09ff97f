//! Which tokens are good: secrets, public keys, key sets, and what is told of their end.

use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use slop_studios::contract::time::epoch_seconds;

use crate::api::{metric, post};
use crate::client::Client;
use crate::issuer::{Issuer, Key, Says};
use crate::server::{SECRET, Server, signed, token, token_until};

const INVALID: &str = "Token is invalid";

/// What comes of a token at connecting: the user, or the text of the refusal.
async fn connect(server: &Server, token: &str) -> Result<String, String> {
    let connected = Client::try_connect(server, "/media", json!({"token": token}), None).await;
    let mut client = connected.expect("the connection stands");
    client.expect("welcome").await;
    outcome(client.next().await)
}

/// What comes of it by event.
async fn authenticate(server: &Server, token: &str) -> Result<String, String> {
    let mut client = Client::connect(server, "/").await;
    client.expect("welcome").await;
    let answer = client.call("authenticate", json!([{"token": token}])).await;
    let outcome = outcome(client.next().await);
    let user = || answer["userId"].as_str().map(str::to_owned);
    let error = || answer["error"].as_str().map(str::to_owned);
    assert_eq!((user(), error()), (outcome.clone().ok(), outcome.clone().err()), "the ack says the same");
    outcome
}

fn outcome((event, payload): (String, Value)) -> Result<String, String> {
    let text = |field: &str| payload[field].as_str().expect("a text").to_owned();
    match event.as_str() {
        "authenticated" => Ok(text("userId")),
        "authError" => Err(text("message")),
        other => panic!("{other}"),
    }
}

async fn both(server: &Server, token: &str) -> Result<String, String> {
    let outcome = connect(server, token).await;
    assert_eq!(authenticate(server, token).await, outcome, "either way");
    outcome
}

fn refused(text: &str) -> Result<String, String> {
    Err(text.to_owned())
}

#[tokio::test]
async fn every_token_gets_its_answer() {
    let key = Key::new("a");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("key.pem");
    std::fs::write(&path, key.pem()).expect("a file");
    let server =
        Server::start_with(&[("JWT_PUBLIC_KEYS", path.to_str().expect("a path")), ("MAX_PAYLOAD_BYTES", "2000000")]);
    let now = epoch_seconds();
    let claims = |more: Value| {
        let mut claims = json!({"exp": now + 60});
        claims.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        signed(claims)
    };
    let by_secret = |secret: &[u8]| {
        encode(&Header::default(), &json!({"userId": "u"}), &EncodingKey::from_secret(secret)).expect("it signs")
    };
    let none = {
        let good = claims(json!({"userId": "u"}));
        let mut parts = good.split('.').skip(1);
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{}.", parts.next().expect("claims"))
    };

    assert_eq!(both(&server, &key.token("u")).await, Ok("u".to_owned()));
    assert_eq!(both(&server, &claims(json!({"userId": 42}))).await, Ok("42".to_owned()));
    for (token, text) in [
        (none, INVALID),
        (by_secret(key.pem().as_bytes()), INVALID),
        (by_secret(key.pem().trim().as_bytes()), INVALID),
        (by_secret(b"some other secret"), INVALID),
        (Key::new("a").token("u"), INVALID),
        (claims(json!({"userId": "u", "exp": now - 1})), "Token has expired"),
        (claims(json!({"userId": "u", "nbf": now + 60})), "Token is not yet valid"),
        (claims(json!({"userId": "u", "iat": now + 60})), "Token is not yet valid"),
        (claims(json!({"userId": "u", "pad": "x".repeat(1_000_000)})), INVALID),
        (claims(json!({"userId": ["u"], "sub": "u"})), "Token has no user id"),
        (claims(json!({})), "Token has no user id"),
        (claims(json!({"userId": 9_007_199_254_740_993u64})), "Token has no user id"),
        (claims(json!({"userId": 1.8446744073709552e19})), "Token has no user id"),
        (claims(json!({"userId": 1.5, "sub": "u"})), "Token has no user id"),
    ] {
        let shown: String = token.chars().take(80).collect();
        assert_eq!(both(&server, &token).await, refused(text), "{shown}");
    }
}

#[tokio::test]
async fn a_rotated_secret_is_accepted_still() {
    let rotated = [("JWT_SECRET", "the new secret of the tests, which is as long"), ("JWT_PREVIOUS_SECRETS", OLD)];
    const OLD: &str = "an old secret of the tests that has no comma in it";
    let server = Server::start_with(&rotated);
    let by = |secret: &str| {
        let claims = json!({"userId": "u", "exp": epoch_seconds() + 60});
        encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).expect("it signs")
    };
    assert_eq!(both(&server, &by(OLD)).await, Ok("u".to_owned()));
    assert_eq!(both(&server, &by(rotated[0].1)).await, Ok("u".to_owned()));
    assert_eq!(both(&server, &by(SECRET)).await, refused(INVALID));
}

#[tokio::test]
async fn issuer_and_audience_must_fit() {
    let server = Server::start_with(&[("JWT_ISSUER", "https://id.example.com"), ("JWT_AUDIENCE", "realtime")]);
    let token = |iss: &str, aud: Value| signed(json!({"sub": "u", "iss": iss, "aud": aud}));
    assert_eq!(both(&server, &token("https://id.example.com", json!(["x", "realtime"]))).await, Ok("u".to_owned()));
    assert_eq!(both(&server, &token("https://id.example.com", json!("x"))).await, refused(INVALID));
    assert_eq!(both(&server, &token("https://other.example.com", json!("realtime"))).await, refused(INVALID));
}

/// Only the key set: no secret at all.
fn start(issuer: &Issuer, settings: &[(&str, &str)]) -> Server {
    let url = issuer.url();
    let mut all = vec![("JWT_SECRET", ""), ("JWKS_URL", &url), ("JWKS_COOLDOWN_MS", "1")];
    all.extend_from_slice(settings);
    Server::start_with(&all)
}

#[tokio::test]
async fn a_key_that_is_new_to_us_is_fetched_once_and_then_known() {
    let [a, b, c, stranger] = ["a", "b", "c", "a"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&a]));
    let server = start(&issuer, &[]);
    assert_eq!(issuer.fetches(), 1, "before it is ready");
    assert_eq!(both(&server, &a.token("u")).await, Ok("u".to_owned()));
    assert_eq!(both(&server, &stranger.token("u")).await, refused(INVALID));
    assert_eq!(both(&server, &token("u")).await, refused(INVALID), "there is no secret");
    assert_eq!(issuer.fetches(), 1);

    issuer.says(Says::keys(&[&a, &b]));
    assert_eq!(connect(&server, &b.token("u")).await, Ok("u".to_owned()), "the first one already");
    assert_eq!(issuer.fetches(), 2);
    issuer.says(Says::keys(&[&b, &c]));
    assert_eq!(authenticate(&server, &c.token("u")).await, Ok("u".to_owned()));
    assert_eq!(issuer.fetches(), 3);
    assert_eq!(connect(&server, &b.token("u")).await, Ok("u".to_owned()));
    assert_eq!(metric(&server, "slop_jwks_keys").await, 2.0);
    assert_eq!(metric(&server, "slop_jwks_fetches_total{result=\"ok\"}").await, 3.0);
    assert!(metric(&server, "slop_jwks_fetched_timestamp_seconds").await >= epoch_seconds() as f64 - 60.0);

    // The one that was withdrawn is asked for again, and is not there.
    assert_eq!(connect(&server, &a.token("u")).await, refused(INVALID));
    assert_eq!(issuer.fetches(), 4);
}

#[tokio::test]
async fn a_token_that_a_key_without_an_id_verifies_waits_for_no_other() {
    let [a, b] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys_without_ids(&[&a]));
    let server = start(&issuer, &[]);
    assert_eq!(both(&server, &a.token("u")).await, Ok("u".to_owned()));
    assert_eq!(issuer.fetches(), 1, "the one at the start");
    assert_eq!(connect(&server, &b.token("u")).await, refused(INVALID));
    assert_eq!(issuer.fetches(), 2, "the key may be new");
}

#[tokio::test]
async fn who_must_authenticate_waits_for_the_key() {
    let [a, b] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&a]));
    let server = start(&issuer, &[("AUTH_REQUIRED", "true")]);
    issuer.says(Says::keys(&[&b]));
    let auth = json!({});
    let token = b.token("u");
    let mut client = Client::try_connect(&server, "/", auth, Some(&token)).await.expect("the key was fetched first");
    client.expect("welcome").await;
    client.expect("authenticated").await;
    let refused = Client::try_connect(&server, "/", json!({"token": Key::new("x").token("u")}), None).await;
    assert_eq!(refused.err().expect("refused")["data"]["code"], json!("UNAUTHORIZED"));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_no_flood_of_fetches() {
    let [a, b] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&a]));
    let cool = start(&issuer, &[("JWKS_COOLDOWN_MS", "600000")]);
    let flood = (0..50).map(|_| async { connect(&cool, &b.token("u")).await });
    let outcomes = futures_util::future::join_all(flood).await;
    assert!(outcomes.iter().all(|outcome| *outcome == refused(INVALID)));
    assert_eq!(issuer.fetches(), 1, "the one at the start");

    // And when the time has come, all of them wait for one.
    issuer.says(Says::keys(&[&a, &b]));
    let warm = start(&issuer, &[("JWKS_COOLDOWN_MS", "1000")]);
    issuer.says(Says::keys(&[&a]));
    let (began, before) = (Instant::now(), issuer.fetches());
    while began.elapsed() < Duration::from_millis(2_500) {
        let flood = (0..10).map(|_| async { connect(&warm, &Key::new("x").token("u")).await });
        let outcomes = futures_util::future::join_all(flood).await;
        assert!(outcomes.iter().all(|outcome| *outcome == refused(INVALID)));
    }
    let (fetched, seconds) = (issuer.fetches() - before, began.elapsed().as_secs() as usize);
    assert!((1..=seconds + 1).contains(&fetched), "{fetched} in {seconds} s");
}

#[tokio::test]
async fn the_last_good_keys_stay_when_the_issuer_fails() {
    let [a, b] = ["a", "b"].map(Key::new);
    let issuer = Issuer::new(Says::keys(&[&a]));
    let server = start(&issuer, &[]);
    for says in [
        Says::status(503, "retry-after: 1"),
        Says::status(302, "location: /keys"),
        Says::body(200, "content-type: text/html", "<html>"),
        Says::body(200, "content-type: application/json", r#"{"keys":[]}"#),
        Says::body(200, "content-type: application/json", &" ".repeat(1_000_000)),
        Says::body(200, "not a header", ""),
    ] {
        issuer.says(says);
        let before = issuer.fetches();
        assert_eq!(connect(&server, &b.token("u")).await, refused(INVALID));
        assert!(issuer.fetches() > before);
        assert_eq!(connect(&server, &a.token("u")).await, Ok("u".to_owned()));
    }
    assert!(metric(&server, "slop_jwks_fetches_total{result=\"failed\"}").await >= 6.0);
    issuer.says(Says::keys(&[&b]));
    assert_eq!(connect(&server, &b.token("u")).await, Ok("u".to_owned()));
}

#[tokio::test]
async fn without_the_issuer_it_starts_only_if_there_are_other_keys() {
    let key = Key::new("a");
    let issuer = Issuer::new(Says::status(503, "retry-after: 1"));
    let url = issuer.url();
    let data = tempfile::tempdir().expect("a temporary folder");
    let ran = Server::command(data.path(), &[("JWT_SECRET", ""), ("JWKS_URL", &url)]).output().expect("it ran");
    let error = String::from_utf8(ran.stderr).expect("text");
    assert!(ran.status.code() == Some(1) && error.contains("JWKS_URL") && error.contains("503"), "{error}");

    let server = Server::start_with(&[("JWKS_URL", &url), ("JWKS_COOLDOWN_MS", "1")]);
    assert_eq!(connect(&server, &token("u")).await, Ok("u".to_owned()));
    assert_eq!(connect(&server, &key.token("u")).await, refused(INVALID));
    issuer.says(Says::keys(&[&key]));
    assert_eq!(connect(&server, &key.token("u")).await, Ok("u".to_owned()));
}

#[tokio::test]
async fn a_client_is_told_that_its_token_is_about_to_end() {
    let server = Server::start_with(&[("TOKEN_EXPIRING_NOTICE_MS", "2000")]);
    let end = epoch_seconds() + 4;
    let mut client = Client::connect_as(&server, "/notifications", &signed(json!({"sub": "u", "exp": end}))).await;
    client.nothing_else().await;
    let told = client.expect("tokenExpiring").await;
    let left = Duration::from_secs(end).saturating_sub(since_1970());
    assert!((Duration::from_millis(1_000)..=Duration::from_millis(2_000)).contains(&left), "{left:?}");
    let at: jiff::Timestamp = told["expiresAt"].as_str().expect("a time").parse().expect("ISO 8601");
    assert_eq!((at.as_second() as u64, told.as_object().map(serde_json::Map::len)), (end, Some(1)));

    // A new token, and the warning is of that one; so short that it comes at once.
    client.call("authenticate", json!([{"token": token_until("u", 2)}])).await;
    client.expect("authenticated").await;
    client.expect("tokenExpiring").await;
    assert_eq!(client.expect("authError").await, json!({"message": "Token has expired"}));
    client.nothing_else().await;
    // Nobody speaks for the server.
    let event = json!({"event": "tokenExpiring"});
    post(&server, "/v1/rooms/r/events", &event).await.problem(422, "invalid");
}

/// Of the session's token and the one that its client offers on return, whichever ends later.
#[tokio::test]
async fn coming_back_shortens_no_identity() {
    // Whoever has a token that ends at all is told so at once.
    let server = Server::start_with(&[("TOKEN_EXPIRING_NOTICE_MS", "3600000")]);
    let (endless, short, long) = (signed(json!({"userId": "u"})), token_until("u", 600), token_until("u", 1_200));
    for (saved, offered) in [(&endless, &short), (&short, &endless), (&long, &short)] {
        let mut client = Client::connect_as(&server, "/", saved).await;
        let before = if *saved == endless { Value::Null } else { client.expect("tokenExpiring").await };
        client.cut().await;
        let (recovered, mut back) = client.come_back(&server, Some(offered)).await;
        assert!(recovered, "the session is the same");
        // What it was told last may come again, but of no other end.
        let mut told = back.events().await;
        told.retain(|(_, payload)| *payload != before);
        assert_eq!(told, []);
    }
}

fn since_1970() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock that is right")
}
