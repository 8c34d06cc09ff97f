//! The real-time server of Slop Studios 3: what the contract's events mean, on top of the engine `socketio-server`.
//!
//! **Start:** `main` → [`cli`] parses → `commands` → [`config`] settles the settings → `serve`, the composition root,
//! which alone knows all concrete types.
//!
//! **In:** a client's event → the engine → the handler of its namespace → [`identity`] and the room [`policy`] decide →
//! the reply, in order, into the connection's outbox.
//!
//! **Out:** a publisher's request → `http` → [`publishers`] say whose it is → `publish`, the one executor: validate, authorise, commit to the `store` →
//! the engine, which encodes once and queues for each member → a receipt.
//!
//! **Meanwhile:** SIGHUP → `reload` reads the settings again and puts what can change in force, or nothing.
//!
//! **Around it:** [`defaults`] holds every setting's default with its reason, [`limits`] what no setting changes;
//! [`logging`] is the one log, [`metrics`] every number.

#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod cli;
pub mod clock;
mod commands;
pub mod config;
mod data_dir;
pub mod defaults;
mod dispatch;
pub mod events;
mod http;
pub mod identity;
mod in_force;
mod inbox;
pub mod limits;
pub mod logging;
mod media;
mod memory;
pub mod metrics;
mod namespaces;
mod open_files;
mod owners;
pub mod policy;
pub mod publish;
pub mod publishers;
mod recovery;
mod reload;
mod revoke;
pub mod rooms;
pub mod serve;
mod session;
pub mod store;
mod tls;
mod user_rate;
mod watchdog;
