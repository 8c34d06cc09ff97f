//! A store in one SQLite file, for one server.
//!
//! A `request` enters the `queue` in the order of the calls. One thread, the `writer`, takes the queued requests,
//! applies them to the `ledger` in one transaction, commits, dispatches and answers. An event without a row is written
//! to the `journal` and dispatched by the thread that commits it, unless a request is queued before it. Events that
//! returning clients missed in earlier runs are read (`replay`) in slices between two turns of the writer.
//!
//! `media`, `log`, `notifications`, `sessions` and `receipts` are the tables (`schema`). `retention` removes their old
//! rows. `sequence` has the event numbers; `order` has these and the journal. `files` detects that the file is gone.
//! `unsaved` tells the next process which sessions are outdated.
//!
//! Durability depends on the disk: see [`StoreSync`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use futures_util::future::{BoxFuture, ready};
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Change, ChangeKind, Committed, CommittedEvent, Dispatch, Dispatched, Effect, Ending, IdempotencyKey, Inbox,
    MediaOwners, MediaSnapshot, MediaUnderWay, NotificationsPage, ReadMark, Replay, Revocation, RevocationStore,
    Revocations, Revoked, RevokedTokens, RoomInterest, SessionKey, SessionRecord, SessionStore, Store, StoreControl,
    StoreError, Unread, Usage,
};
use crate::contract::delivery::Class;
use crate::contract::time::Moment;
use crate::limits::RECALLS;
use crate::metrics::Metrics;

mod export;
mod files;
mod journal;
mod lazy;
mod ledger;
mod log;
mod media;
mod notifications;
mod open;
mod order;
mod queue;
mod receipts;
mod replay;
mod request;
mod retention;
mod revocations;
mod schema;
mod sequence;
mod sessions;
#[cfg(test)]
pub(crate) mod tests;
mod unsaved;
mod writer;

pub use export::Folder;
use files::FilesInUse;
use journal::{EarlierRuns, Journal, Run};
use lazy::{Left, SessionChange};
use ledger::Ledger;
pub use open::{OpenError, Options, StoreSync};
use order::Order;
use queue::Queue;
use replay::ReplayRead;
use request::{Recall, Reply, Request};
use sequence::Sequence;
use unsaved::{Found, Unsaved};
use writer::{Shared, Writer};

/// See the module.
pub struct SqliteStore {
    queue: Arc<Queue>,
    /// Only the holder of this lock dispatches. The writer holds it from before it takes requests out of the queue
    /// until it has answered them.
    order: Arc<Mutex<Order>>,
    dispatch: Arc<dyn Dispatch>,
    boot_seq: u64,
    earlier: Arc<EarlierRuns>,
    /// The permits of reads for returning clients. Each read holds one.
    recall_permits: Arc<Semaphore>,
    socket_id_key: [u8; 16],
    /// The usage as of the last commit.
    usage: Arc<Mutex<Usage>>,
    metrics: Arc<Metrics>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("boot_seq", &self.boot_seq).finish_non_exhaustive()
    }
}

/// The reason why an operation on the tables did not finish.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// A rule forbids the operation. The transaction continues.
    #[error(transparent)]
    Refused(#[from] StoreError),
    /// The file has an error. The transaction is over.
    #[error(transparent)]
    Broken(#[from] rusqlite::Error),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(error) => error,
            Failed::Broken(error) => Self::Unavailable(error.to_string().into()),
        }
    }
}

impl SqliteStore {
    /// Opens the file, or creates it. Committed events are handed to `dispatch`.
    ///
    /// # Errors
    /// If the file can't be used. The error explains it in one line.
    pub fn open(options: &Options, dispatch: Arc<dyn Dispatch>, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let (store, writer) = Self::prepare(options, dispatch, metrics)?;
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(|error| OpenError::File { file: options.folder.clone(), error })?;
        *store.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(store)
    }

    /// Prepares everything except the thread that runs the writer.
    fn prepare(
        options: &Options,
        dispatch: Arc<dyn Dispatch>,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Writer), OpenError> {
        let connection = open::open(options)?;
        let socket_id_key = open::secret(&connection, "socket ids", options)?;
        let unusable = |error| OpenError::of(&error, &options.folder);
        let numbers = Sequence::begin(&connection).map_err(unusable)?;
        let boot_seq = numbers.peek();
        let inaccessible = |error| OpenError::File { file: options.folder.clone(), error };
        let run = Run { boot_seq, previous: Sequence::previous_run(&connection).map_err(unusable)? };
        let (journal, earlier) = Journal::open(&options.folder, run, options.journal).map_err(inaccessible)?;
        Sequence::note_run(&connection, boot_seq).map_err(unusable)?;
        let earlier = Arc::new(EarlierRuns::new(earlier, Instant::now() + options.journal));
        let order = Arc::new(Mutex::new(Order::new(numbers, journal)));
        let files = FilesInUse::note(&options.folder).map_err(inaccessible)?;
        match Found::read(&options.folder).map_err(inaccessible)? {
            Found::Sessions(keys) => sessions::remove_each(&connection, &keys),
            Found::All => sessions::remove_all(&connection),
        }
        .map_err(unusable)?;
        let unsaved = Unsaved::begin(&options.folder).map_err(inaccessible)?;
        let ledger = Ledger::new(connection, options.bounds, boot_seq).map_err(unusable)?;
        let queue = Arc::new(Queue::new(Some(unsaved)));
        let usage = Arc::new(Mutex::new(ledger.committed()));
        let shared = Shared {
            queue: Arc::clone(&queue),
            order: Arc::clone(&order),
            dispatch: Arc::clone(&dispatch),
            metrics: Arc::clone(&metrics),
            usage: Arc::clone(&usage),
            earlier: Arc::clone(&earlier),
        };
        let writer = Writer::new(ledger, files, shared);
        metrics.store_writable.set(1);
        let thread = Mutex::default();
        let recall_permits = Arc::new(Semaphore::new(RECALLS));
        let store = Self {
            queue,
            order,
            dispatch,
            boot_seq,
            earlier,
            recall_permits,
            socket_id_key,
            usage,
            metrics,
            writer: thread,
        };
        Ok((store, writer))
    }

