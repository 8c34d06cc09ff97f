//! The connections to Redis: one for commands, and one that hears channels.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::sleep;

use super::OpenError;
use super::fitness::{FORMAT, Found, Unfit};
use super::lease;
use super::operation::hex;
use super::target::{PRIMARY_INTERVAL, Target};

/// How long an answer may take. Redis answers in milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most channels of one command. Redis serves nobody else meanwhile.
const CHANNELS_AT_ONCE: usize = 1_000;

/// The order of the events in Redis, as a connection found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// The term. Another one begins when another Redis runs, or the same again.
    pub(super) epoch: String,
    /// The number of the last event.
    pub(super) last: u64,
    /// The number of the last event of the caller's term, if that has ended and is known.
    pub(super) ended: Option<u64>,
}

/// See the module.
pub(super) struct Link {
    commands: MultiplexedConnection,
    subscription: MultiplexedConnection,
    heard: UnboundedReceiver<PushInfo>,
    primary: watch::Receiver<Primary>,
}

/// A message on a channel.
pub(super) struct Heard {
    pub(super) channel: Vec<u8>,
    pub(super) message: Vec<u8>,
}

impl Link {
    /// Connects, and joins the order or begins it, if this Redis is fit for it. `epoch` is the caller's term, if it has
    /// one.
    pub(super) async fn open(target: &Target, prefix: &str, epoch: &str) -> Result<(Self, Order, Found), OpenError> {
        let client = target.client().await?;
        let (sender, heard) = unbounded_channel();
        let config = connection_config();
        let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
        let found = Found::of(&mut commands).await?;
        found.check()?;
        let order = begin(&mut commands, prefix, epoch, &found).await?;
        let subscription = client.get_multiplexed_async_connection_with_config(&config.set_push_sender(sender)).await?;
        let primary = watch_primary(target.clone(), client.get_connection_info().addr().clone());
        Ok((Self { commands, subscription, heard, primary }, order, found))
    }

    /// Hears these channels from now on.
    pub(super) async fn subscribe(&mut self, channels: &[String]) -> Result<(), RedisError> {
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            self.subscription.subscribe(some).await?;
        }
        Ok(())
    }

    /// Hears these channels no longer.
    pub(super) async fn unsubscribe(&mut self, channels: &[String]) -> Result<(), RedisError> {
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            self.subscription.unsubscribe(some).await?;
        }
        Ok(())
    }

    /// Loads the function, unless Redis has it: without free memory, Redis loads nothing.
    pub(super) async fn load(&mut self, name: &str, function: &str) -> Result<(), RedisError> {
        let mut list = redis::cmd("FUNCTION");
        list.arg("LIST").arg("LIBRARYNAME").arg(name);
        let known: Vec<Value> = list.query_async(&mut self.commands).await?;
        if !known.is_empty() {
            return Ok(());
        }
        redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(function).query_async(&mut self.commands).await
    }

    /// The moment from which a lease may count that is asked for now. With Sentinels, it is the last moment at which most of
    /// them have named this primary: another one may have other revocations.
    pub(super) fn asked_at(&self) -> u64 {
        let now = lease::now();
        match *self.primary.borrow() {
            Primary::Fixed => now,
            Primary::NamedAt(moment) => moment.min(now),
            Primary::Moved => 0,
        }
    }

    /// The connection for commands.
    pub(super) fn commands(&self) -> MultiplexedConnection {
        self.commands.clone()
    }

    /// The next message; `None` if the connection is lost.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        loop {
            let push = tokio::select! {
                push = self.heard.recv() => push?,
                // Without a sender, there are no Sentinels.
                Ok(_) = self.primary.wait_for(|primary| *primary == Primary::Moved) => return None,
            };
            if push.kind == PushKind::Disconnection {
                return None;
            }
            if let Some(heard) = message_in(push) {
                return Some(heard);
            }
        }
    }

    /// A message that has come already.
    pub(super) fn try_hear(&mut self) -> Option<Heard> {
        loop {
            if let Some(heard) = message_in(self.heard.try_recv().ok()?) {
                return Some(heard);
            }
        }
    }
}

/// What the Sentinels say of the server of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Primary {
    /// There are no Sentinels.
    Fixed,
    /// At this moment, most of them named it.
    NamedAt(u64),
    /// They name another one.
    Moved,
}

/// Asks the Sentinels from time to time whether this is still the primary.
pub(crate) fn watch_primary(target: Target, primary: ConnectionAddr) -> watch::Receiver<Primary> {
    let may_move = target.may_move();
    let (says, said) = watch::channel(if may_move { Primary::NamedAt(lease::now()) } else { Primary::Fixed });
    if may_move {
        tokio::spawn(async move {
            while !says.is_closed() {
                sleep(PRIMARY_INTERVAL).await;
                let asked_at = lease::now();
                match target.named().await {
                    Some(named) if named == primary => drop(says.send(Primary::NamedAt(asked_at))),
                    Some(_) => {
                        tracing::warn!("the Sentinels name another primary");
                        let _ = says.send(Primary::Moved);
                        return;
                    }
                    None => {}
                }
            }
        });
    }
    said
}

/// The message that a push brings, if it is one.
fn message_in(PushInfo { kind, data }: PushInfo) -> Option<Heard> {
    let mut data = data.into_iter();
    match (kind, data.next()?, data.next()?) {
        (PushKind::Message, Value::BulkString(channel), Value::BulkString(message)) => Some(Heard { channel, message }),
        _ => None,
    }
}

/// The time limits of a connection.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(ANSWER_TIMEOUT))
}

async fn begin(
    commands: &mut MultiplexedConnection,
    prefix: &str,
    epoch: &str,
    found: &Found,
) -> Result<Order, OpenError> {
    let mut new = [0; 16];
    // Without randomness, the engine could not start either.
    getrandom::fill(&mut new).expect("the system gives random bytes");
    let mut command = redis::cmd("EVAL");
    command.arg(include_str!("begin.lua")).arg(0).arg(prefix).arg(hex(&new)).arg(found.run()).arg(epoch);
    let (epoch, last, ended) = match command.arg(FORMAT).query_async(commands).await {
        Err(error) => return Err(refusal_of(error)),
        Ok(order) => order,
    };
    Ok(Order { epoch, last, ended })
}

/// The reason for which `begin.lua` has refused the caller, if it has.
fn refusal_of(error: RedisError) -> OpenError {
    match error.code() {
        Some("FORMAT") => OpenError::Unfit(Unfit::Format(error.detail().unwrap_or_default().to_owned())),
        Some("MIGRATION") => OpenError::Unfit(Unfit::Migration),
        _ => OpenError::Redis(error),
    }
}

/// Whether Redis has refused the command as a whole, so that nothing of it was carried out and the connection is good. It
/// is not if Redis has become a replica or loads its data: another term may begin.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    if let ErrorKind::Server(BusyLoading | MasterDown | ReadOnly) = error.kind() {
        return false;
    }
    !matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) && !error.is_connection_dropped() && !error.is_timeout()
}

/// Whether Redis does not have the function any more, as after `FUNCTION FLUSH`.
pub(super) fn lacks_function(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Function not found"))
}
