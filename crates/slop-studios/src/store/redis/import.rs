//! Takes the rows of a migration. Each is written by commands that can be repeated, so a migration that was ended may begin
//! anew. Nodes do not use the prefix before it is complete (`begin.lua`).

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError};
use tokio::runtime::Runtime;

use super::answer::state_text;
use super::fitness::{FORMAT, Found};
use super::lease::LONGEST_LEASE;
use super::link::connection_config;
use super::operation::hex;
use super::revocations::{floors_value, name_of, value_of};
use super::{OpenError, Target, key_prefix};
use crate::limits::BATCH_ITEMS_PER_KEY;
use crate::store::Step;
use crate::store::migration::{KeyRow, MediaRow, Migrated, NotificationRow, ReceivedRow};

/// How long an answer may take: Redis may write all of it to its disk first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the replicas may take to have everything.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(20);

/// The size in commands at which a batch is sent.
const BATCH_COMMANDS: usize = 1_000;

/// The size in bytes at which a batch is sent.
const BATCH_BYTES: usize = 1 << 20;

/// The reason why a migration into a prefix can't begin or end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Redis can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Redis refused a command, or the connection was lost.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Nodes use the prefix.
    #[error("running nodes ({0}) use the prefix: stop them, or choose another REDIS_PREFIX")]
    Running(u64),
    /// The prefix has data.
    #[error("the prefix has data already: choose another REDIS_PREFIX, or remove its keys")]
    Data,
    /// Another migration was not completed.
    #[error(
        "the migration of another folder to this prefix, or of this folder before its server ran again, is not complete: \
         choose another REDIS_PREFIX, or remove its keys"
    )]
    Other,
    /// The numbers of the folder are not below those that nodes begin with.
    #[error("the numbers of the folder's events are above the time of Redis in microseconds")]
    Numbers,
    /// The replicas of `REDIS_WAIT` do not have everything.
    #[error("{0} of {1} replicas have everything: run the migration again")]
    Replicas(usize, usize),
}

/// How a migration stands at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It begins.
    New,
    /// It was begun before, and not completed.
    Again,
    /// It was completed before.
    Done,
}

/// The prefix that takes the rows.
pub struct Import {
    runtime: Runtime,
    commands: MultiplexedConnection,
    prefix: String,
    batch: Pipeline,
    bytes: usize,
    found: Found,
    address: String,
}

