//! A file of the journal: a header, followed by the records (`record`).
//!
//! All numbers are little-endian. The header has 80 bytes:
//! - the name of the format (8 bytes);
//! - `boot_seq`, `starts_after` and `previous` (8 each);
//! - the machine's id (16, zeros if unknown);
//! - the moment at which the server was last known to be alive, in ms since 1970 (8);
//! - the bytes of all records (8);
//! - 1 if all data that belongs in the file is on the disk (1);
//! - zeros (7);
//! - the start of the next file of the same run, 0 if there is none (8).
//!
//! The file is mapped while it is written. Records are copied into it. They count when the header includes their bytes.
//! Before the copy, the file is extended by a `write` of zeros, so that a full disk is an error and not a signal.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};
use std::time::{Duration, Instant};

use memmap2::{MmapMut, MmapOptions};

use crate::contract::time::Moment;
use crate::limits::{ALIVE_INTERVAL, JOURNAL_BYTES, JOURNAL_GROWTH_BYTES, JOURNAL_SEGMENT_BYTES};
use crate::store::data_dir;

const MAGIC: &[u8; 8] = b"slopev2\n";
const HEADER_BYTES: usize = 80;
const ALIVE_AT: usize = 48;
const RECORD_BYTES_AT: usize = 56;
const CLOSED_AT: usize = 64;
const CONTINUED_AT: usize = 72;

/// The fixed part of a file's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The run that wrote the file.
    pub(super) boot_seq: u64,
    /// All events with higher numbers are in the file, up to the start of the next file.
    pub(super) starts_after: u64,
    /// The start of the previous file; 0 if there is none.
    pub(super) previous: u64,
    /// The run of the machine in which the file was written.
    pub(super) machine: Option<[u8; 16]>,
}

/// The variable part of a file's header, without the bytes of all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) alive_at: Moment,
    pub(super) closed: bool,
    /// The start of the next file of the same run, if there is one.
    pub(super) continued: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    header: Header,
    /// Bytes of the file.
    length: u64,
    written: Instant,
}

/// The segment that takes new records.
#[derive(Debug)]
pub(super) struct Current {
    segment: Segment,
    map: MmapMut,
    /// The position of the next record.
    at: usize,
    created: Instant,
}

/// The journal files of a folder, the oldest first. A file that can't be read is skipped, which leaves a gap. A file
/// without a complete header is removed.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // Opening a pipe would wait for its writer.
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_name(name) {
            match Segment::open(path.clone()) {
                Ok(Ok(segment)) => segments.push(segment),
                // The server ended while it created the file.
                Ok(Err(path)) => fs::remove_file(path)?,
                Err(error) => tracing::warn!(file = %path.display(), %error, "read a file of the journal"),
            }
        }
    }
    segments.sort_by_key(|segment| segment.header.starts_after);
    Ok(segments)
}

/// The path of the file that starts after this event.
fn path_of(folder: &Path, starts_after: u64) -> PathBuf {
    folder.join(format!("events-{starts_after:020}.log"))
}

