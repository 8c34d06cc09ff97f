//! What costs the server more than its bytes say.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::json;
use slop_studios::contract::time::epoch_seconds;
use tempfile::TempDir;

use super::peer::Peer;
use super::polling::Polling;
use super::siege::{Siege, falls_to, measured, try_metric, until};
use super::victim::Victim;
use crate::server::{Server, token};

/// A body of one packet again and again: nearly all that it may have, or where nothing is measured a tenth of it.
fn body_of(packet: &str) -> String {
    let bytes = if measured().is_some() { 990_000 } else { 99_000 };
    let mut body = format!("{packet}\x1e").repeat(bytes / (packet.len() + 1));
    body.push_str(r#"421["getConnectionInfo"]"#);
    body
}

fn authenticate(token: &str) -> String {
    format!(r#"42["authenticate",{{"token":"{token}"}}]"#)
}

fn joins(count: usize) -> String {
    (0..count).map(|number| format!(r#"42["joinRoom","project-{number}-a-b"]"#)).collect::<Vec<_>>().join("\x1e")
}

/// Sessions that are in their rooms, with nothing waiting for them.
async fn in_rooms(victim: &Victim, sessions: usize, rooms: usize) -> Vec<Polling> {
    let mut all = Vec::new();
    for _ in 0..sessions {
        let mut session = Polling::client(victim).await;
        if rooms > 0 {
            assert_eq!(session.post(&joins(rooms)).await, 200);
            session.until(|packet| packet.contains(&format!("\"project-{}-a-b\"", rooms - 1))).await;
        }
        all.push(session);
    }
    all
}

/// Each posts its body and reads all the time what comes of it. Whoever is no longer served is so by a limit.
async fn post_all(sessions: Vec<Polling>, body: &str) {
    let mut posts = tokio::task::JoinSet::new();
    for mut session in sessions {
        let body = body.to_owned();
        posts.spawn(async move {
            session.exchange(&body, |packet| packet.starts_with("431[")).await;
            session.leave().await;
        });
    }
    posts.join_all().await;
}

const AUTHENTICATES: &str = "each is answered, or refused by a limit";

#[tokio::test]
async fn authenticate_in_a_thousand_rooms() {
    let siege = Siege::of("a polling session in 1,000 rooms that posts 1 MB of `authenticate`").memory(32);
    siege
        .run(async |victim| {
            let sessions = in_rooms(victim, 1, 1_000).await;
            post_all(sessions, &body_of(&authenticate(&token(&user())))).await;
            AUTHENTICATES.to_owned()
        })
        .await;
}

#[tokio::test]
async fn authenticate_of_twelve_sessions() {
    let siege = Siege::of("twelve polling sessions of one user, each in 1,000 rooms, that post 1 MB of `authenticate`")
        .memory(64);
    siege
        .run(async |victim| {
            let sessions = in_rooms(victim, 12, 1_000).await;
            post_all(sessions, &body_of(&authenticate(&token(&user())))).await;
            AUTHENTICATES.to_owned()
        })
        .await;
}

/// Nineteen rules that are asked in vain, and one.
fn rules() -> String {
    let rule = |number| format!("[[rooms]]\nname = \"project-{{a}}-{{b}}-c{number}\"\nallow = \"authenticated\"\n");
    let others: String = (0..19).map(rule).collect();
    format!("{others}[[rooms]]\nname = \"*\"\nallow = \"anyone\"\n")
}

fn with_rules(settings: &[(&str, &str)]) -> (Server, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("slop.toml");
    std::fs::write(&file, rules()).expect("it can be written");
    let mut command = Server::command(&folder.path().join("data"), settings);
    command.arg("--config").arg(file);
    (Server::spawn(command), folder)
}

#[tokio::test]
async fn authenticate_with_twenty_rules() {
    let siege =
        Siege::of("a polling session in 1,000 rooms that posts 1 MB of `authenticate`, with 20 rules for rooms")
            .memory(32);
    siege
        .run_on(
            async |settings| with_rules(settings),
            async |victim, _| {
                let sessions = in_rooms(victim, 1, 1_000).await;
                post_all(sessions, &body_of(&authenticate(&token(&user())))).await;
                AUTHENTICATES.to_owned()
            },
        )
        .await;
}

#[tokio::test]
async fn authenticate_by_es384() {
    let siege = Siege::of("a polling session that posts 1 MB of `authenticate`, with tokens by ES384").memory(32);
    let start = async |settings: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let file = folder.path().join("key.pem");
        std::fs::write(&file, pair.public_key_pem()).expect("it can be written");
        let file = file.to_str().expect("a UTF-8 path").to_owned();
        let mut settings = settings.to_vec();
        settings.push(("JWT_PUBLIC_KEYS", &file));
        (Server::start_with(&settings), (folder, EncodingKey::from_ec_der(&pair.serialize_der())))
    };
    siege
        .run_on(start, async |victim, (_, key)| {
            let claims = json!({"sub": user(), "exp": epoch_seconds() + 3600});
            let token = encode(&Header::new(Algorithm::ES384), &claims, key).expect("it signs");
            let sessions = in_rooms(victim, 1, 0).await;
            post_all(sessions, &body_of(&authenticate(&token))).await;
            AUTHENTICATES.to_owned()
        })
        .await;
}

/// Another one each time, so that no rate of a user is used up by the time before.
fn user() -> String {
    static USERS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    format!("user-{}", USERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[tokio::test]
async fn events_behind_a_login() {
    let siege = Siege::of("a body of `authenticate` and 3,000 events, where a user may send one a second")
        .with("EVENT_RATE_PER_USER", "1")
        .memory(96);
    siege
        .run(async |victim| {
            let mut session = Polling::client(victim).await;
            let mut body = authenticate(&token(&user()));
            for id in 10..3_010 {
                body.push_str(&format!("\x1e42{id}[\"ping\"]"));
            }
            let packets = session.exchange(&body, |packet| packet.starts_with("433009[")).await;
            let served =
                packets.iter().filter(|packet| packet.starts_with("43") && packet.contains("timestamp")).count();
            // Ten at once, and some that the seconds bring.
            session.leave().await;
            assert!((1..100).contains(&served), "{served} of 3,000 were served");
            "acks `Too many events` past `EVENT_RATE_PER_USER`".to_owned()
        })
        .await;
}

#[tokio::test]
async fn joins_of_a_client_that_reads() {
    // Those that have left are kept to come back, each with as much of its last events as is sent again: 64 MiB of all.
    let siege = Siege::of("a polling session that posts 5,000 joins of a room with a long name and reads all the time")
        .memory(64 + 16);
    siege
        .run(async |victim| {
            let mut session = Polling::client(victim).await;
            // Answered by an ack and an event of some 200 bytes each.
            let joins = vec![format!(r#"421["joinRoom","{:x>128}"]"#, ""); 5_000];
            let mut acks = 0;
            session
                .exchange(&joins.join("\x1e"), |packet| {
                    acks += usize::from(packet.starts_with("431["));
                    acks == 5_000
                })
                .await;
            session.leave().await;
            assert_eq!(acks, 5_000);
            "all of them answered".to_owned()
        })
        .await;
}

#[tokio::test]
async fn reloads() {
    let siege = Siege::of("400 clients in 1,000 rooms each, and reloads of the configuration").memory(200);
    siege
        .run_on(
            async |settings| with_rules(settings),
            async |victim, folder| {
                let joins: Vec<String> =
                    (0..1_000).map(|number| format!(r#"42["joinRoom","project-{number}-a-b"]"#)).collect();
                let mut peers = Vec::new();
                for _ in 0..400 {
                    let mut peer = Peer::client(victim).await;
                    peer.texts(&joins).await;
                    peer.text(r#"421["getConnectionInfo"]"#).await;
                    peer.until(|text| text.starts_with("431[")).await;
                    peers.push(peer);
                }
                let applied = "slop_reloads_total{outcome=\"applied\"}";
                for number in 0..10 {
                    // Another set of rules each time, which lets them stay.
                    let rules = format!("[[rooms]]\nname = \"none-{number}\"\nallow = \"nobody\"\n{}", rules());
                    std::fs::write(folder.path().join("slop.toml"), rules).expect("it can be written");
                    let before = try_metric(victim, applied).await;
                    victim.signal("HUP");
                    until(async || try_metric(victim, applied).await > before).await;
                }
                drop(peers);
                falls_to(victim, "slop_sockets", 1).await;
                "rules are asked again for each".to_owned()
            },
        )
        .await;
}

/// Each of these changes is one of a session of a thousand rooms.
#[tokio::test]
async fn changes_of_large_sessions() {
    const CLIENTS: usize = 40;
    let siege =
        Siege::of("40 clients in 1,000 rooms each that leave one and join it again, ten times a second").memory(96);
    siege
        .run(async |victim| {
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..CLIENTS {
                let mut client = Peer::client(victim).await;
                client.texts((0..1_000).map(|room| format!(r#"42["joinRoom","{room:0>128}"]"#))).await;
                client.text(r#"421["getConnectionInfo"]"#).await;
                client.until(|text| text.starts_with("431[")).await;
                clients.spawn(async move {
                    for _ in 0..20 {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        let room = format!("{:0>128}", 0);
                        client.text(&format!(r#"42["leaveRoom","{room}"]"#)).await;
                        client.text(&format!(r#"422["joinRoom","{room}"]"#)).await;
                        let ack = client.until(|text| text.starts_with("432[")).await;
                        assert!(ack.contains(r#""success":true"#), "{ack}");
                    }
                });
            }
            clients.join_all().await;
            falls_to(victim, "slop_connections", 1).await;
            "handled; its sessions are saved for a slice of time at a time".to_owned()
        })
        .await;
}
