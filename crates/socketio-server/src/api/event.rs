//! Events from clients, their acknowledgements, and the arguments of outgoing events.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use socketio_protocol::packet::{self, Args};

use crate::{
    api::socket::Socket,
    config::ANSWER_PER_MESSAGE,
    delivery::frame::{Frame, Frames},
    identifier::Position,
    recovery::Offset,
};

/// Why an event could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload has no JSON form.
    #[error("encode the payload: {0}")]
    Payload(#[from] serde_json::Error),
    /// The name is reserved by Socket.IO, such as `connect`.
    #[error("event name {0:?} is reserved")]
    ReservedName(String),
    /// The server has no such namespace, or has not started.
    #[error("namespace {0:?} is not known")]
    UnknownNamespace(String),
    /// The broadcast's offset is not above that of an earlier one.
    #[error("offset {offset} is not above {last}, that of the last broadcast")]
    PastOffset {
        /// The broadcast's.
        offset: Position,
        /// That of the last broadcast.
        last: Position,
    },
}

/// Arguments of an outgoing event or ack: JSON, and the binary attachments that its placeholders name.
#[derive(Debug, Clone, Default)]
pub struct EventArgs {
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

impl EventArgs {
    /// One argument.
    ///
    /// # Errors
    /// If the payload has no JSON form.
    pub fn new(payload: &impl Serialize) -> Result<Self, EncodeError> {
        Ok(Self { json: serde_json::to_string(payload)?, attachments: Vec::new() })
    }

    /// Arguments as JSON, separated by commas. The caller guarantees that the text is JSON.
    #[must_use]
    pub fn from_raw(json: impl Into<String>) -> Self {
        Self { json: json.into(), attachments: Vec::new() }
    }

    /// Adds binary attachments. The JSON refers to the n-th as `{"_placeholder":true,"num":n}`.
    #[must_use]
    pub fn with_attachments(mut self, attachments: Vec<Bytes>) -> Self {
        self.attachments = attachments;
        self
    }

    /// The frames of an event with these arguments. The offset, if there is one, is an additional argument.
    pub(crate) fn event_frames(
        &self,
        namespace: &str,
        ack: Option<u64>,
        event: &str,
        offset: Option<Offset>,
    ) -> Result<Frames, EncodeError> {
        check_name(event)?;
        Ok(self.frames(|out, attachments| {
            packet::encode_event(out, namespace, ack, attachments, event, &self.json);
            if let Some(offset) = offset {
                // The offset takes the place of the closing bracket.
                out.pop();
                out.extend_from_slice(&offset.argument());
                out.push(b']');
            }
        }))
    }

    fn frames(&self, head: impl FnOnce(&mut Vec<u8>, usize)) -> Frames {
        let mut frames = Frames::with_capacity(1 + self.attachments.len());
        frames.push(Frame::text(|out| head(out, self.attachments.len())));
        frames.extend(self.attachments.iter().map(|data| Frame::binary(data)));
        frames
    }
}

pub(crate) fn check_name(event: &str) -> Result<(), EncodeError> {
    if packet::RESERVED_EVENTS.contains(&event) {
        return Err(EncodeError::ReservedName(event.to_owned()));
    }
    Ok(())
}

/// An event from a client, borrowed from the packet that brought it.
///
/// A trailing callback of the client's `emit` is not among the arguments: it is [`Event::ack`].
#[derive(Debug)]
pub struct Event<'a> {
    name: Cow<'a, str>,
    args: EventArguments<'a>,
    attachments: &'a [Bytes],
    ack: Option<Ack>,
}

/// The arguments of an event: in the packet, or in an owned event.
#[derive(Debug)]
enum EventArguments<'a> {
    Packet(Args<'a>),
    Kept(&'a [Box<RawValue>]),
}

impl<'a> Event<'a> {
    pub(crate) fn new(socket: &Socket, args: Args<'a>, attachments: &'a [Bytes], ack: Option<u64>) -> Option<Self> {
        let name = args.event_name()?;
        let ack = ack.map(|id| Ack { socket: socket.clone(), id });
        Some(Self { name, args: EventArguments::Packet(args), attachments, ack })
    }

    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of arguments.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.args {
            EventArguments::Packet(args) => args.len().saturating_sub(1),
            EventArguments::Kept(args) => args.len(),
        }
    }

    /// Whether there are no arguments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The argument at `index`, as JSON.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&'a RawValue> {
        match &self.args {
            EventArguments::Packet(args) => args.get(index + 1),
            EventArguments::Kept(args) => args.get(index).map(AsRef::as_ref),
        }
    }

    /// The arguments, as JSON.
    pub fn args(&self) -> impl Iterator<Item = &'a RawValue> + '_ {
        (0..self.len()).filter_map(|index| self.arg(index))
    }

    /// The argument at `index`, if there is one and it deserializes to `T`.
    #[must_use]
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Option<T> {
        serde_json::from_str(self.arg(index)?.get()).ok()
    }

    /// The binary attachments.
    #[must_use]
    pub fn attachments(&self) -> &'a [Bytes] {
        self.attachments
    }

    /// Whether the client waits for an acknowledgement.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Acknowledges the event with one argument, if the client asked for it. A payload without a JSON form is
    /// acknowledged as `null`.
    pub fn ack(mut self, payload: &impl Serialize) {
        if let Some(ack) = self.take_ack() {
            ack.send(payload);
        }
    }

    /// Acknowledges the event with any arguments, if the client asked for it.
    pub fn ack_args(mut self, args: &EventArgs) {
        if let Some(ack) = self.take_ack() {
            ack.send_args(args);
        }
    }

    /// Takes the acknowledgement, to send it later.
    pub fn take_ack(&mut self) -> Option<Ack> {
        self.ack.take()
    }

    /// Copies the event, so that it can be kept.
    #[must_use]
    pub fn into_owned(self) -> OwnedEvent {
        OwnedEvent {
            args: self.args().map(ToOwned::to_owned).collect(),
            attachments: self.attachments.to_vec(),
            name: self.name.into_owned(),
            ack: self.ack,
        }
    }
}

