//! Engine.IO packets, and the payloads that carry several of them over HTTP long-polling.
//!
//! A text packet is one digit and its data, or `b` and binary data in base64. In a WebSocket each has a text frame of
//! its own, and binary data usually is a binary frame as it is; in the body of a polling request or response packets
//! are put together with [`SEPARATOR`].

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::json;

/// The protocol revision implemented here, `EIO=4` in the query string.
pub const REVISION: u8 = 4;

/// Stands between the packets of a polling payload: ASCII's record separator.
pub const SEPARATOR: u8 = 0x1e;

/// `Buffer.from(text, "base64")`, which decodes at the reference server, takes it with and without padding.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// One packet that is no binary data, as it stands in a WebSocket text frame or between the separators of a polling
/// payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: the server's handshake, a JSON object (see [`Open`] and [`Handshake`]).
    Open(&'a str),
    /// `1`: the connection ends.
    Close,
    /// `2`: the server's heartbeat, or `2probe` of a client that wants to upgrade.
    Ping(&'a str),
    /// `3`: the client's answer to a heartbeat, or the server's `3probe`.
    Pong(&'a str),
    /// `4`: a message of the layer above (see [`crate::packet`]).
    Message(&'a str),
    /// `5`: the client goes over to the transport this came by.
    Upgrade,
    /// `6`: ends a pending poll without carrying anything.
    Noop,
}

impl<'a> Packet<'a> {
    /// Reads one packet, borrowing its data.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Empty`], [`DecodeError::UnknownType`] when the text doesn't begin with `0` to `6`, and
    /// [`DecodeError::UnexpectedData`] when anything follows the digit of a packet that carries nothing.
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        let kind = *text.as_bytes().first().ok_or(DecodeError::Empty)?;
        // A longer character can't be split: its first byte is none of the digits.
        let data = text.get(1..).ok_or(DecodeError::UnknownType)?;
        let bare = |packet| {
            if data.is_empty() { Ok(packet) } else { Err(DecodeError::UnexpectedData) }
        };
        match kind {
            b'0' => Ok(Packet::Open(data)),
            b'1' => bare(Packet::Close),
            b'2' => Ok(Packet::Ping(data)),
            b'3' => Ok(Packet::Pong(data)),
            b'4' => Ok(Packet::Message(data)),
            b'5' => bare(Packet::Upgrade),
            b'6' => bare(Packet::Noop),
            _ => Err(DecodeError::UnknownType),
        }
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, data) = match *self {
            Packet::Open(data) => (b'0', data),
            Packet::Close => (b'1', ""),
            Packet::Ping(data) => (b'2', data),
            Packet::Pong(data) => (b'3', data),
            Packet::Message(data) => (b'4', data),
            Packet::Upgrade => (b'5', ""),
            Packet::Noop => (b'6', ""),
        };
        out.reserve(1 + data.len());
        out.push(kind);
        out.extend_from_slice(data.as_bytes());
    }
}

/// A packet in text form: of a polling payload, or a WebSocket text frame. A client that was told to
/// (`forceBase64`) sends binary data in text frames too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPacket<'a> {
    /// A packet that is no binary data.
    Packet(Packet<'a>),
    /// A message of binary data, decoded from base64.
    Binary(Vec<u8>),
}

impl<'a> TextPacket<'a> {
    /// Reads one packet.
    ///
    /// # Errors
    ///
    /// Those of [`Packet::decode`], and [`DecodeError::Base64`].
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        match text.strip_prefix('b') {
            Some(encoded) => LENIENT_BASE64.decode(encoded).map(TextPacket::Binary).map_err(|_| DecodeError::Base64),
            None => Packet::decode(text).map(TextPacket::Packet),
        }
    }
}

/// Splits the body of a polling request into its packets, one at each step.
///
/// An empty body and an empty packet between separators are errors. Nothing comes after an error.
#[must_use]
pub fn decode_payload(body: &str) -> Payload<'_> {
    Payload { rest: Some(body) }
}

/// The packets of a polling request; see [`decode_payload`].
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    rest: Option<&'a str>,
}

impl<'a> Payload<'a> {
    /// What is not split yet, if anything is left.
    #[must_use]
    pub fn rest(&self) -> Option<&'a str> {
        self.rest
    }
}

impl<'a> Iterator for Payload<'a> {
    type Item = Result<TextPacket<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let packet = match rest.split_once(char::from(SEPARATOR)) {
            Some((packet, rest)) => {
                self.rest = Some(rest);
                packet
            }
            None => rest,
        };
        let packet = TextPacket::decode(packet);
        if packet.is_err() {
            self.rest = None;
        }
        Some(packet)
    }
}

