//! What `make bench` asks of every server, on the engine alone: rooms, `ping`, and publishing over the socket.
//! `PORT` and `SHARDS` come from the environment.

use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use socketio_server::{Config, EventArgs, Namespace, Server};

fn namespace(name: &'static str) -> Namespace {
    Namespace::new(name)
        .on_connect(|socket| {
            let welcome = json!({"message": "hello", "socketId": socket.id(), "serverTime": now_ms().to_string()});
            let _ = socket.emit("welcome", &welcome);
        })
        .on("joinRoom", |socket, event| {
            let Some(room) = event.parse::<String>(0) else { return };
            let success = socket.join(&room).is_ok();
            event.ack(&json!({"success": success, "room": room}));
        })
        .on("ping", |socket, event| {
            let pong = json!({"timestamp": now_ms()});
            let _ = socket.emit("pong", &pong);
            event.ack(&pong);
        })
        .on("publish", |socket, event| {
            let (Some(room), Some(payload)) = (event.parse::<String>(0), event.arg(1)) else { return };
            let _ = socket.to(&room).emit_args("update", &EventArgs::from_raw(payload.get()));
            event.ack(&true);
        })
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn main() -> std::io::Result<()> {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    // Limits that are on, and wider than any load.
    let wide = 1_000_000;
    let config = Config {
        shards: setting("SHARDS", 1),
        max_connections_per_address: wide,
        connection_rate_per_address: wide as u32,
        max_handshakes: wide,
        max_handshakes_per_address: wide,
        event_rate_per_socket: wide as u32,
        ..Config::default()
    };
    let port = u16::try_from(setting("PORT", 0)).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let server = Server::builder(config)
        .namespace(namespace("/"))
        .namespace(namespace("/media"))
        .namespace(namespace("/notifications"))
        .start(listener)?;
    println!("listening on http://{}", server.local_addr());
    server.wait();
    Ok(())
}
