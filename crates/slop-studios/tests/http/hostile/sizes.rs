//! What the server holds for what it counts.

use super::peer::Peer;
use super::siege::{memory, metric, until};
use super::victim::{Origin, Victim};
use crate::server::Server;

const ROOMS: usize = 1_000;

/// As [the list of limits](../../../../../docs/security.md#the-list) says.
const MOST_OF_A_ROOM: usize = 900;

/// Rooms of sockets, by RSS, with all that belongs to them: the sockets' own lists, the shard's index, and what is
/// saved for recovery.
#[tokio::test]
async fn rooms() {
    const SOCKETS: usize = 50;
    for (bytes, own) in [(8, false), (36, false), (128, false), (8, true), (36, true), (128, true)] {
        let victim = Victim::new(Server::start_with(&[("SHARDS", "1")]), None, Origin::OneAddress);
        let mut peers = Vec::new();
        for _ in 0..SOCKETS {
            peers.push(Peer::client(&victim).await);
        }
        let before = memory(&victim, "VmRSS");
        for (socket, peer) in peers.iter_mut().enumerate() {
            let name =
                |room| if own { format!("{:0>bytes$}", socket * ROOMS + room) } else { format!("{room:0>bytes$}") };
            peer.texts((0..ROOMS).map(|room| format!(r#"42["joinRoom","{}"]"#, name(room)))).await;
            peer.until(|text| text.starts_with("42[\"roomJoined\"") && text.contains(&name(ROOMS - 1))).await;
        }
        // Sessions are saved later.
        until(async || metric(&victim, "slop_sessions_kept").await >= SOCKETS as f64).await;
        let grown = memory(&victim, "VmRSS").saturating_sub(before) * 1024 / (SOCKETS * ROOMS);
        let whose = if own { "that no other socket is in" } else { "that all sockets are in" };
        println!("\n| a room {whose}, with a name of {bytes} bytes | {grown} | `sizes::rooms` |");
        assert!(grown <= MOST_OF_A_ROOM, "{grown} bytes");
    }
}
