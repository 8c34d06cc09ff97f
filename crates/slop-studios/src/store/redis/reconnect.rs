//! How the worker connects: for the first time, again after a loss, and anew after Redis has lost events.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{RedisError, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::super::{Dispatch, Room, StoreError};
use super::OpenError;
use super::answer::{Answer, Reply};
use super::catch_up;
use super::hearing::{Batch, Hearing, MARK_TIMEOUT};
use super::link::{Link, Order};
use super::operation::Operation;
use super::script::Script;
use super::shared::Shared;
use super::target::Target;
use super::worker::{BATCH_OPERATIONS, Ended, Request, Safety, Worker, answers_of, lost};

/// How long requests wait for a lost connection. Then they are answered that the store is unavailable.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How often a node tries to get its first lease.
const FIRST_LEASE_ATTEMPTS: usize = 5;

const LOST_EVENTS: Ended = Ended::Broken("Redis has lost events that this node has dispatched, or was emptied");

fn connection_lost(error: RedisError) -> Ended {
    tracing::debug!(%error, "connect to Redis");
    Ended::Lost
}

impl Worker {
    /// Connects, and begins the order if there is none. Returns the worker, its connections, and the last number.
    pub(super) async fn connect(
        (target, safety): (Target, Safety),
        prefix: &str,
        script: impl FnOnce(String) -> Script,
        requests: UnboundedReceiver<Request>,
        (dispatch, shared): (Arc<dyn Dispatch>, Arc<Shared>),
    ) -> Result<(Self, Link, u64), OpenError> {
        let (mut link, Order { epoch, last, .. }, found) = Link::open(&target, prefix, "").await?;
        shared.is_kept.store(found.keeps(safety.durability), Ordering::Relaxed);
        found.warnings(safety.durability, safety.replicas).iter().for_each(|warning| tracing::warn!("{warning}"));
        let script = script(epoch);
        link.load(script.name(), script.text()).await?;
        let hearing = Hearing::new(&script, last, dispatch, Arc::clone(&shared));
        let (rooms, usage_due) = (HashSet::new(), Instant::now());
        let mut worker = Self { target, safety, script, rooms, requests, shared, usage_due, number: 0, hearing };
        link.subscribe(&worker.own_channels()).await?;
        // A change of the revocations meanwhile needs another attempt.
        let mut attempts = 1..=FIRST_LEASE_ATTEMPTS;
        while let Err(ended) = worker.begin_lease(&mut link).await {
            if !matches!(ended, Ended::Behind) || attempts.next().is_none() {
                return Err(OpenError::Lost);
            }
        }
        worker.shared.available();
        Ok((worker, link, last))
    }

    fn own_channels(&self) -> [String; 4] {
        let script = &self.script;
        let own = script.own_channel().to_owned();
        [own, script.sockets_channel(), script.revocations_channel(), script.nodes_channel()]
    }

