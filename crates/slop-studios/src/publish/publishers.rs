//! The authentication of publishers: keys with scopes, and tokens with a claim that contains their scopes.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use crate::hot_swap::HotSwap;
use crate::identity::{Flaw, TokenVerifier};
use crate::publish::scope::Scopes;

/// Prefix of a key's hash in the configuration.
const HASH_PREFIX: &str = "sha256:";

/// Prefix of generated keys, so that people and scanners of repositories recognise them.
pub(crate) const KEY_PREFIX: &str = "slop_";

/// 256 bits, as long as the hash.
const KEY_BYTES: usize = 32;

/// Number of hexadecimal digits after the prefix.
pub(crate) const KEY_DIGITS: usize = 2 * KEY_BYTES;

/// The SHA-256 of a key.
///
/// A fast hash without salt is enough here, unlike for passwords: a key has 256 random bits, so it cannot be found by
/// trying, and no two keys are equal. Only hashes are compared. The time of a comparison does not depend on the
/// position of a difference, and all hashes are equally long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let mut hash = [0; 32];
        hash.iter_mut().zip(digest(&SHA256, key.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    /// Parses the form in the configuration: `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(HASH_PREFIX)?.as_bytes();
        let mut hash = [0; 32];
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != hash.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            let digit = |digit: &u8| char::from(*digit).to_digit(16);
            *byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
        }
        Some(Self(hash))
    }

    fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// The first 64 bits of the hash: enough to tell the keys of one server apart.
    fn short(&self) -> String {
        self.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HASH_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Generates a key.
///
/// # Errors
/// If the system has no randomness.
pub(crate) fn new_key() -> Result<SecretString, getrandom::Error> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(SecretString::from(format!("{KEY_PREFIX}{digits}")))
}

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopedKey {
    /// The publisher's name. Two keys with the same name are the same publisher, so that one key can replace the other.
    pub name: Box<str>,
    /// The key's hash.
    pub hash: KeyHash,
    /// The key's scopes.
    pub scopes: Arc<Scopes>,
}

/// An authenticated publisher.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    /// Distinct for distinct publishers, and stable across restarts: idempotency keys are kept under it.
    pub(crate) name: Arc<str>,
    pub(crate) scopes: Arc<Scopes>,
}

/// Why a credential belongs to no publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoPublisher {
    /// Publishing is off: no key is set, and tokens are not accepted.
    Off,
    /// The key is unknown, and tokens are not accepted.
    UnknownKey,
    /// The credential is neither a known key nor a valid token.
    BadToken(Flaw),
}

/// The credentials of publishers.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    keys: Vec<(KeyHash, Publisher)>,
    /// The claim with the scopes of a token.
    claim: Option<Box<str>>,
}

impl Credentials {
    /// Creates credentials of these plain keys, which have all scopes, these hashed keys, and tokens with this claim.
    pub(crate) fn new(plain: &[SecretString], scoped: &[ScopedKey], claim: Option<&str>) -> Self {
        let all = Arc::new(Scopes::all());
        let plain = plain.iter().map(|key| {
            let hash = KeyHash::of(key.expose_secret());
            (hash, Publisher { name: hash.short().into(), scopes: Arc::clone(&all) })
        });
        let scoped = scoped.iter().map(|key| {
            let name = format!("key:{}", key.name).into();
            (key.hash, Publisher { name, scopes: Arc::clone(&key.scopes) })
        });
        // The later one wins, so a key in both lists has the scopes that it was given.
        Self { keys: plain.chain(scoped).collect(), claim: claim.map(Into::into) }
    }

    pub(crate) const fn are_none(&self) -> bool {
        self.keys.is_empty() && self.claim.is_none()
    }

    /// The publisher with this key.
    fn find(&self, key: &str) -> Option<&Publisher> {
        self.find_by(&KeyHash::of(key), KeyHash::is)
    }

    /// Compares all keys, so that the time does not reveal which one matched.
    fn find_by(&self, hash: &KeyHash, is: impl Fn(&KeyHash, &KeyHash) -> bool) -> Option<&Publisher> {
        let mut found = None;
        for (known, publisher) in &self.keys {
            if is(known, hash) {
                found = Some(publisher);
            }
        }
        found
    }
}

/// Authenticates publishers.
#[derive(Debug)]
pub(crate) struct Publishers {
    in_force: HotSwap<Credentials>,
    verifier: Arc<TokenVerifier>,
}

impl Publishers {
    /// Creates the authentication. Tokens are verified in the same way as those of clients.
    pub(crate) fn new(credentials: Credentials, verifier: Arc<TokenVerifier>) -> Self {
        Self { in_force: HotSwap::new(credentials), verifier }
    }

    /// Replaces the credentials for later requests. Requests in progress continue.
    pub(crate) fn replace(&self, credentials: Credentials) {
        self.in_force.replace(credentials);
    }

