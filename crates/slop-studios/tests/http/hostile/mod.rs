//! What the open internet sends: one file for each kind of attack, one test for each attack. Every test says what the server
//! answers, and [`siege`] checks the rest: a bystander on the same shard gets all its answers, memory stays bounded, and
//! nothing of the attackers is left.
//!
//! Each prints a row of the table in `docs/security.md`, which `make attacks` writes: there they are repeated for some seconds, and
//! from a thousand addresses as well as from one, and the bystanders' waiting has limits.

mod bodies;
mod bystanders;
mod calm;
mod floods;
mod frames;
mod half_open;
mod names;
pub(crate) mod peer;
mod places;
mod polling;
mod recovery;
mod sessions;
pub(crate) mod siege;
mod sizes;
mod slow_requests;
pub(crate) mod victim;
mod waiting;
mod work;
mod worst_case;
