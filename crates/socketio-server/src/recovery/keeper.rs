//! Sessions that outlive the process: what an application that can keep them is asked for.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedSession {
    /// The namespace.
    pub namespace: String,
    /// The socket's id.
    pub socket_id: String,
    /// The rooms that it is in, each with the broadcast after which it joined.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// What [`Namespace::save`](crate::Namespace::save) returned.
    pub data: String,
    /// The last broadcast that is known to have arrived, or that came before it connected.
    pub since: u64,
    /// What was saved of it before.
    pub before: Before,
}

/// What a keeper has of a session that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It was given none of it yet.
    Nothing,
    /// The session as it is.
    Valid,
    /// Something that must not be recalled any more: its rooms or its data have changed since.
    Outdated,
}

impl SavedSession {
    /// A session in a namespace, in no room.
    #[must_use]
    pub fn new(namespace: impl Into<String>, socket_id: impl Into<String>, since: u64) -> Self {
        let (namespace, socket_id) = (namespace.into(), socket_id.into());
        Self { namespace, socket_id, rooms: Vec::new(), data: String::new(), since, before: Before::Valid }
    }
}

impl MissedEvent {
    /// An event with its number, for everyone in its namespace.
    #[must_use]
    pub fn new(offset: u64, event: impl Into<String>, args: impl Into<String>) -> Self {
        Self { offset, event: event.into(), args: args.into(), rooms: Vec::new() }
    }

    /// The same for these rooms.
    #[must_use]
    pub fn to(mut self, rooms: Vec<String>) -> Self {
        self.rooms = rooms;
        self
    }
}

/// A broadcast of an earlier life of the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MissedEvent {
    /// Its number: that of [`Broadcast::offset`](crate::Broadcast::offset).
    pub offset: u64,
    /// The event's name.
    pub event: String,
    /// Its arguments as JSON, separated by commas.
    pub args: String,
    /// Of the rooms that were asked for, those that it went to; none if it went to everyone. A client that is in none of
    /// them any more does not get it.
    pub rooms: Vec<String>,
}

/// Keeps sessions across the end of the process. The `pid` is the client's secret: who has it can take the session over.
pub trait SessionKeeper: Debug + Send + Sync {
    /// Keeps a session in place of what was kept of it. Called on the sockets' threads, before the client is told of what has
    /// changed: must not block.
    fn save(&self, pid: &str, session: SavedSession);

    /// The session's client has gone and may come back. It has received every broadcast up to `since`, or needs not. What was
    /// saved of the session before is as good.
    fn left(&self, pid: &str, since: u64);

    /// Every session that is saved, not forgotten, and with a client (not [left](Self::left) since it was saved) has received
    /// all broadcasts up to this one. Said again when it changes; it falls when a client comes back that has received less.
    /// So the session of a client that stays and is sent nothing is as fresh as the others, and need not be saved again.
    fn confirmed(&self, up_to: u64);

    /// The session has ended for good.
    fn forget(&self, pid: &str);

    /// The session with this `pid` as an earlier life of the server kept it, with the last broadcast that its client is known
    /// to have received. Nothing if there is none, or the client has been away for too long.
    fn recall(&self, pid: &str) -> Recalled<SavedSession>;

    /// What earlier lives sent after `offset` to any of these rooms of a namespace, to each only what came after the number
    /// beside it, in its order. Nothing if some of it is no longer known. Asked each time that a client comes back
    /// which may not have it all yet, also for a session that came back before.
    fn missed(&self, namespace: &str, rooms: Vec<(Arc<str>, u64)>, offset: u64) -> Recalled<Vec<MissedEvent>>;
}

/// What a keeper answers.
pub type Recalled<T> = Pin<Box<dyn Future<Output = Option<T>> + Send>>;
