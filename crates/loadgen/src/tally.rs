//! What was published, held against what arrived: each member of a room must get each of its events once, in the
//! order of the stream that it belongs to.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::net::ConnId;
use crate::stamp::Stamp;

/// No member of any room.
const NOBODY: u32 = u32::MAX;

/// Rooms, each with the same number of streams; see the module.
#[derive(Debug)]
pub struct Tally {
    streams_per_room: usize,
    rooms: Vec<Room>,
    streams: Vec<Stream>,
    /// By connection: its index among the members.
    member_indexes: Vec<u32>,
    members: Vec<Member>,
    /// By member and stream of its room: the sequence number that comes next.
    expected: Vec<u32>,
    deliveries: u64,
}

#[derive(Debug, Default, Clone)]
struct Room {
    /// Those that a publish waits for.
    prompt: u32,
    slow: u32,
}

#[derive(Debug, Clone)]
struct Stream {
    next: u32,
    /// Deliveries to prompt members that are still to come.
    missing: u32,
    published_at: Instant,
}

#[derive(Debug)]
struct Member {
    room: u16,
    is_slow: bool,
}

/// What a delivery was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Since the event was published; nothing for a member that is slow on purpose.
    pub latency: Option<Duration>,
    /// The room and stream whose publish has now arrived everywhere.
    pub completes: Option<(u16, u8)>,
}

impl Tally {
    /// A tally of rooms without members.
    #[must_use]
    pub fn new(rooms: usize, streams_per_room: usize) -> Self {
        let stream = Stream { next: 0, missing: 0, published_at: Instant::now() };
        Self {
            streams_per_room,
            rooms: vec![Room::default(); rooms],
            streams: vec![stream; rooms * streams_per_room],
            member_indexes: Vec::new(),
            members: Vec::new(),
            expected: Vec::new(),
            deliveries: 0,
        }
    }

    /// Counts a connection in. A publish is not held up by slow members, but [`Tally::finish`] asks for them.
    pub fn join(&mut self, conn: ConnId, room: u16, is_slow: bool) {
        if self.member_indexes.len() <= conn {
            self.member_indexes.resize(conn + 1, NOBODY);
        }
        self.member_indexes[conn] = self.members.len() as u32;
        self.members.push(Member { room, is_slow });
        self.expected.resize(self.members.len() * self.streams_per_room, 0);
        let room = &mut self.rooms[usize::from(room)];
        if is_slow {
            room.slow += 1;
        } else {
            room.prompt += 1;
        }
    }

    /// Notes a publish and returns its stamp. The stream's last one must have arrived everywhere.
    pub fn publish(&mut self, room: u16, stream: u8, at: Instant) -> Stamp {
        let missing = self.rooms[usize::from(room)].prompt;
        let entry = &mut self.streams[usize::from(room) * self.streams_per_room + usize::from(stream)];
        debug_assert_eq!(entry.missing, 0, "one publish of a stream at a time");
        let stamp = Stamp { stream, room, sequence: entry.next };
        entry.next = entry.next.wrapping_add(1);
        entry.missing = missing;
        entry.published_at = at;
        stamp
    }

    /// Notes a delivery.
    ///
    /// # Errors
    /// If it should not have come: lost ones before it, a second time, out of order, to the wrong one.
    #[inline]
    pub fn deliver(&mut self, conn: ConnId, stamp: &Stamp, at: Instant) -> Result<Delivered> {
        let index = self.member_indexes.get(conn).copied().unwrap_or(NOBODY) as usize;
        let Some(member) = self.members.get(index) else {
            bail!("an event for room {} reached a connection that is in none", stamp.room);
        };
        let stream = usize::from(stamp.stream);
        if member.room != stamp.room || stream >= self.streams_per_room {
            bail!("{stamp:?} reached a member of room {}", member.room);
        }
        let expected = &mut self.expected[index * self.streams_per_room + stream];
        if *expected != stamp.sequence {
            let what = if stamp.sequence > *expected { "lost or late" } else { "doubled" };
            bail!("{what}: a member waited for {expected} of stream {stream} and got {}", stamp.sequence);
        }
        *expected += 1;
        self.deliveries += 1;
        if member.is_slow {
            return Ok(Delivered { latency: None, completes: None });
        }
        let entry = &mut self.streams[usize::from(stamp.room) * self.streams_per_room + stream];
        // Can't go below nothing: the sequence number lets each member count once.
        entry.missing -= 1;
        Ok(Delivered {
            latency: Some(at.saturating_duration_since(entry.published_at)),
            completes: (entry.missing == 0).then_some((stamp.room, stamp.stream)),
        })
    }

