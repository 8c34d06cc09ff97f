//! The rate limit of publishers: the generic cell rate algorithm of ITU-T I.371, with a debt for batches.
//!
//! A request is admitted if one publish is left of the publisher's burst. The number of further items in a batch is
//! known only after its body is read. They are admitted if the publisher has no debt, however many they are; the items
//! beyond the burst become a debt. So a batch of any size is accepted at some time. After the wait in a refusal, any
//! request of the publisher is admitted. In any period, no more is accepted than the rate, the burst and one batch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::problem::Problem;
use crate::limits::BURST_SECONDS;
use crate::metrics::{Limit, Metrics};
use crate::publish::publishers::Publisher;

/// The number of publishers below which a new publisher does not cause the removal of idle ones. Keys are few, but with
/// `PUBLISH_CLAIM` every user may be a publisher.
const FEW_PUBLISHERS: usize = 1_024;

/// The rate limit, and the recent publishes of each publisher.
#[derive(Debug)]
pub(crate) struct PublishRate {
    rate: Option<Rate>,
    publishers: Mutex<Publishers>,
    metrics: Arc<Metrics>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Publishers {
    /// For each publisher, the theoretical arrival time (TAT) of GCRA: when its next publish is due at exactly the
    /// rate.
    tats: HashMap<Arc<str>, Duration>,
    /// The number of publishers after the last removal of idle ones.
    tidied: usize,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    /// The time that one publish costs.
    cost: Duration,
    /// The time that a full burst costs.
    burst: Duration,
}

impl Rate {
    /// None if `per_second` is 0.
    fn new(per_second: u32) -> Option<Self> {
        let cost = Duration::from_secs(1).checked_div(per_second)?;
        let at_once = per_second.saturating_mul(BURST_SECONDS);
        Some(Self { cost, burst: cost.saturating_mul(at_once) })
    }

    /// Takes one publish, if one is left.
    fn admit(self, tat: &mut Duration, now: Duration) -> Result<(), Wait> {
        let new_tat = now.max(*tat) + self.cost;
        self.within_burst(new_tat, now)?;
        *tat = new_tat;
        Ok(())
    }

    /// Takes `more` further publishes for an admitted request, if there is no debt.
    fn admit_more(self, more: u32, tat: &mut Duration, now: Duration) -> Result<(), Wait> {
        let current = now.max(*tat);
        // The wait covers the whole request: when it is repeated, it takes its first publish again.
        self.within_burst(current, now).map_err(|Wait(wait)| Wait(wait + self.cost))?;
        *tat = current + self.cost.saturating_mul(more);
        Ok(())
    }

