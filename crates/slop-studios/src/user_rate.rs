//! How fast a user may send events, over all connections. A user is known here for as long as one of the user's sockets that
//! has sent something is there.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::limits::BURST_SECONDS;

/// Users below which a new one does not have the others looked through.
const FEW_USERS: usize = 1_024;

/// The rates of all users.
#[derive(Debug)]
pub(crate) struct UserRates {
    quota: Option<Quota>,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    known: HashMap<Box<str>, Weak<UserRate>>,
    /// How many there were when they were last looked through.
    tidied: usize,
}

/// What a user has sent of late; each of the user's sockets holds it.
#[derive(Debug)]
pub(crate) struct UserRate {
    user_id: Box<str>,
    limiter: DefaultDirectRateLimiter,
}

/// So many a second, and [`BURST_SECONDS`] times as many at once; none if that is 0.
pub(crate) fn quota(per_second: u32) -> Option<Quota> {
    let per_second = NonZeroU32::new(per_second)?;
    let at_once = per_second.saturating_mul(NonZeroU32::new(BURST_SECONDS)?);
    Some(Quota::per_second(per_second).allow_burst(at_once))
}

impl UserRates {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { quota: quota(per_second), users: Mutex::default() }
    }

    /// What this user has sent of late, which `held` may be; none if there is no limit.
    pub(crate) fn of(&self, user_id: &str, held: Option<Arc<UserRate>>) -> Option<Arc<UserRate>> {
        let quota = self.quota?;
        if let Some(held) = held.filter(|held| *held.user_id == *user_id) {
            return Some(held);
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.known.get(user_id).and_then(Weak::upgrade) {
            return Some(known);
        }
        if users.known.len() >= FEW_USERS.max(users.tidied * 2) {
            users.known.retain(|_, user| user.strong_count() > 0);
            users.tidied = users.known.len();
        }
        let user = Arc::new(UserRate { user_id: user_id.into(), limiter: RateLimiter::direct(quota) });
        users.known.insert(user_id.into(), Arc::downgrade(&user));
        Some(user)
    }
}

impl UserRate {
    /// Counts an event; false if it is one too many.
    pub(crate) fn admits(&self) -> bool {
        self.limiter.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_of_a_user_share_a_rate() {
        let rates = UserRates::new(1);
        let ann = rates.of("ann", None).expect("there is a limit");
        let also_ann = rates.of("ann", None).expect("there is a limit");
        let bob = rates.of("bob", Some(Arc::clone(&ann))).expect("there is a limit");
        for _ in 0..5 {
            assert!(ann.admits() && also_ann.admits());
        }
        assert!(!ann.admits() && !also_ann.admits());
        assert!(bob.admits());
        assert!(UserRates::new(0).of("ann", None).is_none());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let rates = UserRates::new(1);
        for number in 0..5 * FEW_USERS {
            rates.of(&number.to_string(), None);
        }
        assert!(rates.users.lock().expect("no panic").known.len() <= FEW_USERS);
    }
}
