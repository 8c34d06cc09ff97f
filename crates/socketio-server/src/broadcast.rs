//! The server's handle for any thread, and broadcasts.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use serde::Serialize;
use smallvec::SmallVec;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use crate::{
    EncodeError, EventArgs, MetricsSnapshot, Socket, SocketRef,
    admission::Admission,
    event::check_name,
    frame::{Encoding, Frame, Frames},
    identifier::{Id, SocketIds},
    metrics::ShardMetrics,
    recovery::{Audience, Memory, Offset},
    shard::Command,
};

/// The state of the server that all threads share.
pub(crate) struct Node {
    pub(crate) mailboxes: Vec<UnboundedSender<Command>>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) namespaces: OnceLock<HashMap<&'static str, u16>>,
    pub(crate) socket_ids: OnceLock<SocketIds>,
    pub(crate) accepting: AtomicBool,
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

    /// Whether a name is the id of a present or past socket of this server.
    #[must_use]
    pub fn is_socket_id(&self, name: &str) -> bool {
        self.0.socket_ids.get().is_some_and(|ids| ids.is_socket_id(name))
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

    fn namespace(&self, name: &str) -> Option<u16> {
        self.0.namespaces.get()?.get(name).copied()
    }
}

type Names = SmallVec<[Box<str>; 2]>;

/// An event for many sockets: choose the receivers, then call [`Broadcast::emit`]. Each socket gets the event once,
/// however many of the rooms it is in.
#[must_use = "a broadcast is sent by `emit`"]
pub struct Broadcast {
    handle: Handle,
    namespace: Box<str>,
    rooms: Names,
    except: Names,
    except_socket: Option<Excepted>,
    volatile: bool,
    offset: Option<u64>,
    latest: Option<Box<str>>,
}

/// The socket that a broadcast leaves out, by reference and by id.
#[derive(Clone, Copy)]
struct Excepted {
    reference: SocketRef,
    id: Id,
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("namespace", &self.namespace)
            .field("rooms", &self.rooms)
            .finish_non_exhaustive()
    }
}

impl Broadcast {
    fn new(handle: &Handle, namespace: &str) -> Self {
        Self {
            handle: handle.clone(),
            namespace: namespace.into(),
            rooms: Names::new(),
            except: Names::new(),
            except_socket: None,
            volatile: false,
            offset: None,
            latest: None,
        }
    }

    pub(crate) fn from_socket(socket: &Socket) -> Self {
        let mut broadcast = Self::new(socket.handle(), socket.namespace());
        broadcast.except_socket = Some(Excepted { reference: socket.reference(), id: socket.inner().id });
        broadcast
    }

    /// Adds a room.
    pub fn room(mut self, room: &str) -> Self {
        self.rooms.push(room.into());
        self
    }

    /// Leaves out the sockets in a room.
    pub fn except(mut self, room: &str) -> Self {
        self.except.push(room.into());
        self
    }

    /// Leaves out the sockets that are not ready to take the event at once.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Sets the event's offset for [recovery](crate::Config::recovery), instead of the next one. It must be higher than
    /// the offsets of all earlier broadcasts. Without recovery, and for a volatile event, it is ignored.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Marks the event as replaceable: a client that is slow or was away needs only the newest event with this key.
    pub fn latest(mut self, key: &str) -> Self {
        self.latest = Some(key.into());
        self
    }

    /// Sends an event with one argument. It is encoded once, here.
    ///
    /// # Errors
    /// If the payload has no JSON form, the name is reserved by Socket.IO, the namespace is not known, or the offset is
    /// not above the last one.
    pub fn emit(self, event: &str, payload: &impl Serialize) -> Result<Delivery, EncodeError> {
        self.emit_args(event, &EventArgs::new(payload)?)
    }

