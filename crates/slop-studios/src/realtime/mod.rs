//! The client side: the handlers of the namespaces, the identity and the memberships of a socket, and its events.

pub(crate) mod dispatch;
pub(crate) mod inbox;
pub(crate) mod interest;
pub(crate) mod namespaces;
pub(crate) mod owners;
pub(crate) mod revoke;
pub(crate) mod saved_sessions;
pub(crate) mod secrets;
pub(crate) mod session;
mod subscriptions;
pub(crate) mod user_rate;
