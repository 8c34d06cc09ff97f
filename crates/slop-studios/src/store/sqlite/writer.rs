//! The thread that owns the file. It takes the queued requests, applies them in one transaction, commits, dispatches
//! their events in order, and answers. Meanwhile only this thread assigns event numbers.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{ChangeKind, Committed, CommittedEvent, Delivery, Dispatch, Dispatched, Effect, StoreError, Usage};
use super::files::{FilesInUse, Moved};
use super::journal::EarlierRuns;
use super::lazy::Lazy;
use super::ledger::{Applied, Ledger, Origin};
use super::order::Order;
use super::queue::{Group, Queue};
use super::receipts::{KeyedItem, Receipt};
use super::request::Request;
use super::sequence::Sequence;
use super::{media, notifications};
use crate::contract::delivery::Envelope;
use crate::limits::{
    FILES_CHECK_INTERVAL, GROUP_REQUESTS, LAZY_WRITES_AGAIN_AFTER, RECALL_SLICE, RECALL_SLICE_AT_MOST, RETENTION_AGAIN,
    RETENTION_INTERVAL, RETENTION_ROWS,
};
use crate::metrics::Metrics;

pub(super) struct Writer {
    queue: Arc<Queue>,
    ledger: Ledger,
    order: Arc<Mutex<Order>>,
    dispatch: Arc<dyn Dispatch>,
    metrics: Arc<Metrics>,
    usage: Arc<Mutex<Usage>>,
    /// Deliveries whose count is not in the file yet. There are no more of them than publishers that wait for one.
    uncounted: HashMap<Origin, Delivery>,
    next_retention: Instant,
    /// Whether the last transaction failed. So a full disk causes only one line in the log.
    failing: bool,
    files: FilesInUse,
    next_look: Instant,
    earlier: Arc<EarlierRuns>,
}

/// The reason why the writer ends before it is asked to.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Moved(#[from] Moved),
    /// It is not known which receivers got which events.
    #[error("a dispatch panicked on another thread")]
    Order,
}

/// The state that the writer shares with the store.
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) order: Arc<Mutex<Order>>,
    pub(super) dispatch: Arc<dyn Dispatch>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) usage: Arc<Mutex<Usage>>,
    pub(super) earlier: Arc<EarlierRuns>,
}

impl Writer {
    pub(super) fn new(ledger: Ledger, files: FilesInUse, shared: Shared) -> Self {
        let Shared { queue, order, dispatch, metrics, usage, earlier } = shared;
        let now = Instant::now();
        Self {
            queue,
            ledger,
            order,
            dispatch,
            metrics,
            usage,
            uncounted: HashMap::new(),
            next_retention: now,
            failing: false,
            files,
            next_look: now + FILES_CHECK_INTERVAL,
            earlier,
        }
    }

    /// Runs until the queue is closed and empty. However it ends, no caller waits for it afterwards.
    pub(super) fn run(mut self) {
        let mut alarm = Alarm { queue: Arc::clone(&self.queue), metrics: Arc::clone(&self.metrics), is_broken: true };
        let order = Arc::clone(&self.order);
        let mut ended = Ok(());
        while ended.is_ok() && self.queue.wait(self.next_look.min(self.next_retention)) {
            let begun = Instant::now();
            if self.queue.has_work() || begun >= self.next_look.min(self.next_retention) {
                ended = match order.lock() {
                    Ok(mut order) => self.turn(&mut order).map_err(Broken::from),
                    Err(_poisoned) => Err(Broken::Order),
                };
            }
            if ended.is_ok() {
                // The lock is free here, so publishers of events that need no access to the file do not wait meanwhile.
                self.recall(begun.elapsed());
            }
        }
        alarm.is_broken = self.close(ended).is_err();
    }

