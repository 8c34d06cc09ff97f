//! A JSON Web Token: bytes that nobody signed are nobody's, and of claims that were signed whoever is believed has a
//! user's id and time left.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use slop_studios::contract::rooms::is_user_id;
use slop_studios::identity::{ClaimRules, Keys, TokenVerifier};

const SECRET: &str = "a secret that no input of the fuzzer has";
const NOW: u64 = 1_800_000_000;

static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
    let rules = ClaimRules { max_lifetime: Some(Duration::from_secs(86_400)), ..ClaimRules::default() };
    TokenVerifier::new(Keys::of_secrets(&[SECRET.to_owned().into()]), rules)
});
static KEY: LazyLock<EncodingKey> = LazyLock::new(|| EncodingKey::from_secret(SECRET.as_bytes()));

fuzz_target!(|input: &str| {
    assert!(VERIFIER.verify_at(input, NOW).is_err());

    // A line for the header, and the claims.
    let Some((header, claims)) = input.split_once('\n') else { return };
    for header in [header, r#"{"alg":"HS256"}"#] {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = sign(message.as_bytes(), &KEY, Algorithm::HS256).expect("a secret signs");
        let Ok(identity) = VERIFIER.verify_at(&format!("{message}.{signature}"), NOW) else { continue };
        assert!(is_user_id(&identity.user_id));
        assert!(identity.expires_at.is_none_or(|end| end > NOW));
        assert!(serde_json::from_str::<&RawValue>(claims).is_ok_and(|json| json.get().starts_with('{')));
    }
});
