//! Events to one socket: emitted, acknowledged, and sent again when a room is joined.

use std::{collections::HashMap, fmt, rc::Rc, sync::Arc, time::Duration};

use serde::Serialize;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Socket;
use crate::{
    Limit,
    api::event::{AckError, AckReply, EncodeError, EventArgs, check_name},
    delivery::frame::{Frame, Frames},
    identifier::Position,
    recovery::{ASK_AT_BYTES, Entry, Memory, Offset},
};

/// Whether an event is sent again to a returning client that lacks it.
#[derive(Clone, Copy)]
enum Memorable<'a> {
    No,
    Yes,
    /// If the client is still in this room.
    In(&'a str),
}

/// A broadcast that the server remembers: see [`Socket::newest_in`].
pub struct Remembered {
    room: Box<str>,
    entry: Arc<Entry>,
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("position", &self.entry.offset).finish_non_exhaustive()
    }
}

/// Some broadcasts are no longer remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("some broadcasts are no longer remembered")]
pub struct Forgotten;

#[derive(Default)]
pub(super) struct PendingAcks {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<AckReply>>,
}

impl Socket {
    /// Sends an event with one argument. Does nothing once the socket is disconnected.
    ///
    /// # Errors
    /// If the payload has no JSON form or the name is reserved by Socket.IO.
    pub fn emit(&self, event: &str, payload: &impl Serialize) -> Result<(), EncodeError> {
        self.emit_args(event, &EventArgs::new(payload)?)
    }

    /// Sends an event with any arguments.
    ///
    /// # Errors
    /// If the name is reserved by Socket.IO.
    pub fn emit_args(&self, event: &str, args: &EventArgs) -> Result<(), EncodeError> {
        self.emit_frames(event, args, Memorable::Yes)
    }

    /// Like [`Socket::emit_args`], for an event that the socket gets as a member of a room. With
    /// [recovery](crate::Config::recovery), the event is sent again to a returning client only if the client is still
    /// in that room.
    ///
    /// # Errors
    /// As [`Socket::emit_args`].
    pub fn emit_args_in(&self, room: &str, event: &str, args: &EventArgs) -> Result<(), EncodeError> {
        self.emit_frames(event, args, Memorable::In(room))
    }

    fn emit_frames(&self, event: &str, args: &EventArgs, memorable: Memorable<'_>) -> Result<(), EncodeError> {
        check_name(event)?;
        self.send_own(memorable, |offset| args.event_frames(self.namespace(), None, event, offset))
    }

    /// Sends the frames of one of the socket's own events, made for the offset that the event gets.
    fn send_own(
        &self,
        memorable: Memorable<'_>,
        frames: impl FnOnce(Option<Offset>) -> Result<Frames, EncodeError>,
    ) -> Result<(), EncodeError> {
        let Some(recovery) = self.0.recovery.as_ref().filter(|_| self.is_connected()) else {
            self.queue(frames(None)?);
            return Ok(());
        };
        let after = self.shard().position_of(self);
        let before_replay = self.shard().before_replay.get().filter(|(socket, _)| *socket == self.reference());
        let (offset, remember) = match (before_replay, memorable) {
            (Some((_, claimed)), _) => (claimed, false),
            (None, Memorable::No) => (Offset::of_direct(after, recovery.direct.borrow().last(), &self.0.id), false),
            (None, _) => (Offset::of_direct(after, recovery.direct.borrow_mut().next(), &self.0.id), true),
        };
        let frames: SmallVec<[Rc<Frame>; 1]> = frames(Some(offset))?.into_iter().map(Rc::new).collect();
        self.shard().metrics.packets_encoded.increment();
        for frame in &frames {
            self.0.connection.queue(frame.clone());
        }
        if remember {
            let max_bytes = self.handle().recovery().map_or(0, |recovery| recovery.settings.max_direct_bytes);
            let room = if let Memorable::In(room) = memorable { Some(room) } else { None };
            let bytes = recovery.direct.borrow_mut().push(after, room, frames, max_bytes);
            self.0.connection.hold_remembered();
            if bytes > ASK_AT_BYTES {
                self.0.connection.ask_what_arrived();
            }
        }
        Ok(())
    }

    /// Waits until the socket's shard has carried out every broadcast that was emitted before, and every other command
    /// of a [`Handle`](crate::Handle).
    pub async fn caught_up(&self) {
        self.shard().caught_up().await;
    }

