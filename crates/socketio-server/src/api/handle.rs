//! The server's handle for any thread.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU64,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc::UnboundedSender;

use super::{broadcast::Broadcast, socket::Socket};
use crate::{
    MetricsSnapshot,
    admission::Admission,
    identifier::{IdKey, NodeTag, Position, SocketRef},
    metrics::ShardMetrics,
    recovery::Memory,
    shard::Command,
};

/// The state of the server that all threads share.
pub(crate) struct Node {
    pub(crate) mailboxes: Vec<UnboundedSender<Command>>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) namespaces: OnceLock<HashMap<&'static str, u16>>,
    pub(crate) id_key: OnceLock<IdKey>,
    pub(crate) accepting: AtomicBool,
    pub(crate) shards_running: AtomicUsize,
    /// Hashes the keys of [`Broadcast::latest`] to numbers.
    pub(crate) latest_keys: RandomState,
    pub(crate) recovery: OnceLock<Memory>,
    pub(crate) admission: Arc<Admission>,
    /// Whether a peer that is no trusted proxy has sent a proxy's header.
    pub(crate) untrusted_proxy: AtomicBool,
    /// Broadcasts encoded.
    pub(crate) packets_encoded: AtomicU64,
}

/// A handle to the server for any thread: for broadcasts, and for work on sockets of any shard.
///
/// Each shard carries out the requests of one thread in the order in which the thread made them.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Node>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("shards", &self.0.mailboxes.len()).finish_non_exhaustive()
    }
}

impl Handle {
    /// A broadcast to the sockets in a room of a namespace. A socket's id is a room too.
    pub fn to(&self, namespace: &str, room: &str) -> Broadcast {
        Broadcast::new(self, namespace).room(room)
    }

    /// A broadcast to every socket of a namespace.
    pub fn broadcast(&self, namespace: &str) -> Broadcast {
        Broadcast::new(self, namespace)
    }

    /// Reports that the order of broadcasts, which other servers share, has come to `position`: all broadcasts up to it
    /// that are for sockets of this server were made. A socket that joins a room afterwards gets later broadcasts only.
    /// A lower position than before changes nothing.
    pub fn advance(&self, position: Position) {
        let Some(mut history) = self.recovery().map(Memory::history) else { return };
        if history.advance(position) {
            for mailbox in &self.0.mailboxes {
                let _ = mailbox.send(Command::Advance(position));
            }
        }
    }

    /// Closes all connections, in a way that makes stock clients reconnect by themselves. A shard does so before it
    /// carries out later requests.
    pub fn close_all(&self) {
        let _order = self.recovery().map(Memory::history);
        for mailbox in &self.0.mailboxes {
            let _ = mailbox.send(Command::CloseAll);
        }
    }

    /// Runs `f` on the socket's shard, in order with the broadcasts. `f` gets `None` if the socket is gone. If the
    /// server has stopped, `f` is dropped.
    pub fn with_socket(&self, socket: SocketRef, f: impl FnOnce(Option<&Socket>) + Send + 'static) {
        if let Some(mailbox) = self.0.mailboxes.get(usize::from(socket.shard)) {
            let _ = mailbox.send(Command::WithSocket(socket, Box::new(f)));
        }
    }

    /// Runs `f` for each socket in a room of a namespace, on the sockets' shards and in order with the broadcasts.
    pub fn for_each_in_room(&self, namespace: &str, room: &str, f: impl Fn(&Socket) + Send + Sync + 'static) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let room: Arc<str> = room.into();
        let f: Arc<dyn Fn(&Socket) + Send + Sync> = Arc::new(f);
        let _order = self.recovery().map(Memory::history);
        for mailbox in &self.0.mailboxes {
            let _ = mailbox.send(Command::EachInRoom { namespace, room: room.clone(), f: f.clone() });
        }
    }