impl fmt::Debug for Import {
    /// Without the connection, which may know a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("address", &self.address).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Import {
    /// Connects to a Redis that is fit for nodes.
    ///
    /// # Errors
    /// If it can't be reached or used.
    pub fn connect(target: &Target, prefix: &str) -> Result<Self, ImportError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OpenError::Thread)?;
        let (commands, found, address) = runtime.block_on(async {
            let client = target.client().await?;
            let address = client.get_connection_info().addr().to_string();
            let config = connection_config().set_response_timeout(Some(ANSWER_TIMEOUT));
            let mut commands = client.get_multiplexed_async_connection_with_config(&config).await?;
            let found = Found::of(&mut commands).await?;
            found.check().map_err(OpenError::Unfit)?;
            Ok::<_, ImportError>((commands, found, address))
        })?;
        let (prefix, batch) = (key_prefix(prefix), Pipeline::new());
        Ok(Self { runtime, commands, prefix, batch, bytes: 0, found, address })
    }

    /// The address of Redis.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What an operator should change of this Redis.
    #[must_use]
    pub fn warnings(&self, declared: Option<super::Durability>, replicas: usize) -> Vec<String> {
        self.found.warnings(declared, replicas)
    }

    /// Begins the migration of a folder, and claims the prefix for it, unless this is only a look. The numbers of its events are
    /// below `next_number`.
    ///
    /// # Errors
    /// If the prefix is used, or has other data.
    pub fn begin(&mut self, source: &str, next_number: u64, claim: bool) -> Result<Standing, ImportError> {
        let mut command = redis::cmd("EVAL");
        command.arg(include_str!("migrate.lua")).arg(0).arg(&self.prefix).arg(source).arg(u8::from(claim));
        command.arg(LONGEST_LEASE.as_millis() as u64).arg(FORMAT);
        let (word, running): (String, String) = self.runtime.block_on(command.query_async(&mut self.commands))?;
        match word.as_str() {
            "new" | "again" => {}
            "done" => return Ok(Standing::Done),
            "running" => return Err(ImportError::Running(running.parse().unwrap_or(1))),
            "other" => return Err(ImportError::Other),
            _ => return Err(ImportError::Data),
        }
        let time = redis::cmd("TIME");
        let (seconds, _micros): (u64, u64) = self.runtime.block_on(time.query_async(&mut self.commands))?;
        // A term begins at the time in microseconds (`begin.lua`).
        if next_number >= seconds.saturating_mul(1_000_000) {
            return Err(ImportError::Numbers);
        }
        Ok(if word == "new" { Standing::New } else { Standing::Again })
    }

    /// Takes a row.
    ///
    /// # Errors
    /// If Redis refuses it, or the connection is lost.
    pub fn take(&mut self, row: Migrated) -> Result<(), ImportError> {
        match row {
            Migrated::Media(row) => self.take_media(&row),
            Migrated::Notification(row) => self.take_notification(&row),
            Migrated::Received(ReceivedRow { user, up_to, until }) => {
                let key = self.key(&["notes-received:", &user]);
                self.batch.cmd("SET").arg(key).arg(up_to).arg("PXAT").arg(until.epoch_ms()).ignore();
            }
            Migrated::Key(row) => self.take_key(&row),
            Migrated::Revocation(revocation) => {
                let (name, value) = (name_of(&revocation.subject), value_of(&revocation));
                self.take_revocation(&name, &value);
            }
            Migrated::Floors(floors) => self.take_revocation("floors", &floors_value(floors)),
        }
        if self.batch.len() >= BATCH_COMMANDS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn take_media(&mut self, MediaRow { id, state, until }: &MediaRow) {
        let (key, text) = (self.key(&["item:", id]), state_text(state));
        self.bytes += text.len();
        self.batch.cmd("SET").arg(key).arg(text).arg("PXAT").arg(until.epoch_ms()).ignore();
        let all = self.key(&["media"]);
        self.batch.cmd("ZADD").arg(all).arg(state.seq).arg(&**id).ignore();
        if let (Some(owner), Step::Progress(_)) = (&state.owner_id, state.step) {
            let owned = self.key(&["owned:", owner]);
            self.batch.cmd("ZADD").arg(&owned).arg(state.seq).arg(&**id).ignore();
            self.batch.cmd("PEXPIREAT").arg(owned).arg(until.epoch_ms()).ignore();
        }
    }

    /// The keys of an inbox end with its newest notification.
    fn take_notification(&mut self, row: &NotificationRow) {
        let NotificationRow { user, id, seq, fingerprint, payload, is_read, until } = row;
        let [notes, order, unread] = ["notes:", "notes-order:", "notes-unread:"].map(|name| self.key(&[name, user]));
        self.bytes += payload.len();
        let text = format!("{seq} {} {payload}", hex(fingerprint));
        self.batch.cmd("HSET").arg(&notes).arg(&**id).arg(text).ignore();
        self.batch.cmd("ZADD").arg(&order).arg(*seq).arg(&**id).ignore();
        if !is_read {
            self.batch.cmd("SADD").arg(&unread).arg(&**id).ignore();
        }
        for key in [notes, order, unread] {
            self.batch.cmd("PEXPIREAT").arg(key).arg(until.epoch_ms()).ignore();
        }
    }

    fn take_key(&mut self, row: &KeyRow) {
        let KeyRow { publisher, key, fingerprint, receipts, at, until } = row;
        let name = format!("{}:{publisher}{key}", publisher.len());
        let hash = self.key(&["key:", &name]);
        self.batch.cmd("HSET").arg(&hash).arg("fingerprint").arg(hex(fingerprint)).ignore();
        for (item, id, stored) in receipts {
            // The number 0: no node of the cluster has dispatched it.
            let receipt = format!("{} 0 {id}", u8::from(*stored));
            self.bytes += receipt.len();
            self.batch.cmd("HSET").arg(&hash).arg(*item).arg(receipt).ignore();
        }
        self.batch.cmd("PEXPIREAT").arg(hash).arg(until.epoch_ms()).ignore();
        let (all, used) = (self.key(&["keys"]), self.key(&["keys:", publisher]));
        // As `keep_receipt` in `apply.lua` counts them.
        for items in (1..=receipts.len()).step_by(BATCH_ITEMS_PER_KEY) {
            self.batch.cmd("ZADD").arg(&used).arg(at.epoch_ms()).arg(format!("{key} {items}")).ignore();
            self.batch.cmd("ZADD").arg(&all).arg(at.epoch_ms()).arg(format!("{name} {items}")).ignore();
        }
        self.batch.cmd("PEXPIREAT").arg(used).arg(until.epoch_ms()).ignore();
    }

    fn take_revocation(&mut self, name: &str, value: &str) {
        let hash = self.key(&["revocations"]);
        self.bytes += name.len() + value.len();
        // Where there is a revocation, there is a version, and there are floors.
        self.batch.cmd("HSETNX").arg(&hash).arg("version").arg(1).ignore();
        self.batch.cmd("HSETNX").arg(&hash).arg("floors").arg("- -").ignore();
        self.batch.cmd("HSET").arg(hash).arg(name).arg(value).ignore();
    }

    fn key(&self, parts: &[&str]) -> String {
        self.prefix.clone() + &parts.concat()
    }

    fn flush(&mut self) -> Result<(), ImportError> {
        if !self.batch.is_empty() {
            self.runtime.block_on(self.batch.query_async::<()>(&mut self.commands)).map_err(first)?;
            self.batch.clear();
        }
        self.bytes = 0;
        Ok(())
    }

    /// Completes the migration: nodes may use the prefix. So many replicas have everything before.
    ///
    /// # Errors
    /// If Redis refuses something, or too few replicas have it.
    pub fn finish(mut self, replicas: usize) -> Result<(), ImportError> {
        self.flush()?;
        if replicas > 0 {
            let mut wait = redis::cmd("WAIT");
            wait.arg(replicas).arg(REPLICAS_TIMEOUT.as_millis() as u64);
            let known = self.runtime.block_on(wait.query_async(&mut self.commands))?;
            if known < replicas {
                return Err(ImportError::Replicas(known, replicas));
            }
        }
        let mut command = redis::cmd("HSET");
        command.arg(self.key(&["migration"])).arg("state").arg("done");
        Ok(self.runtime.block_on(command.query_async(&mut self.commands))?)
    }
}

/// The first error of a batch.
fn first(error: RedisError) -> RedisError {
    let errors = error.clone().into_server_errors();
    errors.and_then(|errors| errors.first().map(|(_, first)| first.clone().into())).unwrap_or(error)
}
