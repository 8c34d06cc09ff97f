//! A look at Redis for an operator, before a server uses it. It changes nothing there.

use std::fmt::Write as _;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::fitness::{FORMAT, Found};
use super::link::connection_config;
use super::{Durability, OpenError, Target, Unfit, key_prefix};

/// How long all of it may take. The connection and each answer have shorter limits.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What Redis is, what it keeps, and what is under the prefix; lines of text.
    pub facts: String,
    /// What the operator should change, one line each.
    pub warnings: Vec<String>,
}

/// The data of a cluster.
struct Data {
    /// The format; `None` if there is no data.
    format: Option<String>,
    items: u64,
    nodes: u64,
    /// How its migration stands, if it was migrated.
    migration: Option<String>,
}

/// Connects, and finds out whether a server can use this Redis.
///
/// # Errors
/// If Redis can't be reached or a server can't use it. The error explains it in one line, without the password.
pub fn check(
    target: &Target,
    prefix: &str,
    declared: Option<Durability>,
    replicas: usize,
) -> Result<Report, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = runtime.block_on(async { timeout(CHECK_TIMEOUT, look(target, prefix, declared, replicas)).await });
    // Not by a drop, which would wait for a name resolution in progress.
    runtime.shutdown_background();
    looked.unwrap_or(Err(OpenError::Silent(CHECK_TIMEOUT)))
}

async fn look(
    target: &Target,
    prefix: &str,
    declared: Option<Durability>,
    replicas: usize,
) -> Result<Report, OpenError> {
    let client = target.client().await?;
    let address = client.get_connection_info().addr().to_string();
    let mut commands = client.get_multiplexed_async_connection_with_config(&connection_config()).await?;
    let found = Found::of(&mut commands).await?;
    found.check()?;
    let data = data_under(&mut commands, &key_prefix(prefix)).await?;
    if let Some(format) = &data.format
        && format.parse::<u64>().is_ok_and(|format| format > FORMAT)
    {
        return Err(Unfit::Format(format.clone()).into());
    }
    if data.migration.as_deref() == Some("under way") {
        return Err(Unfit::Migration.into());
    }
    let (version, keeping, skew) = (found.version(), found.keeping(), found.skew().as_millis());
    let stored = if found.keeps(declared) { "true" } else { "false" };
    let mut facts = format!("{address} is {version}: {keeping}, maxmemory-policy noeviction, clock {skew} ms off\n");
    // Writing to a string never fails.
    let _ = writeln!(facts, "durable publishes are answered with \"stored\": {stored}");
    let _ = match &data.format {
        None if data.migration.is_some() => {
            writeln!(facts, "the prefix {prefix} has {} migrated media items, and no node has run yet", data.items)
        }
        None => writeln!(facts, "the prefix {prefix} has no data"),
        Some(format) => writeln!(
            facts,
            "the prefix {prefix} has data of format {format}, {} media items, {} running nodes",
            data.items, data.nodes
        ),
    };
    Ok(Report { facts, warnings: found.warnings(declared, replicas) })
}

async fn data_under(commands: &mut MultiplexedConnection, prefix: &str) -> Result<Data, RedisError> {
    let key = |name: &str| format!("{prefix}{name}");
    let (seconds, _micros): (u64, u64) = redis::cmd("TIME").query_async(commands).await?;
    // As `apply.lua` tells which nodes are running.
    let running_since = seconds.saturating_sub(5).saturating_mul(1_000);
    let mut questions = redis::pipe();
    questions.cmd("HGET").arg(key("head")).arg("format");
    questions.cmd("ZCARD").arg(key("media"));
    questions.cmd("ZCOUNT").arg(key("nodes")).arg(running_since).arg("+inf");
    questions.cmd("HGET").arg(key("migration")).arg("state");
    let (format, items, nodes, migration) = questions.query_async(commands).await?;
    Ok(Data { format, items, nodes, migration })
}
