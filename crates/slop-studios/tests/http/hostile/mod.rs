//! What the open internet sends: one file for each kind of attack, one test for each attack. Every test says what the server
//! answers, and [`siege`] checks the rest: a bystander on the same shard gets all its answers, memory stays bounded, and
//! nothing of the attackers is left.
//!
//! Each prints a row of the table in `docs/security.md`:
//!
//! ```text
//! HOSTILE_SECONDS=10 cargo test --release -p slop-studios --test http hostile -- --nocapture --test-threads=1 | grep '^|'
//! ```

mod bodies;
mod floods;
mod frames;
mod half_open;
mod names;
mod peer;
mod sessions;
mod siege;
mod slow_requests;
