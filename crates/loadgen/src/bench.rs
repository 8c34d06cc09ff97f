//! Rounds over workloads and servers, and their results.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::publishing::Lanes;
use crate::sample::{Sample, median};
use crate::server::{Kind, Places, Server};
use crate::workload::{GROWTH, Pace, SMALL, Workload, all};

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Order {
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// The servers, in the order of the tables.
    pub servers: Vec<Kind>,
    /// Measurements of each server under each workload, at least 1; some get more or fewer.
    pub rounds: usize,
    /// A look of two minutes instead of figures that are kept.
    pub quick: bool,
    /// Over how many connections publishes go in, if not as suits the server.
    pub lanes: Option<Lanes>,
}

/// All measurements of one server under one workload.
#[derive(Debug)]
pub struct Series {
    /// Under which load.
    pub workload: Workload,
    /// Which server.
    pub server: Kind,
    /// One for each round: what was found, or what went wrong.
    pub rounds: Vec<Result<Sample, String>>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// By workload, then by server.
    pub series: Vec<Series>,
    /// Measurements that there was no time for.
    pub skipped: usize,
}

/// The quick form ends within two minutes; a measurement that begins late is cut short for that.
const QUICK_BUDGET: Duration = Duration::from_secs(115);

/// What a measurement of the quick form may need.
const QUICK_RESERVE: Duration = Duration::from_secs(8);

/// Rounds of the growth plot, whose points are many and support each other.
const GROWTH_ROUNDS: usize = 3;

/// The workloads of the quick form: the three of DESIGN §6, and one of each other kind that is soon done.
#[must_use]
pub fn quick() -> Vec<Workload> {
    let fanout = [(1_000, 1), (1_000, 8), (8_000, 2)];
    let mut quick: Vec<Workload> =
        fanout.map(|(members, in_flight)| Workload::Fanout { members, in_flight, bytes: SMALL }).into();
    quick.extend([
        Workload::Ping,
        Workload::Connect,
        Workload::Idle { connections: 8_000, three_namespaces: false },
        Workload::Publish,
        Workload::Mixed,
    ]);
    quick
}

impl Order {
    /// The servers of the order that a workload is for.
    fn servers_for(&self, workload: Workload) -> Vec<Kind> {
        let big = match workload {
            Workload::Fanout { members, .. } => members >= 8_000,
            Workload::Idle { connections, .. } => connections >= 8_000,
            _ => false,
        };
        // Recovery costs something for each publish; the other workloads have few, or large ones.
        let is_without_recovery =
            matches!(workload, Workload::Publish | Workload::Fanout { members: 1_000, bytes: SMALL, .. });
        let takes_part = |kind: &Kind| match workload {
            _ if *kind == Kind::WithoutRecovery => is_without_recovery,
            // Each point costs a start; the peer to beat is enough.
            // Others know no sessions, or take no events of which the newest is enough.
            Workload::Recover { .. } | Workload::Stopped { .. } => matches!(kind, Kind::Ours(_)),
            Workload::Growth { .. } => !kind.is_peer() || *kind == Kind::Uws,
            // The number of shards matters to what is spread over them.
            Workload::Idle { .. } | Workload::Publish => !matches!(kind, Kind::Ours(2) | Kind::Engine(2)),
            _ => true,
        };
        let in_time = |kind: &Kind| !(self.quick && big && kind.is_peer() && *kind != Kind::Uws);
        self.servers.iter().copied().filter(|kind| takes_part(kind) && in_time(kind)).collect()
    }

    /// How many rounds a workload gets.
    fn rounds_of(&self, workload: Workload) -> usize {
        match workload {
            Workload::Growth { .. } => self.rounds.min(GROWTH_ROUNDS),
            // Their promises are the narrowest: nine rounds tell 0.95 from 1.0 where five don't.
            Workload::Fanout { bytes: SMALL, .. } => self.rounds * 2 - 1,
            _ => self.rounds,
        }
    }

