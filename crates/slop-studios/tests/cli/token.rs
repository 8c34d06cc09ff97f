//! `token`: what it mints, and with which secret.

use secrecy::SecretString;
use slop_studios::contract::auth_error::AuthError;
use slop_studios::identity::{ClaimRules, Identity, Keys, TokenVerifier};

use crate::{Place, SECRET};

fn verify(output: &str, secret: &str) -> Result<Identity, AuthError> {
    let token = output.strip_suffix('\n').expect("one line");
    TokenVerifier::new(Keys::of_secrets(&[SecretString::from(secret)]), ClaimRules::default()).verify(token)
}

fn mint(args: &[&str]) -> String {
    let args = [&["token"], args].concat();
    let ran = Place::new().run_with(&args, &[("JWT_SECRET", SECRET)]).ok();
    assert_eq!(ran.stderr, "");
    ran.stdout
}

#[test]
fn prints_just_a_token_that_the_server_accepts() {
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = mint(&["--user", "alice", "--email", "alice@example.com", "--algorithm", algorithm]);
        let identity = verify(&token, SECRET).expect("valid");
        assert_eq!(identity.user_id, "alice");
        assert_eq!(identity.email.as_deref(), Some("alice@example.com"));
        assert!(identity.expires_at.is_some());
        assert_eq!(verify(&token, "another"), Err(AuthError::Invalid));
    }
}

#[test]
fn mints_what_tests_need_beside_good_ones() {
    let expired = mint(&["--user", "alice", "--expires-in", "-1s"]);
    assert_eq!(verify(&expired, SECRET), Err(AuthError::Expired));
    let early = mint(&["--user", "alice", "--claim", "nbf=99999999999"]);
    assert_eq!(verify(&early, SECRET), Err(AuthError::NotYetValid));
    let nobody = mint(&["--user", "alice", "--claim", "userId=[1]"]);
    assert_eq!(verify(&nobody, SECRET), Err(AuthError::NoUserId));
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let place = Place::new();
    let secret = [("JWT_SECRET", SECRET)];
    for args in [
        &["token"][..],
        &["token", "--user", ""],
        &["token", "--user", "a\nb"],
        &["token", "--user", "a", "--expires-in", "soon"],
        &["token", "--user", "a", "--claim", "role"],
        &["token", "--user", "a", "--algorithm", "none"],
    ] {
        place.run_with(args, &secret).refused();
    }
}

#[test]
fn falls_back_on_the_development_secret() {
    let place = Place::new();
    let ran = place.run(&["token", "--user", "alice"]).refused();
    assert!(ran.stderr.contains("JWT_SECRET is not set"), "{ran:#?}");

    std::fs::create_dir(place.path().join("data")).expect("a folder");
    place.write("data/dev-jwt-secret", "a development secret\n");
    let ran = place.run(&["token", "--user", "alice"]).ok();
    assert!(ran.stderr.contains("development secret"), "{ran:#?}");
    assert!(verify(&ran.stdout, "a development secret").is_ok());

    place.write("slop.toml", &format!("jwt_secret = {SECRET:?}\n"));
    let ran = place.run(&["token", "--user", "alice", "--config", "slop.toml"]).ok();
    assert!(verify(&ran.stdout, SECRET).is_ok());
}
