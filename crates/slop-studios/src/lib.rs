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
//!
//! | file | what it is |
//! |---|---|
//! | `main`, `cli`, `commands` | the command line; a file for each command |
//! | `config`, `defaults`, `limits` | the settings, and what no setting changes |
//! | `serve` | the composition root: makes the parts, joins them, ends them in order |
//! | `reload`, `in_force` | what SIGHUP changes, and what can be replaced while others use it |
//! | `namespaces`, `media` | the contract's namespaces as tables of handlers; media subscriptions |
//! | `events`, `rooms`, `clock` | the contract's payloads, names and forms of time |
//! | `identity`, `revoke` | who bears a token; ending tokens |
//! | `session`, `policy`, `owners` | who a socket is, where it may be, and owners that became known a short while ago |
//! | `user_rate` | how fast a user may send events, over all connections |
//! | `http` | all that is not Socket.IO: the publish API, health, metrics, the API's description, the browser's client |
//! | `publishers`, `publish` | who may publish what; the one executor of every publish |
//! | `store`, `data_dir` | what the server remembers, and the folder for it |
//! | `dispatch` | from a committed change to the sockets that are to get it |
//! | `inbox`, `recovery` | notifications that nobody has received yet; sessions that outlive the process |
//! | `watchdog` | ends media items without news |
//! | `listener` | the address that connections are taken at |
//! | `tls`, `open_files`, `memory` | the certificate, the limit of open files, memory given back after a crowd |
//! | `system` | what only Linux has |
//! | `nearest_path` | the file that was likely meant |
//! | `logging`, `metrics`, `process` | the log, the numbers, and what the system counts of the process |
//! | `refusals` | what was turned away, told to the operator without a flood |
//! | `nearest` | the known name that a misspelt one stands for |

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
mod listener;
pub mod logging;
mod media;
mod memory;
pub mod metrics;
mod namespaces;
mod nearest;
mod nearest_path;
mod open_files;
mod owners;
pub mod policy;
mod process;
pub mod publish;
pub mod publishers;
mod recovery;
mod refusals;
mod reload;
mod revoke;
pub mod rooms;
pub mod serve;
mod session;
pub mod store;
mod system;
mod tls;
mod user_rate;
mod watchdog;
