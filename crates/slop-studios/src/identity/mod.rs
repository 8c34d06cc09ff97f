//! Who a bearer of a token is: verification of JSON Web Tokens, and minting them for tests and development.
//!
//! A token's way: its size → its header → the `keys` that are bound to its algorithm and key id, the configured ones
//! first, then those of the `jwks` → its `claims` by the [`ClaimRules`] → the `revocations`. No token says by which
//! algorithm a key is used: `none` has no key, and a public key is never taken for a secret.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jsonwebtoken::decode_header;

mod claims;
mod jwks;
mod keys;
mod numbers;
mod revocations;
mod signing;
#[cfg(test)]
mod tests;

pub use claims::{AuthError, ClaimRules, Identity, epoch_seconds, is_user_id};
pub(crate) use claims::is_token_id;
pub(crate) use jwks::{Jwks, JwksError, Pace};
pub use keys::{KeyError, Keys, PublicKeyFile};
pub(crate) use numbers::{is_number, number_text};
pub(crate) use revocations::Revocations;
pub use signing::{SignError, SigningAlgorithm, TokenSigner};

use crate::defaults::MAX_TOKEN_BYTES;
use crate::in_force::InForce;

/// Checks tokens. `Debug` does not show secrets.
#[derive(Debug)]
pub struct TokenVerifier {
    configured: InForce<Keys>,
    rules: ClaimRules,
    jwks: Option<Arc<Jwks>>,
    revocations: Arc<Revocations>,
}

impl TokenVerifier {
    /// A verifier of tokens that one of the keys has signed.
    #[must_use]
    pub fn new(keys: Keys, rules: ClaimRules) -> Self {
        Self { configured: InForce::new(keys), rules, jwks: None, revocations: Arc::default() }
    }

    /// And of tokens that a key of this set has signed.
    pub(crate) fn with_jwks(self, jwks: Arc<Jwks>) -> Self {
        Self { jwks: Some(jwks), ..self }
    }

    /// But not of those that are revoked.
    pub(crate) fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// From now on tokens are checked with these keys in place of those that were configured before. Who has an identity
    /// keeps it until its token ends.
    pub fn replace(&self, keys: Keys) {
        self.configured.replace(keys);
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
        let header = decode_header(token).map_err(|_malformed| AuthError::Invalid)?;
        // RFC 7515 §4.1.11: extensions that are critical and not understood make the token invalid.
        if header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        let fetched = || self.jwks.as_ref().and_then(|jwks| jwks.keys().claims(token, &header));
        let claims = self.configured.get().claims(token, &header).or_else(fetched).ok_or(AuthError::Invalid)?;
        let identity = self.rules.check(claims, now)?;
        if self.is_revoked(&identity) { Err(AuthError::Revoked) } else { Ok(identity) }
    }

    /// Whether the token that an identity came with has been revoked since.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revocations.cover(identity)
    }

    /// If the token may be signed with a key that is not known yet: what to wait for before it is verified. It is
    /// over in seconds, whatever comes of it.
    pub(crate) fn key_on_its_way(&self, token: impl FnOnce() -> Option<String>) -> Option<BoxFuture<'static, ()>> {
        let jwks = self.jwks.as_ref()?;
        let token = token()?;
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let header = decode_header(&token).ok()?;
        if !jwks.lacks_key_of(&header) || self.configured.get().claims(&token, &header).is_some() {
            return None;
        }
        jwks.ask()
    }
}
