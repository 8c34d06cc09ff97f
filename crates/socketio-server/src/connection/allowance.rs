//! The limits on a connection's messages, time and bytes, and the consequences of exceeding them.

use std::rc::Rc;

use super::{Connection, Held, Slice, Turn, Violation};
use crate::{
    DisconnectReason, Event, Limit, Socket,
    config::{HEAD_START, LONGEST_WORK_SHARE, REMEMBERED_STEP, SLICE, SMALL_UNARRIVED},
    rate::Pace,
    shard::held::Level,
    transport::handle_post,
};

impl Connection {
    /// Marks the connection as established, so that the limits no longer count its handshake.
    pub(super) fn settle(&self) {
        let permit = self.permit.take();
        if let Some(permit) = &permit {
            permit.settle();
        }
        self.permit.set(permit);
    }

    /// Counts one message of the client, of any kind.
    pub(crate) fn count_message(&self) -> Result<(), Violation> {
        self.count_messages(1, self.slice.get().at)
    }

    fn count_messages(&self, messages: u32, now: u64) -> Result<(), Violation> {
        let (tat, pace) = self.shard.event_rate.take_many(messages, self.tat.get(), now);
        self.tat.set(tat);
        self.is_over_rate.set(pace != Pace::Within);
        if pace == Pace::FarOver {
            self.shard.metrics.limit_met(Limit::EventRate);
            return Err(DisconnectReason::TooManyEvents);
        }
        Ok(())
    }

    /// Counts the time that a message took as additional messages.
    fn count_work(&self, nanoseconds: u64, now: u64) -> Result<(), Violation> {
        if nanoseconds < self.shard.event_work {
            return Ok(());
        }
        let messages = u32::try_from(nanoseconds / self.shard.event_work.max(1)).unwrap_or(u32::MAX);
        // A handler may take long for reasons that the client does not cause.
        let most = (self.shard.config.event_rate_per_socket / LONGEST_WORK_SHARE).max(1);
        self.count_messages(messages.min(most), now)
    }

    /// Counts this number of additional messages for the client.
    pub(crate) fn count_extra(self: &Rc<Self>, messages: u32) {
        if let Err(reason) = self.count_messages(messages, self.shard.now()) {
            self.close_later(reason);
        }
    }

    // --- time ---

    /// Begins a slice for the client's messages. Returns `false` if the client is so far ahead of its rate that the
    /// connection waits for its turn.
    pub(crate) fn begin_slice(self: &Rc<Self>) -> bool {
        let now = self.shard.now();
        let is_ahead = self.tat.get().saturating_sub(now) > HEAD_START.as_nanos() as u64;
        match self.turn.get() {
            Turn::Waiting => return false,
            Turn::Free if is_ahead => {
                self.wait_for_turn();
                return false;
            }
            Turn::Free => {}
            Turn::Given => self.turn.set(Turn::Free),
        }
        self.slice.set(Slice { began: now, at: now });
        true
    }

    /// Counts the time of the message that was just handled. Returns `false` if the slice is over; the connection then
    /// waits for its turn.
    pub(crate) fn goes_on(self: &Rc<Self>) -> Result<bool, Violation> {
        let now = self.shard.now();
        let Slice { began, at } = self.slice.replace(Slice { at: now, ..self.slice.get() });
        self.count_work(now - at, now)?;
        let goes_on = now - began < SLICE.as_nanos() as u64;
        if !goes_on {
            self.shard.note_turn(now - began);
            self.wait_for_turn();
        }
        Ok(goes_on)
    }

    /// Queues the connection for a turn, which handles the remaining messages.
    pub(crate) fn wait_for_turn(self: &Rc<Self>) {
        if self.turn.replace(Turn::Waiting) != Turn::Waiting {
            self.shard.queue_for_turn(self);
        }
    }

    pub(crate) fn is_waiting_for_turn(&self) -> bool {
        self.turn.get() == Turn::Waiting
    }

    /// Starts the connection's turn.
    pub(crate) fn take_turn(self: &Rc<Self>) {
        self.turn.set(Turn::Given);
        if self.writer.borrow().is_polling() {
            handle_post(self);
        } else {
            self.wake_reader();
        }
    }

