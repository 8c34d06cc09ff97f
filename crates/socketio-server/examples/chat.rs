//! A chat room: `cargo run -p socketio-server --example chat`, then from any stock client:
//!
//! ```js
//! import { io } from "socket.io-client";
//! const socket = io("http://localhost:3000");
//! socket.on("said", (id, text) => console.log(id, text));
//! socket.emit("join", "lobby", () => socket.emit("say", "lobby", "hello"));
//! ```

use std::net::TcpListener;

use serde_json::json;
use socketio_server::{Config, EventArgs, Namespace, Server};

fn main() -> std::io::Result<()> {
    let chat = Namespace::new("/")
        .on_connect(|socket| {
            let _ = socket.emit("hello", &socket.id());
        })
        .on("join", |socket, event| {
            let joined = event.parse::<String>(0).is_some_and(|room| socket.join(&room).is_ok());
            event.ack(&joined);
        })
        .on("say", |socket, event| {
            let (Some(room), Some(text)) = (event.parse::<String>(0), event.parse::<String>(1)) else {
                return event.ack(&json!({ "error": "say(room, text)" }));
            };
            if !socket.in_room(&room) {
                return event.ack(&json!({ "error": "not in that room" }));
            }
            // To everyone in the room on every shard, the sender too; encoded once.
            let said = EventArgs::from_raw(format!("{},{}", json!(socket.id()), json!(text)));
            let sent = socket.handle().to("/", &room).emit_args("said", &said);
            event.ack(&sent.is_ok());
        })
        .on_disconnect(|socket, reason| println!("{} left: {}", socket.id(), reason.as_str()));

    let listener = TcpListener::bind("127.0.0.1:3000")?;
    let server = Server::builder(Config::default()).namespace(chat).start(listener)?;
    println!("listening on http://{}", server.local_addr());
    server.wait();
    Ok(())
}
