//! What the official Engine.IO 4 and Socket.IO 5 protocol test suites expect of a server, on port 3000.
//!
//! The suites are in the repository `socketio/socket.io`, under `docs/engine.io-protocol/v4-test-suite` and
//! `docs/socket.io-protocol/v5-test-suite`. Copy them out of there, then in each: `npm ci && npm test`.

use std::{net::TcpListener, time::Duration};

use serde_json::value::RawValue;
use socketio_server::{Config, Event, EventArgs, Namespace, RawEndpoint, Server, Socket};

/// `message` comes back as `message-back`, `message-with-ack` in its ack, the handshake's `auth` as `auth`.
fn suite_namespace(name: &'static str) -> Namespace {
    Namespace::new(name)
        .authorize(|socket, auth| {
            socket.set_data(auth.map_or_else(|| "{}".to_owned(), |auth| auth.get().to_owned()));
            Ok(())
        })
        .on_connect(|socket| {
            let auth = socket.with_data(std::mem::take::<String>).unwrap_or_default();
            let _ = socket.emit_args("auth", &EventArgs::from_raw(auth));
        })
        .on("message", |socket: &Socket, event: Event<'_>| {
            let _ = socket.emit_args("message-back", &arguments_of(&event));
        })
        .on("message-with-ack", |_: &Socket, mut event: Event<'_>| {
            let args = arguments_of(&event);
            if let Some(ack) = event.take_ack() {
                ack.send_args(&args);
            }
        })
}

fn arguments_of(event: &Event<'_>) -> EventArgs {
    let json: Vec<&str> = event.args().map(RawValue::get).collect();
    EventArgs::from_raw(json.join(",")).with_attachments(event.attachments().to_vec())
}

fn main() -> std::io::Result<()> {
    let config = Config {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(1000),
        ..Config::default()
    };
    let listener = TcpListener::bind("127.0.0.1:3000")?;
    let server = Server::builder(config)
        .namespace(suite_namespace("/"))
        .namespace(suite_namespace("/custom"))
        .raw_endpoint(RawEndpoint::new("/engine.io", |socket, message| socket.send(message)))
        .start(listener)?;
    println!("listening on http://{}", server.local_addr());
    server.wait();
    Ok(())
}
