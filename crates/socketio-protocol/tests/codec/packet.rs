use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use socketio_protocol::packet::{
    Args, DecodeError, Kind, Limits, MAX_ACK_ID, MAX_ARGS, MAX_ATTACHMENTS, MAX_DEPTH, Packet, RESERVED_EVENTS,
    encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event,
};

use crate::{cases, written};

/// A packet with its JSON as text, to be compared.
#[derive(Debug, PartialEq)]
enum Seen {
    Connect(String, Option<String>),
    Disconnect(String),
    /// Namespace, ack id, attachments, array.
    Event(String, Option<u64>, usize, String),
    Ack(String, u64, usize, String),
    ConnectError(String, Option<String>),
}

fn see(packet: &Packet<'_>) -> Seen {
    let namespace = packet.namespace.to_owned();
    let text = |json: &Option<&RawValue>| json.map(|json| json.get().to_owned());
    match &packet.kind {
        Kind::Connect { auth } => Seen::Connect(namespace, text(auth)),
        Kind::Disconnect => Seen::Disconnect(namespace),
        Kind::Event { ack, args, attachments } => Seen::Event(namespace, *ack, *attachments, args.as_json().to_owned()),
        Kind::Ack { id, args, attachments } => Seen::Ack(namespace, *id, *attachments, args.as_json().to_owned()),
        Kind::ConnectError { data } => Seen::ConnectError(namespace, text(data)),
    }
}

fn decode(text: &str) -> Result<Seen, DecodeError> {
    Packet::decode(text).map(|packet| see(&packet))
}

fn connect(namespace: &str, auth: Option<&str>) -> Seen {
    Seen::Connect(namespace.to_owned(), auth.map(str::to_owned))
}

fn event(namespace: &str, ack: Option<u64>, attachments: usize, json: &str) -> Seen {
    Seen::Event(namespace.to_owned(), ack, attachments, json.to_owned())
}

fn ack(namespace: &str, id: u64, attachments: usize, json: &str) -> Seen {
    Seen::Ack(namespace.to_owned(), id, attachments, json.to_owned())
}

