//! The thread that speaks with Redis. It sends operations in batches, in the order of the calls, and dispatches what it
//! hears.
//!
//! One batch is on its way at a time. Its answers are given when the mark behind it was heard, so that everything up to
//! them was dispatched. If a connection is lost, or a mark does not come, both connections are made anew. The batch that was
//! on its way is sent again: by its number Redis recognises it, and gives the answers that were lost. What was published
//! meanwhile is read from the logs of the rooms, before anything else is dispatched. If Redis has lost events that this node
//! has dispatched, or events that it has not heard are gone, the store is broken.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, RedisError, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};

use super::super::availability::Availability;
use super::super::{Amount, Dispatch, Room, SessionKey, StoreError, Usage};
use super::OpenError;
use super::answer::{Answer, Reply};
use super::catch_up;
use super::fitness::Durability;
use super::hearing::{Batch, Hearing, MARK_TIMEOUT};
use super::link::{Link, Order, is_refusal, lacks_function};
use super::operation::Operation;
use super::script::Script;
use super::unsaved::Unsaved;

/// A request to the worker.
pub(super) enum Request {
    /// An operation to carry out.
    Operation(Operation, Reply),
    /// See [`RoomInterest::enter`](super::super::RoomInterest::enter).
    Enter(Vec<Room>, oneshot::Sender<Result<(), StoreError>>),
    /// See [`RoomInterest::leave`](super::super::RoomInterest::leave).
    Leave(Room),
}

impl Request {
    /// The bytes that it takes, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Operation(operation, _) => operation.size(),
            Self::Enter(rooms, _) => rooms.iter().map(|Room { room, .. }| room.len() + 32).sum(),
            Self::Leave(Room { room, .. }) => room.len() + 32,
        }
    }
}

/// The most operations of a batch. Redis serves nobody else meanwhile.
const BATCH_OPERATIONS: usize = 256;

/// The most bytes of a batch, unless one operation alone has more.
const BATCH_BYTES: usize = 1 << 20;

/// How often the stored amounts are looked at. The mark behind this batch shows that the connections are alive.
const USAGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long requests wait for a lost connection. Then they are answered that the store is unavailable.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// What the worker shares with the store.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The number of requests that wait, and their bytes.
    pub(super) queued: AtomicUsize,
    pub(super) queued_bytes: AtomicUsize,
    /// The stored amounts as of the last look at them.
    pub(super) usage: Mutex<Usage>,
    pub(super) availability: Availability,
    unsaved: Mutex<Unsaved>,
    /// Whether Redis keeps what is to be stored.
    pub(super) is_kept: AtomicBool,
    /// Whether the node has lost its order, or events of it.
    pub(super) is_broken: AtomicBool,
}

impl Shared {
    pub(super) fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        // No code under this lock panics half way.
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the confirmation of a session's changes.
    pub(super) fn when_saved(self: &Arc<Self>, key: SessionKey, number: u64) -> Reply {
        let shared = Arc::clone(self);
        Box::new(move |answer, _| {
            if answer.and_then(Answer::done).is_ok() {
                shared.unsaved().confirmed(&key, number);
            }
        })
    }
}

/// See the module.
pub(super) struct Worker {
    client: Client,
    /// What the operator says that Redis does.
    durability: Option<Durability>,
    script: Script,
    rooms: HashSet<Room>,
    requests: UnboundedReceiver<Request>,
    shared: Arc<Shared>,
    usage_due: Instant,
    /// The number of the last batch.
    number: u64,
    hearing: Hearing,
}

/// Rooms to enter, and whom to tell.
type Entering = (Vec<Room>, oneshot::Sender<Result<(), StoreError>>);

