//! Returns memory to the system after many connections have closed.
//!
//! The C library keeps freed memory for later use. Without this module, a server that once held 8,000 connections stays
//! as large as it was then. mimalloc was measured as an alternative: it takes twice as much for an empty server and a
//! quarter more for an idle connection, and returns nothing while nothing is allocated.

use std::time::Duration;

use crate::system;

/// The interval at which the connections are counted.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// The number of closed connections from which a scan of the whole heap is worthwhile: at 2 KiB each, 2 MiB.
const CROWD: u64 = 1_000;

/// The decision when to return memory, from the number of connections.
#[derive(Debug, Default)]
pub(crate) struct HeapTrim {
    /// The largest number of connections since memory was last returned.
    peak: u64,
}

impl HeapTrim {
    /// Records the number of connections. Returns memory if at least half of them, and no fewer than `CROWD`, have
    /// closed since the peak.
    pub(crate) fn observe(&mut self, connections: u64) {
        if self.has_left(connections) {
            system::give_memory_back();
        }
    }

    fn has_left(&mut self, connections: u64) -> bool {
        self.peak = self.peak.max(connections);
        let left = self.peak - connections >= CROWD && connections <= self.peak / 2;
        if left {
            self.peak = connections;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_crowd_must_have_left() {
        let mut trim = HeapTrim::default();
        for (connections, left) in
            [(8_000, false), (4_001, false), (4_000, true), (3_500, false), (2_000, true), (0, true), (0, false)]
        {
            assert_eq!(trim.has_left(connections), left, "{connections}");
        }
    }

    #[test]
    fn a_few_are_no_crowd() {
        let mut trim = HeapTrim::default();
        assert!(!trim.has_left(999));
        assert!(!trim.has_left(0));
    }
}
