//! Whether a Redis is fit for the store, and how well it keeps what it is given. Both are asked on each connection: an
//! operator may change the settings, and another Redis may have other ones.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use crate::contract::time::Moment;

/// The oldest version with everything that the store needs: functions.
const OLDEST: (u64, u64) = (7, 0);

/// The tolerated difference of the clocks. Redis and the nodes compare moments with each other.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// How well Redis keeps what it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Not beyond the end of its process.
    None,
    /// Beyond the end of its machine, but for the last second (`appendfsync everysec`).
    EverySecond,
    /// Beyond the end of its machine (`appendfsync always`).
    Always,
}

/// The reason why the store can't use this Redis. The texts are for operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It lacks functions.
    #[error("version {0} is too old: 7.0 or newer is needed")]
    Version(String),
    /// It can't be written to.
    #[error("it is a replica: name the primary, or Sentinels that know it")]
    Replica,
    /// It would remove events, silently.
    #[error("its maxmemory-policy is {0}, which removes keys: set noeviction")]
    Eviction(String),
    /// Its moments and those of the node can't be compared.
    #[error("its clock and the clock of this machine differ by {0} ms: at most 1000 are tolerated")]
    Clock(u64),
}

/// What a Redis says of itself.
#[derive(Debug, Default)]
pub(super) struct Found {
    info: HashMap<String, String>,
    /// The difference of the clocks.
    skew: Duration,
    /// `None` if it is not told.
    durability: Option<Durability>,
}

impl Found {
    /// Asks a Redis.
    pub(super) async fn of(commands: &mut MultiplexedConnection) -> Result<Self, RedisError> {
        let mut found = Self::default();
        for section in ["server", "replication", "memory"] {
            let info: String = redis::cmd("INFO").arg(section).query_async(commands).await?;
            let fields = info.lines().filter_map(|line| line.split_once(':'));
            found.info.extend(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
        }
        let before = Moment::now().epoch_ms();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(commands).await?;
        let after = Moment::now().epoch_ms();
        let theirs = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        // The moment of the answer is between the two.
        found.skew = Duration::from_millis(before.saturating_sub(theirs).max(theirs.saturating_sub(after)));
        found.durability = durability(commands).await?;
        Ok(found)
    }

    /// What identifies the running Redis and the history of its data.
    pub(super) fn run(&self) -> String {
        format!("{} {}", self.field("run_id"), self.field("master_replid"))
    }

    fn field(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// Checks whether the store can use this Redis.
    pub(super) fn check(&self) -> Result<(), Unfit> {
        // Valkey tells the version of Redis that it is compatible with.
        let version = self.field("redis_version");
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
            return Err(Unfit::Version(version.to_owned()));
        }
        if self.field("role") == "slave" {
            return Err(Unfit::Replica);
        }
        let policy = self.field("maxmemory_policy");
        if policy != "noeviction" {
            return Err(Unfit::Eviction(policy.to_owned()));
        }
        if self.skew > CLOCK_TOLERANCE {
            return Err(Unfit::Clock(self.skew.as_millis() as u64));
        }
        Ok(())
    }

    /// Whether a publisher may be told that an event is stored. `declared` is what the operator says that Redis does. An
    /// operator who says nothing wants `appendfsync always`, and is believed only if Redis says so.
    pub(super) fn keeps(&self, declared: Option<Durability>) -> bool {
        match (declared, self.durability) {
            (Some(Durability::None), _) | (None, None) => false,
            (Some(_), None) => true,
            (declared, Some(found)) => found >= declared.unwrap_or(Durability::Always),
        }
    }
}

/// How well Redis keeps what it is given, if it tells: a managed Redis may forbid CONFIG.
async fn durability(commands: &mut MultiplexedConnection) -> Result<Option<Durability>, RedisError> {
    let asked = redis::cmd("CONFIG").arg("GET").arg("append*").query_async::<Value>(commands).await;
    let value = match asked {
        Ok(value) => value,
        Err(error) if error.is_connection_dropped() || error.is_timeout() => return Err(error),
        Err(_) => return Ok(None),
    };
    let settings: HashMap<String, String> = redis::from_redis_value(value)?;
    let setting = |name: &str| settings.get(name).map(String::as_str);
    Ok(match (setting("appendonly"), setting("appendfsync")) {
        (Some("yes"), Some("always")) => Some(Durability::Always),
        (Some("yes"), Some("everysec")) => Some(Durability::EverySecond),
        (Some(_), Some(_)) => Some(Durability::None),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str, policy: &str, skew: u64) -> Found {
        let info = [("redis_version", version), ("maxmemory_policy", policy)];
        let info = info.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Found { info, skew: Duration::from_millis(skew), durability: None }
    }

    #[test]
    fn an_unfit_redis_is_refused() {
        for version in ["7.0.15", "7.2.4", "8.0.0", "10.1"] {
            assert_eq!(found(version, "noeviction", 1_000).check(), Ok(()), "{version}");
        }
        for version in ["6.2.14", "6.9", "", "x"] {
            assert_eq!(found(version, "noeviction", 0).check(), Err(Unfit::Version(version.to_owned())));
        }
        assert_eq!(found("7.0", "allkeys-lru", 0).check(), Err(Unfit::Eviction("allkeys-lru".to_owned())));
        assert_eq!(found("7.0", "noeviction", 1_001).check(), Err(Unfit::Clock(1_001)));
    }

    #[test]
    fn what_is_stored_is_what_redis_keeps_or_the_operator_declares() {
        use Durability::{Always, EverySecond, None as Nothing};
        let keeps = |durability, declared| Found { durability, ..found("7.0", "noeviction", 0) }.keeps(declared);
        for (found, declared, expected) in [
            (Some(Always), None, true),
            (Some(EverySecond), None, false),
            (Some(Nothing), None, false),
            (None, None, false),
            (Some(Always), Some(EverySecond), true),
            (Some(EverySecond), Some(EverySecond), true),
            (Some(Nothing), Some(EverySecond), false),
            (None, Some(EverySecond), true),
            (None, Some(Always), true),
            (Some(Always), Some(Nothing), false),
        ] {
            assert_eq!(keeps(found, declared), expected, "{found:?} {declared:?}");
        }
    }
}
