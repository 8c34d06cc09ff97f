//! Clients that connect, join a room and leave, as `socket.disconnect()` does it. Connecting and leaving are measured
//! each for itself, with a full house between.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::meter::{Reading, Spent};
use crate::net::{Leave, Net, Plan};
use crate::publishing::CONCURRENCY;
use crate::sample::{Latency, Sample};
use crate::server::Server;

use super::Pace;

/// Clients of one house.
const CLIENTS: usize = 500;

/// Houses of the warm-up at least: compilers at run time look at a code path a thousand times before they believe in
/// it.
const WARM_CYCLES: usize = 3;

/// Rooms that they spread over.
const ROOMS: usize = 50;

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace) -> Result<Sample> {
    let warm = Instant::now() + pace.warm_up;
    let mut cycles = 0;
    while cycles < WARM_CYCLES || Instant::now() < warm {
        cycle(net, server)?;
        cycles += 1;
    }
    let (mut connecting, mut leaving, mut latencies) = (Total::default(), Total::default(), Vec::new());
    let end = Instant::now() + pace.measure;
    while Instant::now() < end {
        let cycle = cycle(net, server)?;
        connecting.add(&cycle.connecting);
        leaving.add(&cycle.leaving);
        latencies.extend(cycle.latencies);
    }
    let clients = latencies.len() as u64;
    let mut sample = Sample::per_operation(&connecting.spent(), clients).with_latency(Latency::of_all(&latencies));
    sample.second_cost = Some(Sample::per_operation(&leaving.spent(), clients).cost);
    Ok(sample)
}

struct Cycle {
    connecting: Spent,
    leaving: Spent,
    latencies: Vec<Duration>,
}

fn cycle(net: &mut Net, server: &Server) -> Result<Cycle> {
    let plans = (0..CLIENTS).map(|client| Plan::member((client % ROOMS) as u16));
    let before = Reading::take(server.pid())?;
    let (conns, latencies) = net.connect_all(plans, CONCURRENCY)?;
    let connecting = before.spent(server.pid())?;
    let between = Reading::take(server.pid())?;
    net.leave_all(&conns, Leave::Disconnect, CONCURRENCY)?;
    let leaving = between.spent(server.pid())?;
    Ok(Cycle { connecting, leaving, latencies })
}

/// Several spans of the same kind.
#[derive(Default)]
struct Total {
    server: Duration,
    in_kernel: f64,
    own: Duration,
    wall: Duration,
}

impl Total {
    fn add(&mut self, spent: &Spent) {
        self.in_kernel += spent.in_kernel * spent.server.as_secs_f64();
        self.server += spent.server;
        self.own += spent.own;
        self.wall += spent.wall;
    }

    fn spent(&self) -> Spent {
        let server = self.server.as_secs_f64().max(f64::MIN_POSITIVE);
        Spent { server: self.server, in_kernel: self.in_kernel / server, own: self.own, wall: self.wall }
    }
}
