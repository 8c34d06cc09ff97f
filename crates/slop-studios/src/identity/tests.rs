use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::*;
use crate::contract::time::Moment;
use crate::identity::KeptClaims;
use crate::limits::{CLOCK_SKEW_SECONDS, MAX_EXPIRY_SECONDS, MAX_USER_ID_BYTES};
use crate::store::{Revocation, Revoked};

const NOW: u64 = 1_800_000_000;

fn secret() -> SecretString {
    SecretString::from("a secret of at least thirty-two bytes")
}

fn signed(algorithm: SigningAlgorithm, claims: Value) -> String {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let token = TokenSigner::new(&secret()).sign(algorithm, &claims).expect("HMAC signs");
    token.expose_secret().to_owned()
}

fn of_secret(secret: &str) -> TokenVerifier {
    TokenVerifier::new(Keys::of_secrets(&[SecretString::from(secret)]), ClaimRules::default())
}

fn verify(token: &str) -> Result<Identity, AuthError> {
    of_secret(secret().expose_secret()).verify_at(token, NOW)
}

fn verify_claims(claims: Value) -> Result<Identity, AuthError> {
    verify(&signed(SigningAlgorithm::Hs256, claims))
}

fn user_id(claims: Value) -> Result<String, AuthError> {
    verify_claims(claims).map(|identity| identity.user_id)
}

/// base64url without padding, written out so that forged tokens do not depend on the library under test.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * position)) as usize & 63]));
        }
    }
    text
}

#[test]
fn every_algorithm_of_the_secret_is_accepted() {
    for algorithm in [SigningAlgorithm::Hs256, SigningAlgorithm::Hs384, SigningAlgorithm::Hs512] {
        let token = signed(algorithm, json!({"userId": "u1", "email": "a@b.c", "iat": NOW, "exp": NOW + 60}));
        let verified = verify(&token);
        assert_eq!(
            verified,
            Ok(Identity {
                user_id: "u1".into(),
                email: Some("a@b.c".into()),
                expires_at: Some(NOW + 60),
                issued_at_ms: Some(NOW * 1000),
                token_id: None,
                proof: verified.as_ref().map(|identity| identity.proof.clone()).unwrap_or_default(),
                claims: KeptClaims::default(),
            })
        );
    }
}

/// The example on jwt.io's front page: a token and its secret that were not made by this code.
#[test]
fn a_published_token_verifies() {
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\
        .eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ\
        .SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    let verifier = of_secret("your-256-bit-secret");
    let identity = verifier.verify_at(token, NOW).expect("jwt.io's example is valid");
    assert_eq!(identity.user_id, "1234567890");
    assert_eq!(identity.expires_at, None);
}

#[test]
fn messages_are_the_contracts() {
    let texts =
        [AuthError::Required, AuthError::Expired, AuthError::NotYetValid, AuthError::Invalid, AuthError::NoUserId]
            .map(|error| error.to_string());
    assert_eq!(
        texts,
        [
            "Token is required",
            "Token has expired",
            "Token is not yet valid",
            "Token is invalid",
            "Token has no user id",
        ]
    );
}

#[test]
fn no_token_is_distinguished_from_a_bad_one() {
    assert_eq!(verify(""), Err(AuthError::Required));
    for bad in [" ", "x", "..", "a.b.c", "a.b.c.d", "eyJhbGciOiJIUzI1NiJ9..", "\u{1f600}.\0.é"] {
        assert_eq!(verify(bad), Err(AuthError::Invalid), "{bad:?}");
    }
}

#[test]
fn expiry_is_exact() {
    let expiring = |exp: Value| verify_claims(json!({"sub": "u", "exp": exp}));
    assert_eq!(expiring(json!(NOW - 1)), Err(AuthError::Expired));
    assert_eq!(expiring(json!(NOW)), Err(AuthError::Expired));
    assert_eq!(expiring(json!(-5)), Err(AuthError::Expired));
    assert_eq!(expiring(json!(NOW + 1)).map(|identity| identity.expires_at), Ok(Some(NOW + 1)));
    assert_eq!(expiring(json!(NOW as f64 + 1.9)).map(|identity| identity.expires_at), Ok(Some(NOW + 1)));
    assert_eq!(expiring(json!(1e300)).map(|identity| identity.expires_at), Ok(Some(MAX_EXPIRY_SECONDS)));
}

