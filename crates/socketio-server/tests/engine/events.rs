//! Events on the wire, in both directions: what comes of their names, arguments and attachments.

use std::time::Duration;

use socketio_protocol::packet::RESERVED_EVENTS;
use socketio_server::{AckError, Config, DisconnectReason, EncodeError, EventArgs, Namespace};

use crate::{
    client::{Client, Packet, Polling, Via, Ws},
    harness::{ONE, TWO, TestServer, Unspeakable, recorder},
};

on_one_and_three_shards!(events_and_acks_come_back, attachments_come_back, attachments_are_bounded);

async fn events_and_acks_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, r#"42["auth",{}]"#);
        for (sent, back) in [
            (r#"42["message",1,"2",{"3":[true]}]"#, r#"42["message-back",1,"2",{"3":[true]}]"#),
            (r#"42["message"]"#, r#"42["message-back"]"#),
            // Arguments go through as they are.
            ("42[\"message\", {\"a\" : 1.0e2 } ]", "42[\"message-back\",{\"a\" : 1.0e2 }]"),
            ("42[\"mess\\u0061ge\",\"\\u20ac \\ud834\\udd1e\"]", "42[\"message-back\",\"\\u20ac \\ud834\\udd1e\"]"),
            (r#"42456["message-with-ack",1,"2",{"3":[false]}]"#, r#"43456[1,"2",{"3":[false]}]"#),
            (r#"420["message-with-ack"]"#, "430[]"),
            (r#"429007199254740991["message-with-ack",null]"#, "439007199254740991[null]"),
        ] {
            client.send(sent).await;
            assert_eq!(client.text().await, back, "{sent}");
        }
        // An ack that the handler does not send is not sent.
        client.send(r#"427["message",1]"#).await;
        assert_eq!(client.text().await, r#"42["message-back",1]"#);
        client.send(r#"42["message",2]"#).await;
        assert_eq!(client.text().await, r#"42["message-back",2]"#);
    }
    assert_eq!(server.metrics().events_received, 18);
    assert_eq!(server.metrics().events_unknown, 0);
}

async fn attachments_come_back(shards: usize) {
    let server = TestServer::echo(Config { shards, ..Config::default() });
    for via in Via::BOTH {
        let mut client = Client::open(server.addr, via).await;
        client.send("40/custom,").await;
        client.text().await;
        client.text().await;
        for (sent, back) in [
            (format!(r#"452-/custom,["message",{TWO}]"#), format!(r#"452-/custom,["message-back",{TWO}]"#)),
            (format!(r#"452-/custom,789["message-with-ack",{TWO}]"#), format!("462-/custom,789[{TWO}]")),
        ] {
            client.send(&sent).await;
            client.send_binary(&[1, 2, 3]).await;
            client.send_binary(&[4, 5, 6]).await;
            let expected = [Packet::Text(back), Packet::Binary(vec![1, 2, 3]), Packet::Binary(vec![4, 5, 6])];
            for expected in expected {
                assert_eq!(client.packet().await, expected, "{sent}");
            }
        }
        // An empty attachment is one, too, and a large one is no exception.
        client.send(&format!(r#"452-/custom,["message",{TWO}]"#)).await;
        client.send_binary(&[]).await;
        client.send_binary(&[9; 200_000]).await;
        client.packet().await;
        assert_eq!(client.packet().await, Packet::Binary(Vec::new()));
        assert_eq!(client.packet().await, Packet::Binary(vec![9; 200_000]));
    }
}

async fn attachments_are_bounded(shards: usize) {
    let config = Config { shards, max_attachments: 2, max_payload: 1000, ..Config::default() };
    let server = TestServer::echo(config);
    let event = format!(r#"452-["message",{TWO}]"#);
    // Each message is small enough; the text without Engine.IO's type and both attachments together are the limit.
    let left = 1000 - (event.len() - 1);
    for via in Via::BOTH {
        let connected = || async {
            let mut client = Client::connected(server.addr, via).await;
            assert_eq!(client.text().await, r#"42["auth",{}]"#);
            client
        };
        let mut client = connected().await;
        client.send(&event).await;
        client.send_binary(&vec![1; left / 2]).await;
        client.send_binary(&vec![2; left - left / 2]).await;
        client.packet().await;
        assert_eq!(client.packet().await, Packet::Binary(vec![1; left / 2]));
        assert_eq!(client.packet().await, Packet::Binary(vec![2; left - left / 2]));

        client.send(&event).await;
        client.send_binary(&vec![1; left / 2]).await;
        let too_much = vec![2; left - left / 2 + 1];
        match &mut client {
            Client::WebSocket(ws) => {
                ws.send_binary(&too_much).await;
                assert_eq!(ws.closed().await.0, 1009);
            }
            Client::Polling(polling) => {
                let too_much = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &too_much);
                assert!(polling.post(format!("b{too_much}")).await.status >= 400);
                polling.expect_gone().await;
            }
        }

        let three = format!(r#"453-["message",{TWO},{{"_placeholder":true,"num":2}}]"#);
        connected().await.send_and_be_closed(&three).await;
        connected().await.send_and_be_closed(&three.replace("453-", "4518446744073709551616-")).await;

        // Text where an attachment is due, whatever it is.
        for text in [r#"42["message",1]"#, "41", "40/custom,", &event, "430[]"] {
            let mut client = connected().await;
            client.send(&event).await;
            client.send_binary(&[1]).await;
            client.send_and_be_closed(text).await;
        }
        // A heartbeat is none of the event's business.
        let mut client = connected().await;
        client.send(&format!(r#"451-["message",{ONE}]"#)).await;
        client.send("3").await;
        client.send_binary(&[1]).await;
        assert_eq!(client.text().await, format!(r#"451-["message-back",{ONE}]"#));
        assert_eq!(client.packet().await, Packet::Binary(vec![1]));
    }
    assert_eq!(server.ended(DisconnectReason::PayloadTooLarge), 2);
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error() {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_async("try", move |socket, _| {
            let recorder = recorder.clone();
            async move {
                for name in RESERVED_EVENTS {
                    let args = EventArgs::from_raw("1");
                    let attempts = [
                        socket.emit(name, &1),
                        socket.emit_args(name, &args),
                        socket.emit_volatile(name, &1),
                        socket.to("room").emit(name, &1).map(drop),
                        socket.broadcast().emit_args(name, &args).map(drop),
                        socket.handle().broadcast("/").emit(name, &1).map(drop),
                    ];
                    for attempt in attempts {
                        assert!(matches!(attempt, Err(EncodeError::ReservedName(reserved)) if reserved == name));
                    }
                    let asked = socket.emit_with_ack(name, &1, Duration::from_secs(60)).await;
                    assert!(matches!(asked, Err(AckError::Encode(EncodeError::ReservedName(_)))));
                }
                assert!(matches!(socket.emit("name", &Unspeakable), Err(EncodeError::Payload(_))));
                assert!(matches!(EventArgs::new(&Unspeakable), Err(EncodeError::Payload(_))));
                assert!(matches!(socket.to("room").emit("name", &Unspeakable), Err(EncodeError::Payload(_))));
                let asked = socket.emit_with_ack("name", &Unspeakable, Duration::from_secs(60)).await;
                assert!(matches!(asked, Err(AckError::Encode(EncodeError::Payload(_)))));
                let error = socket.emit("connect", &1).expect_err("reserved").to_string();
                socket.emit("done", &error).expect("a name");
                recorder.note("done");
            }
        }))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    let encoded = server.metrics().packets_encoded;
    ws.send(r#"42["try"]"#).await;
    assert_eq!(seen.next().await, "done");
    assert_eq!(ws.text().await, r#"42["done","event name \"connect\" is reserved"]"#);
    assert_eq!(server.metrics().packets_encoded, encoded + 1);
}

#[tokio::test]
async fn names_and_texts_are_escaped() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on_connect(|socket| {
            socket.emit("a \"name\"\n\x1e", &"\x1e\u{20ac}\\").expect("a name");
            let args = EventArgs::from_raw(format!("{ONE},2"));
            socket.emit_args("binary", &args.with_attachments(vec![vec![7, 8].into()])).expect("a name");
            socket.emit_args("none", &EventArgs::default()).expect("a name");
        }))
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        assert_eq!(client.text().await, "42[\"a \\\"name\\\"\\n\\u001e\",\"\\u001e\u{20ac}\\\\\"]");
        assert_eq!(client.text().await, format!(r#"451-["binary",{ONE},2]"#));
        assert_eq!(client.packet().await, Packet::Binary(vec![7, 8]));
        assert_eq!(client.text().await, r#"42["none"]"#);
    }
}

#[tokio::test]
async fn a_polling_response_brings_at_most_sixteen_packets() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(Namespace::new("/").on("burst", |socket, _| {
            for number in 0..40 {
                socket.emit("number", &number).expect("a name");
            }
        }))
    });
    let (session, _) = Polling::connected(server.addr).await;
    session.send(r#"42["burst"]"#).await;
    let mut sizes = Vec::new();
    let mut packets = Vec::new();
    while packets.len() < 40 {
        let body = session.get().await.body;
        sizes.push(body.split('\x1e').count());
        packets.extend(body.split('\x1e').map(str::to_owned));
    }
    assert_eq!(sizes, [16, 16, 8]);
    assert_eq!(packets, (0..40).map(|number| format!(r#"42["number",{number}]"#)).collect::<Vec<_>>());
}
