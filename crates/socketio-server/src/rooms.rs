//! Which sockets of a shard are in which rooms of a namespace.

use std::{cell::Cell, collections::HashMap, rc::Rc, sync::Arc};

use slab::Slab;
use smallvec::SmallVec;

use crate::{connection::Connection, socket::Socket};

/// Why a socket could not join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The name is a socket's id: its room is that socket's own.
    #[error("name is reserved")]
    Reserved,
    /// The socket is in as many rooms as allowed.
    #[error("too many rooms")]
    TooMany,
    /// The socket is no longer connected.
    #[error("socket is disconnected")]
    Disconnected,
}

/// The rooms of one namespace on one shard. Joining and leaving take the same time however large the room is: a
/// member knows its place in its socket's list, and the socket knows its place among the members.
#[derive(Default)]
pub(crate) struct Rooms {
    by_name: HashMap<Arc<str>, usize>,
    rooms: Slab<Room>,
    /// Number of the last walk through members.
    turn: u64,
}

struct Room {
    /// Sessions that are saved have it too.
    name: Arc<str>,
    members: Vec<Member>,
}

pub(crate) struct Member {
    pub(crate) socket: Socket,
    /// The socket's, here as well so that a broadcast need not touch the socket's memory.
    pub(crate) connection: Rc<Connection>,
    /// The last walk that met it, or that was under way when it joined.
    pub(crate) met: Cell<u64>,
    /// Index in the socket's memberships.
    slot: u32,
    /// The socket takes no part in recovery. Here as well for the same reason as the connection.
    pub(crate) is_plain: bool,
}

/// One room that a socket is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    room: u32,
    /// Index among the room's members.
    position: u32,
    /// The broadcast after which it joined.
    joined: u64,
}

pub(crate) type Memberships = SmallVec<[Membership; 2]>;

impl Rooms {
    /// Begins a walk.
    pub(crate) fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Rooms have places below this number. One that is made meanwhile may have a higher one.
    pub(crate) fn places(&self) -> usize {
        self.rooms.capacity()
    }

    /// The room in a place, if there is one, and its members.
    pub(crate) fn at(&self, place: usize) -> Option<(&str, &[Member])> {
        self.rooms.get(place).map(|room| (&*room.name, &*room.members))
    }

    pub(crate) fn members(&self, name: &str) -> &[Member] {
        self.by_name.get(name).and_then(|&room| self.rooms.get(room)).map_or(&[], |room| &room.members)
    }

    pub(crate) fn contains(&self, socket: &Socket, name: &str) -> bool {
        self.slot(socket, name).is_some()
    }

    fn slot(&self, socket: &Socket, name: &str) -> Option<usize> {
        let room = *self.by_name.get(name)?;
        socket.inner().memberships.borrow().iter().position(|membership| membership.room as usize == room)
    }

    pub(crate) fn names_of(&self, socket: &Socket) -> Vec<String> {
        let memberships = socket.inner().memberships.borrow();
        memberships
            .iter()
            .filter_map(|membership| self.rooms.get(membership.room as usize))
            .map(|room| room.name.to_string())
            .collect()
    }

    /// The same, each with the broadcast after which the socket joined.
    pub(crate) fn memberships_of(&self, socket: &Socket) -> Vec<(Arc<str>, u64)> {
        let memberships = socket.inner().memberships.borrow();
        memberships
            .iter()
            .filter_map(|membership| Some((self.rooms.get(membership.room as usize)?, membership.joined)))
            .map(|(room, joined)| (room.name.clone(), joined))
            .collect()
    }

    /// The broadcast after which the socket joined the room, if it is there.
    pub(crate) fn joined(&self, socket: &Socket, name: &str) -> Option<u64> {
        let slot = self.slot(socket, name)?;
        socket.inner().memberships.borrow().get(slot).map(|membership| membership.joined)
    }

    /// The last walk that met the socket in a room, if it is there.
    pub(crate) fn met(&self, socket: &Socket, name: &str) -> Option<u64> {
        let membership = *socket.inner().memberships.borrow().get(self.slot(socket, name)?)?;
        Some(self.rooms.get(membership.room as usize)?.members.get(membership.position as usize)?.met.get())
    }

    /// Whether the walk of this number, through these rooms, has met the socket wherever it may meet it.
    pub(crate) fn is_met(&self, socket: &Socket, names: &[Box<str>], turn: u64) -> bool {
        let mut met = names.iter().filter_map(|name| self.met(socket, name)).peekable();
        met.peek().is_some() && met.all(|last| last == turn)
    }

    /// Adds the socket, after a broadcast, to a room that it is not in.
    pub(crate) fn add(&mut self, socket: &Socket, name: &str, after: u64) {
        let room = match self.by_name.get(name) {
            Some(&room) => room,
            None => {
                let name: Arc<str> = name.into();
                let room = self.rooms.insert(Room { name: name.clone(), members: Vec::new() });
                self.by_name.insert(name, room);
                room
            }
        };
        let mut memberships = socket.inner().memberships.borrow_mut();
        let members = &mut self.rooms[room].members;
        // Neither a shard's rooms nor a room's members reach 2^32: each takes more than a byte of memory.
        memberships.push(Membership { room: room as u32, position: members.len() as u32, joined: after });
        members.push(Member {
            socket: socket.clone(),
            connection: socket.inner().connection.clone(),
            met: Cell::new(self.turn),
            slot: (memberships.len() - 1) as u32,
            is_plain: socket.inner().recovery.is_none(),
        });
    }

    /// Removes the socket; false if it was not in the room.
    pub(crate) fn leave(&mut self, socket: &Socket, name: &str) -> bool {
        let Some(slot) = self.slot(socket, name) else { return false };
        self.remove(&mut socket.inner().memberships.borrow_mut(), slot);
        true
    }

    pub(crate) fn leave_all(&mut self, socket: &Socket) {
        let mut memberships = socket.inner().memberships.borrow_mut();
        while let Some(last) = memberships.len().checked_sub(1) {
            self.remove(&mut memberships, last);
        }
        *memberships = Memberships::new();
    }

    fn remove(&mut self, memberships: &mut Memberships, slot: usize) {
        let gone = memberships.swap_remove(slot);
        // The membership that took the slot tells its member.
        if let Some(moved) = memberships.get(slot)
            && let Some(member) =
                self.rooms.get_mut(moved.room as usize).and_then(|room| room.members.get_mut(moved.position as usize))
        {
            member.slot = slot as u32;
        }
        let (index, position) = (gone.room as usize, gone.position as usize);
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.members.swap_remove(position);
        // The member that took the position tells its socket. It is not the one that left, whose list is borrowed.
        if let Some(moved) = room.members.get(position)
            && let Some(membership) = moved.socket.inner().memberships.borrow_mut().get_mut(moved.slot as usize)
        {
            membership.position = position as u32;
        }
        if room.members.is_empty() {
            let room = self.rooms.remove(index);
            self.by_name.remove(&room.name);
        } else if room.members.len() * 4 < room.members.capacity() {
            room.members.shrink_to(room.members.len() * 2);
        }
        if self.rooms.is_empty() {
            *self = Self { turn: self.turn, ..Self::default() };
        }
    }
}