#[test]
fn a_token_from_the_future_is_not_yet_valid() {
    for claim in ["nbf", "iat"] {
        let starting = |at: u64| verify_claims(json!({"sub": "u", claim: at}));
        assert_eq!(starting(NOW + CLOCK_SKEW_SECONDS + 1), Err(AuthError::NotYetValid));
        assert!(starting(NOW + CLOCK_SKEW_SECONDS).is_ok(), "{claim} within the skew");
        assert!(starting(NOW).is_ok());
    }
    // An expired token stays expired, whatever its other errors.
    assert_eq!(verify_claims(json!({"sub": "u", "exp": NOW - 1, "nbf": NOW + 60})), Err(AuthError::Expired));
}

#[test]
fn times_are_numbers() {
    for claim in ["exp", "nbf", "iat"] {
        for value in [json!("1900000000"), json!([1]), json!({}), json!(true)] {
            assert_eq!(verify_claims(json!({"sub": "u", claim: value})), Err(AuthError::Invalid), "{claim}: {value}");
        }
    }
}

#[test]
fn the_user_id_is_the_first_claim_present() {
    assert_eq!(user_id(json!({"userId": "a", "id": "b", "sub": "c"})), Ok("a".into()));
    assert_eq!(user_id(json!({"id": "b", "sub": "c"})), Ok("b".into()));
    assert_eq!(user_id(json!({"sub": "c"})), Ok("c".into()));
    assert_eq!(user_id(json!({"userId": null, "sub": "c"})), Ok("c".into()));
}

#[test]
fn a_number_becomes_a_string() {
    assert_eq!(user_id(json!({"userId": 42})), Ok("42".into()));
    assert_eq!(user_id(json!({"userId": 42.0})), Ok("42".into()));
    assert_eq!(user_id(json!({"userId": -7})), Ok("-7".into()));
    assert_eq!(user_id(json!({"userId": 0})), Ok("0".into()));
    assert_eq!(user_id(json!({"userId": 9_007_199_254_740_991u64})), Ok("9007199254740991".into()));
}

/// A token with this text as its claims.
fn signed_text(claims: &str) -> String {
    let claims = serde_json::value::RawValue::from_string(claims.to_owned()).expect("JSON");
    let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("HMAC signs")
}

