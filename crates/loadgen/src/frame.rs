//! A server's WebSocket frames, taken off the front of what was read. `socketio-protocol` has the other direction only.

use anyhow::{Result, bail};

/// A frame that has arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is (RFC 6455, section 5.2).
    pub opcode: u8,
    /// What it carries.
    pub payload: &'a [u8],
    /// Its length with its header, in bytes.
    pub len: usize,
}

/// Opcode of a text message.
pub const TEXT: u8 = 0x1;
/// Opcode of the closing handshake.
pub const CLOSE: u8 = 0x8;
/// Opcode of a WebSocket ping, which is not Engine.IO's.
pub const PING: u8 = 0x9;

/// The frame that `input` begins with, if it is all there.
///
/// # Errors
/// If a server may not send it: fragments (none of the measured servers makes them), masks, reserved bits.
#[inline]
pub fn next(input: &[u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = input else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        bail!("a frame that begins with {first:#04x} {second:#04x}");
    }
    let (start, len) = match (second, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [0, 0, 0, 0, a, b, c, d, ..]) => (10, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        (127, [_, _, _, _, _, _, _, _, ..]) => bail!("a frame of more than 4 GiB"),
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(*short)),
    };
    let end = start + len;
    Ok(input.get(start..end).map(|payload| Frame { opcode: first & 0x0f, payload, len: end }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socketio_protocol::websocket::{OpCode, encode_header};

    #[test]
    fn frames_of_every_length_are_found_when_their_last_byte_is_there() {
        for len in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let (header, header_len) = encode_header(OpCode::Text, len);
            let mut bytes = header[..header_len].to_vec();
            bytes.resize(header_len + len, b'x');
            for cut in [0, 1, 2, 3, header_len, bytes.len() - 1] {
                let cut = cut.min(bytes.len() - 1);
                assert_eq!(next(&bytes[..cut]).unwrap(), None, "{len} cut at {cut}");
            }
            bytes.extend_from_slice(b"next");
            let frame = next(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload.len(), frame.len), (TEXT, len, header_len + len));
        }
    }

    #[test]
    fn what_a_server_may_not_send_is_an_error() {
        for bytes in [&b"\x01\x00"[..], b"\xc1\x00", b"\x81\x80", b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00"] {
            assert!(next(bytes).is_err(), "{bytes:?}");
        }
    }
}
