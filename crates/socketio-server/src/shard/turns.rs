//! Turns on a shard's time. Long work is done in slices. A connection or task that needs another slice waits for all
//! earlier requests.
//!
//! A connection handles its client's messages at once, unless the client is far ahead of its rate. Messages that do not
//! fit into a slice wait for a turn. A task also waits for a turn before work that may take long, such as the check of
//! a signature. Turns are given in order, in periods short enough that clients with few messages are handled in
//! between.

use std::{cell::Cell, cell::RefCell, collections::VecDeque, future::poll_fn, rc::Rc, task::Poll};

use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
};

use crate::{config::TURN, connection::Connection, shard::Shard};

/// The connections and tasks that wait for a turn.
#[derive(Default)]
pub(crate) struct Turns {
    waiting: RefCell<VecDeque<Waiting>>,
    due: Notify,
    /// A turn was taken since the runtime last polled the network.
    taken: Cell<bool>,
}

enum Waiting {
    Connection(Rc<Connection>),
    Task(oneshot::Sender<()>),
}

impl Turns {
    /// Takes a turn at once, if no other connection or task wants one.
    fn take(&self) -> bool {
        let is_free = self.waiting.borrow().is_empty() && !self.taken.replace(true);
        if is_free {
            self.due.notify_one();
        }
        is_free
    }

    fn push(&self, waiting: Waiting) {
        self.waiting.borrow_mut().push_back(waiting);
        self.due.notify_one();
    }

    fn pop(&self) -> Option<Waiting> {
        self.waiting.borrow_mut().pop_front()
    }
}

impl Shard {
    /// Queues the connection for a turn. [`Connection::take_turn`] is called when the turn comes.
    pub(crate) fn queue_for_turn(&self, connection: &Rc<Connection>) {
        self.turns.push(Waiting::Connection(connection.clone()));
    }

    /// Waits for a turn. The caller does at most one piece of work before it waits for another turn.
    pub(crate) async fn turn(&self) {
        if self.turns.take() {
            return;
        }
        let (turn, given) = oneshot::channel();
        self.turns.push(Waiting::Task(turn));
        // The turn is dropped before it is given only if the shard ends.
        let _ = given.await;
    }

    /// Takes a turn without waiting. Returns `false` if another connection or task wants one.
    pub(crate) fn try_turn(&self) -> bool {
        self.turns.take()
    }

    /// Gives turns to the waiting connections and tasks.
    pub(crate) async fn give_turns(self: Rc<Self>) {
        loop {
            self.turns.due.notified().await;
            loop {
                // The runtime polls the network, and tasks with light work run.
                yield_now().await;
                let began = self.now();
                while let Some(next) = self.turns.pop() {
                    match next {
                        Waiting::Connection(connection) => connection.take_turn(),
                        Waiting::Task(turn) => {
                            if turn.send(()).is_err() {
                                continue;
                            }
                        }
                    }
                    behind_what_is_ready().await;
                    if self.now() - began > TURN.as_nanos() as u64 {
                        break;
                    }
                }
                if self.turns.waiting.borrow().is_empty() {
                    self.turns.taken.set(false);
                    break;
                }
            }
        }
    }

    /// Records the duration of work that no other task of the shard could interrupt.
    pub(crate) fn note_turn(&self, nanoseconds: u64) {
        if nanoseconds > self.metrics.longest_turn.get() {
            self.metrics.longest_turn.set(nanoseconds);
        }
    }
}

/// Lets the tasks that are ready now run, without polling the network.
async fn behind_what_is_ready() {
    let mut is_behind = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
