//! The outgoing frames of a connection, and how they are written.

use std::{hint::black_box, rc::Rc};

use smallvec::SmallVec;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::Connection;
use crate::{
    DisconnectReason, SAVE_PATIENCE, Saving, Socket,
    config::{LARGEST_ANSWERS, LARGEST_WAIT, SLOW_POLL_BYTES},
    delivery::frame::Frame,
    stream::Flushed,
};

impl Connection {
    /// Puts a frame into the outbox, to be written soon.
    pub(crate) fn queue(self: &Rc<Self>, frame: Rc<Frame>) {
        self.shard.metrics.packets_queued.increment();
        self.queue_uncounted(frame);
    }

    /// As `queue`, for frames that the metrics leave out or that the caller counts.
    pub(crate) fn queue_uncounted(self: &Rc<Self>, mut frame: Rc<Frame>) {
        if self.closed.get() {
            return;
        }
        if self.takes_base64 && frame.is_binary() {
            frame = Rc::new(frame.in_base64());
        }
        let bytes = {
            let mut outbox = self.outbox.borrow_mut();
            if frame.latest().is_some() && self.is_slow(outbox.bytes()) && outbox.replace(&frame) {
                self.shard.metrics.latest_replaced.increment();
            }
            outbox.push(frame);
            outbox.bytes()
        };
        self.queued(bytes);
    }

    /// Fetches from memory the data that a write to the connection needs. Fetches for several connections in a row take
    /// as long as for one, since the processor waits for all of them together. Between the writes, it would wait for
    /// each fetch.
    pub(crate) fn prefetch(&self) {
        black_box((self.closed.get(), self.writer.borrow().prefetch()));
    }

    /// Writes frames at once, if no earlier frames wait. Bytes that the client does not take at once are queued.
    /// `bytes` are the bytes of the frames, one after the other.
    pub(crate) fn write_through(self: &Rc<Self>, frames: &[Rc<Frame>], bytes: &[u8]) {
        let nothing_waits = !self.closed.get() && !self.flush_pending.get() && !self.is_behind.get();
        let written = if nothing_waits && !self.takes_base64 {
            self.writer.borrow().write(bytes, &self.shard.metrics)
        } else {
            0
        };
        if written == bytes.len() {
            return;
        }
        if written == 0 {
            return frames.iter().for_each(|frame| self.queue_uncounted(frame.clone()));
        }
        let waiting = {
            let mut outbox = self.outbox.borrow_mut();
            frames.iter().for_each(|frame| outbox.push(frame.clone()));
            outbox.advance(written);
            outbox.bytes()
        };
        self.queued(waiting);
    }

    /// Handles an addition to the outbox. `bytes` is the number of bytes that wait now.
    fn queued(self: &Rc<Self>, bytes: usize) {
        let limit = self.shard.config.outbox_hard_limit;
        // A burst may exceed the limit only if the client takes it as fast as it is produced.
        if bytes > limit + self.beyond_limit.get() {
            self.write_now();
            if self.has_too_much_waiting() {
                self.outbox.borrow_mut().abandon();
                self.close_later(DisconnectReason::OutboxFull);
            }
        }
        self.want_flush();
    }

    /// Whether more bytes wait than are allowed. Events that are each larger than the limit may wait in addition, since
    /// their size is not the client's fault: always one, and several up to the limit of a replay. The answers of
    /// overlapping handlers may also wait in addition.
    #[cold]
    fn has_too_much_waiting(&self) -> bool {
        let limit = self.shard.config.outbox_hard_limit;
        let outbox = self.outbox.borrow();
        if outbox.bytes() <= limit + self.beyond_limit.get() {
            return false;
        }
        let (large, count) = outbox.larger_than(limit);
        let largest = limit.saturating_mul(LARGEST_WAIT);
        let are_answers = self.sockets.borrow().iter().any(Socket::has_overlapping_handlers);
        let may_wait = match () {
            () if are_answers => limit.saturating_mul(LARGEST_ANSWERS - 1),
            () if count == 1 || large <= largest => large,
            () => 0,
        };
        self.beyond_limit.set(self.beyond_limit.get().max(may_wait));
        outbox.bytes() > limit + self.beyond_limit.get()
    }

    /// Lets the next frames exceed the client's outbox limit by this number of bytes.
    pub(crate) fn allow_beyond_limit(&self, bytes: usize) {
        self.beyond_limit.set(self.beyond_limit.get() + bytes);
    }

    /// Whether the waiting bytes wait for the client, and not just for their turn. Between two polls, some bytes always
    /// wait.
    fn is_slow(&self, waiting: usize) -> bool {
        self.blocked_since.get().is_some() || (waiting > SLOW_POLL_BYTES && !self.writer.borrow().is_ready())
    }

