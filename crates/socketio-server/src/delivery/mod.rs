//! What is delivered: packets that are encoded once, those that wait for a client, and broadcasts on their way.

pub(crate) mod frame;
pub(crate) mod job;
pub(crate) mod outbox;
