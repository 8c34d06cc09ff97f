//! Clients that all lose their connections at once, and come back for their sessions, as fast as the server takes them.
//! Each must get its session, and an event that was published while it was away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http::{self, Response};
use crate::message::Message;
use crate::meter::Reading;
use crate::net::{ConnId, Idle, Load, Net, Plan, Session, TICK, room_name};
use crate::publishing::CONCURRENCY;
use crate::sample::{Latency, Sample};
use crate::server::Server;

/// Rooms that they spread over.
const ROOMS: u16 = 20;

/// Clients that connect at the same time: below the 4,096 that the server's queue of new connections holds.
const AT_ONCE: usize = 1_000;

pub(super) fn run(net: &mut Net, server: &Server, connections: usize) -> Result<Sample> {
    net.keep_sessions();
    let plans = (0..connections).map(|client| Plan::member((client % usize::from(ROOMS)) as u16));
    net.connect_all(plans, CONCURRENCY)?;
    let sessions = net.cut_all();
    let reading = Reading::take(server.pid())?;
    publish_to_all(net)?;
    let mut back = Back::default();
    let mut sessions = sessions.into_iter().filter(|session| *session != Session::default());
    let mut begun = 0;
    while back.latencies.len() < connections {
        while begun < back.latencies.len() + AT_ONCE
            && let Some(session) = sessions.next()
        {
            net.come_back(session)?;
            begun += 1;
        }
        if begun < connections && begun == back.latencies.len() {
            bail!("{begun} of {connections} clients have a session");
        }
        net.turn(&mut back, TICK).with_context(|| format!("{} of {connections} are back", back.latencies.len()))?;
    }
    let spent = reading.spent(server.pid())?;
    Ok(Sample::per_operation(&spent, connections as u64).with_latency(Latency::of_all(&back.latencies)))
}

/// Over HTTP, on a connection of its own; waits until it is accepted.
fn publish_to_all(net: &mut Net) -> Result<()> {
    struct Accepted(bool);
    impl Load for Accepted {
        fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
            Idle.message(conn, message, at)
        }
        fn response(&mut self, _conn: ConnId, response: &Response<'_>) -> Result<()> {
            if response.status != 200 {
                bail!("status {} for a publish: {}", response.status, String::from_utf8_lossy(response.body));
            }
            self.0 = true;
            Ok(())
        }
    }
    let (publisher, _) = net.connect_all([Plan::Http], 1)?;
    let mut items = Vec::new();
    (0..ROOMS).for_each(|room| http::write_batch_item(&mut items, &room_name(room), b"{}", false));
    let mut request = Vec::new();
    http::write_batch(&mut request, &items);
    net.send_raw(*publisher.first().context("a publisher")?, &request)?;
    let mut accepted = Accepted(false);
    while !accepted.0 {
        net.turn(&mut accepted, TICK)?;
    }
    Ok(())
}

/// How long it took each to be back.
#[derive(Default)]
struct Back {
    latencies: Vec<Duration>,
}

impl Load for Back {
    fn ready(&mut self, _conn: ConnId, took: Duration) -> Result<()> {
        self.latencies.push(took);
        Ok(())
    }

    fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
        Idle.message(conn, message, at)
    }
}
