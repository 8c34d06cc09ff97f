//! The revoked tokens, in memory, so that a connecting client does not wait for the store.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::{Flaw, Identity};
use crate::contract::time::Moment;
use crate::store::{self, Floors, Revocation, Revoked};

/// The revocations in the store, and the floors that replace the evicted ones.
#[derive(Debug, Default)]
pub(crate) struct Revocations(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    /// When each user's tokens were revoked.
    users: HashMap<Box<str>, Moment>,
    /// When each single token was revoked.
    tokens: HashMap<Box<str>, Moment>,
    floors: Floors,
}

impl Revocations {
    /// From now on, refuses the tokens that the revocation covers. The store already has the revocation.
    pub(crate) fn add(&self, revocation: &Revocation) {
        self.change(|index| {
            let (revocations, name) = index.map_and_name(&revocation.subject);
            let at = revocations.entry(name.into()).or_insert(revocation.at);
            // Of two revocations, the one that covers more stays, whichever came first.
            *at = (*at).max(revocation.at);
        });
    }

    /// Applies the floors that replace the revocations which the store has evicted.
    pub(crate) fn forget(&self, forgotten: &store::Revocations) {
        self.change(|index| {
            index.floors = index.floors.and(forgotten.floors);
            for revocation in &forgotten.list {
                let (revocations, name) = index.map_and_name(&revocation.subject);
                // A later revocation of the same subject may have been added before this call.
                if revocations.get(name) == Some(&revocation.at) {
                    revocations.remove(name);
                }
            }
        });
    }

    /// From now on, accepts the tokens that the revocation covered. The store has already deleted it, and nothing else
    /// has changed for the subject meanwhile.
    pub(crate) fn undo(&self, subject: &Revoked) {
        self.change(|index| {
            let (revocations, name) = index.map_and_name(subject);
            revocations.remove(name);
        });
    }

    /// From now on, these are all revocations.
    pub(crate) fn replace(&self, all: &store::Revocations) {
        let mut new = Index { floors: all.floors, ..Index::default() };
        for revocation in &all.list {
            let (revocations, name) = new.map_and_name(&revocation.subject);
            revocations.insert(name.into(), revocation.at);
        }
        self.change(|index| *index = new);
    }

