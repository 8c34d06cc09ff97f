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

/// The format of the keys and messages that this version writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 1;

/// The bytes that Redis should hold for a node that does not read for a moment; it closes the node's connection beyond that.
/// A node may pause for the time of a lease: 5 s with 20,000 events of 1 KiB a second are 100 MB.
const PUBSUB_BYTES: u64 = 128 << 20;

/// The shortest time in seconds that a soft limit has to tolerate, to be no limit for such a pause: that of a lease.
const PUBSUB_SECONDS: u64 = 5;

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
    /// A newer version has written to it.
    #[error("the data under its prefix has format {0}, and this version knows {FORMAT}: update this node")]
    Format(String),
    /// A migration has not ended.
    #[error("the migration to its prefix is not complete: run `slop-studios migrate` again")]
    Migration,
}

/// What a Redis says of itself.
#[derive(Debug, Default)]
pub(super) struct Found {
    info: HashMap<String, String>,
    /// The difference of the clocks.
    skew: Duration,
    /// The settings of `CONFIG GET`; none if it is forbidden.
    settings: HashMap<String, String>,
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
        found.settings = settings(commands).await?;
        Ok(found)
    }

    /// The name and the version of the server.
    pub(super) fn version(&self) -> String {
        let redis = self.field("redis_version");
        match self.field("valkey_version") {
            "" => format!("Redis {redis}"),
            valkey => format!("Valkey {valkey}, compatible with Redis {redis}"),
        }
    }

    /// The settings that decide what Redis keeps, for operators.
    pub(super) fn keeping(&self) -> String {
        match (self.setting("appendonly"), self.setting("appendfsync")) {
            (Some("yes"), Some(appendfsync)) => format!("appendonly yes, appendfsync {appendfsync}"),
            (Some(appendonly), _) => format!("appendonly {appendonly}"),
            (None, _) => "CONFIG is forbidden, so what it keeps is not known".to_owned(),
        }
    }

    /// The difference of the clocks.
    pub(super) fn skew(&self) -> Duration {
        self.skew
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// How well it keeps what it is given; `None` if it does not tell.
    fn durability(&self) -> Option<Durability> {
        match (self.setting("appendonly")?, self.setting("appendfsync")?) {
            ("yes", "always") => Some(Durability::Always),
            ("yes", "everysec") => Some(Durability::EverySecond),
            _ => Some(Durability::None),
        }
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
        match (declared, self.durability()) {
            (Some(Durability::None), _) | (None, None) => false,
            (Some(_), None) => true,
            (declared, Some(found)) => found >= declared.unwrap_or(Durability::Always),
        }
    }

    /// The settings that an operator should change, although the store can use this Redis. One line for each.
    /// `replicas` of Redis have to have a change before it is answered.
    pub(super) fn warnings(&self, declared: Option<Durability>, replicas: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if declared != Some(Durability::None) && !self.keeps(declared) {
            warnings.push(match declared {
                Some(Durability::EverySecond) => format!(
                    "Redis: {}, so no publish is answered with \"stored\": true: set appendonly yes and appendfsync \
                     everysec, or REDIS_DURABILITY=none",
                    self.keeping()
                ),
                _ => format!(
                    "Redis: {}, so no publish is answered with \"stored\": true: set appendonly yes and appendfsync \
                     always, or REDIS_DURABILITY",
                    self.keeping()
                ),
            });
        }
        let connected = self.field("connected_slaves").parse().unwrap_or(0);
        if connected < replicas {
            warnings.push(format!(
                "Redis: {connected} replicas are connected and REDIS_WAIT is {replicas}, so publishes are answered with 503"
            ));
        }
        if let Some(bytes) = self.setting("client-output-buffer-limit").and_then(pubsub_bytes)
            && bytes < PUBSUB_BYTES
        {
            warnings.push(format!(
                "Redis: client-output-buffer-limit closes the connection of a node that is {} MiB behind, which takes \
                 seconds at a high rate: set client-output-buffer-limit \"pubsub 256mb 128mb 60\"",
                bytes >> 20
            ));
        }
        warnings
    }
}

/// The bytes that may wait for a subscriber which does not read for a moment; `None` if there is no limit, or none that this
/// version understands. The text has four words for each class of clients: its name, the hard limit, the soft limit, and the
/// seconds after which the soft limit counts.
fn pubsub_bytes(limits: &str) -> Option<u64> {
    let words: Vec<&str> = limits.split_whitespace().collect();
    let class = words.chunks_exact(4).find(|class| class[0] == "pubsub")?;
    let limit = |at: usize| class[at].parse::<u64>().ok();
    let (hard, soft, seconds) = (limit(1)?, limit(2)?, limit(3)?);
    let soft = if seconds < PUBSUB_SECONDS { soft } else { 0 };
    [hard, soft].into_iter().filter(|&limit| limit > 0).min()
}

/// The settings that Redis tells, if it tells any: a managed Redis may forbid CONFIG.
async fn settings(commands: &mut MultiplexedConnection) -> Result<HashMap<String, String>, RedisError> {
    let names = ["append*", "client-output-buffer-limit"];
    match redis::cmd("CONFIG").arg("GET").arg(&names).query_async::<Value>(commands).await {
        Ok(value) => Ok(redis::from_redis_value(value)?),
        Err(error) if error.is_connection_dropped() || error.is_timeout() => Err(error),
        Err(_) => Ok(HashMap::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str, policy: &str, skew: u64) -> Found {
        let info = [("redis_version", version), ("maxmemory_policy", policy)];
        let info = info.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Found { info, skew: Duration::from_millis(skew), settings: HashMap::new() }
    }

    /// A Redis with these settings.
    fn set(settings: &[(&str, &str)]) -> Found {
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Found { settings, ..found("7.0", "noeviction", 0) }
    }

    fn keeping(durability: Option<Durability>) -> Found {
        match durability {
            Some(Durability::Always) => set(&[("appendonly", "yes"), ("appendfsync", "always")]),
            Some(Durability::EverySecond) => set(&[("appendonly", "yes"), ("appendfsync", "everysec")]),
            Some(Durability::None) => set(&[("appendonly", "no"), ("appendfsync", "always")]),
            None => set(&[]),
        }
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
            assert_eq!(keeping(found).keeps(declared), expected, "{found:?} {declared:?}");
            let is_warned = !expected && declared != Some(Nothing);
            assert_eq!(!keeping(found).warnings(declared, 0).is_empty(), is_warned, "{found:?} {declared:?}");
        }
    }

    #[test]
    fn a_buffer_that_a_pause_overflows_is_warned_of() {
        for (limits, expected) in [
            ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", Some("32 MiB")),
            ("normal 0 0 0 slave 1 1 1 pubsub 268435456 134217728 60", None),
            ("pubsub 268435456 8388608 1", Some("8 MiB")),
            ("pubsub 268435456 8388608 5", None),
            ("pubsub 0 0 0", None),
            ("pubsub 1 2", None),
            ("pubsub x 0 0", None),
            ("", None),
        ] {
            let warnings = set(&[("client-output-buffer-limit", limits)]).warnings(Some(Durability::None), 0);
            let told = warnings.first().map_or("", String::as_str);
            assert_eq!(warnings.len(), usize::from(expected.is_some()), "{limits}");
            assert!(told.contains(expected.unwrap_or_default()), "{limits}: {told}");
        }
    }
}
