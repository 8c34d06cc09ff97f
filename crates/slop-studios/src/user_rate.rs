//! How fast a user may send events, over all connections. A user is known here for as long as one of the user's sockets that
//! has sent something is there, and then until what was sent is paid off: who connects anew goes on where it was.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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
    known: HashMap<Box<str>, Arc<UserRate>>,
    /// How many there were when they were last looked through.
    tidied: usize,
}

/// What a user has sent of late; each of the user's sockets holds it.
#[derive(Debug)]
pub(crate) struct UserRate {
    user_id: Box<str>,
    limiter: DefaultDirectRateLimiter,
    began: Instant,
    /// When all that was sent is paid off at the latest, in ms since it began.
    paid_by: AtomicU64,
}

/// So many a second, and [`BURST_SECONDS`] times as many at once; none if that is 0.
fn quota(per_second: u32) -> Option<Quota> {
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
    /// Counts an event; false if it is one too many.
    pub(crate) fn admits(&self) -> bool {
        // What may come at once is paid off in that time, and more is never owed. The rest of a millisecond counts as one.
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
