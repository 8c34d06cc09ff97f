//! What is remembered for those who come back, and those who come back too often.

use serde_json::{Value, json};

use super::peer::Peer;
use super::siege::{Siege, falls_to, measured, memory, metric, until};
use super::victim::{Origin, Victim};
use crate::server::{KEY, Server};

/// A session that was away when its server stopped.
struct Gone {
    pid: String,
    offset: String,
}

#[tokio::test]
async fn sessions_from_before_a_restart() {
    let siege = Siege::of("100 sessions with 1,000 rooms each from before a restart, which come back again and again")
        .memory(96);
    let start = async |settings: &[(&str, &str)]| {
        let data = tempfile::tempdir().expect("a temporary folder");
        let before = Server::start_in(data.path(), settings);
        let gone = begin_sessions(before).await;
        (Server::start_in(data.path(), settings), (data, gone))
    };
    siege
        .run_on(start, async |victim, (_, gone)| {
            let (mut recovered, mut peers) = (0, Vec::new());
            for _ in 0..5 {
                // All at once, and those of before have not gone yet.
                let mut again = Vec::new();
                for Gone { pid, offset } in gone {
                    let mut peer = Peer::websocket(victim).await.expect("a WebSocket");
                    peer.text(&format!("40{}", json!({"pid": pid, "offset": offset}))).await;
                    again.push(peer);
                }
                for (peer, Gone { pid, .. }) in again.iter_mut().zip(gone) {
                    let connected = peer.until(|text| text.starts_with("4")).await;
                    recovered += usize::from(connected.contains(pid.as_str()));
                }
                peers = again;
            }
            drop(peers);
            falls_to(victim, "slop_connections", 1).await;
            format!("recovered ({recovered} of 500), or new")
        })
        .await;
}

/// Sessions with a thousand rooms and an event of which each has an offset; the server has ended when this returns.
async fn begin_sessions(server: Server) -> Vec<Gone> {
    let victim = Victim::new(server, None, Origin::OneAddress);
    let mut peers = Vec::new();
    for session in 0..100 {
        let mut peer = Peer::websocket(&victim).await.expect("a WebSocket");
        peer.text("40").await;
        let connected = peer.until(|text| text.starts_with("40{")).await;
        let connected: Value = serde_json::from_str(&connected[2..]).expect("a consent");
        let pid = connected["pid"].as_str().expect("a pid").to_owned();
        peer.texts((0..1_000).map(|room| format!(r#"42["joinRoom","room-{session}-{room}"]"#))).await;
        let last = peer.until(|text| text.contains(&format!("\"room-{session}-999\""))).await;
        let last: Value = serde_json::from_str(&last[2..]).expect("an event");
        let offset = last.as_array().and_then(|arguments| arguments.last()?.as_str()).expect("an offset").to_owned();
        peers.push((peer, Gone { pid, offset }));
    }
    // Something to be replayed.
    let events: Vec<Value> = (0..1_000)
        .map(|number| {
            json!({"kind": "roomEvent", "room": format!("room-{}-{}", number % 100, number % 1_000), "event": "e",
                   "delivery": "durable"})
        })
        .collect();
    let answer = crate::api::post(&victim, "/v1/publish", &json!(events)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    until(async || metric(&victim, "slop_sessions_kept").await >= 100.0).await;
    let gone = peers.into_iter().map(|(_, gone)| gone).collect();
    victim.end().await;
    gone
}

#[tokio::test]
async fn events_to_many_rooms() {
    // What the budget is for all that is remembered, and a third more.
    let siege = Siege::of("tiny events, each to another room with a name of 128 bytes, until no more are remembered")
        .with("PUBLISH_RATE_PER_KEY", "0")
        .memory(96);
    siege
        .run(async |victim| {
            let before = memory(victim, "VmRSS");
            let mut publisher = Peer::connect(victim).await;
            let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
            for batch in 0..100 {
                let item =
                    |number| json!({"kind": "roomEvent", "room": format!("{batch:0>64}{number:0>64}"), "event": "e"});
                let batch = Value::Array((0..1_000).map(item).collect()).to_string();
                publisher.request("POST", "/v1/publish", &headers, batch.as_bytes()).await;
                assert_eq!(publisher.answer().await.expect("an answer").status, 200);
            }
            // What is counted is what it takes; the rest is the store's, and a batch's.
            let grown = memory(victim, "VmRSS").saturating_sub(before);
            let counted = metric(victim, "slop_history_bytes").await as usize / 1024;
            assert!(
                measured().is_some() || grown <= counted + 16 * 1024,
                "{grown} KiB, of which {counted} are counted"
            );
            "remembered while there is room".to_owned()
        })
        .await;
}