impl std::iter::FusedIterator for Payload<'_> {}

/// Appends a message of binary data in text form: `b` and base64.
pub fn encode_binary(data: &[u8], out: &mut Vec<u8>) {
    let encoded = data.len().div_ceil(3) * 4;
    out.reserve(1 + encoded);
    out.push(b'b');
    let start = out.len();
    out.resize(start + encoded, 0);
    STANDARD.encode_slice(data, &mut out[start..]).expect("four characters for every three bytes begun");
}

/// Puts the body of a polling response together.
#[derive(Default)]
pub struct PayloadWriter {
    body: Vec<u8>,
}

impl PayloadWriter {
    /// An empty body, which allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { body: Vec::new() }
    }

    /// Appends a text packet that is encoded already, such as `4…` of [`crate::packet::encode_event`].
    ///
    /// It must not be empty nor contain [`SEPARATOR`]; in JSON that byte is always escaped.
    pub fn push_text(&mut self, packet: &[u8]) {
        debug_assert!(!packet.is_empty() && !packet.contains(&SEPARATOR));
        self.body.reserve(1 + packet.len());
        self.separate();
        self.body.extend_from_slice(packet);
    }

    /// Appends a message of binary data as `b` and base64.
    pub fn push_binary(&mut self, data: &[u8]) {
        self.separate();
        encode_binary(data, &mut self.body);
    }

    /// The length of the body so far in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing was pushed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The body.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.body
    }

    fn separate(&mut self) {
        if !self.body.is_empty() {
            self.body.push(SEPARATOR);
        }
    }
}

/// Shows the length only: bodies don't belong into logs.
impl std::fmt::Debug for PayloadWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayloadWriter").field("len", &self.body.len()).finish()
    }
}

/// What a server tells a client in the open packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open<'a> {
    /// The session id, in the query string of every request that follows.
    pub sid: &'a str,
    /// The transports the client may upgrade to: `["websocket"]`, or none when it came by WebSocket.
    pub upgrades: &'a [&'a str],
    /// Milliseconds between two heartbeats.
    pub ping_interval_ms: u64,
    /// Milliseconds a heartbeat's answer may take.
    pub ping_timeout_ms: u64,
    /// The longest polling request body, and WebSocket message, that the server takes, in bytes.
    pub max_payload: usize,
}

impl Open<'_> {
    /// Appends the whole open packet to `out`:
    /// `0{"sid":"…","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"0{\"sid\":");
        json::write_string(out, self.sid);
        out.extend_from_slice(b",\"upgrades\":[");
        for (at, upgrade) in self.upgrades.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            json::write_string(out, upgrade);
        }
        out.extend_from_slice(b"],\"pingInterval\":");
        json::write_integer(out, self.ping_interval_ms);
        out.extend_from_slice(b",\"pingTimeout\":");
        json::write_integer(out, self.ping_timeout_ms);
        out.extend_from_slice(b",\"maxPayload\":");
        json::write_integer(out, self.max_payload as u64);
        out.push(b'}');
    }
}

/// An [`Open`] as a client reads it from [`Packet::Open`]'s data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake {
    /// The session id.
    pub sid: String,
    /// The transports that may be upgraded to.
    pub upgrades: Vec<String>,
    /// Milliseconds between two heartbeats.
    #[serde(rename = "pingInterval")]
    pub ping_interval_ms: u64,
    /// Milliseconds a heartbeat's answer may take.
    #[serde(rename = "pingTimeout")]
    pub ping_timeout_ms: u64,
    /// The longest polling request body, and WebSocket message, that the server takes, in bytes.
    pub max_payload: usize,
}

impl Handshake {
    /// Reads the data of an open packet.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Handshake`] unless it is a JSON object with the five fields.
    pub fn decode(data: &str) -> Result<Self, DecodeError> {
        serde_json::from_str(data).map_err(|_| DecodeError::Handshake)
    }
}

/// Why a packet or payload could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no packet type: the text, or a part between separators, is empty.
    #[error("empty packet")]
    Empty,
    /// The first character is no packet type.
    #[error("unknown packet type")]
    UnknownType,
    /// A close, upgrade or noop packet carries data.
    #[error("data in a packet that carries none")]
    UnexpectedData,
    /// What follows `b` isn't base64.
    #[error("invalid base64")]
    Base64,
    /// The data of an open packet isn't a handshake.
    #[error("invalid handshake")]
    Handshake,
}
