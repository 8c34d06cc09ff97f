//! The workloads, one file for each kind. Each connects what it needs to a server that was just started, warms it up,
//! and measures for a while.

pub mod connect;
pub mod fairness;
pub mod fanout;
pub mod growth;
pub mod idle;
pub mod mixed;
pub mod ping;
pub mod recover;
pub mod stopped;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::net::Net;
use crate::publishing::{Entrance, Lanes, Shape};
use crate::sample::Sample;
use crate::server::Server;

/// How long the parts of a measurement take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Load that is not measured, so that compilers and allocators have done their work.
    pub warm_up: Duration,
    /// Load that is measured.
    pub measure: Duration,
    /// Silence before memory is read.
    pub settle: Duration,
    /// All of a measurement, whatever happens.
    pub limit: Duration,
    /// Over how many connections publishes go in, if not as suits the server.
    pub lanes: Option<Lanes>,
}

impl Pace {
    /// For figures that are kept.
    pub const FULL: Self = Self {
        warm_up: Duration::from_millis(700),
        measure: Duration::from_millis(2_000),
        settle: Duration::from_millis(1_000),
        limit: Duration::from_secs(90),
        lanes: None,
    };

    /// For a look.
    pub const QUICK: Self = Self {
        warm_up: Duration::from_millis(300),
        measure: Duration::from_millis(600),
        settle: Duration::from_millis(300),
        limit: Duration::from_secs(30),
        lanes: None,
    };

    fn entrance(&self, server: &Server) -> Entrance {
        let entrance = Entrance::by(server.kind().door());
        Entrance { lanes: self.lanes.unwrap_or(entrance.lanes), ..entrance }
    }
}

/// Bytes of a small event's data.
pub const SMALL: usize = 200;
/// Bytes of a large event's data.
pub const LARGE: usize = 4096;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Events to one room.
    Fanout {
        /// Its members.
        members: usize,
        /// Publishes in flight.
        in_flight: usize,
        /// Bytes of an event's data.
        bytes: usize,
    },
    /// Events to 2,000 rooms of 5.
    Rooms,
    /// The event `ping` with its answers.
    Ping,
    /// Clients that come and go.
    Connect,
    /// Clients that do nothing.
    Idle {
        /// How many.
        connections: usize,
        /// In all three namespaces, or in one.
        three_namespaces: bool,
    },
    /// Events to a single subscriber: what a publish costs.
    Publish,
    /// An idle crowd, busy rooms and slow readers together.
    Mixed,
    /// Another socket's `ping` beside large broadcasts.
    Fairness,
    /// Readers of large events, of whom some have stopped reading.
    Stopped {
        /// How many of 2,000.
        stopped: usize,
    },
    /// All clients lose their connections at once, and come back for their sessions.
    Recover {
        /// How many.
        connections: usize,
    },
    /// The cost of a connection and of a delivery with so many connections.
    Growth {
        /// How many.
        connections: usize,
    },
}

/// Numbers of connections in the growth plot.
pub const GROWTH: [usize; 6] = [100, 300, 1_000, 3_000, 8_000, 16_000];

/// All workloads.
#[must_use]
pub fn all() -> Vec<Workload> {
    let mut all = Vec::new();
    for bytes in [SMALL, LARGE] {
        for (members, in_flight) in [(1_000, 1), (1_000, 8), (8_000, 2)] {
            all.push(Workload::Fanout { members, in_flight, bytes });
        }
    }
    all.extend([Workload::Rooms, Workload::Ping, Workload::Connect]);
    for connections in [1_000, 8_000] {
        all.extend([false, true].map(|three_namespaces| Workload::Idle { connections, three_namespaces }));
    }
    all.extend([Workload::Publish, Workload::Mixed, Workload::Fairness]);
    all.extend([0, 1_000].map(|stopped| Workload::Stopped { stopped }));
    all.push(Workload::Recover { connections: 8_000 });
    all.extend(GROWTH.map(|connections| Workload::Growth { connections }));
    all
}

