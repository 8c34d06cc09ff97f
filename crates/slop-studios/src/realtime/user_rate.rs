//! The event rate limit of a user, over all of the user's connections. A user's rate is kept while a socket of the user
//! that has sent an event is connected, and then until its events are paid off: a reconnect does not reset the rate.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::limits::BURST_SECONDS;

/// Number of users below which a new user does not trigger a cleanup of the others.
const FEW_USERS: usize = 1_024;

/// The rates of all users.
#[derive(Debug)]
pub(crate) struct UserRates {
    quota: Option<Quota>,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    known: HashMap<Box<str>, Arc<UserRate>>,
    /// Number of users that the last cleanup left.
    tidied: usize,
}

/// The recent event rate of a user, held by each of the user's sockets.
#[derive(Debug)]
pub(crate) struct UserRate {
    user_id: Box<str>,
    limiter: DefaultDirectRateLimiter,
    began: Instant,
    /// Latest time at which all sent events are paid off, in ms since `began`.
    paid_by: AtomicU64,
}

/// A quota of `per_second` events a second, with bursts of [`BURST_SECONDS`] times as many; `None` if it is 0.
fn quota(per_second: u32) -> Option<Quota> {
    let per_second = NonZeroU32::new(per_second)?;
    let at_once = per_second.saturating_mul(NonZeroU32::new(BURST_SECONDS)?);
    Some(Quota::per_second(per_second).allow_burst(at_once))
}

impl UserRates {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { quota: quota(per_second), users: Mutex::default() }
    }

    /// The rate of this user, which is `held` if that is the same user's; `None` if there is no limit.
    pub(crate) fn of(&self, user_id: &str, held: Option<Arc<UserRate>>) -> Option<Arc<UserRate>> {
        let quota = self.quota?;
        if let Some(held) = held.filter(|held| *held.user_id == *user_id) {
            return Some(held);
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.known.get(user_id) {
            return Some(Arc::clone(known));
        }
        if users.known.len() >= FEW_USERS.max(users.tidied * 2) {
            users.known.retain(|_, user| Arc::strong_count(user) > 1 || !user.is_paid_off());
            let len = users.known.len();
            users.known.shrink_to(len * 2);
            users.tidied = users.known.len();
        }
        let user = Arc::new(UserRate {
            user_id: user_id.into(),
            limiter: RateLimiter::direct(quota),
            began: Instant::now(),
            paid_by: AtomicU64::new(0),
        });
        users.known.insert(user_id.into(), Arc::clone(&user));
        Some(user)
    }
}

impl UserRate {
    /// Counts an event. Returns `false` if the event exceeds the rate.
    pub(crate) fn admits(&self) -> bool {
        // A full burst is paid off in that time, and a user never owes more. A part of a millisecond counts as a whole
        // one.
        self.paid_by.store(self.age_ms() + u64::from(BURST_SECONDS) * 1000 + 1, Ordering::Relaxed);
        self.limiter.check().is_ok()
    }

    fn is_paid_off(&self) -> bool {
        self.age_ms() >= self.paid_by.load(Ordering::Relaxed)
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
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
    fn who_is_gone_is_known_until_all_is_paid_off() {
        let rates = UserRates::new(1);
        let known = || rates.users.lock().expect("no panic").known.len();
        let crowd = |name: &str| {
            for number in 0..5 * FEW_USERS {
                rates.of(&format!("{name}{number}"), None);
            }
        };
        let ann = || rates.of("ann", None).expect("there is a limit");
        assert!((0..11).any(|_| !ann().admits()), "each time anew");
        crowd("a");
        assert!(!ann().admits(), "to come again is no way to have sent nothing");
        assert!(known() <= FEW_USERS, "{}", known());
        ann().paid_by.store(0, Ordering::Relaxed);
        crowd("b");
        assert!(ann().admits(), "it was forgotten");
        assert!(known() <= FEW_USERS, "{}", known());
    }
}
