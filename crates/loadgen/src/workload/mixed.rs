//! A server as it is on a working day: most connections idle, some rooms busy, and a few members of one of them read
//! only five times a second. Latencies are those of the members that read at once.

use anyhow::Result;

use crate::meter::resident_kib;
use crate::net::{Net, Plan};
use crate::publishing::{CONCURRENCY, Publishing, Shape};
use crate::sample::{Memory, Sample};
use crate::server::Server;

use super::{Pace, SMALL, fanout};

const CROWD: usize = 2_000;
const SHAPE: Shape = Shape { rooms: 50, slow: 20, ..Shape::room(20, 16, SMALL) };

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace) -> Result<Sample> {
    let empty = resident_kib(server.pid())?;
    net.connect_all(std::iter::repeat_n(Plan::IDLE, CROWD), CONCURRENCY)?;
    let mut publishing = Publishing::begin(net, pace.entrance(server), SHAPE)?;
    let mut sample = fanout::measure(&mut publishing, net, server, pace)?;
    let full = resident_kib(server.pid())?;
    sample.memory =
        Some(Memory { connections: net.open() as f64, empty: empty as f64, full: full as f64, after: None });
    Ok(sample)
}