/// Two users whose numbers are rounded to the same number would be one user.
#[test]
fn a_number_that_is_not_exact_names_nobody() {
    for literal in [
        "9007199254740992",
        "9007199254740993",
        "-9007199254740993",
        "9007199254740993.0",
        "18446744073709551615",
        "18446744073709551617",
        "1e300",
        "1.5",
        "42.00000000000000000001",
        "1e-400",
    ] {
        for claim in ["userId", "id", "sub"] {
            let refused = verify(&signed_text(&format!(r#"{{"{claim}":{literal}}}"#)));
            assert_eq!(refused, Err(AuthError::NoUserId), "{claim}: {literal}");
        }
    }
    let exact = verify(&signed_text(r#"{"userId":4.2e1}"#)).map(|identity| identity.user_id);
    assert_eq!(exact, Ok("42".into()));
}

#[test]
fn what_names_no_user_is_refused() {
    for value in [
        json!(""),
        json!(["a"]),
        json!({"id": "a"}),
        json!(true),
        json!("a\nb"),
        json!("a\u{85}b"),
        json!("x".repeat(MAX_USER_ID_BYTES + 1)),
        json!(1e300),
    ] {
        assert_eq!(user_id(json!({"userId": value, "sub": "other"})), Err(AuthError::NoUserId), "{value}");
    }
    assert_eq!(user_id(json!({"email": "a@b.c"})), Err(AuthError::NoUserId));
    let longest = "x".repeat(MAX_USER_ID_BYTES);
    assert_eq!(user_id(json!({"userId": &longest})), Ok(longest));
}

#[test]
fn an_email_of_another_type_is_left_out() {
    for email in [json!(null), json!(1), json!(["a@b.c"]), json!(""), json!("x".repeat(321))] {
        let identity = verify_claims(json!({"sub": "u", "email": email}));
        assert_eq!(identity.map(|identity| identity.email), Ok(None));
    }
}

#[test]
fn claims_that_are_no_object_are_invalid() {
    let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
    for claims in [json!("text"), json!([]), json!(null), json!(5)] {
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("signs");
        assert_eq!(verify(&token), Err(AuthError::Invalid), "{claims}");
    }
}

#[test]
fn another_algorithm_or_none_is_invalid() {
    let claims = base64url(br#"{"userId":"admin"}"#);
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None","typ":"JWT"}"#,
        r#"{"alg":"RS256","typ":"JWT"}"#,
        r#"{"alg":"ES256","typ":"JWT"}"#,
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"HS1"}"#,
        r#"{"typ":"JWT"}"#,
    ] {
        let header = base64url(header.as_bytes());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{claims}.{signature}");
            assert_eq!(verify(&token), Err(AuthError::Invalid), "{token}");
        }
    }
}

#[test]
fn an_algorithm_swapped_after_signing_is_invalid() {
    let token = signed(SigningAlgorithm::Hs256, json!({"sub": "u"}));
    let (_, rest) = token.split_once('.').expect("three parts");
    let forged = format!("{}.{rest}", base64url(br#"{"alg":"HS512","typ":"JWT"}"#));
    assert_eq!(verify(&forged), Err(AuthError::Invalid));
}

#[test]
fn tampered_claims_are_invalid() {
    let token = signed(SigningAlgorithm::Hs256, json!({"userId": "mallory"}));
    let parts: Vec<&str> = token.split('.').collect();
    let forged = format!("{}.{}.{}", parts[0], base64url(br#"{"userId":"admin"}"#), parts[2]);
    assert_eq!(verify(&forged), Err(AuthError::Invalid));
    assert_eq!(verify(&token[..token.len() - 4]), Err(AuthError::Invalid));
    let other = of_secret("another secret");
    assert_eq!(other.verify_at(&token, NOW), Err(AuthError::Invalid));
}

#[test]
fn an_unknown_critical_extension_is_invalid() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".into()]);
    let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
    let token = jsonwebtoken::encode(&header, &json!({"sub": "u"}), &key).expect("signs");
    assert_eq!(verify(&token), Err(AuthError::Invalid));
}

#[test]
fn a_huge_token_is_invalid_even_if_well_signed() {
    let token = signed(SigningAlgorithm::Hs256, json!({"sub": "u", "pad": "x".repeat(MAX_TOKEN_BYTES)}));
    assert_eq!(verify(&token), Err(AuthError::Invalid));
    let deep = format!(r#"{{"sub":{}"u"{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let forged = format!("{}.{}.AAAA", base64url(br#"{"alg":"HS256"}"#), base64url(deep.as_bytes()));
    assert_eq!(verify(&forged), Err(AuthError::Invalid));
}

#[test]
fn secrets_stay_out_of_debug() {
    let verifier = format!("{:?}", of_secret(secret().expose_secret()));
    let signer = format!("{:?}", TokenSigner::new(&secret()));
    for text in [verifier, signer] {
        assert!(!text.contains("thirty-two"), "{text}");
        assert!(!text.contains("97, 32"), "{text}");
    }
}

fn verify_by(rules: ClaimRules, claims: Value) -> Result<Identity, AuthError> {
    let verifier = TokenVerifier::new(Keys::of_secrets(&[secret()]), rules);
    verifier.verify_at(&signed(SigningAlgorithm::Hs256, claims), NOW)
}

#[test]
fn every_secret_verifies_until_it_is_replaced() {
    let [old, new, unknown] = ["an old secret", "a new secret", "a secret of others"].map(SecretString::from);
    let token = |secret: &SecretString| {
        let claims = json!({"sub": "u"}).as_object().cloned().expect("an object");
        TokenSigner::new(secret).sign(SigningAlgorithm::Hs256, &claims).expect("HMAC signs")
    };
    let verifier = TokenVerifier::new(Keys::of_secrets(&[new.clone(), old.clone()]), ClaimRules::default());
    let is_good = |secret| verifier.verify_at(token(secret).expose_secret(), NOW).is_ok();
    assert_eq!([&old, &new, &unknown].map(is_good), [true, true, false]);
    verifier.replace(Keys::of_secrets(std::slice::from_ref(&new)));
    assert_eq!([&old, &new, &unknown].map(is_good), [false, true, false]);
    verifier.replace(Keys::default());
    assert_eq!([&old, &new, &unknown].map(is_good), [false, false, false]);
}

#[test]
fn the_issuer_is_one_of_those_named() {
    let by = |claims: Value| {
        let issuers = vec!["https://a.example.com".to_owned(), "b".to_owned()];
        verify_by(ClaimRules { issuers, ..ClaimRules::default() }, claims).map(|_| ())
    };
    assert_eq!(by(json!({"sub": "u", "iss": "https://a.example.com"})), Ok(()));
    assert_eq!(by(json!({"sub": "u", "iss": "b"})), Ok(()));
    for iss in [json!("https://a.example.com/"), json!("B"), json!(""), json!(["b"]), json!(null), json!(1)] {
        assert_eq!(by(json!({"sub": "u", "iss": iss})), Err(AuthError::Invalid), "{iss}");
    }
    assert_eq!(by(json!({"sub": "u"})), Err(AuthError::Invalid));
    assert!(verify_claims(json!({"sub": "u", "iss": 5})).is_ok(), "nobody asked for one");
}

#[test]
fn the_audience_has_one_of_those_named() {
    let for_us = |claims: Value| {
        let audiences = vec!["realtime".to_owned(), "all".to_owned()];
        verify_by(ClaimRules { audiences, ..ClaimRules::default() }, claims).map(|_| ())
    };
    for aud in [json!("realtime"), json!(["x", "all"]), json!([1, "realtime"])] {
        assert_eq!(for_us(json!({"sub": "u", "aud": aud})), Ok(()), "{aud}");
    }
    for aud in [json!("billing"), json!([]), json!(["billing"]), json!({"realtime": 1}), json!(null), json!(1)] {
        assert_eq!(for_us(json!({"sub": "u", "aud": aud})), Err(AuthError::Invalid), "{aud}");
    }
    assert_eq!(for_us(json!({"sub": "u"})), Err(AuthError::Invalid));
}

#[test]
fn the_leeway_is_for_both_ends() {
    let rules = || ClaimRules { leeway: Duration::from_secs(30), ..ClaimRules::default() };
    let end = |claims| verify_by(rules(), claims).map(|identity| identity.expires_at);
    assert_eq!(end(json!({"sub": "u", "exp": NOW - 29})), Ok(Some(NOW + 1)));
    assert_eq!(end(json!({"sub": "u", "exp": NOW - 30})), Err(AuthError::Expired));
    assert_eq!(end(json!({"sub": "u", "nbf": NOW + 30})), Ok(None));
    assert_eq!(end(json!({"sub": "u", "nbf": NOW + 31})), Err(AuthError::NotYetValid));
    assert_eq!(end(json!({"sub": "u", "exp": 1e300})), Ok(Some(MAX_EXPIRY_SECONDS)));
}

#[test]
fn no_token_lives_longer_than_revocations_are_kept() {
    let rules = || ClaimRules { max_lifetime: Some(Duration::from_secs(100)), ..ClaimRules::default() };
    let end = |claims| verify_by(rules(), claims).map(|identity| identity.expires_at);
    assert_eq!(end(json!({"sub": "u", "iat": NOW - 99, "exp": NOW + 500})), Ok(Some(NOW + 1)));
    assert_eq!(end(json!({"sub": "u", "iat": NOW - 99, "exp": NOW + 1})), Ok(Some(NOW + 1)));
    assert_eq!(end(json!({"sub": "u", "iat": NOW - 100, "exp": NOW + 500})), Err(AuthError::Expired));
    assert_eq!(end(json!({"sub": "u", "iat": NOW - 100})), Err(AuthError::Expired));
    assert_eq!(end(json!({"sub": "u", "exp": NOW + 500})), Ok(Some(NOW + 500)));
}

#[test]
fn what_revocation_needs_is_read() {
    let identity = verify_claims(json!({"sub": "u", "iat": 1_700_000_000.25, "jti": "t-1"})).expect("valid");
    assert_eq!((identity.issued_at_ms, identity.token_id.as_deref()), (Some(1_700_000_000_250), Some("t-1")));
    for jti in [json!(""), json!(["t"]), json!(true), json!("x".repeat(257))] {
        let identity = verify_claims(json!({"sub": "u", "jti": jti})).expect("valid");
        assert_eq!(identity.token_id, None, "{jti}");
    }
    // Any number has one text by which it can be revoked.
    for (literal, text) in
        [("5", "5"), ("5.0", "5"), ("12345678901234567890123", "12345678901234567890123"), ("0.50", "0.50")]
    {
        let identity = verify(&signed_text(&format!(r#"{{"sub":"u","jti":{literal}}}"#))).expect("valid");
        assert_eq!(identity.token_id.as_deref(), Some(text));
    }
}

#[test]
fn a_revoked_token_is_refused() {
    let (id, at) = ("t-1", Moment::from_epoch_ms(NOW * 1000));
    let revocations = Arc::new(Revocations::default());
    let verifier = TokenVerifier::new(Keys::of_secrets(&[secret()]), ClaimRules::default())
        .with_revocations(Arc::clone(&revocations));
    let check = |claims: Value| verifier.verify_at(&signed(SigningAlgorithm::Hs256, claims), NOW).map(|_| ());
    let token = || json!({"sub": "u", "iat": NOW, "jti": id});
    assert_eq!(check(token()), Ok(()));
    revocations.add(&Revocation { subject: Revoked::Token(id.into()), at, expires_at: None });
    assert_eq!(check(token()), Err(AuthError::Revoked));
    assert_eq!(check(json!({"sub": "v", "iat": NOW - 1})), Ok(()));
    revocations.add(&Revocation { subject: Revoked::User("v".into()), at, expires_at: None });
    assert_eq!(check(json!({"sub": "v", "iat": NOW - 1})), Err(AuthError::Revoked));
    assert_eq!(check(json!({"sub": "v", "iat": NOW})), Ok(()));
    // Its other errors are reported first.
    assert_eq!(check(json!({"sub": "v", "iat": NOW - 9, "exp": NOW})), Err(AuthError::Expired));
}

/// An identity gets the same answer under other keys and rules as its token would get now.
#[test]
fn an_identity_is_good_as_long_as_its_token() {
    let now = epoch_seconds();
    let token = signed(
        SigningAlgorithm::Hs384,
        json!({"sub": "u", "jti": "t", "iat": now - 100, "exp": now + 100, "iss": "i", "aud": ["x", "a"]}),
    );
    let keys = || Keys::of_secrets(&[SecretString::from("another secret"), secret()]);
    let before = TokenVerifier::new(Keys::of_secrets(&[secret()]), ClaimRules::default());
    let saved = serde_json::to_string(&before.verify(&token).expect("good")).expect("JSON");
    assert!(!saved.contains("thirty-two"), "{saved}");
    let identity: Identity = serde_json::from_str(&saved).expect("it is read back");
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let rules = |issuers: &[&str], audiences: &[&str], leeway, max_lifetime| ClaimRules {
        issuers: texts(issuers),
        audiences: texts(audiences),
        leeway: Duration::from_secs(leeway),
        max_lifetime,
    };
    for (keys, rules) in [
        (keys(), ClaimRules::default()),
        (Keys::of_secrets(&[SecretString::from("another secret")]), ClaimRules::default()),
        (Keys::default(), ClaimRules::default()),
        (keys(), rules(&["j", "i"], &["a"], 0, None)),
        (keys(), rules(&["j"], &[], 0, None)),
        (keys(), rules(&[], &["b"], 0, None)),
        (keys(), rules(&[], &[], 30, seconds(150))),
        (keys(), rules(&[], &[], 30, seconds(99))),
        (keys(), rules(&[], &[], 30, None)),
    ] {
        let verifier = TokenVerifier::new(keys, rules);
        let by_token = verifier.verify(&token).map(|identity| identity.expires_at);
        assert_eq!(verifier.recheck(&identity), by_token, "{verifier:?}");
    }
    let revocations = Arc::new(Revocations::default());
    revocations.add(&Revocation { subject: Revoked::Token("t".into()), at: Moment::now(), expires_at: None });
    let verifier = TokenVerifier::new(keys(), ClaimRules::default()).with_revocations(revocations);
    assert_eq!(verifier.recheck(&identity), Err(AuthError::Revoked));
}

/// An identity that an earlier version has saved has no key, so it is unknown whether the key is still accepted.
#[test]
fn an_identity_of_an_unknown_key_is_refused() {
    let identity: Identity = serde_json::from_str(r#"{"userId":"u","expiresAt":4000000000}"#).expect("it is read");
    assert_eq!(of_secret("a secret").recheck(&identity), Err(AuthError::Invalid));
}

/// Whatever the length and the number of the names in it.
#[test]
fn a_token_that_is_accepted_is_so_when_it_is_asked_again() {
    let text = |start: &str, length: usize| format!("{start}{}", "x".repeat(length));
    let long = || text("long", 1_025);
    let many = |last: &str| (0..60).map(|n| text(&n.to_string(), 30)).chain([last.to_owned()]).collect::<Vec<_>>();
    let rules = |issuers: &[String], audiences: &[String]| ClaimRules {
        issuers: issuers.to_vec(),
        audiences: audiences.to_vec(),
        ..ClaimRules::default()
    };
    let now = epoch_seconds();
    for (rules, claims) in [
        (rules(&[], &[]), json!({"iss": long(), "aud": many("a")})),
        (rules(&[long()], &[]), json!({"iss": long()})),
        (rules(&[], &["a".into()]), json!({"aud": many("a")})),
        (rules(&[], &["a".into()]), json!({"aud": [long(), "a"]})),
        (rules(&[], &[long()]), json!({"aud": long()})),
        (rules(&[], &[long(), "b".into()]), json!({"aud": ["b", long()]})),
        (rules(&[], &many("a")), json!({"aud": many("a")})),
        (rules(&[], &[]), json!({"iat": now as f64 - 0.000_1, "exp": now as f64 + 99.999_9, "nbf": -1.5})),
        (rules(&[], &[]), json!({"iat": -5, "exp": 1e300})),
    ] {
        for kid in [None, Some("k".to_owned()), Some(text("k", 1_000))] {
            let mut claims = claims.clone();
            claims["sub"] = "u".into();
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            let key = EncodingKey::from_secret(secret().expose_secret().as_bytes());
            let token = jsonwebtoken::encode(&header, &claims, &key).expect("HMAC signs");
            let verifier = TokenVerifier::new(Keys::of_secrets(&[secret()]), rules.clone());
            let identity = verifier.verify(&token).expect("it is accepted");
            let kept = serde_json::to_string(&identity).expect("JSON");
            assert!(kept.len() < 3_000, "{} bytes are kept", kept.len());
            assert_eq!(verifier.recheck(&identity), Ok(identity.expires_at), "{:?} {claims}", header.kid);
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_and_none_panics(token in "\\PC{0,200}") {
        prop_assert!(verify(&token).is_err());
    }

    /// Any three parts, so that the code after the decoding of the header is reached too.
    #[test]
    fn any_header_and_claims_without_a_signature_are_refused(header in "\\PC{0,80}", claims in "\\PC{0,80}") {
        let token = format!("{}.{}.AAAA", base64url(header.as_bytes()), base64url(claims.as_bytes()));
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn a_token_with_one_character_changed_is_refused(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        let token = signed(SigningAlgorithm::Hs256, json!({"sub": "u", "iat": NOW}));
        let at = at.index(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(verify(&changed).is_err());
    }
}

/// A client gets one of six texts; the operator gets the exact key or claim, and the setting that decides on it.
#[test]
fn the_operator_gets_the_exact_flaw() {
    let rules = ClaimRules {
        issuers: vec!["https://id.example".to_owned()],
        audiences: vec!["studio".to_owned()],
        max_lifetime: Some(Duration::from_secs(3_600)),
        ..ClaimRules::default()
    };
    let revocations = Revocations::default();
    for subject in [Revoked::User("gone".into()), Revoked::Token("t1".into())] {
        revocations.add(&Revocation { subject, at: Moment::from_epoch_ms((NOW + 9) * 1_000), expires_at: None });
    }
    let verifier = TokenVerifier::new(Keys::of_secrets(&[secret()]), rules).with_revocations(revocations.into());
    let with = |more: Value| {
        let mut claims = json!({"userId": "u", "iss": "https://id.example", "aud": "studio"});
        claims.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        signed(SigningAlgorithm::Hs256, claims)
    };
    let other = TokenSigner::new(&SecretString::from("another secret of thirty-two bytes"));
    let other = other.sign(SigningAlgorithm::Hs384, &serde_json::Map::new()).expect("HMAC signs");
    let header = |json: &str| format!("{}.e30.AAAA", base64url(json.as_bytes()));
    let keys = "JWT_SECRET, JWT_PREVIOUS_SECRETS, JWT_PUBLIC_KEYS or JWKS_URL";
    for (token, text, setting) in [
        (String::new(), "there is none", ""),
        ("x".repeat(16_385), "it is longer than 16384 bytes", ""),
        ("x".to_owned(), "it is no JSON Web Token", ""),
        (header(r#"{"alg":"none"}"#), "it is no JSON Web Token", ""),
        (header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#), "its header has `crit`", ""),
        (header(r#"{"alg":"ES256","kid":"k\n1"}"#), r#"there is no key for ES256 with the id "k\n1""#, keys),
        (header(r#"{"alg":"ES256"}"#), "there is no key for ES256", keys),
        (other.expose_secret().to_owned(), "none of the keys for HS384 has signed it", keys),
        (with(json!({"iss": "https://evil.example"})), r#"its issuer is "https://evil.example""#, "JWT_ISSUER"),
        (with(json!({"iss": null})), "its issuer is not named", "JWT_ISSUER"),
        (with(json!({"aud": "shop"})), "it is for another audience", "JWT_AUDIENCE"),
        (with(json!({"exp": "soon"})), "its claim `exp` is no number", ""),
        (with(json!({"exp": NOW - 5})), "its `exp` was 5 s ago", "JWT_LEEWAY_SECONDS"),
        (with(json!({"iat": NOW - 3_607})), "its longest lifetime after `iat` ended 7 s ago", "JWT_MAX_LIFETIME_DAYS"),
        (with(json!({"nbf": NOW + 60})), "its `nbf` is 60 s ahead", "JWT_LEEWAY_SECONDS"),
        (with(json!({"iat": NOW + 61})), "its `iat` is 61 s ahead", "JWT_LEEWAY_SECONDS"),
        (with(json!({"userId": [1]})), "none of its claims `userId`, `id` and `sub`", ""),
        (with(json!({"userId": "gone", "iat": NOW})), "its user's tokens were revoked", ""),
        (with(json!({"jti": "t1"})), "its `jti` was revoked", ""),
    ] {
        let flaw = verifier.examine_at(&token, NOW).expect_err(text);
        assert!(flaw.to_string().starts_with(text), "{flaw}, not {text}");
        assert_eq!(flaw.setting().unwrap_or_default(), setting, "{text}");
        assert_eq!(verifier.verify_at(&token, NOW), Err(flaw.error()), "{text}");
    }
}
