//! The closed loop that publishes: each publisher has one publish in flight, from when it is sent until the server has
//! acknowledged it and all its deliveries have arrived.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use crate::http::{self, Response};
use crate::message::Message;
use crate::net::{ConnId, Load, Net, Plan, TICK, encode_text, room_name};
use crate::stamp::Stamp;
use crate::tally::Tally;

/// How events get into a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The product's publish API.
    Http,
    /// An event `publish` of a client.
    Socket,
}

/// Over how many connections publishes go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// What is due at the same time goes in together: one write to a socket, one batch request over HTTP.
    Together,
    /// One for each publish in flight.
    Each,
}

/// The way into a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// How events get in.
    pub door: Door,
    /// Over how many connections.
    pub lanes: Lanes,
}

impl Entrance {
    /// As a publisher with several events at hand would use the door.
    #[must_use]
    pub const fn by(door: Door) -> Self {
        Self { door, lanes: Lanes::Together }
    }
}

/// Who publishes what to whom.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rooms, each with its members.
    pub rooms: u16,
    /// Members of each room that read at once.
    pub members: usize,
    /// Members of the first room that are slow on purpose.
    pub slow: usize,
    /// More members of each room, which do not read at all. Nobody waits for them.
    pub stopped: usize,
    /// Whether only the newest event of a room matters to who is slow.
    pub latest: bool,
    /// Publishes in flight.
    pub in_flight: usize,
    /// Bytes of an event's data, as JSON.
    pub bytes: usize,
}

impl Shape {
    /// One room.
    #[must_use]
    pub const fn room(members: usize, in_flight: usize, bytes: usize) -> Self {
        Self { rooms: 1, members, slow: 0, stopped: 0, latest: false, in_flight, bytes }
    }

    fn streams_per_room(&self) -> usize {
        self.in_flight.div_ceil(usize::from(self.rooms))
    }
}

/// The ack id of the first publisher's publishes; the others' follow.
const PUBLISH_ACK: u32 = 100;

/// Nothing arrives for so long: something is lost.
const STALL: Duration = Duration::from_secs(5);

/// How often a slow member reads.
const SLOW_EVERY: Duration = Duration::from_millis(200);

/// Connections made at a time.
pub(crate) const CONCURRENCY: usize = 64;

#[derive(Debug)]
struct Publisher {
    /// The rooms and streams that are its own, one after the other.
    targets: Vec<(u16, u8)>,
    next_target: usize,
    acked: bool,
    delivered: bool,
}

/// A connection that publishes go in by.
#[derive(Debug)]
struct Lane {
    conn: ConnId,
    /// What is to go out with the next write.
    unsent: Vec<u8>,
    /// Publishers that wait for the response of the request under way.
    waiting: Vec<usize>,
}

/// Members, publishers and what became of the publishes.
#[derive(Debug)]
pub struct Publishing {
    shape: Shape,
    entrance: Entrance,
    /// The items of the next batch request.
    batch: Vec<u8>,
    publishers: Vec<Publisher>,
    lanes: Vec<Lane>,
    /// By room and stream: whose it is.
    owners: Vec<usize>,
    /// All members, the slow ones last.
    members: Vec<ConnId>,
    slow: Vec<ConnId>,
    tally: Tally,
    publishes: u64,
    latency: Histogram<u64>,
    /// Publishers whose publish is over.
    free: Vec<usize>,
    data: Vec<u8>,
    text: Vec<u8>,
}

impl Publishing {
    /// Connects members and publishers to the same server.
    ///
    /// # Errors
    /// If a connection fails.
    pub fn begin(net: &mut Net, entrance: Entrance, shape: Shape) -> Result<Self> {
        let server = net.server();
        Self::begin_at(net, server, entrance, shape)
    }