impl Workload {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Fanout { members, in_flight, bytes: SMALL } => format!("fanout-{members}x{in_flight}"),
            Self::Fanout { members, in_flight, .. } => format!("fanout-4k-{members}x{in_flight}"),
            Self::Rooms => "rooms".to_owned(),
            Self::Ping => "ping".to_owned(),
            Self::Connect => "connect".to_owned(),
            Self::Idle { connections, three_namespaces: false } => format!("idle-{connections}"),
            Self::Idle { connections, three_namespaces: true } => format!("idle-{connections}-3ns"),
            Self::Publish => "publish".to_owned(),
            Self::Mixed => "mixed".to_owned(),
            Self::Fairness => "fairness".to_owned(),
            Self::Stopped { stopped } => format!("stopped-{stopped}"),
            Self::Recover { connections } => format!("recover-{connections}"),
            Self::Growth { connections } => format!("growth-{connections}"),
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Fanout { members, in_flight, bytes } => {
                let bytes = if bytes == LARGE { "4 KiB".to_owned() } else { format!("{bytes} B") };
                format!("fan-out to one room of {members}, {in_flight} in flight, {bytes}")
            }
            Self::Rooms => "2,000 rooms of 5, 64 publishes in flight, 200 B".to_owned(),
            Self::Ping => "`ping`: event and ack, 64 clients in a closed loop".to_owned(),
            Self::Connect => "connect (TCP, upgrade, namespace, room) and leave, 64 at a time".to_owned(),
            Self::Idle { connections, three_namespaces } => {
                let namespaces = if three_namespaces { "three namespaces" } else { "one namespace" };
                format!("{connections} idle connections, {namespaces}")
            }
            Self::Publish => "publish to one subscriber, 8 in flight, 200 B".to_owned(),
            Self::Mixed => "2,000 idle, 50 rooms of 20 with 16 publishes in flight, 20 slow readers".to_owned(),
            Self::Fairness => "another socket's `ping` beside broadcasts of 4 KiB to 8,000".to_owned(),
            Self::Stopped { stopped } => {
                format!("2,000 readers of 100 rooms, {stopped} of them stopped, 16 publishes of 4 KiB in flight")
            }
            Self::Recover { connections } => {
                format!("{connections} clients cut at once come back for their sessions and an event")
            }
            Self::Growth { connections } => format!("{connections} connections in one room, 2 in flight, 200 B"),
        }
    }

    /// What its cost is counted in.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Fanout { .. } | Self::Rooms | Self::Mixed | Self::Stopped { .. } | Self::Growth { .. } => {
                "µs CPU / delivery"
            }
            Self::Ping => "µs CPU / ping",
            Self::Connect => "µs CPU / connect",
            Self::Recover { .. } => "µs CPU / client",
            Self::Idle { .. } => "KiB / connection",
            Self::Publish => "µs CPU / publish",
            Self::Fairness => "p99 / p50 of ping",
        }
    }

    /// Settings that the product needs for it.
    #[must_use]
    pub fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Small, so that not the kernel but the server holds what is not read.
            Self::Stopped { .. } => &[("SEND_BUFFER_BYTES", "16384")],
            _ => &[],
        }
    }

    /// Measures a server that was just started.
    ///
    /// # Errors
    /// If a delivery was lost, doubled or misled, a connection failed, or it took longer than the pace allows.
    pub fn run(self, server: &Server, pace: &Pace) -> Result<Sample> {
        let mut net = Net::new(server.address(), Instant::now() + pace.limit)?;
        match self {
            Self::Fanout { members, in_flight, bytes } => {
                fanout::run(&mut net, server, pace, Shape::room(members, in_flight, bytes))
            }
            Self::Rooms => {
                let shape = Shape { rooms: 2_000, in_flight: 64, ..Shape::room(5, 64, SMALL) };
                fanout::run(&mut net, server, pace, shape)
            }
            Self::Publish => {
                // What one publish costs: together they would cost less each.
                let alone = Pace { lanes: pace.lanes.or(Some(Lanes::Each)), ..*pace };
                fanout::run(&mut net, server, &alone, Shape::room(1, 8, SMALL))
            }
            Self::Ping => ping::run(&mut net, server, pace),
            Self::Connect => connect::run(&mut net, server, pace),
            Self::Idle { connections, three_namespaces } => {
                idle::run(&mut net, server, pace, connections, three_namespaces)
            }
            Self::Mixed => mixed::run(&mut net, server, pace),
            Self::Fairness => fairness::run(&mut net, server, pace),
            Self::Stopped { stopped } => stopped::run(&mut net, server, pace, stopped),
            Self::Recover { connections } => recover::run(&mut net, server, connections),
            Self::Growth { connections } => growth::run(&mut net, server, pace, connections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().into_iter().map(Workload::name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
