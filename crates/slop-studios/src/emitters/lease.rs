//! The right to read the emitters, which one node of the cluster has at a time: each message of a channel is heard by every
//! node, and would be published by each.
//!
//! A node that was stopped, or cut off from Redis, may continue when another node has the right. So the right ends by the
//! node's own clock before it ends in Redis, and the node looks at it before each publish.

use std::cell::Cell;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};

use crate::store::redis::system_time;

/// How long Redis keeps the lease of a node that does not renew it.
const KEPT: Duration = Duration::from_secs(5);

/// How long the node counts on it, from the moment of its question.
const VALID: Duration = Duration::from_secs(4);

/// Takes the lease, or takes it again, if no other node has it.
const TAKE: &str = "
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// Renews the lease, if the node has had it without a gap.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// Stores a value, if the node has the lease.
const SAVE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1";

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    key: String,
    node: String,
    /// When it ends, in milliseconds of the system's time.
    until: Cell<u64>,
}

impl Lease {
    /// The lease of a cluster, which this node does not have yet.
    pub(super) fn new(prefix: &str) -> Self {
        let node = uuid::Uuid::now_v7().simple().to_string();
        Self { key: format!("{{{prefix}}}:emitters:lease"), node, until: Cell::new(0) }
    }

    /// Whether no other node can have it.
    pub(super) fn is_valid(&self) -> bool {
        system_time() < self.until.get()
    }

    /// Takes it, if no other node has it.
    pub(super) async fn take(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.ask(TAKE, connection).await
    }

    /// Keeps it for longer. Otherwise it is lost: another node may have had it meanwhile.
    pub(super) async fn renew(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        self.ask(RENEW, connection).await
    }

    async fn ask(&self, script: &str, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let asked_at = system_time();
        let mut command = cmd("EVAL");
        command.arg(script).arg(1).arg(&self.key).arg(&self.node).arg(KEPT.as_millis() as u64);
        let has_it: bool = command.query_async(connection).await?;
        self.until.set(if has_it { asked_at + VALID.as_millis() as u64 } else { 0 });
        Ok(has_it)
    }

    /// Lets another node have it at once.
    pub(super) async fn release(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.until.set(0);
        cmd("EVAL").arg(RELEASE).arg(1).arg(&self.key).arg(&self.node).query_async(connection).await
    }

    /// Stores a value under this key, unless another node has the lease.
    pub(super) async fn save(
        &self,
        connection: &mut MultiplexedConnection,
        key: &str,
        value: &str,
    ) -> RedisResult<bool> {
        let mut command = cmd("EVAL");
        command.arg(SAVE).arg(2).arg(&self.key).arg(key).arg(&self.node).arg(value);
        command.query_async(connection).await
    }
}
