//! The formats in JSON.
//!
//! - `@socket.io/redis-streams-emitter`: entries of the stream `socket.io` with the fields `uid`, `nsp`, `type` and `data`.
//!   The data are JSON, or MessagePack in base64 if they have binary data.
//! - python-socketio's `RedisManager` (5.14 or newer): the channel `socketio`, with `method`, `event`, `data`, `namespace`,
//!   `room`, `skip_sid` and `callback`. Older versions send pickled objects. To load one is to run it, so none is loaded.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::message::{Message, Refusal};
use super::msgpack::{EMITTER, EVENT, foreign, request};
use crate::contract::namespaces::DEFAULT;
use crate::limits::MAX_EMITTER_ROOMS;
use crate::metrics::EmitterRefusal;
use crate::publish::fields::check_text;

/// The type of an entry with a packet for sockets, in Socket.IO's messages between nodes.
const BROADCAST: &[u8] = b"3";

/// The first byte of a pickled object, from version 2 of the format on.
const PICKLE: u8 = 0x80;

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(borrow)]
    packet: Packet<'a>,
    opts: Options,
}

#[derive(Deserialize)]
struct Packet<'a> {
    #[serde(rename = "type")]
    kind: u64,
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    rooms: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
}

/// Reads an entry of the stream, by its fields.
///
/// # Errors
/// Why it is not an event to be published.
pub(super) fn read_entry(fields: &[(Vec<u8>, Vec<u8>)]) -> Result<Message, Refusal> {
    let field = |name: &str| fields.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &**value);
    if field("uid").ok_or_else(|| Refusal::malformed("it has no uid"))? != EMITTER.as_bytes() {
        return Err(foreign());
    }
    if field("type").ok_or_else(|| Refusal::malformed("it has no type"))? != BROADCAST {
        return Err(request());
    }
    let namespace = field("nsp").and_then(|name| str::from_utf8(name).ok());
    let namespace = namespace.ok_or_else(|| Refusal::malformed("it has no namespace"))?.to_owned();
    let data = field("data").ok_or_else(|| Refusal::malformed("it has no data"))?;
    if !data.starts_with(b"{") && data.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)) {
        return Err(Refusal::new(EmitterRefusal::Binary, "events with binary data can't be kept"));
    }
    let text = check_text(data).map_err(|_error| Refusal::malformed("its data are not UTF-8, or nested too deeply"))?;
    let Broadcast { packet, opts } =
        serde_json::from_str(&text).map_err(|_error| Refusal::malformed("its data are not a broadcast in JSON"))?;
    if packet.kind != EVENT {
        return Err(Refusal::malformed("it is not an event"));
    }
    if opts.rooms.len() > MAX_EMITTER_ROOMS {
        return Err(Refusal::malformed("it names too many rooms"));
    }
    let (event, arguments) = packet.data.split_first().ok_or_else(|| Refusal::malformed("the event has no name"))?;
    Ok(Message {
        namespace,
        rooms: opts.rooms,
        excludes: !opts.except.is_empty(),
        event: name(event)?,
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
    })
}

#[derive(Deserialize)]
struct Method<'a> {
    method: String,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    binary: bool,
    namespace: Option<String>,
    room: Option<OneOrMore>,
    #[serde(borrow)]
    skip_sid: Option<&'a RawValue>,
    #[serde(borrow)]
    callback: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Reads a message on python-socketio's channel.
///
/// # Errors
/// Why it is not an event to be published.
pub(super) fn read_python(payload: &[u8]) -> Result<Message, Refusal> {
    if payload.first() == Some(&PICKLE) {
        return Err(Refusal::new(EmitterRefusal::Pickle, "python-socketio sends JSON since 5.14: update it"));
    }
    let text = check_text(payload).map_err(|_error| Refusal::malformed("it is not UTF-8, or nested too deeply"))?;
    let message: Method<'_> =
        serde_json::from_str(&text).map_err(|_error| Refusal::malformed("it is not a method in JSON"))?;
    if message.method != "emit" {
        return Err(request());
    }
    if message.binary {
        return Err(Refusal::new(EmitterRefusal::Binary, "events with binary data can't be kept"));
    }
    let is_given = |value: Option<&RawValue>| value.is_some_and(|value| !matches!(value.get(), "null" | "[]"));
    if is_given(message.callback) {
        return Err(Refusal::new(EmitterRefusal::Callback, "a publish has no answer"));
    }
    let rooms = match message.room {
        None => Vec::new(),
        Some(OneOrMore::One(room)) => vec![room],
        Some(OneOrMore::More(rooms)) if rooms.len() > MAX_EMITTER_ROOMS => {
            return Err(Refusal::malformed("it names too many rooms"));
        }
        Some(OneOrMore::More(rooms)) => rooms,
    };
    Ok(Message {
        namespace: message.namespace.unwrap_or_else(|| DEFAULT.to_owned()),
        rooms,
        excludes: is_given(message.skip_sid),
        event: message.event.ok_or_else(|| Refusal::malformed("the event has no name"))?,
        arguments: arguments(message.data)?,
    })
}

/// The elements of a list are the arguments; anything else is the only one.
fn arguments(data: Option<&RawValue>) -> Result<Vec<Box<RawValue>>, Refusal> {
    let Some(data) = data else { return Ok(Vec::new()) };
    if !data.get().starts_with('[') {
        return Ok(vec![data.to_owned()]);
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(data.get()).map_err(|_error| Refusal::malformed("its data are not JSON"))?;
    Ok(elements.into_iter().map(ToOwned::to_owned).collect())
}

fn name(event: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(event.get()).map_err(|_error| Refusal::malformed("the event's name is not a text"))
}