    /// Carries out the pending requests and writes.
    fn turn(&mut self, order: &mut Order) -> Result<(), Moved> {
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + FILES_CHECK_INTERVAL;
            self.files.check()?;
            order.tidy();
            self.earlier.tidy(self.ledger.boot_seq() - 1);
        }
        self.carry_out(self.queue.take(), order);
        self.queue.put_down();
        Ok(())
    }

    /// Reads for returning clients, after a turn that took this long. However many reads there are, the next request
    /// waits for one slice only. However slow the disk is, the reads get a fifth of the time.
    fn recall(&self, turn: Duration) {
        let time_up = Instant::now() + (turn / 4).clamp(RECALL_SLICE, RECALL_SLICE_AT_MOST);
        while let Some(mut recall) = self.queue.take_recall() {
            if !recall.go_on(self.ledger.connection(), time_up) {
                self.queue.put_recall_back(recall);
            }
            if Instant::now() >= time_up {
                break;
            }
        }
    }

    /// Closes the journal and the file. If they are broken by then, it logs the reason.
    fn close(mut self, ended: Result<(), Broken>) -> Result<(), Broken> {
        let in_order = if self.order.is_poisoned() { Err(Broken::Order) } else { Ok(()) };
        // Files that were gone and are back still lack the writes of the meantime.
        let ended = self.files.check().map_err(Broken::from).and(ended).and(in_order);
        if let Err(broken) = &ended {
            self.metrics.store_writable.set(0);
            self.queue.close();
            tracing::error!(%broken, "the store has broken down: nothing is accepted until the server is restarted");
        }
        match &ended {
            Err(Broken::Moved(Moved { is_database_there: false, .. })) => {
                mem::forget(self.ledger);
                return ended;
            }
            Err(Broken::Moved(_)) => {}
            Ok(()) | Err(Broken::Order) => {
                if let Err(error) = self.finish() {
                    tracing::error!(%error, "write the last counts to the store");
                }
            }
        }
        let checkpointed = self.ledger.checkpoint();
        if let Err(error) = &checkpointed {
            tracing::error!(%error, "move the write-ahead log into the store's file");
        }
        if ended.is_err() {
            // The process continues with a broken store. No other process may use the folder at the same time.
            mem::forget(self.ledger);
            return ended;
        }
        // After a power failure, a journal that was not closed recovers no client. So the journal is closed only after
        // the store is on the disk. It is not closed if changes of sessions are lost, because their lists are not
        // synchronised.
        if checkpointed.is_ok()
            && self.queue.given_up().sessions == 0
            && let Ok(mut order) = self.order.lock()
        {
            order.close();
        }
        // This comes last: the next process may open the folder from here on.
        if let Err(error) = self.ledger.close() {
            tracing::error!(%error, "close the store");
        }
        ended
    }

    /// Writes the last delivery counts. Nothing else is lost if this fails.
    fn finish(&mut self) -> rusqlite::Result<()> {
        if !self.uncounted.is_empty() {
            self.ledger.write()?;
            self.write_counts()?;
            self.ledger.commit()?;
        }
        Ok(())
    }

    fn carry_out(&mut self, group: Group, order: &mut Order) {
        let Group { requests, lazy, ends_saving } = group;
        let begun = Instant::now();
        match self.commit(&requests, &lazy, &mut order.numbers) {
            Ok(Outcome { mut applied, counted, wrote }) => {
                if wrote && !(requests.is_empty() && lazy.is_empty()) {
                    self.committed(begun.elapsed(), requests.len());
                }
                let usage = Usage { journal_bytes: order.journal_bytes(), ..self.ledger.committed() };
                *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
                self.write_journal(&requests, &mut applied, order);
                let deliveries = self.dispatch(&requests, &applied);
                self.answer(requests, applied, deliveries, order.numbers.peek() - 1);
                // Not earlier: a repeat in this group has read the row without the count.
                for origin in counted {
                    self.uncounted.remove(&origin);
                }
                if ends_saving {
                    self.queue.sessions_written();
                }
            }
            Err(error) => {
                self.failed(&error);
                self.queue.put_back(lazy);
                self.answer_failed(requests, &StoreError::Unavailable(error.to_string().into()), &order.numbers);
            }
        }
    }

    /// Commits the group, or leaves everything unchanged.
    fn commit(&mut self, requests: &[Request], lazy: &Lazy, numbers: &mut Sequence) -> rusqlite::Result<Outcome> {
        numbers.ensure(GROUP_REQUESTS, self.ledger.connection())?;
        let first = numbers.peek();
        let outcome = self.transact(requests, lazy, numbers);
        if outcome.is_err() {
            self.ledger.rollback();
            numbers.take_back(first);
            if self.ledger.may_come_back() {
                // The next group needs a number, so it first reserves a block. This is a transaction of its own. It is
                // written in the place of the failed one, differs from it and is synchronised to the disk. So it makes
                // the failed one void.
                numbers.give_up_block();
            }
        }
        outcome
    }

    fn transact(&mut self, requests: &[Request], lazy: &Lazy, numbers: &mut Sequence) -> rusqlite::Result<Outcome> {
        if !lazy.is_empty() {
            self.ledger.save(lazy)?;
        }
        let applied = requests.iter().map(|request| self.ledger.apply(request, numbers)).collect::<Result<_, _>>()?;
        self.keep_bounds(requests.len())?;
        let wrote = self.ledger.is_in_transaction();
        let counted = if wrote { self.write_counts()? } else { Vec::new() };
        self.ledger.commit()?;
        Ok(Outcome { applied, counted, wrote })
    }

    /// Removes expired rows from time to time, and excess rows in each transaction. Excess rows are removed faster than
    /// they can be added.
    fn keep_bounds(&mut self, requests: usize) -> rusqlite::Result<()> {
        let now = Instant::now();
        if now >= self.next_retention || (self.ledger.is_in_transaction() && self.ledger.is_over_bounds()) {
            // If it fails, it is not tried again at once.
            self.next_retention = now + RETENTION_INTERVAL;
            if self.ledger.enforce_bounds(RETENTION_ROWS + 2 * requests)? {
                self.next_retention = now + RETENTION_AGAIN;
            }
        }
        Ok(())
    }

    fn write_counts(&mut self) -> rusqlite::Result<Vec<Origin>> {
        let mut counted = Vec::new();
        for (origin, delivery) in &self.uncounted {
            if let Some(sockets) = delivery.if_known() {
                self.ledger.set_delivered(origin, sockets)?;
                counted.push(origin.clone());
            }
        }
        Ok(counted)
    }

    /// Writes the events without a row into the journal. If that fails, they are refused.
    fn write_journal(&self, requests: &[Request], applied: &mut [Applied], order: &mut Order) {
        let pairs = requests.iter().zip(applied.iter());
        let events: Vec<(u64, &Envelope)> = pairs.filter_map(|(request, applied)| unkept(request, applied)).collect();
        if let Err(error) = order.write(events.iter().copied()) {
            self.metrics.store_commit_failed();
            self.queue.availability.refused();
            let is_unkept = |seq: u64| events.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
            for applied in applied {
                if matches!(applied, Applied::RoomEvent { seq, .. } if is_unkept(*seq)) {
                    *applied = Applied::Refused(error.clone());
                }
            }
        }
    }

    /// Dispatches the events in order.
    fn dispatch(&self, requests: &[Request], applied: &[Applied]) -> Vec<Delivery> {
        let group: Vec<_> =
            requests.iter().zip(applied).filter_map(|(request, applied)| event(request, applied)).collect();
        if group.is_empty() { Vec::new() } else { self.dispatch.dispatch(&group) }
    }

    /// Answers a group that was carried out. `as_of` is the number of its last event.
    fn answer(&mut self, requests: Vec<Request>, applied: Vec<Applied>, deliveries: Vec<Delivery>, as_of: u64) {
        let mut deliveries = deliveries.into_iter();
        for (request, applied) in requests.into_iter().zip(applied) {
            let delivery = if event(&request, &applied).is_some() { deliveries.next() } else { None };
            // A reply that can't be sent is dropped: its caller no longer waits.
            match (request, applied) {
                (Request::Commit { reply, .. }, Applied::Refused(error)) => drop(reply.send(Err(error))),
                (Request::CheckKey { reply, .. }, Applied::Refused(error)) => drop(reply.send(Err(error))),
                (Request::MarkRead { reply, .. }, Applied::Refused(error)) => drop(reply.send(Err(error))),
                (Request::Revoke { reply, .. }, Applied::Refused(error)) => drop(reply.send(Err(error))),
                (Request::Revoke { reply, .. }, Applied::Revoked(forgotten)) => drop(reply.send(Ok(forgotten))),
                (Request::UndoRevocation { reply, .. }, Applied::Undone(undone)) => drop(reply.send(Ok(undone))),
                (Request::UndoRevocation { reply, .. }, Applied::Refused(error)) => drop(reply.send(Err(error))),
                (Request::CheckKey { reply, .. }, _) => drop(reply.send(Ok(()))),
                (Request::TryToWrite { reply }, _) => drop(reply.send(Ok(()))),
                (Request::Snapshot { reply, .. }, Applied::Snapshot(snapshot)) => drop(reply.send(Ok(snapshot))),
                (Request::Inbox { reply, .. }, Applied::Inbox(inbox)) => drop(reply.send(Ok(inbox))),
                (Request::MarkRead { reply, .. }, Applied::Read { unread, .. }) => drop(reply.send(Ok(unread))),
                (Request::Read(read), _) => read(self.ledger.connection(), as_of),
                (Request::Commit { change, reply }, applied) => {
                    let origin = change.key.as_ref().map(|key| Origin::Receipt(KeyedItem::of(key)));
                    let committed = match applied {
                        Applied::Repeated { receipt: Receipt(id, stored, delivered), first } => Committed {
                            id,
                            stored,
                            repeated: true,
                            delivery: self.first_delivery(&first, origin, delivered),
                        },
                        applied => {
                            let delivery = delivery.unwrap_or_else(|| Delivery::known(0));
                            if let Applied::Notified { seq, .. } = applied {
                                self.uncounted.insert(Origin::Notification(seq), delivery.clone());
                            }
                            if let Some(origin) = origin {
                                self.uncounted.insert(origin, delivery.clone());
                            }
                            let stored = !matches!(applied, Applied::RoomEvent { stored: false, .. });
                            Committed { id: change.id, stored, repeated: false, delivery }
                        }
                    };
                    drop(reply.send(Ok(committed)));
                }
                // No request is applied as another one.
                (
                    Request::MarkRead { .. }
                    | Request::Revoke { .. }
                    | Request::UndoRevocation { .. }
                    | Request::Snapshot { .. }
                    | Request::Inbox { .. },
                    _,
                ) => {}
            }
        }
    }

    /// The delivery of the first publish: the pending delivery itself, if its count is not in the file yet.
    fn first_delivery(&mut self, first: &Origin, origin: Option<Origin>, written: u64) -> Delivery {
        let Some(delivery) = self.uncounted.get(first).cloned() else { return Delivery::known(written) };
        if let Some(origin) = origin {
            self.uncounted.insert(origin, delivery.clone());
        }
        delivery
    }

    /// Answers a group that was not carried out. Requests that only read can still be answered, if the file can be
    /// read.
    fn answer_failed(&self, requests: Vec<Request>, error: &StoreError, numbers: &Sequence) {
        let as_of = numbers.peek() - 1;
        let failed = |error: rusqlite::Error| StoreError::Unavailable(error.to_string().into());
        for request in requests {
            match request {
                Request::Commit { reply, .. } => drop(reply.send(Err(error.clone()))),
                Request::CheckKey { reply, .. } => drop(reply.send(Err(error.clone()))),
                Request::MarkRead { reply, .. } => drop(reply.send(Err(error.clone()))),
                Request::Revoke { reply, .. } => drop(reply.send(Err(error.clone()))),
                Request::UndoRevocation { reply, .. } => drop(reply.send(Err(error.clone()))),
                Request::TryToWrite { reply } => drop(reply.send(Err(error.clone()))),
                Request::Snapshot { media_id, reply } => {
                    let snapshot = media::snapshot(self.ledger.connection(), &media_id, as_of);
                    drop(reply.send(snapshot.map_err(failed)));
                }
                Request::Inbox { user_id, limit, reply } => {
                    let inbox = notifications::inbox(self.ledger.connection(), &user_id, limit, as_of);
                    drop(reply.send(inbox.map_err(failed)));
                }
                Request::Read(read) => read(self.ledger.connection(), as_of),
            }
        }
    }

    fn committed(&mut self, took: Duration, requests: usize) {
        self.metrics.store_committed(took, requests);
        if self.failing {
            self.failing = false;
            self.queue.availability.committed();
            self.metrics.store_writable.set(1);
            tracing::info!("the store can be written again");
        }
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        self.metrics.store_commit_failed();
        self.next_retention = self.next_retention.max(Instant::now() + LAZY_WRITES_AGAIN_AFTER);
        if !self.failing {
            self.failing = true;
            self.queue.availability.failed();
            self.metrics.store_writable.set(0);
            tracing::error!(%error, "commit to the store; publishers are told to try again");
        }
    }
}

