//! `loadgen bench-cluster`: two nodes of each kind on a Redis of their own, side by side in one run.
//!
//! [`Order::carry_out`] goes through the scenarios, and for each through the kinds, round by round. For every measurement
//! it starts Redis and both [`nodes`] fresh. Publishes go into node A over HTTP, with the same request for every kind: a
//! POST with a key and 200 B of JSON, on a connection that is kept. [`report`] makes the tables.

mod crossing;
mod memory;
pub mod nodes;
pub mod promises;
mod publisher;
pub mod redis;
pub mod report;
mod returning;
pub mod throughput;

use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::sample::{Latency, median};
use crate::server::Places;
use crate::workload::Pace;
use memory::Memory;
use nodes::{Cluster, Cost};
use redis::Fsync;
use throughput::{LOADS, Publishers, Throughput};

/// Clients that change nodes.
pub const CLIENTS: usize = 5_000;

/// Servers with several nodes over Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The product, with one shard on each node.
    Ours,
    /// The product on a Redis that writes nothing to the disk.
    WithoutAof,
    /// Socket.IO with `@socket.io/redis-streams-adapter`, and its recovery.
    Streams,
    /// Socket.IO with `@socket.io/redis-adapter`.
    Pubsub,
    /// The same with its sharded adapter, which subscribes to rooms with members.
    Sharded,
    /// socketioxide with `socketioxide-redis`.
    Socketioxide,
}

/// All kinds, in the order of the tables.
pub const KINDS: [Kind; 6] =
    [Kind::Ours, Kind::WithoutAof, Kind::Streams, Kind::Pubsub, Kind::Sharded, Kind::Socketioxide];

impl Kind {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::WithoutAof => "without-aof",
            Self::Streams => "streams",
            Self::Pubsub => "pubsub",
            Self::Sharded => "sharded",
            Self::Socketioxide => "socketioxide",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    /// What it is, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "slop-studios",
            Self::WithoutAof => "slop-studios, Redis without AOF",
            Self::Streams => "Socket.IO + redis-streams-adapter",
            Self::Pubsub => "Socket.IO + redis-adapter",
            Self::Sharded => "Socket.IO + redis-adapter, sharded",
            Self::Socketioxide => "socketioxide-redis",
        }
    }

    /// The adapter of a peer.
    fn adapter(self) -> Option<&'static str> {
        (!self.is_ours()).then(|| self.name())
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::WithoutAof)
    }

    fn fsync(self) -> Fsync {
        if self == Self::WithoutAof { Fsync::NoAof } else { Fsync::EverySecond }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is measured for each kind. Publishes go into node A.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// To a room without members, 8 publishes in flight.
    Nobody,
    /// To a room with one member, on node A, 8 in flight.
    Elsewhere,
    /// To a room with one member, on node B, one in flight.
    Lone,
    /// To a room with so many members, on node B, 8 in flight; with 1,000 members one.
    Members(usize),
    /// All clients of node A lose their connections and come to node B.
    Cut,
    /// The same after `kill -9` of node A.
    Killed,
}

/// All scenarios, in the order of the tables.
pub const SCENARIOS: [Scenario; 8] = [
    Scenario::Nobody,
    Scenario::Elsewhere,
    Scenario::Lone,
    Scenario::Members(1),
    Scenario::Members(5),
    Scenario::Members(1_000),
    Scenario::Cut,
    Scenario::Killed,
];

impl Scenario {
    /// Its name in results and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Nobody => "nobody".to_owned(),
            Self::Elsewhere => "elsewhere".to_owned(),
            Self::Lone => "lone".to_owned(),
            Self::Members(members) => format!("members-{members}"),
            Self::Cut => "cut".to_owned(),
            Self::Killed => "killed".to_owned(),
        }
    }

    fn is_for(self, kind: Kind) -> bool {
        kind != Kind::WithoutAof || self == Self::Members(1)
    }
}

