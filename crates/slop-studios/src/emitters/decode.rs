//! The decoders of the emitters' formats: strict, and bounded before anything is decoded. Foreign bytes come in here only.

use super::message::{Message, Refusal};
use super::{json, msgpack};
use crate::metrics::EmitterRefusal;

fn check_size(bytes: usize, most: usize) -> Result<(), Refusal> {
    if bytes > most {
        return Err(Refusal::new(EmitterRefusal::Oversized, "it is larger than MAX_PAYLOAD_BYTES"));
    }
    Ok(())
}

/// A message of `@socket.io/redis-emitter`, of at most `most` bytes.
///
/// # Errors
/// Why it is not an event to be published.
pub fn redis(channel: &[u8], payload: &[u8], most: usize) -> Result<Message, Refusal> {
    check_size(payload.len(), most)?;
    msgpack::read(channel, payload, most)
}

/// An entry of `@socket.io/redis-streams-emitter`, of at most `most` bytes.
///
/// # Errors
/// Why it is not an event to be published.
pub fn stream(fields: &[(Vec<u8>, Vec<u8>)], most: usize) -> Result<Message, Refusal> {
    check_size(fields.iter().map(|(name, value)| name.len() + value.len()).sum(), most)?;
    json::read_entry(fields)
}

/// A message of python-socketio's `RedisManager`, of at most `most` bytes.
///
/// # Errors
/// Why it is not an event to be published.
pub fn python(payload: &[u8], most: usize) -> Result<Message, Refusal> {
    check_size(payload.len(), most)?;
    json::read_python(payload)
}
