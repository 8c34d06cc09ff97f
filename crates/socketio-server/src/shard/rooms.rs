//! The room memberships of a shard's sockets in one namespace.

use std::{cell::Cell, collections::HashMap, rc::Rc, sync::Arc};

use slab::Slab;
use smallvec::SmallVec;

use crate::{api::socket::Socket, connection::Connection, delivery::frame::Encoding, identifier::Position};

/// Why a socket could not join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The name is a socket's id: that room belongs to that socket alone.
    #[error("name is reserved")]
    Reserved,
    /// The socket is in as many rooms as allowed.
    #[error("too many rooms")]
    TooMany,
    /// The socket is no longer connected.
    #[error("socket is disconnected")]
    Disconnected,
}

/// Observes which rooms have members. It is called on the shards' threads, and must not block.
pub trait RoomObserver: Send + Sync {
    /// A room has its first member on a shard.
    fn entered(&self, namespace: &'static str, room: &Arc<str>);

    /// A room has lost its last member on a shard.
    fn left(&self, namespace: &'static str, room: &Arc<str>);
}

/// The observer of the rooms of a namespace.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) namespace: &'static str,
    pub(crate) observer: Arc<dyn RoomObserver>,
}

/// The rooms of one namespace on one shard. A join or a leave takes constant time, however large the room: a member
/// holds its index in its socket's list, and the socket holds its index among the members.
#[derive(Default)]
pub(crate) struct Rooms {
    by_name: HashMap<Arc<str>, usize>,
    rooms: Slab<Room>,
    /// The number of the last broadcast, or group of broadcasts, that began.
    last_number: u64,
    observed: Option<Observed>,
}

struct Room {
    /// Shared with saved sessions.
    name: Arc<str>,
    members: Vec<Member>,
}

pub(crate) struct Member {
    pub(crate) socket: Socket,
    /// The socket's connection. It is kept here too, so that a broadcast need not touch the socket's memory.
    pub(crate) connection: Rc<Connection>,
    /// The number of the last broadcast that the member was given, or that had begun when it joined.
    pub(crate) delivered_through: Cell<u64>,
    /// Index in the socket's memberships.
    slot: u32,
    /// The encoding of broadcasts for the socket. It is kept here too, for the same reason as the connection.
    pub(crate) encoding: Encoding,
}

/// The membership of a socket in one room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    room: u32,
    /// Index among the room's members.
    position: u32,
    /// The offset of the last broadcast before it joined.
    joined: Position,
}

pub(crate) type Memberships = SmallVec<[Membership; 2]>;

impl Rooms {
    pub(crate) fn new(observed: Option<Observed>) -> Self {
        Self { observed, ..Self::default() }
    }

    /// The number of the next broadcast, or group of broadcasts.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The upper bound of the rooms' indexes. A room that is created meanwhile may have a higher index.
    pub(crate) fn index_bound(&self) -> usize {
        self.rooms.capacity()
    }

    /// The room at an index, if there is one, and its members.
    pub(crate) fn at(&self, index: usize) -> Option<(&str, &[Member])> {
        self.rooms.get(index).map(|room| (&*room.name, &*room.members))
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

    /// The rooms of the socket, each with the offset of the last broadcast before the socket joined.
    pub(crate) fn memberships_of(&self, socket: &Socket) -> Vec<(Arc<str>, Position)> {
        let memberships = socket.inner().memberships.borrow();
        memberships
            .iter()
            .filter_map(|membership| Some((self.rooms.get(membership.room as usize)?, membership.joined)))
            .map(|(room, joined)| (room.name.clone(), joined))
            .collect()
    }

    /// The offset of the last broadcast before the socket joined the room; `None` if it is not a member.
    pub(crate) fn joined(&self, socket: &Socket, name: &str) -> Option<Position> {
        let slot = self.slot(socket, name)?;
        socket.inner().memberships.borrow().get(slot).map(|membership| membership.joined)
    }

    /// The number of the last broadcast that the socket was given as a member of the room; `None` if it is no member.
    pub(crate) fn delivered_through(&self, socket: &Socket, name: &str) -> Option<u64> {
        let membership = *socket.inner().memberships.borrow().get(self.slot(socket, name)?)?;
        Some(
            self.rooms
                .get(membership.room as usize)?
                .members
                .get(membership.position as usize)?
                .delivered_through
                .get(),
        )
    }

    /// Whether the broadcast of this number, to these rooms, was given to the socket in each of them.
    pub(crate) fn has_delivered(&self, socket: &Socket, names: &[Box<str>], number: u64) -> bool {
        let mut numbers = names.iter().filter_map(|name| self.delivered_through(socket, name)).peekable();
        numbers.peek().is_some() && numbers.all(|last| last == number)
    }

    /// Adds the socket to a room that it is not in, after the broadcast `after`.
    pub(crate) fn add(&mut self, socket: &Socket, name: &str, after: Position) {
        let room = match self.by_name.get(name) {
            Some(&room) => room,
            None => {
                let name: Arc<str> = name.into();
                let room = self.rooms.insert(Room { name: name.clone(), members: Vec::new() });
                if let Some(Observed { namespace, observer }) = &self.observed {
                    observer.entered(namespace, &name);
                }
                self.by_name.insert(name, room);
                room
            }
        };
        let mut memberships = socket.inner().memberships.borrow_mut();
        let members = &mut self.rooms[room].members;
        // Both indexes stay below 2^32: each room and each member takes more than a byte of memory.
        memberships.push(Membership { room: room as u32, position: members.len() as u32, joined: after });
        members.push(Member {
            socket: socket.clone(),
            connection: socket.inner().connection.clone(),
            delivered_through: Cell::new(self.last_number),
            slot: (memberships.len() - 1) as u32,
            encoding: socket.encoding(),
        });
    }

    /// Removes the socket. Returns false if it was not in the room.
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
        // Updates the member of the membership that moved into the slot.
        if let Some(moved) = memberships.get(slot)
            && let Some(member) =
                self.rooms.get_mut(moved.room as usize).and_then(|room| room.members.get_mut(moved.position as usize))
        {
            member.slot = slot as u32;
        }
        let (index, position) = (gone.room as usize, gone.position as usize);
        let Some(room) = self.rooms.get_mut(index) else { return };
        room.members.swap_remove(position);
        // Updates the socket of the member that moved into the position. It is not the socket that left, whose list is
        // borrowed.
        if let Some(moved) = room.members.get(position)
            && let Some(membership) = moved.socket.inner().memberships.borrow_mut().get_mut(moved.slot as usize)
        {
            membership.position = position as u32;
        }
        if room.members.is_empty() {
            let room = self.rooms.remove(index);
            self.by_name.remove(&room.name);
            if let Some(Observed { namespace, observer }) = &self.observed {
                observer.left(namespace, &room.name);
            }
        } else if room.members.len() * 4 < room.members.capacity() {
            room.members.shrink_to(room.members.len() * 2);
        }
        if self.rooms.is_empty() {
            *self = Self { last_number: self.last_number, ..Self::new(self.observed.take()) };
        }
    }
}
