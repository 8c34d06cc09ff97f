//! Who a bearer of a token is: verification of JSON Web Tokens, and minting them for tests and development.
//!
//! A token's way: its size → its header → the `keys` that are bound to its algorithm and key id, the configured ones
//! first, then those of the `jwks` → its `claims` by the [`ClaimRules`] → the `revocations`. No token says by which
//! algorithm a key is used: `none` has no key, and a public key is never taken for a secret.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use jsonwebtoken::{Header, decode_header};

mod claims;
mod flaw;
mod jwks;
mod keys;
mod numbers;
mod proof;
mod revocations;
mod signing;
#[cfg(test)]
mod tests;

pub(crate) use claims::is_token_id;
pub use claims::{AuthError, ClaimRules, Identity, epoch_seconds, is_user_id};
pub use flaw::Flaw;
pub(crate) use jwks::{Jwks, JwksError, Pace};
pub use keys::{KeyError, Keys, PublicKeyFile};
pub(crate) use numbers::{is_number, number_text};
pub use proof::{Proof, Thumbprint, VerifiedBy};
pub(crate) use revocations::Revocations;
pub use signing::{SignError, SigningAlgorithm, TokenSigner};

use claims::Claims;

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

    /// From now on tokens are checked with these keys in place of those that were configured before. Who has an identity is
    /// to be [asked again](Self::recheck).
    pub fn replace(&self, keys: Keys) {
        self.configured.replace(keys);
    }

    /// Calls `f` whenever the key set lacks a key that it had, or is there for the first time: who has an identity is to be
    /// [asked again](Self::recheck). Said once, before the set is fetched anew.
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
    /// What exactly is wrong with it, for the operator. A client is to hear [`Flaw::error`] alone.
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
                // Where only the configured keys may be used for it, theirs says more.
                Err(Flaw::UnknownKey { .. }) => Err(flaw),
                Err(flaw) => Err(flaw),
            }
        })?;
        let kid = header.kid.as_deref().map(|kid| proof::kept_key_id(kid).into());
        Ok((claims, VerifiedBy { key, kid, of_set }))
    }

    /// Whether the token that an identity came with would be accepted now, and when it ends.
    ///
    /// # Errors
    /// The contract's reason for its refusal.
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

    /// A key of a set that could not be fetched since the start is not one that was withdrawn: it counts until the set is
    /// there, as the last good set does when the issuer fails later.
    fn has_key(&self, key: &VerifiedBy) -> bool {
        let is_in = |jwks: &Arc<Jwks>| {
            let keys = jwks.keys();
            keys.have(key) || (key.of_set && keys.is_empty())
        };
        self.configured.get().have(key) || self.jwks.as_ref().is_some_and(is_in)
    }

    /// If the key set was not fetched yet: what to wait for before a session is looked at that may rest on one of its keys. It
    /// is over in seconds, whatever comes of it.
    pub(crate) fn first_keys(&self) -> Option<BoxFuture<'static, ()>> {
        self.jwks.as_ref().filter(|jwks| jwks.keys().is_empty())?.ask()
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
        // A known key without an id may have signed a token that has one.
        if !jwks.lacks_key_of(&header) || self.claims(&token, &header).is_ok() {
            return None;
        }
        jwks.ask()
    }
}
