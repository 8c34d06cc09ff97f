//! A Socket.IO server on `socketioxide`, with what every peer does: the contract's welcome, joinRoom and ping, and a
//! publish over the socket.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
};

async fn connected(socket: SocketRef) {
    let welcome = json!({"message": "hello", "socketId": socket.id, "serverTime": now_ms().to_string()});
    let _ = socket.emit("welcome", &welcome);
    socket.on("joinRoom", async |socket: SocketRef, Data::<String>(room), ack: AckSender| {
        socket.join(room.clone());
        let _ = ack.send(&json!({"success": true, "room": room}));
    });
    socket.on("ping", async |socket: SocketRef, ack: AckSender| {
        let pong = json!({"timestamp": now_ms()});
        let _ = socket.emit("pong", &pong);
        let _ = ack.send(&pong);
    });
    socket.on("publish", async |socket: SocketRef, Data::<(String, Value)>((room, payload)), ack: AckSender| {
        let _ = socket.within(room).emit("update", &payload).await;
        let _ = ack.send(&true);
    });
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (layer, io) = SocketIo::new_layer();
    for namespace in ["/", "/media", "/notifications"] {
        io.ns(namespace, connected);
    }
    let port = std::env::var("PORT").unwrap_or_else(|_| "0".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| {
        let _ = tcp.set_nodelay(true);
    });
    axum::serve(listener, axum::Router::new().layer(layer)).await
}
