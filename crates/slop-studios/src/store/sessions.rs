//! Sessions that outlive the process.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use socketio_server::Before;

use super::StoreError;
use crate::contract::time::Moment;

/// A store of sessions for recovery. Changes take effect in the order of the calls. [`SessionStore::session`] takes no
/// position in that order.
pub trait SessionStore: Debug + Send + Sync {
    /// Stores a session for recovery, in place of an older one with the same key. It never waits for the disk. If the
    /// process is killed before the write, the next process does not find an older record that this one changes either.
    ///
    /// If the write must be awaited for that, as in a store with other nodes, it returns a future that ends with the write.
    fn save_session(&self, session: SessionRecord) -> Option<BoxFuture<'static, ()>>;

    /// Records that a session's client has gone and may come back. The client has received every event up to
    /// `since_seq`. It never waits.
    fn session_left(&self, key: SessionKey, since_seq: u64);

    /// Records that every connected client with a stored session has received every event up to this one. It takes its
    /// position in the order of the calls of [`SessionStore::save_session`] and [`SessionStore::session_left`], and
    /// never waits.
    fn sessions_confirmed(&self, up_to: u64);

    /// Forgets a session, under the same conditions as [`SessionStore::save_session`].
    fn forget_session(&self, key: SessionKey);

    /// A session that an earlier run of the server stored. It has the number up to which its client is known to have
    /// received events, and the time at which the client was last known to be connected. `None` if that is not known.
    /// The session stays stored. Earlier calls that saved, left or forgot a session are taken into account. The read
    /// takes no other position in the order, so that changes wait a bounded time for it, however many callers ask.
    fn session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>>;

    /// Takes a session over from another node: from here on, what that node does with it has no effect. If that node
    /// runs, it is asked first to [hand over](super::Dispatch::hand_over) the session. `sealed` is the session's secret id
    /// in a form that only the nodes can read. Otherwise like [`session`](Self::session).
    fn claim_session(
        &self,
        key: SessionKey,
        _sealed: String,
    ) -> BoxFuture<'_, Result<Option<ClaimedSession>, StoreError>> {
        Box::pin(async move { Ok(self.session(key).await?.map(ClaimedSession::Stored)) })
    }
}

/// A session that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimedSession {
    /// No other node had it since this node saved it.
    Own(SessionRecord),
    /// Another node, or an earlier run of the server, has saved it.
    Stored(SessionRecord),
}

/// The SHA-256 of a session's secret id.
pub type SessionKey = [u8; 32];

/// The data for the recovery of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The key of the session.
    pub key: SessionKey,
    /// The socket's namespace.
    pub namespace: String,
    /// The socket's id.
    pub socket_id: String,
    /// The socket's rooms, each with the event number after which the socket joined.
    pub rooms: Vec<(Arc<str>, u64)>,
    /// The product's further data of the socket, JSON.
    pub data: String,
    /// The number up to which the client has received every event, unless the client knows a better number.
    pub since_seq: u64,
    /// When it was saved.
    pub updated_at: Moment,
    /// When its client was last known to be connected; `None` if it is connected now.
    pub left_at: Option<Moment>,
    /// The state of the session's earlier record.
    pub before: Before,
    /// The events that were sent to the socket alone, in the engine's form, if another node has handed them over.
    pub own_events: Option<String>,
}
