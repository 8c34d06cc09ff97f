//! A broadcast on its way to the shards.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::frame::{Encoding, Frames};
use crate::{
    identifier::{IdKey, Position, SocketRef},
    recovery::Offset,
};

/// Names of rooms.
pub(crate) type Names = SmallVec<[Box<str>; 2]>;

/// A broadcast on its way to the shards.
pub(crate) struct Job {
    pub(crate) namespace: u16,
    /// Empty for all sockets of the namespace.
    pub(crate) rooms: Names,
    pub(crate) except: Names,
    pub(crate) except_socket: Option<SocketRef>,
    pub(crate) volatile: bool,
    /// The broadcast's offset, or the offset of the one before if it is volatile; 0 without recovery.
    pub(crate) offset: Position,
    /// Whether the frames carry the offset as the last argument.
    pub(crate) has_offset: bool,
    /// More than one if there are binary attachments.
    pub(crate) frames: Frames,
    pub(crate) tally: Tally,
}

/// The count of the sockets that a broadcast is queued for, until every shard has counted its own.
pub(crate) struct Tally {
    sockets: AtomicU64,
    shards_left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<u64>>>,
}

impl Job {
    /// Whether the receivers are the members of one room, and each of them gets it exactly once.
    pub(crate) fn is_for_one_room(&self, ids: Option<&IdKey>) -> bool {
        self.rooms.len() == 1
            && self.except.is_empty()
            && self.except_socket.is_none()
            && !self.volatile
            && !ids.is_some_and(|ids| ids.is_socket_id(self.room()))
    }

    /// The name of the first room; empty if there is none.
    pub(crate) fn room(&self) -> &str {
        self.rooms.first().map_or("", |room| room)
    }

    /// Whether the other broadcast has the same receivers.
    pub(crate) fn has_receivers_of(&self, other: &Self) -> bool {
        (self.namespace, &self.rooms, &self.except, self.except_socket, self.volatile)
            == (other.namespace, &other.rooms, &other.except, other.except_socket, other.volatile)
    }

    /// The frames in an encoding.
    pub(crate) fn frames_in(&self, encoding: Encoding) -> Frames {
        let mut frames = self.frames.clone();
        if let (Encoding::Plain, true, Some(text)) = (encoding, self.has_offset, frames.first_mut()) {
            *text = text.with_tail(Offset::of_broadcast(self.offset).argument().len(), b"");
        }
        frames
    }
}

impl Tally {
    /// The tally of a broadcast to so many shards. `done` gets the count.
    pub(crate) fn new(shards: usize, done: oneshot::Sender<u64>) -> Self {
        Self { sockets: AtomicU64::new(0), shards_left: AtomicUsize::new(shards), done: Mutex::new(Some(done)) }
    }

    /// Records that a shard has queued the broadcast for `sockets` of its sockets.
    pub(crate) fn finish(&self, sockets: u64) {
        self.sockets.fetch_add(sockets, Ordering::Relaxed);
        if self.shards_left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = done.send(self.sockets.load(Ordering::Relaxed));
        }
    }
}