    pub(super) fn want_flush(self: &Rc<Self>) {
        if !self.flush_pending.replace(true) && !self.in_batch.get() {
            self.shard.flush_soon(self);
        }
    }

    /// Whether a packet that is sent now would leave at once.
    pub(crate) fn is_ready(&self) -> bool {
        !self.closed.get() && self.blocked_since.get().is_none() && self.writer.borrow().is_ready()
    }

    /// Writes the waiting frames. Then closes, pauses or resumes the connection, if that is due.
    pub(crate) fn flush(self: &Rc<Self>) {
        self.flush_pending.set(false);
        if self.closed.get() {
            return;
        }
        let written = self.write_now();
        if let Some(reason) = self.close_due.take() {
            self.close(reason);
        } else if !written {
            self.close(DisconnectReason::TransportError);
        } else {
            // A full backlog keeps a paused connection paused until it has room. The check of the backlog is costly, so
            // it is made only for a paused connection.
            let paused = self.is_over_soft_limit() || (self.paused.get() && self.has_full_backlog());
            if paused != self.paused.get() {
                self.set_paused(paused);
            }
            if self.awaits_drain.get() && !self.is_over_soft_limit() {
                self.drained();
            }
        }
    }

    /// Waits until the outbox is small enough for the client's next event, or the client has gone.
    pub(super) async fn has_taken_enough(&self) {
        while self.is_over_soft_limit() && !self.closed.get() {
            let (drained, is_drained) = oneshot::channel();
            self.arrivals.borrow_mut().get_or_insert_default().drained.push(drained);
            self.awaits_drain.set(true);
            let _ = is_drained.await;
        }
    }

    /// Wakes the waiting tasks, which check the outbox again.
    #[cold]
    fn drained(&self) {
        self.awaits_drain.set(false);
        let mut arrivals = self.arrivals.borrow_mut();
        if let Some(known) = arrivals.as_mut() {
            known.drained.clear();
            if known.is_empty() {
                *arrivals = None;
            }
        }
    }

    /// Writes the waiting frames now. Returns `false` if the connection is broken.
    fn write_now(self: &Rc<Self>) -> bool {
        if self.shard.has_unsaved() {
            self.save_sessions();
        }
        if self.saves_under_way.get() > 0 {
            self.is_behind.set(true);
            self.count_waiting();
            return true;
        }
        let flushed = self.writer.borrow_mut().flush(&mut self.outbox.borrow_mut(), &self.shard.metrics);
        self.is_behind.set(flushed != Flushed::All);
        self.count_waiting();
        match flushed {
            Flushed::All => self.blocked_since.set(None),
            Flushed::Some => self.block(Some(Instant::now())),
            Flushed::Nothing => self.block(self.blocked_since.get().or_else(|| Some(Instant::now()))),
            Flushed::Waiting => {}
            Flushed::Broken => return false,
        }
        true
    }

    /// Saves the changed sessions before a write, so that the client is sent nothing unsaved.
    #[cold]
    fn save_sessions(self: &Rc<Self>) {
        let unsaved: SmallVec<[Socket; 3]> = {
            let sockets = self.sockets.borrow();
            sockets.iter().filter(|socket| socket.is_unsaved()).cloned().collect()
        };
        if !unsaved.is_empty() {
            self.work(|| unsaved.iter().for_each(Socket::save));
        }
    }

    /// Writes nothing until a session of the connection is saved.
    pub(crate) fn hold_back_until(self: &Rc<Self>, saving: Saving) {
        self.saves_under_way.set(self.saves_under_way.get() + 1);
        let connection = self.clone();
        tokio::task::spawn_local(async move {
            let _ = timeout(SAVE_PATIENCE, saving).await;
            connection.saves_under_way.set(connection.saves_under_way.get() - 1);
            connection.want_flush();
        });
    }

    /// Counts the bytes that the last flush left.
    pub(super) fn count_waiting(self: &Rc<Self>) {
        let waiting = self.outbox.borrow().bytes();
        if waiting != self.waiting.get() {
            self.waiting_changed(waiting);
        }
    }

    #[cold]
    fn waiting_changed(self: &Rc<Self>, waiting: usize) {
        let before = self.waiting.replace(waiting);
        if waiting <= self.shard.config.outbox_hard_limit {
            self.beyond_limit.set(0);
        }
        self.shard.metrics.outbox_bytes.add((waiting as u64).wrapping_sub(before as u64));
        if !self.hold_outbox() {
            self.close_later(DisconnectReason::OutboxFull);
        }
    }

    pub(super) fn block(&self, since: Option<Instant>) {
        self.blocked_since.set(since);
        self.set_timer();
        self.wake_reader();
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }
}
