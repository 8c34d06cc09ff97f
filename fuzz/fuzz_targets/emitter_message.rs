//! The messages of emitters: whatever they are, they are taken or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slop_studios::emitters::{Allowlist, Message, Refusal, decode};

const MOST: usize = 100_000;

fuzz_target!(|payload: &[u8]| {
    let allowed = Allowlist::parse(["/:*", "/media:*", "/notifications:*"].into_iter()).expect("a list");
    let publish = |message: Result<Message, Refusal>| {
        let _ = message.and_then(|message| message.into_publish(&allowed));
    };
    publish(decode::redis(b"socket.io#/#", payload, MOST));
    publish(decode::redis(b"socket.io-request#/#", payload, MOST));
    publish(decode::python(payload, MOST));
    let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    for namespace in ["/", "/media", "/notifications"] {
        let fields = [("uid", &b"emitter"[..]), ("nsp", namespace.as_bytes()), ("type", b"3"), ("data", payload)];
        publish(decode::stream(&fields.map(|(name, value)| field(name, value)), MOST));
    }
});
