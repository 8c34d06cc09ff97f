//! The name that an event asks for, and the rules' patterns: what a pattern found, put back in its places, is the name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slop_studios::policy::{Pattern, Template};
use slop_studios::contract::rooms::{check_name, check_room, parse_name, parse_room, target};
use socketio_protocol::packet::{Kind, Packet};

fuzz_target!(|input: &str| {
    // A line for the pattern, and the packet.
    let Some((pattern, event)) = input.split_once('\n') else { return };
    let Ok(Packet { kind: Kind::Event { args, .. }, .. }) = Packet::decode(event) else { return };
    let Ok(name) = parse_room(args.get(1)) else { return };
    assert_eq!(check_room(&name), Ok(()));
    assert_eq!(parse_name(args.get(1)).is_ok(), check_name(&name).is_ok());
    let _ = target(&name, "the id of a socket", Some("a user"));

    let Ok(pattern) = Pattern::parse(pattern) else { return };
    let Some(captures) = pattern.matches(&name) else { return };
    assert!(name.starts_with(pattern.beginning()));
    let text = pattern.to_string();
    if !text.contains('*') {
        let template = Template::parse(&text, &pattern).expect("it has the same placeholders");
        assert_eq!(template.fill(&captures), name);
    }
});