    fn within_burst(self, tat: Duration, now: Duration) -> Result<(), Wait> {
        match tat.saturating_sub(now + self.burst) {
            Duration::ZERO => Ok(()),
            wait => Err(Wait(wait)),
        }
    }
}

/// The time after which any request of the publisher is admitted, if it publishes nothing in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait(Duration);

impl Wait {
    fn seconds(self) -> u32 {
        let seconds = self.0.as_secs() + u64::from(self.0.subsec_nanos() > 0);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

impl PublishRate {
    pub(crate) fn new(per_second: u32, metrics: Arc<Metrics>) -> Self {
        Self { rate: Rate::new(per_second), publishers: Mutex::default(), metrics, began: Instant::now() }
    }

    /// Counts a request as a publish.
    ///
    /// # Errors
    /// If the request exceeds the rate; then it is not counted.
    pub(crate) fn take(&self, publisher: &Publisher) -> Result<(), Problem> {
        self.counted(publisher, Rate::admit)
    }

    /// Counts the items of a batch. The first item is already counted as the request.
    ///
    /// # Errors
    /// If the publisher must wait first because another batch came in between; then the items are not counted.
    pub(crate) fn take_batch(&self, publisher: &Publisher, items: usize) -> Result<(), Problem> {
        let more = u32::try_from(items.saturating_sub(1)).unwrap_or(u32::MAX);
        self.counted(publisher, |rate, tat, now| rate.admit_more(more, tat, now))
    }

    fn counted(
        &self,
        publisher: &Publisher,
        admit: impl FnOnce(Rate, &mut Duration, Duration) -> Result<(), Wait>,
    ) -> Result<(), Problem> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = self.began.elapsed();
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(wait) = admit(rate, publishers.tat(&publisher.name, now), now) else { return Ok(()) };
        drop(publishers);
        self.metrics.limit_met(Limit::PublishRate);
        Err(Problem::too_many_publishes(wait.seconds()))
    }
}

impl Publishers {
    fn tat(&mut self, name: &Arc<str>, now: Duration) -> &mut Duration {
        if self.tats.len() >= FEW_PUBLISHERS.max(self.tidied * 2) {
            self.tats.retain(|_, tat| *tat > now);
            self.tidied = self.tats.len();
            self.tats.shrink_to(self.tidied * 2);
        }
        self.tats.entry(Arc::clone(name)).or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_BATCH_ITEMS;
    use crate::publish::scope::Scopes;

    fn publisher(name: &str) -> Publisher {
        Publisher { name: name.into(), scopes: Arc::new(Scopes::all()) }
    }

    #[test]
    fn publishers_that_are_quiet_are_forgotten() {
        let mut publishers = Publishers::default();
        for number in 0..5 * FEW_PUBLISHERS {
            let now = Duration::from_secs(number as u64);
            *publishers.tat(&number.to_string().into(), now) = now + Duration::from_millis(1);
        }
        assert!(publishers.tats.len() <= 2 * FEW_PUBLISHERS, "{}", publishers.tats.len());
    }

    #[test]
    fn each_publisher_has_a_rate_of_its_own() {
        let metrics = Arc::<Metrics>::default();
        let rate = PublishRate::new(1, Arc::clone(&metrics));
        let [a, b] = ["a", "b"].map(publisher);
        for _ in 0..10 {
            assert_eq!(rate.take(&a), Ok(()));
        }
        assert!(rate.take(&a).is_err());
        assert_eq!(rate.take(&b), Ok(()));
        let unlimited = PublishRate::new(0, metrics);
        assert_eq!((unlimited.take(&a), unlimited.take_batch(&a, 1_000_000)), (Ok(()), Ok(())));
    }

    /// Counts a request with this number of items as the API does.
    fn request(rate: Rate, items: u32, tat: &mut Duration, now: Duration) -> Result<(), Wait> {
        rate.admit(tat, now)?;
        rate.admit_more(items - 1, tat, now)
    }

    #[test]
    fn a_batch_larger_than_the_burst_is_accepted_and_paid_for_afterwards() {
        let (rate, mut tat, now) = (Rate::new(50).expect("a rate"), Duration::ZERO, Duration::from_secs(9));
        assert_eq!(request(rate, 501, &mut tat, now), Ok(()));
        let wait = request(rate, 1, &mut tat, now).expect_err("one and itself are owed");
        assert_eq!((wait, wait.seconds()), (Wait(rate.cost * 2), 1));
        assert_eq!(request(rate, 1_000, &mut tat, now + wait.0), Ok(()));
        assert_eq!(request(rate, 1, &mut tat, now + wait.0).map_err(Wait::seconds), Err(20));
    }

    #[test]
    fn a_batch_is_not_admitted_into_the_debt_of_another() {
        let (rate, mut tat, now) = (Rate::new(1).expect("a rate"), Duration::ZERO, Duration::from_secs(9));
        // Both requests came before either body was read.
        assert_eq!((rate.admit(&mut tat, now), rate.admit(&mut tat, now)), (Ok(()), Ok(())));
        assert_eq!(rate.admit_more(99, &mut tat, now), Ok(()));
        let wait = rate.admit_more(99, &mut tat, now).expect_err("91 are owed");
        assert_eq!(wait.seconds(), 92);
        assert_eq!(request(rate, 100, &mut tat, now + wait.0), Ok(()));
    }

    proptest! {
        /// After any history, the wait in a refusal is enough for any request, and no shorter wait is. In no period is
        /// more accepted than the rate, the burst and one batch.
        #[test]
        fn a_wait_is_true_and_the_rate_holds(
            per_second in prop_oneof![1..100u32, 1..=1_000_000u32],
            requests in prop::collection::vec((0..3_000u64, 1..=MAX_BATCH_ITEMS as u32), 1..100),
            last in 1..=MAX_BATCH_ITEMS as u32,
        ) {
            let rate = Rate::new(per_second).expect("a rate");
            let (mut tat, mut now, mut accepted) = (Duration::ZERO, Duration::ZERO, 0u64);
            for (pause, items) in requests {
                now += Duration::from_millis(pause);
                if let Err(Wait(wait)) = rate.admit(&mut tat, now) {
                    prop_assert!(wait > Duration::ZERO);
                    let mut then = tat;
                    prop_assert_eq!(request(rate, last, &mut then, now + wait), Ok(()));
                    let mut early = tat;
                    let too_early = now + wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(request(rate, last, &mut early, too_early).is_err());
                    continue;
                }
                prop_assert_eq!(rate.admit_more(items - 1, &mut tat, now), Ok(()));
                accepted += u64::from(items);
                let in_time = (now + rate.burst).as_nanos() / rate.cost.as_nanos();
                prop_assert!(u128::from(accepted) <= in_time + MAX_BATCH_ITEMS as u128);
            }
        }
    }
}
