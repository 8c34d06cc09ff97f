//! The real-time server of Slop Studios 3: the meaning of the contract's events, on top of the engine
//! `socketio-server`.
//!
//! **Start:** `main` → [`commands`] parses the command line → [`config`] resolves the settings → [`server`], the
//! composition root, the only module that knows all concrete types.
//!
//! **In:** a client's event → the engine → `realtime`, the handler of its namespace → [`identity`] and [`policy`]
//! decide → the reply, in order, into the connection's outbox.
//!
//! **Out:** a publisher's request → `http` → [`publish`], the one executor: authenticate, validate, authorise, commit
//! to the [`store`] → `realtime::dispatch` → the engine, which encodes once and queues for each member → a receipt.
//!
//! **Meanwhile:** SIGHUP → `server::reload` reads the settings again and puts all changeable settings in force, or
//! none.
//!
//! The modules form one column. Each module imports only modules below it (`bench/house` checks it):
//!
//! | module | what it is |
//! |---|---|
//! | [`commands`] | the command line; a file for each command |
//! | [`server`] | the composition root: creates, connects and ends the parts in order; listening, reload, the log, memory, open files |
//! | `http` | everything but Socket.IO: the publish API, health, metrics, the API's description, the browser's client |
//! | `realtime` | the client side: the handlers of the namespaces, sessions, subscriptions, the inbox, dispatch, session persistence, revocations |
//! | [`config`] | the settings, their defaults, and the files that they name |
//! | [`emitters`] | other programs that publish over Redis, with Socket.IO's own emitters |
//! | [`publish`] | the one executor of every publish: bodies, publishers and their scopes, the watchdog of silent media items |
//! | [`policy`] | access to rooms and media items |
//! | `refusals` | refusals, reported to the operator without a flood |
//! | [`identity`] | the bearers of tokens, and the claims that rules name |
//! | [`store`] | the persistent data, and its folder |
//! | [`metrics`] | the metrics |
//! | [`contract`] | the base: events, namespaces, names, kinds, errors and times of the contract |
//! | `text`, `hot_swap`, `system`, [`limits`] | foreign texts in messages; hot-swappable values; Linux-only functions; numbers that no setting changes |

#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod commands;
pub mod config;
pub mod contract;
pub mod emitters;
mod hot_swap;
mod http;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod policy;
pub mod publish;
mod realtime;
mod refusals;
pub mod server;
pub mod store;
mod system;
mod text;
