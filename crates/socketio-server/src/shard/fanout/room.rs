//! Broadcasts to one room, written straight to its members.
//!
//! A member costs one system call and hardly anything else: the bytes are the same for all members, and a member
//! without pending frames needs no outbox. A broadcast that arrives during a walk joins the walk at its current
//! position. The members not yet visited get it with the same write as the broadcasts before it. For the other members
//! the walk goes round once more. So a busy room takes one write per member and round, however many broadcasts arrive
//! meanwhile.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::{Pace, encodings::Encodings};
use crate::{
    Socket,
    config::{FLUSH_TURN, FLUSHES_PER_LOOK, FRAMES_PER_WRITE},
    delivery::{
        frame::{Encoding, Frame},
        job::Job,
    },
    identifier::Position,
    shard::{Shard, rooms::Member},
};

/// Broadcasts to a room, in order.
///
/// Each broadcast has a number, and each member carries the number of the last broadcast that it was given. A new
/// member carries the last number of all: a broadcast is for the members that are there when it begins. When a member
/// leaves, the last member takes its position. So a round goes from the end to the beginning: a moved member that was
/// not visited at its old position is visited at its new position.
pub(crate) struct RoomFanout {
    jobs: Vec<Begun>,
    /// The frames of all jobs.
    frames: Vec<Rc<Frame>>,
    /// Several frames in one piece, as written to the last member. The next member gets the same bytes, and one piece
    /// costs the kernel less than several.
    joined: Joined,
    /// The same in other encodings than [`Encoding::WithOffset`].
    others: Encodings,
    /// The number of members not yet visited in this round.
    left: usize,
    /// The number of jobs that had begun before this round: every member has them when the round ends.
    in_round: usize,
    /// The offset of the last broadcast that every member has.
    past: Option<Position>,
}

/// The bytes of the frames from one index on, one frame after the other.
#[derive(Default)]
struct Joined {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

impl Joined {
    /// The bytes of all frames from this index on.
    fn bytes<'a>(&'a mut self, frames: &'a [Rc<Frame>], from: usize) -> &'a [u8] {
        if let [one] = frames.get(from..).unwrap_or_default() {
            return one.as_websocket();
        }
        if (self.from, self.to) != (from, frames.len()) {
            (self.from, self.to) = (from, frames.len());
            self.bytes.clear();
            frames.iter().skip(from).for_each(|frame| self.bytes.extend_from_slice(frame.as_websocket()));
        }
        &self.bytes
    }
}

/// A broadcast that has begun.
struct Begun {
    job: Arc<Job>,
    number: u64,
    /// The index of its first frame.
    frames_at: usize,
}

impl RoomFanout {
    pub(super) fn of(job: Arc<Job>, shard: &Shard) -> Self {
        let mut walk = Self {
            jobs: Vec::new(),
            frames: Vec::new(),
            joined: Joined::default(),
            others: Encodings::default(),
            left: 0,
            in_round: 1,
            past: None,
        };
        walk.left = walk.begin(job, shard);
        walk
    }

    pub(super) fn members_left(&self) -> usize {
        self.left
    }

    /// Adds a broadcast, if it is for the same room and one write can still take all frames. Its publisher gets the
    /// number of receivers before any member is visited.
    pub(super) fn take(&mut self, next: &Arc<Job>, shard: &Shard) -> bool {
        let fits = self.frames.len() + next.frames.len() <= FRAMES_PER_WRITE;
        let joins = fits && self.jobs.last().is_some_and(|last| last.job.has_receivers_of(next));
        if joins {
            let members = self.begin(next.clone(), shard);
            if self.left == members {
                self.in_round = self.jobs.len();
            }
        }
        joins
    }

