//! A store in Redis or Valkey, for many nodes.
//!
//! Redis is the log and the state; a node is a cache with sockets. A request is an `operation`. The `worker`, a thread
//! with a runtime of its own, sends the operations in batches, in the order of the calls. The script `apply.lua` carries
//! out a batch as one step: it checks each change, numbers its event, stores what is to be stored, and publishes the
//! event on the channel of its room. A node hears the rooms that it has entered. It dispatches what it hears, in the order
//! of the numbers, and nothing else, not even its own events. [ADR 10](../../../../docs/adr/0010-one-order-in-redis.md) has the
//! reasons.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};
use redis::RedisError;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::{
    Backlog, Before, Bounds, Change, ChangeKind, ClaimedSession, Committed, Dispatch, Ending, IdempotencyKey, Inbox,
    InboxItem, KeptNotification, MediaOwners, MediaSnapshot, MediaUnderWay, NotificationsPage, ReadMark, Replay,
    Revocation, RevocationBound, RevocationStore, Revocations, Revoked, RevokedTokens, Room, RoomInterest, SessionKey,
    SessionRecord, SessionStore, Store, StoreControl, StoreError, UnderWay, Unread, Usage,
};
use crate::contract::time::Moment;
use crate::limits::{STORE_QUEUE_BYTES, STORE_QUEUE_REQUESTS};
use crate::metrics::Metrics;

mod answer;
mod catch_up;
mod check;
mod enforcement;
mod fitness;
mod hand_over;
mod hearing;
mod import;
mod lease;
mod link;
mod message;
mod operation;
mod reconnect;
mod replay;
mod revocations;
mod script;
mod session_record;
mod sessions;
mod shared;
mod target;
mod unsaved;
mod worker;

pub use check::{Report, check};
pub use fitness::{Durability, Unfit};
pub use import::{Import, ImportError, Standing};
pub(crate) use lease::now as system_time;
pub(crate) use link::{Primary, watch_primary};
pub use target::{BadUrl, Target};

use answer::{Answer, Deliveries, KeptReceipt, refusal, state_of, unexpected};
use operation::Operation;
use script::Script;
use shared::Shared;
use worker::{Request, Safety, Worker};

/// The options of a store in Redis.
#[derive(Clone)]
pub struct Options {
    /// The Redis, or the Sentinels that name it.
    pub target: Target,
    /// What the names of keys and channels begin with. Servers with the same prefix are nodes of one cluster.
    pub prefix: String,
    /// The limits of the stored data.
    pub bounds: Bounds,
    /// How long a session is kept after its client has left.
    pub away: Duration,
    /// What the operator says of Redis' durability, if anything.
    pub durability: Option<Durability>,
    /// The number of replicas that must have a change before it is answered.
    pub replicas: usize,
    /// See [`StoreControl::socket_id_key`]. All nodes have the same one.
    pub socket_id_key: [u8; 16],
    /// The tag of this node in the ids that it makes.
    pub node: u32,
    /// The address at which other nodes reach this one, if they do.
    pub address: Option<String>,
    /// The tag of the node that made a socket's id; `None` for other names.
    pub node_of_socket_id: NodeOfSocketId,
}

/// See [`Options::node_of_socket_id`].
pub type NodeOfSocketId = Arc<dyn Fn(&str) -> Option<u32> + Send + Sync>;

impl fmt::Debug for Options {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("prefix", &self.prefix).field("node", &self.node).finish_non_exhaustive()
    }
}

/// The reason why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Redis could not be asked.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// The store can't use this Redis.
    #[error("Redis: {0}")]
    Unfit(#[from] Unfit),
    /// The connection was lost.
    #[error("Redis: the connection was lost")]
    Lost,
    /// The Sentinels do not answer, or do not agree.
    #[error("Redis: most of the Sentinels do not name one primary")]
    NoPrimary,
    /// It can be reached, and is silent.
    #[error("Redis: no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The thread could not be started.
    #[error("start the thread that speaks with Redis: {0}")]
    Thread(#[from] std::io::Error),
}

/// See the module.
pub struct RedisStore {
    requests: Mutex<Option<UnboundedSender<Request>>>,
    boot_seq: u64,
    revocation_bound: RevocationBound,
    socket_id_key: [u8; 16],
    node_of_socket_id: NodeOfSocketId,
    shared: Arc<Shared>,
    /// Resolves when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("boot_seq", &self.boot_seq).finish_non_exhaustive()
    }
}