/// One measurement of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Processor time of a publish, or of a client that comes back, in microseconds.
    pub cost: Cost,
    /// Node B's, less what it takes without publishes.
    pub beside_idle: Option<f64>,
    /// Publishes or clients in a second.
    pub rate: f64,
    /// The load generator's share of a processor.
    pub own_busy: f64,
    /// From the publish to the member, or until a client is back.
    pub latency: Option<Latency>,
    /// By command of Redis: calls and microseconds for each publish, those within functions included.
    pub commands: Vec<(String, (f64, f64))>,
    /// The share of clients that got their sessions and events.
    pub recovered: Option<f64>,
    /// Until all clients were back.
    pub seconds: f64,
}

impl Sample {
    /// The median of each figure by itself; the commands are those of the first sample.
    fn median(samples: &[&Self]) -> Option<Self> {
        let first = samples.first()?;
        let of = |figure: &dyn Fn(&Self) -> Option<f64>| median(samples.iter().filter_map(|it| figure(it)));
        let latency = |figure: &dyn Fn(&Latency) -> f64| of(&|it| it.latency.as_ref().map(figure));
        let each = |figure: &dyn Fn(&Self) -> f64| of(&|it| Some(figure(it))).unwrap_or_default();
        Some(Self {
            cost: Cost { a: each(&|it| it.cost.a), b: each(&|it| it.cost.b), redis: each(&|it| it.cost.redis) },
            beside_idle: of(&|it| it.beside_idle),
            rate: each(&|it| it.rate),
            own_busy: each(&|it| it.own_busy),
            latency: latency(&|it| it.p50).map(|p50| Latency {
                p50,
                p99: latency(&|it| it.p99).unwrap_or_default(),
                max: latency(&|it| it.max).unwrap_or_default(),
            }),
            commands: first.commands.clone(),
            recovered: of(&|it| it.recovered),
            seconds: each(&|it| it.seconds),
        })
    }
}

/// All measurements of one kind in one scenario, one for each round.
#[derive(Debug)]
pub struct Series {
    /// Where the members are.
    pub scenario: Scenario,
    /// Which server.
    pub kind: Kind,
    /// What was found, or what went wrong.
    pub rounds: Vec<Result<Sample, String>>,
}

impl Series {
    /// The medians, if every round came to something.
    #[must_use]
    pub fn median(&self) -> Option<Sample> {
        let samples: Vec<&Sample> = self.rounds.iter().map(|round| round.as_ref().ok()).collect::<Option<_>>()?;
        Sample::median(&samples)
    }

    /// The first thing that went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.rounds.iter().find_map(|round| round.as_ref().err()).map(String::as_str)
    }

    /// How many times the other's figure: the median over the rounds of the ratio within a round.
    #[must_use]
    pub fn ratio_to(&self, other: &Self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.filter_map(|pair| match pair {
            (Ok(own), Ok(other)) => Some(figure(own)? / figure(other)?),
            _ => None,
        }))
    }
}

/// One load on Redis.
#[derive(Debug)]
pub struct Loaded {
    /// The publishers.
    pub publishers: Publishers,
    /// The setting of Redis.
    pub fsync: Fsync,
    /// One for each round.
    pub rounds: Vec<Throughput>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// By scenario, then by kind.
    pub series: Vec<Series>,
    /// Loads on Redis.
    pub loads: Vec<Loaded>,
    /// Memory of Redis, if it was measured.
    pub memory: Option<Memory>,
    /// Measurements of ours that failed outside of the series.
    pub failures: Vec<String>,
}

impl Results {
    /// The series of a kind in a scenario.
    #[must_use]
    pub fn of(&self, scenario: Scenario, kind: Kind) -> Option<&Series> {
        self.series.iter().find(|it| it.scenario == scenario && it.kind == kind)
    }