/// The outcome of a committed group.
struct Outcome {
    /// The result of each request.
    applied: Vec<Applied>,
    /// The deliveries whose count is in the file now.
    counted: Vec<Origin>,
    /// Whether there was a transaction.
    wrote: bool,
}

/// The event of an applied request, if it has no row.
fn unkept<'a>(request: &'a Request, applied: &Applied) -> Option<(u64, &'a Envelope)> {
    match (request, applied) {
        (Request::Commit { change, .. }, Applied::RoomEvent { seq, kept: false, .. }) => match &change.what {
            ChangeKind::Room(event) => Some((*seq, event)),
            ChangeKind::Media(_) | ChangeKind::Notification(_) => None,
        },
        _ => None,
    }
}

/// The event of an applied request, for clients.
fn event<'a>(request: &'a Request, applied: &'a Applied) -> Option<Dispatched<'a>> {
    let (seq, event) = match (request, applied) {
        (Request::Commit { change, .. }, applied) => {
            let (seq, envelope, effect) = match (&change.what, applied) {
                (ChangeKind::Media(change), Applied::Media { seq, envelope, new_owner }) => {
                    let effect = new_owner
                        .as_ref()
                        .map_or(Effect::None, |owner_id| Effect::OwnerKnown { media_id: &change.media_id, owner_id });
                    (*seq, envelope, effect)
                }
                (ChangeKind::Notification(notification), Applied::Notified { seq, envelope, unread }) => {
                    (*seq, envelope, Effect::Notified { user_id: &notification.user_id, unread: *unread })
                }
                (ChangeKind::Room(envelope), Applied::RoomEvent { seq, .. }) => (*seq, envelope, Effect::None),
                _ => return None,
            };
            (seq, CommittedEvent::Event { envelope, effect })
        }
        (Request::MarkRead { user_id, .. }, Applied::Read { unread, changed: true }) => {
            (unread.as_of, CommittedEvent::Unread { user_id, unread: unread.count })
        }
        _ => return None,
    };
    Some(Dispatched { seq, event })
}

