//! Two thousand readers of a hundred rooms, of whom some do not read at all. What is measured are the others: their
//! latencies should not tell. Only the newest event of a room matters, as with the progress of a media item.

use anyhow::Result;

use crate::meter::resident_kib;
use crate::net::Net;
use crate::publishing::{Publishing, Shape};
use crate::sample::{Memory, Sample};
use crate::server::Server;

use super::{LARGE, Pace, fanout};

const ROOMS: u16 = 100;
const READERS: usize = 2_000;

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace, stopped: usize) -> Result<Sample> {
    let empty = resident_kib(server.pid())?;
    let each = |readers: usize| readers / usize::from(ROOMS);
    let (members, stopped) = (each(READERS - stopped), each(stopped));
    let shape = Shape { rooms: ROOMS, stopped, latest: true, ..Shape::room(members, 16, LARGE) };
    let mut publishing = Publishing::begin(net, pace.entrance(server), shape)?;
    let mut sample = fanout::measure(&mut publishing, net, server, pace)?;
    let full = resident_kib(server.pid())?;
    sample.memory =
        Some(Memory { connections: net.open() as f64, empty: empty as f64, full: full as f64, after: None });
    Ok(sample)
}
