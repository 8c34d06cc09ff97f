//! All that clients can make the server hold, at once.

use super::floods::greedy_clients;
use super::siege::{Siege, falls_to, metric};
use super::slow_requests::half_messages;
use super::victim::Origin;
use super::waiting::silent_clients;

/// By docs/security.md, with 760 connections: 16 MB of messages, 16 MB that waits, 40,000 rooms at 850 bytes, 23 KiB for each
/// connection and what is let be of it.
#[tokio::test]
async fn messages_answers_and_rooms() {
    let siege =
        Siege::of("500 half messages, 200 clients that do not take their answers, and 60 in 1,000 rooms, at once")
            .with("MAX_UNFINISHED_BYTES", "16000000")
            .with("MAX_UNARRIVED_BYTES", "16000000")
            .with("MAX_ROOMS", "40000")
            .with("RECOVERY_MS", "0")
            .with("PING_INTERVAL_MS", "15000")
            .with("PING_TIMEOUT_MS", "4000")
            .memory(80);
    siege
        .run(async |victim| {
            // Half messages last: who sends much at a time is closed for them if it has the same address.
            let (greedy, _) = greedy_clients(victim).await;
            let (silent, most) = silent_clients(victim).await;
            let half = half_messages(victim).await;
            let share = match victim.origin {
                Origin::OneAddress => 0.25,
                Origin::ThousandAddresses => 1.0,
            };
            // And what is let be of each.
            assert!(metric(victim, "slop_unfinished_bytes").await <= 16_000_000.0);
            assert!(most <= share * 16_000_000.0 + 4_096.0 * 260.0, "{most}");
            let rooms = metric(victim, "slop_room_memberships").await;
            assert!(rooms <= share * 40_000.0 + 8.0 * 260.0, "{rooms}");
            drop((greedy, silent, half));
            falls_to(victim, "slop_connections", 1).await;
            "as each of them".to_owned()
        })
        .await;
}
