//! Who a socket is: verification of JSON Web Tokens, and minting them for tests and development.
//!
//! Verification takes the secret's own algorithms only (HS256, HS384, HS512), so a token can't choose `none` or
//! have a public key taken for a secret. The errors' texts are the contract's and go to clients as they stand.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::defaults::{CLOCK_SKEW_SECONDS, MAX_EMAIL_BYTES, MAX_EXPIRY_SECONDS, MAX_TOKEN_BYTES, MAX_USER_ID_BYTES};
use crate::in_force::InForce;
use crate::policy::KeptClaims;

/// What a verified token says about its bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The claim `userId`, else `id`, else `sub`: 1 to 128 bytes without control characters.
    pub user_id: String,
    /// The claim `email`, if it is a string of at most 320 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Epoch seconds at which the token ends; `None` for one without `exp`. At most the end of the year 9999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The claims that rules of the room policy name.
    #[serde(default, skip_serializing_if = "KeptClaims::is_empty")]
    pub claims: KeptClaims,
}

/// Why a token was refused. The text is the contract's, word for word, for `authError` and acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthError {
    /// There was none, or an empty one.
    #[error("Token is required")]
    Required,
    /// `exp` has come.
    #[error("Token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future by more than the clock skew.
    #[error("Token is not yet valid")]
    NotYetValid,
    /// Malformed, too long, signed with another secret or algorithm, or with a time that is no number.
    #[error("Token is invalid")]
    Invalid,
    /// None of the claims `userId`, `id` and `sub` names a user.
    #[error("Token has no user id")]
    NoUserId,
}

/// Checks tokens against one secret. `Debug` does not show the secret.
#[derive(Debug)]
pub struct TokenVerifier {
    key: InForce<DecodingKey>,
    validation: Validation,
}

/// The claims that matter here; others pass unseen.
#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "userId")]
    user_id: Option<Value>,
    id: Option<Value>,
    sub: Option<Value>,
    email: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
}

impl TokenVerifier {
    /// A verifier of HS256, HS384 and HS512 tokens signed with `secret`.
    pub fn new(secret: &SecretString) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // The times are checked below: the library reads the clock itself, knows no `iat`, and rounds `exp` up.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        // The contract has no audience: a token made for several services is welcome.
        validation.validate_aud = false;
        Self { key: InForce::new(DecodingKey::from_secret(secret.expose_secret().as_bytes())), validation }
    }

    /// From now on tokens are checked with this secret. Who has an identity keeps it until its token ends.
    pub fn replace(&self, secret: &SecretString) {
        self.key.replace(DecodingKey::from_secret(secret.expose_secret().as_bytes()));
    }

    /// Verifies `token` as of now.
    ///
    /// # Errors
    /// The contract's reason for the refusal.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.verify_at(token, epoch_seconds())
    }

    /// Verifies `token` as of `now` in epoch seconds.
    ///
    /// # Errors
    /// The contract's reason for the refusal.
    pub fn verify_at(&self, token: &str, now: u64) -> Result<Identity, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Required);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.key.get(), &self.validation)
            .map_err(|_refusal| AuthError::Invalid)?;
        // RFC 7515 §4.1.11: extensions that are critical and not understood make the token invalid.
        if data.header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        let claims = data.claims;

        let expires_at = claims.exp.as_ref().map(numeric_date).transpose()?;
        let not_before = claims.nbf.as_ref().map(numeric_date).transpose()?;
        let issued_at = claims.iat.as_ref().map(numeric_date).transpose()?;
        if expires_at.is_some_and(|exp| now >= exp) {
            return Err(AuthError::Expired);
        }
        let latest = now.saturating_add(CLOCK_SKEW_SECONDS);
        if not_before.is_some_and(|nbf| nbf > latest) || issued_at.is_some_and(|iat| iat > latest) {
            return Err(AuthError::NotYetValid);
        }

        let user_id = claims.user_id.or(claims.id).or(claims.sub).and_then(user_id_text).ok_or(AuthError::NoUserId)?;
        let email = match claims.email {
            Some(Value::String(email)) if !email.is_empty() && email.len() <= MAX_EMAIL_BYTES => Some(email),
            _ => None,
        };
        Ok(Identity { user_id, email, expires_at, claims: KeptClaims::default() })
    }
}

/// Whether `text` can be a user's id: 1 to 128 bytes without control characters.
pub fn is_user_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_USER_ID_BYTES && !text.chars().any(char::is_control)
}

fn user_id_text(claim: Value) -> Option<String> {
    let text = match claim {
        Value::String(text) => text,
        Value::Number(number) => javascript_text(&number),
        _ => return None,
    };
    is_user_id(&text).then_some(text)
}

