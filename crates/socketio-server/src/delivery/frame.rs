//! One Engine.IO packet, encoded once for any number of receivers and for both transports.

use std::{cell::RefCell, num::NonZeroU64};

use bytes::Bytes;
use smallvec::SmallVec;
use socketio_protocol::{
    engine_io::encode_binary,
    websocket::{self, MAX_HEADER, OpCode},
};

use crate::config::FRAME_OVERHEAD;

thread_local! {
    /// The buffer for frames whose length is not known yet.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The largest scratch buffer that a thread keeps. Nearly every event fits into it.
const KEPT_SCRATCH: usize = 64 * 1024;

/// How a broadcast is encoded for a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// With the offset as the last argument, for a socket that takes part in recovery.
    WithOffset,
    /// Without the offset.
    Plain,
}

/// The owner of a frame's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameMemory {
    /// One client alone, for which the frame waits.
    Own,
    /// A broadcast: the same frame waits for all receivers.
    Broadcast,
    /// A broadcast, except for the frame itself, which is sent again to this client.
    Again,
}

/// The frames of one packet. Nearly every packet has no attachments.
pub(crate) type Frames = SmallVec<[Frame; 1]>;

/// A packet as a WebSocket frame; its payload is also the text of a polling packet.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Bytes,
    payload_at: u8,
    binary: bool,
    memory: FrameMemory,
    /// Of the frames with this number that wait for a slow client, only the newest is kept.
    latest: Option<NonZeroU64>,
}

impl Frame {
    /// Encodes a text packet that `write` appends to the buffer.
    pub(crate) fn text(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::encode(OpCode::Text, write)
    }

    /// Encodes a binary message.
    pub(crate) fn binary(data: &[u8]) -> Self {
        Self::encode(OpCode::Binary, |buffer| buffer.extend_from_slice(data))
    }

    /// Bytes that are sent unchanged, ahead of a WebSocket's frames.
    pub(crate) fn ahead(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), payload_at: 0, binary: false, memory: FrameMemory::Own, latest: None }
    }

    /// Encodes a WebSocket pong, which only a WebSocket carries.
    pub(crate) fn pong(data: &[u8]) -> Self {
        Self::encode(OpCode::Pong, |buffer| buffer.extend_from_slice(data))
    }

    fn encode(opcode: OpCode, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        // Taken, not borrowed: `write` calls the application's serialisers, which may encode frames themselves.
        let mut buffer = SCRATCH.take();
        buffer.resize(MAX_HEADER, 0);
        write(&mut buffer);
        // The header is right before the payload, which starts at `MAX_HEADER`.
        let (header, length) = websocket::encode_header(opcode, buffer.len() - MAX_HEADER);
        let start = MAX_HEADER - length;
        buffer[start..MAX_HEADER].copy_from_slice(&header[..length]);
        // An exact copy, since a frame may wait for long and there are many frames.
        let bytes = Bytes::copy_from_slice(&buffer[start..]);
        if buffer.capacity() <= KEPT_SCRATCH {
            buffer.clear();
            SCRATCH.with(|scratch| scratch.replace(buffer));
        }
        // `length` is at most MAX_HEADER, which is 10.
        Self {
            bytes,
            payload_at: length as u8,
            binary: opcode == OpCode::Binary,
            memory: FrameMemory::Own,
            latest: None,
        }
    }

    /// The same text packet with another end of its arguments: `tail` in place of the last `bytes` bytes.
    pub(crate) fn with_tail(&self, bytes: usize, tail: &[u8]) -> Self {
        let payload = self.payload();
        let kept = payload.get(..payload.len().saturating_sub(bytes + 1)).unwrap_or_default();
        let mut other = Self::text(|out| {
            out.extend_from_slice(kept);
            out.extend_from_slice(tail);
            out.push(b']');
        });
        (other.memory, other.latest) = (self.memory, self.latest);
        other
    }

    /// A copy for one client alone.
    pub(crate) fn of_one(self) -> Self {
        Self { memory: FrameMemory::Own, latest: None, ..self }
    }

    /// A binary message as text, for a client that accepts only text.
    pub(crate) fn in_base64(&self) -> Self {
        Self::text(|out| encode_binary(self.payload(), out))
    }

    /// Marks the frame as a broadcast's.
    pub(crate) fn share(&mut self) {
        self.memory = FrameMemory::Broadcast;
    }

    /// A copy of a broadcast's frame, to be sent again to one client.
    pub(crate) fn again(&self) -> Self {
        Self { memory: FrameMemory::Again, ..self.clone() }
    }

    /// Whether all receivers share the frame's memory.
    pub(crate) fn is_shared(&self) -> bool {
        self.memory == FrameMemory::Broadcast
    }

    /// Bytes of the frame's memory that belong to one client alone.
    pub(crate) fn own_bytes(&self) -> usize {
        match self.memory {
            FrameMemory::Own => self.len() + FRAME_OVERHEAD,
            FrameMemory::Again => FRAME_OVERHEAD,
            FrameMemory::Broadcast => 0,
        }
    }

    pub(crate) fn set_latest(&mut self, key: NonZeroU64) {
        self.latest = Some(key);
    }

    pub(crate) fn latest(&self) -> Option<NonZeroU64> {
        self.latest
    }

    /// The frame as it goes over a WebSocket.
    pub(crate) fn as_websocket(&self) -> &[u8] {
        &self.bytes
    }

    /// The packet as it stands in a polling payload (before base64, if binary).
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.payload_at)..]
    }

    pub(crate) fn is_binary(&self) -> bool {
        self.binary
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// A replay to many clients at once is in memory once, except for this overhead (docs/operations.md).
    #[test]
    fn a_frame_that_waits_takes_little_besides_its_bytes() {
        let (counts, outbox_entry) = (2 * size_of::<usize>(), size_of::<Rc<Frame>>());
        assert!(size_of::<Frame>() + counts + outbox_entry <= FRAME_OVERHEAD);
    }
}
