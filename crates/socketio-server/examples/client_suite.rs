//! What the test suite of npm's `socket.io-client` expects of a server, on port 3210: its `test/support/server.ts`, on this engine.
//!
//! The suite is in the repository `socketio/socket.io`, under `packages/socket.io-client/test`; `make conformance` runs it.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use socketio_server::{Config, ConnectError, Event, EventArgs, Namespace, OwnedEvent, Recovery, Server, Socket};

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":0}"#;
const DATE: &str = "2026-01-02T03:04:05.678Z";

/// The handshake as Node's server shows it to handlers: as far as the suite looks at it.
fn handshake(socket: &Socket) -> Value {
    let query: BTreeMap<_, _> = socket.handshake().map(|handshake| handshake.query().collect()).unwrap_or_default();
    let auth = socket.with_data(|auth: &mut Value| auth.clone()).unwrap_or_else(|| json!({}));
    json!({ "query": query, "auth": auth })
}

fn with_auth(name: &'static str) -> Namespace {
    Namespace::new(name).authorize(|socket, auth| {
        socket.set_data(auth.and_then(|auth| serde_json::from_str(auth.get()).ok()).unwrap_or_else(|| json!({})));
        Ok(())
    })
}

fn emit(socket: &Socket, event: &str, args: &EventArgs) {
    if let Err(error) = socket.emit_args(event, args) {
        eprintln!("emit {event}: {error}");
    }
}

/// Answers with one event, if the client's arguments are as they should be.
fn answer(
    name: &'static str,
    is_right: impl Fn(&Event<'_>) -> bool + Send + Sync + 'static,
) -> impl Fn(&Socket, Event<'_>) + Send + Sync + 'static {
    move |socket, event| {
        if is_right(&event) {
            emit(socket, name, &EventArgs::default());
        }
    }
}

/// One attachment, alone or in an object.
fn has_data(event: &Event<'_>) -> bool {
    event.attachments().len() == 1 && event.arg(0).is_some_and(|arg| arg.get().contains("_placeholder"))
}

fn send(name: &'static str, args: EventArgs) -> impl Fn(&Socket, Event<'_>) + Send + Sync + 'static {
    move |socket, _| emit(socket, name, &args)
}

fn data() -> EventArgs {
    EventArgs::from_raw(PLACEHOLDER).with_attachments(vec![Bytes::from_static(b"asdfasdf")])
}

fn main_namespace() -> Namespace {
    Namespace::new("/")
        .authorize(|socket, auth| {
            let fails = socket.handshake().is_some_and(|handshake| handshake.query().any(|(name, _)| name == "fail"));
            if fails {
                return Err(ConnectError::new("Auth failed (main namespace)"));
            }
            socket.set_data(auth.and_then(|auth| serde_json::from_str(auth.get()).ok()).unwrap_or_else(|| json!({})));
            Ok(())
        })
        .on("hi", send("hi", EventArgs::default()))
        .on("echo", |_, event| {
            let argument = event.arg(0);
            event.ack(&argument);
        })
        // Asked again while the question before is open.
        .on_overlapping("ack", async |socket: Socket, _: OwnedEvent| {
            let reply = socket.emit_args_with_ack("ack", &EventArgs::default(), Duration::from_secs(5)).await;
            let is_right = |five: Option<i64>, object: Option<Value>| {
                five == Some(5) && object.is_some_and(|object| object["test"] == true)
            };
            if reply.is_ok_and(|reply| is_right(reply.parse(0), reply.parse(1))) {
                emit(&socket, "got it", &EventArgs::default());
            }
        })
        .on("getAckDate", |_, event| event.ack(&DATE))
        .on("getDate", send("takeDate", EventArgs::from_raw(format!("{DATE:?}"))))
        .on("getDateObj", send("takeDateObj", EventArgs::from_raw(format!("{{\"date\":{DATE:?}}}"))))
        .on("getUtf8", |socket, _| {
            for text in ["てすと", "Я Б Г Д Ж Й", "Ä ä Ü ü ß", "utf8 — string", "utf8 — string"] {
                emit(socket, "takeUtf8", &EventArgs::from_raw(json!(text).to_string()));
            }
        })
        .on("false", send("false", EventArgs::from_raw("false")))
        .on("doge", send("doge", data()))
        .on("getbin", send("takebin", data()))
        .on("buffa", answer("buffack", has_data))
        .on("jsonbuff", answer("jsonbuff-ack", has_data))
        .on("abuff1", |_, event| assert!(has_data(&event)))
        .on("abuff2", answer("abuff2-ack", |_| true))
        .on("blob", answer("back", has_data))
        .on("jsonblob", answer("jsonblob-ack", has_data))
        .on("blob1", |_, event| assert!(has_data(&event)))
        .on("blob2", |_, event| assert_eq!(event.parse::<String>(0).as_deref(), Some("second")))
        .on("blob3", answer("blob3-ack", has_data))
        .on("getHandshake", |socket, event| event.ack(&handshake(socket)))
        .on("getId", |socket, event| event.ack(&socket.id()))
}

fn main() -> std::io::Result<()> {
    let config = Config {
        ping_interval: Duration::from_secs(2),
        keep_handshake: true,
        recovery: Some(Recovery::default()),
        ..Config::default()
    };
    let server = Server::builder(config)
        .namespace(main_namespace())
        .namespace(Namespace::new("/foo").on("getId", |socket, event| event.ack(&socket.id())))
        .namespace(Namespace::new("/timeout_socket"))
        .namespace(Namespace::new("/valid"))
        .namespace(Namespace::new("/asd"))
        .namespace(with_auth("/abc").on_connect(|socket| {
            emit(socket, "handshake", &EventArgs::from_raw(handshake(socket).to_string()));
        }))
        .namespace(Namespace::new("/no").authorize(|_, _| Err(ConnectError::new("Auth failed (custom namespace)"))))
        // The suite looks at clients that give up at once.
        .allow_request(|_| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            true
        })
        .start(TcpListener::bind("127.0.0.1:3210")?)?;
    println!("listening on http://{}", server.local_addr());
    server.wait();
    Ok(())
}
