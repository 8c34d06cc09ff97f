//! What was promised (DESIGN §6, issue 3), held against what was measured.

use crate::bench::Results;
use crate::sample::Sample;
use crate::server::{ALL, Kind};
use crate::workload::{SMALL, Workload};

/// One promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was promised.
    pub promise: String,
    /// What was found, if it was measured.
    pub found: Option<f64>,
    /// The most that it may be.
    pub limit: f64,
}

/// Whether a promise is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Pass,
    /// It is not.
    Fail,
    /// Nobody knows.
    NotMeasured,
}

impl Line {
    /// Whether it is kept.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.found {
            None => Verdict::NotMeasured,
            Some(found) if found <= self.limit => Verdict::Pass,
            Some(_) => Verdict::Fail,
        }
    }
}

const OURS: Kind = Kind::Ours(1);

/// All promises.
#[must_use]
pub fn lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |promise: String, found: Option<f64>, limit: f64| lines.push(Line { promise, found, limit });
    let ratio = |workload, own, other| results.of(workload, own)?.ratio_to(results.of(workload, other)?);
    let median = |workload| results.of(workload, OURS)?.median();

    for (members, in_flight) in [(1_000, 1), (1_000, 8), (8_000, 2)] {
        let workload = Workload::Fanout { members, in_flight, bytes: SMALL };
        let name = workload.name();
        line(format!("{name}: ÷ floor"), ratio(workload, OURS, Kind::Floor), 1.1);
        line(format!("{name}: ÷ uWebSockets"), ratio(workload, OURS, Kind::Uws), 1.0);
        for peer in [Kind::Bun, Kind::Socketioxide, Kind::Ws] {
            line(format!("{name}: ÷ {peer}"), ratio(workload, OURS, peer), 1.0);
        }
        line(format!("{name}: 2 shards ÷ 1 shard"), ratio(workload, Kind::Ours(2), OURS), 1.1);
    }
    line("ping: ÷ floor".to_owned(), ratio(Workload::Ping, OURS, Kind::Floor), 1.4);
    let best = |workload| {
        let peers = ALL.into_iter().filter(|kind| kind.is_peer());
        peers.filter_map(|peer| ratio(workload, OURS, peer)).reduce(f64::max)
    };
    line("ping: ÷ the best peer".to_owned(), best(Workload::Ping), 0.8);
    line("connect: ÷ uWebSockets".to_owned(), ratio(Workload::Connect, OURS, Kind::Uws), 0.4);
    for (three_namespaces, limit) in [(false, 3.0), (true, 4.0)] {
        let workload = Workload::Idle { connections: 8_000, three_namespaces };
        let found = median(workload);
        line(format!("{}: KiB / connection", workload.name()), found.as_ref().map(|it| it.cost), limit);
        let excess = found.as_ref().and_then(remaining);
        line(format!("{}: what remains ÷ what may", workload.name()), excess, 1.0);
    }
    line("fairness: p99 ÷ p50 of ping".to_owned(), median(Workload::Fairness).map(|it| it.cost), 3.0);
    let stopped = |stopped| median(Workload::Stopped { stopped })?.latency;
    let p99s = stopped(1_000).zip(stopped(0)).map(|(with, without)| with.p99 / without.p99);
    line("readers beside 1,000 stopped ones: p99 ÷ without".to_owned(), p99s, 1.5);
    let own = results.series.iter().filter(|series| matches!(series.server, Kind::Ours(_)));
    let failures = own.clone().filter(|series| series.error().is_some()).count();
    line(
        "measurements of ours with anything lost or failed".to_owned(),
        own.clone().next().map(|_| failures as f64),
        0.0,
    );
    lines
}

/// After all have left: the memory, over the empty server's and 10 % and 1 KiB for each connection that was.
fn remaining(sample: &Sample) -> Option<f64> {
    let memory = sample.memory?;
    Some(memory.after? / (memory.empty * 1.1 + memory.connections))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::{sample, series};
    use crate::sample::Memory;

    fn find(results: &Results, promise: &str) -> Line {
        lines(results).into_iter().find(|line| line.promise == promise).unwrap()
    }

    #[test]
    fn ratios_decide() {
        let results = Results {
            series: vec![
                series(Workload::Ping, OURS, &[10.0]),
                series(Workload::Ping, Kind::Floor, &[8.0]),
                series(Workload::Ping, Kind::Uws, &[20.0]),
                series(Workload::Ping, Kind::Bun, &[12.0]),
            ],
            skipped: 0,
        };
        let floor = find(&results, "ping: ÷ floor");
        assert_eq!((floor.found, floor.verdict()), (Some(1.25), Verdict::Pass));
        // The best peer is the one that it is closest to.
        let best = find(&results, "ping: ÷ the best peer");
        assert_eq!((best.found.map(|it| (it * 100.0).round()), best.verdict()), (Some(83.0), Verdict::Fail));
        assert_eq!(find(&results, "connect: ÷ uWebSockets").verdict(), Verdict::NotMeasured);
    }

    #[test]
    fn what_remains_is_the_empty_server_and_a_kib_each() {
        let workload = Workload::Idle { connections: 8_000, three_namespaces: false };
        let mut idle = series(workload, OURS, &[]);
        let memory = Memory { connections: 8_000.0, empty: 10_000.0, full: 30_000.0, after: Some(19_000.0) };
        idle.rounds.push(Ok(Sample { memory: Some(memory), ..sample(2.5) }));
        let results = Results { series: vec![idle], skipped: 0 };
        assert_eq!(find(&results, "idle-8000: what remains ÷ what may").found, Some(1.0));
        assert_eq!(find(&results, "idle-8000: KiB / connection").verdict(), Verdict::Pass);
    }

    #[test]
    fn a_loss_fails() {
        let mut lost = series(Workload::Ping, OURS, &[1.0]);
        lost.rounds.push(Err("lost".to_owned()));
        let results = Results { series: vec![lost], skipped: 0 };
        assert_eq!(find(&results, "measurements of ours with anything lost or failed").verdict(), Verdict::Fail);
    }
}
