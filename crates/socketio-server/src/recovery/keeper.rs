//! Sessions that outlive the process: the interface for an application that keeps them.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use crate::identifier::Position;

/// A saved session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedSession {
    /// The namespace.
    pub namespace: String,
    /// The socket's id.
    pub socket_id: String,
    /// The rooms that it is in, each with the offset of the last broadcast before it joined.
    pub rooms: Vec<(Arc<str>, Position)>,
    /// The text that [`Namespace::save`](crate::Namespace::save) returned.
    pub data: String,
    /// The last broadcast that is known to have arrived, or that was sent before the client connected.
    pub since: Position,
    /// What the keeper has of the session before this save.
    pub before: Before,
    /// The events that were emitted to the socket alone and may not have arrived, if another server has
    /// [handed](crate::Handle::hand_over) the session over. Only the engine reads it.
    pub own_events: Option<String>,
}

/// What a keeper has of a session before it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing: the session was not saved before.
    Nothing,
    /// The current session.
    Valid,
    /// An outdated session that must not be recalled any more: its rooms or its data have changed since.
    Outdated,
}

impl SavedSession {
    /// A session in a namespace, in no room.
    #[must_use]
    pub fn new(namespace: impl Into<String>, socket_id: impl Into<String>, since: Position) -> Self {
        let (namespace, socket_id) = (namespace.into(), socket_id.into());
        Self {
            namespace,
            socket_id,
            rooms: Vec::new(),
            data: String::new(),
            since,
            before: Before::Valid,
            own_events: None,
        }
    }
}

impl MissedEvent {
    /// An event with its offset, for all sockets of its namespace.
    #[must_use]
    pub fn new(offset: Position, event: impl Into<String>, args: impl Into<String>) -> Self {
        Self { offset, event: event.into(), args: args.into(), rooms: Vec::new() }
    }

    /// The same event for these rooms.
    #[must_use]
    pub fn to(mut self, rooms: Vec<String>) -> Self {
        self.rooms = rooms;
        self
    }
}

/// A broadcast of an earlier run of the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MissedEvent {
    /// Its offset, as in [`Broadcast::offset`](crate::Broadcast::offset).
    pub offset: Position,
    /// The event's name.
    pub event: String,
    /// Its arguments as JSON, separated by commas.
    pub args: String,
    /// The rooms that it was sent to, out of the requested rooms; empty if it was sent to everyone. A client that is in
    /// none of them any more does not get it.
    pub rooms: Vec<String>,
}

/// Keeps sessions across the end of the process. The `pid` is the client's secret: its holder can take the session
/// over.
pub trait SessionKeeper: Debug + Send + Sync {
    /// Saves a session in place of its earlier copy. Called on the sockets' threads, before the client is informed of
    /// the change: must not block. If it returns a future, the client is sent nothing until the future ends, or for
    /// [`SAVE_PATIENCE`](crate::SAVE_PATIENCE).
    fn save(&self, pid: &str, session: SavedSession) -> Option<Saving>;

    /// Records that the session's client has gone and may come back. The client has received every broadcast up to
    /// `since`, or does not need it. The copy that was saved before is still valid.
    fn left(&self, pid: &str, since: Position);

    /// Records that sessions have received all broadcasts up to this one: every session that is saved, not forgotten,
    /// and with a client (not [left](Self::left) since it was saved). Called again when the position changes. The
    /// position falls when a client comes back that has received less. So the session of a client that stays and gets
    /// no events is as fresh as the others, and need not be saved again.
    fn confirmed(&self, up_to: Position);

    /// Removes a session that has ended for good.
    fn forget(&self, pid: &str);

    /// Whether other servers, which run at the same time, share the sessions and the order of the broadcasts. Then a
    /// session is claimed each time that its client comes back, and what the client has missed is asked for each time:
    /// this server does not know of the broadcasts to a room while it has no member of it.
    fn is_shared(&self) -> bool {
        false
    }

    /// Returns the session with this `pid`, with the last broadcast that its client is known to have received. It is
    /// [gone](NotRecalled::Gone) if there is no such session, or if the client has been away for too long. `is_here`: this server has the session.
    /// It is called for such a session only if sessions are [shared](Self::is_shared).
    fn claim(&self, pid: &str, is_here: bool) -> Recalled<Claimed>;

    /// Returns the events that were sent after `offset` to any of these rooms of a namespace, in order. For each room,
    /// only the events after the offset beside it count. [Gone](NotRecalled::Gone) if some of them are no longer known. Called each
    /// time that a client comes back which may not have all of them yet, also for a session that was recovered before.
    /// `own_events`: whether the events that were emitted to the socket alone are known, so that they need not be
    /// replaced.
    fn missed(
        &self,
        namespace: &str,
        rooms: Vec<(Arc<str>, Position)>,
        offset: Position,
        own_events: bool,
    ) -> Recalled<Missed>;
}

/// A session that a client comes back for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The session of this server is the current one.
    Here,
    /// The session as an earlier run, or another server, has saved it.
    Saved(SavedSession),
}

/// What a session has missed.
#[derive(Debug, Clone)]
pub struct Missed {
    /// The events, in order.
    pub events: Vec<MissedEvent>,
    /// The offset up to which they are complete. This server knows the later broadcasts.
    pub until: Position,
}

/// A save that is under way.
pub type Saving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answer of a keeper.
pub type Recalled<T> = Pin<Box<dyn Future<Output = Result<T, NotRecalled>> + Send>>;

/// Why a keeper does not have what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRecalled {
    /// It does not exist, or not any more: the client gets a new session.
    Gone,
    /// It may exist, but the keeper can't know now: the client's connection is closed, and the session stays.
    Unavailable,
}