    /// Runs `f` once for each socket that is in a room selected by `rooms`, on the sockets' shards and in order with
    /// the broadcasts.
    pub fn for_each_in_rooms(
        &self,
        namespace: &str,
        rooms: impl Fn(&str) -> bool + Send + Sync + 'static,
        f: impl Fn(&Socket) + Send + Sync + 'static,
    ) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let rooms: Arc<dyn Fn(&str) -> bool + Send + Sync> = Arc::new(rooms);
        let f: Arc<dyn Fn(&Socket) + Send + Sync> = Arc::new(f);
        let _order = self.recovery().map(Memory::history);
        for mailbox in &self.0.mailboxes {
            let _ = mailbox.send(Command::EachInRooms { namespace, rooms: rooms.clone(), f: f.clone() });
        }
    }

    /// Runs `f` for every socket of a namespace, on the sockets' shards and in order with the broadcasts.
    pub fn for_each(&self, namespace: &str, f: impl Fn(&Socket) + Send + Sync + 'static) {
        let Some(namespace) = self.namespace(namespace) else { return };
        let f: Arc<dyn Fn(&Socket) + Send + Sync> = Arc::new(f);
        let _order = self.recovery().map(Memory::history);
        for mailbox in &self.0.mailboxes {
            let _ = mailbox.send(Command::Each { namespace, f: f.clone() });
        }
    }

    /// Whether a name is the id of a present or past socket of this server, or of another node of its cluster.
    #[must_use]
    pub fn is_socket_id(&self, name: &str) -> bool {
        self.0.id_key.get().is_some_and(|ids| ids.is_socket_id(name))
    }

    /// The node that made the id of a present or past socket. `None` for other names, and without a
    /// [cluster](crate::ServerBuilder::cluster).
    #[must_use]
    pub fn node_of_socket_id(&self, name: &str) -> Option<NodeTag> {
        self.0.id_key.get()?.node_of_socket_id(name)
    }

    /// Whether the server accepts new connections. It stops when a shutdown begins.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.0.accepting.load(Ordering::Acquire)
    }

    /// A snapshot of the engine's metrics.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        let mut snapshot = MetricsSnapshot::sum(self.0.metrics.iter().map(AsRef::as_ref));
        snapshot.packets_encoded += self.0.packets_encoded.load(Ordering::Relaxed);
        let occupancy = self.0.admission.occupancy();
        (snapshot.streams, snapshot.handshakes) = (occupancy.streams as u64, occupancy.handshakes as u64);
        (snapshot.http_connections, snapshot.addresses) =
            (occupancy.http_connections as u64, occupancy.addresses as u64);
        if let Some(recovery) = self.recovery() {
            let (entries, bytes) = recovery.history().size();
            (snapshot.history_entries, snapshot.history_bytes) = (entries as u64, bytes as u64);
            snapshot.sessions_away = recovery.sessions().away() as u64;
        }
        snapshot
    }

    /// Whether this is the first time that a peer which is no trusted proxy sends a proxy's header.
    pub(crate) fn is_first_untrusted_proxy(&self) -> bool {
        !self.0.untrusted_proxy.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn recovery(&self) -> Option<&Memory> {
        self.0.recovery.get()
    }

    pub(super) fn namespace(&self, name: &str) -> Option<u16> {
        self.0.namespaces.get()?.get(name).copied()
    }

    /// The name of a namespace; empty if there is none with this index.
    pub(crate) fn namespace_name(&self, index: u16) -> &'static str {
        let names = self.0.namespaces.get();
        names.and_then(|names| names.iter().find(|(_, known)| **known == index)).map_or("", |(name, _)| name)
    }

    /// The number of a key in one namespace. Two keys share a number once in 2^64 cases.
    pub(super) fn latest_number(&self, namespace: u16, key: &str) -> NonZeroU64 {
        NonZeroU64::new(self.0.latest_keys.hash_one((namespace, key))).unwrap_or(NonZeroU64::MIN)
    }
}