/// Ends the waiting of all callers when the writer ends, and logs an unexpected end.
struct Alarm {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    is_broken: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // This comes before publishers are refused, so that the gauge never contradicts a 503.
        if self.is_broken {
            self.metrics.store_writable.set(0);
        }
        self.queue.abandon();
        if std::thread::panicking() {
            tracing::error!("the store's writer panicked: nothing is accepted until the server is restarted");
        }
        if self.is_broken || self.queue.given_up().sessions > 0 {
            self.queue.sessions_lost();
        }
        self.queue.end(self.is_broken);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::tests::{Silent, options};
    use super::super::{Options, SqliteStore, StoreControl};
    use super::*;

    /// The log output of `run`.
    fn logged(run: impl FnOnce()) -> String {
        let lines = Arc::<Mutex<Vec<u8>>>::default();
        let to = Arc::clone(&lines);
        let writer = move || Lines(Arc::clone(&to));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, run);
        let lines = lines.lock().expect("no test panicked");
        String::from_utf8(lines.clone()).expect("UTF-8")
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panicked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn prepared(options: &Options) -> (SqliteStore, Writer) {
        SqliteStore::prepare(options, Arc::new(Silent), Arc::default()).expect("a store")
    }

    #[test]
    fn a_panic_on_another_thread_is_the_end_and_reported_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (store, writer) = prepared(&options(folder.path()));
        let order = Arc::clone(&writer.order);
        let panicked = std::thread::spawn(move || {
            let _order = order.lock().expect("nobody panicked yet");
            panic!("as the test asks for");
        });
        assert!(panicked.join().is_err());
        let log = logged(|| writer.run());
        assert_eq!(log.matches("the store has broken down").count(), 1, "{log}");
        assert!(log.contains("a dispatch panicked on another thread"), "{log}");
        assert!(store.close_by(Instant::now()).is_broken);
    }

    #[test]
    fn files_that_were_gone_are_the_end_and_reported_once_though_they_are_back() {
        for is_database_there in [true, false] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let (_store, writer) = prepared(&options(folder.path()));
            let moved = Moved { file: "gone.db".into(), is_database_there };
            let mut ended = Ok(());
            let log = logged(|| ended = writer.close(Err(Broken::Moved(moved))));
            assert!(ended.is_err());
            assert_eq!(log.matches("gone.db was deleted or moved").count(), 1, "{log}");
        }
    }

    #[test]
    fn a_store_that_ends_in_order_says_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (store, writer) = prepared(&options(folder.path()));
        writer.queue.close();
        assert_eq!(logged(|| writer.run()), "");
        assert!(!store.close_by(Instant::now()).is_broken);
    }
}
