//! The journal: files beside the store with the events that only recovery needs. These are the room events that are not
//! durable.
//!
//! An event is handed to the operating system before it is dispatched, by a copy into a mapped file and without waiting
//! for the disk. So no event is lost however the process ends. Only a failure of the machine may lose events, and that
//! is noticed. Records are added to the end of a `segment`. The oldest segments are removed, so that as much is kept as
//! the engine keeps in memory. The next run of the server reads the files into [`Earlier`], for the clients that come
//! back from this run.

mod earlier;
mod record;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

pub(super) use earlier::{Earlier, EarlierRuns};
pub(super) use record::Record;
pub(super) use segment::is_name;
use segment::{Current, Header, Segment};

use crate::contract::delivery::Envelope;
use crate::contract::time::Moment;
use crate::limits::{ALIVE_INTERVAL, JOURNAL_BYTES, JOURNAL_SEGMENT_BYTES};

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// How long an event is kept.
    age: Duration,
    /// The segments that are no longer written, the oldest first.
    segments: VecDeque<Segment>,
    current: Current,
    /// The buffer for records before they are written, kept for reuse.
    buffer: Vec<u8>,
    /// The time of the next alive mark.
    alive_due: Instant,
}

/// The run of the server that the files belong to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The first number of this run.
    pub(super) boot_seq: u64,
    /// The first number of the run before.
    pub(super) previous: u64,
}

impl Journal {
    /// Opens the journal in a folder, and reads the files of earlier runs. Events are kept for `age`. With zero, no
    /// client is recovered, and there is no journal.
    pub(super) fn open(folder: &Path, run: Run, age: Duration) -> io::Result<(Option<Self>, Earlier)> {
        let machine = machine_id();
        let mut segments = segment::list(folder)?;
        // These files are of a process that ended while it started. They contain no event.
        for unused in segments.extract_if(.., |segment| segment.header().boot_seq > run.previous) {
            unused.remove()?;
        }
        if age.is_zero() {
            segments.iter().try_for_each(Segment::remove)?;
            return Ok((None, Earlier::empty(run.boot_seq - 1)));
        }
        let earlier = Earlier::read(&segments, run, machine);
        // Where not all events are known, the remaining ones must not be sent.
        for unusable in segments.extract_if(.., |segment| segment.header().starts_after < earlier.complete_after()) {
            unusable.remove()?;
        }
        let previous = segments.last().map_or(0, |last| last.header().starts_after);
        let header = Header { boot_seq: run.boot_seq, starts_after: run.boot_seq - 1, previous, machine };
        let current = Current::create(folder, header)?;
        let (folder, segments) = (folder.to_owned(), segments.into());
        let (buffer, alive_due) = (Vec::new(), Instant::now());
        let mut journal = Self { folder, age, segments, current, buffer, alive_due };
        // Many starts in a row leave one file each.
        journal.trim(Instant::now())?;
        Ok((Some(journal), earlier))
    }

    /// Hands events to the operating system, all or none. Their numbers rise.
    ///
    /// # Errors
    /// If the system does not accept them. The next call then tries to continue after the last accepted event.
    pub(super) fn append<'a>(
        &mut self,
        events: impl IntoIterator<Item = (u64, &'a Envelope)>,
        now: Instant,
    ) -> io::Result<()> {
        self.buffer.clear();
        let mut first = None;
        for (seq, event) in events {
            first = first.or(Some(seq));
            record::encode(&mut self.buffer, seq, event);
        }
        let Some(first) = first else { return Ok(()) };
        if !self.current.fits(self.buffer.len()) {
            self.begin_segment(first - 1, now)?;
        }
        let written = self.current.append(&self.buffer, now);
        // The memory for one large group is not held for ever.
        self.buffer.shrink_to(JOURNAL_SEGMENT_BYTES / 8);
        written
    }

    /// Writes an alive mark, and removes segments that are too old. `last` is the number of the last event.
    pub(super) fn tidy(&mut self, last: u64) -> io::Result<()> {
        let now = Instant::now();
        if now < self.alive_due {
            return Ok(());
        }
        self.alive_due = now + ALIVE_INTERVAL;
        let marked = self.current.mark_alive(Moment::now());
        let trimmed = self.trim(now);
        // This may fail on a full disk. The other steps are done before.
        let begun = if self.current.is_older_than(self.age, now) { self.begin_segment(last, now) } else { Ok(()) };
        marked.and(trimmed).and(begun)
    }

    /// Waits for the disk, and marks the files as complete.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.current.mark_alive(Moment::now())?;
        let segments = || self.segments.iter().chain([self.current.segment()]);
        segments().try_for_each(Segment::sync)?;
        segments().try_for_each(Segment::mark_closed)
    }

    /// Whether this event needs another file.
    pub(super) fn is_full_for(&self, event: &Envelope) -> bool {
        !self.current.fits(record::record_bytes(event))
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum::<u64>() + self.current.segment().bytes()
    }

    /// Continues in another file. The current file must have events; otherwise both files would have the same name.
    fn begin_segment(&mut self, starts_after: u64, now: Instant) -> io::Result<()> {
        // A file that can't be removed now is removed with the next one, or when the journal is tidied.
        let _ = self.trim(now);
        let last = self.current.segment().header();
        let header = Header { starts_after, previous: last.starts_after, ..*last };
        let next = Current::create(&self.folder, header)?;
        // Without this mark, a missing next file would not be noticed.
        self.current.mark_continued(starts_after)?;
        self.segments.push_back(std::mem::replace(&mut self.current, next).finish());
        Ok(())
    }

    /// Removes files that are too old, or that leave no room for another file.
    fn trim(&mut self, now: Instant) -> io::Result<()> {
        while let Some(first) = self.segments.front()
            && (self.bytes() + JOURNAL_SEGMENT_BYTES as u64 > JOURNAL_BYTES || first.was_written_before(self.age, now))
        {
            first.remove()?;
            self.segments.pop_front();
        }
        Ok(())
    }
}

/// The id of this run of the machine. Linux has a random number for each run. Without that number, no two runs count as
/// the same.
fn machine_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(uuid::Uuid::parse_str(text.trim()).ok()?.into_bytes())
}
