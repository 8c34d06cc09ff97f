//! Connections that are cut at random.

use std::net::SocketAddr;

use serde_json::json;
use socketio_server::Config;

use super::client::{Client, config, studio};
use crate::{
    client::Received,
    harness::{TestServer, within},
};

on_one_and_three_shards!(cut_clients_miss_and_double_nothing);

/// Clients are cut at random while events go to their room and to each of them alone.
async fn cut_clients_miss_and_double_nothing(shards: usize) {
    const CLIENTS: u32 = 12;
    const EVENTS: u32 = 1_500;
    let config = Config { fanout_per_turn: 3, large_room: 2, ..config(shards) };
    let server = TestServer::start(config, |server| {
        server.namespace(studio("/").on_connect(|socket| {
            socket.join("room").expect("a room");
        }))
    });
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        let client = Client::connect(&server).await;
        clients.push(tokio::spawn(be_cut(server.addr, client, index, EVENTS)));
    }
    for what in 0..EVENTS {
        let said = server.handle.to("/", "room").emit("said", &what).expect("a name");
        if what % 16 == 0 {
            within("a delivery", said).await;
            tokio::task::yield_now().await;
        }
        if what % 5 == 0 {
            server.handle.for_each("/", move |socket| socket.emit("alone", &what).expect("a name"));
        }
    }
    let mut cuts = 0;
    for client in clients {
        cuts += within("all events", client).await.expect("it heard what it should");
    }
    assert!(cuts > 3 * CLIENTS, "only {cuts} cuts");
    assert_eq!(server.metrics().recovered, u64::from(cuts));
}

async fn be_cut(server: SocketAddr, mut client: Client, seed: u32, events: u32) -> u32 {
    let mut random = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let (mut next, mut alone, mut cuts) = (0, Vec::new(), 0);
    while next < events {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if random >> 24 < 4 {
            cuts += 1;
            let Client { ws, memory } = client;
            // The server knows of the loss, or learns of it now.
            let lost = (random & 1 == 0).then_some(ws);
            client = Client::back_at(server, memory).await;
            drop(lost);
            assert!(client.memory.recovered);
            continue;
        }
        let Received::Text(packet) = client.ws.recv().await else { panic!("it is connected") };
        if packet == "2" {
            client.ws.send("3").await;
            continue;
        }
        let (name, args) = client.memory.event(&packet);
        match name.as_str() {
            "said" => {
                assert_eq!(args, [json!(next)]);
                next += 1;
            }
            "alone" => alone.push(args[0].as_u64().expect("a number")),
            other => panic!("{other}"),
        }
    }
    // A client that is away is not among the namespace's sockets: it may have missed these, and doubles none.
    assert!(alone.is_sorted_by(|before, next| before < next), "{alone:?}");
    cuts
}
