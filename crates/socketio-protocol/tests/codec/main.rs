//! The codecs from outside: bytes pinned as they are on the wire, properties, and input of hostile peers.

mod allocations;
mod engine_io;
mod packet;
mod websocket;

/// Enough to find what is wrong within a few runs, few enough for a suite that takes seconds.
fn cases(count: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config { cases: count, failure_persistence: None, ..Default::default() }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}
