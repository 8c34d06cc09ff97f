use proptest::prelude::*;
use socketio_protocol::engine_io::{DecodeError, Handshake, Open, Packet, PayloadWriter, TextPacket, decode_payload};

use crate::{cases, written};

fn decode_all(body: &str) -> Vec<Result<TextPacket<'_>, DecodeError>> {
    decode_payload(body).collect()
}

fn text(packet: Packet<'_>) -> Result<TextPacket<'_>, DecodeError> {
    Ok(TextPacket::Packet(packet))
}

#[test]
fn every_packet_type_has_its_digit() {
    for (wire, packet) in [
        (r#"0{"sid":"x"}"#, Packet::Open(r#"{"sid":"x"}"#)),
        ("1", Packet::Close),
        ("2", Packet::Ping("")),
        ("2probe", Packet::Ping("probe")),
        ("3", Packet::Pong("")),
        ("3probe", Packet::Pong("probe")),
        ("4hello", Packet::Message("hello")),
        ("4", Packet::Message("")),
        ("5", Packet::Upgrade),
        ("6", Packet::Noop),
    ] {
        assert_eq!(Packet::decode(wire), Ok(packet));
        assert_eq!(written(|out| packet.encode(out)), wire);
    }
}

#[test]
fn what_is_no_packet_is_refused() {
    for (wire, error) in [
        ("", DecodeError::Empty),
        ("7", DecodeError::UnknownType),
        ("abc", DecodeError::UnknownType),
        ("é", DecodeError::UnknownType),
        ("😀", DecodeError::UnknownType),
        ("\0", DecodeError::UnknownType),
        ("bAQI=", DecodeError::UnknownType),
        ("1x", DecodeError::UnexpectedData),
        ("5x", DecodeError::UnexpectedData),
        ("6 ", DecodeError::UnexpectedData),
    ] {
        assert_eq!(Packet::decode(wire), Err(error), "{wire:?}");
    }
}

#[test]
fn the_payloads_of_the_protocol_docs_are_split() {
    assert_eq!(
        decode_all("4hello\x1e2\x1e4world"),
        [text(Packet::Message("hello")), text(Packet::Ping("")), text(Packet::Message("world")),]
    );
    assert_eq!(
        decode_all("4hello\x1ebAQIDBA=="),
        [text(Packet::Message("hello")), Ok(TextPacket::Binary(vec![1, 2, 3, 4])),]
    );
    assert_eq!(
        decode_all("42[\"hello\"]\x1e42[\"world\"]"),
        [text(Packet::Message("2[\"hello\"]")), text(Packet::Message("2[\"world\"]")),]
    );
}

#[test]
fn the_payloads_of_the_protocol_docs_are_written() {
    let mut payload = PayloadWriter::new();
    assert!(payload.is_empty());
    payload.push_text(b"4hello");
    payload.push_binary(&[1, 2, 3, 4]);
    payload.push_text(b"2");
    assert_eq!(payload.len(), 18);
    assert_eq!(payload.finish(), b"4hello\x1ebAQIDBA==\x1e2");

    let mut payload = PayloadWriter::new();
    payload.push_binary(&[]);
    payload.push_binary(&[0xff]);
    assert_eq!(payload.finish(), b"b\x1eb/w==");
}

#[test]
fn base64_is_taken_without_padding_too() {
    for (body, data) in
        [("b", &[][..]), ("bAQIDBA", &[1, 2, 3, 4]), ("bAQI", &[1, 2]), ("bAQI=", &[1, 2]), ("bAQJ=", &[1, 2])]
    {
        assert_eq!(decode_all(body), [Ok(TextPacket::Binary(data.into()))]);
    }
    for body in ["b!", "bA", "bAQI==", "bAQ\nI", "bé", "bAQI=AQI="] {
        assert_eq!(decode_all(body), [Err(DecodeError::Base64)], "{body:?}");
    }
}

#[test]
fn nothing_comes_after_an_error() {
    assert_eq!(decode_all(""), [Err(DecodeError::Empty)]);
    assert_eq!(decode_all("\x1e"), [Err(DecodeError::Empty)]);
    assert_eq!(decode_all("abc\x1e2"), [Err(DecodeError::UnknownType)]);
    assert_eq!(decode_all("2\x1e\x1e2"), [text(Packet::Ping("")), Err(DecodeError::Empty)]);
    assert_eq!(decode_all("2\x1e"), [text(Packet::Ping("")), Err(DecodeError::Empty)]);
    let mut packets = decode_payload("x");
    assert!(packets.next().is_some());
    assert!(packets.next().is_none());
    assert!(packets.next().is_none());
}

#[test]
fn the_handshake_of_the_protocol_docs_is_written() {
    let open = Open {
        sid: "lv_VI97HAXpY6yYWAAAC",
        upgrades: &["websocket"],
        ping_interval_ms: 25000,
        ping_timeout_ms: 20000,
        max_payload: 1_000_000,
    };
    assert_eq!(
        written(|out| open.encode(out)),
        r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
    );
    let without = Open { upgrades: &[], ..open };
    assert!(written(|out| without.encode(out)).contains(r#""upgrades":[],"#));
}

#[test]
fn a_handshake_needs_its_fields() {
    for data in ["", "{}", "[]", r#"{"sid":"x","upgrades":[],"pingInterval":-1,"pingTimeout":1,"maxPayload":1}"#] {
        assert_eq!(Handshake::decode(data), Err(DecodeError::Handshake));
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn packets_survive_the_wire(kind in 0..7, data in any::<String>()) {
        let packet = match kind {
            0 => Packet::Open(&data),
            1 => Packet::Close,
            2 => Packet::Ping(&data),
            3 => Packet::Pong(&data),
            4 => Packet::Message(&data),
            5 => Packet::Upgrade,
            _ => Packet::Noop,
        };
        let wire = written(|out| packet.encode(out));
        prop_assert_eq!(Packet::decode(&wire), Ok(packet));
    }

    #[test]
    fn payloads_survive_the_wire(
        messages in prop::collection::vec(
            prop_oneof![
                "4[^\\x1e]{0,20}".prop_map(Ok),
                prop::collection::vec(any::<u8>(), 0..20).prop_map(Err),
            ],
            1..8,
        )
    ) {
        let mut payload = PayloadWriter::new();
        for message in &messages {
            match message {
                Ok(text) => payload.push_text(text.as_bytes()),
                Err(data) => payload.push_binary(data),
            }
        }
        let body = String::from_utf8(payload.finish()).unwrap();
        let expected: Vec<_> = messages
            .iter()
            .map(|message| match message {
                Ok(message) => text(Packet::Message(&message[1..])),
                Err(data) => Ok(TextPacket::Binary(data.clone())),
            })
            .collect();
        prop_assert_eq!(decode_all(&body), expected);
    }

    #[test]
    fn handshakes_survive_the_wire(
        sid in any::<String>(),
        upgrades in prop::collection::vec(any::<String>(), 0..3),
        ping_interval_ms in any::<u64>(),
        ping_timeout_ms in any::<u64>(),
        max_payload in any::<usize>(),
    ) {
        let names: Vec<&str> = upgrades.iter().map(String::as_str).collect();
        let open = Open { sid: &sid, upgrades: &names, ping_interval_ms, ping_timeout_ms, max_payload };
        let wire = written(|out| open.encode(out));
        let Ok(Packet::Open(data)) = Packet::decode(&wire) else { panic!("{wire}") };
        prop_assert_eq!(
            Handshake::decode(data),
            Ok(Handshake { sid: sid.clone(), upgrades: upgrades.clone(), ping_interval_ms, ping_timeout_ms, max_payload })
        );
    }

    #[test]
    fn no_text_panics(body in any::<String>(), near in "[0-7b\\x1eA=é]{0,12}") {
        for body in [body, near] {
            let packets = decode_all(&body);
            prop_assert!(!packets.is_empty() && packets.len() <= body.len() + 1);
            let _ = Packet::decode(&body);
            let _ = Handshake::decode(&body);
        }
    }
}
