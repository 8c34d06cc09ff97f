//! Broadcasts to several rooms, to everyone, or with exceptions: queued for each receiver, which may be met in several
//! places.

use std::{rc::Rc, sync::Arc};

use smallvec::{SmallVec, smallvec};

use crate::{
    Socket,
    broadcast::Job,
    connection::Connection,
    frame::Frame,
    identifier::Id,
    shard::{Shard, Space},
};

/// Broadcasts with the same receivers, in order. Each receiver is met once, and gets all of them.
///
/// While a walk rests, members may leave: the last takes the place of the one that left. So a walk begins at the end,
/// where a member that moved has been met already, and members carry the turn that met them last. Who joins meanwhile
/// counts as met: a broadcast is for those who are there when it begins.
pub(crate) struct Crowd {
    jobs: SmallVec<[Arc<Job>; 1]>,
    frames: SmallVec<[Rc<Frame>; 1]>,
    /// The same for those who don't take part in recovery; made for the first of them.
    plain_frames: Option<SmallVec<[Rc<Frame>; 1]>>,
    /// Tells this walk from others in the namespace; 0 before it has begun.
    turn: u64,
    /// Everyone in the namespace who is not met yet, if no room is named.
    everyone: Vec<Socket>,
    rooms_done: usize,
    /// Members of the room under way that are not met yet; none if it is not begun.
    members_left: Option<usize>,
    sockets: u64,
}

impl Crowd {
    pub(super) fn of(job: Arc<Job>) -> Self {
        Self {
            jobs: smallvec![job],
            frames: SmallVec::new(),
            plain_frames: None,
            turn: 0,
            everyone: Vec::new(),
            rooms_done: 0,
            members_left: None,
            sockets: 0,
        }
    }

    /// Takes the next broadcast along, if it has the same receivers and nobody was met yet.
    pub(super) fn take(&mut self, next: &Arc<Job>) -> bool {
        let same = self.turn == 0 && self.jobs.first().is_some_and(|first| first.has_receivers_of(next));
        if same {
            self.jobs.push(next.clone());
        }
        same
    }

    /// Gives the broadcasts to at most `limit` more sockets; true if that were all.
    pub(super) fn advance(&mut self, shard: &Shard, mut limit: usize) -> bool {
        let Some(job) = self.jobs.first().cloned() else { return true };
        let space = shard.space(job.namespace);
        if self.turn == 0 {
            self.begin(shard, space, &job);
        }
        // Marking is only needed where one socket can be met twice, or no membership tells that it was.
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
                if member.met.replace(self.turn) != self.turn {
                    self.give(shard, &job, mark, &member.socket, &member.connection, member.is_plain);
                }
            }
            if let Some(own) = Id::parse(room).and_then(|id| space.sockets.borrow().get(&id).cloned()) {
                self.give(shard, &job, mark, &own, &own.inner().connection, own.inner().recovery.is_none());
            }
            (self.rooms_done, self.members_left) = (self.rooms_done + 1, None);
        }
        while let Some(socket) = self.everyone.pop() {
            self.give(shard, &job, mark, &socket, &socket.inner().connection, socket.inner().recovery.is_none());
            limit = limit.saturating_sub(1);
            if limit == 0 && !self.everyone.is_empty() {
                return false;
            }
        }
        shard.metrics.packets_queued.add(self.sockets * self.frames.len() as u64);
        self.jobs.iter().for_each(|job| job.finish(self.sockets));
        true
    }

    /// The number of the last of the broadcasts.
    pub(super) fn last_offset(&self) -> u64 {
        self.jobs.last().map_or(0, |job| job.offset)
    }

    /// Whether the socket was given the broadcasts, or is not to get them. One that joins a room while the walk rests may
    /// still be met in another.
    pub(super) fn has_met(&self, socket: &Socket) -> bool {
        let Some(job) = self.jobs.first().filter(|job| job.namespace == socket.reference().namespace) else {
            return false;
        };
        socket.inner().considered.get() == self.turn
            || (!job.rooms.iter().any(|room| **room == *socket.id())
                && socket.space().rooms.borrow().is_met(socket, &job.rooms, self.turn))
    }

    fn begin(&mut self, shard: &Shard, space: &Space, job: &Job) {
        shard.metrics.broadcasts.add(self.jobs.len() as u64);
        self.frames = self.jobs.iter().flat_map(|job| &job.frames).cloned().map(Rc::new).collect();
        self.turn = space.rooms.borrow_mut().next_turn();
        let (rooms, sockets) = (space.rooms.borrow(), space.sockets.borrow());
        for room in &job.except {
            let own = Id::parse(room).and_then(|id| sockets.get(&id));
            for socket in rooms.members(room).iter().map(|member| &member.socket).chain(own) {
                socket.inner().considered.set(self.turn);
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
        is_plain: bool,
    ) {
        if mark && socket.inner().considered.replace(self.turn) == self.turn
            || job.except_socket.is_some_and(|except| except == socket.reference())
        {
            return;
        }
        if job.volatile && !connection.is_ready() {
            shard.metrics.volatile_dropped.increment();
            return;
        }
        let frames = match is_plain {
            false => &self.frames,
            true => self
                .plain_frames
                .get_or_insert_with(|| self.jobs.iter().flat_map(|job| job.plain_frames()).map(Rc::new).collect()),
        };
        for frame in frames {
            connection.queue_uncounted(frame.clone());
        }
        self.sockets += 1;
    }
}
