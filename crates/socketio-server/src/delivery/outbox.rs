//! The frames that wait for one client, counted in bytes.

use std::{io::IoSlice, rc::Rc};

use smallvec::SmallVec;
use socketio_protocol::engine_io::PayloadWriter;

use crate::{config::FRAMES_PER_WRITE, delivery::frame::Frame};

/// The waiting frames of a connection, first in, first out. The usual number of frames for one flush pass is stored
/// inline, so that the pass need not fetch separate memory.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: SmallVec<[Rc<Frame>; 4]>,
    /// Bytes of the first frame that are already written.
    written: usize,
    /// Bytes that still wait.
    bytes: usize,
    /// Bytes of memory that the frames take for this client alone. A partly written frame counts in full.
    own: usize,
    /// The part of the waiting bytes in the TLS record that is being written: at most one record's bytes.
    sealed: u32,
    /// Frames were dropped. A part of a frame may be written already, so no other frame may follow.
    abandoned: bool,
}

impl Outbox {
    pub(crate) fn push(&mut self, frame: Rc<Frame>) {
        if self.abandoned {
            return;
        }
        self.bytes += frame.len();
        if !frame.is_shared() {
            self.own += frame.own_bytes();
        }
        self.frames.push(frame);
    }

    /// Removes the waiting frame with the same number as `newer`, unless its write has begun. The newer frame goes to
    /// the end, since its offset must not overtake waiting frames. Returns `true` if there was such a frame.
    pub(crate) fn replace(&mut self, newer: &Frame) -> bool {
        let under_way = usize::from(self.written > 0);
        let older = (newer.latest().is_some())
            .then(|| (under_way..self.frames.len()).rev().find(|&index| self.frames[index].latest() == newer.latest()))
            .flatten();
        if let Some(older) = older {
            let older = self.frames.remove(older);
            self.bytes -= older.len();
            self.own = self.own.saturating_sub(older.own_bytes());
            return true;
        }
        false
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that the waiting frames take for this client alone.
    pub(crate) fn own_bytes(&self) -> usize {
        self.own
    }

    /// The total size and the number of the frames that are each larger than `bytes`.
    pub(crate) fn larger_than(&self, bytes: usize) -> (usize, usize) {
        let large = self.frames.iter().map(|frame| frame.len()).filter(|length| *length > bytes);
        large.fold((0, 0), |(sum, count), length| (sum + length, count + 1))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Copies all waiting bytes, if they fit.
    pub(crate) fn copy_to<'a>(&self, space: &'a mut [u8]) -> Option<&'a [u8]> {
        let space = space.get_mut(..self.bytes)?;
        let (mut from, mut to) = (self.written, 0);
        for frame in &self.frames {
            let piece = frame.as_websocket().get(std::mem::take(&mut from)..)?;
            space.get_mut(to..to + piece.len())?.copy_from_slice(piece);
            to += piece.len();
        }
        Some(space)
    }

    /// The unwritten part of the only waiting frame.
    pub(crate) fn only(&self) -> Option<&[u8]> {
        if let [frame] = self.frames.as_slice() { frame.as_websocket().get(self.written..) } else { None }
    }

    /// The next bytes to write, in as many pieces as one write takes.
    pub(crate) fn gather(&self) -> SmallVec<[IoSlice<'_>; FRAMES_PER_WRITE]> {
        let mut from = self.written;
        let frames = self.frames.iter().take(FRAMES_PER_WRITE);
        frames
            .map(|frame| IoSlice::new(frame.as_websocket().get(std::mem::take(&mut from)..).unwrap_or_default()))
            .collect()
    }

    /// Records that the first `count` bytes are written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        self.pass(count);
    }

    /// Records that the first `count` bytes are in a TLS record. They still wait.
    pub(crate) fn seal(&mut self, count: usize) {
        self.sealed = self.sealed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        self.pass(count);
    }

    /// Records that all TLS records are written.
    pub(crate) fn sealed_are_written(&mut self) {
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut self.sealed) as usize);
    }

    fn pass(&mut self, count: usize) {
        self.written += count;
        let mut done = 0;
        while let Some(frame) = self.frames.get(done).filter(|frame| frame.len() <= self.written) {
            self.written -= frame.len();
            if self.own > 0 {
                self.own = self.own.saturating_sub(frame.own_bytes());
            }
            done += 1;
        }
        self.frames.drain(..done);
    }

    /// Moves packets into a polling payload: at most `packets`, and as many as fit into `bytes`, but at least one.
    pub(crate) fn drain_into(&mut self, payload: &mut PayloadWriter, packets: usize, bytes: usize) {
        let mut taken = 0;
        while let Some(frame) = self.frames.get(taken) {
            if taken > 0 && (taken == packets || payload.len() + frame.len() > bytes) {
                break;
            }
            if frame.is_binary() {
                payload.push_binary(frame.payload());
            } else {
                payload.push_text(frame.payload());
            }
            self.bytes -= frame.len();
            self.own = self.own.saturating_sub(frame.own_bytes());
            taken += 1;
        }
        self.frames.drain(..taken);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops the waiting frames and all later ones.
    pub(crate) fn abandon(&mut self) {
        *self = Self { abandoned: true, ..Self::default() };
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Releases the queue's memory if no frame waits.
    pub(crate) fn release(&mut self) {
        if self.frames.is_empty() {
            self.frames = SmallVec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Rc<Frame> {
        Rc::new(Frame::text(|out| out.extend_from_slice(text.as_bytes())))
    }

    #[test]
    fn partial_writes_resume_where_they_stopped() {
        let mut outbox = Outbox::default();
        outbox.push(frame("4a"));
        outbox.push(frame("4bc"));
        assert_eq!(outbox.bytes(), 4 + 5);
        let mut sent = Vec::new();
        while !outbox.is_empty() {
            let all: Vec<u8> = outbox.gather().iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = all.len().min(3);
            sent.extend_from_slice(&all[..taken]);
            outbox.advance(taken);
        }
        assert_eq!(sent, b"\x81\x024a\x81\x034bc");
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn what_is_sealed_waits_until_its_record_is_written() {
        let mut outbox = Outbox::default();
        outbox.push(frame("4a"));
        outbox.push(frame("4bc"));
        outbox.seal(6);
        assert_eq!(outbox.bytes(), 9);
        let rest: Vec<u8> = outbox.gather().iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(rest, b"4bc");
        outbox.sealed_are_written();
        assert_eq!(outbox.bytes(), 3);
        outbox.seal(3);
        assert!(outbox.is_empty());
        outbox.sealed_are_written();
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn a_polling_payload_takes_what_is_allowed_and_at_least_one() {
        let mut outbox = Outbox::default();
        for text in ["4one", "4two", "4three", "4four", "4five"] {
            outbox.push(frame(text));
        }
        let mut take = |packets, bytes| {
            let mut payload = PayloadWriter::new();
            outbox.drain_into(&mut payload, packets, bytes);
            String::from_utf8(payload.finish()).expect("text")
        };
        assert_eq!(take(9, 12), "4one\x1e4two");
        assert_eq!(take(9, 0), "4three");
        assert_eq!(take(1, 99), "4four");
        assert_eq!(take(9, 99), "4five");
        assert_eq!(outbox.bytes(), 0);
    }
}
