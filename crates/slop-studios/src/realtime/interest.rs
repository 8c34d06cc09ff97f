//! The rooms whose events this node hears: those with members here, and those that a socket is about to join.
//!
//! Only a store with [other nodes](crate::store::RoomInterest::has_other_nodes) has to be told. A socket joins a room when
//! the node hears the room. So it gets every event after its join.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use socketio_server::{NodeTag, RoomObserver, Socket};
use tokio::time::interval;

use crate::contract::rooms::user_room;
use crate::store::{Room, Store, StoreError};

/// How long a room without members is heard. It covers the time between the question and the join, and saves the change
/// for a client that reconnects.
const KEPT: Duration = Duration::from_secs(10);

const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Weak, since the store dispatches to the sockets. None if all events are dispatched here.
    store: OnceLock<Weak<dyn Store>>,
    /// This node. The events for the ids of its sockets are dispatched here.
    node: OnceLock<NodeTag>,
    rooms: Mutex<Rooms>,
}

#[derive(Debug, Default)]
struct Rooms {
    known: HashMap<Room, Interested>,
    /// The number of times that the store has left all rooms.
    generation: u64,
    /// The rooms to look at when they may have had no member for long enough.
    to_look_at: VecDeque<(Instant, Room)>,
}

#[derive(Debug)]
struct Interested {
    /// The number of shards with members.
    shards: usize,
    is_heard: bool,
    kept_until: Instant,
    /// Whether it is among the rooms to look at.
    is_due: bool,
}

impl Interest {
    /// Sets the store, which other nodes use too. Called once, before the server starts.
    pub(crate) fn use_store(&self, store: &Arc<dyn Store>, node: NodeTag) {
        let _ = (self.store.set(Arc::downgrade(store)), self.node.set(node));
    }

    /// Has the events for a socket's id dispatched here for as long as the result lives, if another node made the id.
    pub(crate) fn hold_own_room(self: &Arc<Self>, socket: &Socket) -> Option<HeldRoom> {
        let other = socket.handle().node_of_socket_id(socket.id()).filter(|node| self.node.get() != Some(node));
        let room = Room { namespace: socket.namespace(), room: other.map(|_| socket.id().into())? };
        self.entered(room.namespace, &room.room);
        Some(HeldRoom { interest: Arc::clone(self), room })
    }

    /// Whether rooms have to be entered before they are joined.
    pub(crate) fn is_needed(&self) -> bool {
        self.store.get().is_some()
    }

