//! An event in a file of the journal.
//!
//! All numbers are little-endian. A record has:
//! - its length after this field (4 bytes);
//! - the CRC-32 of the rest (4);
//! - the event's number (8);
//! - the index of its namespace (1);
//! - 1 if only the newest event of its name matters (1);
//! - the lengths of the room's and the event's name (2 each);
//! - these names and the argument.

use std::str;

use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};

/// The namespaces by their index in the file. Their order is a part of the format: a new one is appended.
const NAMESPACES: [&str; 3] = [DEFAULT, MEDIA, NOTIFICATIONS];

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) seq: u64,
    pub(crate) namespace: &'static str,
    pub(crate) is_latest: bool,
    pub(crate) room: &'a str,
    pub(crate) event: &'a str,
    pub(crate) argument: &'a str,
}

/// Bytes of an event's record.
pub(super) fn record_bytes(event: &Envelope) -> usize {
    22 + event.room.len() + event.event.len() + event.argument.len()
}

/// Appends a record.
pub(super) fn encode(out: &mut Vec<u8>, seq: u64, event: &Envelope) {
    let begin = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&seq.to_le_bytes());
    let namespace = NAMESPACES.iter().position(|name| *name == event.namespace).unwrap_or_default();
    out.push(namespace as u8);
    out.push((event.class == Class::Latest).into());
    for name in [&event.room, &event.event] {
        // Names are checked when a publish is read. They have at most 128 bytes and a prefix.
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

/// The record at a position, and the position of the next one. `None` at the end, or if the record is damaged.
pub(super) fn decode(bytes: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    Some((record(rest.get(..length)?)?, at + 4 + length))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise the next version would replay events of this one to another namespace.
    #[test]
    fn the_indexes_of_the_namespaces_are_those_of_the_format() {
        assert_eq!(NAMESPACES, ["/", "/media", "/notifications"]);
    }
}
