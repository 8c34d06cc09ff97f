//! The two forms in which the contract writes a moment: epoch milliseconds, and ISO 8601 as JavaScript's
//! `toISOString()`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// A moment in epoch milliseconds. Displayed and serialised as ISO 8601 in UTC with three decimals and `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// The moment `ms` milliseconds after the start of 1970.
    #[must_use]
    pub const fn from_epoch_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn epoch_ms(self) -> u64 {
        self.0
    }

    /// The moment `time` after this one.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `age` before this one.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl From<SystemTime> for Moment {
    /// A clock before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latest = Timestamp::MAX.as_millisecond();
        let ms = i64::try_from(self.0).unwrap_or(latest).min(latest);
        let timestamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        write!(f, "{timestamp:.3}")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Seconds since 1970; 0 if the clock is before 1970.
pub fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_javascript_writes_it() {
        let at = |ms| Moment::from(UNIX_EPOCH + Duration::from_millis(ms)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(1_763_884_799_007), "2025-11-23T07:59:59.007Z");
        assert_eq!(at(1_763_884_800_120), "2025-11-23T08:00:00.120Z");
        assert!(Moment(u64::MAX).to_string().ends_with('Z'));
        assert_eq!(Moment::from(UNIX_EPOCH - Duration::from_secs(5)), Moment(0));
    }
}
