//! The built binary, driven over HTTP by publishers and over WebSocket by clients.

mod api;
mod client;
mod contract;
mod hostile;
mod lifecycle;
mod limits;
mod media;
mod problems;
mod publishing;
mod server;
mod store;
