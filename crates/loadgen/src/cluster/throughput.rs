//! Publishes for each second of Redis's processor time, under load from many publishers. Each room has one member, on the
//! other node.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::net::Net;
use crate::publishing::{Door, Entrance, Lanes, Publishing, Shape};
use crate::server::Places;
use crate::workload::{Pace, SMALL};

use super::Kind;
use super::nodes::Cluster;
use super::redis::{Fsync, difference};

/// Publishers at the same time, each with a room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publishers {
    /// How many.
    pub count: u16,
    /// Whether each sends its own request, or those that are ready share one.
    pub lanes: Lanes,
}

impl Publishers {
    /// For people.
    #[must_use]
    pub fn title(self) -> String {
        let how = if self.lanes == Lanes::Each { "a request each" } else { "in batch requests" };
        format!("{} publishers, {how}", self.count)
    }
}

/// Those that are measured.
pub const LOADS: [Publishers; 3] = [
    Publishers { count: 64, lanes: Lanes::Each },
    Publishers { count: 256, lanes: Lanes::Each },
    Publishers { count: 512, lanes: Lanes::Together },
];

/// The figures of one load.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// Publishes for each second of Redis's processor time.
    pub for_redis_second: f64,
    /// Publishes in a second on this machine, whose processors all share.
    pub rate: f64,
    /// Publishes in one call of the function: node A's batches.
    pub batch: f64,
    /// The share of a processor that Redis took.
    pub redis_busy: f64,
}

pub(super) fn run(places: &Places, publishers: Publishers, fsync: Fsync, pace: &Pace) -> Result<Throughput> {
    let mut cluster = Cluster::start(Kind::Ours, places, fsync)?;
    let mut net = Net::new(cluster.b().address(), Instant::now() + pace.limit)?;
    let entrance = Entrance { door: Door::Http, lanes: publishers.lanes };
    let shape = Shape { rooms: publishers.count, ..Shape::room(1, usize::from(publishers.count), SMALL) };
    let mut publishing = Publishing::begin_at(&mut net, cluster.a()?.address(), entrance, shape)?;
    publishing.run(&mut net, pace.warm_up)?;
    let (before, commands) = (publishing.publishes(), cluster.redis.commands()?);
    let clocks = cluster.clocks()?;
    publishing.run(&mut net, pace.measure)?;
    let spent = clocks.spent(&cluster)?;
    let publishes = (publishing.publishes() - before) as f64;
    let calls = difference(&commands, &cluster.redis.commands()?).get("fcall").map_or(0, |&(calls, _)| calls);
    let redis = spent.cost.redis / 1e6;
    Ok(Throughput {
        for_redis_second: publishes / redis,
        rate: publishes / spent.wall.as_secs_f64(),
        batch: publishes / calls.max(1) as f64,
        redis_busy: redis / spent.wall.as_secs_f64(),
    })
}
