//! The position of a client in its sequence of events.

use std::{fmt, ops::Deref};

use crate::identifier::Id;
use crate::identifier::Position;

/// The position of an event in the sequence of a socket's events. A broadcast has a number on this node. The
/// socket's own events between two broadcasts have numbers of their own.
///
/// Clients send it back without reading it. `1f` is the offset of the broadcast 0x1f. `1f.3.k9Qx` is the offset of the
/// socket's event 3, emitted when 0x1f was the last broadcast. It ends with the beginning of the socket's id, because a
/// client sends its last offset even if that belongs to a session that it has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) broadcast: Position,
    pub(crate) direct: Option<(u32, Tag)>,
}

/// The socket whose own events are numbered: the beginning of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag([u8; 4]);

impl Tag {
    pub(crate) fn of(socket: &Id) -> Self {
        let mut tag = [0; 4];
        tag.iter_mut().zip(socket.as_bytes()).for_each(|(tag, byte)| *tag = *byte);
        Self(tag)
    }
}

impl Offset {
    pub(crate) fn of_broadcast(broadcast: Position) -> Self {
        Self { broadcast, direct: None }
    }

    pub(crate) fn of_direct(broadcast: Position, direct: u32, socket: &Id) -> Self {
        Self { broadcast, direct: Some((direct, Tag::of(socket))) }
    }

    /// The text behind an event's arguments. None of its characters need an escape in JSON.
    pub(crate) fn argument(&self) -> Text {
        let mut text = Text::new();
        text.push_all(b",\"");
        self.write(&mut text);
        text.push(b'"');
        text
    }

    /// Written by hand: each of a socket's own events has a different offset, and formatting takes ten times as long.
    fn write(&self, text: &mut Text) {
        text.push_hex(self.broadcast.get());
        if let Some((direct, Tag(tag))) = self.direct {
            text.push(b'.');
            text.push_hex(direct.into());
            text.push(b'.');
            text.push_all(&tag);
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let broadcast = Position::new(u64::from_str_radix(parts.next()?, 16).ok()?);
        let direct = match parts.next() {
            None => None,
            Some(direct) => {
                let tag = parts.next()?.as_bytes().try_into().ok()?;
                Some((u32::from_str_radix(direct, 16).ok()?, Tag(tag)))
            }
        };
        parts.next().is_none().then_some(Self { broadcast, direct })
    }

    /// The number of the last of the socket's own events that the client has, if the offset is from that socket.
    pub(crate) fn direct_of(&self, socket: &Id) -> Option<u32> {
        self.direct.filter(|(_, tag)| *tag == Tag::of(socket)).map(|(direct, _)| direct)
    }
}

/// An offset as text, with space for the longest offset and the characters around it.
pub(crate) struct Text {
    bytes: [u8; LONGEST],
    len: usize,
}

/// Two numbers of 64 and 32 bits in hexadecimal, two dots, a tag, a comma and quotes.
const LONGEST: usize = 16 + 8 + 2 + 4 + 3;

impl Text {
    fn new() -> Self {
        Self { bytes: [0; LONGEST], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.push_all(&[byte]);
    }

    fn push_all(&mut self, bytes: &[u8]) {
        if let Some(target) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            target.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for index in (0..digits).rev() {
            let digit = (number >> (4 * index) & 0xf) as u8;
            self.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new();
        self.write(&mut text);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let socket = Id::parse("k9QxAAAAAAAAAAAAAAAA").expect("an id");
        let direct = Offset::of_direct(Position::new(0x1f), 3, &socket);
        assert_eq!(
            (Offset::of_broadcast(Position::new(0x1f)).to_string(), direct.to_string()),
            ("1f".into(), "1f.3.k9Qx".into())
        );
        assert_eq!(Offset::of_broadcast(Position::new(0x10_fedc_ba98_7654)).to_string(), "10fedcba987654");
        assert_eq!(&*direct.argument(), b",\"1f.3.k9Qx\"");
        let longest = Offset::of_direct(Position::new(u64::MAX), u32::MAX, &socket);
        assert_eq!(longest.argument().len(), LONGEST);
        for offset in
            [Offset::of_broadcast(Position::new(0)), Offset::of_broadcast(Position::new(u64::MAX)), direct, longest]
        {
            assert_eq!(Offset::parse(&offset.to_string()), Some(offset));
        }
        assert_eq!(direct.direct_of(&socket), Some(3));
        assert_eq!(direct.direct_of(&Id::parse("otherAAAAAAAAAAAAAAA").expect("an id")), None);
    }

    #[test]
    fn what_is_not_an_offset_is_none() {
        for text in
            ["", ".", "x", "1f.", "1f.3", "1f.3.abc", "1f.3.abcde", "1f.3.abcd.", "-1", "1f ", "11112222333344445"]
        {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
    }
}
