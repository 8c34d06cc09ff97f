//! The exact error of a token: for the log, while the client gets only the contract's text.

use jsonwebtoken::{Algorithm, Header};

use super::proof::kept_key_id;
use crate::contract::auth_error::AuthError;
use crate::limits::MAX_TOKEN_BYTES;

/// Why a token was refused. The text completes "the token was refused: …". It contains nothing of the token but its
/// algorithm, key id and issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// There is no token, or an empty one.
    #[error("there is none")]
    Missing,
    /// The value of `token` is not a text.
    #[error("`token` is no text")]
    NoText,
    /// The token is longer than the limit.
    #[error("it is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// The token does not have the form of a token.
    #[error("it is no JSON Web Token in compact form, or of an algorithm that is not known here")]
    Malformed,
    /// RFC 7515 §4.1.11: critical extensions that are not understood make the token invalid.
    #[error("its header has `crit`: extensions that are not known here")]
    CriticalHeader,
    /// No key may be used for the token.
    #[error("there is no key for {algorithm:?}{}", key_id.as_deref().map(|id| format!(" with the id {id:?}")).unwrap_or_default())]
    UnknownKey {
        /// The algorithm that the token names.
        algorithm: Algorithm,
        /// The key id that the token names.
        key_id: Option<Box<str>>,
    },
    /// Keys may be used for the token, but none of them has signed it.
    #[error("none of the keys for {0:?} has signed it")]
    Signature(Algorithm),
    /// The signature is valid, but the claims cannot be understood.
    #[error("its claims are no JSON object, or one of them is there twice")]
    Claims,
    /// The issuer is not an accepted one.
    #[error("its issuer is {}", .0.as_deref().map_or_else(|| "not named".to_owned(), |issuer| format!("{issuer:?}")))]
    Issuer(Option<Box<str>>),
    /// No audience of the token is an accepted one.
    #[error("it is for another audience, or names none")]
    Audience,
    /// A time is not a number.
    #[error("its claim `{0}` is no number")]
    NoDate(&'static str),
    /// `exp` has passed.
    #[error("its `exp` was {ago} s ago, the leeway included")]
    Expired {
        /// In seconds.
        ago: u64,
    },
    /// The token has reached the longest lifetime.
    #[error("its longest lifetime after `iat` ended {ago} s ago")]
    TooOld {
        /// In seconds.
        ago: u64,
    },
    /// The token is older than evicted revocations.
    #[error("it may be one of those whose revocations had to leave")]
    BelowFloor,
    /// `nbf` or `iat` is in the future, by more than the tolerance for clocks.
    #[error("its `{claim}` is {ahead} s ahead")]
    NotYet {
        /// The claim.
        claim: &'static str,
        /// In seconds.
        ahead: u64,
    },
    /// None of the claims `userId`, `id` and `sub` names a user.
    #[error("none of its claims `userId`, `id` and `sub` is a user's id")]
    NoUserId,
    /// All tokens of the user up to some moment were revoked.
    #[error("its user's tokens were revoked")]
    UserRevoked,
    /// The token was revoked by its id.
    #[error("its `jti` was revoked")]
    TokenRevoked,
}

impl Flaw {
    /// The flaw of a token with this header, if no key may be used for it.
    pub(super) fn unknown_key(header: &Header) -> Self {
        let key_id = header.kid.as_deref().map(|id| kept_key_id(id).into());
        Self::UnknownKey { algorithm: header.alg, key_id }
    }

    /// The error that the client gets.
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

    /// The settings that decide on this flaw, if any.
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
