//! `@socket.io/redis-emitter` 5: MessagePack on the channels `socket.io#NAMESPACE#` and `socket.io#NAMESPACE#ROOM#`.
//!
//! A message is `["emitter", {type: 2, data: [event, …], nsp}, {rooms, flags, except}]`. Requests to join, leave and
//! disconnect are JSON on the channels `socket.io-request#NAMESPACE#`.

use std::time::Duration;

use rmpv::{ValueRef, decode};
use serde::Deserialize;
use serde::ser::{Error as _, Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::message::{Message, Refusal};
use crate::contract::events::shortest_number;
use crate::contract::time::Moment;
use crate::limits::{MAX_EMITTER_DEPTH, MAX_EMITTER_ROOMS};
use crate::metrics::EmitterRefusal;
use crate::publish::fields::check_text;

/// What the channels of requests begin with.
const REQUESTS: &[u8] = b"socket.io-request#";

/// The sender in messages of emitters. Servers have random ones.
pub(super) const EMITTER: &str = "emitter";

/// The type of a packet with an event.
pub(super) const EVENT: u64 = 2;

/// The extension type of a moment, by the MessagePack specification.
const TIMESTAMP: i8 = -1;

/// The extension type with which notepack.io writes `undefined`, and its only byte.
const UNDEFINED: (i8, &[u8]) = (0, &[0]);

/// A request of an emitter or of another server.
#[derive(Deserialize)]
struct Request {
    uid: Option<String>,
    #[serde(rename = "type")]
    _type: u64,
}

/// Reads a message on one of the emitter's channels. Its arguments may have `most` bytes as JSON.
///
/// # Errors
/// Why it is not an event to be published.
pub(super) fn read(channel: &[u8], payload: &[u8], most: usize) -> Result<Message, Refusal> {
    if channel.starts_with(REQUESTS) {
        return Err(match serde_json::from_slice::<Request>(payload) {
            Ok(Request { uid: Some(uid), .. }) if uid != EMITTER => foreign(),
            Ok(_) => request(),
            Err(_) => Refusal::malformed("the request is not JSON with a type"),
        });
    }
    let mut rest = payload;
    let value = decode::read_value_ref_with_max_depth(&mut rest, MAX_EMITTER_DEPTH)
        .map_err(|_error| Refusal::malformed("it is not MessagePack, or nested too deeply"))?;
    if !rest.is_empty() {
        return Err(Refusal::malformed("there is something behind its end"));
    }
    let [uid, packet, options] = elements(&value)? else {
        return Err(Refusal::malformed("it does not have three elements"));
    };
    if text(uid)? != EMITTER {
        return Err(foreign());
    }
    if member(packet, "type")?.and_then(ValueRef::as_u64) != Some(EVENT) {
        return Err(Refusal::malformed("it is not an event"));
    }
    let namespace = text(member(packet, "nsp")?.unwrap_or(&ValueRef::Nil))?.to_owned();
    let data = elements(member(packet, "data")?.unwrap_or(&ValueRef::Nil))?;
    let (event, arguments) = data.split_first().ok_or_else(|| Refusal::malformed("the event has no name"))?;
    Ok(Message {
        namespace,
        rooms: texts(options, "rooms")?,
        excludes: !texts(options, "except")?.is_empty(),
        event: text(event)?.to_owned(),
        arguments: to_json(arguments, most)?,
    })
}

/// A message between the nodes of another server.
pub(super) fn foreign() -> Refusal {
    Refusal::new(EmitterRefusal::Foreign, "another Socket.IO server uses the same Redis and the same names")
}

/// A request and no event.
pub(super) fn request() -> Refusal {
    Refusal::new(EmitterRefusal::Request, "emitters can't join, leave or disconnect sockets, or send to servers")
}

fn elements<'v, 'p>(value: &'v ValueRef<'p>) -> Result<&'v [ValueRef<'p>], Refusal> {
    match value {
        ValueRef::Array(elements) => Ok(elements),
        _ => Err(Refusal::malformed("it has something else where an array is expected")),
    }
}

fn text<'v>(value: &'v ValueRef<'_>) -> Result<&'v str, Refusal> {
    match value {
        ValueRef::String(text) => text.as_str(),
        _ => None,
    }
    .ok_or_else(|| Refusal::malformed("it has something else where a text is expected"))
}

