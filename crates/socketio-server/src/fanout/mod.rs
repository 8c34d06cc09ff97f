//! Broadcasts on their way to the sockets of a shard, some at a time, so that a big room does not stall its shard.
//!
//! Nearly all are for one room: [`room`] writes them straight to its members. The others go into the receivers'
//! outboxes: [`crowd`].

use std::sync::Arc;

use crate::{Config, Socket, broadcast::Job, shard::Shard};

mod crowd;
mod room;

use crowd::Crowd;
use room::RoomWalk;

/// The broadcasts that are under way: those with the same receivers, in order.
pub(crate) enum Fanout {
    Room(RoomWalk),
    Crowd(Crowd),
}

/// How a fan-out goes on, and to how many sockets at most.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// For a while, writing to those for whom nothing else waits.
    Write(usize),
    /// Without writing: other broadcasts wait, and may share the writes.
    Queue(usize),
}

impl Fanout {
    pub(crate) fn of(job: Arc<Job>, shard: &Shard) -> Self {
        match job.is_for_one_room(&shard.handle) {
            true => Self::Room(RoomWalk::of(job, shard)),
            false => Self::Crowd(Crowd::of(job)),
        }
    }

    /// Whether it is written straight to so many that a moment's wait for more broadcasts is nothing beside it.
    pub(crate) fn is_large(&self, config: &Config) -> bool {
        match self {
            Self::Room(walk) => walk.members_left() >= config.large_room,
            Self::Crowd(_) => false,
        }
    }

    /// Takes the next broadcast along, if it has the same receivers.
    pub(crate) fn take(&mut self, next: &Arc<Job>, shard: &Shard) -> bool {
        match self {
            Self::Room(walk) => walk.take(next, shard),
            Self::Crowd(crowd) => crowd.take(next),
        }
    }

    /// Goes on; true if everyone has everything.
    pub(crate) fn advance(&mut self, shard: &Shard, pace: Pace) -> bool {
        match (self, pace) {
            (Self::Room(walk), pace) => walk.advance(shard, pace),
            (Self::Crowd(crowd), Pace::Write(limit) | Pace::Queue(limit)) => crowd.advance(shard, limit),
        }
    }

    /// The number of the last of the broadcasts.
    pub(crate) fn last_offset(&self) -> u64 {
        match self {
            Self::Room(walk) => walk.last_offset(),
            Self::Crowd(crowd) => crowd.last_offset(),
        }
    }

    /// The number of the last of the broadcasts that the socket was given, or is not to get; `None` if it was given none.
    pub(crate) fn offset_of(&self, socket: &Socket) -> Option<u64> {
        match self {
            Self::Room(walk) => walk.offset_of(socket),
            Self::Crowd(crowd) => crowd.has_met(socket).then(|| crowd.last_offset()),
        }
    }

    /// The number of the last of the broadcasts that everyone has been given, if that is none of those before them.
    pub(crate) fn past_offset(&self) -> Option<u64> {
        match self {
            Self::Room(walk) => walk.past_offset(),
            Self::Crowd(_) => None,
        }
    }
}
