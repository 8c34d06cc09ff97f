//! A Socket.IO 5 / Engine.IO 4 server engine.
//!
//! It knows nothing of users or products: an application describes its [`Namespace`]s as static tables of
//! handlers and gives them to a [`Server`].
//!
//! # How data flows
//!
//! **In:** the acceptor hands each TCP connection to a *shard*, a thread with a single-threaded runtime of its own.
//! There [`http`](self) reads the request: the engine's path is the engine's, all else is the fallback service's.
//! Long-polling requests find their session by its id, wherever it lives; a WebSocket upgrade leaves HTTP behind and
//! keeps only the socket. Engine.IO packets become Socket.IO packets, and those reach the namespace's handler table,
//! in order for each socket. A client that sends faster than its handlers run, or that does not read what it is sent,
//! is simply not read from.
//!
//! **Out:** an event is encoded once into a *frame*, whatever the number of its receivers. A broadcast is one message
//! to each shard; there it is written straight to the members of its room, together with those that came meanwhile.
//! Where something waits already, the connection's outbox takes a reference, and a flush pass turns everything that
//! came together for a connection into one vectored write.
//!
//! **Back:** with [recovery](Config::recovery), broadcasts are numbered and remembered, and so is what was emitted to one
//! socket until it is known to have arrived. A client that lost its connection comes back with the number of its last
//! event, gets its session, and what it missed.
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
//! | file | what it is |
//! |---|---|
//! | `config` | settings and limits, with the reason for each default |
//! | `admission`, `address`, `rate` | who is let in, how much of each client, and who makes room for others |
//! | `turns` | whose turn it is at a shard's time |
//! | `held` | the account of what peers make a shard hold |
//! | `limit`, `refusal` | the limits that a peer may meet, and why else it is turned away, for answers, logs and metrics |
//! | `server` | builder, acceptor, drain |
//! | `shard`, `timers` | one thread's state: connections, mailbox, flush pass; its deadlines in one heap |
//! | `http` | routes requests to the transports or the fallback; CORS |
//! | `origin` | which pages may use the server |
//! | `handshake` | the request that opens a connection |
//! | `system` | what only Linux has |
//! | `tls` | the certificate, which can be replaced, and the handshake |
//! | `transport` | long-polling, WebSocket, and the change from one to the other, on plain TCP or TLS |
//! | `connection` | an Engine.IO connection: packets in and out, heartbeat, connecting, closing; what it may take |
//! | `identifier` | ids of sessions and sockets, which nobody can guess |
//! | `reason`, `metrics` | why a socket was disconnected, and what each shard counts |
//! | `outbox`, `frame` | what waits to be written, and how it is encoded once |
//! | `namespace`, `socket`, `event` | what an application sees |
//! | `raw` | Engine.IO alone, on a path of its own |
//! | `rooms`, `broadcast`, `fanout` | who gets what |
//! | `recovery` | what a client that was away gets when it comes back |
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
/// The crates whose types are in this one's API: attachments, requests (`hyper::http`) and their bodies, JSON, services, and what
/// [`Tls`] takes.
pub use {bytes, hyper, serde_json, tokio_rustls::rustls, tower_service};
