//! How fast a publisher may publish.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::auth::Publisher;
use super::problem::Problem;
use crate::metrics::{Limit, Metrics};
use crate::user_rate::quota;

/// Publishers past which those that have been quiet are forgotten now and then.
const MANY_PUBLISHERS: usize = 1_024;

/// What each publisher has published of late.
#[derive(Debug)]
pub(crate) struct PublishRate {
    limits: Option<(Quota, DefaultKeyedRateLimiter<Arc<str>>)>,
    metrics: Arc<Metrics>,
    clock: DefaultClock,
}

impl PublishRate {
    pub(crate) fn new(per_second: u32, metrics: Arc<Metrics>) -> Self {
        let limits = quota(per_second).map(|quota| (quota, RateLimiter::keyed(quota)));
        Self { limits, metrics, clock: DefaultClock::default() }
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
        let seconds = match limiter.check_key_n(&publisher.0, publishes) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => not_until.wait_time_from(self.clock.now()).as_secs().saturating_add(1),
            Err(_larger_than_the_burst) => 1,
        };
        if limiter.len() > MANY_PUBLISHERS {
            limiter.retain_recent();
        }
        self.metrics.limit_met(Limit::PublishRate);
        Err(Problem::too_many_publishes(u16::try_from(seconds).unwrap_or(u16::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_publisher_has_a_rate_of_its_own() {
        let metrics = Arc::<Metrics>::default();
        let rate = PublishRate::new(1, Arc::clone(&metrics));
        let [a, b] = ["a", "b"].map(|name| Publisher(name.into()));
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
