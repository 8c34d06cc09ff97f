//! The body of a polling request: whatever is taken is the same after it was written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use socketio_protocol::engine_io::{
    Handshake, Packet, TextPacket, PayloadWriter, decode_payload,
};

fuzz_target!(|body: &str| {
    let Ok(packets) = decode_payload(body).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let mut payload = PayloadWriter::new();
    for packet in &packets {
        match packet {
            TextPacket::Packet(packet) => {
                let mut text = Vec::new();
                packet.encode(&mut text);
                payload.push_text(&text);
                if let Packet::Open(data) = packet {
                    let _ = Handshake::decode(data);
                }
            }
            TextPacket::Binary(data) => payload.push_binary(data),
        }
    }
    let written = String::from_utf8(payload.finish()).expect("text and base64");
    let again = decode_payload(&written).collect::<Result<Vec<_>, _>>();
    assert_eq!(again.as_ref(), Ok(&packets));
});
