//! Rates whose whole state is one number (the generic cell rate algorithm of ITU-T I.371), since every connection has one.

use std::time::Duration;

/// So many a second, and after a pause so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds that one costs; 0 if there is no limit.
    cost: u64,
    /// Nanoseconds that may be owed.
    credit: u64,
}

/// What one more is to a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Within,
    /// Too many. What is refused counts too, so that whoever does not slow down gets further off.
    Over,
    /// Twice as many as are allowed at once: the client does not mean to slow down.
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

    /// Takes one. `paid_at` is when all that was taken is paid for, `now` the time, both in nanoseconds since the same moment.
    pub(crate) fn take(self, paid_at: u64, now: u64) -> (u64, Pace) {
        self.take_many(1, paid_at, now)
    }

    /// How long it takes until what was taken is within the rate.
    pub(crate) fn wait(self, paid_at: u64, now: u64) -> Duration {
        Duration::from_nanos(paid_at.saturating_sub(now).saturating_sub(self.credit))
    }

    /// Takes so many.
    pub(crate) fn take_many(self, count: u32, paid_at: u64, now: u64) -> (u64, Pace) {
        if self.cost == 0 {
            return (0, Pace::Within);
        }
        let paid_at = paid_at.max(now).saturating_add(self.cost.saturating_mul(u64::from(count)));
        let owed = paid_at - now;
        let pace = match owed {
            owed if owed <= self.credit => Pace::Within,
            owed if owed <= self.credit.saturating_mul(2) => Pace::Over,
            // Not further, so that the time to wait is bounded.
            _ => return (now.saturating_add(self.credit.saturating_mul(2)), Pace::FarOver),
        };
        (paid_at, pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(rate: Rate, paid_at: &mut u64, now: u64) -> Pace {
        let (next, pace) = rate.take(*paid_at, now);
        *paid_at = next;
        pace
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (rate, mut state, mut now) = (Rate::new(10, 3), 0, 5 * SECOND);
        for _ in 0..3 {
            assert_eq!(take(rate, &mut state, now), Pace::Within);
        }
        assert_eq!(take(rate, &mut state, now), Pace::Over);
        // The refused one is paid for too.
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
