//! The wire formats of a Socket.IO server, as functions of bytes: no sockets, no clocks, no tasks.
//!
//! What a client sends goes through three layers, each of which borrows from the one before:
//!
//! ```text
//! bytes of a TCP stream ──websocket::Decoder──► text message ──engine_io::Packet──► Message(text) ──packet::Packet──► event
//!                                           └─► binary message: an attachment of the event before it
//! body of a POST ────────engine_io::decode_payload──► the same packets, binary ones in base64
//! ```
//!
//! What the server sends is written the other way round, once for any number of receivers:
//! [`packet::encode_event`] and its siblings append a whole Engine.IO message to a `Vec<u8>`, then
//! [`websocket::encode_header`] makes a frame of it, or [`engine_io::PayloadWriter`] a polling response.
//!
//! Everything a decoder is given is hostile until decoded: no input panics, what is allocated is bounded by the
//! length of what has arrived, never by a length that was announced, and each operation has its own error type.
//!
//! | file | what it is |
//! |---|---|
//! | `engine_io` | Engine.IO packets, and the payloads that carry several of them |
//! | `packet` | Socket.IO packets: read, written, their arguments and attachments |
//! | `websocket` | WebSocket frames: read, written, and the handshake's key |
//! | `msgpack` | what tells a client with another parser that it is not understood |
//! | `surrogates` | what in JSON's escapes is no Unicode |
//! | `json` | the little of JSON that the codecs write and check themselves |
//!
//! The formats are those of the [Engine.IO protocol, revision 4], the [Socket.IO protocol, revision 5] and [RFC 6455].
//!
//! [Engine.IO protocol, revision 4]: https://github.com/socketio/socket.io/blob/main/docs/engine.io-protocol/v4-current.md
//! [Socket.IO protocol, revision 5]: https://github.com/socketio/socket.io/blob/main/docs/socket.io-protocol/v5-current.md
//! [RFC 6455]: https://www.rfc-editor.org/rfc/rfc6455

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod engine_io;
mod json;
pub mod msgpack;
pub mod packet;
pub mod surrogates;
pub mod websocket;
