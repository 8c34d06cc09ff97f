//! WebSocket frames, a client's and a server's.

use socketio_protocol::websocket::{OpCode, encode_masked};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What comes over a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    /// The stream ended, with this many bytes of a frame.
    End(usize),
    /// The stream was reset.
    Reset,
}

/// A client's frame.
pub(crate) fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, opcode, payload, MASK);
    frame
}

/// A client's text frames, one after the other.
pub(crate) fn text_frames<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    texts.into_iter().flat_map(|text| masked(OpCode::Text, text.as_bytes())).collect()
}

/// Reads the frame that `bytes` begin with, and how long it is. A server's frames are final, and have neither mask nor
/// extensions.
pub(super) fn server_frame(bytes: &[u8]) -> Option<(Received, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, rest) = match second {
        126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
        short => (u64::from(short), rest),
    };
    let header = bytes.len() - rest.len();
    assert_eq!(
        header,
        if length < 126 {
            2
        } else if length < 0x1_0000 {
            4
        } else {
            10
        },
        "the shortest form"
    );
    let payload = rest.get(..usize::try_from(length).expect("a length"))?;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => panic!("text of {} bytes that is not UTF-8: {error}", bytes.len()),
    };
    let received = match first {
        0x81 => Received::Text(text(payload)),
        0x82 => Received::Binary(payload.to_vec()),
        0x88 => {
            let (code, reason) = payload.split_first_chunk().expect("a close code");
            Received::Close(u16::from_be_bytes(*code), text(reason))
        }
        0x8a => Received::Pong(payload.to_vec()),
        other => panic!("a frame that begins with {other:#x}"),
    };
    Some((received, header + payload.len()))
}
