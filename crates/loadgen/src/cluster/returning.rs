//! Clients of node A that lose their connections at once and come to node B, as fast as it takes them. A client whose
//! session B has must also get the event that was published while it was away. Any other client joins its room again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::message::Message;
use crate::net::{ConnId, Idle, Load, Net, Plan, TICK};
use crate::publishing::CONCURRENCY;
use crate::sample::Latency;
use crate::workload::Pace;

use super::nodes::Cluster;
use super::publisher::Publisher;
use super::{CLIENTS, Sample, Scenario};

/// Rooms that they spread over.
const ROOMS: u16 = 20;

/// Clients that connect at the same time: below the 511 that Node's queue of new connections holds. A client that finds it
/// full tries again after a second.
const AT_ONCE: usize = 400;

/// Between the first event and the loss, so that nodes have saved the sessions that they save while they run.
const BEFORE: Duration = Duration::from_secs(2);

/// Between the loss and the return. The stock client waits half a second to one and a half.
const AWAY: Duration = Duration::from_secs(1);

pub(super) fn run(cluster: &mut Cluster, scenario: Scenario, pace: &Pace) -> Result<Sample> {
    let mut net = Net::new(cluster.a()?.address(), Instant::now() + pace.limit)?;
    net.keep_sessions();
    let plans = (0..CLIENTS).map(|client| Plan::member(room_of(client)));
    net.connect_all(plans, CONCURRENCY)?;
    let mut publisher = Publisher::connect(cluster.b().address(), pace.limit)?;
    // A client of Socket.IO has an offset, and so can recover, from its first event on.
    publisher.publish_to_each(ROOMS, b"{}")?;
    let mut met = Met::default();
    while met.updates < CLIENTS {
        net.turn(&mut met, TICK).with_context(|| format!("{} of {CLIENTS} have the first event", met.updates))?;
    }
    net.rest(BEFORE)?;

    if scenario == Scenario::Killed {
        cluster.kill_a();
    }
    let sessions = net.cut_all();
    net.rest(AWAY)?;
    publisher.publish_to_each(ROOMS, b"{}")?;
    net.go_to(cluster.b().address());
    let (clocks, begun) = (cluster.clocks()?, Instant::now());
    let mut sessions = sessions.into_iter().enumerate();
    let (mut back, mut begun_count) = (Met::default(), 0);
    while back.latencies.len() < CLIENTS {
        while begun_count < back.latencies.len() + AT_ONCE
            && let Some((client, session)) = sessions.next()
        {
            net.come_back_or_join(session, room_of(client))?;
            begun_count += 1;
        }
        net.turn(&mut back, TICK).with_context(|| format!("{} of {CLIENTS} are back", back.latencies.len()))?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let spent = clocks.spent(cluster)?;
    Ok(Sample {
        cost: spent.cost.each(CLIENTS as f64),
        beside_idle: None,
        rate: CLIENTS as f64 / seconds,
        own_busy: spent.own.as_secs_f64() / seconds,
        latency: Latency::of_all(&back.latencies),
        commands: Vec::new(),
        recovered: Some(net.recovered() as f64 / CLIENTS as f64),
        seconds,
    })
}

fn room_of(client: usize) -> u16 {
    (client % usize::from(ROOMS)) as u16
}

/// The events that clients got, and how long each took until it was ready.
#[derive(Default)]
struct Met {
    updates: usize,
    latencies: Vec<Duration>,
}

impl Load for Met {
    fn ready(&mut self, _conn: ConnId, took: Duration) -> Result<()> {
        self.latencies.push(took);
        Ok(())
    }

    fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
        if matches!(message, Message::Update(_)) {
            self.updates += 1;
            return Ok(());
        }
        Idle.message(conn, message, at)
    }
}
