//! The built binary, driven over HTTP by publishers and over WebSocket by clients.

mod api;
mod client;
mod contract;
mod lifecycle;
mod media;
mod problems;
mod publishing;
mod secrets;
mod security_headers;
mod server;
mod store;
mod tls;