/// The reason why a link is served no longer.
enum Ended {
    /// There will be no more requests.
    Closed,
    /// A connection is lost.
    Lost,
    /// The order in Redis is another, or events are gone.
    Broken(&'static str),
}

const LOST_EVENTS: Ended = Ended::Broken("Redis has lost events that this node has dispatched, or was emptied");

impl Worker {
    /// Connects, and begins the order if there is none. Returns the worker, its connections, and the last number.
    pub(super) async fn connect(
        (client, durability): (Client, Option<Durability>),
        prefix: &str,
        script: impl FnOnce(String) -> Script,
        requests: UnboundedReceiver<Request>,
        (dispatch, shared): (Arc<dyn Dispatch>, Arc<Shared>),
    ) -> Result<(Self, Link, u64), OpenError> {
        let (mut link, Order { epoch, last, .. }, found) = Link::open(&client, prefix, "").await?;
        shared.is_kept.store(found.keeps(durability), Ordering::Relaxed);
        let script = script(epoch);
        link.load(script.text()).await?;
        link.subscribe(&[script.own_channel().to_owned()]).await?;
        let hearing = Hearing::new(script.node(), script.own_channel(), last, dispatch);
        let (rooms, usage_due) = (HashSet::new(), Instant::now());
        Ok((Self { client, durability, script, rooms, requests, shared, usage_due, number: 0, hearing }, link, last))
    }

    /// Serves requests until there can be none any more.
    pub(super) async fn run(mut self, mut link: Link) {
        loop {
            let reason = match self.serve_link(&mut link).await {
                Ended::Closed => return,
                Ended::Broken(reason) => reason,
                Ended::Lost => {
                    tracing::warn!("the connection to Redis is lost");
                    self.shared.availability.failed();
                    match self.reconnect().await {
                        Ok(again) => {
                            tracing::info!("connected to Redis again");
                            link = again;
                            continue;
                        }
                        Err(Ended::Broken(reason)) => reason,
                        Err(_) => return,
                    }
                }
            };
            tracing::error!(reason, "the store is broken");
            self.shared.availability.failed();
            self.shared.is_broken.store(true, Ordering::Relaxed);
            self.hearing.failed(&lost());
            while let Some(request) = self.requests.recv().await {
                self.refuse(request);
            }
            return;
        }
    }

    async fn serve_link(&mut self, link: &mut Link) -> Ended {
        loop {
            let due = self.hearing.mark_due();
            let mark_is_late = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let served = tokio::select! {
                heard = link.hear() => match heard {
                    Some(heard) => {
                        self.hearing.hear(heard);
                        Ok(())
                    }
                    None => return Ended::Lost,
                },
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(link, Some(request)).await,
                    None => return self.finish(link).await,
                },
                () = sleep_until(self.usage_due.into()) => self.serve(link, None).await,
                () = mark_is_late => {
                    // It may be among what was not looked at yet.
                    while let Some(heard) = link.try_hear() {
                        self.hearing.hear(heard);
                    }
                    if self.hearing.mark_due().is_some_and(|due| due <= Instant::now()) {
                        return Ended::Lost;
                    }
                    Ok(())
                }
            };
            if let Err(ended) = served {
                return ended;
            }
        }
    }

    /// Answers a request that it is not carried out. A room is left all the same: the next connection does not hear it.
    fn refuse(&mut self, request: Request) {
        self.note_taken(&request);
        match request {
            Request::Operation(_, reply) => reply(Err(lost()), self.hearing.deliveries()),
            Request::Enter(_, reply) => drop(reply.send(Err(lost()))),
            Request::Leave(room) => drop(self.rooms.remove(&room)),
        }
    }

    fn note_taken(&self, request: &Request) {
        self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        self.shared.queued_bytes.fetch_sub(request.size(), Ordering::Relaxed);
    }

    /// Gives the last answers.
    async fn finish(&mut self, link: &mut Link) -> Ended {
        let heard = async {
            while self.hearing.has_answers() {
                let Some(heard) = link.hear().await else { return };
                self.hearing.hear(heard);
            }
        };
        // After that, their callers learn that the store is closed.
        let _ = timeout(MARK_TIMEOUT, heard).await;
        Ended::Closed
    }

