//! The connections to Redis, and the turns of reading: the lease, then channels and stream at the same time.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, cmd};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::channels::{Heard, Outlet, PYTHON_CHANNEL, REDIS_PATTERNS, queue};
use super::lease::Lease;
use super::message::Refusal;
use super::outcomes::Outcomes;
use super::{Options, decode};
use crate::limits::{EMITTER_BATCH, EMITTER_BATCH_BYTES};
use crate::metrics::{Emitter, EmitterRefusal};
use crate::publish::scope::Scopes;
use crate::publish::{Executor, Publish};
use crate::store::redis::{OpenError, Primary, watch_primary};

/// How long an answer of Redis may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the lease is renewed or asked for: four times within its life.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long the release of the lease may take. Without it, another node waits for the lease's end.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a turn ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the Sentinels name another primary")]
    Moved,
    #[error("the lease was lost")]
    LeaseLost,
    #[error("the connection to the channels was lost")]
    ChannelsLost,
}

/// See the module.
pub(super) struct Reader {
    pub(super) options: Options,
    pub(super) executor: Executor,
    pub(super) outcomes: Arc<Outcomes>,
    pub(super) lease: Lease,
    /// The connection with which the lease was asked for last.
    commands: RefCell<Option<MultiplexedConnection>>,
    /// Whether the last turn failed before it had the lease.
    is_failing: Cell<bool>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Reports that this node reads, until it is dropped.
struct Reading<'a>(&'a Outcomes);

impl<'a> Reading<'a> {
    fn begin(outcomes: &'a Outcomes) -> Self {
        outcomes.set_reader(true);
        Self(outcomes)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.set_reader(false);
    }
}

impl Reader {
    pub(super) fn new(options: Options, executor: Executor, outcomes: Arc<Outcomes>) -> Self {
        let lease = Lease::new(&options.prefix);
        Self { options, executor, outcomes, lease, commands: RefCell::new(None), is_failing: Cell::new(false) }
    }

