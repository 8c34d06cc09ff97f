//! Broadcasts to one room, written straight to its members.
//!
//! A member costs one system call and hardly anything else: what is written is the same for all, and a member for whom
//! nothing waits needs no outbox. A broadcast that comes while the walk is under way joins it where it is. Members that
//! are still to be met get it with the same write as those before it, and for the others the walk goes round once more; so
//! a busy room takes one write a member and round, however many broadcasts come meanwhile.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::Pace;
use crate::{
    Socket,
    broadcast::Job,
    config::{FLUSH_TURN, FLUSHES_PER_LOOK, FRAMES_PER_WRITE},
    frame::Frame,
    rooms::Member,
    shard::Shard,
};

/// Broadcasts to a room, in order.
///
/// Each has a number, and a member carries that of the last one that it was given. Who joins carries the last one of all:
/// a broadcast is for those who are there when it begins. When a member leaves, the last takes its place; so rounds go from
/// the end to the beginning, where a member that moved is met at its new place if it was not at the old one.
pub(crate) struct RoomWalk {
    jobs: Vec<Begun>,
    /// Those of all jobs.
    frames: Vec<Rc<Frame>>,
    /// Several of them in one piece, as the last member was written them: the next one gets the same, and one piece costs the
    /// kernel less than several.
    joined: Joined,
    /// The same for those who don't take part in recovery; made for the first of them.
    plain_frames: Option<Vec<Rc<Frame>>>,
    /// Members that are not met in this round.
    left: usize,
    /// Jobs that had begun before this round did: everyone has them when it ends.
    in_round: usize,
    /// The number of the last broadcast that everyone has.
    past: Option<u64>,
}

/// The frames from one on, one after the other.
#[derive(Default)]
struct Joined {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

impl Joined {
    /// The bytes of all frames from this one on.
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
    /// Where its frames begin.
    frames_at: usize,
}

impl RoomWalk {
    pub(super) fn of(job: Arc<Job>, shard: &Shard) -> Self {
        let mut walk = Self {
            jobs: Vec::new(),
            frames: Vec::new(),
            joined: Joined::default(),
            plain_frames: None,
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

    /// Lets a broadcast join, if it is for the same room and one write can still take all. Nobody has to be met before its
    /// publisher is told how many get it.
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
        let number = shard.space(job.namespace).rooms.borrow_mut().next_turn();
        let frames_at = self.frames.len();
        self.frames.extend(job.frames.iter().cloned().map(Rc::new));
        if let Some(plain) = &mut self.plain_frames {
            plain.extend(job.plain_frames().into_iter().map(Rc::new));
        }
        let members = shard.space(job.namespace).rooms.borrow().members(job.room()).len();
        shard.metrics.broadcasts.increment();
        shard.metrics.packets_queued.add((members * job.frames.len()) as u64);
        job.finish(members as u64);
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
            // Everyone has those of this round. If others came meanwhile, those who were met before they did don't have them.
            self.past = self.jobs.get(self.in_round - 1).map(|last| last.job.offset).or(self.past);
            if self.in_round == self.jobs.len() {
                return true;
            }
            self.forget_round();
            self.left = members.len();
        }
    }

    /// Gives the member what it does not have. False if it has everything. Called for every member from one place.
    #[inline]
    fn give(&mut self, member: &Member, writes: bool) -> bool {
        let met = member.met.get();
        let first = self.jobs.iter().position(|begun| begun.number > met);
        let (Some(first), Some(last)) = (first.and_then(|first| self.jobs.get(first)), self.jobs.last()) else {
            return false;
        };
        member.met.set(last.number);
        let from = first.frames_at;
        if member.is_plain {
            let plain = self.plain_frames.get_or_insert_with(|| {
                self.jobs.iter().flat_map(|begun| begun.job.plain_frames()).map(Rc::new).collect()
            });
            plain.iter().skip(from).for_each(|frame| member.connection.queue_uncounted(frame.clone()));
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

    /// Forgets the broadcasts that everyone has.
    fn forget_round(&mut self) {
        let frames = self.jobs.get(self.in_round).map_or(self.frames.len(), |next| next.frames_at);
        self.jobs.drain(..self.in_round);
        self.frames.drain(..frames);
        self.joined = Joined::default();
        if let Some(plain) = &mut self.plain_frames {
            plain.drain(..frames);
        }
        self.jobs.iter_mut().for_each(|begun| begun.frames_at -= frames);
        self.in_round = self.jobs.len();
    }

    pub(super) fn last_offset(&self) -> u64 {
        self.jobs.last().map_or(0, |begun| begun.job.offset)
    }

    pub(super) fn past_offset(&self) -> Option<u64> {
        self.past
    }

    pub(super) fn offset_of(&self, socket: &Socket) -> Option<u64> {
        let job = &self.jobs.first().filter(|first| first.job.namespace == socket.reference().namespace)?.job;
        let met = socket.space().rooms.borrow().met(socket, job.room())?;
        let last = self.jobs.iter().rev().find(|begun| begun.number <= met);
        last.map(|begun| begun.job.offset).or(self.past)
    }
}
