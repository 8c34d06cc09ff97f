//! What clients that come back for sessions from before a restart cost publishers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{accepted, post};
use crate::client::Client;
use crate::server::{KEY, Server};

/// Sessions that come back in a loop, and the rooms of each. The attack has 100.
const SESSIONS: usize = 20;
const ROOMS: usize = 1_000;

/// Publishes that are measured, one after the other.
const PUBLISHES: usize = 200;

/// An anonymous client in all the rooms that it may be in.
async fn in_many_rooms(server: &Server, client: usize) -> Client {
    let mut client_in_rooms = Client::connect(server, "/").await;
    for room in 0..ROOMS {
        client_in_rooms.emit("joinRoom", json!([format!("project-{client:03}-{room:04}-0123456789abcdef")])).await;
    }
    client_in_rooms.call("getConnectionInfo", json!([])).await;
    client_in_rooms.forget();
    client_in_rooms
}

/// How long each of some durable publishes takes, one after the other on one connection, in order of length.
fn publish_one_by_one(address: SocketAddr, publishes: usize) -> Vec<Duration> {
    let mut connection = TcpStream::connect(address).expect("the server takes connections");
    connection.set_nodelay(true).expect("a connection");
    let body = json!({"event": "e", "delivery": "durable"}).to_string();
    let request = format!(
        "POST /v1/rooms/elsewhere/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut took: Vec<Duration> = (0..publishes)
        .map(|_| {
            let begun = Instant::now();
            connection.write_all(request.as_bytes()).expect("the connection stands");
            let mut answer = Vec::new();
            // The receipt ends the answer.
            while !answer.ends_with(b"}") {
                let mut bytes = [0; 4096];
                let read = connection.read(&mut bytes).expect("it is answered");
                assert!(read > 0, "the server has closed");
                answer.extend_from_slice(&bytes[..read]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            begun.elapsed()
        })
        .collect();
    took.sort_unstable();
    took
}

fn percentiles(took: &[Duration]) -> [Duration; 2] {
    [took[took.len() / 2], took[took.len() * 99 / 100]]
}

/// More events were logged meanwhile than a session has rooms, so that each room has to be looked up.
#[tokio::test]
async fn publishers_do_not_wait_for_clients_that_come_back() {
    let sessions = std::env::var("COMEBACKS").ok().and_then(|count| count.parse().ok()).unwrap_or(SESSIONS);
    let settings = [("EVENT_RATE_PER_SOCKET", "1000000"), ("STORE_SYNC", "normal")];
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut server = Server::start_in(data.path(), &settings);
    let mut clients = Vec::new();
    for client in 0..sessions {
        clients.push(in_many_rooms(&server, client).await);
    }
    let items: Vec<Value> = (0..1_000)
        .map(|_| json!({"kind": "roomEvent", "room": "elsewhere", "event": "e", "delivery": "durable"}))
        .collect();
    for _ in 0..2 {
        let answer = post(&server, "/v1/publish", &json!(items)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    server.signal("TERM");
    assert!(server.wait().await.success());

    let server = Arc::new(Server::start_in(data.path(), &settings));
    let address = server.address;
    let alone = publish_one_by_one(address, PUBLISHES);
    let (is_over, returns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (returned, first_returns) = std::sync::mpsc::channel();
    let publisher = {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            first_returns.iter().take(5).for_each(drop);
            let took = publish_one_by_one(address, PUBLISHES);
            is_over.store(true, Ordering::Relaxed);
            took
        })
    };
    let begun = Instant::now();
    let coming_back = clients.into_iter().map(|client| {
        let (server, is_over, returns) = (Arc::clone(&server), Arc::clone(&is_over), Arc::clone(&returns));
        let returned = returned.clone();
        async move {
            while !is_over.load(Ordering::Relaxed) {
                let (recovered, _back) = client.come_back(&server, None).await;
                assert!(recovered);
                returns.fetch_add(1, Ordering::Relaxed);
                // It listens to the first ones only.
                let _ = returned.send(());
            }
        }
    });
    futures_util::future::join_all(coming_back).await;
    let beside = publisher.join().expect("every publish is accepted");
    let (alone, beside) = (percentiles(&alone), percentiles(&beside));
    let returns = returns.load(Ordering::Relaxed);
    println!(
        "durable publish p50, p99: alone {alone:?}, beside {sessions} clients {beside:?}; {:.0} returns/s",
        returns as f64 / begun.elapsed().as_secs_f64()
    );
    assert_eq!(accepted(&post(&server, "/v1/rooms/r/events", &json!({"event": "e"})).await), 0);
    assert!(beside[0] < Duration::from_millis(50), "{beside:?}");
}
