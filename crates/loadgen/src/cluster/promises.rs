//! What was promised for several nodes (issue 17), held against what was measured.

use super::redis::Fsync;
use super::{Kind, Results, Sample, Scenario};
use crate::report::{Table, number};
use crate::sample::median;

/// Bytes of Redis that CLUSTER.md, section 7 gives for a session, a channel, and the list of one event.
const SESSION_BYTES: f64 = 856.0;
const CHANNEL_BYTES: f64 = 225.0;
const FIRST_EVENT_BYTES: f64 = 404.0;

/// Processor time in microseconds that counts as nothing: less than the rounds of a measurement differ by.
const NOTHING: f64 = 0.5;

/// The peers that keep no event.
const KEEPS_NOTHING: [Kind; 3] = [Kind::Pubsub, Kind::Sharded, Kind::Socketioxide];

/// All peers.
const PEERS: [Kind; 4] = [Kind::Streams, Kind::Pubsub, Kind::Sharded, Kind::Socketioxide];

/// One promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Promise {
    /// What was promised.
    pub what: String,
    /// What was found, if it was measured.
    pub found: Option<f64>,
    /// How much it may be.
    pub limit: f64,
    /// Whether the limit is the least, not the most.
    pub is_least: bool,
}

impl Promise {
    /// Whether it is kept, if it was measured.
    #[must_use]
    pub fn is_kept(&self) -> Option<bool> {
        self.found.map(|found| if self.is_least { found >= self.limit } else { found <= self.limit })
    }
}

/// All promises.
#[must_use]
pub fn all(results: &Results) -> Vec<Promise> {
    let mut promises = Vec::new();
    let mut add = |what: String, found: Option<f64>, limit: f64, is_least: bool| {
        promises.push(Promise { what, found, limit, is_least });
    };
    for members in [1, 5, 1_000] {
        let scenario = Scenario::Members(members);
        let total = |sample: &Sample| Some(sample.cost.total());
        let streams = ratio(results, scenario, Kind::Streams, total);
        add(format!("publish to {members} on the other node: ÷ redis-streams-adapter"), streams, 0.5, false);
        let cheapest = highest(results, scenario, &KEEPS_NOTHING, total);
        add(format!("publish to {members} on the other node: ÷ the cheapest that keeps nothing"), cheapest, 1.5, false);
    }
    let p99 = |sample: &Sample| Some(sample.latency?.p99);
    let latency = highest(results, Scenario::Lone, &PEERS, p99);
    add("latency node to node, p99: ÷ the best peer".to_owned(), latency, 1.0, false);
    for (fsync, least) in [(Fsync::EverySecond, 100_000.0), (Fsync::Always, 50_000.0)] {
        let loads = results.loads.iter().filter(|load| load.fsync == fsync);
        let rates = loads.filter_map(|load| median(load.rounds.iter().map(|it| it.for_redis_second)));
        let what = format!("publishes for a second of Redis, `appendfsync {}`", fsync.name());
        add(what, rates.reduce(f64::max), least, true);
    }
    let ours = |scenario| results.of(scenario, Kind::Ours)?.median();
    let elsewhere = ours(Scenario::Elsewhere).and_then(|it| it.beside_idle);
    add("a publish to a room of another node: µs of this node".to_owned(), elsewhere, NOTHING, false);
    for (scenario, how) in [(Scenario::Cut, "cut off"), (Scenario::Killed, "of a killed node")] {
        let back = ours(scenario);
        let clients = super::CLIENTS;
        add(
            format!("{clients} clients {how}, recovered on the other node: s"),
            back.as_ref().map(|it| it.seconds),
            2.0,
            false,
        );
        add(format!("{clients} clients {how}: recovered share"), back.and_then(|it| it.recovered), 1.0, true);
    }
    let memory = results.memory;
    add("bytes of Redis for a session".to_owned(), memory.map(|it| it.session), SESSION_BYTES, false);
    add("bytes of Redis for a room's channel".to_owned(), memory.map(|it| it.room), CHANNEL_BYTES, false);
    add(
        "bytes of Redis for a room's first event".to_owned(),
        memory.map(|it| it.first_event),
        FIRST_EVENT_BYTES,
        false,
    );
    promises
}

fn ratio(results: &Results, scenario: Scenario, peer: Kind, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    results.of(scenario, Kind::Ours)?.ratio_to(results.of(scenario, peer)?, figure)
}

/// The ratio to the best of the peers: that to which ours is worst.
fn highest(
    results: &Results,
    scenario: Scenario,
    peers: &[Kind],
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<f64> {
    peers.iter().filter_map(|&peer| ratio(results, scenario, peer, &figure)).reduce(f64::max)
}

/// The promises as a table.
#[must_use]
pub fn table(results: &Results) -> Table {
    let mut table = Table::new(["promise", "found", "limit", ""]);
    for promise in all(results) {
        let verdict = promise.is_kept().map_or("not measured", |is_kept| if is_kept { "pass" } else { "FAIL" });
        let limit = format!("{} {}", if promise.is_least { "≥" } else { "≤" }, number(promise.limit));
        let found = promise.found.map_or_else(String::new, number);
        table.row(vec![promise.what, found, limit, verdict.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Series;
    use crate::cluster::nodes::Cost;
    use crate::sample::Latency;

    fn series(scenario: Scenario, kind: Kind, redis: &[f64]) -> Series {
        let sample = |&redis: &f64| {
            let latency = Some(Latency { p50: redis, p99: redis, max: redis });
            let cost = Cost { a: 1.0, b: 1.0, redis };
            let (beside_idle, recovered) = (None, None);
            Ok(Sample {
                cost,
                beside_idle,
                rate: 1.0,
                own_busy: 0.1,
                latency,
                commands: Vec::new(),
                recovered,
                seconds: 1.0,
            })
        };
        Series { scenario, kind, rounds: redis.iter().map(sample).collect() }
    }

    #[test]
    fn ours_is_compared_with_the_best_peer() {
        let one = Scenario::Members(1);
        let results = Results {
            series: vec![
                series(one, Kind::Ours, &[8.0, 8.0]),
                series(one, Kind::Streams, &[23.0, 18.0]),
                series(one, Kind::Pubsub, &[18.0, 18.0]),
                series(one, Kind::Socketioxide, &[6.0, 6.0]),
            ],
            ..Results::default()
        };
        let promises = all(&results);
        assert_eq!((promises[0].found, promises[0].is_kept()), (Some(0.45), Some(true)));
        assert_eq!((promises[1].found, promises[1].is_kept()), (Some(1.25), Some(true)));
        assert_eq!(promises[2].is_kept(), None);
    }

    #[test]
    fn a_least_is_kept_from_above() {
        let promise = |found| Promise { what: String::new(), found: Some(found), limit: 5.0, is_least: true };
        assert_eq!((promise(5.0).is_kept(), promise(4.0).is_kept()), (Some(true), Some(false)));
    }
}
