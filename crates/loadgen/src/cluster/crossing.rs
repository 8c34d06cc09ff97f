//! What a publish costs the two nodes and Redis, by the place of the room's members.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::net::Net;
use crate::publishing::{Door, Entrance, Lanes, Publishing, Shape};
use crate::sample::Latency;
use crate::workload::{Pace, SMALL};

use super::nodes::{Cluster, Cost};
use super::redis::difference;
use super::{Sample, Scenario};

/// A silence of this length shows whether the processes still work on what was published.
const SLICE: Duration = Duration::from_millis(100);

/// Processor time in microseconds that all three may take in such a silence: 5 % of a processor.
const QUIET: f64 = 5_000.0;

/// Publishes of a warm-up, if they come to so many in so many times its length.
const WARM_PUBLISHES: u64 = 5_000;
const WARM_UPS: usize = 5;

/// Silences until the measurement is over in any case.
const SLICES: usize = 50;

pub(super) fn run(cluster: &mut Cluster, scenario: Scenario, pace: &Pace) -> Result<Sample> {
    let (members, in_flight) = match scenario {
        Scenario::Nobody => (0, 8),
        Scenario::Elsewhere => (1, 8),
        Scenario::Lone => (1, 1),
        // As many publishes at a time would share their writes to each member.
        Scenario::Members(1_000..) => (1_000, 1),
        Scenario::Members(members) => (members, 8),
        Scenario::Cut | Scenario::Killed => unreachable!("these are measured in `returning`"),
    };
    let members_at = if scenario == Scenario::Elsewhere { cluster.a()? } else { cluster.b() }.address();
    let mut net = Net::new(members_at, Instant::now() + pace.limit)?;
    // Each publisher for itself, as a worker that has one event.
    let entrance = Entrance { door: Door::Http, lanes: Lanes::Each };
    let shape = Shape::room(members, in_flight, SMALL);
    let mut publishing = Publishing::begin_at(&mut net, cluster.a()?.address(), entrance, shape)?;
    warm_up(&mut publishing, &mut net, pace)?;
    quiet(cluster, &mut net)?;
    let idle = idle(cluster, &mut net, pace.settle)?;

    publishing.forget_latency();
    let (before, commands) = (publishing.publishes(), cluster.redis.commands()?);
    let clocks = cluster.clocks()?;
    publishing.run(&mut net, pace.measure)?;
    let running = clocks.spent(cluster)?;
    quiet(cluster, &mut net)?;
    let spent = clocks.spent(cluster)?;
    let publishes = (publishing.publishes() - before).max(1) as f64;
    let wall = spent.wall.as_secs_f64();
    Ok(Sample {
        cost: spent.cost.each(publishes),
        beside_idle: Some(spent.cost.b / publishes - idle.b * wall / publishes),
        rate: publishes / running.wall.as_secs_f64(),
        own_busy: running.own.as_secs_f64() / running.wall.as_secs_f64(),
        latency: Latency::of(publishing.latency()),
        commands: difference(&commands, &cluster.redis.commands()?)
            .into_iter()
            .map(|(name, (calls, micros))| (name, (calls as f64 / publishes, micros as f64 / publishes)))
            .collect(),
        recovered: None,
        seconds: wall,
    })
}

/// Compilers at run time look at a code path some thousand times before they have made it fast.
fn warm_up(publishing: &mut Publishing, net: &mut Net, pace: &Pace) -> Result<()> {
    for _ in 0..WARM_UPS {
        publishing.run(net, pace.warm_up)?;
        if publishing.publishes() >= WARM_PUBLISHES {
            break;
        }
    }
    Ok(())
}

/// Waits until the processes have nothing left to do: a peer answers a publish before it has reached the other node.
fn quiet(cluster: &Cluster, net: &mut Net) -> Result<()> {
    for _ in 0..SLICES {
        let clocks = cluster.clocks()?;
        net.rest(SLICE)?;
        if clocks.spent(cluster)?.cost.total() < QUIET {
            break;
        }
    }
    Ok(())
}

/// What the processes cost in a second without any publish.
fn idle(cluster: &Cluster, net: &mut Net, time: Duration) -> Result<Cost> {
    let clocks = cluster.clocks()?;
    net.rest(time)?;
    let spent = clocks.spent(cluster)?;
    Ok(spent.cost.each(spent.wall.as_secs_f64()))
}
