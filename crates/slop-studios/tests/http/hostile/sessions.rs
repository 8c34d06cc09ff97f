//! Polling with a session that is somebody else's, or too often with one's own.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::peer::{HANDSHAKE, Peer, session};
use super::siege::{Siege, limit_met};
use super::victim::Victim;

async fn ask(server: &Victim, method: &str, sid: &str, body: &[u8]) -> (u16, String) {
    let mut peer = Peer::connect(server).await;
    peer.request(method, &format!("{HANDSHAKE}&sid={sid}"), "Connection: close\r\n", body).await;
    let answer = peer.answer().await.expect("an answer");
    (answer.status, answer.body)
}

#[tokio::test]
async fn guessed_sessions() {
    let siege = Siege::of("1,000 guesses of a session's id, the ids of sockets among them");
    siege
        .run(async |server| {
            // What others of a room may know of a client is its socket's id.
            let mut peer = Peer::websocket(server).await.expect("a WebSocket");
            peer.text("40").await;
            let connected = peer.until(|text| text.starts_with("40{")).await;
            let connected: serde_json::Value = serde_json::from_str(&connected[2..]).expect("a consent");
            let socket_id = connected["sid"].as_str().expect("an id").to_owned();
            let own = session(server).await;
            let neighbour = format!("{}{}", if own.starts_with('A') { "B" } else { "A" }, &own[1..]);
            let unknown = (400, r#"{"code":1,"message":"Session ID unknown"}"#.to_owned());
            for guess in [socket_id.as_str(), &neighbour, "%20", "AAAAAAAAAAAAAAAAAAAA", "../../../../etc/pass", "%00"]
            {
                assert_eq!(ask(server, "GET", guess, b"").await, unknown, "{guess}");
                assert_eq!(ask(server, "POST", guess, b"42[\"ping\"]").await, unknown, "{guess}");
            }
            let mut peer = Peer::connect(server).await;
            for number in 0..1_000 {
                let guess = format!("{number:0>20}");
                peer.request("GET", &format!("{HANDSHAKE}&sid={guess}"), "", b"").await;
                assert_eq!(peer.answer().await.expect("an answer").status, 400);
            }
            // It is still there.
            assert_eq!(ask(server, "POST", &own, b"1").await, (200, "ok".to_owned()));
            "400 `Session ID unknown`; an id has 120 random bits, and a socket's id is another".to_owned()
        })
        .await;
}

#[tokio::test]
async fn stolen_sessions() {
    let siege = Siege::of("polls beside the client's own");
    siege
        .run(async |server| {
            for _ in 0..50 {
                let sid = session(server).await;
                assert_eq!(ask(server, "POST", &sid, b"40").await.0, 200);
                // The client's poll is answered with what has come; the next one waits.
                let mut own = Peer::connect(server).await;
                let target = format!("{HANDSHAKE}&sid={sid}");
                own.request("GET", &target, "", b"").await;
                assert_eq!(own.answer().await.expect("an answer").status, 200);
                own.request("GET", &target, "", b"").await;
                // The two may come in either order: whoever is second ends it for both.
                let mut thief = Peer::connect(server).await;
                thief.request("GET", &target, "", b"").await;
                let statuses =
                    [own.answer().await.expect("an answer").status, thief.answer().await.expect("an answer").status];
                assert!(statuses.contains(&400), "{statuses:?}");
                assert_eq!(ask(server, "GET", &sid, b"").await.0, 400);
            }
            "400, and the session ends: nobody polls along unnoticed".to_owned()
        })
        .await;
}

#[tokio::test]
async fn request_floods() {
    let siege = Siege::of("10 sessions that each post 130 times without a pause, where 100 are allowed at once")
        .with("REQUEST_RATE_PER_SESSION", "10");
    siege
        .run(async |server| {
            let began = Instant::now();
            let mut floods = JoinSet::new();
            for _ in 0..10 {
                let target = format!("{HANDSHAKE}&sid={}", session(server).await);
                let mut peer = Peer::connect(server).await;
                floods.spawn(async move {
                    for number in 0..130 {
                        peer.request("POST", &target, "", if number == 0 { b"40" } else { b"3" }).await;
                        assert_eq!(peer.answer().await.map(|answer| answer.status), Some(200));
                    }
                    peer.request("POST", &target, "", b"1").await;
                    assert_eq!(peer.answer().await.map(|answer| answer.status), Some(200));
                });
            }
            floods.join_all().await;
            assert!(began.elapsed() > Duration::from_secs(2), "the last thirty at the rate");
            assert!(limit_met(server, "request rate per session").await > 0);
            "handled; past `REQUEST_RATE_PER_SESSION` at that rate".to_owned()
        })
        .await;
}