    fn change(&self, f: impl FnOnce(&mut Index)) {
        f(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Checks that the identity's token is not revoked.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), Flaw> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // The issue time of a token without `iat` is unknown.
        let issued_before = |at: &Moment| identity.issued_at_ms.is_none_or(|issued| issued < at.epoch_ms());
        let of_user = || index.users.get(identity.user_id.as_str()).is_some_and(issued_before);
        let of_token = || identity.token_id.as_deref().is_some_and(|id| index.tokens.contains_key(id));
        if of_user() {
            return Err(Flaw::UserRevoked);
        }
        if of_token() {
            return Err(Flaw::TokenRevoked);
        }
        let ended_by = |at: &Moment| identity.proof.exp.is_some_and(|exp| exp.saturating_mul(1000) <= at.epoch_ms());
        let Floors { issued, expired } = &index.floors;
        let is_below = issued.as_ref().is_some_and(issued_before) || expired.as_ref().is_some_and(ended_by);
        if is_below { Err(Flaw::BelowFloor) } else { Ok(()) }
    }
}

impl Index {
    fn map_and_name<'a>(&mut self, subject: &'a Revoked) -> (&mut HashMap<Box<str>, Moment>, &'a str) {
        match subject {
            Revoked::User(user_id) => (&mut self.users, user_id),
            Revoked::Token(token_id) => (&mut self.tokens, token_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::auth_error::AuthError;

    /// The error that the client would get.
    fn check(revocations: &Revocations, identity: &Identity) -> Result<(), AuthError> {
        revocations.check(identity).map_err(|flaw| flaw.error())
    }

    fn user(at: u64) -> Revocation {
        Revocation { subject: Revoked::User("u".into()), at: Moment::from_epoch_ms(at), expires_at: None }
    }

    fn token(id: &str) -> Revocation {
        Revocation { subject: Revoked::Token(id.into()), at: Moment::from_epoch_ms(0), expires_at: None }
    }

    fn of(kept: Vec<Revocation>) -> Revocations {
        let revocations = Revocations::default();
        kept.iter().for_each(|revocation| revocations.add(revocation));
        revocations
    }

    fn identity(user_id: &str, issued_at_ms: Option<u64>, token_id: Option<&str>) -> Identity {
        let token_id = token_id.map(Box::from);
        Identity { user_id: user_id.to_owned(), issued_at_ms, token_id, ..Identity::default() }
    }

    #[test]
    fn a_user_is_revoked_up_to_a_moment() {
        let revocations = of(vec![user(5_000)]);
        assert_eq!(check(&revocations, &identity("u", Some(4_999), None)), Err(AuthError::Revoked));
        assert_eq!(check(&revocations, &identity("u", Some(5_000), None)), Ok(()));
        let undated = check(&revocations, &identity("u", None, None));
        assert_eq!(undated, Err(AuthError::Revoked), "nobody knows when it was issued");
        assert_eq!(check(&revocations, &identity("v", Some(1), None)), Ok(()));
    }

    #[test]
    fn a_token_is_revoked_by_its_id() {
        let revocations = of(vec![token("t")]);
        assert_eq!(check(&revocations, &identity("u", Some(u64::MAX), Some("t"))), Err(AuthError::Revoked));
        assert_eq!(check(&revocations, &identity("u", Some(0), Some("T"))), Ok(()));
        assert_eq!(check(&revocations, &identity("t", Some(0), None)), Ok(()), "a user is no token");
    }

    #[test]
    fn what_was_undone_covers_nothing() {
        let revocations = of(vec![user(5_000), token("u")]);
        revocations.undo(&Revoked::User("u".into()));
        assert_eq!(check(&revocations, &identity("u", Some(1), None)), Ok(()));
        assert_eq!(check(&revocations, &identity("u", Some(1), Some("u"))), Err(AuthError::Revoked));
    }

    #[test]
    fn what_was_forgotten_leaves_a_floor() {
        let revocations = of(vec![user(5_000), token("t")]);
        let floors = |issued: Option<u64>, expired: Option<u64>| Floors {
            issued: issued.map(Moment::from_epoch_ms),
            expired: expired.map(Moment::from_epoch_ms),
        };
        revocations.forget(&store::Revocations { list: vec![user(5_000)], floors: floors(Some(6_000), None) });
        revocations.forget(&store::Revocations { list: vec![token("t")], floors: floors(None, Some(9_000)) });
        revocations.forget(&store::Revocations { list: Vec::new(), floors: floors(Some(1), None) });
        let outcome = |issued_at_ms, exp| {
            let mut identity = identity("u", issued_at_ms, Some("t"));
            identity.proof.exp = exp;
            check(&revocations, &identity)
        };
        assert_eq!(outcome(Some(5_999), None), Err(AuthError::Expired));
        assert_eq!(outcome(Some(6_000), None), Ok(()));
        assert_eq!(outcome(None, Some(20)), Err(AuthError::Expired), "nobody knows when it was issued");
        assert_eq!(outcome(Some(6_000), Some(9)), Err(AuthError::Expired));
        assert_eq!(outcome(Some(6_000), Some(10)), Ok(()));
    }

    #[test]
    fn what_was_revoked_anew_meanwhile_stays() {
        let revocations = of(vec![user(5_000), user(7_000)]);
        revocations.forget(&store::Revocations { list: vec![user(5_000)], ..store::Revocations::default() });
        assert_eq!(check(&revocations, &identity("u", Some(6_999), None)), Err(AuthError::Revoked));
    }

    proptest! {
        /// In any order of the revocations, a token is refused exactly if one of them covers it.
        #[test]
        fn the_order_of_revocations_does_not_matter(moments in prop::collection::vec(0u64..100, 1..8), issued in 0u64..100) {
            let revocations = of(moments.iter().map(|at| user(*at)).collect());
            let expected = moments.iter().any(|at| issued < *at);
            prop_assert_eq!(check(&revocations, &identity("u", Some(issued), None)).is_err(), expected);
        }
    }
}
