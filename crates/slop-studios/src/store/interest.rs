//! The rooms whose events are dispatched on a node.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};

use super::StoreError;

/// A room of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Room {
    /// The namespace, one of the server's.
    pub namespace: &'static str,
    /// The room.
    pub room: Arc<str>,
}

/// The part of a store that knows the rooms of a node. A store of one node dispatches all events, and has nothing to do.
pub trait RoomInterest: Debug + Send + Sync {
    /// Whether other nodes use the store at the same time. If so, only the events of entered rooms are dispatched here.
    fn has_other_nodes(&self) -> bool {
        false
    }

    /// Whether the node is known to hear everything. If not, it must not admit users: their tokens may be revoked.
    fn is_current(&self) -> bool {
        true
    }

    /// Has the events of these rooms dispatched here: all that are published after the answer, until
    /// [`leave`](Self::leave). Each event of any kind that was published before was dispatched before the answer, or is not
    /// for this node. A room that was entered already stays entered.
    fn enter(&self, _rooms: Vec<Room>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(ready(Ok(())))
    }

    /// Ends the dispatch of a room's events here, sooner or later.
    fn leave(&self, _room: Room) {}
}
