//! The contract's names: the permitted events of clients and publishers, and their words. All other modules build on
//! this module, and it uses none of them.

pub mod auth_error;
pub mod delivery;
pub mod events;
pub mod kind;
pub mod namespaces;
pub mod rooms;
pub mod time;
