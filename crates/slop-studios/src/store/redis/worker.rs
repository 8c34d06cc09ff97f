//! The thread that speaks with Redis. It sends operations in batches, in the order of the calls, and dispatches what it
//! hears.
//!
//! One batch is on its way at a time. Its answers are given when the mark behind it was heard, so that everything up to
//! them was dispatched. If a connection is lost, or a mark does not come, both connections are made anew. The batch that was
//! on its way is sent again: by its number Redis recognises it, and gives the answers that were lost. What was published
//! meanwhile is read from the logs of the rooms, before anything else is dispatched. If Redis has lost events that this node
//! has dispatched, or events that it has not heard are gone, the store is broken.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use super::super::{Amount, Room, StoreError, Usage};
use super::answer::{Answer, Reply};
use super::enforcement::InForce;
use super::fitness::Durability;
use super::hearing::{Batch, Hearing, MARK_TIMEOUT};
use super::link::{Link, is_refusal, lacks_function};
use super::operation::Operation;
use super::script::Script;
use super::shared::Shared;
use super::target::Target;

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
pub(super) const BATCH_OPERATIONS: usize = 256;

/// The most bytes of a batch, unless one operation alone has more.
const BATCH_BYTES: usize = 1 << 20;

/// How often the stored amounts are looked at. The mark behind this batch shows that the connections are alive.
const USAGE_INTERVAL: Duration = Duration::from_secs(1);

/// When a change counts as safe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Safety {
    /// What the operator says that Redis does.
    pub(super) durability: Option<Durability>,
    /// The number of replicas that must have it before it is answered.
    pub(super) replicas: usize,
}

/// How long the replicas may take. Afterwards a publisher is told that nothing is known.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Worker {
    pub(super) target: Target,
    pub(super) safety: Safety,
    pub(super) script: Script,
    pub(super) rooms: HashSet<Room>,
    pub(super) requests: UnboundedReceiver<Request>,
    pub(super) shared: Arc<Shared>,
    pub(super) usage_due: Instant,
    /// The number of the last batch.
    pub(super) number: u64,
    pub(super) hearing: Hearing,
}

/// Rooms to enter, and whom to tell.
type Entering = (Vec<Room>, oneshot::Sender<Result<(), StoreError>>);

/// The reason why a link is served no longer.
pub(super) enum Ended {
    /// There will be no more requests.
    Closed,
    /// A connection is lost.
    Lost,
    /// The lease has ended, or a change of the revocations was missed.
    Behind,
    /// The order in Redis is another, or events are gone.
    Broken(&'static str),
}

impl Worker {
    /// Serves requests until there can be none any more.
    pub(super) async fn run(mut self, mut link: Link) {
        loop {
            let ended = self.serve_link(&mut link).await;
            self.shared.unavailable();
            let again = match ended {
                Ended::Closed => return,
                Ended::Broken(reason) => self.begin_anew(reason).await,
                Ended::Lost => {
                    self.shared.metrics.cluster.connections_lost.inc();
                    tracing::warn!("the connection to Redis is lost");
                    self.reconnect().await
                }
                Ended::Behind => {
                    self.shared.metrics.cluster.leases_ended.inc();
                    tracing::warn!("the lease of this node has ended, or a change was missed: all is read again");
                    self.reconnect().await
                }
            };
            match again {
                Ok(again) => {
                    tracing::info!("connected to Redis again");
                    link = again;
                }
                Err(_closed) => return,
            }
        }
    }

