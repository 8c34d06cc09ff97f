//! Broadcasts to several rooms, to everyone, or with exceptions. They are queued for each receiver. A walk may visit
//! the same receiver several times.

use std::{rc::Rc, sync::Arc};

use smallvec::{SmallVec, smallvec};

use super::encodings::Encodings;
use crate::{
    Socket,
    connection::Connection,
    delivery::{
        frame::{Encoding, Frame},
        job::Job,
    },
    identifier::{Id, Position},
    shard::{Shard, Space},
};

/// Broadcasts with the same receivers, in order. Each receiver is visited once, and gets all of them.
///
/// Members may leave while a walk is paused. The last member then takes the position of the one that left. So a walk
/// starts at the end, where a moved member has already been visited, and each member carries the number of the last
/// broadcasts that it was given. A member that joins during a pause counts as visited: a broadcast is for the members
/// that are there when it begins.
pub(crate) struct Selection {
    jobs: SmallVec<[Arc<Job>; 1]>,
    frames: SmallVec<[Rc<Frame>; 1]>,
    /// The same in other encodings than [`Encoding::WithOffset`].
    others: Encodings,
    /// The number of the broadcasts, unique in the namespace; 0 before the walk has begun.
    number: u64,
    /// The sockets of the namespace that are not visited yet, if no room is named.
    everyone: Vec<Socket>,
    rooms_done: usize,
    /// The number of members not yet visited in the current room; `None` if the room is not begun.
    members_left: Option<usize>,
    sockets: u64,
}

impl Selection {
    pub(super) fn of(job: Arc<Job>) -> Self {
        Self {
            jobs: smallvec![job],
            frames: SmallVec::new(),
            others: Encodings::default(),
            number: 0,
            everyone: Vec::new(),
            rooms_done: 0,
            members_left: None,
            sockets: 0,
        }
    }

    /// Adds the next broadcast, if it has the same receivers and no socket was visited yet.
    pub(super) fn take(&mut self, next: &Arc<Job>) -> bool {
        let same = self.number == 0 && self.jobs.first().is_some_and(|first| first.has_receivers_of(next));
        if same {
            self.jobs.push(next.clone());
        }
        same
    }

    /// Gives the broadcasts to at most `limit` more sockets. Returns true if no receiver is left.
    pub(super) fn advance(&mut self, shard: &Shard, mut limit: usize) -> bool {
        let Some(job) = self.jobs.first().cloned() else { return true };
        let space = shard.space(job.namespace);
        if self.number == 0 {
            self.begin(shard, space, &job);
        }
        // A mark is only needed if one socket can be visited twice, or if no membership records the visit.
        let mark = job.rooms.len() != 1 || !job.except.is_empty();
        let rooms = space.rooms.borrow();
        while let Some(room) = job.rooms.get(self.rooms_done) {
            let members = rooms.members(room);
            let mut left = self.members_left.unwrap_or(members.len()).min(members.len());
            while let Some(member) = members.get(..left).and_then(<[_]>::last) {
                if limit == 0 {
                    self.members_left = Some(left);
                    return false;
                }
                (left, limit) = (left - 1, limit - 1);
                if member.delivered_through.replace(self.number) != self.number {
                    self.give(shard, &job, mark, &member.socket, &member.connection, member.encoding);
                }
            }
            if let Some(own) = Id::parse(room).and_then(|id| space.sockets.borrow().get(&id).cloned()) {
                self.give(shard, &job, mark, &own, &own.inner().connection, own.encoding());
            }
            (self.rooms_done, self.members_left) = (self.rooms_done + 1, None);
        }
        while let Some(socket) = self.everyone.pop() {
            self.give(shard, &job, mark, &socket, &socket.inner().connection, socket.encoding());
            limit = limit.saturating_sub(1);
            if limit == 0 && !self.everyone.is_empty() {
                return false;
            }
        }
        shard.metrics.packets_queued.add(self.sockets * self.frames.len() as u64);
        self.jobs.iter().for_each(|job| job.tally.finish(self.sockets));
        true
    }

    /// The offset of the last broadcast.
    pub(super) fn last_offset(&self) -> Position {
        self.jobs.last().map_or(Position::NONE, |job| job.offset)
    }

    /// Whether the socket was given the broadcasts, or is no receiver. A socket that joins a room while the walk is
    /// paused may still be visited in another room.
    pub(super) fn is_done_with(&self, socket: &Socket) -> bool {
        let Some(job) = self.jobs.first().filter(|job| job.namespace == socket.reference().namespace) else {
            return false;
        };
        socket.inner().considered.get() == self.number
            || (!job.rooms.iter().any(|room| **room == *socket.id())
                && socket.space().rooms.borrow().has_delivered(socket, &job.rooms, self.number))
    }

    fn begin(&mut self, shard: &Shard, space: &Space, job: &Job) {
        shard.metrics.broadcasts.add(self.jobs.len() as u64);
        self.frames = self.jobs.iter().flat_map(|job| &job.frames).cloned().map(Rc::new).collect();
        self.number = space.rooms.borrow_mut().next_number();
        let (rooms, sockets) = (space.rooms.borrow(), space.sockets.borrow());
        for room in &job.except {
            let own = Id::parse(room).and_then(|id| sockets.get(&id));
            for socket in rooms.members(room).iter().map(|member| &member.socket).chain(own) {
                socket.inner().considered.set(self.number);
            }
        }
        if job.rooms.is_empty() {
            self.everyone = sockets.values().cloned().collect();
        }
    }

    fn give(
        &mut self,
        shard: &Shard,
        job: &Job,
        mark: bool,
        socket: &Socket,
        connection: &Rc<Connection>,
        encoding: Encoding,
    ) {
        if mark && socket.inner().considered.replace(self.number) == self.number
            || job.except_socket.is_some_and(|except| except == socket.reference())
        {
            return;
        }
        if job.volatile && !connection.is_ready() {
            shard.metrics.volatile_dropped.increment();
            return;
        }
        let frames = match encoding {
            Encoding::WithOffset => self.frames.as_slice(),
            other => self.others.frames(other, self.jobs.iter().map(|job| &**job)),
        };
        for frame in frames {
            connection.queue_uncounted(frame.clone());
        }
        self.sockets += 1;
    }
}
