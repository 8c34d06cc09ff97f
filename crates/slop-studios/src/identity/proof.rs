//! The stored facts about a token by which a later check, without the token, finds whether it would be accepted.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::MAX_KEY_ID_BYTES;

/// A key as an algorithm uses it: 128 bits of an HMAC under the key. It reveals whether two keys are equal, and nothing
/// else. A reader of it can try secrets, as with any token that a secret has signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thumbprint(u128);

/// The message of the HMAC, followed by the algorithm's name.
const LABEL: &str = "slop-studios key thumbprint ";

impl Thumbprint {
    pub(super) fn of(algorithm: Algorithm, key: &DecodingKey) -> Self {
        let material = material(algorithm, key);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &material), format!("{LABEL}{algorithm:?}").as_bytes());
        let (first, _) = tag.as_ref().split_first_chunk().unwrap_or((&[0; 16], &[]));
        Self(u128::from_be_bytes(*first))
    }
}

/// The material of the key, the same for a file and for a key set.
fn material(algorithm: Algorithm, key: &DecodingKey) -> Vec<u8> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let [n, e] = [n, e].map(|number| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>());
            let length = u32::try_from(n.len()).unwrap_or(u32::MAX).to_be_bytes();
            [&length[..], &n, &e].concat()
        }
        DecodingKeyKind::SecretOrDer(bytes) => {
            // A file has the algorithm and the curve before the point (RFC 5280); a key set has only the point.
            let point = match algorithm {
                Algorithm::ES256 => 65,
                Algorithm::ES384 => 97,
                Algorithm::EdDSA => 32,
                _ => bytes.len(),
            };
            bytes.len().checked_sub(point).and_then(|start| bytes.get(start..)).unwrap_or(bytes).to_vec()
        }
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Thumbprint(…)")
    }
}

impl Serialize for Thumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Thumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(de::Error::custom)
    }
}

/// A key id in its stored form: a long id is replaced by its hash.
pub(super) fn kept_key_id(kid: &str) -> Cow<'_, str> {
    if kid.len() <= MAX_KEY_ID_BYTES {
        return Cow::Borrowed(kid);
    }
    Cow::Owned(digest(&SHA256, kid.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The key that verified a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedBy {
    /// The key.
    pub(super) key: Thumbprint,
    /// The key's id as the token names it, or its [hash](kept_key_id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<Box<str>>,
    /// Whether the key is from the key set of `JWKS_URL`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) of_set: bool,
}

/// The facts that decide whether an identity's token is still accepted, besides those in the identity itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Proof {
    /// `None` if an earlier version saved the identity: the key is unknown, and the token counts as refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified_by: Option<VerifiedBy>,
    /// The claim `exp`, in epoch seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<u64>,
    /// The claim `iss`, unless it is too long and no rule names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iss: Option<Box<str>>,
    /// The texts of the claim `aud`: first those that rules name, then as many as there is room for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) aud: Vec<Box<str>>,
}
