//! The fan-out of broadcasts to the sockets of a shard, some sockets at a time, so that a large room does not stall its
//! shard.
//!
//! Nearly all broadcasts are for one room: [`room`] writes them straight to its members. The others go into the
//! receivers' outboxes: [`selection`].

use std::sync::Arc;

use crate::{Config, Socket, delivery::job::Job, identifier::Position, shard::Shard};

mod encodings;
mod room;
mod selection;

use room::RoomFanout;
use selection::Selection;

/// The broadcasts under way. They have the same receivers and are in order.
pub(crate) enum Fanout {
    Room(RoomFanout),
    Selection(Selection),
}

/// How a fan-out continues, and the maximum number of sockets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// For a limited time, with writes to members that have no other pending frames.
    Write(usize),
    /// Without writes: other broadcasts wait, and may share the writes.
    Queue(usize),
}

impl Fanout {
    pub(crate) fn of(job: Arc<Job>, shard: &Shard) -> Self {
        match job.is_for_one_room(shard.handle.0.id_key.get()) {
            true => Self::Room(RoomFanout::of(job, shard)),
            false => Self::Selection(Selection::of(job)),
        }
    }

    /// Whether it writes straight to so many members that a short wait for more broadcasts is negligible.
    pub(crate) fn is_large(&self, config: &Config) -> bool {
        match self {
            Self::Room(walk) => walk.members_left() >= config.large_room,
            Self::Selection(_) => false,
        }
    }

    /// Adds the next broadcast, if it has the same receivers.
    pub(crate) fn take(&mut self, next: &Arc<Job>, shard: &Shard) -> bool {
        match self {
            Self::Room(walk) => walk.take(next, shard),
            Self::Selection(selection) => selection.take(next),
        }
    }

    /// Continues the fan-out. Returns true if every receiver has every broadcast.
    pub(crate) fn advance(&mut self, shard: &Shard, pace: Pace) -> bool {
        match (self, pace) {
            (Self::Room(walk), pace) => walk.advance(shard, pace),
            (Self::Selection(selection), Pace::Write(limit) | Pace::Queue(limit)) => selection.advance(shard, limit),
        }
    }

    /// The offset of the last broadcast.
    pub(crate) fn last_offset(&self) -> Position {
        match self {
            Self::Room(walk) => walk.last_offset(),
            Self::Selection(selection) => selection.last_offset(),
        }
    }

    /// The offset of the last of these broadcasts that the socket was given, or that is not for it; `None` if there is
    /// none.
    pub(crate) fn offset_of(&self, socket: &Socket) -> Option<Position> {
        match self {
            Self::Room(walk) => walk.offset_of(socket),
            Self::Selection(selection) => selection.is_done_with(socket).then(|| selection.last_offset()),
        }
    }

    /// The offset of the last of these broadcasts that every receiver has been given; `None` if there is none.
    pub(crate) fn past_offset(&self) -> Option<Position> {
        match self {
            Self::Room(walk) => walk.past_offset(),
            Self::Selection(_) => None,
        }
    }
}
