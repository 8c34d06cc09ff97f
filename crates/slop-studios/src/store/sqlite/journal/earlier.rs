//! The events of earlier runs of the server in the journal, for clients that come back from those runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Run;
use super::record::{Record, decode};
use super::segment::{Header, Segment};
use crate::contract::time::Moment;

/// See the module.
#[derive(Debug)]
pub(crate) struct Earlier {
    /// All events of earlier runs with higher numbers are here.
    complete_after: u64,
    segments: Vec<Vec<u8>>,
    /// The positions of the records by namespace and room, in order.
    rooms: HashMap<&'static str, HashMap<Box<str>, Vec<RecordPosition>>>,
    /// When each run was last known to be alive, by its first number.
    ends: HashMap<u64, Moment>,
}

/// The events of earlier runs, for as long as clients may come back from those runs.
#[derive(Debug)]
pub(crate) struct EarlierRuns {
    known: Mutex<Arc<Earlier>>,
    until: Instant,
}

impl EarlierRuns {
    pub(crate) fn new(earlier: Earlier, until: Instant) -> Self {
        Self { known: Mutex::new(Arc::new(earlier)), until }
    }

    pub(crate) fn get(&self) -> Arc<Earlier> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Frees the memory when no client may come back any more. `last` is the number of the last event before this run.
    pub(crate) fn tidy(&self, last: u64) {
        if Instant::now() > self.until && self.get().complete_after() < last {
            let forgotten = std::mem::replace(
                &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner),
                Arc::new(Earlier::empty(last)),
            );
            drop(forgotten);
        }
    }
}

/// The position of a record.
#[derive(Debug, Clone, Copy)]
struct RecordPosition {
    seq: u64,
    segment: u32,
    at: u32,
}

impl Earlier {
    /// Reads the segments after the last gap. `segments` has the oldest first. There is a gap wherever some dispatched
    /// events may be unknown: a file is missing or can't be read, or the machine has ended before all data was on the
    /// disk.
    pub(super) fn read(segments: &[Segment], run: Run, machine: Option<[u8; 16]>) -> Self {
        let mut earlier = Self::empty(run.boot_seq - 1);
        for segment in segments {
            let Ok(end) = segment.end() else { continue };
            let known = earlier.ends.entry(segment.header().boot_seq).or_insert(end.alive_at);
            *known = end.alive_at.max(*known);
        }
        let mut next: Option<&Header> = None;
        for segment in segments.iter().rev() {
            let (header, Ok(end)) = (segment.header(), segment.end()) else { break };
            let is_next = next.map_or(header.boot_seq == run.previous, |next| header.starts_after == next.previous);
            let leads_there = end.continued.is_none_or(|after| next.is_some_and(|next| next.starts_after == after));
            let is_on_disk = (machine.is_some() && header.machine == machine) || end.closed;
            if !is_next || !leads_there || !is_on_disk {
                break;
            }
            let Some(bytes) = segment.read().ok().filter(|bytes| is_whole(bytes)) else {
                tracing::warn!(starts_after = header.starts_after, "a file of the journal is damaged");
                break;
            };
            earlier.segments.push(bytes);
            earlier.complete_after = header.starts_after;
            next = Some(header);
        }
        earlier.segments.reverse();
        earlier.index();
        earlier
    }

    /// No events up to this number are known.
    pub(crate) fn empty(complete_after: u64) -> Self {
        Self { complete_after, segments: Vec::new(), rooms: HashMap::new(), ends: HashMap::new() }
    }

    fn index(&mut self) {
        // The newest events by room and name, for events of which only the newest matters. They are found first: to
        // remove each of the others from a room later would take as long as the room has events.
        let mut newest = HashMap::new();
        for (record, _) in self.segments.iter().flat_map(|bytes| records(bytes)).filter(|(record, _)| record.is_latest)
        {
            newest.insert((record.namespace, record.room, record.event), record.seq);
        }
        let mut rooms: HashMap<_, HashMap<Box<str>, Vec<RecordPosition>>> = HashMap::new();
        for (segment, bytes) in self.segments.iter().enumerate() {
            for (record, at) in records(bytes) {
                let key = (record.namespace, record.room, record.event);
                if record.is_latest && newest.get(&key).is_some_and(|newest| *newest != record.seq) {
                    continue;
                }
                let positions = rooms.entry(record.namespace).or_default().entry(record.room.into()).or_default();
                // The files are far below 2^32 bytes, and few.
                positions.push(RecordPosition { seq: record.seq, segment: segment as u32, at: at as u32 });
            }
        }
        drop(newest);
        self.rooms = rooms;
    }

    /// All events of earlier runs with higher numbers are known.
    pub(crate) fn complete_after(&self) -> u64 {
        self.complete_after
    }

    /// When a run was last known to be alive, if it is not too long ago.
    pub(crate) fn end_of(&self, boot_seq: u64) -> Option<Moment> {
        self.ends.get(&boot_seq).copied()
    }

    /// The events for a room with numbers above `after`, up to and including `until`.
    pub(crate) fn events(
        &self,
        namespace: &str,
        room: &str,
        after: u64,
        until: u64,
    ) -> impl Iterator<Item = Record<'_>> {
        let positions = self.rooms.get(namespace).and_then(|rooms| rooms.get(room)).map_or(&[][..], Vec::as_slice);
        let from = positions.partition_point(|position| position.seq <= after);
        let positions =
            positions.get(from..).unwrap_or_default().iter().take_while(move |position| position.seq <= until);
        positions.filter_map(|position| {
            let (record, _) = decode(self.segments.get(position.segment as usize)?, position.at as usize)?;
            Some(record)
        })
    }
}

/// The records, each with its position.
fn records(bytes: &[u8]) -> impl Iterator<Item = (Record<'_>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (record, next) = decode(bytes, at)?;
        Some((record, std::mem::replace(&mut at, next)))
    })
}

/// Whether the bytes are records only.
fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some((_, next)) = decode(bytes, at) {
        at = next;
    }
    at == bytes.len()
}