    async fn serve_link(&mut self, link: &mut Link) -> Ended {
        loop {
            if self.hearing.is_behind() {
                return Ended::Behind;
            }
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
                    Some(request) => self.serve(link, request).await,
                    None => return self.finish(link).await,
                },
                in_force = self.hearing.enforcement.next() => match in_force {
                    Some(in_force) => {
                        let hold = self.hold(in_force);
                        self.serve(link, hold).await
                    }
                    // The task has panicked.
                    None => return Ended::Closed,
                },
                Some(operation) = self.hearing.hand_overs.next() => {
                    let given = self.untold(operation);
                    self.serve(link, given).await
                }
                () = sleep_until(self.usage_due.into()) => {
                    if !self.shared.lease.is_valid() {
                        return Ended::Behind;
                    }
                    self.renew(link).await
                }
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
    pub(super) fn refuse(&mut self, request: Request) {
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
        // Otherwise the others wait for its lease to end.
        let _ = timeout(MARK_TIMEOUT, self.ask_now(link, Operation::new("leave cluster"))).await;
        Ended::Closed
    }

    /// Serves a request, together with those that wait already.
    async fn serve(&mut self, link: &mut Link, first: Request) -> Result<(), Ended> {
        let (mut operations, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        let mut next = Some(first);
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
        if operations.is_empty() {
            return changed;
        }
        self.number += 1;
        self.hearing.begin(Batch { number: self.number, operations, replies });
        // Without this connection, the next one carries it out.
        changed?;
        self.carry_out(link).await
    }

    /// Renews the lease, and looks at the stored amounts, in a batch that is carried out also when the memory of Redis is
    /// full.
    async fn renew(&mut self, link: &mut Link) -> Result<(), Ended> {
        self.usage_due = Instant::now() + USAGE_INTERVAL;
        let operations = vec![Operation::new("usage"), self.script.renew(&self.shared.rules())];
        let replies = vec![self.note_usage(), self.renew_lease(link.asked_at())];
        self.number += 1;
        self.hearing.begin(Batch { number: self.number, operations, replies });
        self.carry_out(link).await?;
        let has_refused = self.shared.unsaved().take_refused();
        if has_refused { self.save_unsaved(link).await } else { Ok(()) }
    }

    /// Hears these rooms from the confirmation on, and those no longer.
    async fn change_rooms(&mut self, link: &mut Link, entered: &[Entering], left: Vec<Room>) -> Result<(), Ended> {
        let mut new: Vec<&Room> = entered.iter().flat_map(|(rooms, _)| rooms).collect();
        new.retain(|room| !self.rooms.contains(*room));
        let channels: Vec<String> = new.iter().map(|room| self.script.channel_of(room)).collect();
        let mut result = link.subscribe(&channels).await;
        // Without this connection, the next one hears them, and what was published meanwhile is read.
        self.rooms.extend(new.into_iter().cloned());
        let left: HashSet<Room> = left.into_iter().filter(|room| self.rooms.remove(room)).collect();
        if result.is_ok() {
            let channels: Vec<String> = left.iter().map(|room| self.script.channel_of(room)).collect();
            result = link.unsubscribe(&channels).await;
        }
        // The next connection hears exactly the rooms of the list.
        result.map_err(|_error| Ended::Lost)
    }

    /// Sends the batch, and goes on hearing until it is answered.
    pub(super) async fn carry_out(&mut self, link: &mut Link) -> Result<(), Ended> {
        if self.send_batch(link).await? == Carried::ForWantOfMemory
            && let Some(others) = self.hearing.refuse_publishes(&full())
        {
            // Joins, sessions and reads go on.
            self.number += 1;
            self.hearing.begin(Batch { number: self.number, ..others });
            self.send_batch(link).await?;
        }
        // What is left has met another want of memory.
        self.hearing.answered(Err(full()));
        Ok(())
    }

    async fn send_batch(&mut self, link: &mut Link) -> Result<Carried, Ended> {
        let Some(batch) = self.hearing.under_way() else { return Ok(Carried::Answered) };
        let command = self.script.command(batch.number, &batch.operations);
        let (began, requests) = (Instant::now(), batch.operations.len());
        let replicas = if batch.operations.iter().any(Operation::is_published) { self.safety.replicas } else { 0 };
        let mut sent = std::pin::pin!(send(link.commands(), command, replicas));
        let result = loop {
            tokio::select! {
                result = &mut sent => break result,
                heard = link.hear() => match heard {
                    Some(heard) => self.hearing.hear(heard),
                    None => return Err(Ended::Lost),
                },
            }
        };
        match result {
            Ok((_, known)) if known < replicas => {
                self.shared.unavailable();
                let error = format!("{known} of {replicas} replicas have the change in time: it may be lost");
                self.hearing.answered(Err(StoreError::Unavailable(error.into())));
                Ok(Carried::Answered)
            }
            Ok((value, _)) => {
                self.shared.available();
                self.shared.metrics.store_committed(began.elapsed(), requests);
                self.hearing.answered(answers_of(value));
                Ok(Carried::Answered)
            }
            Err(error) if lacks_function(&error) => {
                // The next connection loads it.
                Err(Ended::Lost)
            }
            // Another node has met another Redis.
            Err(error) if error.code() == Some("FENCE") => Err(Ended::Lost),
            Err(error) if error.code() == Some("OOM") => {
                self.shared.unavailable();
                Ok(Carried::ForWantOfMemory)
            }
            Err(error) if is_refusal(&error) => {
                self.shared.unavailable();
                // What was answered before is carried out, and waits for its mark.
                self.hearing.answered(Err(StoreError::Unavailable(error.to_string().into())));
                Ok(Carried::Answered)
            }
            Err(_) => Err(Ended::Lost),
        }
    }

    /// The request that tells the other nodes that a change of the revocations is in force here.
    fn hold(&self, InForce { version, sockets }: InForce) -> Request {
        self.shared.lease.hold(version);
        self.untold(Operation::new("hold").number(version).number(sockets))
    }

    /// The request for an operation whose answer nobody waits for.
    fn untold(&self, operation: Operation) -> Request {
        let request = Request::Operation(operation, Box::new(|_answer, _: &_| ()));
        self.shared.note_queued(request.size());
        request
    }

    /// Renews the lease when the mark behind the answer was heard.
    fn renew_lease(&self, asked_at: u64) -> Reply {
        let shared = Arc::clone(&self.shared);
        Box::new(move |answer, _| {
            if let Err(error) = answer.and_then(|answer| shared.renewed(asked_at, answer)) {
                tracing::warn!(%error, "renew the lease of this node");
            }
        })
    }

    /// Takes the stored amounts out of an answer.
    fn note_usage(&self) -> Reply {
        let (shared, rooms_heard) = (Arc::clone(&self.shared), self.rooms.len());
        Box::new(move |answer, _| {
            let read = |mut answer: Answer| {
                let rows = |rows| Amount { rows, bytes: 0 };
                let (media, sessions) = (rows(answer.number()?), rows(answer.number()?));
                let (idempotency_keys, revocations) = (answer.number()?, rows(answer.number()?));
                Ok::<_, StoreError>(Usage { media, sessions, idempotency_keys, revocations, ..Usage::default() })
            };
            if let Ok(read) = answer.and_then(read) {
                shared.metrics.cluster.rooms_heard.set(rooms_heard as i64);
                *shared.usage.lock().unwrap_or_else(PoisonError::into_inner) = read;
            }
        })
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// Its answers are known.
    Answered,
    /// Redis has refused it because its memory is full.
    ForWantOfMemory,
}

fn full() -> StoreError {
    StoreError::Unavailable("the memory of Redis is full".into())
}

/// Sends a batch. Returns the answer, and the number of replicas that have the batch, if some have to.
async fn send(mut commands: MultiplexedConnection, command: Cmd, replicas: usize) -> RedisResult<(Value, usize)> {
    if replicas == 0 {
        let value = commands.send_packed_command(&command).await?;
        return Ok((value.extract_error()?, 0));
    }
    let mut both = redis::pipe();
    both.add_command(command).cmd("WAIT").arg(replicas).arg(REPLICAS_TIMEOUT.as_millis() as u64);
    let mut answers = commands.send_packed_commands(&both, 0, 2).await?.into_iter();
    let value = answers.next().unwrap_or(Value::Nil).extract_error()?;
    let known = answers.next().unwrap_or(Value::Nil).extract_error()?;
    Ok((value, redis::from_redis_value(known)?))
}

/// The answers out of the answer to a batch.
pub(super) fn answers_of(value: Value) -> Result<Vec<Value>, StoreError> {
    Answer::row(value)?.list()
}

pub(super) fn lost() -> StoreError {
    StoreError::Unavailable("Redis is lost".into())
}