    /// Returns the number of members.
    fn begin(&mut self, job: Arc<Job>, shard: &Shard) -> usize {
        let number = shard.space(job.namespace).rooms.borrow_mut().next_number();
        let frames_at = self.frames.len();
        self.frames.extend(job.frames.iter().cloned().map(Rc::new));
        self.others.add(&job);
        let members = shard.space(job.namespace).rooms.borrow().members(job.room()).len();
        shard.metrics.broadcasts.increment();
        shard.metrics.packets_queued.add((members * job.frames.len()) as u64);
        job.tally.finish(members as u64);
        self.jobs.push(Begun { job, number, frames_at });
        members
    }

    pub(super) fn advance(&mut self, shard: &Shard, pace: Pace) -> bool {
        let Some(job) = self.jobs.first().map(|first| first.job.clone()) else { return true };
        let rooms = shard.space(job.namespace).rooms.borrow();
        let members = rooms.members(job.room());
        let (writes, mut limit) = match pace {
            Pace::Write(limit) => (true, limit),
            Pace::Queue(limit) => (false, limit),
        };
        let began = Instant::now();
        loop {
            self.left = self.left.min(members.len());
            while self.left > 0 {
                if limit == 0 || (writes && began.elapsed() >= FLUSH_TURN) {
                    return false;
                }
                let next = self.left.saturating_sub(limit.min(FLUSHES_PER_LOOK));
                let some = members.get(next..self.left).unwrap_or_default();
                if writes {
                    some.iter().for_each(|member| member.connection.prefetch());
                }
                let given = some.iter().rev().filter(|member| self.give(member, writes)).count();
                (self.left, limit) = (next, limit - given);
            }
            // Every member has the broadcasts of this round. If other broadcasts joined meanwhile, the members
            // visited before that lack them.
            self.past = self.jobs.get(self.in_round - 1).map(|last| last.job.offset).or(self.past);
            if self.in_round == self.jobs.len() {
                return true;
            }
            self.forget_round();
            self.left = members.len();
        }
    }

    /// Gives the member the broadcasts that it lacks. Returns false if it has all of them. Called for every member from
    /// one place.
    #[inline]
    fn give(&mut self, member: &Member, writes: bool) -> bool {
        let delivered_through = member.delivered_through.get();
        let first = self.jobs.iter().position(|begun| begun.number > delivered_through);
        let (Some(first), Some(last)) = (first.and_then(|first| self.jobs.get(first)), self.jobs.last()) else {
            return false;
        };
        member.delivered_through.set(last.number);
        let from = first.frames_at;
        if member.encoding != Encoding::WithOffset {
            let frames = self.others.frames(member.encoding, self.jobs.iter().map(|begun| &*begun.job));
            frames.iter().skip(from).for_each(|frame| member.connection.queue_uncounted(frame.clone()));
            return true;
        }
        let frames = self.frames.get(from..).unwrap_or_default();
        if writes {
            member.connection.write_through(frames, self.joined.bytes(&self.frames, from));
        } else {
            frames.iter().for_each(|frame| member.connection.queue_uncounted(frame.clone()));
        }
        true
    }

    /// Discards the broadcasts that every member has.
    fn forget_round(&mut self) {
        let frames = self.jobs.get(self.in_round).map_or(self.frames.len(), |next| next.frames_at);
        self.jobs.drain(..self.in_round);
        self.frames.drain(..frames);
        self.joined = Joined::default();
        self.others.discard(frames);
        self.jobs.iter_mut().for_each(|begun| begun.frames_at -= frames);
        self.in_round = self.jobs.len();
    }

    pub(super) fn last_offset(&self) -> Position {
        self.jobs.last().map_or(Position::NONE, |begun| begun.job.offset)
    }

    pub(super) fn past_offset(&self) -> Option<Position> {
        self.past
    }

    pub(super) fn offset_of(&self, socket: &Socket) -> Option<Position> {
        let job = &self.jobs.first().filter(|first| first.job.namespace == socket.reference().namespace)?.job;
        let delivered_through = socket.space().rooms.borrow().delivered_through(socket, job.room())?;
        let last = self.jobs.iter().rev().find(|begun| begun.number <= delivered_through);
        last.map(|begun| begun.job.offset).or(self.past)
    }
}
