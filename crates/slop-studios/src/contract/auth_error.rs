//! Why the authentication of a client failed.

use serde::{Deserialize, Serialize};

/// Why a token was refused. The text is the contract's, word for word, for `authError` and acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthError {
    /// There is no token, or an empty one.
    #[error("Token is required")]
    Required,
    /// `exp` has passed, or the token has reached the longest lifetime.
    #[error("Token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future by more than the clock skew.
    #[error("Token is not yet valid")]
    NotYetValid,
    /// The token is malformed or too long, is signed with an unknown key or algorithm, has another issuer or audience,
    /// or has a time that is not a number.
    #[error("Token is invalid")]
    Invalid,
    /// None of the claims `userId`, `id` and `sub` names a user.
    #[error("Token has no user id")]
    NoUserId,
    /// The token was revoked, or all tokens of its user: an extension of the contract.
    #[error("Token has been revoked")]
    Revoked,
}
