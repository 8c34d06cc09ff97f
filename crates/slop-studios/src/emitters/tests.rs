//! The formats as the packages write them, and everything else as foreign bytes.

use std::slice;

use proptest::prelude::*;
use rmpv::Value as Packed;
use serde_json::{Value, json};

use super::*;
use crate::metrics::EmitterRefusal;
use crate::publish::Publish;

const MOST: usize = 10_000;

/// `new Emitter(…).of('/media').to('a').volatile.emit('ev', 1, 'zwei', {d: new Date(1700000000123), u: [undefined], n: -1.5})`
const WIRE: &str = "93a7656d697474657283a47479706502a46461746194a2657601a47a77656983a164d7ff1d5353006553f100a17591c0a16ecb\
                    bff8000000000000a36e7370a62f6d6564696183a5726f6f6d7391a161a5666c61677381a8766f6c6174696c65c3a66578636570\
                    7490";

fn everything() -> Allowlist {
    Allowlist::parse(crate::config::defaults::EMITTER_EVENTS.split(',')).expect("the default")
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

/// JSON as MessagePack.
fn packed(value: &Value) -> Packed {
    match value {
        Value::Null => Packed::Nil,
        Value::Bool(value) => Packed::Boolean(*value),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(elements) => Packed::Array(elements.iter().map(packed).collect()),
        Value::Object(members) => {
            Packed::Map(members.iter().map(|(key, value)| (key.as_str().into(), packed(value))).collect())
        }
    }
}

fn encoded(value: &Packed) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("into memory");
    bytes
}

fn redis(value: &Packed) -> Result<Message, Refusal> {
    decode::redis(b"socket.io#/#", &encoded(value), MOST)
}

fn broadcast(data: Packed, options: &Value) -> Packed {
    let packet = vec![("type".into(), 2.into()), ("data".into(), data), ("nsp".into(), "/".into())];
    Packed::Array(vec!["emitter".into(), Packed::Map(packet), packed(options)])
}

fn entry(data: &str) -> Result<Message, Refusal> {
    let fields = [("uid", "emitter"), ("nsp", "/"), ("type", "3"), ("data", data)];
    let fields = fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    decode::stream(&fields, MOST)
}

fn arguments(message: &Message) -> Vec<Value> {
    message.arguments.iter().map(|argument| serde_json::from_str(argument.get()).expect("JSON")).collect()
}

fn reason<T>(result: Result<T, Refusal>) -> Option<EmitterRefusal> {
    result.err().map(|refusal| refusal.reason)
}

#[test]
fn the_bytes_of_the_package_are_read() {
    let payload = bytes(WIRE);
    let message = decode::redis(b"socket.io#/media#a#", &payload, MOST).expect("a message");
    assert_eq!((&*message.namespace, &*message.event, &*message.rooms), ("/media", "ev", &["a".to_owned()][..]));
    assert!(!message.excludes);
    let object = json!({"d": "2023-11-14T22:13:20.123Z", "u": [null], "n": -1.5});
    assert_eq!(arguments(&message), [json!(1), json!("zwei"), object]);
    for end in 0..payload.len() {
        let cut = decode::redis(b"socket.io#/media#a#", &payload[..end], MOST);
        assert_eq!(reason(cut), Some(EmitterRefusal::Malformed), "{end}");
    }
    assert_eq!(
        reason(decode::redis(b"socket.io#/media#a#", &payload, payload.len() - 1)),
        Some(EmitterRefusal::Oversized)
    );
}