    /// Carries out the queued requests, and closes the file. Later requests get [`StoreError::Unavailable`].
    pub fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // The panic was already logged.
            let _ = writer.join();
        }
    }

    /// Commits, without the writer, a change that needs no access to the file, unless requests are queued before it.
    fn commit_here(&self, change: &Change) -> Option<Result<Committed, StoreError>> {
        let event = match &change.what {
            ChangeKind::Room(event) if event.class != Class::Durable && change.key.is_none() => event,
            _ => return None,
        };
        let mut order = self.order.try_lock().ok()?;
        if order.numbers.left() == 0 || order.is_slow(event) || !self.queue.is_idle() {
            return None;
        }
        let seq = order.numbers.next();
        if let Err(error) = order.write([(seq, event)]) {
            self.metrics.store_commit_failed();
            self.queue.availability.refused();
            return Some(Err(error));
        }
        let event = CommittedEvent::Event { envelope: event, effect: Effect::None };
        let delivery = self.dispatch.dispatch(&[Dispatched { seq, event }]).pop()?;
        Some(Ok(Committed { id: Arc::clone(&change.id), stored: false, repeated: false, delivery }))
    }

    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.queue.push(request(reply)) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(async { answer.await.unwrap_or_else(|_dropped| Err(queue::stopped())) })
    }

    /// Reads committed data, after all earlier requests.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Failed> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        self.read_as_of(|connection, _| read(connection))
    }

    /// Like [`read`](Self::read), with the number of the last event before it.
    fn read_as_of<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, u64) -> Result<T, Failed> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        self.ask(|reply| {
            Request::Read(Box::new(move |connection, as_of| {
                let _ = reply.send(read(connection, as_of).map_err(StoreError::from));
            }))
        })
    }

    /// Reads, in slices, data that no commit of this run changes. The read runs beside other requests and takes no
    /// position in the order. `read` is called again for as long as it returns `None`.
    fn recall<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&Connection, Instant) -> rusqlite::Result<Option<T>> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel::<Result<T, StoreError>>();
        let mut reply = Some(reply);
        let read = move |connection: &Connection, time_up: Instant| {
            // The caller no longer waits for the answer.
            if reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return true;
            }
            let Some(answer) = read(connection, time_up).map_err(|error| Failed::from(error).into()).transpose() else {
                return false;
            };
            if let Some(reply) = reply.take() {
                let _ = reply.send(answer);
            }
            true
        };
        let (queue, permits) = (Arc::clone(&self.queue), Arc::clone(&self.recall_permits));
        let mut read = Some(read);
        let mut push = move |permit| read.take().map_or(Ok(()), |read| queue.push_recall(Recall::new(read, permit)));
        let at_once = Arc::clone(&permits).try_acquire_owned().ok().map(&mut push);
        Box::pin(async move {
            match at_once {
                Some(pushed) => pushed?,
                // Permits are given in the order of the calls. The semaphore is never closed.
                None => push(permits.acquire_owned().await.map_err(|_closed| queue::stopped())?)?,
            }
            answer.await.unwrap_or_else(|_dropped| Err(queue::stopped()))
        })
    }

    fn count_dropped(&self, kept: bool) {
        if !kept {
            self.metrics.store_write_dropped();
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl StoreControl for SqliteStore {
    fn socket_id_key(&self) -> [u8; 16] {
        self.socket_id_key
    }

    fn close_by(&self, deadline: Instant) -> Ending {
        self.queue.close();
        // The thread may hang in a write that never returns, so nothing may wait for it after this.
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.queue.wait_for_end(deadline)
    }

    fn void_sessions(&self) {
        self.queue.sessions_lost();
    }
}

impl Store for SqliteStore {
    fn boot_seq(&self) -> u64 {
        self.boot_seq
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>> {
        match self.commit_here(&change) {
            Some(committed) => Box::pin(ready(committed)),
            None => self.ask(|reply| Request::Commit { change, reply }),
        }
    }

    fn check_key(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|reply| Request::CheckKey { key, reply })
    }

    fn media_snapshot(&self, media_id: &str) -> BoxFuture<'_, Result<MediaSnapshot, StoreError>> {
        let media_id = media_id.into();
        self.ask(|reply| Request::Snapshot { media_id, reply })
    }

    fn media_owners(&self, media_ids: Vec<Box<str>>) -> BoxFuture<'_, Result<MediaOwners, StoreError>> {
        let (mut owners, mut media_ids) = (Vec::new(), media_ids.into_iter());
        self.recall(move |connection, time_up| {
            for media_id in media_ids.by_ref() {
                if let Some(owner) = media::owner(connection, &media_id)? {
                    owners.push((media_id, owner));
                }
                if Instant::now() >= time_up {
                    return Ok(None);
                }
            }
            Ok(Some(std::mem::take(&mut owners)))
        })
    }

    fn newest_media(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.read(|connection| Ok(media::newest(connection)?))
    }

    fn media_under_way(&self, after: u64, until: u64, most: usize) -> BoxFuture<'_, Result<MediaUnderWay, StoreError>> {
        self.read(move |connection| Ok(media::under_way(connection, after, until, most)?))
    }

    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>> {
        let (user_id, before) = (user_id.to_owned(), before.map(str::to_owned));
        self.read_as_of(move |connection, as_of| {
            notifications::page(connection, &user_id, before.as_deref(), limit, as_of)
        })
    }

    fn inbox(&self, user_id: &str, limit: usize) -> BoxFuture<'_, Result<Inbox, StoreError>> {
        let user_id = user_id.into();
        self.ask(|reply| Request::Inbox { user_id, limit, reply })
    }

    fn received(&self, user_id: &str, up_to: u64) {
        self.count_dropped(self.queue.put_received(&user_id.into(), up_to));
    }

    fn mark_read(&self, user_id: &str, mark: ReadMark) -> BoxFuture<'_, Result<Unread, StoreError>> {
        let user_id = user_id.into();
        self.ask(|reply| Request::MarkRead { user_id, mark, reply })
    }

    fn replay(
        &self,
        namespace: &'static str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Replay, StoreError>> {
        let mut replay = ReplayRead::new(self.earlier.get(), namespace, rooms, after, until);
        self.recall(move |connection, time_up| replay.go_on(connection, time_up))
    }

    fn writable_since(&self) -> BoxFuture<'_, Result<Instant, StoreError>> {
        if let Some(since) = self.queue.availability.since() {
            return Box::pin(ready(Ok(since)));
        }
        let tried = self.ask(|reply| Request::TryToWrite { reply });
        Box::pin(async move {
            tried.await?;
            self.queue.availability.since().ok_or_else(|| StoreError::Unavailable("a commit has failed".into()))
        })
    }

    fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    fn usage(&self) -> Usage {
        let usage = *self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        Usage { queued: self.queue.len() as u64, recalls: self.queue.recalls() as u64, ..usage }
    }
}