/// How long a store that is dropped waits for its last answers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The beginning of all keys and channels of a cluster.
fn key_prefix(prefix: &str) -> String {
    // The braces keep all keys in one slot.
    format!("{{{prefix}}}:")
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

impl RedisStore {
    /// Connects. Events of the rooms that the node has entered are handed to `dispatch`.
    ///
    /// # Errors
    /// If Redis can't be used. The error explains it in one line.
    pub(crate) fn open(
        options: &Options,
        dispatch: Arc<dyn Dispatch>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let prefix = key_prefix(&options.prefix);
        let (sender, receiver) = unbounded_channel();
        let (opened, result) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared::new(metrics));
        let worker_shared = Arc::clone(&shared);
        let (bounds, away) = (options.bounds, options.away);
        let (target, safety) =
            (options.target.clone(), Safety { durability: options.durability, replicas: options.replicas });
        let (tag, address) = (options.node, options.address.clone().unwrap_or_default());
        let (end, ended) = std::sync::mpsc::channel();
        let serve = move || {
            // Dropped when the thread ends, also by a panic.
            let _end: Sender<()> = end;
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = opened.send(Err(OpenError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async {
                let node = uuid::Uuid::now_v7().simple().to_string();
                let script = |epoch| Script::new(&prefix, epoch, &node, (tag, &address), (&bounds, away));
                let shared = (dispatch, worker_shared);
                match Worker::connect((target, safety), &prefix, script, receiver, shared).await {
                    Ok((worker, link, last)) => {
                        let _ = opened.send(Ok(last));
                        worker.run(link).await;
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                }
            });
        };
        std::thread::Builder::new().name("redis".to_owned()).spawn(serve)?;
        // Without an answer the thread has panicked, and the panic was logged.
        let last = result.recv().unwrap_or_else(|_gone| Err(std::io::Error::other("it panicked").into()))?;
        Ok(Self {
            requests: Mutex::new(Some(sender)),
            boot_seq: last + 1,
            revocation_bound: options.bounds.revocations,
            socket_id_key: options.socket_id_key,
            node_of_socket_id: Arc::clone(&options.node_of_socket_id),
            shared,
            ended: Mutex::new(ended),
        })
    }

    fn send(&self, request: Request) -> Result<(), StoreError> {
        let Shared { queued, queued_bytes, availability, .. } = &*self.shared;
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = requests.as_ref().ok_or_else(stopped)?;
        let bytes = request.size();
        let is_full = queued.load(Ordering::Relaxed) >= STORE_QUEUE_REQUESTS
            || queued_bytes.load(Ordering::Relaxed) + bytes > STORE_QUEUE_BYTES;
        // A room that is not left would be heard for good.
        if is_full && !matches!(request, Request::Leave(_)) {
            availability.refused();
            return Err(StoreError::Overloaded);
        }
        self.shared.note_queued(bytes);
        requests.send(request).map_err(|_gone| {
            queued.fetch_sub(1, Ordering::Relaxed);
            queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            stopped()
        })
    }

    /// Has an operation carried out, and reads its answer.
    fn ask<T: Send + 'static>(
        &self,
        operation: Operation,
        read: impl FnOnce(Answer, &Deliveries) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let give = move |answer: Result<Answer, StoreError>, deliveries: &Deliveries| {
            let _ = reply.send(answer.and_then(|answer| read(answer, deliveries)));
        };
        if let Err(error) = self.send(Request::Operation(operation, Box::new(give))) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(async { answer.await.unwrap_or_else(|_dropped| Err(stopped())) })
    }

    /// Has an operation carried out that nobody waits for.
    fn tell(&self, operation: Operation) {
        let give = |answer: Result<Answer, StoreError>, _: &Deliveries| {
            if let Err(error) = answer {
                // There are many while Redis can't be reached, and the worker has logged that.
                tracing::debug!(%error, "write to Redis");
            }
        };
        // Without a worker, the server ends.
        let _ = self.send(Request::Operation(operation, Box::new(give)));
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.close_by(Instant::now() + CLOSE_TIMEOUT);
    }
}

/// The answer to a change.
fn committed(
    mut answer: Answer,
    deliveries: &Deliveries,
    change: &Change,
    is_kept: bool,
) -> Result<Committed, StoreError> {
    match answer.outcome() {
        "done" => {
            let seq = answer.number()?;
            let stored = match &change.what {
                ChangeKind::Room(envelope) => envelope.class == crate::contract::delivery::Class::Durable,
                ChangeKind::Media(_) | ChangeKind::Notification(_) => true,
            };
            let stored = stored && is_kept;
            Ok(Committed { id: Arc::clone(&change.id), stored, repeated: false, delivery: deliveries.of(seq) })
        }
        "repeated" => {
            let receipt = KeptReceipt::read(&answer.text()?).ok_or_else(unexpected)?;
            let delivery = deliveries.of(receipt.seq);
            Ok(Committed { id: receipt.id, stored: receipt.stored && is_kept, repeated: true, delivery })
        }
        "refused" => match &change.what {
            ChangeKind::Media(step) => Err(refusal(step, &answer.text()?, change.at)),
            ChangeKind::Room(_) | ChangeKind::Notification(_) => Err(unexpected()),
        },
        "notification id reused" => Err(StoreError::NotificationIdReused),
        _ => Err(key_refused(answer)),
    }
}

/// The reason why an idempotency key was refused.
fn key_refused(mut answer: Answer) -> StoreError {
    match answer.outcome() {
        "key reused" => StoreError::KeyReused,
        "too many keys" => {
            let mut read = || -> Result<_, StoreError> {
                let (of_publisher, limit, wait) = (answer.number()? == 1, answer.number()?, answer.number()?);
                let wait = std::time::Duration::from_millis(wait);
                Ok(StoreError::TooManyKeys { of_publisher, limit, wait })
            };
            read().unwrap_or_else(|error| error)
        }
        _ => unexpected(),
    }
}

/// The rows of notifications: id, number, payload, and whether it is unread.
fn notifications(answer: &mut Answer) -> Result<Vec<(InboxItem, bool)>, StoreError> {
    let read = |mut row: Answer| {
        let (id, seq, payload) = (row.text()?.into(), row.number()?, row.text()?.into());
        Ok((InboxItem { seq, id, payload }, row.number()? == 1))
    };
    answer.rows()?.into_iter().map(read).collect()
}

impl RoomInterest for RedisStore {
    fn has_other_nodes(&self) -> bool {
        true
    }

    fn is_current(&self) -> bool {
        self.shared.lease.is_valid()
    }

    fn enter(&self, rooms: Vec<Room>) -> BoxFuture<'_, Result<(), StoreError>> {
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.send(Request::Enter(rooms, reply)) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(async { answer.await.unwrap_or_else(|_dropped| Err(stopped())) })
    }

    fn leave(&self, room: Room) {
        // Without a worker, no events are dispatched.
        let _ = self.send(Request::Leave(room));
    }
}

