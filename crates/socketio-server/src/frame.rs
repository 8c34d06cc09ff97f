//! One Engine.IO packet, encoded once for any number of receivers and for both transports.

use std::num::NonZeroU64;

use bytes::Bytes;
use socketio_protocol::websocket::{self, MAX_HEADER, OpCode};

/// A packet as a WebSocket frame; its payload is also the text of a polling packet.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Bytes,
    payload_at: u8,
    binary: bool,
    /// Of the frames with this number that wait for a slow client, only the newest is kept.
    latest: Option<NonZeroU64>,
}

impl Frame {
    /// Encodes a text packet that `write` appends to the buffer.
    pub(crate) fn text(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buffer = Vec::with_capacity(128);
        buffer.resize(MAX_HEADER, 0);
        write(&mut buffer);
        Self::seal(buffer, OpCode::Text)
    }

    /// Encodes a binary message.
    pub(crate) fn binary(data: &[u8]) -> Self {
        let mut buffer = Vec::with_capacity(MAX_HEADER + data.len());
        buffer.resize(MAX_HEADER, 0);
        buffer.extend_from_slice(data);
        Self::seal(buffer, OpCode::Binary)
    }

    /// Encodes a WebSocket pong, which only a WebSocket carries.
    pub(crate) fn pong(data: &[u8]) -> Self {
        let mut buffer = vec![0; MAX_HEADER];
        buffer.extend_from_slice(data);
        Self::seal(buffer, OpCode::Pong)
    }

    /// Puts the header right before the payload, which starts at `MAX_HEADER`.
    fn seal(mut buffer: Vec<u8>, opcode: OpCode) -> Self {
        let (header, length) = websocket::encode_header(opcode, buffer.len() - MAX_HEADER);
        let start = MAX_HEADER - length;
        buffer[start..MAX_HEADER].copy_from_slice(&header[..length]);
        let mut bytes = Bytes::from(buffer);
        let bytes = bytes.split_off(start);
        // At most MAX_HEADER, which is 10.
        Self { bytes, payload_at: length as u8, binary: opcode == OpCode::Binary, latest: None }
    }

    /// The same text packet without the last bytes of its arguments, closed again.
    pub(crate) fn without_tail(&self, bytes: usize) -> Self {
        let payload = self.payload();
        let kept = payload.get(..payload.len().saturating_sub(bytes + 1)).unwrap_or_default();
        let mut shorter = Self::text(|out| {
            out.extend_from_slice(kept);
            out.push(b']');
        });
        shorter.latest = self.latest;
        shorter
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