    /// Deliveries so far.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Deliveries that all publishes so far must come to.
    #[must_use]
    pub fn due(&self) -> u64 {
        let published = |index: usize| -> u64 {
            let streams = &self.streams[index * self.streams_per_room..][..self.streams_per_room];
            streams.iter().map(|stream| u64::from(stream.next)).sum()
        };
        let rooms = self.rooms.iter().enumerate();
        rooms.map(|(index, room)| published(index) * u64::from(room.prompt + room.slow)).sum()
    }

    /// Checks that everything that was published has arrived everywhere.
    ///
    /// # Errors
    /// How much is missing.
    pub fn finish(&self) -> Result<()> {
        let due = self.due();
        if self.deliveries != due {
            let lost = due - self.deliveries;
            bail!("lost: {lost} of {due} deliveries");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rooms with two members each, the second one's last is slow; two streams.
    fn tally() -> Tally {
        let mut tally = Tally::new(2, 2);
        for (conn, room, is_slow) in [(10, 0, false), (11, 0, false), (12, 1, false), (13, 1, true)] {
            tally.join(conn, room, is_slow);
        }
        tally
    }

    #[test]
    fn a_publish_is_complete_when_all_have_it() {
        let (mut tally, now) = (tally(), Instant::now());
        let stamp = tally.publish(0, 1, now);
        assert_eq!(tally.deliver(10, &stamp, now).unwrap().completes, None);
        assert!(tally.finish().is_err());
        let later = now + Duration::from_millis(3);
        let delivered = tally.deliver(11, &stamp, later).unwrap();
        assert_eq!(delivered, Delivered { latency: Some(Duration::from_millis(3)), completes: Some((0, 1)) });
        tally.finish().unwrap();
    }

    #[test]
    fn a_slow_member_holds_up_the_end_only() {
        let (mut tally, now) = (tally(), Instant::now());
        let first = tally.publish(1, 0, now);
        assert_eq!(tally.deliver(12, &first, now).unwrap().completes, Some((1, 0)));
        let second = tally.publish(1, 0, now);
        tally.deliver(12, &second, now).unwrap();
        assert_eq!(tally.due() - tally.deliveries(), 2);
        assert!(tally.finish().unwrap_err().to_string().contains("lost: 2 of 4"));
        for stamp in [first, second] {
            assert_eq!(tally.deliver(13, &stamp, now).unwrap(), Delivered { latency: None, completes: None });
        }
        tally.finish().unwrap();
    }

    #[test]
    fn lost_doubled_and_stray_deliveries_are_errors() {
        let now = Instant::now();
        let error = |conn: ConnId, act: &dyn Fn(&mut Tally) -> Stamp| {
            let mut tally = tally();
            let stamp = act(&mut tally);
            tally.deliver(conn, &stamp, now).unwrap_err().to_string()
        };
        let lost = error(10, &|tally| {
            tally.publish(0, 0, now);
            Stamp { stream: 0, room: 0, sequence: 1 }
        });
        assert!(lost.contains("lost"), "{lost}");
        let doubled = error(10, &|tally| {
            let stamp = tally.publish(0, 0, now);
            tally.deliver(10, &stamp, now).unwrap();
            stamp
        });
        assert!(doubled.contains("doubled"), "{doubled}");
        assert!(error(10, &|tally| tally.publish(1, 0, now)).contains("reached a member of room 0"));
        assert!(error(14, &|tally| tally.publish(1, 0, now)).contains("in none"));
        assert!(error(10, &|_| Stamp { stream: 2, room: 0, sequence: 0 }).contains("reached a member"));
    }
}
