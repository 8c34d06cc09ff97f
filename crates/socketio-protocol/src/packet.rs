//! Socket.IO packets: what an Engine.IO message carries.
//!
//! ```text
//! <type>[<number of attachments>-][<namespace>,][<ack id>][<JSON>]
//! ```
//!
//! [`Packet::decode`] takes the text after Engine.IO's `4`. The encoders write the `4` too, so that what they append
//! is a whole Engine.IO packet. Binary attachments follow as messages of their own and aren't seen here; a placeholder
//! `{"_placeholder":true,"num":0}` in the JSON stands where each belongs.

mod args;
mod encode;
mod placeholders;

use serde_json::value::RawValue;

use crate::json::{self, Fault};

pub use args::Args;
pub use encode::{encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event};

/// Names that no event may have: they mean something to the libraries on either side.
///
/// Source: `RESERVED_EVENTS` of socket.io-parser 4.2.
pub const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// The largest ack id, 2^53 - 1: JavaScript counts no further without skipping.
pub const MAX_ACK_ID: u64 = (1 << 53) - 1;

/// The default of [`Limits::max_attachments`].
pub const MAX_ATTACHMENTS: usize = 128;

/// The most elements that the array of an event or ack may have, the event's name included.
///
/// A JavaScript peer spreads them into a function call, for which JavaScriptCore's limit is the lowest: 65,536. It
/// bounds [`Args`] to 1 MiB.
pub const MAX_ARGS: usize = 65_536;

/// How many arrays and objects of a packet's JSON may stand within one another, the outermost included.
///
/// It is as much as `serde_json` deserialises by default.
pub const MAX_DEPTH: usize = json::MAX_DEPTH;

/// What [`Packet::decode_with`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most binary attachments a packet may announce; they are kept until the last one is there.
    pub max_attachments: usize,
    /// How many arrays and objects may stand within one another, the outermost included; no more than [`MAX_DEPTH`].
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_attachments: MAX_ATTACHMENTS, max_depth: MAX_DEPTH }
    }
}

/// A packet, borrowed from the text it was decoded from.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// The namespace, `/` when the packet names none.
    pub namespace: &'a str,
    /// What the packet is and carries.
    pub kind: Kind<'a>,
}

/// The kinds of packets with what they carry.
#[derive(Debug, Clone)]
pub enum Kind<'a> {
    /// `0`: a client asks for a namespace, or a server grants it.
    Connect {
        /// A JSON object: the client's credentials, the server's `{"sid":…}`.
        auth: Option<&'a RawValue>,
    },
    /// `1`: the namespace is left.
    Disconnect,
    /// `2`, or `5` with attachments: an event.
    Event {
        /// The id to acknowledge the event with, if its sender asked for that.
        ack: Option<u64>,
        /// The event's name, a string or number, and its arguments.
        args: Args<'a>,
        /// How many binary messages follow that belong to this packet; 0 for `2`.
        attachments: usize,
    },
    /// `3`, or `6` with attachments: an event is acknowledged.
    Ack {
        /// The id of the event.
        id: u64,
        /// The arguments of the acknowledgement.
        args: Args<'a>,
        /// How many binary messages follow that belong to this packet; 0 for `3`.
        attachments: usize,
    },
    /// `4`: a namespace is refused. Only servers send it.
    ConnectError {
        /// A JSON object, `{"message":…}`, or a string.
        data: Option<&'a RawValue>,
    },
}