    /// Has the events of a room dispatched here, from the answer on. `None` if they are already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        namespace: &'static str,
        room: &str,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        self.enter_all(vec![Room { namespace, room: room.into() }])
    }

    /// The same for several rooms. The store is asked before this returns, so that later reads come after it.
    pub(crate) fn enter_all(
        self: &Arc<Self>,
        mut rooms: Vec<Room>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let store = self.store.get()?.upgrade()?;
        rooms.retain(|room| !self.rooms().keep(room));
        if rooms.is_empty() {
            return None;
        }
        let (interest, generation) = (Arc::clone(self), self.rooms().generation);
        let (asked, answer) = (rooms.clone(), Arc::clone(&store));
        // The request is queued here; the future only waits for the answer.
        let mut entered = Box::pin(async move { answer.enter(asked).await });
        let first = futures_util::FutureExt::now_or_never(&mut entered);
        Some(Box::pin(async move {
            match first {
                Some(result) => result?,
                None => entered.await?,
            }
            // The store may have left a room, or all, while the answer was on its way.
            let mut known = interest.rooms();
            if known.generation == generation && known.heard(&rooms) {
                Ok(())
            } else {
                Err(StoreError::Unavailable("the room was left meanwhile".into()))
            }
        }))
    }

    /// Whether the node is known to hear everything.
    pub(crate) fn is_current(&self) -> bool {
        self.store.get().is_none_or(|store| store.upgrade().is_some_and(|store| store.is_current()))
    }

    /// Whether a socket may have this user: the events of the user's room are dispatched here, and all revocations are
    /// known.
    pub(crate) fn hears_user(&self, namespace: &'static str, user_id: &str) -> bool {
        if !self.is_needed() {
            return true;
        }
        let room = Room { namespace, room: user_room(user_id).into() };
        self.rooms().known.get(&room).is_some_and(|room| room.is_heard) && self.is_current()
    }

    /// Forgets that rooms are heard, after the store has left all.
    pub(crate) fn forget_all(&self) {
        let mut rooms = self.rooms();
        rooms.generation += 1;
        rooms.known.values_mut().for_each(|room| room.is_heard = false);
    }

    /// Leaves the rooms that had no member for a while, and enters those with members that could not be entered.
    pub(crate) async fn keep_tidy(self: Arc<Self>) {
        let mut ticks = interval(TIDY_INTERVAL);
        while let Some(store) = self.store.get().and_then(Weak::upgrade) {
            let unheard = self.rooms().tidy(Instant::now(), |room| store.leave(room));
            if !unheard.is_empty()
                && let Some(entered) = self.enter_all(unheard)
                && let Err(error) = entered.await
            {
                tracing::warn!(%error, "hear a room");
            }
            drop(store);
            ticks.tick().await;
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    /// Keeps a room for a while. Returns whether it is heard.
    fn keep(&mut self, room: &Room) -> bool {
        let kept_until = Instant::now() + KEPT;
        let known = self.known.get_mut(room);
        let is_heard = known.as_ref().is_some_and(|known| known.is_heard);
        match known {
            Some(known) => known.kept_until = kept_until,
            None => {
                self.known.insert(room.clone(), Interested { shards: 0, is_heard: false, kept_until, is_due: true });
                self.to_look_at.push_back((kept_until, room.clone()));
            }
        }
        is_heard
    }

    /// Forgets the rooms that had no member for long enough, and calls `leave` for each: under the lock, so that a room
    /// that is entered again is left before. Returns the rooms with members that are not heard.
    fn tidy(&mut self, now: Instant, leave: impl Fn(Room)) -> Vec<Room> {
        let mut unheard = Vec::new();
        while let Some((_, room)) = self.to_look_at.pop_front_if(|(at, _)| *at <= now) {
            let Entry::Occupied(mut entry) = self.known.entry(room) else { continue };
            let Interested { shards, is_heard, kept_until, .. } = *entry.get();
            entry.get_mut().is_due = false;
            if shards == 0 && kept_until <= now {
                leave(entry.remove_entry().0);
            } else if shards == 0 || !is_heard {
                entry.get_mut().is_due = true;
                self.to_look_at.push_back((kept_until.max(now + TIDY_INTERVAL), entry.key().clone()));
                unheard.extend((shards > 0).then(|| entry.key().clone()));
            }
        }
        unheard
    }

    /// Records that the rooms are heard. Returns false if one was left meanwhile.
    fn heard(&mut self, rooms: &[Room]) -> bool {
        let mut are_known = true;
        for room in rooms {
            match self.known.get_mut(room) {
                Some(known) => known.is_heard = true,
                None => are_known = false,
            }
        }
        are_known
    }
}

/// A room that is heard although it has no members.
#[derive(Debug)]
pub(crate) struct HeldRoom {
    interest: Arc<Interest>,
    room: Room,
}

impl Drop for HeldRoom {
    fn drop(&mut self) {
        self.interest.left(self.room.namespace, &self.room.room);
    }
}

impl RoomObserver for Interest {
    fn entered(&self, namespace: &'static str, room: &Arc<str>) {
        if !self.is_needed() {
            return;
        }
        let (mut rooms, room) = (self.rooms(), Room { namespace, room: Arc::clone(room) });
        rooms.keep(&room);
        if let Some(known) = rooms.known.get_mut(&room) {
            known.shards += 1;
        }
    }

    fn left(&self, namespace: &'static str, room: &Arc<str>) {
        if !self.is_needed() {
            return;
        }
        let (mut rooms, room) = (self.rooms(), Room { namespace, room: Arc::clone(room) });
        let kept_until = Instant::now() + KEPT;
        if let Some(known) = rooms.known.get_mut(&room) {
            known.shards = known.shards.saturating_sub(1);
            known.kept_until = kept_until;
            if known.shards == 0 && !std::mem::replace(&mut known.is_due, true) {
                rooms.to_look_at.push_back((kept_until, room));
            }
        }
    }
}