impl StoreControl for RedisStore {
    fn socket_id_key(&self) -> [u8; 16] {
        self.socket_id_key
    }

    fn address_of_node(&self, tag: u32) -> Option<Arc<str>> {
        self.shared.nodes().get(&tag).cloned()
    }

    fn set_rules(&self, digest: String) {
        self.shared.set_rules(digest);
    }

    fn close_by(&self, deadline: Instant) -> Ending {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let is_late = ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
        let (requests, sessions) = (self.shared.queued.load(Ordering::Relaxed), self.shared.unsaved().len());
        Ending { unwritten: Backlog { requests, sessions, inboxes: 0 }, is_broken: false, is_late }
    }

    /// Without Redis, nothing can be done about what is in it.
    fn void_sessions(&self) {}
}

impl Store for RedisStore {
    fn boot_seq(&self) -> u64 {
        self.boot_seq
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>> {
        let shared = Arc::clone(&self.shared);
        let operation = Operation::commit(&change, &*self.node_of_socket_id);
        self.ask(operation, move |answer, deliveries| {
            committed(answer, deliveries, &change, shared.is_kept.load(Ordering::Relaxed))
        })
    }

    fn check_key(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(Operation::new("key").key(Some(&key)), |answer, _| match answer.outcome() {
            "done" | "repeated" => Ok(()),
            _ => Err(key_refused(answer)),
        })
    }

    fn media_snapshot(&self, media_id: &str) -> BoxFuture<'_, Result<MediaSnapshot, StoreError>> {
        self.ask(Operation::new("item").text(media_id), |answer, _| {
            let mut answer = answer.done()?;
            let state = match answer.optional()? {
                Some(text) => Some(state_of(&text).ok_or_else(unexpected)?),
                None => None,
            };
            Ok(MediaSnapshot { state, as_of: answer.number()? })
        })
    }

