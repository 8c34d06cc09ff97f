//! The server's handle for any thread, and events to many sockets at once.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    num::NonZeroU64,
    pin::Pin,
    rc::Rc,
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
    frame::{Frame, Frames},
    identifier::{Id, SocketIds},
    metrics::ShardMetrics,
    recovery::{Audience, Memory, Offset},
    shard::{Command, Shard},
};

/// What every thread may know of the server.
pub(crate) struct Node {
    pub(crate) mailboxes: Vec<UnboundedSender<Command>>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    pub(crate) namespaces: OnceLock<HashMap<&'static str, u16>>,
    pub(crate) socket_ids: OnceLock<SocketIds>,
    pub(crate) accepting: AtomicBool,
    /// Numbers the keys of [`Broadcast::latest`].
    pub(crate) latest_keys: RandomState,
    pub(crate) recovery: OnceLock<Memory>,
    pub(crate) admission: Arc<Admission>,
    /// Somebody who is not a trusted proxy has sent the header of one.
    pub(crate) untrusted_proxy: AtomicBool,
    /// Broadcasts encoded outside of the shards.
    pub(crate) packets_encoded: AtomicU64,
}

/// The server, for any thread: broadcasts, and work on sockets wherever they live.
///
/// What one thread asks for is carried out by each shard in the order that it was asked for.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Node>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("shards", &self.0.mailboxes.len()).finish_non_exhaustive()
    }
}

impl Handle {
    /// A broadcast to the sockets in a room of a namespace; a socket's id is a room too.
    pub fn to(&self, namespace: &str, room: &str) -> Broadcast {
        Broadcast::new(self, namespace).room(room)
    }

    /// A broadcast to every socket of a namespace.
    pub fn broadcast(&self, namespace: &str) -> Broadcast {
        Broadcast::new(self, namespace)
    }

    /// Runs `f` on the socket's shard, in order with the broadcasts; with `None` if the socket is gone. If the server
    /// has stopped, `f` is dropped.
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

    /// Runs `f` once for each socket in a room that `rooms` names, on the sockets' shards and in order with the broadcasts.
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

    /// Whether a name is the id of a socket that this server has, or had.
    #[must_use]
    pub fn is_socket_id(&self, name: &str) -> bool {
        self.0.socket_ids.get().is_some_and(|ids| ids.is_socket_id(name))
    }

    /// Whether new connections are taken; no longer so once a shutdown began.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.0.accepting.load(Ordering::Acquire)
    }

    /// What the engine has counted.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        let mut snapshot = MetricsSnapshot::sum(self.0.metrics.iter().map(AsRef::as_ref));
        snapshot.packets_encoded += self.0.packets_encoded.load(Ordering::Relaxed);
        let crowd = self.0.admission.crowd();
        (snapshot.streams, snapshot.handshakes) = (crowd.streams as u64, crowd.handshakes as u64);
        (snapshot.http_connections, snapshot.addresses) = (crowd.http_connections as u64, crowd.addresses as u64);
        if let Some(recovery) = self.recovery() {
            let (entries, bytes) = recovery.history().size();
            (snapshot.history_entries, snapshot.history_bytes) = (entries as u64, bytes as u64);
            snapshot.sessions_away = recovery.sessions().away() as u64;
        }
        snapshot
    }

    /// Whether this is the first time that somebody who is not a trusted proxy sends the header of one.
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

/// An event on its way to many sockets: choose whom, then [`Broadcast::emit`]. Each socket gets it once, in however
/// many of the rooms it is.
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
    /// The shard of the handler that broadcasts: its own sockets get the event before what the handler emits next.
    local: Option<Rc<Shard>>,
}