    /// Sends an event with any arguments.
    ///
    /// # Errors
    /// If the name is reserved by Socket.IO, the namespace is not known, or the offset is not above the last one.
    pub fn emit_args(self, event: &str, args: &EventArgs) -> Result<Delivery, EncodeError> {
        check_name(event)?;
        let (done, receiver) = oneshot::channel();
        let delivery = Delivery(receiver);
        let Some(namespace) = self.handle.namespace(&self.namespace) else {
            return Err(EncodeError::UnknownNamespace(self.namespace.into()));
        };
        let node = &self.handle.0;
        // The lock is held until every mailbox has the broadcast, so that the offsets are in order there.
        let recovery = node.recovery.get();
        let mut history = recovery.map(Memory::history);
        let offset = match (history.as_mut(), self.volatile) {
            (None, _) => None,
            // It is not sent again, and its receivers have everything that came before.
            (Some(history), true) => Some(history.last()),
            (Some(history), false) => {
                let past = |last| EncodeError::PastOffset { offset: self.offset.unwrap_or_default(), last };
                Some(history.next(self.offset).map_err(past)?)
            }
        };
        let told = offset.filter(|_| recovery.is_some_and(Memory::is_on)).map(Offset::of_broadcast);
        let mut frames = args.event_frames(&self.namespace, None, event, told)?;
        frames.iter_mut().for_each(Frame::share);
        if let (Some(key), [frame]) = (&self.latest, frames.as_mut_slice()) {
            frame.set_latest(latest_number(node, namespace, key));
        }
        if let (Some(history), Some(_), false) = (history.as_mut(), told, self.volatile) {
            let except_socket = self.except_socket.map(|socket| socket.id);
            let audience = Audience { namespace, rooms: &self.rooms, except: &self.except, except_socket };
            history.push(&audience, self.latest.as_deref(), frames.clone());
        }
        let mailboxes = &node.mailboxes;
        let job = Arc::new(Job {
            namespace,
            rooms: self.rooms,
            except: self.except,
            except_socket: self.except_socket.map(|socket| socket.reference),
            volatile: self.volatile,
            offset: offset.unwrap_or_default(),
            told: told.is_some(),
            frames,
            sockets: AtomicU64::new(0),
            shards_left: AtomicUsize::new(mailboxes.len()),
            done: Mutex::new(Some(done)),
        });
        node.packets_encoded.fetch_add(1, Ordering::Relaxed);
        for mailbox in mailboxes {
            if mailbox.send(Command::Broadcast(job.clone())).is_err() {
                job.finish(0);
            }
        }
        Ok(delivery)
    }
}

/// The number of a key in one namespace. Two keys share a number once in 2^64 cases.
fn latest_number(node: &Node, namespace: u16, key: &str) -> NonZeroU64 {
    NonZeroU64::new(node.latest_keys.hash_one((namespace, key))).unwrap_or(NonZeroU64::MIN)
}

/// A broadcast on its way to the shards.
pub(crate) struct Job {
    pub(crate) namespace: u16,
    /// Empty for all sockets of the namespace.
    pub(crate) rooms: Names,
    pub(crate) except: Names,
    pub(crate) except_socket: Option<SocketRef>,
    pub(crate) volatile: bool,
    /// The broadcast's offset, or the offset of the one before if it is volatile; 0 without recovery.
    pub(crate) offset: u64,
    /// Whether the frames carry the offset as the last argument.
    told: bool,
    /// More than one if there are binary attachments.
    pub(crate) frames: Frames,
    sockets: AtomicU64,
    shards_left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<u64>>>,
}

impl Job {
    /// Whether the receivers are the members of one room, and each of them gets it exactly once.
    pub(crate) fn is_for_one_room(&self, handle: &Handle) -> bool {
        self.rooms.len() == 1
            && self.except.is_empty()
            && self.except_socket.is_none()
            && !self.volatile
            && !handle.is_socket_id(self.room())
    }

    /// The name of the first room; empty if there is none.
    pub(crate) fn room(&self) -> &str {
        self.rooms.first().map_or("", |room| room)
    }

    /// Whether the other broadcast has the same receivers.
    pub(crate) fn has_receivers_of(&self, other: &Self) -> bool {
        (self.namespace, &self.rooms, &self.except, self.except_socket, self.volatile)
            == (other.namespace, &other.rooms, &other.except, other.except_socket, other.volatile)
    }

    /// The frames in an encoding.
    pub(crate) fn frames_in(&self, encoding: Encoding) -> Frames {
        let mut frames = self.frames.clone();
        if let (Encoding::Plain, true, Some(text)) = (encoding, self.told, frames.first_mut()) {
            *text = text.without_tail(Offset::of_broadcast(self.offset).argument().len());
        }
        frames
    }

    /// Records that a shard has queued it for `sockets` of its sockets.
    pub(crate) fn finish(&self, sockets: u64) {
        self.sockets.fetch_add(sockets, Ordering::Relaxed);
        if self.shards_left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = done.send(self.sockets.load(Ordering::Relaxed));
        }
    }
}

/// A future of the number of this node's sockets that a broadcast was queued for. It resolves once the broadcast is
/// queued for all of them. It may be dropped.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<u64>);

impl Future for Delivery {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        // There is no answer if the server has stopped, or knows no such namespace.
        Pin::new(&mut self.0).poll(cx).map(Result::unwrap_or_default)
    }
}