    fn media_owners(&self, media_ids: Vec<Box<str>>) -> BoxFuture<'_, Result<MediaOwners, StoreError>> {
        let operation = Operation::new("owners").number(media_ids.len() as u64);
        let operation = media_ids.iter().fold(operation, |operation, id| operation.text(id));
        self.ask(operation, |answer, _| {
            let owners = answer.done()?.list()?.into_iter().map(|owner| answer::text_of(Some(owner)));
            let known = media_ids.into_iter().zip(owners.collect::<Result<Vec<_>, _>>()?);
            Ok(known.filter(|(_, owner)| !owner.is_empty()).map(|(id, owner)| (id, owner.into())).collect())
        })
    }

    fn newest_media(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.ask(Operation::new("newest item"), |answer, _| answer.done()?.number())
    }

    fn media_under_way(&self, after: u64, until: u64, most: usize) -> BoxFuture<'_, Result<MediaUnderWay, StoreError>> {
        let operation = Operation::new("under way").number(after).number(until).number(most as u64);
        self.ask(operation, |answer, _| {
            let mut answer = answer.done()?;
            let item = |mut row: Answer| Ok(UnderWay { media_id: row.text()?.into(), seq: row.number()? });
            let items = answer.rows()?.into_iter().map(item).collect::<Result<_, StoreError>>()?;
            Ok(MediaUnderWay { items, up_to: answer.number()? })
        })
    }

    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>> {
        let operation = Operation::new("page").text(user_id).text(before.unwrap_or_default()).number(limit as u64);
        self.ask(operation, |answer, _| {
            if answer.outcome() == "unknown" {
                return Err(StoreError::UnknownNotification);
            }
            let mut answer = answer.done()?;
            let (rows, more) = (notifications(&mut answer)?, answer.number()? == 1);
            let next = rows.last().filter(|_| more).map(|(item, _)| Arc::clone(&item.id));
            let kept = |(item, unread): (InboxItem, bool)| KeptNotification { payload: item.payload, read: !unread };
            let notifications = rows.into_iter().map(kept).collect();
            let unread = Unread { count: answer.number()?, as_of: answer.number()? };
            Ok(NotificationsPage { notifications, next, unread })
        })
    }

    fn inbox(&self, user_id: &str, limit: usize) -> BoxFuture<'_, Result<Inbox, StoreError>> {
        self.ask(Operation::new("inbox").text(user_id).number(limit as u64), |answer, _| {
            let mut answer = answer.done()?;
            let (rows, more) = (notifications(&mut answer)?, answer.number()? == 1);
            let undelivered = rows.into_iter().map(|(item, _)| item).collect();
            Ok(Inbox { undelivered, more, unread: answer.number()?, as_of: answer.number()? })
        })
    }

    fn received(&self, user_id: &str, up_to: u64) {
        self.tell(Operation::new("received").text(user_id).number(up_to));
    }

    fn mark_read(&self, user_id: &str, mark: ReadMark) -> BoxFuture<'_, Result<Unread, StoreError>> {
        self.ask(Operation::read(user_id, &mark), |answer, _| match answer.outcome() {
            "unknown" => Err(StoreError::UnknownNotification),
            _ => {
                let mut answer = answer.done()?;
                Ok(Unread { count: answer.number()?, as_of: answer.number()? })
            }
        })
    }

    fn replay(
        &self,
        namespace: &'static str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Replay, StoreError>> {
        // Lua has no larger whole numbers.
        let until = until.min(1 << 53);
        let operation = replay::operation(namespace, &rooms, after, until);
        self.ask(operation, move |answer, _| replay::read(answer, namespace, &rooms, after, until))
    }

    fn is_watching(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.ask(Operation::new("watch"), |answer, _| Ok(answer.done()?.number()? == 1))
    }

    fn writable_since(&self) -> BoxFuture<'_, Result<Instant, StoreError>> {
        if let Some(since) = self.shared.availability.since() {
            return Box::pin(ready(Ok(since)));
        }
        let shared = Arc::clone(&self.shared);
        self.ask(Operation::new("nothing"), move |answer, _| {
            answer.done()?;
            shared.availability.since().ok_or_else(|| StoreError::Unavailable("a batch has failed".into()))
        })
    }

    fn is_open(&self) -> bool {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    fn usage(&self) -> Usage {
        let usage = *self.shared.usage.lock().unwrap_or_else(PoisonError::into_inner);
        Usage { queued: self.shared.queued.load(Ordering::Relaxed) as u64, ..usage }
    }
}

#[cfg(test)]
mod tests;
