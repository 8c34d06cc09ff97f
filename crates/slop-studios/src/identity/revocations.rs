//! Which tokens were revoked, in memory, so that nobody who connects waits for the store.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::Identity;
use crate::clock::Moment;
use crate::store::{Revocation, Revoked};

/// The revocations that the store keeps.
#[derive(Debug, Default)]
pub(crate) struct Revocations(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    users: HashMap<Box<str>, Kept>,
    tokens: HashMap<Box<str>, Kept>,
    /// At this size it is looked through for what is over, so that each entry is looked at a few times only.
    tidy_at: usize,
}

/// Below this size nothing is gained by looking for what is over.
const TIDY_FROM: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Kept {
    at: Moment,
    until: Moment,
}

impl Revocations {
    /// From now on the tokens that it covers are refused. The store has it already.
    pub(crate) fn add(&self, revocation: &Revocation) {
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (map, name) = match &revocation.subject {
            Revoked::User(user_id) => (&mut index.users, user_id),
            Revoked::Token(token_id) => (&mut index.tokens, token_id),
        };
        let kept = map.entry(Box::from(&**name)).or_insert(Kept { at: revocation.at, until: revocation.until });
        // Of two, the one that covers more, whichever came first.
        kept.at = kept.at.max(revocation.at);
        kept.until = kept.until.max(revocation.until);
        index.tidy(Moment::now());
    }

    /// Whether one of them covers the token that the identity came with.
    pub(super) fn cover(&self, identity: &Identity) -> bool {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_user = index.users.get(identity.user_id.as_str()).filter(|kept| {
            // When a token without `iat` was issued can't be known.
            identity.issued_at_ms.is_none_or(|issued| issued < kept.at.epoch_ms())
        });
        let of_token = || index.tokens.get(identity.token_id.as_deref()?);
        of_user.or_else(of_token).is_some_and(|kept| Moment::now() < kept.until)
    }
}

impl Index {
    fn tidy(&mut self, now: Moment) {
        if self.users.len() + self.tokens.len() < self.tidy_at.max(TIDY_FROM) {
            return;
        }
        self.users.retain(|_, kept| now < kept.until);
        self.tokens.retain(|_, kept| now < kept.until);
        self.tidy_at = 2 * (self.users.len() + self.tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAR: u64 = 4_000_000_000_000;

    fn user(at: u64, until: u64) -> Revocation {
        let (at, until) = (Moment::from_epoch_ms(at), Moment::from_epoch_ms(until));
        Revocation { subject: Revoked::User("u".into()), at, until }
    }

    fn token(id: &str, until: u64) -> Revocation {
        let subject = Revoked::Token(id.into());
        Revocation { subject, at: Moment::from_epoch_ms(0), until: Moment::from_epoch_ms(until) }
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
        let revocations = of(vec![user(5_000, FAR)]);
        assert!(revocations.cover(&identity("u", Some(4_999), None)));
        assert!(!revocations.cover(&identity("u", Some(5_000), None)));
        assert!(revocations.cover(&identity("u", None, None)), "nobody knows when it was issued");
        assert!(!revocations.cover(&identity("v", Some(1), None)));
    }

    #[test]
    fn a_token_is_revoked_by_its_id() {
        let revocations = of(vec![token("t", FAR)]);
        assert!(revocations.cover(&identity("u", Some(FAR), Some("t"))));
        assert!(!revocations.cover(&identity("u", Some(0), Some("T"))));
        assert!(!revocations.cover(&identity("t", Some(0), None)), "a user is no token");
    }

    #[test]
    fn what_is_over_covers_nothing() {
        let revocations = of(vec![user(5_000, 6_000), token("t", 6_000)]);
        assert!(!revocations.cover(&identity("u", Some(1), Some("t"))));
    }

    #[test]
    fn what_is_over_leaves() {
        let revocations = Revocations::default();
        for n in 0..10 * TIDY_FROM {
            revocations.add(&token(&n.to_string(), 1));
        }
        revocations.add(&token("kept", FAR));
        let size = revocations.0.read().expect("no test panicked").tokens.len();
        assert!(size <= TIDY_FROM, "{size}");
        assert!(revocations.cover(&identity("u", None, Some("kept"))));
    }

    proptest! {
        /// In whatever order they come, a token is refused exactly if one of them covers it.
        #[test]
        fn the_order_of_revocations_does_not_matter(moments in prop::collection::vec(0u64..100, 1..8), issued in 0u64..100) {
            let revocations = of(moments.iter().map(|at| user(*at, FAR)).collect());
            let expected = moments.iter().any(|at| issued < *at);
            prop_assert_eq!(revocations.cover(&identity("u", Some(issued), None)), expected);
        }
    }
}
