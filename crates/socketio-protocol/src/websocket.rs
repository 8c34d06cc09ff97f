//! WebSocket frames (RFC 6455) as a server reads and writes them, and the handshake's key.
//!
//! [`Decoder`] takes messages off the front of a read buffer without copying them. Frames to clients have no mask, so
//! that one encoded frame goes to any number of them: [`encode_header`] and the payload.
//!
//! No extension is supported; a server must not agree to one in the handshake.

mod decoder;
mod encode;
mod handshake;

pub use decoder::{Decoder, MAX_FRAGMENTS, Message, ProtocolError};
pub use encode::{MAX_CLOSE_REASON, MAX_HEADER, encode_close, encode_header, encode_masked};
pub use handshake::{accept_key, is_valid_key};

/// The longest payload of a control frame in bytes (RFC 6455, section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// More of the message that is under way.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping.
    Pong = 0xa,
}

impl OpCode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => OpCode::Continuation,
            0x1 => OpCode::Text,
            0x2 => OpCode::Binary,
            0x8 => OpCode::Close,
            0x9 => OpCode::Ping,
            0xa => OpCode::Pong,
            _ => return None,
        })
    }

    /// Whether frames of it may come between the fragments of a message.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Why a connection is closed (RFC 6455, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(
    /// The number on the wire.
    pub u16,
);

impl CloseCode {
    /// 1000: done.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server shuts down, or the page is left.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a type of data that isn't taken.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1007: a text message that isn't UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: against a policy that has no code of its own.
    pub const POLICY: Self = Self(1008);
    /// 1009: the message is too long.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: the server failed.
    pub const INTERNAL: Self = Self(1011);

    /// Whether the code may stand in a close frame.
    ///
    /// 1004 has no meaning yet, 1005, 1006 and 1015 are for local use, the other codes up to 1014 are registered with
    /// IANA, and 3000 to 4999 are for libraries and applications.
    #[must_use]
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Masks or unmasks `payload`, whose first byte meets the mask's first.
fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    // The words before it are multiples of the mask long.
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