    /// Reads until it is stopped.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) {
        tokio::select! {
            biased;
            // A publish on its way is in the store's queue. An entry of the stream may be read again, by another node.
            _ = &mut stop => {}
            never = self.read() => match never {},
        }
        let commands = self.commands.borrow_mut().take();
        if let Some(mut commands) = commands
            && self.lease.is_valid()
        {
            // Without it, another node waits for a few seconds.
            let _ = timeout(RELEASE_TIMEOUT, self.lease.release(&mut commands)).await;
        }
    }

    async fn read(&self) -> Infallible {
        loop {
            match self.turn().await {
                Ok(never) => match never {},
                // One line for consecutive failures.
                Err(error) if !self.is_failing.replace(true) => tracing::warn!(%error, "read the emitters"),
                Err(_) => {}
            }
            sleep(RETRY).await;
        }
    }

    /// One turn: waits for the lease, and reads until it is lost.
    async fn turn(&self) -> Result<Infallible, Ended> {
        let client = self.options.target.client().await?;
        let mut moved = watch_primary(self.options.target.clone(), client.get_connection_info().addr().clone());
        let mut commands = connect(&client, &self.config()).await?;
        self.commands.replace(Some(commands.clone()));
        while !self.lease.take(&mut commands).await? {
            sleep(LEASE_INTERVAL).await;
        }
        let _reading = Reading::begin(&self.outcomes);
        self.is_failing.set(false);
        tracing::info!("this node reads the emitters");
        let has = |emitter| self.options.emitters.contains(&emitter);
        let (channels, outlet) = if has(Emitter::Redis) || has(Emitter::Python) {
            let (channels, outlet) = self.subscribe(&client).await?;
            (Some(channels), Some(outlet))
        } else {
            (None, None)
        };
        tokio::select! {
            biased;
            // Without a sender, there are no Sentinels.
            Ok(_) = moved.wait_for(|primary| *primary == Primary::Moved) => Err(Ended::Moved),
            ended = self.keep_lease(commands, channels) => ended,
            ended = async { match outlet {
                Some(outlet) => self.read_channels(outlet).await,
                None => pending().await,
            } } => ended,
            ended = async { if has(Emitter::Streams) { self.read_stream(&client).await } else { pending().await } } => ended,
        }
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
    }

    /// A connection for commands, and one whose answers may take `longer` than usual.
    pub(super) async fn connect_stream(
        &self,
        client: &Client,
        longer: Duration,
    ) -> RedisResult<(MultiplexedConnection, MultiplexedConnection)> {
        let patient = self.config().set_response_timeout(Some(ANSWER_TIMEOUT + longer));
        Ok((connect(client, &self.config()).await?, connect(client, &patient).await?))
    }

    async fn subscribe(&self, client: &Client) -> RedisResult<(MultiplexedConnection, Outlet)> {
        let (inlet, outlet) = queue(self.options.most_bytes, &self.outcomes);
        let mut channels = connect(client, &self.config().set_push_sender(move |push| inlet.take(push))).await?;
        if self.options.emitters.contains(&Emitter::Redis) {
            channels.psubscribe(&REDIS_PATTERNS[..]).await?;
        }
        if self.options.emitters.contains(&Emitter::Python) {
            channels.subscribe(PYTHON_CHANNEL).await?;
        }
        Ok((channels, outlet))
    }

    /// Renews the lease. The connection to the channels is asked as well: a lost one would be silent.
    async fn keep_lease(
        &self,
        mut commands: MultiplexedConnection,
        mut channels: Option<MultiplexedConnection>,
    ) -> Result<Infallible, Ended> {
        let mut ticks = interval(LEASE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.lease.renew(&mut commands).await? {
                return Err(Ended::LeaseLost);
            }
            if let Some(channels) = &mut channels {
                cmd("PING").exec_async(channels).await?;
            }
        }
    }

    async fn read_channels(&self, mut outlet: Outlet) -> Result<Infallible, Ended> {
        loop {
            let mut heard = vec![outlet.next().await.ok_or(Ended::ChannelsLost)?];
            let mut bytes = 0;
            while heard.len() < EMITTER_BATCH
                && bytes < EMITTER_BATCH_BYTES
                && let Some(next) = outlet.try_next()
            {
                bytes += next.payload.len();
                heard.push(next);
            }
            self.publish_heard(heard).await?;
        }
    }

    async fn publish_heard(&self, heard: Vec<Heard>) -> Result<(), Ended> {
        let mut emitters = Vec::with_capacity(heard.len());
        let mut items = Vec::with_capacity(heard.len());
        for message in heard {
            match self.decode(&message) {
                Ok(publish) => {
                    emitters.push(message.emitter);
                    items.push((Ok(publish), None));
                }
                Err(refusal) => self.outcomes.refuse(message.emitter, &refusal),
            }
        }
        if !self.lease.is_valid() {
            for emitter in emitters {
                let refusal = Refusal::new(EmitterRefusal::NoLease, "another node may read the emitters by now");
                self.outcomes.refuse(emitter, &refusal);
            }
            return Err(Ended::LeaseLost);
        }
        let results = self.executor.publish_each(&Scopes::all(), items.into_iter()).await;
        for (emitter, result) in emitters.into_iter().zip(&results) {
            self.outcomes.note(emitter, result.as_ref());
        }
        Ok(())
    }

    fn decode(&self, heard: &Heard) -> Result<Publish, Refusal> {
        let most = self.options.most_bytes;
        let message = match heard.emitter {
            Emitter::Python => decode::python(&heard.payload, most),
            Emitter::Redis | Emitter::Streams => decode::redis(&heard.channel, &heard.payload, most),
        };
        message?.into_publish(&self.options.events)
    }
}

async fn connect(client: &Client, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
    client.get_multiplexed_async_connection_with_config(config).await
}
