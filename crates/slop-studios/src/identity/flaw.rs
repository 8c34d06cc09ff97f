//! What exactly is wrong with a token: for the log, where the client hears the contract's text alone.

use jsonwebtoken::{Algorithm, Header};

use super::claims::AuthError;
use super::proof::kept_key_id;
use crate::defaults::MAX_TOKEN_BYTES;

/// Why a token was refused. The text completes "the token was refused: …" and has nothing of the token but its algorithm, key id
/// and issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There was none, or an empty one.
    #[error("there is none")]
    Missing,
    /// Something else stands in its place.
    #[error("`token` is no text")]
    NoText,
    /// It is longer than any token may be.
    #[error("it is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It has not the form of a token.
    #[error("it is no JSON Web Token in compact form, or of an algorithm that is not known here")]
    Malformed,
    /// RFC 7515 §4.1.11: extensions that are critical and not understood make the token invalid.
    #[error("its header has `crit`: extensions that are not known here")]
    CriticalHeader,
    /// No key may be used for it.
    #[error("there is no key for {algorithm:?}{}", key_id.as_deref().map(|id| format!(" with the id {id:?}")).unwrap_or_default())]
    UnknownKey {
        /// By which it is signed, as it says.
        algorithm: Algorithm,
        /// The key that it names.
        key_id: Option<Box<str>>,
    },
    /// Keys may be used for it, and none has signed it.
    #[error("none of the keys for {0:?} has signed it")]
    Signature(Algorithm),
    /// It is well signed and says nothing that can be understood.
    #[error("its claims are no JSON object, or one of them is there twice")]
    Claims,
    /// It is of none of the issuers that are accepted.
    #[error("its issuer is {}", .0.as_deref().map_or_else(|| "not named".to_owned(), |issuer| format!("{issuer:?}")))]
    Issuer(Option<Box<str>>),
    /// It is for none of the audiences that are accepted.
    #[error("it is for another audience, or names none")]
    Audience,
    /// A time is no number.
    #[error("its claim `{0}` is no number")]
    NoDate(&'static str),
    /// `exp` has come.
    #[error("its `exp` was {ago} s ago, the leeway included")]
    Expired {
        /// In seconds.
        ago: u64,
    },
    /// It is older than any token may be.
    #[error("its longest lifetime after `iat` ended {ago} s ago")]
    TooOld {
        /// In seconds.
        ago: u64,
    },
    /// It is older than revocations that had to leave.
    #[error("it may be one of those whose revocations had to leave")]
    BelowFloor,
    /// `nbf` or `iat` lies in the future by more than clocks may be off.
    #[error("its `{claim}` is {ahead} s ahead")]
    NotYet {
        /// Which of them.
        claim: &'static str,
        /// In seconds.
        ahead: u64,
    },
    /// None of the claims `userId`, `id` and `sub` names a user.
    #[error("none of its claims `userId`, `id` and `sub` is a user's id")]
    NoUserId,
    /// All tokens of its user up to some moment were revoked.
    #[error("its user's tokens were revoked")]
    UserRevoked,
    /// It was revoked by its id.
    #[error("its `jti` was revoked")]
    TokenRevoked,
}

impl Flaw {
    /// No key may be used for a token with this header.
    pub(super) fn unknown_key(header: &Header) -> Self {
        let key_id = header.kid.as_deref().map(|id| kept_key_id(id).into());
        Self::UnknownKey { algorithm: header.alg, key_id }
    }

    /// What the client hears.
    #[must_use]
    pub const fn error(&self) -> AuthError {
        match self {
            Self::Missing => AuthError::Required,
            Self::Expired { .. } | Self::TooOld { .. } | Self::BelowFloor => AuthError::Expired,
            Self::NotYet { .. } => AuthError::NotYetValid,
            Self::NoUserId => AuthError::NoUserId,
            Self::UserRevoked | Self::TokenRevoked => AuthError::Revoked,
            Self::NoText
            | Self::TooLong
            | Self::Malformed
            | Self::CriticalHeader
            | Self::UnknownKey { .. }
            | Self::Signature(_)
            | Self::Claims
            | Self::Issuer(_)
            | Self::Audience
            | Self::NoDate(_) => AuthError::Invalid,
        }
    }

    /// The settings that decide on it, if any do.
    #[must_use]
    pub const fn setting(&self) -> Option<&'static str> {
        match self {
            Self::UnknownKey { .. } | Self::Signature(_) => {
                Some("JWT_SECRET, JWT_PREVIOUS_SECRETS, JWT_PUBLIC_KEYS or JWKS_URL")
            }
            Self::Issuer(_) => Some("JWT_ISSUER"),
            Self::Audience => Some("JWT_AUDIENCE"),
            Self::Expired { .. } | Self::NotYet { .. } => Some("JWT_LEEWAY_SECONDS"),
            Self::TooOld { .. } => Some("JWT_MAX_LIFETIME_DAYS"),
            _ => None,
        }
    }
}
