//! What the hot path may allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use socketio_protocol::packet::{Packet, encode_event};
use socketio_protocol::websocket::{Decoder, OpCode, encode_header, encode_masked};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_frame_with_an_event_is_decoded_without_allocating() {
    let mut input = Vec::new();
    let text = br#"42/media,17["subscribeMedia",{"mediaId":"m-1","since":12},"offset"]"#;
    encode_masked(&mut input, OpCode::Text, text, [1, 2, 3, 4]);
    let mut decoder = Decoder::new(1_000_000);
    let count = allocations(|| {
        let (_, message) = decoder.next(&mut input).unwrap().unwrap();
        let socketio_protocol::websocket::Message::Text(text) = message else {
            panic!("{message:?}");
        };
        black_box(Packet::decode(&text[1..]).unwrap());
    });
    assert_eq!(count, 0);
}

#[test]
fn nesting_within_an_argument_costs_one_allocation() {
    // serde_json notes the brackets that are open in a buffer of its own.
    let text = r#"2["createMedia",{"options":{"size":[1,2],"tags":["a",["b"]]}}]"#;
    let count = allocations(|| {
        black_box(Packet::decode(text).unwrap());
    });
    assert!(count <= 1, "{count}");
}

#[test]
fn an_event_is_encoded_into_the_room_there_is() {
    let mut out = Vec::with_capacity(512);
    let count = allocations(|| {
        encode_event(&mut out, "/media", Some(7), 0, "mediaProgress", r#"{"progress":40}"#);
        black_box(encode_header(OpCode::Text, out.len()));
    });
    assert_eq!(count, 0);
}