#[test]
fn requests_are_known_as_such() {
    let request = |payload: &str| reason(decode::redis(b"socket.io-request#/#", payload.as_bytes(), MOST));
    for payload in [
        r#"{"type":2,"opts":{"rooms":["a"],"except":[]},"rooms":["b"]}"#,
        r#"{"uid":"emitter","type":6,"data":["x",1]}"#,
    ] {
        assert_eq!(request(payload), Some(EmitterRefusal::Request), "{payload}");
    }
    assert_eq!(request(r#"{"uid":"xYz123","type":5}"#), Some(EmitterRefusal::Foreign));
    assert_eq!(request("[]"), Some(EmitterRefusal::Malformed));
}

#[test]
fn what_has_no_json_form_is_refused() {
    let data = |argument: Packed| Packed::Array(vec!["ev".into(), argument]);
    let none = json!({});
    for (argument, expected) in [
        (Packed::Binary(vec![1]), EmitterRefusal::Binary),
        (Packed::Array(vec![Packed::Binary(vec![1])]), EmitterRefusal::Binary),
        (Packed::Ext(7, vec![1]), EmitterRefusal::Malformed),
        (Packed::Ext(-1, vec![0; 12]), EmitterRefusal::Malformed),
        (Packed::Map(vec![(1.into(), 1.into())]), EmitterRefusal::Malformed),
        (Packed::Array(vec![Packed::Nil; MOST / 4]), EmitterRefusal::Oversized),
    ] {
        assert_eq!(reason(redis(&broadcast(data(argument.clone()), &none))), Some(expected), "{argument}");
    }
    // A number that is none is `null`, as `JSON.stringify` has it.
    let message = redis(&broadcast(data(f64::NAN.into()), &none)).expect("a message");
    assert_eq!(arguments(&message), [Value::Null]);
}

#[test]
fn depth_is_bounded_in_every_format() {
    let most = crate::limits::MAX_JSON_DEPTH;
    for (levels, is_read) in [(most - 8, true), (most, false), (3_000, false)] {
        let argument = (0..levels).fold(Packed::Nil, |inner, _| Packed::Array(vec![inner]));
        let message = broadcast(Packed::Array(vec!["ev".into(), argument]), &json!({}));
        assert_eq!(redis(&message).is_ok(), is_read, "MessagePack, {levels}");
        let argument = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let data = format!(r#"{{"packet":{{"type":2,"data":["ev",{argument}]}},"opts":{{}}}}"#);
        assert_eq!(entry(&data).is_ok(), is_read, "stream, {levels}");
        let message = format!(r#"{{"method":"emit","event":"ev","data":[{argument}]}}"#);
        assert_eq!(decode::python(message.as_bytes(), MOST).is_ok(), is_read, "Python, {levels}");
    }
}

#[test]
fn the_data_of_python_are_one_argument_or_a_list_of_them() {
    let of = |rest: &str| {
        let text = format!(r#"{{"method":"emit","event":"ev","host_id":"h","callback":null,"skip_sid":null,{rest}}}"#);
        decode::python(text.as_bytes(), MOST)
    };
    for (data, expected) in [
        (r#""data":[1,"two"]"#, vec![json!(1), json!("two")]),
        (r#""data":{"a":1}"#, vec![json!({"a": 1})]),
        (r#""data":[]"#, vec![]),
        (r#""data":null"#, vec![]),
        (r#""data":[[1]],"namespace":null,"room":null"#, vec![json!([1])]),
    ] {
        let message = of(data).expect("a message");
        assert_eq!((arguments(&message), &*message.namespace), (expected, "/"), "{data}");
    }
    for (rest, expected) in [
        (r#""callback":["r","/",1]"#, EmitterRefusal::Malformed),
        (r#""room":5"#, EmitterRefusal::Malformed),
        (r#""binary":true"#, EmitterRefusal::Binary),
    ] {
        assert_eq!(reason(of(rest)), Some(expected), "{rest}");
    }
    let asks = br#"{"method":"emit","event":"ev","data":[1],"room":"r","callback":["r","/",1]}"#;
    assert_eq!(reason(decode::python(asks, MOST)), Some(EmitterRefusal::Callback));
    assert_eq!(reason(decode::python(b"\x80\x04}\x94.", MOST)), Some(EmitterRefusal::Pickle));
}

fn message(namespace: &str, rooms: &[&str], event: &str, arguments: &[Value]) -> Message {
    Message {
        namespace: namespace.to_owned(),
        rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
        excludes: false,
        event: event.to_owned(),
        arguments: arguments.iter().map(|value| serde_json::value::to_raw_value(value).expect("JSON")).collect(),
    }
}

#[test]
fn an_event_is_the_publish_that_a_key_may_make() {
    let progress = json!({"mediaId": "m", "progress": 5, "stage": "s", "ownerId": "u", "attempt": 2});
    let notification = json!({"type": "info", "title": "t", "message": "m"});
    let publish = |message: Message| message.into_publish(&everything());
    assert!(matches!(
        publish(message("/media", &[], "mediaProgress", slice::from_ref(&progress))),
        Ok(Publish::Progress { media_id, body }) if media_id == "m" && body.attempt == Some(2)
    ));
    assert!(matches!(
        publish(message("/notifications", &["user:42"], "notification", slice::from_ref(&notification))),
        Ok(Publish::Notification { user_id, .. }) if user_id == "42"
    ));
    assert!(matches!(
        publish(message("/media", &["r"], "note", &[json!(1), json!(2)])),
        Ok(Publish::RoomEvent { room, body }) if room == "r" && body.further.len() == 1
    ));
    for (wrong, expected) in [
        (message("/media", &["n"], "mediaProgress", slice::from_ref(&progress)), EmitterRefusal::Invalid),
        (message("/media", &["m", "n"], "mediaProgress", slice::from_ref(&progress)), EmitterRefusal::Invalid),
        (message("/media", &[], "mediaProgress", &[progress.clone(), json!(1)]), EmitterRefusal::Invalid),
        (message("/media", &[], "mediaProgress", &[json!({})]), EmitterRefusal::Invalid),
        (message("/", &["r"], "mediaProgress", &[progress]), EmitterRefusal::Invalid),
        (
            message("/notifications", &["user:"], "notification", slice::from_ref(&notification)),
            EmitterRefusal::Invalid,
        ),
        (message("/notifications", &["r"], "notification", slice::from_ref(&notification)), EmitterRefusal::Invalid),
        (message("/notifications", &[], "notification", &[notification]), EmitterRefusal::NoRoom),
        (
            message("/notifications", &["user:1"], "notification", &[json!({"userId": "2", "type": "info"})]),
            EmitterRefusal::Invalid,
        ),
        (message("/", &["r"], "connect", &[]), EmitterRefusal::Invalid),
        (message("/", &["\0media:m"], "e", &[]), EmitterRefusal::Invalid),
        (message("/", &["r", "s"], "e", &[]), EmitterRefusal::SeveralRooms),
        (Message { excludes: true, ..message("/", &["r"], "e", &[]) }, EmitterRefusal::Except),
        (message("/chat", &["r"], "e", &[]), EmitterRefusal::Namespace),
    ] {
        let text = format!("{wrong:?}");
        assert_eq!(reason(publish(wrong)), Some(expected), "{text}");
    }
    let only = Allowlist::parse(["/:project*"].into_iter()).expect("a list");
    assert_eq!(reason(message("/", &["r"], "e", &[]).into_publish(&only)), Some(EmitterRefusal::NotAllowed));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,8}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arguments_arrive_unchanged(values in prop::collection::vec(any_json(), 0..4), room in "[^\\pC]{1,20}") {
        let data: Vec<Value> = [json!("ev")].into_iter().chain(values.iter().cloned()).collect();
        let options = json!({"rooms": [room], "except": [], "flags": {"volatile": true}});
        let read = redis(&broadcast(packed(&json!(data)), &options)).expect("a message");
        prop_assert_eq!((&arguments(&read), &*read.rooms), (&values, slice::from_ref(&room)));
        let text = json!({"packet": {"type": 2, "data": data, "nsp": "/"}, "opts": options}).to_string();
        let read = entry(&text).expect("a message");
        prop_assert_eq!(&arguments(&read), &values);
        let text = json!({"method": "emit", "event": "ev", "data": values, "room": room}).to_string();
        let read = decode::python(text.as_bytes(), MOST).expect("a message");
        prop_assert_eq!(arguments(&read), values);
        prop_assert!(read.into_publish(&everything()).is_ok());
    }

    #[test]
    fn foreign_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut valid = super::tests::bytes(WIRE);
        let index = at.index(valid.len());
        valid[index] = byte;
        for payload in [&bytes, &valid] {
            for channel in [&b"socket.io#/#"[..], b"socket.io-request#/#"] {
                let _ = decode::redis(channel, payload, MOST).and_then(|message| message.into_publish(&everything()));
            }
            let _ = decode::python(payload, MOST).and_then(|message| message.into_publish(&everything()));
            let fields = [(b"uid".to_vec(), b"emitter".to_vec()), (b"type".to_vec(), b"3".to_vec()), (b"data".to_vec(), payload.clone())];
            let _ = decode::stream(&fields, MOST);
        }
    }
}
