//! A Socket.IO 5 / Engine.IO 4 server engine.
//!
//! It has no concept of users or products: an application describes its [`Namespace`]s as static tables of handlers and
//! gives them to a [`Server`].
//!
//! # How data flows
//!
//! **In:** the acceptor hands each TCP connection to a *shard*, a thread with its own single-threaded runtime. There
//! [`http`](self) reads each request. Requests for the engine's path go to the engine, all others to the fallback
//! service. A long-polling request finds its session by the session id, on any shard, and on any node of a cluster. A
//! WebSocket upgrade leaves HTTP behind and keeps only the TCP socket. Engine.IO packets become Socket.IO packets.
//! These reach the namespace's handler table, in order for each socket. The server does not read from a client that
//! sends faster than its handlers run, or that does not read its frames.
//!
//! **Out:** an event is encoded once into a *frame*, whatever the number of its receivers. A broadcast is one message
//! to each shard. The shard writes it straight to the members of its room, together with the broadcasts that arrived
//! meanwhile. If a connection already has pending frames, its outbox takes a reference to the frame. A flush pass then
//! turns all pending frames of a connection into one vectored write.
//!
//! **Back:** with [recovery](Config::recovery), broadcasts are numbered and remembered. Events emitted to one socket
//! are remembered too, until their arrival is confirmed. A client that lost its connection comes back with the offset
//! of its last event. It gets its session back, and the missed events.
//!
//! # Example
//!
//! ```no_run
//! use socketio_server::{Config, Namespace, Server};
//!
//! # fn main() -> std::io::Result<()> {
//! let chat = Namespace::new("/")
//!     .on_connect(|socket| {
//!         let _ = socket.join("lobby");
//!     })
//!     .on("say", |socket, event| {
//!         let Some(text) = event.parse::<String>(0) else { return };
//!         let _ = socket.to("lobby").emit("said", &text);
//!         event.ack(&true);
//!     });
//! let listener = std::net::TcpListener::bind("127.0.0.1:3000")?;
//! let server = Server::builder(Config::default()).namespace(chat).start(listener)?;
//! server.wait();
//! # Ok(())
//! # }
//! ```
//!
//! # The modules
//!
//! | module | content |
//! |---|---|
//! | `server` | builder, acceptor, drain |
//! | `http` | the TLS handshake; requests: the engine's paths, the fallback, CORS, upgrades; the request that opens a connection |
//! | `transport` | bytes in: long-polling, WebSocket, and the upgrade from one to the other |
//! | `connection` | an Engine.IO connection: packets in and out, heartbeat, connecting, resuming, closing; its limits |
//! | `api` | the interface for applications: namespaces, sockets, events, broadcasts; Engine.IO without Socket.IO |
//! | `shard` | one thread's state: its loops, its mailbox, its order of work, timers, rooms, fan-out, and the accounts of what peers hold |
//! | `writer` | bytes out: what a connection writes over its transport |
//! | `stream` | a TCP connection, plain or with TLS |
//! | `recovery` | the sessions and the missed events of returning clients |
//! | `delivery` | a packet that is encoded once, the packets that wait for a client, a broadcast on its way to the shards |
//! | `admission`, `address`, `rate` | admission, rates and quotas of clients, and evictions to make room for others |
//! | `cluster` | the other nodes of a cluster; `http` forwards the requests of their sessions |
//! | `tls` | the certificate, which can be replaced |
//! | `config` | settings and limits, with the reason for each default |
//! | `identifier` | unguessable ids of sessions and sockets, their names within the process, and positions in the order of broadcasts |
//! | `origin` | the web origins of pages |
//! | `limit`, `refusal`, `engine_error` | the limits for peers, the other reasons for refusals, and the errors of requests, for answers, logs and metrics |
//! | `reason`, `metrics` | the reasons for disconnections and failed recoveries, and the counters of each shard |
//! | `system` | functions that only Linux has |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod address;
mod admission;
mod api;
mod cluster;
mod config;
mod connection;
mod delivery;
mod engine_error;
mod http;
mod identifier;
mod limit;
mod metrics;
mod origin;
mod rate;
mod reason;
mod recovery;
mod refusal;
mod server;
mod shard;
mod stream;
mod system;
mod tls;
mod transport;
mod writer;

pub use address::TrustedProxies;
pub use admission::{BodyPermit, HttpConnection};
pub use api::broadcast::{Broadcast, Delivery};
pub use api::event::{Ack, AckError, AckReply, EncodeError, Event, EventArgs, OwnedEvent};
pub use api::handle::Handle;
pub use api::namespace::{ConnectError, Namespace};
pub use api::raw::{RawEndpoint, RawMessage, RawSocket};
pub use api::socket::{Forgotten, Remembered, Socket};
pub use cluster::Cluster;
pub use config::{Config, MAX_LEAVING, Recovery, SAVE_PATIENCE};
pub use http::handshake::Handshake;
pub use identifier::{NodeTag, Position, SocketRef};
pub use limit::Limit;
pub use metrics::MetricsSnapshot;
pub use origin::{Origins, WebOrigin, WrongOrigin};
pub use reason::{DisconnectReason, RecoveryFailure};
pub use recovery::keeper::{
    Before, Claimed, Missed, MissedEvent, NotRecalled, Recalled, SavedSession, Saving, SessionKeeper,
};
pub use refusal::{Refusal, RefusedClient};
pub use server::{Drained, Server, ServerBuilder};
pub use shard::rooms::{JoinError, RoomObserver};
pub use tls::Tls;
/// The crates whose types are in this crate's API: attachments, requests (`hyper::http`) and their bodies, JSON,
/// services, and the arguments of [`Tls`].
pub use {bytes, hyper, serde_json, tokio_rustls::rustls, tower_service};
