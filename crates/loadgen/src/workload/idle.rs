//! Clients that connect and do nothing: the memory that each takes, and what remains when all have left.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::meter::{Reading, resident_kib};
use crate::net::{Leave, Net, Plan};
use crate::publishing::CONCURRENCY;
use crate::sample::{Latency, Memory, Sample};
use crate::server::Server;

use super::Pace;

pub(super) fn run(
    net: &mut Net,
    server: &Server,
    pace: &Pace,
    connections: usize,
    three_namespaces: bool,
) -> Result<Sample> {
    // One client before all, so that what is made at the first connection counts as the empty server's.
    let plan = Plan::Client { three_namespaces, room: None };
    let (first, _) = net.connect_all([plan], 1)?;
    net.leave_all(&first, Leave::Disconnect, 1)?;
    net.rest(pace.settle)?;
    let empty = resident_kib(server.pid())?;

    let reading = Reading::take(server.pid())?;
    let (conns, latencies) = net.connect_all(std::iter::repeat_n(plan, connections), CONCURRENCY)?;
    let spent = reading.spent(server.pid())?;
    net.rest(pace.settle)?;
    let full = resident_kib(server.pid())?;

    net.leave_all(&conns, Leave::ClosePage, CONCURRENCY)?;
    let after = settled(net, server, pace)?;
    let memory =
        Memory { connections: connections as f64, empty: empty as f64, full: full as f64, after: Some(after as f64) };
    let mut sample = Sample::per_operation(&spent, connections as u64).with_latency(Latency::of_all(&latencies));
    sample.second_cost = Some(sample.cost);
    sample.cost = memory.per_connection();
    sample.memory = Some(memory);
    Ok(sample)
}

/// The memory once it has stopped falling, or when the patience for that is over.
fn settled(net: &mut Net, server: &Server, pace: &Pace) -> Result<u64> {
    const STEP: Duration = Duration::from_millis(100);
    let (begun, mut lowest, mut lowest_at) = (Instant::now(), u64::MAX, Instant::now());
    while begun.elapsed() < 8 * pace.settle && lowest_at.elapsed() < 2 * pace.settle {
        let now = resident_kib(server.pid())?;
        if now < lowest {
            (lowest, lowest_at) = (now, Instant::now());
        }
        net.rest(STEP)?;
    }
    resident_kib(server.pid())
}