    /// Measures. `report` is called with each workload's series when it is done.
    ///
    /// # Errors
    /// If a server's program is missing.
    pub fn carry_out(&self, places: &Places, mut report: impl FnMut(&[Series])) -> Result<Results> {
        for &kind in &self.servers {
            if let Some(file) = places.missing(kind) {
                bail!("{} is missing; `bench/setup` makes it, or name other servers with --servers", file.display());
            }
        }
        let begun = Instant::now();
        let pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        let pace = Pace { lanes: self.lanes, ..pace };
        let mut results = Results::default();
        for &workload in &self.workloads {
            let rounds = self.rounds_of(workload);
            let servers = self.servers_for(workload);
            let mut series: Vec<Series> =
                servers.iter().map(|&server| Series { workload, server, rounds: Vec::new() }).collect();
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..series.len()).collect();
                // Back and forth, so that a machine that gets slower or faster favours nobody.
                if round % 2 == 1 {
                    order.reverse();
                }
                for index in order {
                    let mut pace = pace;
                    if self.quick {
                        let left = QUICK_BUDGET.saturating_sub(begun.elapsed());
                        if left < QUICK_RESERVE {
                            results.skipped += 1;
                            continue;
                        }
                        pace.limit = pace.limit.min(left);
                    }
                    let outcome = measure(workload, series[index].server, places, &pace);
                    progress(workload, series[index].server, round, rounds, &outcome);
                    series[index].rounds.push(outcome);
                }
            }
            series.retain(|it| !it.rounds.is_empty());
            report(&series);
            results.series.extend(series);
        }
        Ok(results)
    }
}

fn measure(workload: Workload, kind: Kind, places: &Places, pace: &Pace) -> Result<Sample, String> {
    let mut server = Server::start(kind, places, workload.settings()).map_err(|error| format!("{error:#}"))?;
    workload.run(&server, pace).map_err(|error| {
        let words = server.last_words();
        format!("{error:#} ({words})")
    })
}

fn progress(workload: Workload, kind: Kind, round: usize, rounds: usize, outcome: &Result<Sample, String>) {
    let round = round + 1;
    match outcome {
        Ok(sample) => eprintln!(
            "{:18} {kind:13} round {round}/{rounds}  {:9.2} {}  server {:3.0} %, loadgen {:3.0} % of a core",
            workload.name(),
            sample.cost,
            workload.unit(),
            sample.server_busy * 100.0,
            sample.own_busy * 100.0
        ),
        Err(error) => eprintln!("{:18} {kind:13} round {round}/{rounds}  FAILED: {error}", workload.name()),
    }
}

impl Series {
    /// The measurements that came to something.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.rounds.iter().flatten()
    }

    /// The median of each figure, if all rounds came to something.
    #[must_use]
    pub fn median(&self) -> Option<Sample> {
        let samples: Vec<Sample> = self.rounds.iter().cloned().collect::<Result<_, _>>().ok()?;
        (!samples.is_empty()).then(|| Sample::median(&samples))
    }

    /// The first thing that went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.rounds.iter().find_map(|round| round.as_ref().err()).map(String::as_str)
    }

    /// The lowest and the highest cost.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        let costs = || self.samples().map(|sample| sample.cost);
        Some((costs().reduce(f64::min)?, costs().reduce(f64::max)?))
    }

    /// How many times the other's cost: the median over the rounds of the ratio within a round, because absolute
    /// figures drift with the machine.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.filter_map(|pair| match pair {
            (Ok(own), Ok(other)) => Some(own.cost / other.cost),
            _ => None,
        }))
    }
}

impl Results {
    /// The series of a server under a workload.
    #[must_use]
    pub fn of(&self, workload: Workload, server: Kind) -> Option<&Series> {
        self.series.iter().find(|series| series.workload == workload && series.server == server)
    }

    /// The workloads, in their order.
    #[must_use]
    pub fn workloads(&self) -> Vec<Workload> {
        let mut workloads: Vec<Workload> = self.series.iter().map(|series| series.workload).collect();
        workloads.dedup();
        workloads
    }

    /// The series of one workload.
    #[must_use]
    pub fn under(&self, workload: Workload) -> Vec<&Series> {
        self.series.iter().filter(|series| series.workload == workload).collect()
    }

