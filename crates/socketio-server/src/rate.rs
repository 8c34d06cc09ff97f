//! Rate limits whose whole state is one number, since every connection has one. The algorithm is the generic cell rate
//! algorithm of ITU-T I.371.

use std::time::Duration;

/// A number of items per second, and a number of items at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The cost of one item in nanoseconds; 0 if there is no limit.
    cost: u64,
    /// The largest allowed debt in nanoseconds.
    credit: u64,
}

/// How one more item compares with a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Within,
    /// Too many items. Refused items count too, so a client that does not slow down exceeds the rate further.
    Over,
    /// More than twice the number that is allowed at once. The client does not intend to slow down.
    FarOver,
}

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// No limit if `per_second` is 0.
    pub(crate) const fn new(per_second: u32, at_once: u32) -> Self {
        let cost = match per_second {
            0 => 0,
            // Widening.
            per_second => SECOND / per_second as u64,
        };
        Self { cost, credit: cost.saturating_mul(at_once as u64) }
    }

    /// Takes one item. `tat` is the theoretical arrival time of the generic cell rate algorithm, and `now` is the
    /// current time. Both are in nanoseconds since the same moment.
    pub(crate) fn take(self, tat: u64, now: u64) -> (u64, Pace) {
        self.take_many(1, tat, now)
    }

    /// The time until the taken items are within the rate.
    pub(crate) fn wait(self, tat: u64, now: u64) -> Duration {
        Duration::from_nanos(tat.saturating_sub(now).saturating_sub(self.credit))
    }

    /// Takes `count` items.
    pub(crate) fn take_many(self, count: u32, tat: u64, now: u64) -> (u64, Pace) {
        if self.cost == 0 {
            return (0, Pace::Within);
        }
        let tat = tat.max(now).saturating_add(self.cost.saturating_mul(u64::from(count)));
        let owed = tat - now;
        let pace = match owed {
            owed if owed <= self.credit => Pace::Within,
            owed if owed <= self.credit.saturating_mul(2) => Pace::Over,
            // The debt grows no further, so that the waiting time is bounded.
            _ => return (now.saturating_add(self.credit.saturating_mul(2)), Pace::FarOver),
        };
        (tat, pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(rate: Rate, tat: &mut u64, now: u64) -> Pace {
        let (next, pace) = rate.take(*tat, now);
        *tat = next;
        pace
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (rate, mut state, mut now) = (Rate::new(10, 3), 0, 5 * SECOND);
        for _ in 0..3 {
            assert_eq!(take(rate, &mut state, now), Pace::Within);
        }
        assert_eq!(take(rate, &mut state, now), Pace::Over);
        // The refused item is paid for too.
        now += 2 * SECOND / 10;
        assert_eq!(take(rate, &mut state, now), Pace::Within);
        assert_eq!(take(rate, &mut state, now), Pace::Over);
        for _ in 0..100 {
            now += SECOND / 10;
            assert_eq!(take(rate, &mut state, now + SECOND), Pace::Within);
        }
    }

    #[test]
    fn who_goes_on_is_far_over_and_comes_back_in_time() {
        let (rate, mut state) = (Rate::new(10, 3), 0);
        let paces: Vec<Pace> = (0..1000).map(|_| take(rate, &mut state, SECOND)).collect();
        assert_eq!(paces.iter().filter(|pace| **pace == Pace::Within).count(), 3);
        assert_eq!(paces.iter().filter(|pace| **pace == Pace::Over).count(), 3);
        assert_eq!(paces.last(), Some(&Pace::FarOver));
        assert_eq!(take(rate, &mut state, 2 * SECOND), Pace::Within);
    }

    #[test]
    fn zero_is_no_limit() {
        let (rate, mut state) = (Rate::new(0, 0), 0);
        for _ in 0..1000 {
            assert_eq!(take(rate, &mut state, 0), Pace::Within);
        }
        assert_eq!(state, 0);
    }
}