    /// Connects members to the net's server, and publishers to another one of its cluster.
    ///
    /// # Errors
    /// If a connection fails.
    pub fn begin_at(net: &mut Net, publishers_at: SocketAddr, entrance: Entrance, shape: Shape) -> Result<Self> {
        let streams_per_room = shape.streams_per_room();
        let mut tally = Tally::new(usize::from(shape.rooms), streams_per_room);
        let rooms = (0..shape.rooms).flat_map(|room| std::iter::repeat_n(room, shape.members));
        let rooms: Vec<u16> = rooms.chain(std::iter::repeat_n(0, shape.slow)).collect();
        let (members, _) = net.connect_all(rooms.iter().map(|&room| Plan::member(room)), CONCURRENCY)?;
        let prompt = members.len() - shape.slow;
        for (index, (&conn, &room)) in members.iter().zip(&rooms).enumerate() {
            tally.join(conn, room, index >= prompt);
        }
        let slow = members[prompt..].to_vec();
        for &conn in &slow {
            net.pause(conn)?;
        }
        let stopped = (0..shape.rooms).flat_map(|room| std::iter::repeat_n(Plan::member(room), shape.stopped));
        for conn in net.connect_all(stopped, CONCURRENCY)?.0 {
            net.stop(conn)?;
        }

        net.go_to(publishers_at);
        let Entrance { door, lanes } = entrance;
        let plan = if door == Door::Http { Plan::Http } else { Plan::IDLE };
        // HTTP answers one request of a connection after the other, so that a batch may need another one than the last.
        let lane_count = if lanes == Lanes::Each || door == Door::Http { shape.in_flight } else { 1 };
        let (conns, _) = net.connect_all(std::iter::repeat_n(plan, lane_count), CONCURRENCY)?;
        let lane = |conn| Lane { conn, unsent: Vec::new(), waiting: Vec::new() };
        let lanes: Vec<Lane> = conns.into_iter().map(lane).collect();
        let publisher = |_| Publisher { targets: Vec::new(), next_target: 0, acked: true, delivered: true };
        let mut publishers: Vec<Publisher> = (0..shape.in_flight).map(publisher).collect();
        let mut owners = Vec::new();
        for room in 0..shape.rooms {
            for stream in 0..streams_per_room {
                let owner = owners.len() % publishers.len();
                publishers[owner].targets.push((room, stream as u8));
                owners.push(owner);
            }
        }
        Ok(Self {
            shape,
            entrance,
            batch: Vec::new(),
            free: (0..publishers.len()).collect(),
            publishers,
            lanes,
            owners,
            members,
            slow,
            tally,
            publishes: 0,
            latency: Histogram::new_with_bounds(1, 600_000_000_000, 2)?,
            data: Vec::new(),
            text: Vec::new(),
        })
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> &[ConnId] {
        &self.members
    }

    /// Publishes for this long, then waits for all that is in flight, and checks that nothing was lost.
    ///
    /// # Errors
    /// If something was lost, or a connection failed.
    pub fn run(&mut self, net: &mut Net, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut progress = (self.done(), Instant::now());
        let mut slow_at = Instant::now() + SLOW_EVERY;
        loop {
            let now = Instant::now();
            if now < until {
                self.publish_all(net)?;
            } else if self.free.len() == self.publishers.len() && self.tally.deliveries() == self.tally.due() {
                break;
            }
            if !self.slow.is_empty() && now >= slow_at {
                slow_at = now + SLOW_EVERY;
                for conn in self.slow.clone() {
                    net.read_paused(conn, self)?;
                }
            }
            let timeout = if self.slow.is_empty() { TICK } else { slow_at.saturating_duration_since(now) };
            net.turn(self, timeout)?;
            if self.done() != progress.0 {
                progress = (self.done(), now);
            } else if now.duration_since(progress.1) > STALL {
                self.tally.finish()?;
                bail!("a publish was not acknowledged");
            }
        }
        self.tally.finish()
    }

    /// What only grows while the loop goes round.
    fn done(&self) -> u64 {
        self.publishes + self.tally.deliveries()
    }

    /// Publishes so far.
    #[must_use]
    pub fn publishes(&self) -> u64 {
        self.publishes
    }

    /// Deliveries so far.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.tally.deliveries()
    }

    /// From each publish to each of its deliveries, in nanoseconds.
    #[must_use]
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Forgets the latencies of a warm-up.
    pub fn forget_latency(&mut self) {
        self.latency.reset();
    }

