use super::{CloseCode, MAX_CONTROL_PAYLOAD, OpCode, apply_mask};

/// The longest header of a frame without a mask, in bytes.
pub const MAX_HEADER: usize = 10;

/// The longest reason a close frame may give, in bytes: the code takes two of the payload's.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The header of a server's frame that is a whole message: final, without a mask.
///
/// Returns the bytes and how many of them, counted from the first, are the header (2, 4 or 10); the payload follows
/// them directly. Where it is to be put in front of a payload that has [`MAX_HEADER`] bytes of room before it:
///
/// ```
/// use socketio_protocol::websocket::{MAX_HEADER, OpCode, encode_header};
///
/// let mut buffer = vec![0; MAX_HEADER];
/// buffer.extend_from_slice(b"hello");
/// let (header, len) = encode_header(OpCode::Text, buffer.len() - MAX_HEADER);
/// let start = MAX_HEADER - len;
/// buffer[start..MAX_HEADER].copy_from_slice(&header[..len]);
/// assert_eq!(&buffer[start..], b"\x81\x05hello");
/// ```
#[must_use]
pub const fn encode_header(opcode: OpCode, payload_len: usize) -> ([u8; MAX_HEADER], usize) {
    let first = FINAL | opcode as u8;
    let [a, b, c, d, e, f, g, h] = (payload_len as u64).to_be_bytes();
    match payload_len {
        0..=125 => ([first, h, 0, 0, 0, 0, 0, 0, 0, 0], 2),
        126..=0xffff => ([first, 126, g, h, 0, 0, 0, 0, 0, 0], 4),
        _ => ([first, 127, a, b, c, d, e, f, g, h], 10),
    }
}

/// A server's close frame, whole.
///
/// A `reason` longer than [`MAX_CLOSE_REASON`] is cut between two characters.
#[must_use]
pub fn encode_close(code: CloseCode, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON)];
    let (header, len) = encode_header(OpCode::Close, 2 + reason.len());
    let mut frame = Vec::with_capacity(len + 2 + reason.len());
    frame.extend_from_slice(&header[..len]);
    frame.extend_from_slice(&code.0.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

/// Appends a client's frame that is a whole message: final, masked with `mask`.
pub fn encode_masked(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let (mut header, len) = encode_header(opcode, payload.len());
    header[1] |= MASKED;
    out.reserve(len + mask.len() + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}
