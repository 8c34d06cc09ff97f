//! Revoked tokens.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::StoreError;
use crate::contract::time::Moment;

/// A store of revocations.
pub trait RevocationStore: Debug + Send + Sync {
    /// Stores a revocation, merged with an older one of the same subject, and returns the revocations that were evicted
    /// for it. [`RevocationStore::revocations`] returns it in this and the next process, for as long as there is room
    /// or it is not over.
    ///
    /// If other nodes use the store, each of them has enforced it before the answer, or is silent until it has.
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'_, Result<RevokedTokens, StoreError>>;

    /// Forgets the revocation of a subject and returns it, if one is stored.
    fn undo_revocation(&self, subject: Revoked) -> BoxFuture<'_, Result<Option<Revocation>, StoreError>>;

    /// All stored revocations.
    fn revocations(&self) -> BoxFuture<'_, Result<Revocations, StoreError>>;
}

/// The effect of a revocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedTokens {
    /// The revocations that were evicted for it.
    pub evicted: Revocations,
    /// The number of sockets that have lost their identities, if the store has told the nodes.
    pub sockets: u64,
}

impl From<Revocations> for RevokedTokens {
    fn from(evicted: Revocations) -> Self {
        Self { evicted, sockets: 0 }
    }
}

/// A change of the stored revocations, for the nodes to enforce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationChange {
    /// A revocation was stored, and others were evicted for it.
    Added(Revocation, Revocations),
    /// The revocation of a subject was forgotten.
    Undone(Revoked),
    /// Changes may have been missed. These are all revocations.
    All(Revocations),
}

/// A revocation of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The revoked tokens.
    pub subject: Revoked,
    /// The time of the revocation. Of a user's tokens, it covers those that were issued before.
    pub at: Moment,
    /// The claim `exp` of a single token, if it is known.
    pub expires_at: Option<Moment>,
}

/// Revocations, and the floors of forgotten revocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// The revocations, in no order.
    pub list: Vec<Revocation>,
    /// The floors that replace the forgotten revocations.
    pub floors: Floors,
}

/// The subject of a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All tokens of a user.
    User(Arc<str>),
    /// The token with this `jti`.
    Token(Arc<str>),
}

/// Limits of tokens that are refused because a revocation that may have covered them was forgotten. At that time, these
/// tokens have ended under the settings in force. Without the floors, they would be valid again under other settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floors {
    /// Refuses tokens that were issued before it, and tokens without a time of issue.
    pub issued: Option<Moment>,
    /// Refuses tokens whose `exp` is not after it.
    pub expired: Option<Moment>,
}

impl Floors {
    /// Combines two floors. The result refuses every token that one of them refuses.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { issued: self.issued.max(other.issued), expired: self.expired.max(other.expired) }
    }
}
