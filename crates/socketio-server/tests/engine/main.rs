//! The engine as its clients see it: a real server on a loopback port, raw HTTP and raw WebSocket frames against it.
//!
//! The cases of the official Engine.IO 4 and Socket.IO 5 suites are all here, in our own words; what those suites leave
//! out (loss, order, limits, hostile bytes, ends) is what most of this is about.

#[macro_use]
mod harness;
mod client;

mod acks;
mod backpressure;
mod clients;
mod cluster;
mod drain;
mod events;
mod handlers;
mod handshake;
mod heartbeat;
mod held;
mod hostile;
mod limits;
mod namespaces;
mod panics;
mod polling;
mod recovery;
mod requests;
mod rooms_and_broadcasts;
mod setup;
mod timers;
mod tls;
mod turns;
mod upgrade;
mod websocket;
