//! How fast a publisher may publish.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::problem::Problem;
use crate::metrics::{Limit, Metrics};
use crate::publishers::Publisher;
use crate::user_rate::quota;

/// Publishers below which a new one does not have those that have been quiet forgotten. Keys are few, but with
/// `PUBLISH_CLAIM` every user may be one.
const FEW_PUBLISHERS: usize = 1_024;

/// What each publisher has published of late.
#[derive(Debug)]
pub(crate) struct PublishRate {
    limits: Option<(Quota, DefaultKeyedRateLimiter<Arc<str>>)>,
    /// How many there were when they were last looked through.
    tidied: AtomicUsize,
    metrics: Arc<Metrics>,
    clock: DefaultClock,
}

impl PublishRate {
    pub(crate) fn new(per_second: u32, metrics: Arc<Metrics>) -> Self {
        let limits = quota(per_second).map(|quota| (quota, RateLimiter::keyed(quota)));
        Self { limits, tidied: AtomicUsize::new(0), metrics, clock: DefaultClock::default() }
    }

    /// Counts so many publishes.
    ///
    /// # Errors
    /// If they are too many; then none is counted.
    pub(crate) fn take(&self, publisher: &Publisher, publishes: usize) -> Result<(), Problem> {
        let Some((quota, limiter)) = &self.limits else { return Ok(()) };
        let Some(publishes) = u32::try_from(publishes).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        // A batch that is larger than the burst takes all of it.
        let publishes = publishes.min(quota.burst_size());
        if limiter.len() >= FEW_PUBLISHERS.max(self.tidied.load(Ordering::Relaxed) * 2) {
            limiter.retain_recent();
            limiter.shrink_to_fit();
            self.tidied.store(limiter.len(), Ordering::Relaxed);
        }
        let seconds = match limiter.check_key_n(&publisher.name, publishes) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => not_until.wait_time_from(self.clock.now()).as_secs().saturating_add(1),
            Err(_larger_than_the_burst) => 1,
        };
        self.metrics.limit_met(Limit::PublishRate);
        Err(Problem::too_many_publishes(u16::try_from(seconds).unwrap_or(u16::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::scope::Scopes;

    fn publisher(name: &str) -> Publisher {
        Publisher { name: name.into(), scopes: Arc::new(Scopes::all()) }
    }

    #[test]
    fn publishers_that_are_quiet_are_forgotten() {
        // A burst of ten million, so that what was taken is paid back in no time.
        let rate = PublishRate::new(1_000_000, Arc::default());
        for number in 0..5 * FEW_PUBLISHERS {
            assert_eq!(rate.take(&publisher(&number.to_string()), 1), Ok(()));
        }
        let (_, limiter) = rate.limits.as_ref().expect("there is a limit");
        assert!(limiter.len() <= 2 * FEW_PUBLISHERS, "{}", limiter.len());
    }

    #[test]
    fn each_publisher_has_a_rate_of_its_own() {
        let metrics = Arc::<Metrics>::default();
        let rate = PublishRate::new(1, Arc::clone(&metrics));
        let [a, b] = ["a", "b"].map(publisher);
        assert_eq!(rate.take(&a, 9), Ok(()));
        assert!(rate.take(&a, 2).is_err());
        assert_eq!(rate.take(&a, 1), Ok(()));
        assert!(rate.take(&a, 1).is_err());
        // More than may ever come at once waits for a full burst.
        assert_eq!(rate.take(&b, 1_000), Ok(()));
        assert!(rate.take(&b, 1).is_err());
        assert_eq!(PublishRate::new(0, metrics).take(&a, 1_000_000), Ok(()));
    }
}
