//! The heartbeat, the meaning of its answer, and the connection's other deadlines.

use std::{rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{Connection, ExtraPings, Heartbeat};
use crate::{
    DisconnectReason,
    config::FIRST_HEARTBEAT,
    shard::{Shard, timers::Timer},
};

impl Connection {
    /// The delay until the next heartbeat: a random time in the last fifth of the interval.
    pub(super) fn ping_delay(shard: &Shard) -> Duration {
        shard.config.ping_interval.mul_f64(1.0 - 0.2 * shard.entropy.borrow_mut().fraction())
    }

    /// Schedules the next heartbeat soon. The server remembers sent packets until a later heartbeat is answered. After
    /// many clients have connected, these packets are the greetings of all of them.
    pub(super) fn ping_soon(&self) {
        let soon = FIRST_HEARTBEAT.mul_f64(1.0 + self.shard.entropy.borrow_mut().fraction());
        let soon = Instant::now() + soon;
        if let Heartbeat::PingAt(at) = self.heartbeat.get()
            && soon < at
        {
            self.heartbeat.set(Heartbeat::PingAt(soon));
            self.set_timer();
        }
    }

    fn next_deadline(&self) -> Instant {
        let heartbeat = match self.heartbeat.get() {
            Heartbeat::PingAt(at) | Heartbeat::PongBy(at) => at,
        };
        let stall = self.blocked_since.get().map(|since| since + self.shard.config.write_stall_timeout);
        [self.connect_by.get(), stall].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    pub(super) fn set_timer(&self) {
        let at = self.next_deadline();
        if self.timer_at.get().is_none_or(|set| at < set) {
            self.timer_at.set(Some(at));
            self.shard.set_timer(at, Timer::Connection(self.key));
        }
    }

    pub(crate) fn on_timer(self: &Rc<Self>, now: Instant) {
        if self.timer_at.get().is_some_and(|at| at <= now) {
            self.timer_at.set(None);
        }
        if self.connect_by.get().is_some_and(|by| by <= now) {
            return self.close(DisconnectReason::ConnectTimeout);
        }
        if self.blocked_since.get().is_some_and(|since| since + self.shard.config.write_stall_timeout <= now) {
            return self.close(DisconnectReason::WriteStalled);
        }
        match self.heartbeat.get() {
            Heartbeat::PingAt(at) if at <= now => {
                self.outbox.borrow_mut().release();
                self.ping(now);
            }
            // The unread packets of the client may include the answer. The write stall timeout or the handlers bound
            // this wait. There is no such wait for a client that no longer polls.
            Heartbeat::PongBy(by) if by <= now && self.is_unread() => {
                self.heartbeat.set(Heartbeat::PongBy(now + self.shard.config.ping_timeout));
                self.ping_again();
            }
            Heartbeat::PongBy(by) if by <= now => return self.close(DisconnectReason::PingTimeout),
            _ => {}
        }
        self.set_timer();
    }

    /// Whether the client may have unread packets, for a reason that ends by itself.
    fn is_unread(&self) -> bool {
        self.is_waiting_for_turn() || (self.paused.get() && (self.is_blocked() || self.has_full_backlog()))
    }

    /// Sends an additional heartbeat to a client whose packets are not read: a client leaves if no heartbeat comes for
    /// a while. The answer confirms nothing.
    fn ping_again(self: &Rc<Self>) {
        if !self.is_blocked() {
            let extra = self.extra_pings.get();
            self.extra_pings.set(ExtraPings { sent: extra.sent.saturating_add(1), ..extra });
            self.queue_uncounted(self.shard.ping.clone());
        }
    }

    /// Sends a heartbeat. Its answer confirms the arrival of all earlier packets.
    fn ping(self: &Rc<Self>, now: Instant) {
        self.heartbeat.set(Heartbeat::PongBy(now + self.shard.config.ping_timeout));
        for recovery in self.sockets.borrow().iter().filter_map(|socket| socket.inner().recovery.as_ref()) {
            recovery.ask(self.shard.past_position(), &self.shard.confirmed.borrow());
        }
        if let Some(arrivals) = self.arrivals.borrow_mut().as_mut() {
            arrivals.asked.append(&mut arrivals.waiting);
        }
        self.queue_uncounted(self.shard.ping.clone());
    }

    /// Sends the next heartbeat now, unless one is under way or a replay is about to be queued. In the second case, the
    /// answer would confirm the replay too.
    pub(crate) fn ask_what_arrived(self: &Rc<Self>) {
        let is_before_replay =
            self.shard.before_replay.get().is_some_and(|(socket, _)| socket.is_of(self.key, self.shard.id));
        if let Heartbeat::PingAt(_) = self.heartbeat.get()
            && !is_before_replay
        {
            self.ping(Instant::now());
            self.set_timer();
        }
    }

    /// Sends the next heartbeat now, if a callback waits for its answer.
    pub(crate) fn ask_for_arrivals(self: &Rc<Self>) {
        if self.arrivals.borrow().as_ref().is_some_and(|arrivals| !arrivals.waiting.is_empty()) {
            self.ask_what_arrived();
        }
    }

    pub(crate) fn when_arrived(self: &Rc<Self>, f: Box<dyn FnOnce()>) {
        if self.closed.get() {
            return;
        }
        self.arrivals.borrow_mut().get_or_insert_default().waiting.push(f);
        self.ask_what_arrived();
    }

    pub(super) fn on_pong(self: &Rc<Self>) {
        let ExtraPings { sent, unanswered } = self.extra_pings.get();
        if let Some(unanswered) = unanswered.checked_sub(1) {
            self.extra_pings.set(ExtraPings { sent, unanswered });
        } else if let Heartbeat::PongBy(_) = self.heartbeat.get() {
            self.extra_pings.set(ExtraPings { sent: 0, unanswered: sent });
            self.heartbeat.set(Heartbeat::PingAt(Instant::now() + Self::ping_delay(&self.shard)));
            // The next heartbeat may be due earlier than this answer was.
            self.set_timer();
            self.sent_has_arrived();
        }
    }

    fn sent_has_arrived(self: &Rc<Self>) {
        for recovery in self.sockets.borrow().iter().filter_map(|socket| socket.inner().recovery.as_ref()) {
            recovery.answered(&mut self.shard.confirmed.borrow_mut());
        }
        self.hold_remembered();
        let (asked, waiting) = {
            let mut arrivals = self.arrivals.borrow_mut();
            let Some(known) = arrivals.as_mut() else { return };
            let both = (std::mem::take(&mut known.asked), std::mem::take(&mut known.waiting));
            // Tasks that wait for the connection's end keep waiting.
            if known.is_empty() {
                *arrivals = None;
            }
            both
        };
        for f in asked {
            self.shard.guarded(f);
        }
        for f in waiting {
            self.when_arrived(f);
        }
    }
}
