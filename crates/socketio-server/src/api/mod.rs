//! The interface for applications.

pub(crate) mod broadcast;
pub(crate) mod event;
pub(crate) mod handle;
pub(crate) mod namespace;
pub(crate) mod raw;
pub(crate) mod socket;
