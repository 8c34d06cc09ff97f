//! The name that an event asks for, and the rules' patterns: what a pattern found, put back in its places, is the name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slop_studios::policy::{Pattern, Template};
use slop_studios::rooms::{check_name, check_published_room, parse_name, target};
use socketio_protocol::packet::{Kind, Packet};

fuzz_target!(|input: &str| {
    // A line for the pattern, and the packet.
    let Some((pattern, event)) = input.split_once('\n') else { return };
    let Ok(Packet { kind: Kind::Event { args, .. }, .. }) = Packet::decode(event) else { return };
    let Ok(name) = parse_name(args.get(1)) else { return };
    assert_eq!(check_name(&name), Ok(()));
    let _ = check_published_room(&name);
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