    /// What went wrong with ours.
    #[must_use]
    pub fn own_failures(&self) -> Vec<String> {
        let failed = self.series.iter().filter(|it| it.kind.is_ours());
        let failed = failed.filter_map(|it| Some(format!("{} in {}: {}", it.kind, it.scenario.name(), it.error()?)));
        failed.chain(self.failures.iter().cloned()).collect()
    }
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Order {
    /// The scenarios; with all of them also the loads on Redis and its memory.
    pub scenarios: Vec<Scenario>,
    /// The loads on Redis, and its memory.
    pub redis: bool,
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// Measurements of each.
    pub rounds: usize,
    /// Three minutes instead of figures that are kept.
    pub quick: bool,
}

impl Order {
    /// Measures.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn carry_out(&self, places: &Places) -> Result<Results> {
        for &kind in &self.kinds {
            if let Some(file) = nodes::missing(kind, places) {
                bail!("{} is missing; `bench/setup cluster` makes it", file.display());
            }
        }
        let pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        let mut results = Results::default();
        for &scenario in &self.scenarios {
            let kinds = self.kinds.iter().filter(|kind| scenario.is_for(**kind));
            let mut series: Vec<Series> = kinds.map(|&kind| Series { scenario, kind, rounds: Vec::new() }).collect();
            for round in 0..self.rounds {
                let mut order: Vec<usize> = (0..series.len()).collect();
                // Back and forth, so that a machine that gets slower or faster favours nobody.
                if round % 2 == 1 {
                    order.reverse();
                }
                for index in order {
                    let kind = series[index].kind;
                    let outcome = measure(scenario, kind, places, &pace);
                    progress(scenario, kind, &outcome);
                    series[index].rounds.push(outcome);
                }
            }
            results.series.extend(series);
        }
        if self.redis {
            self.load_redis(places, &pace, &mut results);
        }
        Ok(results)
    }

    fn load_redis(&self, places: &Places, pace: &Pace, results: &mut Results) {
        for publishers in LOADS {
            for fsync in [Fsync::EverySecond, Fsync::Always] {
                let mut loaded = Loaded { publishers, fsync, rounds: Vec::new() };
                for _ in 0..self.rounds {
                    match throughput::run(places, publishers, fsync, pace) {
                        Ok(found) => loaded.rounds.push(found),
                        Err(error) => results.failures.push(format!("{}: {error:#}", publishers.title())),
                    }
                }
                eprintln!("{}, {}: {:?}", publishers.title(), fsync.name(), loaded.rounds);
                results.loads.push(loaded);
            }
        }
        match memory::run(places, pace) {
            Ok(memory) => {
                eprintln!("{memory:?}");
                results.memory = Some(memory);
            }
            Err(error) => results.failures.push(format!("memory: {error:#}")),
        }
    }
}

fn measure(scenario: Scenario, kind: Kind, places: &Places, pace: &Pace) -> Result<Sample, String> {
    let mut cluster = Cluster::start(kind, places, kind.fsync()).map_err(|error| format!("{error:#}"))?;
    let sample = match scenario {
        Scenario::Cut | Scenario::Killed => returning::run(&mut cluster, scenario, pace),
        _ => crossing::run(&mut cluster, scenario, pace),
    };
    sample.map_err(|error| format!("{error:#} ({})", cluster.last_words()))
}

fn progress(scenario: Scenario, kind: Kind, outcome: &Result<Sample, String>) {
    let name = scenario.name();
    match outcome {
        Ok(Sample { cost, rate, latency, recovered, own_busy, .. }) => eprintln!(
            "{name:12} {kind:12} A {:7.1} + B {:7.1} + Redis {:6.1} = {:7.1} µs  {rate:7.0}/s  p99 {:7.0} µs  loadgen {:3.0} %{}",
            cost.a,
            cost.b,
            cost.redis,
            cost.total(),
            latency.map_or(0.0, |it| it.p99),
            own_busy * 100.0,
            recovered.map_or_else(String::new, |share| format!("  recovered {:.0} %", share * 100.0)),
        ),
        Err(error) => eprintln!("{name:12} {kind:12} FAILED: {error}"),
    }
}
