//! Deadlines of a shard's connections and sockets in one heap, so that an idle connection costs one entry and no task.

use std::{cmp::Reverse, collections::BinaryHeap};

use tokio::time::Instant;

use crate::{connection::ConnectionKey, socket::SocketRef};

/// What a deadline belongs to. The owner decides what is due; an entry may outlive its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Connection(ConnectionKey),
    Socket(SocketRef),
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Instant, Timer)>>);

impl Timers {
    /// Adds a deadline; true if it is now the first.
    pub(crate) fn push(&mut self, at: Instant, timer: Timer) -> bool {
        let first = self.next().is_none_or(|next| at < next);
        self.0.push(Reverse((at, timer)));
        first
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the first deadline that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}