/// The member of an object, if it has it once.
fn member<'v, 'p>(object: &'v ValueRef<'p>, name: &str) -> Result<Option<&'v ValueRef<'p>>, Refusal> {
    let ValueRef::Map(members) = object else {
        return Err(Refusal::malformed("it has something else where an object is expected"));
    };
    let mut found =
        members.iter().filter(|(key, _)| matches!(key, ValueRef::String(key) if key.as_str() == Some(name)));
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Refusal::malformed("it has a member twice")),
        (found, None) => Ok(found.map(|(_, value)| value)),
    }
}

/// The texts in a member.
fn texts(object: &ValueRef<'_>, name: &str) -> Result<Vec<String>, Refusal> {
    let texts = match member(object, name)? {
        Some(list) => elements(list)?,
        None => &[],
    };
    if texts.len() > MAX_EMITTER_ROOMS {
        return Err(Refusal::malformed("it names too many rooms"));
    }
    texts.iter().map(|value| text(value).map(str::to_owned)).collect()
}

/// The arguments as JSON.
fn to_json(arguments: &[ValueRef<'_>], most: usize) -> Result<Vec<Box<RawValue>>, Refusal> {
    if arguments.iter().any(has_binary) {
        return Err(Refusal::new(EmitterRefusal::Binary, "events with binary data can't be kept"));
    }
    let mut bytes = 0;
    let mut each = |argument| {
        let json =
            to_raw_value(&Json(argument)).map_err(|_error| Refusal::malformed("an argument has no JSON form"))?;
        bytes += json.get().len();
        if bytes > most {
            return Err(Refusal::new(EmitterRefusal::Oversized, "its arguments are larger than MAX_PAYLOAD_BYTES"));
        }
        // MessagePack may be nested as deeply as JSON around the arguments.
        check_text(format!("[{}]", json.get()).as_bytes())
            .map_err(|_error| Refusal::malformed("it is nested too deeply"))?;
        Ok(json)
    };
    arguments.iter().map(&mut each).collect()
}

fn has_binary(value: &ValueRef<'_>) -> bool {
    match value {
        ValueRef::Binary(_) => true,
        ValueRef::Array(elements) => elements.iter().any(has_binary),
        ValueRef::Map(members) => members.iter().any(|(key, value)| has_binary(key) || has_binary(value)),
        _ => false,
    }
}

/// A value as the stock server would send it in JSON.
struct Json<'v, 'p>(&'v ValueRef<'p>);

impl Serialize for Json<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            ValueRef::Nil => serializer.serialize_unit(),
            ValueRef::Boolean(value) => serializer.serialize_bool(*value),
            ValueRef::Integer(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => serializer.serialize_u64(number),
                (None, Some(number)) => serializer.serialize_i64(number),
                (None, None) => Err(S::Error::custom("no integer")),
            },
            ValueRef::F32(number) => shortest_number(&f64::from(*number), serializer),
            ValueRef::F64(number) => shortest_number(number, serializer),
            ValueRef::String(text) => match text.as_str() {
                Some(text) => serializer.serialize_str(text),
                None => Err(S::Error::custom("no UTF-8")),
            },
            ValueRef::Binary(_) => Err(S::Error::custom("binary data")),
            ValueRef::Array(elements) => {
                let mut list = serializer.serialize_seq(Some(elements.len()))?;
                elements.iter().try_for_each(|element| list.serialize_element(&Json(element)))?;
                list.end()
            }
            ValueRef::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    let ValueRef::String(key) = key else { return Err(S::Error::custom("a key is no text")) };
                    let key = key.as_str().ok_or_else(|| S::Error::custom("no UTF-8"))?;
                    map.serialize_entry(key, &Json(value))?;
                }
                map.end()
            }
            ValueRef::Ext(kind, bytes) if (*kind, *bytes) == UNDEFINED => serializer.serialize_unit(),
            ValueRef::Ext(TIMESTAMP, bytes) => match moment(bytes) {
                Some(moment) => moment.serialize(serializer),
                None => Err(S::Error::custom("no moment")),
            },
            ValueRef::Ext(..) => Err(S::Error::custom("an unknown type")),
        }
    }
}

/// A moment after 1970, by the MessagePack specification: seconds, or nanoseconds in the upper 30 of 64 bits.
fn moment(bytes: &[u8]) -> Option<Moment> {
    let since = match bytes.len() {
        4 => Duration::from_secs(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        8 => {
            let both = u64::from_be_bytes(bytes.try_into().ok()?);
            let (seconds, nanos) = (both & ((1 << 34) - 1), u32::try_from(both >> 34).ok()?);
            Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))?
        }
        _ => return None,
    };
    Some(Moment::from_epoch_ms(u64::try_from(since.as_millis()).ok()?))
}
