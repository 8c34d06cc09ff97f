//! A file of the journal: a header, and records one after the other.
//!
//! All numbers are little-endian. The header has 64 bytes: 8 that name the format, `boot_seq`, `starts_after`, `previous` (8
//! each), the machine's id (16, zeros if unknown), the moment at which the server was last known to be alive in ms since 1970
//! (8), 1 if the file was closed with all that belongs in it (1), and zeros. A record has its length from here on (4), the
//! CRC-32 of what follows (4), the event's number (8), the index of its namespace (1), 1 if only the newest of its name
//! matters (1), the lengths of the room's and the event's name (2 each), and these names and the argument.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, str};

use super::super::super::{Class, RoomEvent};
use crate::clock::Moment;
use crate::data_dir;
use crate::limits::JOURNAL_BYTES;
use crate::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};

const MAGIC: &[u8; 8] = b"slopev1\n";
const HEADER_BYTES: usize = 64;
const ALIVE_AT: u64 = 48;
const CLOSED_AT: u64 = 56;
const NAMESPACES: [&str; 3] = [DEFAULT, MEDIA, NOTIFICATIONS];

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The life that has written it.
    pub(super) boot_seq: u64,
    /// All events with higher numbers are in it, up to where the next file starts.
    pub(super) starts_after: u64,
    /// Where the file before starts; 0 if there is none.
    pub(super) previous: u64,
    /// The run of the machine in which it was written.
    pub(super) machine: Option<[u8; 16]>,
}

/// What changes in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) alive_at: Moment,
    pub(super) closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the next record goes.
    length: u64,
    /// The file may have more bytes than `length`: a write did not come to its end.
    is_torn: bool,
    created: Instant,
    written: Instant,
}

/// A record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    pub(crate) namespace: &'static str,
    pub(crate) is_latest: bool,
    pub(crate) room: &'a str,
    pub(crate) event: &'a str,
    pub(crate) argument: &'a str,
}

/// The files of a folder, the oldest first. Those that are no journal's, were never finished or can't be read are passed
/// over: a gap.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("events-") && name.ends_with(".log") {
            match Segment::open(path.clone()) {
                Ok(Ok(segment)) => segments.push(segment),
                // The server ended while it made the file.
                Ok(Err(path)) => fs::remove_file(path)?,
                Err(error) => tracing::warn!(file = %path.display(), %error, "read a file of the journal"),
            }
        }
    }
    segments.sort_by_key(|segment| segment.header.starts_after);
    Ok(segments)
}

impl Segment {
    pub(super) fn create(folder: &Path, header: Header) -> io::Result<Self> {
        let path = folder.join(format!("events-{:020}.log", header.starts_after));
        let file = data_dir::private_file().read(true).create(true).truncate(true).open(&path)?;
        Self::begin(&path, file, header).inspect_err(|_| {
            // On a full disk there is room for its name, and each try has another one.
            let _ = fs::remove_file(&path);
        })
    }