    /// Runs work that may take long, under the rules of [`Shard::turn`], and counts its time as the client's.
    pub(crate) fn work<T>(self: &Rc<Self>, f: impl FnOnce() -> T) -> T {
        let began = self.shard.now();
        let result = f();
        let now = self.shard.now();
        // The enclosing message is not charged for this time again.
        self.slice.set(Slice { at: now, ..self.slice.get() });
        self.shard.note_turn(now - began);
        if let Err(reason) = self.count_work(now - began, now) {
            self.close_later(reason);
        }
        result
    }

    /// Counts the bytes of the client's unfinished message: those in the transport, and those of a packet that lacks
    /// attachments.
    pub(crate) fn hold(&self, in_transport: usize) -> Result<(), Violation> {
        let unfinished = in_transport + self.assembling.borrow().as_ref().map_or(0, |assembling| assembling.bytes);
        let held = self.held.get();
        if unfinished == held.unfinished || self.set_held(Held { unfinished, ..held }) {
            Ok(())
        } else {
            Err(DisconnectReason::UnfinishedBytes)
        }
    }

    /// Records a change in the bytes of waiting events from `before` to `after`. Returns `false` if the server holds
    /// too much.
    pub(crate) fn hold_waiting(self: &Rc<Self>, before: usize, after: usize) -> bool {
        let held = self.held.get();
        let fits = self.set_held(Held { waiting: held.waiting - before + after, ..held });
        if self.is_paused() && after < before {
            self.want_flush();
        }
        fits
    }

    fn set_held(&self, held: Held) -> bool {
        let before = self.held.replace(held);
        self.shard.hold(self.client, before.unfinished + before.waiting, held.unfinished + held.waiting)
    }

    /// Counts the bytes that wait for this client alone. Returns `false` if there are too many.
    pub(super) fn hold_outbox(&self) -> bool {
        let outbox = self.outbox.borrow().own_bytes();
        self.set_unarrived(Held { outbox, ..self.held.get() })
    }

    /// Counts the events that were sent to the client's sockets alone and may not have arrived. If their bytes are too
    /// many, most of the events are forgotten.
    pub(crate) fn hold_remembered(&self) {
        if !self.count_remembered() {
            for recovery in self.sockets.borrow().iter().filter_map(|socket| socket.inner().recovery.as_ref()) {
                recovery.direct.borrow_mut().forget_beyond(SMALL_UNARRIVED / 4);
            }
            self.count_remembered();
        }
    }

    fn count_remembered(&self) -> bool {
        let of = |socket: &Socket| Some(socket.inner().recovery.as_ref()?.direct.borrow().bytes());
        let remembered: usize = self.sockets.borrow().iter().filter_map(of).sum();
        // Rounded up to steps, because an update of the accounts takes longer than most events.
        let remembered = remembered.next_multiple_of(REMEMBERED_STEP);
        self.set_unarrived(Held { remembered, ..self.held.get() })
    }

    fn set_unarrived(&self, held: Held) -> bool {
        let before = self.held.replace(held);
        let (before, after) = (before.outbox + before.remembered, held.outbox + held.remembered);
        if before == after {
            return true;
        }
        let level = self.shard.hold_unarrived(self.client, before, after);
        self.is_crowded.set(level != Some(Level::Fine));
        level.is_some()
    }

    /// Releases the bytes of unfinished messages. Only the bytes of the handlers' events stay counted.
    pub(super) fn release_unfinished(&self) {
        self.set_held(Held { unfinished: 0, ..self.held.get() });
    }

    /// Whether the connection exceeds its message rate, so that its events are not handled.
    pub(super) fn is_over_rate(&self) -> bool {
        let is_over = self.is_over_rate.get();
        if is_over {
            self.shard.metrics.limit_met(Limit::EventRate);
        }
        is_over
    }

    /// Whether the application admits the socket's next event.
    pub(super) fn admits(&self, socket: &Socket) -> bool {
        let handlers = self.shard.space(socket.reference().namespace).handlers();
        handlers.admit.as_ref().is_none_or(|admit| self.shard.guarded(|| admit(socket)) != Some(false))
    }

    /// Refuses the event at once, even if earlier events wait for a handler: queueing the refusal would add to the
    /// overload.
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
