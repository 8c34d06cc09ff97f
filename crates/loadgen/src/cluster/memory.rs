//! Bytes of Redis for each session, for each room that a node hears, and for each kept event.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::net::{Idle, Net, Plan, TICK};
use crate::publishing::CONCURRENCY;
use crate::server::Places;
use crate::stamp::Stamp;
use crate::workload::{Pace, SMALL};

use super::Kind;
use super::nodes::Cluster;
use super::publisher::Publisher;
use super::redis::Fsync;

/// Sessions, rooms, and events of a round.
const COUNT: u16 = 2_000;

/// Events of each room after the first.
const MORE_EVENTS: u16 = 9;

/// The set of the sessions: see `store/redis/apply.lua`.
const SESSIONS: &str = "{slop}:sessions";

/// Bytes of Redis, from differences of `used_memory`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// A session of a client in one room, and its place in the set of sessions.
    pub session: f64,
    /// A room that a node hears: its channel.
    pub room: f64,
    /// A room's first event of 200 B, with the key of its log.
    pub first_event: f64,
    /// Each further one.
    pub event: f64,
}

pub(super) fn run(places: &Places, pace: &Pace) -> Result<Memory> {
    let mut cluster = Cluster::start(Kind::Ours, places, Fsync::EverySecond)?;
    let mut net = Net::new(cluster.b().address(), Instant::now() + pace.limit)?;
    let mut publisher = Publisher::connect(cluster.a()?.address(), pace.limit)?;
    let count = f64::from(COUNT);

    // The first events, the first channels and the first sessions take memory once.
    net.connect_all([Plan::member(COUNT)], 1)?;
    publisher.publish_in_batches(3 * COUNT..3 * COUNT + 1, b"{}")?;
    let empty = settled(&mut cluster, &mut net)?;

    // Both in one room: its channel is there.
    net.connect_all((0..COUNT).map(|_| Plan::member(COUNT)), CONCURRENCY)?;
    saved(&mut cluster, &mut net, usize::from(COUNT))?;
    let with_sessions = settled(&mut cluster, &mut net)?;
    let session = (with_sessions - empty) / count;

    net.connect_all((0..COUNT).map(Plan::member), CONCURRENCY)?;
    saved(&mut cluster, &mut net, 2 * usize::from(COUNT))?;
    let with_rooms = settled(&mut cluster, &mut net)?;

    // Nobody is in these rooms, so they have no channel.
    let rooms = COUNT + 1..2 * COUNT + 1;
    let mut payload = Vec::new();
    Stamp { stream: 0, room: 0, sequence: 0 }.write(&mut payload, SMALL);
    publisher.publish_in_batches(rooms.clone(), &payload)?;
    let with_first = settled(&mut cluster, &mut net)?;
    for _ in 0..MORE_EVENTS {
        publisher.publish_in_batches(rooms.clone(), &payload)?;
    }
    let with_more = settled(&mut cluster, &mut net)?;
    Ok(Memory {
        session,
        room: (with_rooms - with_sessions) / count - session,
        first_event: (with_first - with_rooms) / count,
        event: (with_more - with_first) / count / f64::from(MORE_EVENTS),
    })
}

/// Waits until so many sessions are saved.
fn saved(cluster: &mut Cluster, net: &mut Net, sessions: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while cluster.redis.number(&["ZCARD", SESSIONS])? < sessions as i64 {
        if Instant::now() > until {
            bail!("{} of {sessions} sessions were saved", cluster.redis.number(&["ZCARD", SESSIONS])?);
        }
        net.turn(&mut Idle, TICK)?;
    }
    Ok(())
}

/// The memory when it has stayed the same for a moment.
fn settled(cluster: &mut Cluster, net: &mut Net) -> Result<f64> {
    let mut last = 0;
    for _ in 0..50 {
        net.rest(Duration::from_millis(300))?;
        let now = cluster.redis.memory()?;
        // Buffers of a few hundred bytes come and go.
        if now.abs_diff(last) < 4_096 {
            return Ok(now as f64);
        }
        last = now;
    }
    bail!("the memory of Redis does not settle")
}
