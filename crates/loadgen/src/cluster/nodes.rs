//! Two nodes of one kind on a Redis of their own, and what the three processes cost.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::meter::Reading;
use crate::server::{Places, Process};

use super::Kind;
use super::redis::{Fsync, Redis};

const SECRET: &str = "bench-bench-bench-bench-bench-bench";

/// Node A takes the publishes, node B has the members.
#[derive(Debug)]
pub struct Cluster {
    /// Nothing after it was killed.
    a: Option<Process>,
    b: Process,
    /// Their Redis.
    pub redis: Redis,
}

impl Cluster {
    /// Starts all three.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start(kind: Kind, places: &Places, fsync: Fsync) -> Result<Self> {
        let redis = Redis::start(&places.launcher, fsync)?;
        let url = redis.url();
        let mut settings = vec![("REDIS_URL", url.as_str())];
        if let Some(adapter) = kind.adapter() {
            settings.push(("ADAPTER", adapter));
        } else {
            settings.extend([("SHARDS", "1"), ("NODE_ADDRESS", "127.0.0.1:0"), ("CLUSTER_SECRET", SECRET)]);
        }
        let start = || Process::start(&places.launcher, kind.name(), &program(kind, places), &settings);
        Ok(Self { a: Some(start()?), b: start()?, redis })
    }

    /// The node that takes the publishes.
    ///
    /// # Errors
    /// If it was killed.
    pub fn a(&self) -> Result<&Process> {
        self.a.as_ref().context("node A was killed")
    }

    /// The node that has the members.
    #[must_use]
    pub fn b(&self) -> &Process {
        &self.b
    }

    /// Ends node A as `kill -9` does.
    pub fn kill_a(&mut self) {
        self.a = None;
    }

    /// The last lines that the nodes logged.
    pub fn last_words(&mut self) -> String {
        let a = self.a.as_mut().map_or_else(|| "killed".to_owned(), Process::last_words);
        format!("A: {a}; B: {}", self.b.last_words())
    }

    /// Reads the clocks of all three.
    ///
    /// # Errors
    /// If one has ended.
    pub fn clocks(&self) -> Result<Clocks> {
        let a = self.a.as_ref().map(|a| Reading::take(a.pid())).transpose()?;
        Ok(Clocks { a, b: Reading::take(self.b.pid())?, redis: Reading::take(self.redis.pid())? })
    }
}

fn program(kind: Kind, places: &Places) -> Vec<PathBuf> {
    match kind {
        Kind::Ours | Kind::WithoutAof => vec![places.binaries.join("slop-studios"), "serve".into()],
        Kind::Socketioxide => {
            vec![places.peers.join("socketioxide-redis/target/release/socketioxide-redis-peer")]
        }
        Kind::Streams | Kind::Pubsub | Kind::Sharded => vec!["node".into(), places.peers.join("node/cluster.js")],
    }
}

/// What is missing to start a kind, if anything.
#[must_use]
pub fn missing(kind: Kind, places: &Places) -> Option<PathBuf> {
    let mut files = program(kind, places);
    if kind.adapter().is_some() && kind != Kind::Socketioxide {
        files.push(places.peers.join("node/node_modules/@socket.io/redis-streams-adapter"));
    }
    files.into_iter().find(|file| file.components().count() > 1 && !file.exists())
}

/// The clocks of a cluster's processes, read together.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    a: Option<Reading>,
    b: Reading,
    redis: Reading,
}

/// Processor time of a cluster's processes, in microseconds for each of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    /// The node that takes the publishes.
    pub a: f64,
    /// The node that has the members.
    pub b: f64,
    /// Redis.
    pub redis: f64,
}

impl Cost {
    /// Of all three.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.a + self.b + self.redis
    }

    /// The same for each of so many.
    #[must_use]
    pub fn each(&self, count: f64) -> Self {
        Self { a: self.a / count, b: self.b / count, redis: self.redis / count }
    }
}

/// What passed between two readings.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// The cluster's processor time in microseconds.
    pub cost: Cost,
    /// The load generator's.
    pub own: Duration,
    /// Time.
    pub wall: Duration,
}

impl Clocks {
    /// What has passed since.
    ///
    /// # Errors
    /// If a process has ended.
    pub fn spent(&self, cluster: &Cluster) -> Result<Spent> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let a = match (self.a, &cluster.a) {
            (Some(before), Some(a)) => micros(before.spent(a.pid())?.server),
            _ => 0.0,
        };
        let b = self.b.spent(cluster.b.pid())?;
        let redis = micros(self.redis.spent(cluster.redis.pid())?.server);
        Ok(Spent { cost: Cost { a, b: micros(b.server), redis }, own: b.own, wall: b.wall })
    }
}