/// A number as JavaScript would write it: `42.0` is `42`, so that a token's number and a publisher's string agree.
pub(crate) fn javascript_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    }
}

/// RFC 7519 §2: seconds, perhaps with a fraction, which is dropped. Before 1970 counts as 1970.
fn numeric_date(claim: &Value) -> Result<u64, AuthError> {
    let seconds = claim.as_f64().ok_or(AuthError::Invalid)?;
    // `as` saturates: a negative number becomes 0 and a huge one the maximum.
    Ok((seconds as u64).min(MAX_EXPIRY_SECONDS))
}

/// Seconds since 1970; 0 when the clock stands before it.
pub fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// An algorithm that the secret can sign with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SigningAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    #[value(name = "HS256", alias = "hs256")]
    Hs256,
    /// HMAC with SHA-384.
    #[value(name = "HS384", alias = "hs384")]
    Hs384,
    /// HMAC with SHA-512.
    #[value(name = "HS512", alias = "hs512")]
    Hs512,
}

/// Mints tokens that a [`TokenVerifier`] of the same secret accepts. `Debug` does not show the secret.
#[derive(Debug)]
pub struct TokenSigner {
    key: EncodingKey,
}

impl TokenSigner {
    /// A signer that uses `secret`.
    pub fn new(secret: &SecretString) -> Self {
        Self { key: EncodingKey::from_secret(secret.expose_secret().as_bytes()) }
    }

    /// The compact form of a token with these claims, exactly as given.
    ///
    /// # Errors
    /// When the cryptographic library refuses to sign.
    pub fn sign(&self, algorithm: SigningAlgorithm, claims: &Map<String, Value>) -> Result<SecretString, SignError> {
        let algorithm = match algorithm {
            SigningAlgorithm::Hs256 => Algorithm::HS256,
            SigningAlgorithm::Hs384 => Algorithm::HS384,
            SigningAlgorithm::Hs512 => Algorithm::HS512,
        };
        jsonwebtoken::encode(&Header::new(algorithm), claims, &self.key)
            .map(SecretString::from)
            .map_err(|error| SignError(error.into_kind()))
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("sign the token: {0:?}")]
pub struct SignError(ErrorKind);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn secret() -> SecretString {
        SecretString::from("a secret of at least thirty-two bytes")
    }

    fn signed(algorithm: SigningAlgorithm, claims: Value) -> String {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        let token = TokenSigner::new(&secret()).sign(algorithm, &claims).expect("HMAC signs");
        token.expose_secret().to_owned()
    }

    fn verify(token: &str) -> Result<Identity, AuthError> {
        TokenVerifier::new(&secret()).verify_at(token, NOW)
    }

    fn verify_claims(claims: Value) -> Result<Identity, AuthError> {
        verify(&signed(SigningAlgorithm::Hs256, claims))
    }

    fn user_id(claims: Value) -> Result<String, AuthError> {
        verify_claims(claims).map(|identity| identity.user_id)
    }

    /// base64url without padding, written out so that forged tokens need nothing of the library under test.
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
            assert_eq!(
                verify(&token),
                Ok(Identity {
                    user_id: "u1".into(),
                    email: Some("a@b.c".into()),
                    expires_at: Some(NOW + 60),
                    claims: KeptClaims::default()
                })
            );
        }
    }

    /// The example on jwt.io's front page: a token and its secret that this code had no part in making.
    #[test]
    fn a_published_token_verifies() {
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\
            .eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ\
            .SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
        let verifier = TokenVerifier::new(&SecretString::from("your-256-bit-secret"));
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
    fn no_token_is_told_from_a_bad_one() {
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
        // An expired one stays expired whatever else is wrong with it.
        assert_eq!(verify_claims(json!({"sub": "u", "exp": NOW - 1, "nbf": NOW + 60})), Err(AuthError::Expired));
    }

    #[test]
    fn times_are_numbers() {
        for claim in ["exp", "nbf", "iat"] {
            for value in [json!("1900000000"), json!([1]), json!({}), json!(true)] {
                assert_eq!(
                    verify_claims(json!({"sub": "u", claim: value})),
                    Err(AuthError::Invalid),
                    "{claim}: {value}"
                );
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
        assert_eq!(user_id(json!({"userId": 1.5})), Ok("1.5".into()));
        assert_eq!(user_id(json!({"userId": u64::MAX})), Ok("18446744073709551615".into()));
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
        let other = TokenVerifier::new(&SecretString::from("another secret"));
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
        let verifier = format!("{:?}", TokenVerifier::new(&secret()));
        let signer = format!("{:?}", TokenSigner::new(&secret()));
        for text in [verifier, signer] {
            assert!(!text.contains("thirty-two"), "{text}");
            assert!(!text.contains("97, 32"), "{text}");
        }
    }
}
