//! A node of a cluster on `socketioxide` and `socketioxide-redis`. It has the contract's welcome, joinRoom and ping.
//! Publishes come in over HTTP, as to ours: with a key, answered when the adapter has sent the event.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::adapter::{Adapter, Emitter};
use socketioxide::extract::{AckSender, Data, SocketRef};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};

type Redis = RedisAdapter<Emitter>;

#[derive(Deserialize)]
struct Published {
    event: String,
    data: Value,
}

async fn connected<A: Adapter>(socket: SocketRef<A>) {
    let welcome = json!({"message": "hello", "socketId": socket.id, "serverTime": now_ms().to_string()});
    let _ = socket.emit("welcome", &welcome);
    socket.on("joinRoom", async |socket: SocketRef<A>, Data::<String>(room), ack: AckSender<A>| {
        socket.join(room.clone());
        let _ = ack.send(&json!({"success": true, "room": room}));
    });
    socket.on("ping", async |socket: SocketRef<A>, ack: AckSender<A>| {
        let pong = json!({"timestamp": now_ms()});
        let _ = socket.emit("pong", &pong);
        let _ = ack.send(&pong);
    });
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

async fn publish(io: SocketIo<Redis>, key: String, room: String, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value.as_bytes() != key.as_bytes()) {
        return (StatusCode::UNAUTHORIZED, "{}".to_owned());
    }
    let Ok(Published { event, data }) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "{}".to_owned());
    };
    match io.to(room).emit(event, &data).await {
        Ok(()) => (StatusCode::OK, "{}".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = redis::Client::open(format!("{}?protocol=resp3", std::env::var("REDIS_URL")?))?;
    let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
    let (layer, io) = SocketIo::builder().with_adapter::<Redis>(adapter).build_layer();
    for namespace in ["/", "/media", "/notifications"] {
        io.ns(namespace, connected).await?;
    }
    let key = format!("Bearer {}", std::env::var("API_KEYS")?);
    let publish = move |Path(room): Path<String>, headers: HeaderMap, body: Bytes| publish(io, key, room, headers, body);
    let router = axum::Router::new().route("/v1/rooms/{room}/events", post(publish)).layer(layer);
    let port = std::env::var("PORT").unwrap_or_else(|_| "0".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| {
        let _ = tcp.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}
