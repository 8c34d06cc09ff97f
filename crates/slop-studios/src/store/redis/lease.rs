//! The node's lease: how long it may dispatch events, and admit users, after it has last heard from Redis. A node that was
//! stopped, or cut off from Redis, does not know what was revoked meanwhile. So it is silent when its lease has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a lease is valid after the moment at which its renewal was asked for. By the clock of Redis, a node counts as
/// running for a second longer (`LEASE` in `apply.lua`).
const VALID: Duration = Duration::from_secs(4);

/// How long another node may take to hold a revocation. Afterwards it is silent until it holds it.
pub(super) const LONGEST_LEASE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// When it ends, in milliseconds of the system's time.
    until: AtomicU64,
    /// The version of the revocations that the node holds.
    holds: AtomicU64,
}

/// The system's time in milliseconds, which goes on while the process or the machine is stopped.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    // The time since the start of the machine is not negative.
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}

impl Lease {
    pub(super) fn is_valid(&self) -> bool {
        now() < self.until.load(Ordering::Acquire)
    }

    /// The version of the revocations that the node holds.
    pub(super) fn holds(&self) -> u64 {
        self.holds.load(Ordering::Acquire)
    }

    /// Records that the node holds all revocations up to a version.
    pub(super) fn hold(&self, version: u64) {
        self.holds.fetch_max(version, Ordering::AcqRel);
    }

    /// Records that the node holds exactly the revocations of this version. Returns the version before, if it was higher:
    /// then Redis has lost revocations.
    pub(super) fn hold_all(&self, version: u64) -> Option<u64> {
        let before = self.holds.swap(version, Ordering::AcqRel);
        (before > version).then_some(before)
    }

    /// Renews the lease that was asked for at this time, unless there are revocations that the node does not hold.
    pub(super) fn renew(&self, asked_at: u64, version: u64) {
        if version == self.holds() {
            self.until.fetch_max(asked_at + VALID.as_millis() as u64, Ordering::AcqRel);
        }
    }

    /// Begins with the revocations of another order, in which versions may be lower.
    pub(super) fn begin_anew(&self) {
        self.until.store(0, Ordering::Release);
        self.holds.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_from_the_question_on_and_with_all_revocations() {
        let lease = Lease::default();
        assert!(!lease.is_valid());
        lease.renew(now() - 4_000, 0);
        assert!(!lease.is_valid(), "the question is too old");
        lease.renew(now(), 1);
        assert!(!lease.is_valid(), "a revocation is not held");
        lease.hold(1);
        lease.renew(now(), 1);
        assert!(lease.is_valid());
        lease.begin_anew();
        assert!(!lease.is_valid());
    }
}
