//! Broadcasts of 4 KiB to 8,000 members, one after the other without a pause, and another socket that pings meanwhile.
//! The cost is how far its latencies lie apart: the 99th percentile over the median.

use anyhow::Result;

use crate::net::Net;
use crate::pinger::Pinger;
use crate::publishing::{Publishing, Shape};
use crate::sample::{Latency, Sample};
use crate::server::Server;

use super::{LARGE, Pace, fanout};

const SHAPE: Shape = Shape::room(8_000, 1, LARGE);

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace) -> Result<Sample> {
    let mut publishing = Publishing::begin(net, pace.entrance(server), SHAPE)?;
    publishing.run(net, pace.warm_up)?;
    let pinger = Pinger::start(server.address())?;
    // The load is warm already, and a percentile wants many pings.
    let pace = Pace { warm_up: std::time::Duration::ZERO, measure: 3 * pace.measure, ..*pace };
    let mut sample = fanout::measure(&mut publishing, net, server, &pace)?;
    sample.latency = Latency::of_all(&pinger.stop()?);
    sample.second_cost = Some(sample.cost);
    sample.cost = sample.latency.map_or(f64::NAN, |latency| latency.p99 / latency.p50);
    Ok(sample)
}
