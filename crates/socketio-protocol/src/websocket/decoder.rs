use std::fmt;

use super::{CloseCode, MAX_CONTROL_PAYLOAD, OpCode, apply_mask};

/// The most frames that one message may come in.
///
/// Browsers don't fragment at all below a megabyte; without a limit a client could send empty fragments for ever.
pub const MAX_FRAGMENTS: u32 = 4096;

/// What the decoder took off the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A part of a message, kept in the decoder until the message is complete.
    Fragment,
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, whose payload the pong must repeat.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The client closes, with the code it gives if it gives one.
    Close(Option<CloseCode>),
}

/// Decodes the frames of one client.
///
/// It is 16 bytes and holds memory only while a message comes in fragments, and then what has arrived of it.
#[derive(Debug)]
pub struct Decoder {
    max_message: usize,
    partial: Option<Box<Partial>>,
}

/// A message of which the last fragment hasn't arrived, or was delivered by the call before.
struct Partial {
    is_text: bool,
    is_delivered: bool,
    fragments: u32,
    payload: Vec<u8>,
}

/// A header that is whole and keeps the rules.
struct Header {
    is_final: bool,
    opcode: OpCode,
    mask: [u8; 4],
    /// Where the payload begins and ends, from the frame's first byte.
    start: usize,
    end: usize,
}

impl Decoder {
    /// A decoder that refuses messages of more than `max_message` bytes.
    #[must_use]
    pub const fn new(max_message: usize) -> Self {
        Self { max_message, partial: None }
    }

    /// Bytes that it holds of a message in fragments.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.payload.capacity())
    }

    /// Takes the next message off the front of `input`, which holds whatever has arrived.
    ///
    /// Returns how many bytes it takes up; call it again with what comes after them. `None`: the frame isn't complete,
    /// `input` is as it was, and no more than the header was looked at. The payload is unmasked where it is, so bytes
    /// that were consumed mean nothing afterwards.
    ///
    /// A message that came in fragments is the decoder's own memory, which the next call frees: call it until it
    /// returns `None` before leaving a connection idle (an empty `input` will do).
    ///
    /// # Errors
    ///
    /// Any [`ProtocolError`], as early as the bytes that are there tell: a frame that is too long fails when its header
    /// is there, not its payload. The stream can't be read on after that; the connection is to be closed with
    /// [`ProtocolError::close_code`].
    pub fn next<'a>(&'a mut self, input: &'a mut [u8]) -> Result<Option<(usize, Message<'a>)>, ProtocolError> {
        if self.partial.as_ref().is_some_and(|it| it.is_delivered) {
            self.partial = None;
        }
        let Some(header) = self.header(input)? else {
            return Ok(None);
        };
        let Some(payload) = input.get_mut(header.start..header.end) else {
            return Ok(None);
        };
        apply_mask(payload, header.mask);

        let message = match header.opcode {
            OpCode::Text if header.is_final => Message::Text(text(payload)?),
            OpCode::Binary if header.is_final => Message::Binary(payload),
            OpCode::Text | OpCode::Binary | OpCode::Continuation => self.fragment(&header, payload)?,
            OpCode::Close => Message::Close(close_code(payload)?),
            OpCode::Ping => Message::Ping(payload),
            OpCode::Pong => Message::Pong,
        };
        Ok(Some((header.end, message)))
    }

    /// Reads the header that `input` begins with, and refuses it as soon as enough of it is there.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBits);
        }
        let is_final = first & 0x80 != 0;
        let opcode = OpCode::from_bits(first & 0x0f).ok_or(ProtocolError::OpCode)?;
        match opcode {
            OpCode::Continuation if self.partial.is_none() => {
                return Err(ProtocolError::UnexpectedContinuation);
            }
            OpCode::Text | OpCode::Binary if self.partial.is_some() => {
                return Err(ProtocolError::ExpectedContinuation);
            }
            _ if opcode.is_control() && !is_final => return Err(ProtocolError::FragmentedControl),
            _ => {}
        }

        let Some(&second) = input.get(1) else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(ProtocolError::Unmasked);
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL_PAYLOAD {
            return Err(ProtocolError::LongControl);
        }
        let (len, after_len, shortest) = match short {
            126 => match bytes_at(input, 2) {
                Some(bytes) => (u64::from(u16::from_be_bytes(bytes)), 4, 126),
                None => return Ok(None),
            },
            127 => match bytes_at(input, 2) {
                Some(bytes) => (u64::from_be_bytes(bytes), 10, 0x1_0000),
                None => return Ok(None),
            },
            short => (u64::from(short), 2, 0),
        };
        if len < shortest {
            return Err(ProtocolError::LengthEncoding);
        }

        let start = after_len + 4;
        let held = self.partial.as_ref().map_or(0, |it| it.payload.len());
        let end = usize::try_from(len)
            .ok()
            .filter(|&len| opcode.is_control() || len <= self.max_message.saturating_sub(held))
            .and_then(|len| len.checked_add(start))
            .ok_or(ProtocolError::TooBig)?;

        Ok(bytes_at(input, after_len).map(|mask| Header { is_final, opcode, mask, start, end }))
    }

    /// Adds a fragment to the message under way and delivers it when it was the last.
    fn fragment(&mut self, header: &Header, payload: &[u8]) -> Result<Message<'_>, ProtocolError> {
        let partial = self.partial.get_or_insert_with(|| {
            Box::new(Partial {
                is_text: header.opcode == OpCode::Text,
                is_delivered: false,
                fragments: 0,
                payload: Vec::new(),
            })
        });
        partial.fragments += 1;
        if partial.fragments > MAX_FRAGMENTS {
            return Err(ProtocolError::TooManyFragments);
        }
        partial.payload.extend_from_slice(payload);
        if !header.is_final {
            return Ok(Message::Fragment);
        }
        partial.is_delivered = true;
        if partial.is_text { Ok(Message::Text(text(&partial.payload)?)) } else { Ok(Message::Binary(&partial.payload)) }
    }
}