impl<'a> Packet<'a> {
    /// Decodes with the default [`Limits`].
    ///
    /// # Errors
    ///
    /// As [`Packet::decode_with`].
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        Self::decode_with(text, Limits::default())
    }

    /// Decodes the text of an Engine.IO message (without the `4`).
    ///
    /// The rules are those of socket.io-parser 4.2, and stricter where it takes packets that no client sends: an event
    /// without payload, an ack without id, an id where none belongs, a binary packet without attachments, attachments
    /// without a placeholder.
    ///
    /// # Errors
    ///
    /// Any [`DecodeError`]. The protocol wants the connection closed then.
    pub fn decode_with(text: &'a str, limits: Limits) -> Result<Self, DecodeError> {
        let kind = *text.as_bytes().first().ok_or(DecodeError::Empty)?;
        if !matches!(kind, b'0'..=b'6') {
            return Err(DecodeError::UnknownType);
        }
        let rest = text.get(1..).unwrap_or_default();

        let (attachments, rest) = match kind {
            b'5' | b'6' => take_attachments(rest, limits)?,
            _ => (0, rest),
        };
        let (namespace, rest) = take_namespace(rest);

        let kind = match kind {
            b'0' => Kind::Connect { auth: take_value(rest, b"{", limits)? },
            b'1' if rest.is_empty() => Kind::Disconnect,
            b'1' => return Err(DecodeError::UnexpectedPayload),
            b'4' => Kind::ConnectError { data: take_value(rest, b"{\"", limits)? },
            event_or_ack => {
                let (id, rest) = take_id(rest)?;
                let args = Args::parse_with(rest, limits)?;
                if attachments > 0 {
                    placeholders::check(args.as_json(), attachments)?;
                }
                if matches!(event_or_ack, b'2' | b'5') {
                    let name = args.event_name().ok_or(DecodeError::EventName)?;
                    if RESERVED_EVENTS.contains(&name.as_ref()) {
                        return Err(DecodeError::ReservedEvent);
                    }
                    Kind::Event { ack: id, args, attachments }
                } else {
                    Kind::Ack { id: id.ok_or(DecodeError::MissingAckId)?, args, attachments }
                }
            }
        };
        Ok(Packet { namespace, kind })
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    // Only one-byte characters come before it.
    text.split_at(end)
}

fn take_attachments(text: &str, limits: Limits) -> Result<(usize, &str), DecodeError> {
    let (digits, rest) = take_digits(text);
    let rest = rest.strip_prefix('-').ok_or(DecodeError::AttachmentCount)?;
    if digits.is_empty() {
        return Err(DecodeError::AttachmentCount);
    }
    match digits.parse() {
        Ok(0) => Err(DecodeError::AttachmentCount),
        Ok(count) if count <= limits.max_attachments => Ok((count, rest)),
        // Digits that don't parse are a number that doesn't fit.
        _ => Err(DecodeError::TooManyAttachments),
    }
}

fn take_namespace(text: &str) -> (&str, &str) {
    if text.starts_with('/') { text.split_once(',').unwrap_or((text, "")) } else { ("/", text) }
}

fn take_id(text: &str) -> Result<(Option<u64>, &str), DecodeError> {
    let (digits, rest) = take_digits(text);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    match digits.parse() {
        Ok(id) if id <= MAX_ACK_ID => Ok((Some(id), rest)),
        _ => Err(DecodeError::AckIdRange),
    }
}

/// Takes the rest of a packet as a JSON value, if there is one, that begins with one of the bytes `first`.
fn take_value<'a>(text: &'a str, first: &[u8], limits: Limits) -> Result<Option<&'a RawValue>, DecodeError> {
    let text = json::trim(text);
    match text.as_bytes().first() {
        None => Ok(None),
        Some(byte) if first.contains(byte) => Ok(Some(json::parse(text, limits.max_depth)?)),
        Some(_) => Err(DecodeError::PayloadType),
    }
}

/// Why a text is no Socket.IO packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is empty.
    #[error("empty packet")]
    Empty,
    /// The first character is no packet type.
    #[error("unknown packet type")]
    UnknownType,
    /// A binary packet doesn't say how many attachments it has, or none.
    #[error("invalid number of attachments")]
    AttachmentCount,
    /// More attachments are announced than [`Limits::max_attachments`].
    #[error("too many attachments")]
    TooManyAttachments,
    /// A placeholder refers to no attachment, or an attachment has no placeholder.
    #[error("placeholders do not match the attachments")]
    Placeholders,
    /// The ack id is above [`MAX_ACK_ID`].
    #[error("ack id out of range")]
    AckIdRange,
    /// An ack packet has no id.
    #[error("ack without an id")]
    MissingAckId,
    /// The packet is of a kind that carries nothing.
    #[error("payload in a packet that carries none")]
    UnexpectedPayload,
    /// The payload is missing, or not of the JSON type that the packet's kind asks for.
    #[error("payload of the wrong type")]
    PayloadType,
    /// The payload isn't JSON.
    #[error("payload is not JSON")]
    Json,
    /// The payload nests deeper than [`Limits::max_depth`].
    #[error("payload nested too deep")]
    TooDeep,
    /// The payload has more elements than [`MAX_ARGS`].
    #[error("too many arguments")]
    TooManyArgs,
    /// An event's first element is missing, or neither a number nor a string of Unicode.
    #[error("event without a name")]
    EventName,
    /// The event has one of the [`RESERVED_EVENTS`]' names.
    #[error("reserved event name")]
    ReservedEvent,
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Syntax => DecodeError::Json,
            Fault::TooDeep => DecodeError::TooDeep,
        }
    }
}