    fn begin(path: &Path, mut file: File, header: Header) -> io::Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        let fields = [header.boot_seq, header.starts_after, header.previous].map(u64::to_le_bytes);
        let machine = header.machine.unwrap_or_default();
        let alive = Moment::now().epoch_ms().to_le_bytes();
        let parts = MAGIC.iter().chain(fields.as_flattened()).chain(&machine).chain(&alive);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        file.write_all(&bytes)?;
        let (path, now) = (path.to_owned(), Instant::now());
        Ok(Self { path, file, header, length: HEADER_BYTES as u64, is_torn: false, created: now, written: now })
    }

    /// A file that is there; its path if it has no header.
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
        let (length, now) = (file.metadata()?.len(), Instant::now());
        Ok(Ok(Self { path, file, header, length, is_torn: false, created: now, written: now }))
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    pub(super) fn is_longer_than(&self, bytes: usize) -> bool {
        self.length > bytes as u64
    }

    /// Whether it has events and was begun longer ago than `age`.
    pub(super) fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        self.length > HEADER_BYTES as u64 && now.duration_since(self.created) > age
    }

    pub(super) fn was_written_before(&self, age: Duration, now: Instant) -> bool {
        now.duration_since(self.written) > age
    }

    /// Removes what a write has left that did not come to its end.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.length)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Adds records, all or none.
    pub(super) fn append(&mut self, records: &[u8], now: Instant) -> io::Result<()> {
        self.mend()?;
        if let Err(error) = self.file.write_all_at(records, self.length) {
            self.is_torn = true;
            // Tried again before the next write, if this fails.
            let _ = self.mend();
            return Err(error);
        }
        self.length += records.len() as u64;
        self.written = now;
        Ok(())
    }

    pub(super) fn mark_alive(&self, now: Moment) -> io::Result<()> {
        self.file.write_all_at(&now.epoch_ms().to_le_bytes(), ALIVE_AT)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn mark_closed(&self, now: Moment) -> io::Result<()> {
        self.mark_alive(now)?;
        self.file.write_all_at(&[1], CLOSED_AT)?;
        self.sync()
    }

    /// What was last written down in the header.
    pub(super) fn end(&self) -> io::Result<End> {
        let (mut alive, mut closed) = ([0; 8], [0; 1]);
        self.file.read_exact_at(&mut alive, ALIVE_AT)?;
        self.file.read_exact_at(&mut closed, CLOSED_AT)?;
        Ok(End { alive_at: Moment::from_epoch_ms(u64::from_le_bytes(alive)), closed: closed == [1] })
    }

    /// The bytes of its records.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        // A file of ours is an eighth of all of them; what is larger was made by somebody else.
        let length = self.length.saturating_sub(HEADER_BYTES as u64).min(JOURNAL_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, HEADER_BYTES as u64)?;
        Ok(bytes)
    }

    /// Has the file opened so that nothing can be written, with half of a record at its end.
    #[cfg(test)]
    pub(super) fn break_writes(&mut self, broken: bool) {
        self.file = data_dir::private_file().read(true).write(!broken).open(&self.path).expect("it is there");
        if broken {
            fs::OpenOptions::new()
                .write(true)
                .open(&self.path)
                .and_then(|file| file.write_all_at(&[200, 0, 0, 0, 1], self.length))
                .expect("it can be written");
        }
    }

    pub(super) fn remove(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Appends a record.
pub(super) fn encode(out: &mut Vec<u8>, seq: u64, event: &RoomEvent) {
    let begin = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&seq.to_le_bytes());
    let namespace = NAMESPACES.iter().position(|name| *name == event.namespace).unwrap_or_default();
    out.push(namespace as u8);
    out.push((event.class == Class::Latest).into());
    for name in [&event.room, &event.event] {
        // Names are checked where a publish is read: they have 128 bytes and a prefix at most.
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    }
    for text in [&event.room, &event.event, &event.argument] {
        out.extend_from_slice(text.as_bytes());
    }
    // A payload is far below 2^32 bytes.
    let length = (out.len() - begin - 4) as u32;
    let crc = crc32fast::hash(&out[begin + 8..]);
    for (at, number) in [(begin, length), (begin + 4, crc)] {
        out[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
}

/// What is at a place in a segment's records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record, and where the next one begins.
    Record(Record<'a>, usize),
    /// The end, or the beginning of a record that was never finished.
    End,
    /// No record.
    Damage,
}

/// Reads a record.
pub(super) fn decode(bytes: &[u8], at: usize) -> Found<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((length, rest)) = rest.split_first_chunk() else { return Found::End };
    let length = u32::from_le_bytes(*length) as usize;
    let Some(body) = rest.get(..length) else { return Found::End };
    match record(body) {
        Some(record) => Found::Record(record, at + 4 + length),
        None => Found::Damage,
    }
}

fn record(body: &[u8]) -> Option<Record<'_>> {
    let (crc, body) = body.split_first_chunk()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (seq, body) = body.split_first_chunk()?;
    let ([namespace, is_latest], body) = body.split_first_chunk()?;
    let (room, body) = body.split_first_chunk()?;
    let (event, body) = body.split_first_chunk()?;
    let (room, body) = body.split_at_checked(u16::from_le_bytes(*room).into())?;
    let (event, argument) = body.split_at_checked(u16::from_le_bytes(*event).into())?;
    Some(Record {
        seq: u64::from_le_bytes(*seq),
        namespace: NAMESPACES.get(usize::from(*namespace))?,
        is_latest: *is_latest == 1,
        room: str::from_utf8(room).ok()?,
        event: str::from_utf8(event).ok()?,
        argument: str::from_utf8(argument).ok()?,
    })
}
