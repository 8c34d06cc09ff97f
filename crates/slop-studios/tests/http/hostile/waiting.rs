//! What waits for the disk, or for keys, and is held meanwhile.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use socketio_protocol::websocket::OpCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::peer::{Frame, Peer, masked};
use super::polling::Polling;
use super::siege::{Siege, falls_to, metric};
use super::victim::{Origin, Victim};
use crate::faults::FaultyDisk;
use crate::issuer::{Issuer, Key, Says};
use crate::server::{KEY, Server};

/// A commit on the slow disk.
const COMMIT_MS: u32 = 100;

/// A page with so many subscriptions has them after a handful of commits. Here are a hundred and fifty.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(15);

/// What does not need the disk does not wait for it: twenty commits.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn subscriptions_on_a_slow_disk() {
    let siege = Siege::of("a page that subscribes to 1,000 media items at once, on a disk that takes 100 ms a commit")
        .slow_disk(COMMIT_MS)
        .memory(32);
    let start = async |settings: &[(&str, &str)]| {
        let disk = FaultyDisk::new();
        (disk.start(settings), disk)
    };
    siege
        .run_on(start, async |victim, disk| {
            disk.set(&format!("sync * wait {COMMIT_MS}"));
            let mut page = Peer::client(victim).await;
            page.text("40/media,").await;
            page.until(|text| text.starts_with("42/media,[\"welcome\"")).await;
            page.texts((1..=1_000).map(|id| format!(r#"42/media,{id}["subscribeMedia","item-{id}"]"#))).await;
            // The page's other namespace.
            page.text(r#"420["ping"]"#).await;
            let began = Instant::now();
            let (mut acks, mut answered) = (0, None);
            while acks < 1_000 || answered.is_none() {
                let frame = timeout(SUBSCRIBED_WITHIN.saturating_sub(began.elapsed()), page.frame()).await;
                match frame.unwrap_or_else(|_| panic!("{acks} subscriptions, a ping after {answered:?}")) {
                    Frame::Text(text) if text.starts_with("430[") => answered = Some(began.elapsed()),
                    Frame::Text(text) if text.starts_with("43/media,") => acks += 1,
                    Frame::Text(heartbeat) if heartbeat == "2" => _ = page.text("3").await,
                    Frame::Text(_) => {}
                    end => panic!("{end:?} after {acks} subscriptions"),
                }
            }
            disk.set("");
            assert!(answered.is_some_and(|took| took < ANSWERED_WITHIN), "the page's ping took {answered:?}");
            "subscribed after some commits; what else the page asks for is answered meanwhile".to_owned()
        })
        .await;
}

#[tokio::test]
async fn arguments_behind_a_hanging_disk() {
    let siege = Siege::of("8 clients that send 64 MB each, in events that wait for a disk that hangs")
        .with("MAX_UNFINISHED_BYTES", "16000000")
        .without_publishes()
        .memory(48);
    let start = async |settings: &[(&str, &str)]| {
        let disk = FaultyDisk::new();
        (disk.start(settings), disk)
    };
    siege
        .run_on(start, async |victim, disk| {
            disk.set("sync,write * hang");
            let mut publisher = Peer::connect(victim).await;
            let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
            let body = json!({"type": "info", "title": "t", "message": "m"}).to_string();
            publisher.request("POST", "/v1/users/u/notifications", &headers, body.as_bytes()).await;
            let event = format!(r#"42/media,["subscribeMedia","item","{}"]"#, "x".repeat(990_000));
            let frame: Arc<[u8]> = masked(OpCode::Text, event.as_bytes()).into();
            let mut peers = JoinSet::new();
            for _ in 0..8 {
                let mut peer = Peer::client(victim).await;
                peer.text("40/media,").await;
                peer.until(|text| text.starts_with("42/media,[\"welcome\"")).await;
                let frame = Arc::clone(&frame);
                peers.spawn(async move {
                    for _ in 0..64 {
                        // Whoever is not read any more sends no more.
                        if timeout(Duration::from_secs(1), peer.send(&frame)).await != Ok(true) {
                            break;
                        }
                    }
                    peer
                });
            }
            let peers = peers.join_all().await;
            disk.set("");
            assert_eq!(publisher.answer().await.expect("an answer").status, 200);
            drop(peers);
            falls_to(victim, "slop_connections", 1).await;
            "no longer read, or closed, past `MAX_UNFINISHED_BYTES`".to_owned()
        })
        .await;
}

const SILENT: usize = 200;

/// Some clients that ask for answers and do not poll, and how many bytes waited for them at most.
pub(super) async fn silent_clients(victim: &Victim) -> (Vec<Polling>, f64) {
    let joins = (0..50).map(|number| format!(r#"42["joinRoom","{number:0>128}"]"#));
    let asks = (0..140).map(|number| format!(r#"42{number}["getConnectionInfo"]"#));
    let body = joins.chain(asks).collect::<Vec<String>>().join("\x1e");
    let (mut clients, mut most) = (Vec::new(), 0.0_f64);
    for _ in 0..SILENT {
        let mut client = Polling::client(victim).await;
        client.begin_post(&body).await;
        clients.push(client);
        most = most.max(metric(victim, "slop_unarrived_bytes").await);
    }
    (clients, most)
}

#[tokio::test]
async fn answers_that_nobody_polls() {
    let siege = Siege::of("200 polling clients that ask for 1 MB of answers each, and do not poll")
        .with("MAX_UNARRIVED_BYTES", "16000000")
        .with("PING_INTERVAL_MS", "1000")
        .with("PING_TIMEOUT_MS", "2000")
        .memory(48);
    siege
        .run(async |victim| {
            let (clients, most) = silent_clients(victim).await;
            let half = match victim.origin {
                Origin::OneAddress => 2_000_000.0,
                Origin::ThousandAddresses => 8_000_000.0,
            };
            // Some KiB of each are let be.
            assert!((half..2.0 * half + 4_096.0 * SILENT as f64).contains(&most), "{most}");
            drop(clients);
            falls_to(victim, "slop_connections", 1).await;
            "no longer read past half of `MAX_UNARRIVED_BYTES` or of an address's share of it; `ping timeout`"
                .to_owned()
        })
        .await;
}

#[tokio::test]
async fn connects_that_wait_for_keys() {
    let siege = Siege::of("60 CONNECTs of 1 MB with tokens of an unknown key, whose issuer takes 3 s")
        .with("JWKS_COOLDOWN_MS", "100")
        .with("MAX_UNFINISHED_BYTES", "16000000")
        .memory(48);
    let start = async |settings: &[(&str, &str)]| {
        let known = Key::new("known");
        let issuer = Issuer::new(Says::keys(&[&known]));
        let url = issuer.url();
        let mut settings = settings.to_vec();
        settings.push(("JWKS_URL", &url));
        let server = Server::start_with(&settings);
        issuer.says(Says::keys(&[&known]).after(Duration::from_secs(3)));
        (server, issuer)
    };
    siege
        .run_on(start, async |victim, _| {
            let token = Key::new("unknown").token("u");
            let connect = format!(r#"40{{"token":"{token}","more":"{}"}}"#, "x".repeat(990_000));
            let mut peers = Vec::new();
            for _ in 0..60 {
                let mut peer = Peer::websocket(victim).await.expect("a WebSocket");
                peer.text(&connect).await;
                peers.push(peer);
            }
            for peer in &mut peers {
                // Told that it is nobody, or closed because too much waits.
                while let Frame::Text(text) = peer.frame().await {
                    if text.starts_with("42[\"authError\"") {
                        break;
                    }
                }
            }
            drop(peers);
            falls_to(victim, "slop_connections", 1).await;
            "`authError`; closed past `MAX_UNFINISHED_BYTES`".to_owned()
        })
        .await;
}
