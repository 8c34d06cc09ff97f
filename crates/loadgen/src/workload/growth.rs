//! How costs grow with the number of connections: of connecting, of being there, of a delivery.

use anyhow::Result;

use crate::meter::{Reading, resident_kib};
use crate::net::Net;
use crate::publishing::{Publishing, Shape};
use crate::sample::{Memory, Sample};
use crate::server::Server;

use super::{Pace, SMALL, fanout};

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace, connections: usize) -> Result<Sample> {
    let empty = resident_kib(server.pid())?;
    let reading = Reading::take(server.pid())?;
    let mut publishing = Publishing::begin(net, pace.entrance(server), Shape::room(connections, 2, SMALL))?;
    let connecting = reading.spent(server.pid())?;
    net.rest(pace.settle)?;
    let full = resident_kib(server.pid())?;
    let mut sample = fanout::measure(&mut publishing, net, server, pace)?;
    sample.second_cost = Some(Sample::per_operation(&connecting, connections as u64).cost);
    sample.memory =
        Some(Memory { connections: connections as f64, empty: empty as f64, full: full as f64, after: None });
    Ok(sample)
}