impl RoomInterest for SqliteStore {}

impl SessionStore for SqliteStore {
    fn save_session(&self, session: SessionRecord) -> Option<BoxFuture<'static, ()>> {
        self.count_dropped(self.queue.put_session(session.key, SessionChange::Saved(session)));
        None
    }

    fn session_left(&self, key: SessionKey, since_seq: u64) {
        let left = Left { at: Moment::now(), since_seq };
        self.count_dropped(self.queue.put_session(key, SessionChange::Left(left)));
    }

    fn sessions_confirmed(&self, up_to: u64) {
        self.queue.put_confirmed(up_to);
    }

    fn forget_session(&self, key: SessionKey) {
        self.count_dropped(self.queue.put_session(key, SessionChange::Forgotten));
    }

    fn session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>> {
        match self.queue.pending_session(&key) {
            Some(session) => Box::pin(ready(Ok(session))),
            None => {
                let (queue, earlier, boot_seq) = (Arc::clone(&self.queue), self.earlier.get(), self.boot_seq);
                self.recall(move |connection, _| {
                    // A change that the writer had taken but could not write.
                    if let Some(session) = queue.pending_session(&key) {
                        return Ok(Some(session));
                    }
                    let Some((mut session, run)) = sessions::find(connection, &key)? else { return Ok(Some(None)) };
                    if run != boot_seq && session.left_at.is_none() {
                        session.left_at = earlier.end_of(run);
                        return Ok(Some(Some(session).filter(|session| session.left_at.is_some())));
                    }
                    Ok(Some(Some(session)))
                })
            }
        }
    }
}

impl RevocationStore for SqliteStore {
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'_, Result<RevokedTokens, StoreError>> {
        let evicted = self.ask(|reply| Request::Revoke { revocation, reply });
        Box::pin(async { evicted.await.map(RevokedTokens::from) })
    }

    fn undo_revocation(&self, subject: Revoked) -> BoxFuture<'_, Result<Option<Revocation>, StoreError>> {
        self.ask(|reply| Request::UndoRevocation { subject, reply })
    }

    fn revocations(&self) -> BoxFuture<'_, Result<Revocations, StoreError>> {
        self.read(|connection| Ok(revocations::all(connection)?))
    }
}
