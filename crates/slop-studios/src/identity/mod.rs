//! The identity of a token's bearer: verification of JSON Web Tokens, and minting of tokens for tests and development.
//!
//! The steps of a verification: the token's size → its header → the `keys` that are bound to its algorithm and key id,
//! first the configured ones, then those of the `jwks` → its `claims` by the [`ClaimRules`] → the `revocations`. A
//! token cannot choose the algorithm of a key: `none` has no key, and a public key is never used as a secret.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jsonwebtoken::{Header, decode_header};

mod claims;
mod flaw;
mod jwks;
mod kept_claims;
mod keys;
mod numbers;
mod proof;
mod revocations;
mod signing;
#[cfg(test)]
mod tests;

pub(crate) use claims::is_token_id;
pub use claims::{ClaimRules, Identity};
pub use flaw::Flaw;
pub(crate) use jwks::{Jwks, JwksError, Pace};
pub use kept_claims::{ClaimPath, KeptClaims, NamedClaims};
pub use keys::{KeyError, Keys, PublicKeyFile};
pub use proof::{Proof, Thumbprint, VerifiedBy};
pub(crate) use revocations::Revocations;
pub use signing::{SignError, SigningAlgorithm, TokenSigner};

use claims::Claims;

use crate::contract::auth_error::AuthError;
use crate::contract::time::epoch_seconds;
use crate::hot_swap::HotSwap;
use crate::limits::MAX_TOKEN_BYTES;

/// A verifier of tokens. `Debug` does not show secrets.
#[derive(Debug)]
pub struct TokenVerifier {
    configured: HotSwap<Keys>,
    rules: ClaimRules,
    jwks: Option<Arc<Jwks>>,
    revocations: Arc<Revocations>,
}

impl TokenVerifier {
    /// Creates a verifier of tokens that one of the keys has signed.
    #[must_use]
    pub fn new(keys: Keys, rules: ClaimRules) -> Self {
        Self { configured: HotSwap::new(keys), rules, jwks: None, revocations: Arc::default() }
    }

    /// Also accepts tokens that a key of this set has signed.
    pub(crate) fn with_jwks(self, jwks: Arc<Jwks>) -> Self {
        Self { jwks: Some(jwks), ..self }
    }

    /// Refuses revoked tokens.
    pub(crate) fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// Replaces the configured keys for later checks of tokens. Existing identities must be [checked
    /// again](Self::recheck).
    pub fn replace(&self, keys: Keys) {
        self.configured.replace(keys);
    }

    /// Calls `f` whenever the key set has lost a key, or is there for the first time: existing identities must be
    /// [checked again](Self::recheck). Set once, before the set is fetched again.
    pub(crate) fn when_keys_leave(&self, f: impl Fn() + Send + Sync + 'static) {
        if let Some(jwks) = &self.jwks {
            jwks.when_keys_leave(Box::new(f));
        }
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
        self.examine_at(token, now).map_err(|flaw| flaw.error())
    }

    /// Verifies `token` as of now.
    ///
    /// # Errors
    /// The exact error of the token, for the operator. A client must get only [`Flaw::error`].
    pub fn examine(&self, token: &str) -> Result<Identity, Flaw> {
        self.examine_at(token, epoch_seconds())
    }

    fn examine_at(&self, token: &str, now: u64) -> Result<Identity, Flaw> {
        if token.is_empty() {
            return Err(Flaw::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Flaw::TooLong);
        }
        let header = decode_header(token).map_err(|_malformed| Flaw::Malformed)?;
        if header.crit.is_some() {
            return Err(Flaw::CriticalHeader);
        }
        let (claims, verified_by) = self.claims(token, &header)?;
        let identity = self.rules.check(claims, verified_by, now)?;
        self.revocations.check(&identity)?;
        Ok(identity)
    }

    /// The claims of a token that a known key has signed.
    fn claims(&self, token: &str, header: &Header) -> Result<(Claims, VerifiedBy), Flaw> {
        let configured = self.configured.get().claims(token, header).map(|(claims, key)| (claims, key, false));
        let (claims, key, of_set) = configured.or_else(|flaw| {
            let Some(jwks) = &self.jwks else { return Err(flaw) };
            match jwks.keys().claims(token, header) {
                Ok((claims, key)) => Ok((claims, key, true)),
                // If only the configured keys may be used for it, their flaw says more.
                Err(Flaw::UnknownKey { .. }) => Err(flaw),
                Err(flaw) => Err(flaw),
            }
        })?;
        let kid = header.kid.as_deref().map(|kid| proof::kept_key_id(kid).into());
        Ok((claims, VerifiedBy { key, kid, of_set }))
    }

    /// Whether the token of an identity would be accepted now. Returns when it ends.
    ///
    /// # Errors
    /// The contract's reason for the refusal of the token.
    pub fn recheck(&self, identity: &Identity) -> Result<Option<u64>, AuthError> {
        let verified_by = identity.proof.verified_by.as_ref();
        if !verified_by.is_some_and(|key| self.has_key(key)) {
            tracing::debug!("an identity is accepted no longer: its key is not");
            return Err(AuthError::Invalid);
        }
        let end = self.rules.check_again(identity, epoch_seconds());
        let checked = end.and_then(|end| self.revocations.check(identity).map(|()| end));
        checked.map_err(|flaw| {
            tracing::debug!(%flaw, "an identity is accepted no longer");
            flaw.error()
        })
    }

    /// Whether the key is still accepted. A key of a set that could not be fetched since the start does not count as
    /// withdrawn: it is accepted until the set is fetched, just as the last good set stays when the issuer fails later.
    fn has_key(&self, key: &VerifiedBy) -> bool {
        let is_in = |jwks: &Arc<Jwks>| {
            let keys = jwks.keys();
            keys.have(key) || (key.of_set && keys.is_empty())
        };
        self.configured.get().have(key) || self.jwks.as_ref().is_some_and(is_in)
    }

    /// If the key set was not fetched yet: returns a future to wait for before the check of a session that may depend
    /// on one of its keys. The future ends within seconds, whatever the outcome.
    pub(crate) fn first_keys(&self) -> Option<BoxFuture<'static, ()>> {
        self.jwks.as_ref().filter(|jwks| jwks.keys().is_empty())?.ask()
    }

    /// If the token may be signed with a key that is not known yet: returns a future to wait for before the
    /// verification. The future ends within seconds, whatever the outcome.
    pub(crate) fn fetch_unknown_key(&self, token: impl FnOnce() -> Option<String>) -> Option<BoxFuture<'static, ()>> {
        let jwks = self.jwks.as_ref()?;
        let token = token()?;
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let header = decode_header(&token).ok()?;
        // A known key without an id may have signed a token with one.
        if !jwks.lacks_key_of(&header) || self.claims(&token, &header).is_ok() {
            return None;
        }
        jwks.ask()
    }
}