/// An owned event from a client, for asynchronous handlers.
#[derive(Debug)]
pub struct OwnedEvent {
    name: String,
    args: Vec<Box<RawValue>>,
    attachments: Vec<Bytes>,
    ack: Option<Ack>,
}

impl OwnedEvent {
    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The arguments, as JSON.
    #[must_use]
    pub fn args(&self) -> &[Box<RawValue>] {
        &self.args
    }

    /// The argument at `index`, as JSON.
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&RawValue> {
        self.args.get(index).map(AsRef::as_ref)
    }

    /// The argument at `index`, if there is one and it deserializes to `T`.
    #[must_use]
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Option<T> {
        serde_json::from_str(self.arg(index)?.get()).ok()
    }

    /// The binary attachments.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// Whether the client waits for an acknowledgement.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Calls a handler that takes borrowed events.
    pub(crate) fn with_borrowed<T>(&self, ack: Option<Ack>, f: impl FnOnce(Event<'_>) -> T) -> T {
        f(Event {
            name: Cow::Borrowed(&self.name),
            args: EventArguments::Kept(&self.args),
            attachments: &self.attachments,
            ack,
        })
    }

    /// Like [`Event::ack`].
    pub fn ack(mut self, payload: &impl Serialize) {
        if let Some(ack) = self.take_ack() {
            ack.send(payload);
        }
    }

    /// Takes the acknowledgement, to send it later.
    pub fn take_ack(&mut self) -> Option<Ack> {
        self.ack.take()
    }
}

/// An acknowledgement that a client waits for.
#[derive(Debug)]
pub struct Ack {
    socket: Socket,
    id: u64,
}

impl Ack {
    /// Sends the acknowledgement with one argument.
    pub fn send(self, payload: &impl Serialize) {
        let args = EventArgs::new(payload).unwrap_or_else(|_| EventArgs::from_raw("null"));
        self.send_args(&args);
    }

    /// Sends the acknowledgement with any arguments.
    pub fn send_args(self, args: &EventArgs) {
        let namespace = self.socket.namespace();
        let frames =
            args.frames(|out, attachments| packet::encode_ack(out, namespace, self.id, attachments, &args.json));
        // A small event may have a large answer.
        let bytes: usize = frames.iter().map(Frame::len).sum();
        if bytes >= ANSWER_PER_MESSAGE {
            self.socket.inner().connection.count_extra(u32::try_from(bytes / ANSWER_PER_MESSAGE).unwrap_or(u32::MAX));
        }
        self.socket.queue(frames);
    }
}

/// A client's acknowledgement of an event from the server.
#[derive(Debug, Default)]
pub struct AckReply {
    pub(crate) args: Vec<Box<RawValue>>,
    pub(crate) attachments: Vec<Bytes>,
}

impl AckReply {
    /// The arguments of the client's callback, as JSON.
    #[must_use]
    pub fn args(&self) -> &[Box<RawValue>] {
        &self.args
    }

    /// The argument at `index`, if there is one and it deserializes to `T`.
    #[must_use]
    pub fn parse<T: DeserializeOwned>(&self, index: usize) -> Option<T> {
        serde_json::from_str(self.args.get(index)?.get()).ok()
    }

    /// The binary attachments.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }
}

/// The reason why there is no acknowledgement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The client did not answer in time.
    #[error("acknowledgement timed out")]
    Timeout,
    /// The socket was disconnected first.
    #[error("socket is disconnected")]
    Disconnected,
    /// The client has reached the limit of pending acknowledgements.
    #[error("too many pending acknowledgements")]
    TooMany,
    /// The event could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}
