//! Broadcasts.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    event::{EncodeError, EventArgs, check_name},
    handle::Handle,
    socket::Socket,
};
use crate::{
    delivery::{
        frame::Frame,
        job::{Job, Names, Tally},
    },
    identifier::{Id, Position, SocketRef},
    recovery::{Audience, Memory, Offset},
    shard::Command,
};

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
    offset: Option<Position>,
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
    pub(super) fn new(handle: &Handle, namespace: &str) -> Self {
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

    pub(super) fn from_socket(socket: &Socket) -> Self {
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
    pub fn offset(mut self, offset: impl Into<Position>) -> Self {
        self.offset = Some(offset.into());
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
        let sent_offset = offset.filter(|_| recovery.is_some_and(Memory::is_on)).map(Offset::of_broadcast);
        let mut frames = args.event_frames(&self.namespace, None, event, sent_offset)?;
        frames.iter_mut().for_each(Frame::share);
        if let (Some(key), [frame]) = (&self.latest, frames.as_mut_slice()) {
            frame.set_latest(self.handle.latest_number(namespace, key));
        }
        if let (Some(history), false) = (history.as_mut(), self.volatile) {
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
            has_offset: sent_offset.is_some(),
            frames,
            tally: Tally::new(mailboxes.len(), done),
        });
        node.packets_encoded.fetch_add(1, Ordering::Relaxed);
        for mailbox in mailboxes {
            if mailbox.send(Command::Broadcast(job.clone())).is_err() {
                job.tally.finish(0);
            }
        }
        Ok(delivery)
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
