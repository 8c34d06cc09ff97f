//! Sessions that outlive the process: what an application that can keep them is asked for.

use std::{fmt::Debug, future::Future, pin::Pin};

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedSession {
    /// The namespace.
    pub namespace: String,
    /// The socket's id.
    pub socket_id: String,
    /// The rooms that it is in, each with the broadcast after which it joined.
    pub rooms: Vec<(String, u64)>,
    /// What [`Namespace::save`](crate::Namespace::save) returned.
    pub data: String,
    /// The last broadcast that is known to have arrived, or that came before it connected.
    pub since: u64,
}

impl SavedSession {
    /// A session in a namespace, in no room.
    #[must_use]
    pub fn new(namespace: impl Into<String>, socket_id: impl Into<String>, since: u64) -> Self {
        Self { namespace: namespace.into(), socket_id: socket_id.into(), rooms: Vec::new(), data: String::new(), since }
    }
}

/// A session that was kept, and what its client has missed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecalledSession {
    /// The session as it was saved last.
    pub session: SavedSession,
    /// The events for its rooms after the offset asked for, in their order.
    pub missed: Vec<MissedEvent>,
}

impl RecalledSession {
    /// A session, and what its client has missed.
    #[must_use]
    pub fn new(session: SavedSession, missed: Vec<MissedEvent>) -> Self {
        Self { session, missed }
    }
}

impl MissedEvent {
    /// An event with its number.
    #[must_use]
    pub fn new(offset: u64, event: impl Into<String>, args: impl Into<String>) -> Self {
        Self { offset, event: event.into(), args: args.into() }
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
}

/// Keeps sessions across the end of the process. The `pid` is the client's secret: who has it can take the session over.
pub trait SessionKeeper: Debug + Send + Sync {
    /// Keeps a session in place of what was kept of it. Called on the sockets' threads: must not block.
    fn save(&self, pid: &str, session: SavedSession);

    /// The session has ended for good.
    fn forget(&self, pid: &str);

    /// The session with this `pid` as an earlier life of the server kept it, and all events for its rooms that the earlier
    /// life sent after `offset` (or after the session's `since`, if that is higher) and after it joined. Nothing if there
    /// is no such session or some of the events are no longer known.
    fn recall(&self, pid: &str, offset: u64) -> Recall;
}

/// See [`SessionKeeper::recall`].
pub type Recall = Pin<Box<dyn Future<Output = Option<RecalledSession>> + Send>>;
