use proptest::prelude::*;
use socketio_protocol::websocket::{
    CloseCode, Decoder, MAX_FRAGMENTS, Message, OpCode, ProtocolError, encode_close, encode_header, encode_masked,
};

use crate::cases;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A message that outlives the input it was decoded from.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Fragment,
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<CloseCode>),
}

impl From<Message<'_>> for Owned {
    fn from(message: Message<'_>) -> Self {
        match message {
            Message::Fragment => Owned::Fragment,
            Message::Text(text) => Owned::Text(text.to_owned()),
            Message::Binary(data) => Owned::Binary(data.to_owned()),
            Message::Ping(data) => Owned::Ping(data.to_owned()),
            Message::Pong => Owned::Pong,
            Message::Close(code) => Owned::Close(code),
        }
    }
}

/// What a stream decodes to when it arrives cut after each of `cuts` more bytes, then the rest at once.
fn decode_cut(max_message: usize, stream: &[u8], cuts: &[usize]) -> (Vec<Owned>, Option<ProtocolError>) {
    let mut decoder = Decoder::new(max_message);
    let mut messages = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut rest = stream;
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let (arrived, later) = rest.split_at(cut.min(rest.len()));
        buffer.extend_from_slice(arrived);
        rest = later;
        loop {
            let before = buffer.clone();
            match decoder.next(&mut buffer) {
                Ok(Some((consumed, message))) => {
                    assert!(consumed >= 6, "a masked frame has six bytes at least");
                    messages.push(message.into());
                    buffer.drain(..consumed);
                }
                Ok(None) => {
                    assert_eq!(buffer, before, "an incomplete frame stays as it is");
                    break;
                }
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn decode(stream: &[u8]) -> (Vec<Owned>, Option<ProtocolError>) {
    decode_cut(1 << 20, stream, &[])
}

/// A client's frame that may be a fragment.
fn frame(is_final: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(&mut frame, opcode, payload, MASK);
    if !is_final {
        frame[0] &= 0x7f;
    }
    frame
}

#[test]
fn the_frames_of_the_rfc_are_read() {
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(hello), (vec![Owned::Text("Hello".to_owned())], None));
    let ping = b"\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(ping), (vec![Owned::Ping(b"Hello".to_vec())], None));
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(decode(pong), (vec![Owned::Pong], None));
    // 1000, unmasked 03 e8.
    let close = b"\x88\x82\x37\xfa\x21\x3d\x34\x12";
    assert_eq!(decode(close), (vec![Owned::Close(Some(CloseCode::NORMAL))], None));
    let empty = b"\x82\x80\x37\xfa\x21\x3d";
    assert_eq!(decode(empty), (vec![Owned::Binary(vec![])], None));
}

#[test]
fn a_client_frame_is_written_as_in_the_rfc() {
    let mut out = b"before".to_vec();
    encode_masked(&mut out, OpCode::Text, b"Hello", MASK);
    assert_eq!(out, b"before\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
}

#[test]
fn headers_are_written_as_in_the_rfc() {
    let header = |opcode, len| {
        let (bytes, header_len) = encode_header(opcode, len);
        bytes[..header_len].to_vec()
    };
    assert_eq!(header(OpCode::Text, 0), b"\x81\x00");
    assert_eq!(header(OpCode::Text, 5), b"\x81\x05");
    assert_eq!(header(OpCode::Ping, 5), b"\x89\x05");
    assert_eq!(header(OpCode::Pong, 5), b"\x8a\x05");
    assert_eq!(header(OpCode::Binary, 125), b"\x82\x7d");
    assert_eq!(header(OpCode::Binary, 126), b"\x82\x7e\x00\x7e");
    assert_eq!(header(OpCode::Binary, 256), b"\x82\x7e\x01\x00");
    assert_eq!(header(OpCode::Binary, 65_535), b"\x82\x7e\xff\xff");
    assert_eq!(header(OpCode::Binary, 65_536), b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    assert_eq!(header(OpCode::Text, usize::MAX), b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff");
}

#[test]
fn close_frames_are_written_whole() {
    assert_eq!(encode_close(CloseCode::NORMAL, ""), b"\x88\x02\x03\xe8");
    assert_eq!(encode_close(CloseCode::GOING_AWAY, "bye"), b"\x88\x05\x03\xe9bye");
    let fits = "x".repeat(123);
    assert_eq!(encode_close(CloseCode::INTERNAL, &fits).len(), 2 + 125);
    // 62 times two bytes are one too many for 123.
    let long = encode_close(CloseCode::POLICY, &"é".repeat(62));
    assert_eq!(long.len(), 2 + 2 + 122);
    assert_eq!(long[1], 124);
    assert_eq!(std::str::from_utf8(&long[4..]).unwrap(), "é".repeat(61));
}

#[test]
fn messages_come_in_fragments_with_control_frames_between() {
    // The euro sign is cut in two: text is checked as a whole.
    let stream = [
        frame(false, OpCode::Text, b"10 \xe2\x82"),
        frame(true, OpCode::Ping, b"?"),
        frame(false, OpCode::Continuation, b""),
        frame(true, OpCode::Pong, b""),
        frame(true, OpCode::Continuation, b"\xac"),
        frame(true, OpCode::Text, b"next"),
        frame(false, OpCode::Binary, b"\xff"),
        frame(true, OpCode::Continuation, b"\x00"),
        frame(true, OpCode::Close, b""),
    ]
    .concat();
    let expected = vec![
        Owned::Fragment,
        Owned::Ping(b"?".to_vec()),
        Owned::Fragment,
        Owned::Pong,
        Owned::Text("10 €".to_owned()),
        Owned::Text("next".to_owned()),
        Owned::Fragment,
        Owned::Binary(vec![0xff, 0]),
        Owned::Close(None),
    ];
    assert_eq!(decode(&stream), (expected.clone(), None));
    let byte_by_byte = vec![1; stream.len()];
    assert_eq!(decode_cut(64, &stream, &byte_by_byte), (expected, None));
}

/// The first bytes that give the client away, and what is said to it.
#[test]
fn a_frame_is_refused_as_soon_as_it_shows() {
    use ProtocolError::*;
    for (bytes, error, code) in [
        (&b"\xc1"[..], ReservedBits, CloseCode::PROTOCOL),
        (b"\xa1", ReservedBits, CloseCode::PROTOCOL),
        (b"\x91", ReservedBits, CloseCode::PROTOCOL),
        (b"\xf9", ReservedBits, CloseCode::PROTOCOL),
        (b"\x83", OpCode, CloseCode::PROTOCOL),
        (b"\x87", OpCode, CloseCode::PROTOCOL),
        (b"\x8b", OpCode, CloseCode::PROTOCOL),
        (b"\x8f", OpCode, CloseCode::PROTOCOL),
        (b"\x80", UnexpectedContinuation, CloseCode::PROTOCOL),
        (b"\x00", UnexpectedContinuation, CloseCode::PROTOCOL),
        (b"\x08", FragmentedControl, CloseCode::PROTOCOL),
        (b"\x09", FragmentedControl, CloseCode::PROTOCOL),
        (b"\x0a", FragmentedControl, CloseCode::PROTOCOL),
        (b"\x81\x05", Unmasked, CloseCode::PROTOCOL),
        (b"\x88\x00", Unmasked, CloseCode::PROTOCOL),
        (b"\x89\xfe", LongControl, CloseCode::PROTOCOL),
        (b"\x88\xff", LongControl, CloseCode::PROTOCOL),
        (b"\x81\xfe\x00\x7d", LengthEncoding, CloseCode::PROTOCOL),
        (b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff", LengthEncoding, CloseCode::PROTOCOL),
        (b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01", TooBig, CloseCode::TOO_BIG),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", TooBig, CloseCode::TOO_BIG),
        (b"\x01\xff\x80\x00\x00\x00\x00\x00\x00\x00", TooBig, CloseCode::TOO_BIG),
    ] {
        assert_eq!(decode(bytes), (vec![], Some(error)), "{bytes:02x?}");
        assert_eq!(error.close_code(), code);
        let earlier = &bytes[..bytes.len() - 1];
        assert_eq!(decode(earlier), (vec![], None), "{earlier:02x?}");
    }
}

#[test]
fn a_new_message_may_not_begin_within_another() {
    for opcode in [OpCode::Text, OpCode::Binary] {
        let mut stream = frame(false, OpCode::Text, b"a");
        stream.push(0x80 | opcode as u8);
        assert_eq!(decode(&stream), (vec![Owned::Fragment], Some(ProtocolError::ExpectedContinuation)));
    }
    // Once a message is complete there is nothing to continue.
    let mut stream = frame(false, OpCode::Text, b"a");
    stream.extend(frame(true, OpCode::Continuation, b"b"));
    stream.push(0x80);
    let (messages, error) = decode(&stream);
    assert_eq!(messages.len(), 2);
    assert_eq!(error, Some(ProtocolError::UnexpectedContinuation));
}

#[test]
fn text_is_utf_8() {
    for text in [&b"\xff"[..], b"\xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok \x80 ok"] {
        let whole = frame(true, OpCode::Text, text);
        assert_eq!(decode(&whole), (vec![], Some(ProtocolError::Utf8)));
        let fragments = [frame(false, OpCode::Text, b"ok"), frame(true, OpCode::Continuation, text)].concat();
        assert_eq!(decode(&fragments), (vec![Owned::Fragment], Some(ProtocolError::Utf8)));
        let binary = frame(true, OpCode::Binary, text);
        assert_eq!(decode(&binary), (vec![Owned::Binary(text.to_vec())], None));
    }
    assert_eq!(ProtocolError::Utf8.close_code(), CloseCode::INVALID_DATA);
}

#[test]
fn the_limit_holds_for_whole_messages_and_for_fragments() {
    let exact = frame(true, OpCode::Binary, &[7; 10]);
    assert_eq!(decode_cut(10, &exact, &[]), (vec![Owned::Binary(vec![7; 10])], None));
    let too_big = Some(ProtocolError::TooBig);
    // The header alone gives it away.
    let header = &frame(true, OpCode::Binary, &[7; 11])[..2];
    assert_eq!(decode_cut(10, header, &[]), (vec![], too_big));

    let mut stream = frame(false, OpCode::Binary, &[7; 6]);
    stream.extend(frame(true, OpCode::Ping, &[7; 100]));
    stream.extend(frame(false, OpCode::Continuation, &[7; 4]));
    let before = vec![Owned::Fragment, Owned::Ping(vec![7; 100]), Owned::Fragment];
    let mut full = stream.clone();
    full.extend(frame(true, OpCode::Continuation, b""));
    let mut expected = before.clone();
    expected.push(Owned::Binary(vec![7; 10]));
    assert_eq!(decode_cut(10, &full, &[]), (expected, None));
    stream.extend(&frame(true, OpCode::Continuation, b"x")[..2]);
    assert_eq!(decode_cut(10, &stream, &[]), (before, too_big));

    // Nothing overflows without a limit.
    let longest = b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(decode_cut(usize::MAX, longest, &[]), (vec![], too_big));
    let nearly = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0payload";
    assert_eq!(decode_cut(usize::MAX, nearly, &[]), (vec![], None));
    assert_eq!(decode_cut(0, &frame(true, OpCode::Text, b""), &[]), (vec![Owned::Text(String::new())], None));
}

#[test]
fn endless_fragments_end() {
    let mut stream = frame(false, OpCode::Text, b"");
    for _ in 1..MAX_FRAGMENTS {
        stream.extend(frame(false, OpCode::Continuation, b""));
    }
    let (messages, error) = decode(&stream);
    assert_eq!((messages.len(), error), (MAX_FRAGMENTS as usize, None));
    stream.extend(frame(true, OpCode::Continuation, b""));
    let (messages, error) = decode(&stream);
    assert_eq!(messages.len(), MAX_FRAGMENTS as usize);
    assert_eq!(error, Some(ProtocolError::TooManyFragments));
    assert_eq!(ProtocolError::TooManyFragments.close_code(), CloseCode::POLICY);
}

#[test]
fn close_frames_are_checked() {
    let close = |payload: &[u8]| decode(&frame(true, OpCode::Close, payload));
    for code in [1000u16, 1001, 1003, 1007, 1011, 1014, 3000, 4999] {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend("bye €".as_bytes());
        assert_eq!(close(&payload), (vec![Owned::Close(Some(CloseCode(code)))], None));
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        assert_eq!(close(&code.to_be_bytes()), (vec![], Some(ProtocolError::ClosePayload)), "{code}");
    }
    assert_eq!(close(b"\x03"), (vec![], Some(ProtocolError::ClosePayload)));
    assert_eq!(close(b"\x03\xe8\xff"), (vec![], Some(ProtocolError::Utf8)));
}

#[test]
fn an_idle_decoder_holds_nothing() {
    assert!(size_of::<Decoder>() <= 16);
    let mut decoder = Decoder::new(1000);
    let mut stream = frame(false, OpCode::Binary, &[1; 500]);
    stream.extend(frame(true, OpCode::Continuation, &[2; 500]));
    let (first, _) = decoder.next(&mut stream).unwrap().unwrap();
    let debug = format!("{decoder:?}");
    assert!(debug.contains("len: 500"), "{debug}");
    let (second, message) = decoder.next(&mut stream[first..]).unwrap().unwrap();
    assert!(matches!(message, Message::Binary(data) if data.len() == 1000));
    assert_eq!(first + second, stream.len());
    assert_eq!(decoder.next(&mut []), Ok(None));
    let debug = format!("{decoder:?}");
    assert!(debug.contains("partial: None"), "{debug}");
}

#[test]
fn codes_are_shown_as_numbers() {
    assert_eq!(CloseCode::GOING_AWAY.to_string(), "1001");
}

/// Well-formed frames of one message, and what they decode to.
fn message() -> impl Strategy<Value = Vec<(Vec<u8>, Owned)>> {
    let control = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..=125)
            .prop_map(|data| (frame(true, OpCode::Ping, &data), Owned::Ping(data))),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(|data| (frame(true, OpCode::Pong, &data), Owned::Pong)),
    ];
    let payload = prop_oneof![
        4 => ".{0,40}".prop_map(Ok),
        1 => "[a-é]{60,80}".prop_map(Ok),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Err),
        1 => prop::collection::vec(any::<u8>(), 65_530..65_545).prop_map(Err),
    ];
    let pieces = prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(control.clone())), 0..4);
    let data = (payload, pieces).prop_map(|(payload, pieces)| {
        let (opcode, bytes, whole) = match payload {
            Ok(text) => (OpCode::Text, text.clone().into_bytes(), Owned::Text(text)),
            Err(data) => (OpCode::Binary, data.clone(), Owned::Binary(data)),
        };
        let mut cuts: Vec<_> =
            pieces.into_iter().map(|(index, control)| (index.index(bytes.len() + 1), control)).collect();
        cuts.sort_by_key(|(at, _)| *at);
        let mut frames = Vec::new();
        let mut start = 0;
        let mut opcode = opcode;
        for (at, control) in cuts {
            frames.push((frame(false, opcode, &bytes[start..at]), Owned::Fragment));
            frames.extend(control);
            start = at;
            opcode = OpCode::Continuation;
        }
        frames.push((frame(true, opcode, &bytes[start..]), whole));
        frames
    });
    prop_oneof![1 => control.prop_map(|frame| vec![frame]), 4 => data]
}

/// Bytes that often look like frames: small payloads behind headers that are right in part.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (any::<u8>(), any::<u8>()).prop_map(|(first, second)| vec![first, second]),
        (
            prop::sample::select(vec![0x01u8, 0x81, 0x02, 0x82, 0x00, 0x80, 0x88, 0x89, 0x8a]),
            prop::collection::vec(any::<u8>(), 0..6)
        )
            .prop_map(|(first, payload)| {
                let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
                frame.extend(payload);
                frame
            }),
        Just(vec![0x81, 0xfe, 0x00, 0x7e, 0, 0, 0, 0]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn messages_are_the_same_however_the_stream_is_cut(
        frames in prop::collection::vec(message(), 1..4),
        cuts in prop::collection::vec(prop_oneof![1usize..16, 1usize..40_000], 0..12),
    ) {
        let (bytes, expected): (Vec<_>, Vec<_>) = frames.into_iter().flatten().unzip();
        let stream = bytes.concat();
        prop_assert_eq!(decode(&stream), (expected.clone(), None));
        prop_assert_eq!(decode_cut(1 << 20, &stream, &cuts), (expected, None));
    }

    #[test]
    fn a_server_frame_is_its_header_and_payload(len in prop_oneof![0usize..300, 65_000usize..66_000]) {
        let payload = vec![0x5a; len];
        let (header, header_len) = encode_header(OpCode::Binary, len);
        // A mask of zeros changes nothing but the header.
        let mut masked = Vec::new();
        encode_masked(&mut masked, OpCode::Binary, &payload, [0; 4]);
        masked[1] &= 0x7f;
        masked.drain(header_len..header_len + 4);
        prop_assert_eq!(&masked[..header_len], &header[..header_len]);
        prop_assert_eq!(&masked[header_len..], &payload[..]);
    }

    #[test]
    fn the_mask_is_applied_byte_by_byte(payload in prop::collection::vec(any::<u8>(), 0..70), mask in any::<[u8; 4]>()) {
        let mut frame = Vec::new();
        encode_masked(&mut frame, OpCode::Binary, &payload, mask);
        let expected: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        prop_assert_eq!(&frame[6..], &expected[..]);
        prop_assert_eq!(decode(&frame), (vec![Owned::Binary(payload)], None));
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn no_bytes_panic_and_cuts_change_nothing(
        bytes in prop_oneof![noise(), prop::collection::vec(any::<u8>(), 0..200)],
        cuts in prop::collection::vec(1usize..8, 0..40),
        max_message in prop_oneof![0usize..20, Just(1000), Just(usize::MAX)],
    ) {
        let whole = decode_cut(max_message, &bytes, &[]);
        prop_assert_eq!(decode_cut(max_message, &bytes, &cuts), whole);
    }
}
