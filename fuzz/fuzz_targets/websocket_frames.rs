//! A stream of WebSocket frames: it decodes to the same however it is cut, and no message is over the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use socketio_protocol::websocket::{Decoder, Message, ProtocolError};

/// Small, so that the limit is met often.
const MAX_MESSAGE: usize = 300;

fuzz_target!(|input: (u8, &[u8])| {
    let (step, stream) = input;
    let whole = decode(stream, stream.len());
    let cut = decode(stream, usize::from(step));
    assert_eq!(whole, cut);
});

/// Decodes `stream`, of which `step` bytes arrive at a time.
fn decode(stream: &[u8], step: usize) -> (Vec<String>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(MAX_MESSAGE);
    let mut messages = Vec::new();
    let mut buffer = Vec::new();
    for arrived in stream.chunks(step.max(1)) {
        buffer.extend_from_slice(arrived);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some((consumed, message))) => {
                    check(&message);
                    messages.push(format!("{message:?}"));
                    buffer.drain(..consumed);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(error.close_code().is_sendable());
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

fn check(message: &Message<'_>) {
    match message {
        Message::Text(text) => assert!(text.len() <= MAX_MESSAGE),
        Message::Binary(data) => assert!(data.len() <= MAX_MESSAGE),
        Message::Ping(data) => assert!(data.len() <= 125),
        Message::Close(code) => assert!(code.is_none_or(|code| code.is_sendable())),
        Message::Fragment | Message::Pong => {}
    }
}