/// Whether a file of this name is a segment.
pub(crate) fn is_name(name: &str) -> bool {
    let number = name.strip_prefix("events-").and_then(|name| name.strip_suffix(".log"));
    number.is_some_and(|number| number.len() == 20 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

impl Segment {
    /// Opens an existing file. Returns its path if it has no header.
    fn open(path: PathBuf) -> io::Result<Result<Self, PathBuf>> {
        let mut file = data_dir::private_file().read(true).open(&path)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut bytes)?;
        let number = |at: usize| bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let machine = || bytes.get(32..48).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        let header = || {
            Some(Header {
                boot_seq: number(8)?,
                starts_after: number(16)?,
                previous: number(24)?,
                machine: machine().filter(|id| *id != [0; 16]),
            })
        };
        let is_whole = bytes.len() == HEADER_BYTES && bytes.starts_with(MAGIC);
        let Some(header) = header().filter(|_| is_whole) else { return Ok(Err(path)) };
        let length = file.metadata()?.len();
        // The last event may be this much younger than the last alive mark.
        let alive_at = Moment::from_epoch_ms(number(ALIVE_AT).unwrap_or_default()).after(ALIVE_INTERVAL);
        let age = Duration::from_millis(Moment::now().epoch_ms().saturating_sub(alive_at.epoch_ms()));
        let now = Instant::now();
        Ok(Ok(Self { path, file, header, length, written: now.checked_sub(age).unwrap_or(now) }))
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    pub(super) fn was_written_before(&self, age: Duration, now: Instant) -> bool {
        now.duration_since(self.written) > age
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Records that all data that belongs in the file is on the disk.
    pub(super) fn mark_closed(&self) -> io::Result<()> {
        self.file.write_all_at(&[1], CLOSED_AT as u64)?;
        self.sync()
    }

    /// The variable part of the header, as last written.
    pub(super) fn end(&self) -> io::Result<End> {
        let (mut alive, mut closed, mut continued) = ([0; 8], [0; 1], [0; 8]);
        self.file.read_exact_at(&mut alive, ALIVE_AT as u64)?;
        self.file.read_exact_at(&mut closed, CLOSED_AT as u64)?;
        self.file.read_exact_at(&mut continued, CONTINUED_AT as u64)?;
        Ok(End {
            alive_at: Moment::from_epoch_ms(u64::from_le_bytes(alive)),
            closed: closed == [1],
            continued: Some(u64::from_le_bytes(continued)).filter(|after| *after != 0),
        })
    }

    /// Reads the records.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut length = [0; 8];
        self.file.read_exact_at(&mut length, RECORD_BYTES_AT as u64)?;
        // Even all files of the server together have no more bytes. A larger number was written by another program.
        let length = u64::from_le_bytes(length).min(JOURNAL_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, HEADER_BYTES as u64)?;
        Ok(bytes)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Current {
    pub(super) fn create(folder: &Path, header: Header) -> io::Result<Self> {
        let path = path_of(folder, header.starts_after);
        let file = data_dir::private_file().read(true).create(true).truncate(true).open(&path)?;
        let segment = Segment { path: path.clone(), file, header, length: 0, written: Instant::now() };
        Self::begin(segment).inspect_err(|_| {
            // A full disk still has room for the file's name, and each try uses another name.
            let _ = fs::remove_file(&path);
        })
    }

    fn begin(segment: Segment) -> io::Result<Self> {
        let map = map(&segment.file, JOURNAL_SEGMENT_BYTES)?;
        let created = segment.written;
        let mut current = Self { segment, map, at: HEADER_BYTES, created };
        current.reserve(0)?;
        let Header { boot_seq, starts_after, previous, machine } = *current.segment.header();
        for (at, number) in [(8, boot_seq), (16, starts_after), (24, previous)] {
            current.put(at, &number.to_le_bytes())?;
        }
        current.put(32, &machine.unwrap_or_default())?;
        current.mark_alive(Moment::now())?;
        compiler_fence(Ordering::Release);
        // This comes last: without it there is no header.
        current.put(0, MAGIC)?;
        Ok(current)
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Ends writing; the file stays.
    pub(super) fn finish(self) -> Segment {
        self.segment
    }

    /// Whether this many bytes of records fit into the file. An empty file takes any group.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.at == HEADER_BYTES || self.at + bytes <= JOURNAL_SEGMENT_BYTES
    }

    /// Whether the file has events and was begun longer ago than `age`.
    pub(super) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.at > HEADER_BYTES && now.duration_since(self.created) > age
    }

    /// Adds records, all or none.
    pub(super) fn append(&mut self, records: &[u8], now: Instant) -> io::Result<()> {
        self.reserve(records.len())?;
        self.put(self.at, records)?;
        let end = self.at + records.len();
        // If the process ends before this, none of the records counts.
        compiler_fence(Ordering::Release);
        self.put(RECORD_BYTES_AT, &((end - HEADER_BYTES) as u64).to_le_bytes())?;
        self.at = end;
        self.segment.written = now;
        Ok(())
    }

    pub(super) fn mark_alive(&mut self, now: Moment) -> io::Result<()> {
        self.put(ALIVE_AT, &now.epoch_ms().to_le_bytes())
    }

    /// Records that the next file starts after this event.
    pub(super) fn mark_continued(&mut self, after: u64) -> io::Result<()> {
        self.put(CONTINUED_AT, &after.to_le_bytes())
    }

    /// Extends the file with zeros, so that the disk has blocks for the next bytes.
    fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        let (end, length) = (self.at + bytes, self.segment.length);
        if end > self.map.len() {
            self.map = map(&self.segment.file, end)?;
        }
        let missing = end.saturating_sub(length as usize);
        if missing > 0 {
            let zeros = vec![0; missing.max(JOURNAL_GROWTH_BYTES)];
            self.segment.file.write_all_at(&zeros, length)?;
            self.segment.length += zeros.len() as u64;
        }
        Ok(())
    }

    /// Writes bytes at a reserved position. Access to a page behind the end of the file would end the process by a
    /// signal.
    fn put(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let reserved = (self.segment.length as usize).min(self.map.len());
        let target = self.map.get_mut(..reserved).and_then(|reserved| reserved.get_mut(at..at + bytes.len()));
        target
            .ok_or_else(|| io::Error::other("a position of the journal that is not reserved"))?
            .copy_from_slice(bytes);
        Ok(())
    }

    /// Reopens the file so that it can't be extended, if `broken`.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self, broken: bool) {
        self.segment.file =
            data_dir::private_file().read(true).write(!broken).open(&self.segment.path).expect("it is there");
    }
}

/// Maps the beginning of the file into memory, at most this many bytes.
#[expect(
    unsafe_code,
    reason = "another process could change the file under a slice; nobody else has business in the folder"
)]
fn map(file: &File, length: usize) -> io::Result<MmapMut> {
    // SAFETY: the file belongs to this process, which holds the store's lock, does not shorten it and touches no page
    // behind its end. Its contents are read as plain bytes.
    unsafe { MmapOptions::new().len(length).map_mut(file) }
}
