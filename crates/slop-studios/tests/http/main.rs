//! The built binary, driven over HTTP by publishers and over WebSocket by clients.

mod api;
mod behind_a_proxy;
mod client;
mod client_files;
mod comebacks;
mod contract;
mod disk;
mod exchanges;
mod faults;
mod hostile;
mod identity;
mod inbox;
mod issuer;
mod lifecycle;
mod limits;
mod line;
mod media;
mod places;
mod policy;
mod policy_model;
mod problems;
mod publishers;
mod publishing;
#[path = "../common/redis.rs"]
mod redis_server;
mod refusals;
mod reload;
mod revocation;
mod rotation;
mod scrape;
mod secrets;
mod security_headers;
mod server;
mod store;
mod tls;