/// The socket that a broadcast leaves out, by both its names.
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
            local: None,
        }
    }

    pub(crate) fn from_socket(socket: &Socket) -> Self {
        let mut broadcast = Self::new(socket.handle(), socket.namespace());
        broadcast.except_socket = Some(Excepted { reference: socket.reference(), id: socket.inner().id });
        // What is numbered comes to every shard in one order.
        broadcast.local = socket.handle().recovery().is_none().then(|| socket.inner().connection.shard.clone());
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

    /// Leaves out the sockets that are not ready to take it at once.
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Gives the event a number of the caller's choice for [recovery](crate::Config::recovery), instead of the next one. It must
    /// be higher than those of all earlier broadcasts; if it is not, the next one is taken.
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Says that of the events with this key, the newest is enough for a client that is slow or was away.
    pub fn latest(mut self, key: &str) -> Self {
        self.latest = Some(key.into());
        self
    }

    /// Sends an event with one argument. It is encoded once, here.
    ///
    /// # Errors
    /// If the payload has no JSON form, the name is one of Socket.IO's own, or the namespace is not known.
    pub fn emit(self, event: &str, payload: &impl Serialize) -> Result<Delivery, EncodeError> {
        self.emit_args(event, &EventArgs::new(payload)?)
    }

    /// Sends an event with any arguments.
    ///
    /// # Errors
    /// If the name is one of Socket.IO's own, or the namespace is not known.
    pub fn emit_args(self, event: &str, args: &EventArgs) -> Result<Delivery, EncodeError> {
        check_name(event)?;
        let (done, receiver) = oneshot::channel();
        let delivery = Delivery(receiver);
        let Some(namespace) = self.handle.namespace(&self.namespace) else {
            return Err(EncodeError::UnknownNamespace(self.namespace.into()));
        };
        let node = &self.handle.0;
        // Held until every mailbox has it: the numbers are in order there.
        let recovery = node.recovery.get();
        let mut history = recovery.map(Memory::history);
        let offset = history.as_mut().map(|history| match self.volatile {
            // It is not sent again, and who gets it has all that came before.
            true => history.last(),
            false => history.next(self.offset),
        });
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
        let local = self.local.as_ref().map(|shard| usize::from(shard.id));
        match &self.local {
            Some(shard) => {
                shard.metrics.packets_encoded.increment();
                shard.broadcast_now(job.clone());
            }
            None => {
                self.handle.0.packets_encoded.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (index, mailbox) in mailboxes.iter().enumerate() {
            if Some(index) != local && mailbox.send(Command::Broadcast(job.clone())).is_err() {
                job.finish(0);
            }
        }
        Ok(delivery)
    }
}

/// Stands for a key of one namespace. Two keys share a number in 2^64 cases once.
fn latest_number(node: &Node, namespace: u16, key: &str) -> NonZeroU64 {
    NonZeroU64::new(node.latest_keys.hash_one((namespace, key))).unwrap_or(NonZeroU64::MIN)
}

/// A broadcast on its way to the shards.
pub(crate) struct Job {
    pub(crate) namespace: u16,
    /// Everyone in the namespace, if empty.
    pub(crate) rooms: Names,
    pub(crate) except: Names,
    pub(crate) except_socket: Option<SocketRef>,
    pub(crate) volatile: bool,
    /// Its number, or that of the one before if it is volatile; 0 without recovery.
    pub(crate) offset: u64,
    /// The number is in the frames, as the last argument.
    told: bool,
    /// More than one if there are binary attachments.
    pub(crate) frames: Frames,
    sockets: AtomicU64,
    shards_left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<u64>>>,
}

impl Job {
    /// Whether it is for the members of one room, each of whom gets it once.
    pub(crate) fn is_for_one_room(&self, handle: &Handle) -> bool {
        self.rooms.len() == 1
            && self.except.is_empty()
            && self.except_socket.is_none()
            && !self.volatile
            && !handle.is_socket_id(self.room())
    }

    /// The first room, or none's name.
    pub(crate) fn room(&self) -> &str {
        self.rooms.first().map_or("", |room| room)
    }

    /// Whether the other goes to the same sockets.
    pub(crate) fn has_receivers_of(&self, other: &Self) -> bool {
        (self.namespace, &self.rooms, &self.except, self.except_socket, self.volatile)
            == (other.namespace, &other.rooms, &other.except, other.except_socket, other.volatile)
    }

    /// The frames for a client that does not take part in recovery.
    pub(crate) fn plain_frames(&self) -> Frames {
        let mut frames = self.frames.clone();
        if let (true, Some(text)) = (self.told, frames.first_mut()) {
            *text = text.without_tail(Offset::of_broadcast(self.offset).argument().len());
        }
        frames
    }

    /// A shard has queued it for `sockets` of its own.
    pub(crate) fn finish(&self, sockets: u64) {
        self.sockets.fetch_add(sockets, Ordering::Relaxed);
        if self.shards_left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = done.send(self.sockets.load(Ordering::Relaxed));
        }
    }
}

/// Resolves to the number of sockets of this node that a broadcast was queued for, once it is queued for all of them.
/// It may be dropped.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<u64>);

impl Future for Delivery {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        // No answer: the server has stopped, or knows no such namespace.
        Pin::new(&mut self.0).poll(cx).map(Result::unwrap_or_default)
    }
}
