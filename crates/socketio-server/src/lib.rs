//! A Socket.IO 5 / Engine.IO 4 server engine.
//!
//! It has no concept of users or products: an application describes its [`Namespace`]s as static tables of handlers and
//! gives them to a [`Server`].
//!
//! # How data flows
//!
//! **In:** the acceptor hands each TCP connection to a *shard*, a thread with its own single-threaded runtime. There
//! [`http`](self) reads each request. Requests for the engine's path go to the engine, all others to the fallback
//! service. A long-polling request finds its session by the session id, on any shard. A WebSocket upgrade leaves HTTP
//! behind and keeps only the TCP socket. Engine.IO packets become Socket.IO packets. These reach the namespace's
//! handler table, in order for each socket. The server does not read from a client that sends faster than its handlers
//! run, or that does not read its frames.
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
//! | file | content |
//! |---|---|
//! | `config` | settings and limits, with the reason for each default |
//! | `admission`, `address`, `rate` | admission, rates and quotas of clients, and evictions to make room for others |
//! | `turns` | the order of work on a shard |
//! | `held` | the accounts of the resources that peers hold on a shard |
//! | `limit`, `refusal` | the limits for peers, and the other reasons for refusals, for answers, logs and metrics |
//! | `server` | builder, acceptor, drain |
//! | `shard`, `timers` | one thread's state, its mailbox and its loops; its deadlines in one heap |
//! | `http` | routes requests to the transports or the fallback; CORS |
//! | `origin` | the web origins that may use the server |
//! | `handshake` | the request that opens a connection |
//! | `system` | functions that only Linux has |
//! | `tls` | the certificate, which can be replaced, and the handshake |
//! | `transport` | long-polling, WebSocket, and the upgrade from one to the other, on plain TCP or TLS |
//! | `connection` | an Engine.IO connection: packets in and out, heartbeat, connecting, resuming, closing; its limits |
//! | `identifier` | unguessable ids of sessions and sockets |
//! | `reason`, `metrics` | the reasons for disconnections, and the counters of each shard |
//! | `outbox`, `frame` | the frames that wait to be written, and how a frame is encoded once |
//! | `namespace`, `socket`, `event` | the interface for applications |
//! | `raw` | Engine.IO without Socket.IO, on a separate path |
//! | `rooms`, `broadcast`, `fanout` | rooms, and the delivery of broadcasts to their receivers |
//! | `recovery` | the sessions and the missed events of returning clients |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod address;
mod admission;
mod broadcast;
mod config;
mod connection;
mod event;
mod fanout;
mod frame;
mod handshake;
mod held;
mod http;
mod identifier;
mod limit;
mod metrics;
mod namespace;
mod origin;
mod outbox;
mod rate;
mod raw;
mod reason;
mod recovery;
mod refusal;
mod rooms;
mod server;
mod shard;
mod socket;
mod system;
mod timers;
mod tls;
mod transport;
mod turns;

pub use address::TrustedProxies;
pub use admission::{BodyPermit, HttpConnection};
pub use broadcast::{Broadcast, Delivery, Handle};
pub use config::{Config, MAX_LEAVING};
pub use event::{Ack, AckError, AckReply, EncodeError, Event, EventArgs, OwnedEvent};
pub use handshake::Handshake;
pub use limit::Limit;
pub use metrics::MetricsSnapshot;
pub use namespace::{ConnectError, Namespace};
pub use origin::{Origins, WebOrigin, WrongOrigin};
pub use raw::{RawEndpoint, RawMessage, RawSocket};
pub use reason::DisconnectReason;
pub use recovery::{Before, MissedEvent, Recalled, Recovery, RecoveryFailure, SavedSession, SessionKeeper};
pub use refusal::{Refusal, RefusedClient};
pub use rooms::JoinError;
pub use server::{Drained, Server, ServerBuilder};
pub use socket::{Socket, SocketRef};
pub use tls::Tls;
/// The crates whose types are in this crate's API: attachments, requests (`hyper::http`) and their bodies, JSON,
/// services, and the arguments of [`Tls`].
pub use {bytes, hyper, serde_json, tokio_rustls::rustls, tower_service};
