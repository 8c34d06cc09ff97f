//! A Socket.IO packet: whatever is taken is JSON to `serde_json` too, and is the same after it was written and read
//! again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use socketio_protocol::packet::{Args, Kind, Limits, MAX_ACK_ID, Packet, RESERVED_EVENTS};

fuzz_target!(|text: &str| {
    let _ = Packet::decode_with(
        text,
        Limits {
            max_attachments: usize::MAX,
            max_depth: usize::MAX,
        },
    );
    let Ok(packet) = Packet::decode(text) else {
        return;
    };
    assert!(packet.namespace.starts_with('/') && !packet.namespace.contains(','));
    match &packet.kind {
        Kind::Event {
            ack,
            args,
            attachments,
        } => {
            let name = args.event_name().expect("a decoded event has a name");
            assert!(!RESERVED_EVENTS.contains(&name.as_ref()));
            assert!(ack.is_none_or(|id| id <= MAX_ACK_ID));
            check_args(args, *attachments);
        }
        Kind::Ack {
            id,
            args,
            attachments,
        } => {
            assert!(*id <= MAX_ACK_ID);
            check_args(args, *attachments);
        }
        Kind::Connect { auth: Some(auth) } => assert!(auth.get().starts_with('{')),
        Kind::Connect { auth: None } | Kind::ConnectError { .. } | Kind::Disconnect => {}
    }

    let mut wire = Vec::new();
    packet.encode(&mut wire);
    let wire = String::from_utf8(wire).expect("text");
    let again =
        Packet::decode(wire.strip_prefix('4').expect("a message")).expect("what was written");
    let mut rewritten = Vec::new();
    again.encode(&mut rewritten);
    assert_eq!(wire.as_bytes(), rewritten);
});

fn check_args(args: &Args<'_>, attachments: usize) {
    // `Value` refuses numbers beyond f64 and lone surrogates, which are JSON all the same.
    let Ok(value) = serde_json::from_str::<Value>(args.as_json()) else {
        return;
    };
    assert_eq!(value.as_array().map(Vec::len), Some(args.len()));
    for (element, value) in args.iter().zip(value.as_array().into_iter().flatten()) {
        assert_eq!(
            serde_json::from_str::<Value>(element.get()).ok().as_ref(),
            Some(value)
        );
    }
    if attachments > 0 {
        let mut seen = vec![false; attachments];
        mark(&value, &mut seen);
        assert!(seen.into_iter().all(|seen| seen));
    }
}

fn mark(value: &Value, seen: &mut [bool]) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| mark(item, seen)),
        Value::Object(map) => {
            map.values().for_each(|item| mark(item, seen));
            if map.get("_placeholder") == Some(&Value::Bool(true)) {
                let index = map
                    .get("num")
                    .and_then(Value::as_u64)
                    .expect("a placeholder has an index");
                seen[index as usize] = true;
            }
        }
        _ => {}
    }
}