    /// Serves a request, together with those that wait already.
    async fn serve(&mut self, link: &mut Link, first: Option<Request>) -> Result<(), Ended> {
        let (mut operations, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        let mut next = first;
        while let Some(request) = next.take() {
            self.note_taken(&request);
            bytes += request.size();
            match request {
                Request::Operation(operation, reply) => {
                    operations.push(operation);
                    replies.push(reply);
                }
                Request::Enter(rooms, reply) => {
                    left.retain(|room| !rooms.contains(room));
                    entered.push((rooms, reply));
                }
                Request::Leave(room) => left.push(room),
            }
            if operations.len() < BATCH_OPERATIONS && bytes < BATCH_BYTES {
                next = self.requests.try_recv().ok();
            }
        }
        let has_entered = !entered.is_empty();
        let changed = self.change_rooms(link, &entered, left).await;
        if has_entered {
            // The mark behind it shows that everything before was dispatched.
            operations.push(Operation::new("nothing"));
            replies.push(Box::new(|answer: Result<Answer, StoreError>, _: &_| {
                let result = answer.map(|_| ());
                entered.into_iter().for_each(|(_, reply)| drop(reply.send(result.clone())));
            }));
        }
        if self.usage_due <= Instant::now() {
            self.usage_due = Instant::now() + USAGE_INTERVAL;
            operations.push(Operation::new("usage"));
            replies.push(self.note_usage());
        }
        if operations.is_empty() {
            return changed;
        }
        self.number += 1;
        self.hearing.begin(Batch { number: self.number, operations, replies });
        // Without this connection, the next one carries it out.
        changed?;
        self.carry_out(link).await
    }

    /// Hears these rooms from the confirmation on, and those no longer.
    async fn change_rooms(&mut self, link: &mut Link, entered: &[Entering], left: Vec<Room>) -> Result<(), Ended> {
        let mut new: Vec<&Room> = entered.iter().flat_map(|(rooms, _)| rooms).collect();
        new.retain(|room| !self.rooms.contains(*room));
        let channels: Vec<String> = new.iter().map(|room| self.script.channel_of(room)).collect();
        let mut result = link.subscribe(&channels).await;
        // Without this connection, the next one hears them, and what was published meanwhile is read.
        self.rooms.extend(new.into_iter().cloned());
        for room in left.into_iter().filter(|room| self.rooms.contains(room)).collect::<HashSet<_>>() {
            self.rooms.remove(&room);
            if result.is_ok() {
                result = link.unsubscribe(&self.script.channel_of(&room)).await;
            }
        }
        // The next connection hears exactly the rooms of the list.
        result.map_err(|_error| Ended::Lost)
    }

    /// Connects again. Requests that have waited for too long are refused meanwhile.
    async fn reconnect(&mut self) -> Result<Link, Ended> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.connect_again().await {
                Err(Ended::Lost) => {}
                result => return result,
            }
            if Instant::now() >= patience {
                self.hearing.failed(&lost());
                while let Ok(request) = self.requests.try_recv() {
                    self.refuse(request);
                }
            }
            if self.requests.is_closed() && self.requests.is_empty() {
                return Err(Ended::Closed);
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Connects, hears the rooms again, and dispatches what was missed, then what has come since.
    async fn connect_again(&mut self) -> Result<Link, Ended> {
        let lost = |error: RedisError| {
            tracing::debug!(%error, "connect to Redis");
            Ended::Lost
        };
        let opened = Link::open(&self.client, self.script.prefix(), self.script.epoch()).await;
        let (mut link, Order { epoch, ended, .. }, found) = opened.map_err(|error| {
            match &error {
                OpenError::Unfit(reason) => tracing::warn!(%reason, "Redis is not used"),
                error => tracing::debug!(%error, "connect to Redis"),
            }
            Ended::Lost
        })?;
        self.shared.is_kept.store(found.keeps(self.durability), Ordering::Relaxed);
        if epoch != self.script.epoch() {
            if ended.is_none_or(|ended| ended < self.hearing.dispatched()) {
                return Err(LOST_EVENTS);
            }
            // Whether the batch on its way belongs to the term that has ended is not known.
            self.hearing.failed(&StoreError::Unavailable("Redis was restarted".into()));
            self.script.set_epoch(epoch);
        }
        self.hearing.hold_back();
        link.load(self.script.text()).await.map_err(lost)?;
        let rooms: Vec<Room> = self.rooms.iter().cloned().collect();
        let own = std::iter::once(self.script.own_channel().to_owned());
        let channels: Vec<String> = own.chain(rooms.iter().map(|room| self.script.channel_of(room))).collect();
        link.subscribe(&channels).await.map_err(lost)?;
        // What this batch has published, if it was carried out, is among the missed events.
        self.carry_out(&mut link).await?;
        // At least once, for the mark.
        let chunks = rooms.chunks(catch_up::ROOMS_AT_ONCE).chain(rooms.is_empty().then_some(&[][..]));
        for some in chunks {
            self.number += 1;
            let operation = catch_up::operation(some, self.hearing.dispatched());
            let command = self.script.command(self.number, &[operation]);
            let value = link.commands().send_packed_command(&command).await.and_then(Value::extract_error);
            let answer = answers_of(value.map_err(lost)?).ok().and_then(|answers| answers.into_iter().next());
            let answer = answer.and_then(|answer| Answer::of(answer).ok()).ok_or(Ended::Lost)?;
            if !self.hearing.missed(answer).map_err(|_unexpected| Ended::Lost)? {
                return Err(Ended::Broken("events that this node has not heard are gone"));
            }
        }
        // What was published between these reads is heard before the mark of the last.
        let number = self.number;
        let heard = async {
            while !self.hearing.has_heard(number) {
                self.hearing.hear(link.hear().await?);
            }
            Some(())
        };
        timeout(MARK_TIMEOUT, heard).await.ok().flatten().ok_or(Ended::Lost)?;
        self.hearing.go_on();
        self.save_unsaved(&mut link).await?;
        if self.shared.availability.since().is_none() {
            self.shared.availability.committed();
        }
        Ok(link)
    }

    /// Sends the batch, and goes on hearing until it is answered.
    async fn carry_out(&mut self, link: &mut Link) -> Result<(), Ended> {
        let Some(batch) = self.hearing.under_way() else { return Ok(()) };
        let command = self.script.command(batch.number, &batch.operations);
        let mut commands = link.commands();
        let mut sent = std::pin::pin!(commands.send_packed_command(&command));
        let result = loop {
            tokio::select! {
                result = &mut sent => break result,
                heard = link.hear() => match heard {
                    Some(heard) => self.hearing.hear(heard),
                    None => return Err(Ended::Lost),
                },
            }
        };
        match result.and_then(Value::extract_error) {
            Ok(value) => {
                if self.shared.availability.since().is_none() {
                    self.shared.availability.committed();
                }
                self.hearing.answered(answers_of(value));
                Ok(())
            }
            Err(error) if lacks_function(&error) => {
                // The next connection loads it.
                Err(Ended::Lost)
            }
            // Another node has met another Redis.
            Err(error) if error.code() == Some("FENCE") => Err(Ended::Lost),
            Err(error) if is_refusal(&error) => {
                self.shared.availability.failed();
                self.hearing.failed(&StoreError::Unavailable(error.to_string().into()));
                Ok(())
            }
            Err(_) => Err(Ended::Lost),
        }
    }

    /// Sends the changes of sessions that were not confirmed. Those that also wait in the queue come after them, so that the
    /// last change of a session is the last that is carried out.
    async fn save_unsaved(&mut self, link: &mut Link) -> Result<(), Ended> {
        let unsaved = self.shared.unsaved().all();
        for some in unsaved.chunks(BATCH_OPERATIONS) {
            let (mut operations, mut replies) = (Vec::new(), Vec::<Reply>::new());
            for (key, number, changes) in some {
                // Only the last of them confirms all.
                replies.extend(changes.iter().skip(1).map(|_| Box::new(|_, _: &_| ()) as Reply));
                replies.push(self.shared.when_saved(*key, *number));
                operations.extend(changes.iter().cloned());
            }
            self.number += 1;
            self.hearing.begin(Batch { number: self.number, operations, replies });
            self.carry_out(link).await?;
        }
        Ok(())
    }

    /// Takes the stored amounts out of an answer.
    fn note_usage(&self) -> Reply {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer, _| {
            let read = |mut answer: Answer| {
                let rows = |rows| Amount { rows, bytes: 0 };
                let (media, sessions) = (rows(answer.number()?), rows(answer.number()?));
                let (idempotency_keys, revocations) = (answer.number()?, rows(answer.number()?));
                Ok::<_, StoreError>(Usage { media, sessions, idempotency_keys, revocations, ..Usage::default() })
            };
            if let Ok(read) = answer.and_then(read) {
                *shared.usage.lock().unwrap_or_else(PoisonError::into_inner) = read;
            }
        })
    }
}

/// The answers out of the answer to a batch.
fn answers_of(value: Value) -> Result<Vec<Value>, StoreError> {
    Answer::row(value)?.list()
}

fn lost() -> StoreError {
    StoreError::Unavailable("Redis is lost".into())
}