    /// Connects again. Requests that have waited for too long are refused meanwhile.
    pub(super) async fn reconnect(&mut self) -> Result<Link, Ended> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.connect_again().await {
                Err(Ended::Lost | Ended::Behind) => {}
                Err(Ended::Broken(reason)) => return self.begin_anew(reason).await,
                result => return result,
            }
            self.wait_to_connect(patience).await?;
        }
    }

    /// Begins anew: Redis, or this node, lacks events. No client of the node may continue.
    pub(super) async fn begin_anew(&mut self, reason: &'static str) -> Result<Link, Ended> {
        tracing::error!(reason, "all clients of this node have to begin anew");
        self.shared.metrics.cluster.begun_anew.inc();
        self.hearing.failed(&lost());
        self.shared.unsaved().clear();
        self.rooms.clear();
        loop {
            match self.connect_anew().await {
                Ok(link) => return Ok(link),
                Err(_not_yet) => self.wait_to_connect(Instant::now()).await?,
            }
        }
    }

    /// Pauses between two attempts. Requests are refused when the patience has ended.
    async fn wait_to_connect(&mut self, patience: Instant) -> Result<(), Ended> {
        self.shared.metrics.cluster.lease.set(i64::from(self.shared.lease.is_valid()));
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
        Ok(())
    }

    async fn open_link(&self, epoch: &str) -> Result<(Link, Order), Ended> {
        let opened = Link::open(&self.target, self.script.prefix(), epoch).await;
        let (mut link, order, found) = opened.map_err(|error| {
            match &error {
                OpenError::Unfit(reason) => tracing::warn!(%reason, "Redis is not used"),
                error => tracing::debug!(%error, "connect to Redis"),
            }
            Ended::Lost
        })?;
        self.shared.is_kept.store(found.keeps(self.safety.durability), Ordering::Relaxed);
        link.load(self.script.name(), self.script.text()).await.map_err(connection_lost)?;
        Ok((link, order))
    }

    /// Connects in the current term, as a node that has heard nothing yet. Clients are closed before anything is heard.
    async fn connect_anew(&mut self) -> Result<Link, Ended> {
        let (mut link, Order { epoch, last, .. }) = self.open_link("").await?;
        self.script.set_epoch(epoch);
        self.shared.lease.begin_anew();
        self.hearing.reset(last);
        self.rooms.clear();
        link.subscribe(&self.own_channels()).await.map_err(connection_lost)?;
        self.begin_lease(&mut link).await?;
        self.shared.available();
        Ok(link)
    }

    /// Connects, hears the rooms again, and dispatches what was missed, then what has come since.
    async fn connect_again(&mut self) -> Result<Link, Ended> {
        let epoch = self.script.epoch().to_owned();
        let (mut link, Order { epoch, ended, .. }) = self.open_link(&epoch).await?;
        if epoch != self.script.epoch() {
            if ended.is_none_or(|ended| ended < self.hearing.dispatched()) {
                return Err(LOST_EVENTS);
            }
            // Whether the batch on its way belongs to the term that has ended is not known.
            self.hearing.failed(&StoreError::Unavailable("Redis was restarted".into()));
            self.script.set_epoch(epoch);
        }
        self.hearing.hold_back();
        let rooms: Vec<Room> = self.rooms.iter().cloned().collect();
        let of_rooms = rooms.iter().map(|room| self.script.channel_of(room));
        let channels: Vec<String> = self.own_channels().into_iter().chain(of_rooms).collect();
        link.subscribe(&channels).await.map_err(connection_lost)?;
        // What this batch has published, if it was carried out, is among the missed events.
        self.carry_out(&mut link).await?;
        let of_sockets = [self.script.sockets_room()];
        if !self.catch_up(&link, &of_sockets).await?.is_empty() {
            return Err(Ended::Broken("events for the sockets of this node are gone"));
        }
        for some in rooms.chunks(catch_up::ROOMS_AT_ONCE) {
            for gone in self.catch_up(&link, some).await? {
                // Among others it has missed too many events, or too large ones. Alone it may have not.
                let room = std::slice::from_ref(&some[gone]);
                if !self.catch_up(&link, room).await?.is_empty() {
                    self.hearing.lost(&some[gone]);
                }
            }
        }
        // The mark of the last of these operations shows that what was published between the reads was heard.
        self.begin_lease(&mut link).await?;
        self.hearing.go_on();
        self.save_unsaved(&mut link).await?;
        self.shared.available();
        Ok(link)
    }

    /// Reads what these rooms have missed. Returns the indexes of those of which something is gone.
    async fn catch_up(&mut self, link: &Link, rooms: &[Room]) -> Result<Vec<usize>, Ended> {
        let operation = catch_up::operation(rooms, self.hearing.dispatched());
        let answer = self.ask_now(link, operation).await?;
        self.hearing.missed(answer).map_err(|error| {
            tracing::warn!(%error, "read what was missed");
            Ended::Lost
        })
    }

    /// Has an operation carried out while no batch is on its way.
    pub(super) async fn ask_now(&mut self, link: &Link, operation: Operation) -> Result<Answer, Ended> {
        self.number += 1;
        let command = self.script.command(self.number, &[operation]);
        let value = link.commands().send_packed_command(&command).await.and_then(Value::extract_error);
        let answer = answers_of(value.map_err(connection_lost)?).ok().and_then(|answers| answers.into_iter().next());
        answer.and_then(|answer| Answer::of(answer).ok()).ok_or(Ended::Lost)
    }

    /// Enforces all revocations, and begins a lease. Before it ends, what was published until then is heard.
    async fn begin_lease(&mut self, link: &mut Link) -> Result<(), Ended> {
        let revocations = self.ask_now(link, Operation::new("revocations")).await?;
        let version = self.hearing.enforcement.enforce_all(revocations).await.map_err(|error| {
            tracing::warn!(%error, "read the revocations");
            Ended::Lost
        })?;
        if let Some(before) = self.shared.lease.hold_all(version) {
            tracing::error!(lost = before - version, "Redis has lost the last revocations: revoke again");
        }
        self.ask_now(link, Operation::new("hold").number(version).number(0)).await?;
        let asked_at = link.asked_at();
        let renewed = self.ask_now(link, self.script.renew(&self.shared.rules())).await?;
        let number = self.number;
        let heard = async {
            while !self.hearing.has_heard(number) {
                self.hearing.hear(link.hear().await?);
            }
            Some(())
        };
        timeout(MARK_TIMEOUT, heard).await.ok().flatten().ok_or(Ended::Lost)?;
        self.shared.renewed(asked_at, renewed).map_err(|_unexpected| Ended::Lost)?;
        if self.shared.lease.is_valid() { Ok(()) } else { Err(Ended::Behind) }
    }

    /// Sends the changes of sessions that were not confirmed. Those that also wait in the queue come after them, so that the
    /// last change of a session is the last that is carried out.
    pub(super) async fn save_unsaved(&mut self, link: &mut Link) -> Result<(), Ended> {
        let (unsaved, confirmed) = {
            let mut unsaved = self.shared.unsaved();
            (unsaved.all(), unsaved.last_confirmed())
        };
        if let Some(up_to) = confirmed {
            // It may be lower than the last that Redis has, for the sessions that follow.
            self.ask_now(link, Operation::new("confirmed").number(up_to)).await?;
        }
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
}
