//! No attack: what the bystanders wait for on this machine.

use std::time::Duration;

use super::siege::{Siege, measured};

#[tokio::test]
async fn no_attack() {
    let siege = Siege::of("none, for comparison").one_address_only();
    siege
        .run(async |_| {
            tokio::time::sleep(measured().unwrap_or(Duration::ZERO)).await;
            "as always".to_owned()
        })
        .await;
}
