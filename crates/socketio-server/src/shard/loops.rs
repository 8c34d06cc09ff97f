//! The tasks of a shard besides its mailbox: the flush pass, the timers, the session saves and the periodic work.

use std::rc::Rc;

use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::Shard;
use crate::{
    SocketRef,
    config::{FLUSH_TURN, FLUSHES_PER_LOOK, SLICE},
    recovery::TIDY_INTERVAL,
    shard::timers::Timer,
};

impl Shard {
    /// Saves the changed sessions to the keeper, one time slice at a time: some sessions are in many rooms.
    pub(super) async fn save_sessions(self: Rc<Self>) {
        loop {
            self.save_due.notified().await;
            // Changes that come together are saved together.
            yield_now().await;
            let mut began = self.now();
            loop {
                let Some(socket) = self.unsaved.borrow_mut().pop_front() else { break };
                socket.save();
                if self.now() - began > SLICE.as_nanos() as u64 {
                    self.note_turn(self.now() - began);
                    self.turn().await;
                    began = self.now();
                }
            }
            self.unsaved.borrow_mut().shrink_to_fit();
        }
    }

    /// Starts a new measurement of the longest turn, reports the shard's confirmed position, and discards recovery data
    /// that is no longer needed. One shard discards it for all shards.
    pub(super) async fn tidy_up(self: Rc<Self>) {
        // Heartbeats confirm the positions of the sessions, so a shorter interval would report nothing new.
        let mut ticks = tokio::time::interval(TIDY_INTERVAL.min(self.config.ping_interval));
        loop {
            ticks.tick().await;
            let longest = self.metrics.longest_turn.get();
            self.metrics.longest_turn.set(0);
            self.metrics.longest_turn_before.set(longest);
            let Some(recovery) = self.handle.recovery() else { continue };
            self.confirmed.borrow_mut().begin(self.past_position());
            recovery.confirmed(self.id, self.confirmed.borrow().position());
            if self.id == 0 {
                recovery.tidy();
            }
        }
    }

    /// Writes to the connections that have new frames, some connections at a time. New events are queued between the
    /// writes: a connection that still waits for its turn gets them with the same write, and a connection that had its
    /// turn waits at the end again. So each pass over a busy room is one write per member, however many events arrive
    /// meanwhile. (Taking new events only after a whole pass was measured: of 8 in flight it merged fewer.)
    pub(super) async fn flush_connections(self: Rc<Self>) {
        loop {
            self.flush_due.notified().await;
            loop {
                let began = Instant::now();
                while began.elapsed() < FLUSH_TURN && !self.unflushed.borrow().is_empty() {
                    self.unflushed.borrow().iter().take(FLUSHES_PER_LOOK).for_each(|next| next.prefetch());
                    for _ in 0..FLUSHES_PER_LOOK {
                        let Some(connection) = self.unflushed.borrow_mut().pop_front() else { break };
                        connection.flush();
                    }
                }
                if self.unflushed.borrow().is_empty() {
                    break;
                }
                yield_now().await;
            }
        }
    }

    pub(super) async fn run_timers(self: Rc<Self>) {
        loop {
            let next = self.timers.borrow().next();
            tokio::select! {
                () = self.timers_changed.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            let (now, mut began) = (Instant::now(), self.now());
            loop {
                let Some(timer) = self.timers.borrow_mut().pop_due(now) else { break };
                match timer {
                    Timer::Connection(key) => {
                        if let Some(connection) = self.connection(key) {
                            connection.on_timer(now);
                        }
                    }
                    Timer::Socket(reference) => self.on_socket_timer(reference, now),
                }
                // Many tokens may expire in the same second, and many clients may have fallen silent together.
                self.give_way(&mut began).await;
            }
            self.tidy_timers();
        }
    }

    fn on_socket_timer(&self, reference: SocketRef, now: Instant) {
        let Some(socket) = self.socket(reference) else { return };
        if socket.take_due(now)
            && let Some(on_timer) = &self.space(reference.namespace).handlers().on_timer
        {
            self.guarded(|| on_timer(&socket));
        }
    }
}