/// Shows lengths only: what clients send doesn't belong into logs.
impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial")
            .field("is_text", &self.is_text)
            .field("fragments", &self.fragments)
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

fn bytes_at<const N: usize>(input: &[u8], at: usize) -> Option<[u8; N]> {
    input.get(at..)?.first_chunk().copied()
}

fn text(payload: &[u8]) -> Result<&str, ProtocolError> {
    std::str::from_utf8(payload).map_err(|_| ProtocolError::Utf8)
}

fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, ProtocolError> {
    match payload {
        [] => Ok(None),
        [high, low, reason @ ..] => {
            let code = CloseCode(u16::from_be_bytes([*high, *low]));
            if !code.is_sendable() {
                return Err(ProtocolError::ClosePayload);
            }
            text(reason)?;
            Ok(Some(code))
        }
        [_] => Err(ProtocolError::ClosePayload),
    }
}

/// How a client broke the WebSocket protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A bit is set that belongs to an extension, and none was agreed to.
    #[error("reserved bits set")]
    ReservedBits,
    /// The opcode has no meaning.
    #[error("unknown opcode")]
    OpCode,
    /// A continuation when no message is under way.
    #[error("continuation of nothing")]
    UnexpectedContinuation,
    /// A new message before the last fragment of the one under way.
    #[error("message within a fragmented message")]
    ExpectedContinuation,
    /// A control frame that isn't final.
    #[error("fragmented control frame")]
    FragmentedControl,
    /// A control frame with more than [`MAX_CONTROL_PAYLOAD`] bytes.
    #[error("control frame too long")]
    LongControl,
    /// A client's frame without a mask.
    #[error("frame without a mask")]
    Unmasked,
    /// A length that isn't written in the fewest bytes.
    #[error("length not in its shortest form")]
    LengthEncoding,
    /// A message longer than the decoder takes.
    #[error("message too long")]
    TooBig,
    /// A message in more than [`MAX_FRAGMENTS`] frames.
    #[error("message in too many fragments")]
    TooManyFragments,
    /// A text message, or a close frame's reason, that isn't UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A close frame with a single byte, or a code that must not be sent.
    #[error("invalid close frame")]
    ClosePayload,
}

impl ProtocolError {
    /// The code to close the connection with.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            ProtocolError::TooBig => CloseCode::TOO_BIG,
            ProtocolError::TooManyFragments => CloseCode::POLICY,
            ProtocolError::Utf8 => CloseCode::INVALID_DATA,
            _ => CloseCode::PROTOCOL,
        }
    }
}
