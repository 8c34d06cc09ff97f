//! The bodies of the publish API: whatever they are, they are taken or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slop_studios::contract::kind::Kind;
use slop_studios::publish::body::Publish;
use slop_studios::publish::fields::{check_text, parse_array};

const KINDS: [Kind; 5] = [Kind::Progress, Kind::Complete, Kind::Error, Kind::Notification, Kind::RoomEvent];

fuzz_target!(|input: (&str, &[u8])| {
    let (target, body) = input;
    let Ok(text) = check_text(body) else { return };
    for kind in KINDS {
        let _ = Publish::read(kind, target, &text);
    }
    for item in parse_array(&text).unwrap_or_default() {
        let _ = Publish::read_item(item.get());
    }
});