    /// What went wrong with servers that are not somebody else's.
    #[must_use]
    pub fn own_failures(&self) -> Vec<&Series> {
        self.series.iter().filter(|series| !series.server.is_peer() && series.error().is_some()).collect()
    }

    /// The medians at the points of the growth plot, for one server.
    #[must_use]
    pub fn growth(&self, server: Kind) -> Vec<(usize, Sample)> {
        let at = |connections| self.of(Workload::Growth { connections }, server)?.median();
        GROWTH.into_iter().filter_map(|connections| Some((connections, at(connections)?))).collect()
    }

    /// Everything as JSON.
    ///
    /// # Errors
    /// If a figure is not a number.
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Entry<'a> {
            workload: String,
            unit: &'a str,
            server: &'a str,
            median: Option<Sample>,
            rounds: Vec<&'a Sample>,
            error: Option<&'a str>,
        }
        let entries = self.series.iter().map(|series| Entry {
            workload: series.workload.name(),
            unit: series.workload.unit(),
            server: series.server.name(),
            median: series.median(),
            rounds: series.samples().collect(),
            error: series.error(),
        });
        Ok(serde_json::to_string_pretty(&entries.collect::<Vec<_>>())?)
    }
}

/// The workloads whose names are, or begin with, one of these; all if there are none.
///
/// # Errors
/// If a name fits nothing.
pub fn choose(names: &[String], quick_form: bool) -> Result<Vec<Workload>> {
    if names.is_empty() {
        return Ok(if quick_form { quick() } else { all() });
    }
    let mut chosen = Vec::new();
    for name in names {
        let exact: Vec<Workload> = all().into_iter().filter(|workload| workload.name() == *name).collect();
        let fits = if exact.is_empty() {
            all().into_iter().filter(|workload| workload.name().starts_with(name.as_str())).collect()
        } else {
            exact
        };
        if fits.is_empty() {
            let known: Vec<String> = all().into_iter().map(Workload::name).collect();
            bail!("no workload is called {name}; there are {}", known.join(", "));
        }
        chosen.extend(fits);
    }
    Ok(chosen)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(cost: f64) -> Sample {
        Sample {
            cost,
            server_busy: 0.5,
            in_kernel: 0.9,
            own_busy: 0.4,
            rate: 1e5,
            latency: None,
            memory: None,
            second_cost: None,
        }
    }

    pub(crate) fn series(workload: Workload, server: Kind, costs: &[f64]) -> Series {
        Series { workload, server, rounds: costs.iter().map(|&cost| Ok(sample(cost))).collect() }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ours = series(Workload::Ping, Kind::Ours(1), &[1.0, 2.0, 4.0]);
        let peer = series(Workload::Ping, Kind::Uws, &[3.0, 6.0, 8.0]);
        assert_eq!(peer.ratio_to(&ours), Some(3.0));
        assert_eq!(ours.range(), Some((1.0, 4.0)));
    }

    #[test]
    fn one_failure_voids_a_series() {
        let mut failed = series(Workload::Ping, Kind::Ours(1), &[1.0, 2.0]);
        failed.rounds.push(Err("lost: 1 of 2 deliveries".to_owned()));
        assert_eq!(failed.median(), None);
        let results = Results { series: vec![failed], skipped: 0 };
        assert_eq!(results.own_failures().len(), 1);
        assert!(results.to_json().unwrap().contains("lost: 1 of 2"));
    }

    #[test]
    fn workloads_are_chosen_by_name_or_beginning() {
        assert_eq!(choose(&["ping".to_owned()], false).unwrap(), [Workload::Ping]);
        let idle = choose(&["idle-1000".to_owned()], false).unwrap();
        assert_eq!(idle, [Workload::Idle { connections: 1000, three_namespaces: false }]);
        assert_eq!(choose(&["growth".to_owned()], false).unwrap().len(), GROWTH.len());
        assert!(choose(&["nothing".to_owned()], false).is_err());
        assert!(choose(&[], true).unwrap().len() < choose(&[], false).unwrap().len());
    }
}
