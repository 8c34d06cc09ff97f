//! The deadlines of a shard's connections and sockets in one heap, so that an idle connection costs one entry and no
//! task.

use std::{cmp::Reverse, collections::BinaryHeap};

use tokio::time::Instant;

use crate::identifier::{ConnectionKey, SocketRef};

/// The owner of a deadline. The owner decides what is due. An entry may outlive its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Connection(ConnectionKey),
    Socket(SocketRef),
}

#[derive(Debug)]
pub(crate) struct Timers<T = Timer>(BinaryHeap<Reverse<(Instant, T)>>);

/// This number of entries is tolerated, even if all are obsolete.
const FEW: usize = 64;

impl<T: Ord> Timers<T> {
    /// Creates the timers from all current deadlines.
    pub(crate) fn of(deadlines: Vec<(Instant, T)>) -> Self {
        Self(deadlines.into_iter().map(Reverse).collect::<Vec<_>>().into())
    }

    /// Whether most entries are obsolete: each owner has one valid entry. After a rebuild, as many entries must be
    /// added or become obsolete before this is true again.
    pub(crate) fn are_mostly_old(&self, owners: usize) -> bool {
        self.0.len() > 2 * owners + FEW
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a deadline. Returns `true` if it is now the first.
    pub(crate) fn push(&mut self, at: Instant, timer: T) -> bool {
        let first = self.next().is_none_or(|next| at < next);
        self.0.push(Reverse((at, timer)));
        first
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the first deadline that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}

impl<T: Ord> Default for Timers<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn entries_come_up_in_their_order_and_not_before_their_time() {
        let now = Instant::now();
        let mut timers = Timers::of(vec![(now + 3 * SECOND, 'd'), (now + SECOND, 'b')]);
        assert!(!timers.push(now + 2 * SECOND, 'c'));
        assert!(timers.push(now, 'a'));
        let mut due = |after| timers.pop_due(now + after * SECOND);
        assert_eq!([due(0), due(0)], [Some('a'), None]);
        assert_eq!([due(1), due(1)], [Some('b'), None]);
        assert_eq!([due(9), due(9), due(9)], [Some('c'), Some('d'), None]);
    }

    #[test]
    fn they_are_mostly_old_when_most_are_of_nobody() {
        let (now, mut timers) = (Instant::now(), Timers::default());
        for number in 0..FEW {
            timers.push(now, number);
        }
        assert!(!timers.are_mostly_old(0), "a few are not worth the work");
        for number in 0..200 {
            timers.push(now, number);
        }
        assert!(!timers.are_mostly_old(100));
        assert!(timers.are_mostly_old(99));
        assert!(!Timers::of((0..100).map(|number| (now, number)).collect()).are_mostly_old(99));
    }
}