    /// Sends a publish of everybody who has none in flight.
    fn publish_all(&mut self, net: &mut Net) -> Result<()> {
        let free = std::mem::take(&mut self.free);
        if self.entrance == Entrance::by(Door::Http) && free.len() > 1 {
            let lane = self.lanes.iter().position(|lane| lane.waiting.is_empty()).context("no idle connection")?;
            self.batch.clear();
            for &index in &free {
                let room = self.prepare(index, lane);
                http::write_batch_item(&mut self.batch, &room_name(room), &self.data, self.shape.latest);
            }
            http::write_batch(&mut self.lanes[lane].unsent, &self.batch);
        } else {
            for index in free {
                let lane = self.lane_of(index)?;
                let room = self.prepare(index, lane);
                self.write(index, lane, room);
            }
        }
        for lane in &mut self.lanes {
            if !lane.unsent.is_empty() {
                net.send_raw(lane.conn, &lane.unsent)?;
                lane.unsent.clear();
            }
        }
        Ok(())
    }

    /// The connection for a publish that goes in by itself.
    fn lane_of(&self, index: usize) -> Result<usize> {
        match self.entrance {
            Entrance { door: Door::Http, lanes: Lanes::Together } => {
                self.lanes.iter().position(|lane| lane.waiting.is_empty()).context("no idle connection")
            }
            Entrance { lanes: Lanes::Each, .. } => Ok(index),
            Entrance { lanes: Lanes::Together, .. } => Ok(0),
        }
    }

    /// Begins a publish: its data is in `self.data`. Returns its room.
    fn prepare(&mut self, index: usize, lane: usize) -> u16 {
        let publisher = &mut self.publishers[index];
        let (room, stream) = publisher.targets[publisher.next_target];
        publisher.next_target = (publisher.next_target + 1) % publisher.targets.len();
        publisher.acked = false;
        // A room without members is done with the acknowledgement.
        publisher.delivered = self.shape.members == 0;
        if self.entrance.door == Door::Http {
            self.lanes[lane].waiting.push(index);
        }
        let stamp = self.tally.publish(room, stream, Instant::now());
        self.publishes += 1;
        self.data.clear();
        stamp.write(&mut self.data, self.shape.bytes);
        room
    }

    fn write(&mut self, index: usize, lane: usize, room: u16) {
        let unsent = &mut self.lanes[lane].unsent;
        match self.entrance.door {
            Door::Http => http::write_publish(unsent, &room_name(room), &self.data, self.shape.latest),
            Door::Socket => {
                let head = format!(r#"42{}["publish","{}","#, PUBLISH_ACK + index as u32, room_name(room));
                self.text.clear();
                self.text.extend_from_slice(head.as_bytes());
                self.text.extend_from_slice(&self.data);
                self.text.push(b']');
                encode_text(unsent, &self.text);
            }
        }
    }

    fn acknowledged(&mut self, index: usize) -> Result<()> {
        let publisher = self.publishers.get_mut(index).context("an ack for nobody")?;
        if std::mem::replace(&mut publisher.acked, true) {
            bail!("a publish was acknowledged twice");
        }
        if publisher.delivered {
            self.free.push(index);
        }
        Ok(())
    }
}

impl Load for Publishing {
    #[inline]
    fn message(&mut self, conn: ConnId, message: &Message<'_>, at: Instant) -> Result<()> {
        match message {
            Message::Update(data) => {
                let stamp = Stamp::read(data, self.shape.bytes)?;
                let delivered = self.tally.deliver(conn, &stamp, at)?;
                if let Some(latency) = delivered.latency {
                    self.latency.saturating_record(latency.as_nanos() as u64);
                }
                if let Some((room, stream)) = delivered.completes {
                    let index = self.owners[usize::from(room) * self.shape.streams_per_room() + usize::from(stream)];
                    let publisher = &mut self.publishers[index];
                    publisher.delivered = true;
                    if publisher.acked {
                        self.free.push(index);
                    }
                }
                Ok(())
            }
            Message::Ack(id @ PUBLISH_ACK.., _) => self.acknowledged((id - PUBLISH_ACK) as usize),
            Message::Other => Ok(()),
            message => bail!("{message:?} on a member"),
        }
    }

    fn response(&mut self, conn: ConnId, response: &Response<'_>) -> Result<()> {
        // 207 is a batch of which something was refused.
        if response.status != 200 {
            bail!("status {} for a publish: {}", response.status, String::from_utf8_lossy(response.body));
        }
        let lane = self.lanes.iter_mut().find(|lane| lane.conn == conn).context("a response for nobody")?;
        // One request is under way on a connection: all that wait were in it.
        let waiting = std::mem::take(&mut lane.waiting);
        waiting.into_iter().try_for_each(|index| self.acknowledged(index))
    }
}