    /// Whether nobody can publish.
    pub(crate) fn are_none(&self) -> bool {
        self.in_force.get().are_none()
    }

    /// Returns a future to wait for before the credential is verified, if it may be a token whose key is not known yet.
    pub(crate) fn fetch_unknown_key(&self, credential: &str) -> Option<BoxFuture<'static, ()>> {
        let credentials = self.in_force.get();
        if credentials.claim.is_none() || !is_token(credential) || credentials.find(credential).is_some() {
            return None;
        }
        self.verifier.fetch_unknown_key(|| Some(credential.to_owned()))
    }

    /// The publisher with this key or token.
    pub(crate) fn authenticate(&self, credential: &str) -> Result<Publisher, NoPublisher> {
        let credentials = self.in_force.get();
        if credentials.are_none() {
            return Err(NoPublisher::Off);
        }
        if let Some(publisher) = credentials.find(credential) {
            return Ok(publisher.clone());
        }
        let Some(claim) = credentials.claim.as_deref() else { return Err(NoPublisher::UnknownKey) };
        if !is_token(credential) {
            return Err(NoPublisher::UnknownKey);
        }
        let identity = self.verifier.examine(credential).map_err(NoPublisher::BadToken)?;
        let claims: Map<String, Value> =
            jsonwebtoken::dangerous::insecure_decode_claims(credential).unwrap_or_default();
        let scopes = claims.get(claim).map(Scopes::of_claim).unwrap_or_default();
        Ok(Publisher { name: format!("token:{}", identity.user_id).into(), scopes: Arc::new(scopes) })
    }
}

/// Whether the credential has the three parts of a compact JSON Web Token.
fn is_token(credential: &str) -> bool {
    credential.split('.').count() == 3
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::publish::scope::{Operation, Scope};

    fn scoped(name: &str, key: &str, scopes: &[&str]) -> ScopedKey {
        let scopes = scopes.iter().map(|text| Scope::parse(text).expect("a scope")).collect();
        ScopedKey { name: name.into(), hash: KeyHash::of(key), scopes: Arc::new(scopes) }
    }

    #[test]
    fn only_whole_keys_are_known() {
        let credentials =
            Credentials::new(&["first-key".into(), "second-key".into()], &[scoped("worker", "third-key", &[])], None);
        let name = |key: &str| credentials.find(key).map(|publisher| Arc::clone(&publisher.name));
        assert!(name("first-key").is_some());
        assert_ne!(name("first-key"), name("second-key"));
        assert_eq!(name("third-key").as_deref(), Some("key:worker"));
        for wrong in ["", "first", "first-key ", "first-key,second-key", "FIRST-KEY"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert!(!format!("{credentials:?}").contains("-key"));
    }

    #[test]
    fn every_key_is_compared_wherever_the_right_one_stands() {
        let keys = ["a", "b", "c", "d"].map(|key| scoped(key, key, &["*"]));
        let credentials = Credentials::new(&[], &keys, None);
        for key in ["a", "d", "none of them"] {
            let compared = Cell::new(0);
            credentials.find_by(&KeyHash::of(key), |known, hash| {
                compared.set(compared.get() + 1);
                known.is(hash)
            });
            assert_eq!(compared.get(), keys.len(), "{key}");
        }
    }

    #[test]
    fn hashes_differ_by_any_bit() {
        let hash = KeyHash::of("a key");
        assert!(hash.is(&KeyHash::of("a key")));
        for bit in 0..256 {
            let mut other = hash;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!hash.is(&other), "bit {bit}");
        }
    }

    /// The first example of FIPS 180-2, so that the hash equals that of `sha256sum`.
    #[test]
    fn a_hash_is_what_other_tools_make() {
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::of("abc").to_string(), text);
        assert_eq!(KeyHash::parse(text), Some(KeyHash::of("abc")));
        assert_eq!(KeyHash::parse(&text.to_uppercase().replace("SHA256", "sha256")), Some(KeyHash::of("abc")));
        for wrong in ["", "sha256:", &text[7..], &text[..70], &format!("{text}0"), &text.replace('b', "g")] {
            assert_eq!(KeyHash::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_scopes_given_to_a_plain_key_bind_it() {
        let credentials = Credentials::new(&["key".into()], &[scoped("worker", "key", &["media"])], None);
        let publisher = credentials.find("key").expect("it is known");
        assert!(publisher.scopes.require(Operation::RoomsEmit, "r").is_err());
    }

    #[test]
    fn new_keys_differ() {
        let key = || new_key().expect("randomness").expose_secret().to_owned();
        let (one, other) = (key(), key());
        assert!(one.starts_with(KEY_PREFIX) && one.len() == KEY_PREFIX.len() + 64, "{one}");
        assert_ne!(one, other);
    }
}