    /// The newest broadcast to a room after the position `after` that has begun: what a client has to be sent of the
    /// room that knows its state as of `after`, and joins it now. A member gets the broadcasts that it has not been
    /// given yet anyway, so for a member these do not count.
    ///
    /// # Errors
    /// If some of these broadcasts are no longer remembered. Always without
    /// [`Config::recovery`](crate::Config::recovery).
    pub fn newest_in(&self, room: &str, after: Position) -> Result<Option<Remembered>, Forgotten> {
        let recovery = self.handle().recovery().ok_or(Forgotten)?;
        let until = if self.in_room(room) { self.position() } else { self.shard().position() };
        let room_key = (self.0.reference.namespace, room);
        let this = (&self.0.id, |room: &str| room == self.id() || self.in_room(room));
        let newest = recovery.history().newest_in(room_key, this, after, until).ok_or(Forgotten)?;
        Ok(newest.map(|entry| Remembered { room: room.into(), entry }))
    }

    /// Sends a remembered broadcast to this socket alone. As an event of this socket, it is sent again to a returning
    /// client that is still in the room.
    pub fn send_again(&self, remembered: &Remembered) {
        let entry = &remembered.entry;
        let has_offset = self.handle().recovery().is_some_and(Memory::is_on);
        // The frames are encoded already, so this can't fail.
        let _ = self.send_own(Memorable::In(&remembered.room), |offset| {
            let offset_len = if has_offset { Offset::of_broadcast(entry.offset).argument().len() } else { 0 };
            let tail = offset.map(|offset| offset.argument());
            let mut frames: Frames = entry.frames.iter().cloned().map(Frame::of_one).collect();
            if let Some(first) = frames.first_mut() {
                *first = first.with_tail(offset_len, tail.as_deref().unwrap_or_default());
            }
            Ok(frames)
        });
    }

    /// Sends an event with one argument, unless the client is not ready to take it at once.
    ///
    /// # Errors
    /// As [`Socket::emit`].
    pub fn emit_volatile(&self, event: &str, payload: &impl Serialize) -> Result<(), EncodeError> {
        if self.0.connection.is_ready() {
            return self.emit_frames(event, &EventArgs::new(payload)?, Memorable::No);
        }
        check_name(event)?;
        self.shard().metrics.volatile_dropped.increment();
        Ok(())
    }

    /// Sends an event with one argument and waits for the client's acknowledgement.
    ///
    /// # Errors
    /// If the client does not acknowledge in time, is disconnected or has too many pending acknowledgements, or if the
    /// event can't be encoded.
    pub async fn emit_with_ack(
        &self,
        event: &str,
        payload: &impl Serialize,
        timeout: Duration,
    ) -> Result<AckReply, AckError> {
        self.emit_args_with_ack(event, &EventArgs::new(payload)?, timeout).await
    }

    /// Like [`Socket::emit_with_ack`], with any arguments.
    ///
    /// # Errors
    /// As [`Socket::emit_with_ack`].
    pub async fn emit_args_with_ack(
        &self,
        event: &str,
        args: &EventArgs,
        timeout: Duration,
    ) -> Result<AckReply, AckError> {
        if !self.is_connected() {
            return Err(AckError::Disconnected);
        }
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut acks = self.0.acks.borrow_mut();
            let acks = acks.get_or_insert_default();
            if acks.waiting.len() >= self.shard().config.max_pending_acks {
                self.shard().metrics.limit_met(Limit::PendingAcks);
                return Err(AckError::TooMany);
            }
            let id = acks.next;
            acks.next += 1;
            acks.waiting.insert(id, sender);
            id
        };
        let _forget = ForgetAck { socket: self, id };
        self.queue(args.event_frames(self.namespace(), Some(id), event, None)?);
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(AckError::Disconnected),
            Err(_) => Err(AckError::Timeout),
        }
    }

    pub(crate) fn acknowledged(&self, id: u64, reply: AckReply) {
        let sender = self.0.acks.borrow_mut().as_mut().and_then(|acks| acks.waiting.remove(&id));
        if let Some(sender) = sender {
            let _ = sender.send(reply);
        }
    }
}

/// Removes an ack when its caller no longer waits for it.
struct ForgetAck<'a> {
    socket: &'a Socket,
    id: u64,
}

impl Drop for ForgetAck<'_> {
    fn drop(&mut self) {
        if let Some(acks) = self.socket.inner().acks.borrow_mut().as_mut() {
            acks.waiting.remove(&self.id);
        }
    }
}