/// Every packet of the protocol's document and of its test suite, without Engine.IO's `4`.
#[test]
fn the_packets_of_the_protocol_docs_are_decoded_and_encoded() {
    let refused = |namespace: &str, data: &str| Seen::ConnectError(namespace.to_owned(), Some(data.to_owned()));
    let one = r#"["baz",{"_placeholder":true,"num":0}]"#;
    let two = r#"["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    for (wire, packet) in [
        ("0", connect("/", None)),
        (r#"0{"sid":"wZX3oN0bSVIhsaknAAAI"}"#, connect("/", Some(r#"{"sid":"wZX3oN0bSVIhsaknAAAI"}"#))),
        ("0/admin,", connect("/admin", None)),
        (r#"0/admin,{"sid":"oSO0OpakMV_3jnilAAAA"}"#, connect("/admin", Some(r#"{"sid":"oSO0OpakMV_3jnilAAAA"}"#))),
        (r#"0/custom,{"token":"abc"}"#, connect("/custom", Some(r#"{"token":"abc"}"#))),
        (r#"4{"message":"Not authorized"}"#, refused("/", r#"{"message":"Not authorized"}"#)),
        (r#"4/random,{"message":"Invalid namespace"}"#, refused("/random", r#"{"message":"Invalid namespace"}"#)),
        (r#"2["foo"]"#, event("/", None, 0, r#"["foo"]"#)),
        (r#"2/admin,["bar"]"#, event("/admin", None, 0, r#"["bar"]"#)),
        (&format!("51-{one}"), event("/", None, 1, one)),
        (&format!("52-/admin,{two}"), event("/admin", None, 2, two)),
        (r#"212["foo"]"#, event("/", Some(12), 0, r#"["foo"]"#)),
        (r#"3/admin,13["bar"]"#, ack("/admin", 13, 0, r#"["bar"]"#)),
        ("312[]", ack("/", 12, 0, "[]")),
        (&format!("61-15{one}"), ack("/", 15, 1, one)),
        (&format!("52-789{two}"), event("/", Some(789), 2, two)),
        (r#"61-/admin,1[{"_placeholder":true,"num":0}]"#, ack("/admin", 1, 1, r#"[{"_placeholder":true,"num":0}]"#)),
        (r#"2/admin,1["tellme"]"#, event("/admin", Some(1), 0, r#"["tellme"]"#)),
        (r#"2["message",1,"2",{"3":[true]}]"#, event("/", None, 0, r#"["message",1,"2",{"3":[true]}]"#)),
        ("1", Seen::Disconnect("/".to_owned())),
        ("1/admin,", Seen::Disconnect("/admin".to_owned())),
    ] {
        let decoded = Packet::decode(wire).unwrap_or_else(|error| panic!("{wire}: {error}"));
        assert_eq!(see(&decoded), packet, "{wire}");
        assert_eq!(written(|out| decoded.encode(out)), format!("4{wire}"));
    }
}

#[test]
fn the_comma_after_a_namespace_may_be_missing_at_the_end() {
    assert_eq!(decode("0/custom"), Ok(connect("/custom", None)));
    assert_eq!(decode("1/custom"), Ok(Seen::Disconnect("/custom".to_owned())));
    assert_eq!(decode("0/"), Ok(connect("/", None)));
    assert_eq!(decode("0/,"), Ok(connect("/", None)));
    assert_eq!(decode(r#"0/x{"a":1}"#), Ok(connect(r#"/x{"a":1}"#, None)));
}

#[test]
fn what_is_no_packet_is_refused() {
    use DecodeError::*;
    for (wire, error) in [
        ("", Empty),
        ("abc", UnknownType),
        ("7", UnknownType),
        ("é", UnknownType),
        ("-1", UnknownType),
        // CONNECT takes an object.
        ("0[]", PayloadType),
        ("0\"token\"", PayloadType),
        ("0null", PayloadType),
        ("05", PayloadType),
        ("0/custom,12{}", PayloadType),
        ("0{", Json),
        ("0{}{}", Json),
        ("0{'a':1}", Json),
        // DISCONNECT takes nothing.
        ("1{}", UnexpectedPayload),
        ("1/custom,{}", UnexpectedPayload),
        ("15", UnexpectedPayload),
        // CONNECT_ERROR takes an object or a string.
        ("4[]", PayloadType),
        ("4true", PayloadType),
        ("4\"", Json),
        // EVENT takes an array that begins with a name.
        ("2", PayloadType),
        ("2/admin,", PayloadType),
        ("2{}", PayloadType),
        ("2null", PayloadType),
        ("2\"foo\"", PayloadType),
        ("212", PayloadType),
        (r#"2abc["message-with-ack",1,"2",{"3":[false]}]"#, PayloadType),
        (r#"2-1["foo"]"#, PayloadType),
        (r#"21.5["foo"]"#, PayloadType),
        ("2[", Json),
        (r#"2["foo""#, Json),
        (r#"2["foo",]"#, Json),
        (r#"2["foo"]]"#, Json),
        (r#"2["foo"]x"#, Json),
        (r#"2["foo",NaN]"#, Json),
        (r#"2["foo",01]"#, Json),
        ("2[\"foo\nbar\"]", Json),
        (r#"2["\x"]"#, Json),
        ("2[]", EventName),
        ("2[{}]", EventName),
        ("2[[\"foo\"]]", EventName),
        ("2[null]", EventName),
        ("2[true]", EventName),
        // ACK takes an id and an array.
        ("3[]", MissingAckId),
        ("3/admin,[]", MissingAckId),
        ("61-[{\"_placeholder\":true,\"num\":0}]", MissingAckId),
        ("31", PayloadType),
        ("31{}", PayloadType),
    ] {
        assert_eq!(decode(wire), Err(error), "{wire:?}");
    }
}

#[test]
fn reserved_names_are_refused_however_they_are_spelled() {
    for name in RESERVED_EVENTS {
        assert_eq!(decode(&format!(r#"2["{name}"]"#)), Err(DecodeError::ReservedEvent));
        // They are no names of acks.
        assert!(decode(&format!(r#"31["{name}"]"#)).is_ok());
    }
    assert_eq!(decode(r#"2["\u0064isconnect"]"#), Err(DecodeError::ReservedEvent));
    assert!(decode(r#"2["Connect"]"#).is_ok());
}

#[test]
fn an_ack_id_is_a_safe_integer_of_javascript() {
    for (digits, id) in [("0", 0), ("007", 7), ("9007199254740991", 9_007_199_254_740_991)] {
        assert_eq!(decode(&format!(r#"2{digits}["a"]"#)), Ok(event("/", Some(id), 0, r#"["a"]"#)));
        assert_eq!(decode(&format!("3{digits}[]")), Ok(ack("/", id, 0, "[]")));
    }
    assert_eq!(MAX_ACK_ID, 9_007_199_254_740_991);
    for digits in ["9007199254740992", "18446744073709551615", "18446744073709551616", &"9".repeat(10_000)] {
        assert_eq!(decode(&format!(r#"2{digits}["a"]"#)), Err(DecodeError::AckIdRange));
    }
}

#[test]
fn a_binary_packet_says_how_many_attachments_it_has() {
    use DecodeError::*;
    for (wire, error) in [
        ("5", AttachmentCount),
        (r#"5["a"]"#, AttachmentCount),
        (r#"5-["a"]"#, AttachmentCount),
        (r#"50-["a"]"#, AttachmentCount),
        (r#"51["a"]"#, AttachmentCount),
        (r#"5+1-["a"]"#, AttachmentCount),
        (r#"51.0-["a"]"#, AttachmentCount),
        (r#"5/admin,1-["a"]"#, AttachmentCount),
        (r#"60-1[]"#, AttachmentCount),
        (r#"5129-["a"]"#, TooManyAttachments),
        (r#"599999999999999999999999-["a"]"#, TooManyAttachments),
        // The default limit is no default of the type 2.
        (r#"21-["a"]"#, PayloadType),
    ] {
        assert_eq!(decode(wire), Err(error), "{wire}");
    }
}

#[test]
fn the_limit_of_attachments_can_be_set() {
    let packet = |count: usize| {
        let placeholders: String = (0..count).map(|num| format!(r#",{{"_placeholder":true,"num":{num}}}"#)).collect();
        format!(r#"5{count}-["a"{placeholders}]"#)
    };
    assert!(Packet::decode(&packet(MAX_ATTACHMENTS)).is_ok());
    let limits = |max_attachments| Limits { max_attachments, ..Limits::default() };
    assert!(Packet::decode_with(&packet(2), limits(2)).is_ok());
    assert_eq!(Packet::decode_with(&packet(3), limits(2)).unwrap_err(), DecodeError::TooManyAttachments);
    assert_eq!(Packet::decode_with(&packet(1), limits(0)).unwrap_err(), DecodeError::TooManyAttachments);
    assert!(Packet::decode_with(&packet(1000), limits(usize::MAX)).is_ok());
    // What is allocated follows the text, not the count it announces.
    assert_eq!(
        Packet::decode_with(r#"518446744073709551615-["a"]"#, limits(usize::MAX)).unwrap_err(),
        DecodeError::Placeholders
    );
}

#[test]
fn placeholders_match_the_attachments() {
    let placed = |count: usize, argument: &str| decode(&format!(r#"5{count}-["a",{argument}]"#));
    for (count, argument) in [
        (1, r#"{"_placeholder":true,"num":0}"#),
        (1, r#"{"num":0,"_placeholder":true}"#),
        (1, r#" { "num" : 0 , "x" : [ ] , "_placeholder" : true } "#),
        (1, r#"{"\u005fplaceholder":true,"n\u0075m":0}"#),
        (1, r#"{"file":{"data":{"_placeholder":true,"num":0}}}"#),
        (1, r#"[[{"_placeholder":true,"num":0}]]"#),
        // In any order, and one more than once.
        (2, r#"{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}"#),
        (1, r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#),
        // A key that is there twice has its last value.
        (1, r#"{"_placeholder":false,"_placeholder":true,"num":7,"num":0}"#),
        // Nothing that isn't a placeholder counts.
        (1, r#"{"_placeholder":false,"num":7},{"_placeholder":true,"num":0}"#),
        (1, r#"{"_placeholder":"true","num":7},{"_placeholder":true,"num":0}"#),
        (1, r#"{"_placeholder":[true],"num":7},{"_placeholder":true,"num":0}"#),
        (1, r#"["_placeholder",true,"num",7],{"_placeholder":true,"num":0}"#),
        (1, r#""{\"_placeholder\":true,\"num\":7}",{"_placeholder":true,"num":0}"#),
        (1, r#""\ud800",1e999,{"_placeholder":true,"num":0}"#),
    ] {
        assert!(placed(count, argument).is_ok(), "{count} {argument}");
    }
    for (count, argument) in [
        (1, "1"),
        (1, r#"{"_placeholder":true,"num":1}"#),
        (1, r#"{"_placeholder":true,"num":-1}"#),
        (1, r#"{"_placeholder":true,"num":0.5}"#),
        (1, r#"{"_placeholder":true,"num":"0"}"#),
        (1, r#"{"_placeholder":true,"num":null}"#),
        (1, r#"{"_placeholder":true,"num":[0]}"#),
        (1, r#"{"_placeholder":true,"num":99999999999999999999}"#),
        (1, r#"{"_placeholder":true}"#),
        (1, r#"{"_placeholder":true,"num":0,"num":{}}"#),
        (1, r#"{"_placeholder":true,"num":0,"_placeholder":null}"#),
        (1, r#"{"_placeholder":{"_placeholder":true},"num":0}"#),
        (2, r#"{"_placeholder":true,"num":0}"#),
        (2, r#"{"_placeholder":true,"num":1},{"_placeholder":true,"num":1}"#),
        (1, r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#),
    ] {
        assert_eq!(placed(count, argument), Err(DecodeError::Placeholders), "{count} {argument}");
    }
    // Without attachments they are data like any other.
    assert!(decode(r#"2["a",{"_placeholder":true,"num":7}]"#).is_ok());
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deepest = format!(r#"2["a",{}]"#, nested(MAX_DEPTH - 1));
    assert!(decode(&deepest).is_ok());
    for depth in [MAX_DEPTH, 1000, 400_000] {
        let too_deep = Err(DecodeError::TooDeep);
        assert_eq!(decode(&format!(r#"2["a",{}]"#, nested(depth))), too_deep);
        assert_eq!(decode(&format!(r#"31[{}]"#, nested(depth))), too_deep);
        assert_eq!(decode(&format!(r#"0{{"a":{}}}"#, nested(depth))), Err(DecodeError::TooDeep));
        assert_eq!(decode(&format!(r#"0{}1"#, r#"{"a":"#.repeat(depth + 1))), Err(DecodeError::TooDeep));
        assert_eq!(decode(&format!(r#"51-["a",{}]"#, nested(depth))), Err(DecodeError::TooDeep));
    }
}

#[test]
fn an_array_has_no_more_elements_than_a_call_has_arguments() {
    let array = |len: usize| format!("[{}0]", "0,".repeat(len - 1));
    assert_eq!(Args::parse(&array(MAX_ARGS)).unwrap().len(), MAX_ARGS);
    assert_eq!(Args::parse(&array(MAX_ARGS + 1)).unwrap_err(), DecodeError::TooManyArgs);
}

#[test]
fn args_keep_the_text_they_came_as() {
    let args = Args::parse(" [ \"name\" , {\"a\": 1.0} ,[ ],-1e400, \"\\ud800\" ]\n").unwrap();
    assert_eq!(args.as_json(), "[ \"name\" , {\"a\": 1.0} ,[ ],-1e400, \"\\ud800\" ]");
    assert_eq!(args.elements_json(), "\"name\" , {\"a\": 1.0} ,[ ],-1e400, \"\\ud800\"");
    assert_eq!(args.len(), 5);
    assert!(!args.is_empty());
    let texts: Vec<_> = args.iter().map(RawValue::get).collect();
    assert_eq!(texts, ["\"name\"", "{\"a\": 1.0}", "[ ]", "-1e400", "\"\\ud800\""]);
    assert_eq!(args.get(1).unwrap().get(), "{\"a\": 1.0}");
    assert!(args.get(5).is_none());
    assert_eq!(args.as_slice().len(), 5);
    assert_eq!((&args).into_iter().count(), 5);

    let empty = Args::parse("[ ]").unwrap();
    assert!(empty.is_empty());
    assert_eq!(empty.elements_json(), "");
    assert_eq!(empty.event_name(), None);
}

#[test]
fn an_event_name_is_a_string_or_a_number() {
    for (json, name) in [
        (r#"["ping"]"#, Some("ping")),
        (r#"[""]"#, Some("")),
        (r#"["a\"b\u00e9\ud83d\ude00"]"#, Some("a\"bé😀")),
        ("[12]", Some("12")),
        ("[-1.5e3]", Some("-1.5e3")),
        ("[null]", None),
        ("[{}]", None),
        (r#"["\udc00"]"#, Some("\u{fffd}")),
    ] {
        let args = Args::parse(json).unwrap();
        assert_eq!(args.event_name().as_deref(), name, "{json}");
    }
}

#[test]
fn a_server_writes_what_the_docs_show() {
    assert_eq!(
        written(|out| encode_connect(out, "/", "wZX3oN0bSVIhsaknAAAI", None)),
        r#"40{"sid":"wZX3oN0bSVIhsaknAAAI"}"#
    );
    assert_eq!(
        written(|out| encode_connect(out, "/media", "abc", Some("p\"d"))),
        r#"40/media,{"sid":"abc","pid":"p\"d"}"#
    );
    assert_eq!(
        written(|out| encode_connect_error(out, "/random", "Invalid namespace", None)),
        r#"44/random,{"message":"Invalid namespace"}"#
    );
    let data = to_raw_value(&json!({"code": "EXPIRED"})).unwrap();
    assert_eq!(
        written(|out| encode_connect_error(out, "/", "say \"hi\"\n", Some(&data))),
        r#"44{"message":"say \"hi\"\n","data":{"code":"EXPIRED"}}"#
    );
    assert_eq!(written(|out| encode_disconnect(out, "/")), "41");
    assert_eq!(written(|out| encode_disconnect(out, "/media")), "41/media,");
    assert_eq!(written(|out| encode_event(out, "/", None, 0, "hey", r#""Jude""#)), r#"42["hey","Jude"]"#);
    assert_eq!(written(|out| encode_event(out, "/media", Some(12), 0, "name", "")), r#"42/media,12["name"]"#);
    let two = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;
    assert_eq!(
        written(|out| encode_event(out, "/media", Some(12), 2, "name", two)),
        format!(r#"452-/media,12["name",{two}]"#)
    );
    assert_eq!(
        written(|out| encode_event(out, "/", None, 0, "a\"\\\u{1f}é\u{2028}", "1")),
        "42[\"a\\\"\\\\\\u001fé\u{2028}\",1]"
    );
    assert_eq!(written(|out| encode_ack(out, "/media", 12, 0, "")), "43/media,12[]");
    assert_eq!(written(|out| encode_ack(out, "/", 456, 0, r#"1,"2",{"3":[false]}"#)), r#"43456[1,"2",{"3":[false]}]"#);
    assert_eq!(
        written(|out| encode_ack(out, "/admin", 1, 1, r#"{"_placeholder":true,"num":0}"#)),
        r#"461-/admin,1[{"_placeholder":true,"num":0}]"#
    );
    // What is there already stays.
    let mut out = b"x".to_vec();
    encode_disconnect(&mut out, "/");
    assert_eq!(out, b"x41");
}

/// Any JSON value of some depth.
fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        "[\"\\\\\\x00-\\x1f,\\[\\]{}]{0,4}".prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Values in which placeholders and what looks like them are frequent.
fn nearly_placeholders() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        3 => Just(json!(true)),
        3 => (0..3).prop_map(Value::from),
        3 => (0..3).prop_map(|num| json!({"_placeholder": true, "num": num})),
        1 => Just(json!("_placeholder")),
        1 => Just(json!("\"num\":1\\")),
        1 => Just(Value::Null),
    ];
    scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("_placeholder|num|a", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The indices of all placeholders in `value`; `None` for those that have none.
fn placeholders(value: &Value, found: &mut Vec<Option<u64>>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| placeholders(item, found)),
        Value::Object(map) => {
            map.values().for_each(|item| placeholders(item, found));
            if map.get("_placeholder") == Some(&Value::Bool(true)) {
                found.push(map.get("num").and_then(Value::as_u64));
            }
        }
        _ => {}
    }
}

fn elements(values: &[Value]) -> String {
    let texts: Vec<_> = values.iter().map(Value::to_string).collect();
    texts.join(",")
}

fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![Just("/".to_owned()), "/[^,]{1,12}"]
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn events_survive_the_wire(
        namespace in namespace(),
        id in prop::option::of(0..=MAX_ACK_ID),
        name in ".{0,12}",
        values in prop::collection::vec(value(), 0..5),
        attachments in 0usize..4,
    ) {
        prop_assume!(!RESERVED_EVENTS.contains(&name.as_str()));
        let mut values = values;
        values.extend((0..attachments).map(|num| json!([{"_placeholder": true, "num": num}])));
        let args_json = elements(&values);
        let wire = written(|out| encode_event(out, &namespace, id, attachments, &name, &args_json));

        let packet = Packet::decode(&wire[1..]).unwrap();
        prop_assert_eq!(packet.namespace, &namespace);
        let Kind::Event { ack, args, attachments: count } = &packet.kind else { panic!("{packet:?}") };
        prop_assert_eq!(*ack, id);
        prop_assert_eq!(*count, attachments);
        prop_assert_eq!(args.event_name().unwrap(), name);
        let texts: Vec<_> = args.iter().skip(1).map(|arg| arg.get().to_owned()).collect();
        let expected: Vec<_> = values.iter().map(Value::to_string).collect();
        prop_assert_eq!(texts, expected);
        prop_assert_eq!(written(|out| packet.encode(out)), &wire[..]);
    }

    #[test]
    fn acks_survive_the_wire(
        namespace in namespace(),
        id in 0..=MAX_ACK_ID,
        values in prop::collection::vec(value(), 0..5),
        attachments in 0usize..4,
    ) {
        let mut values = values;
        values.extend((0..attachments).map(|num| json!({"_placeholder": true, "num": num})));
        let args_json = elements(&values);
        let wire = written(|out| encode_ack(out, &namespace, id, attachments, &args_json));

        let packet = Packet::decode(&wire[1..]).unwrap();
        prop_assert_eq!(see(&packet), ack(&namespace, id, attachments, &format!("[{args_json}]")));
        let Kind::Ack { args, .. } = &packet.kind else { panic!("{packet:?}") };
        prop_assert_eq!(args.elements_json(), args_json);
        prop_assert_eq!(written(|out| packet.encode(out)), &wire[..]);
    }

    #[test]
    fn the_other_packets_survive_the_wire(
        namespace in namespace(),
        sid in any::<String>(),
        pid in prop::option::of(any::<String>()),
        data in prop::option::of(value()),
    ) {
        let wire = written(|out| encode_connect(out, &namespace, &sid, pid.as_deref()));
        let packet = Packet::decode(&wire[1..]).unwrap();
        let Kind::Connect { auth: Some(auth) } = packet.kind else { panic!("{packet:?}") };
        let auth: Value = serde_json::from_str(auth.get()).unwrap();
        prop_assert_eq!(packet.namespace, &namespace);
        prop_assert_eq!(auth["sid"].as_str(), Some(sid.as_str()));
        prop_assert_eq!(auth.get("pid").and_then(Value::as_str), pid.as_deref());
        prop_assert_eq!(written(|out| packet.encode(out)), &wire[..]);

        let raw = data.as_ref().map(|data| to_raw_value(data).unwrap());
        let wire = written(|out| encode_connect_error(out, &namespace, &sid, raw.as_deref()));
        let packet = Packet::decode(&wire[1..]).unwrap();
        let Kind::ConnectError { data: Some(error) } = packet.kind else { panic!("{packet:?}") };
        let error: HashMap<&str, &RawValue> = serde_json::from_str(error.get()).unwrap();
        let message: String = serde_json::from_str(error["message"].get()).unwrap();
        prop_assert_eq!(message, sid);
        prop_assert_eq!(error.get("data").map(|data| data.get()), raw.as_deref().map(RawValue::get));
        prop_assert_eq!(written(|out| packet.encode(out)), &wire[..]);

        let wire = written(|out| encode_disconnect(out, &namespace));
        prop_assert_eq!(decode(&wire[1..]), Ok(Seen::Disconnect(namespace)));
    }

    #[test]
    fn placeholders_are_found_where_a_parser_finds_them(value in nearly_placeholders(), attachments in 1usize..4) {
        let mut found = Vec::new();
        placeholders(&value, &mut found);
        let fits = (0..attachments as u64).all(|num| found.contains(&Some(num)))
            && found.iter().all(|num| num.is_some_and(|num| num < attachments as u64));
        let decoded = decode(&format!(r#"5{attachments}-["a",{value}]"#));
        prop_assert_eq!(decoded.is_ok(), fits, "{}", value);
        if !fits {
            prop_assert_eq!(decoded, Err(DecodeError::Placeholders));
        }
    }

    #[test]
    fn no_text_panics(
        text in any::<String>(),
        near in "[0-7]([0-9]{0,3}-)?(/[a-zé]{0,3},?)?[0-9]{0,20}[\\[\\]{}\",:\\\\etru0-9_n é]{0,24}",
    ) {
        for text in [text, near] {
            if let Ok(packet) = Packet::decode(&text) {
                // What was taken can be written, and is then the same packet.
                let wire = written(|out| packet.encode(out));
                prop_assert_eq!(decode(&wire[1..]), Ok(see(&packet)));
            }
            let _ = Args::parse(&text);
        }
    }

    #[test]
    fn no_damaged_packet_panics(
        values in prop::collection::vec(nearly_placeholders(), 0..3),
        damage in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}\",:\\\\0-9é]{0,2}"), 1..4),
    ) {
        let mut chars: Vec<char> = format!(r#"52-/n,7["e",{}]"#, elements(&values)).chars().collect();
        for (index, replacement) in damage {
            let at = index.index(chars.len());
            chars.splice(at..=at, replacement.chars());
            if chars.is_empty() {
                break;
            }
        }
        let text: String = chars.into_iter().collect();
        if let Ok(packet) = Packet::decode(&text)
            && let Kind::Event { args, .. } | Kind::Ack { args, .. } = packet.kind
            && let Ok(Value::Array(parsed)) = serde_json::from_str(args.as_json())
        {
            prop_assert_eq!(parsed.len(), args.len());
        }
    }
}
