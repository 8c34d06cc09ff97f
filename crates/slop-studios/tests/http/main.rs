//! The built binary, driven over HTTP by publishers and over WebSocket by clients.

mod api;
mod client;
mod contract;
mod disk;
mod faults;
mod hostile;
mod identity;
mod inbox;
mod issuer;
mod lifecycle;
mod limits;
mod line;
mod media;
mod policy;
mod policy_model;
mod problems;
mod publishers;
mod publishing;
mod reload;
mod revocation;
mod rotation;
mod secrets;
mod security_headers;
mod server;
mod store;
mod tls;
