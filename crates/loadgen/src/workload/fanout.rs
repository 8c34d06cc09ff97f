//! Events to rooms, in a closed loop: the cost of a delivery. With a single member, that of a publish.

use anyhow::Result;

use crate::meter::Reading;
use crate::net::Net;
use crate::publishing::{Publishing, Shape};
use crate::sample::{Latency, Sample};
use crate::server::Server;

use super::Pace;

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace, shape: Shape) -> Result<Sample> {
    let mut publishing = Publishing::begin(net, pace.entrance(server), shape)?;
    measure(&mut publishing, net, server, pace)
}

/// Warms up and measures. All that was published in the time has been delivered when it ends.
pub(super) fn measure(publishing: &mut Publishing, net: &mut Net, server: &Server, pace: &Pace) -> Result<Sample> {
    publishing.run(net, pace.warm_up)?;
    publishing.forget_latency();
    let before = publishing.deliveries();
    let reading = Reading::take(server.pid())?;
    publishing.run(net, pace.measure)?;
    let spent = reading.spent(server.pid())?;
    let sample = Sample::per_operation(&spent, publishing.deliveries() - before);
    Ok(sample.with_latency(Latency::of(publishing.latency())))
}
