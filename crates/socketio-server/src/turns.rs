//! Turns at a shard's time. What takes long is done in slices, and whoever wants another slice waits for all who wanted one
//! before.
//!
//! A connection handles what its client sends at once, unless the client is far ahead of its rate. What a slice has no time for
//! waits for a turn, and so does a task before work that may take long, such as a signature. Turns are given in order, for so
//! long at a time that a client with little to say is heard in between.

use std::{cell::Cell, cell::RefCell, collections::VecDeque, future::poll_fn, rc::Rc, task::Poll};

use tokio::{
    sync::{Notify, oneshot},
    task::yield_now,
};

use crate::{config::TURN, connection::Connection, shard::Shard};

/// Who waits for a turn.
#[derive(Default)]
pub(crate) struct Turns {
    waiting: RefCell<VecDeque<Waiting>>,
    due: Notify,
    /// Somebody has had a turn since the runtime looked at the network.
    taken: Cell<bool>,
}

enum Waiting {
    Connection(Rc<Connection>),
    Task(oneshot::Sender<()>),
}

impl Turns {
    /// A turn at once, if nobody else wants one.
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
    /// Has [`Connection::take_turn`] called when it is the connection's turn.
    pub(crate) fn queue_for_turn(&self, connection: &Rc<Connection>) {
        self.turns.push(Waiting::Connection(connection.clone()));
    }

    /// Waits for a turn. The caller does no more than one piece of work before it waits for another.
    pub(crate) async fn turn(&self) {
        if self.turns.take() {
            return;
        }
        let (turn, given) = oneshot::channel();
        self.turns.push(Waiting::Task(turn));
        // It is not dropped before it is given, unless the shard ends.
        let _ = given.await;
    }

    /// Takes a turn without waiting; false if somebody else wants one.
    pub(crate) fn try_turn(&self) -> bool {
        self.turns.take()
    }

    /// Gives the turns.
    pub(crate) async fn give_turns(self: Rc<Self>) {
        loop {
            self.turns.due.notified().await;
            loop {
                // The runtime looks at the network, and whoever has something light to do does it.
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

    /// Takes note of work that nothing else of the shard's could interrupt.
    pub(crate) fn note_turn(&self, nanoseconds: u64) {
        if nanoseconds > self.metrics.longest_turn.get() {
            self.metrics.longest_turn.set(nanoseconds);
        }
    }
}

/// Lets the tasks run that are ready now, without a look at the network.
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
