//! `ping`, answered by the event `pong` and an ack, in a closed loop over several clients.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::message::Message;
use crate::meter::Reading;
use crate::net::{ConnId, Load, Net, Plan, TICK};
use crate::sample::{Latency, Sample};
use crate::server::Server;

use super::Pace;

const CLIENTS: usize = 64;

struct Pings {
    first: ConnId,
    clients: Vec<Client>,
    free: Vec<ConnId>,
    done: u64,
    latency: Histogram<u64>,
}

struct Client {
    sent_at: Instant,
    ack: u32,
    waits_for_pong: bool,
    waits_for_ack: bool,
}

impl Load for Pings {
    fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
        let Some(client) = conn.checked_sub(self.first).and_then(|index| self.clients.get_mut(index)) else {
            bail!("{message:?} for nobody");
        };
        match message {
            Message::Pong if client.waits_for_pong => client.waits_for_pong = false,
            Message::Ack(id, _) if client.waits_for_ack && *id == client.ack => client.waits_for_ack = false,
            Message::Other => return Ok(()),
            message => bail!("{message:?} as the answer to ping {}", client.ack),
        }
        if !client.waits_for_pong && !client.waits_for_ack {
            self.latency.saturating_record(at.saturating_duration_since(client.sent_at).as_nanos() as u64);
            self.done += 1;
            self.free.push(conn);
        }
        Ok(())
    }
}

impl Pings {
    fn run(&mut self, net: &mut Net, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= until {
                if self.free.len() == self.clients.len() {
                    return Ok(());
                }
            } else {
                for conn in std::mem::take(&mut self.free) {
                    let client = &mut self.clients[conn - self.first];
                    *client = Client {
                        sent_at: Instant::now(),
                        ack: client.ack.wrapping_add(1),
                        waits_for_pong: true,
                        waits_for_ack: true,
                    };
                    net.send_text(conn, format!(r#"42{}["ping"]"#, client.ack).as_bytes())?;
                }
            }
            net.turn(self, TICK)?;
        }
    }
}

pub(super) fn run(net: &mut Net, server: &Server, pace: &Pace) -> Result<Sample> {
    let (conns, _) = net.connect_all(std::iter::repeat_n(Plan::IDLE, CLIENTS), CLIENTS)?;
    let client = || Client { sent_at: Instant::now(), ack: 0, waits_for_pong: false, waits_for_ack: false };
    let mut pings = Pings {
        first: conns.first().copied().unwrap_or_default(),
        clients: conns.iter().map(|_| client()).collect(),
        free: conns,
        done: 0,
        latency: Histogram::new_with_bounds(1, 600_000_000_000, 2)?,
    };
    pings.run(net, pace.warm_up)?;
    pings.latency.reset();
    pings.done = 0;
    let reading = Reading::take(server.pid())?;
    pings.run(net, pace.measure)?;
    let spent = reading.spent(server.pid())?;
    Ok(Sample::per_operation(&spent, pings.done).with_latency(Latency::of(&pings.latency)))
}
