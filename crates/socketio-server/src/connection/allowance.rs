//! What a connection may take and send, and what becomes of what is too much.

use std::rc::Rc;

use super::{Connection, Violation};
use crate::{DisconnectReason, Event, Limit, Socket, rate::Pace};

impl Connection {
    /// It has what it came for, so that the limits no longer count its handshake.
    pub(super) fn settle(&self) {
        let place = self.place.take();
        if let Some(place) = &place {
            place.settle();
        }
        self.place.set(place);
    }

    /// Counts what the client sends, whatever it is.
    pub(crate) fn pay(&self) -> Result<(), Violation> {
        let (paid_at, pace) = self.shard.event_rate.take(self.paid_at.get(), self.shard.now());
        self.paid_at.set(paid_at);
        self.is_over_rate.set(pace != Pace::Within);
        if pace == Pace::FarOver {
            self.shard.metrics.limit_met(Limit::EventRate);
            return Err(DisconnectReason::TooManyEvents);
        }
        Ok(())
    }

    /// Counts what the client has sent as so many messages more.
    pub(crate) fn charge(self: &Rc<Self>, messages: u32) {
        for _ in 0..messages {
            if let Err(reason) = self.pay() {
                return self.close_later(reason);
            }
        }
    }

    /// Counts the bytes of the client's unfinished message: those of the transport, and of a packet that lacks attachments.
    pub(crate) fn hold(&self, in_transport: usize) -> Result<(), Violation> {
        let bytes = in_transport + self.assembling.borrow().as_ref().map_or(0, |assembling| assembling.bytes);
        if self.shard.hold(self.unfinished.replace(bytes), bytes) {
            Ok(())
        } else {
            Err(DisconnectReason::UnfinishedBytes)
        }
    }

    /// Whether the socket's events are too many to be handled.
    pub(super) fn refuses(&self, socket: &Socket) -> bool {
        let handlers = self.shard.space(socket.reference().namespace).handlers();
        if self.is_over_rate.get() {
            self.shard.metrics.limit_met(Limit::EventRate);
            return true;
        }
        handlers.admit.as_ref().is_some_and(|admit| self.shard.guarded(|| admit(socket)) == Some(false))
    }

    /// Has the client told, at once, even if others wait for a handler: waiting is what there is too much of.
    pub(super) fn refuse_event(self: &Rc<Self>, socket: &Socket, event: Event<'_>) {
        self.shard.metrics.events_refused.increment();
        let handlers = self.shard.space(socket.reference().namespace).handlers();
        if let Some(on_refused) = &handlers.on_refused
            && self.shard.guarded(|| on_refused(socket, event)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }
}
