//! Tables of the results, for the terminal and for `docs/benchmarks-cluster.md`.

use std::fmt::Write as _;

use crate::report::{Table, number, percent};
use crate::sample::median;

use super::nodes::Cost;
use super::{Kind, Results, Sample, Scenario, Series, promises};

/// What stands between the marks of the document.
#[must_use]
pub fn document(results: &Results, command: &str, facts: &[(String, String)]) -> String {
    let mut machine = Table::new(["machine and versions", ""]);
    for (name, value) in facts {
        machine.row(vec![name.clone(), value.clone()]);
    }
    let mut text = format!("Command: `{command}`\n\n{}", machine.markdown());
    for (title, table) in tables(results) {
        let _ = write!(text, "\n## {title}\n\n{}", table.markdown());
    }
    text
}

/// All tables for a terminal.
#[must_use]
pub fn text(results: &Results) -> String {
    let tables = tables(results);
    tables.iter().map(|(title, table)| format!("\n{title}\n{}", table.text())).collect()
}

/// Ratios first, then the figures of this machine.
fn tables(results: &Results) -> Vec<(String, Table)> {
    let mut tables = vec![("Promises".to_owned(), promises::table(results)), ratios(results)];
    tables.extend(SCENARIOS_OF_PUBLISHES.into_iter().filter_map(|(scenario, title)| costs(results, scenario, title)));
    tables.extend(other_rooms(results));
    tables.extend(KINDS_WITH_COMMANDS.into_iter().filter_map(|kind| commands(results, kind)));
    tables.extend(returns(results));
    tables.extend(loads(results));
    tables.extend(memory(results));
    tables
}

const SCENARIOS_OF_PUBLISHES: [(Scenario, &str); 6] = [
    (Scenario::Members(1), "A publish to 1 member on the other node, 8 in flight"),
    (Scenario::Members(5), "A publish to 5 members on the other node, 8 in flight"),
    (Scenario::Members(1_000), "A publish to 1,000 members on the other node, 1 in flight"),
    (Scenario::Lone, "A publish to 1 member on the other node, 1 in flight: latency node to node"),
    (Scenario::Nobody, "A publish to a room without members, 8 in flight"),
    (Scenario::Elsewhere, "A publish to 1 member on node A, 8 in flight"),
];

const KINDS_WITH_COMMANDS: [Kind; 2] = [Kind::Ours, Kind::Streams];

/// The series of a scenario that came to something, with their medians.
fn measured(results: &Results, scenario: Scenario) -> impl Iterator<Item = (&Series, Sample)> {
    let series = results.series.iter().filter(move |it| it.scenario == scenario);
    series.filter_map(|it| Some((it, it.median()?)))
}

/// How many times the processor time of ours each kind takes.
fn ratios(results: &Results) -> (String, Table) {
    let mut table = Table::new([
        "server",
        "no member",
        "1 member",
        "5 members",
        "1,000 members",
        "lone: p50",
        "lone: p99",
        "client back",
    ]);
    for kind in super::KINDS {
        let ratio = |scenario, figure: &dyn Fn(&Sample) -> Option<f64>| {
            let ratio = results.of(scenario, kind)?.ratio_to(results.of(scenario, Kind::Ours)?, figure);
            ratio.map(|ratio| format!("{ratio:.2}"))
        };
        let total = |scenario| ratio(scenario, &|it| Some(it.cost.total())).unwrap_or_default();
        table.row(vec![
            kind.title().to_owned(),
            total(Scenario::Nobody),
            total(Scenario::Members(1)),
            total(Scenario::Members(5)),
            total(Scenario::Members(1_000)),
            ratio(Scenario::Lone, &|it| Some(it.latency?.p50)).unwrap_or_default(),
            ratio(Scenario::Lone, &|it| Some(it.latency?.p99)).unwrap_or_default(),
            total(Scenario::Cut),
        ]);
    }
    ("Ratios to ours: processor time of both nodes and Redis, and latency".to_owned(), table)
}

/// The costs of one scenario, by process.
fn costs(results: &Results, scenario: Scenario, title: &str) -> Option<(String, Table)> {
    let mut table =
        Table::new(["server", "µs CPU", "node A", "node B", "Redis", "p50 µs", "p99 µs", "per second", "loadgen CPU"]);
    let mut is_empty = true;
    for it in results.series.iter().filter(|it| it.scenario == scenario) {
        is_empty = false;
        let mut row = vec![it.kind.title().to_owned()];
        match it.median() {
            Some(Sample { cost, latency, rate, own_busy, .. }) => {
                row.extend(cost_cells(&cost));
                let latency = latency.map(|it| [it.p50, it.p99].map(|micros| format!("{micros:.0}")));
                row.extend(latency.unwrap_or_default());
                row.extend([format!("{rate:.0}"), percent(own_busy)]);
            }
            None => row.push(it.error().unwrap_or_default().to_owned()),
        }
        table.row(row);
    }
    (!is_empty).then(|| (title.to_owned(), table))
}

fn cost_cells(cost: &Cost) -> [String; 4] {
    [cost.total(), cost.a, cost.b, cost.redis].map(number)
}

/// What node B pays for rooms that it has no member of.
fn other_rooms(results: &Results) -> Option<(String, Table)> {
    let mut table = Table::new(["server", "member on node A", "no member"]);
    let mut is_empty = true;
    for kind in super::KINDS {
        let found = |scenario| results.of(scenario, kind)?.median()?.beside_idle;
        let cells = [Scenario::Elsewhere, Scenario::Nobody].map(|it| found(it).map(|micros| format!("{micros:.2}")));
        if cells.iter().any(Option::is_some) {
            is_empty = false;
            table.row(
                std::iter::once(Some(kind.title().to_owned())).chain(cells).map(Option::unwrap_or_default).collect(),
            );
        }
    }
    let title = "Rooms that node B has no member of: µs CPU of node B for a publish, less its idle time";
    (!is_empty).then(|| (title.to_owned(), table))
}

/// What the time of Redis is spent on, for a publish to one member.
fn commands(results: &Results, kind: Kind) -> Option<(String, Table)> {
    let sample = results.of(Scenario::Members(1), kind)?.median()?;
    let mut table = Table::new(["part of Redis", "calls", "µs"]);
    let mut rows = sample.commands.clone();
    let function = rows.iter().find(|(name, _)| name == "fcall").map(|(_, cost)| *cost);
    rows.retain(|(name, _)| name != "fcall");
    let within: f64 = rows.iter().map(|(_, (_, micros))| micros).sum();
    if let Some((calls, micros)) = function {
        rows.push(("the function without its commands (Lua)".to_owned(), (calls, (micros - within).max(0.0))));
    }
    let commands = function.map_or(within, |(_, micros)| micros);
    rows.sort_by(|one, other| other.1.1.total_cmp(&one.1.1));
    for (name, (calls, micros)) in rows.into_iter().filter(|(_, (calls, _))| *calls >= 0.01) {
        table.row(vec![name, format!("{calls:.2}"), format!("{micros:.2}")]);
    }
    let rest = sample.cost.redis - commands;
    table.row(vec!["the rest: connections, replies, AOF".to_owned(), String::new(), format!("{rest:.2}")]);
    table.row(vec!["all of Redis".to_owned(), String::new(), format!("{:.2}", sample.cost.redis)]);
    Some((format!("Redis for a publish to 1 member, 8 in flight: {}", kind.title()), table))
}

/// Clients that change nodes.
fn returns(results: &Results) -> Option<(String, Table)> {
    let mut table = Table::new([
        "server",
        "recovered",
        "seconds",
        "p50 ms",
        "p99 ms",
        "µs CPU / client",
        "node A",
        "node B",
        "Redis",
        "loadgen CPU",
    ]);
    let mut is_empty = true;
    for (scenario, how) in [(Scenario::Cut, "connections cut"), (Scenario::Killed, "node A killed")] {
        for (series, Sample { cost, latency, recovered, seconds, own_busy, .. }) in measured(results, scenario) {
            is_empty = false;
            let mut row = vec![
                format!("{}, {how}", series.kind.title()),
                recovered.map_or_else(String::new, percent),
                format!("{seconds:.2}"),
            ];
            let latency = latency.map(|it| [it.p50, it.p99].map(|micros| format!("{:.0}", micros / 1e3)));
            row.extend(latency.unwrap_or_default());
            row.extend(cost_cells(&cost));
            row.push(percent(own_busy));
            table.row(row);
        }
        for it in results.series.iter().filter(|it| it.scenario == scenario) {
            if let Some(error) = it.error() {
                table.row(vec![format!("{}, {how}", it.kind.title()), error.to_owned()]);
            }
        }
    }
    let title = format!("{} clients of node A come to node B", super::CLIENTS);
    (!is_empty).then_some((title, table))
}

/// Redis under load.
fn loads(results: &Results) -> Option<(String, Table)> {
    let header = [
        "load, `appendfsync`",
        "publishes / s of Redis",
        "µs of Redis",
        "in a batch",
        "publishes / s here",
        "Redis CPU",
    ];
    let mut table = Table::new(header);
    for load in &results.loads {
        let of =
            |figure: &dyn Fn(&super::Throughput) -> f64| median(load.rounds.iter().map(figure)).unwrap_or_default();
        let for_second = of(&|it| it.for_redis_second);
        table.row(vec![
            format!("{}, `{}`", load.publishers.title(), load.fsync.name()),
            format!("{for_second:.0}"),
            number(1e6 / for_second),
            format!("{:.1}", of(&|it| it.batch)),
            format!("{:.0}", of(&|it| it.rate)),
            percent(of(&|it| it.redis_busy)),
        ]);
    }
    (!results.loads.is_empty())
        .then(|| ("Redis under load of ours, each room with a member on node B".to_owned(), table))
}

/// Bytes of Redis.
fn memory(results: &Results) -> Option<(String, Table)> {
    let memory = results.memory?;
    let mut table = Table::new(["Redis keeps for ours", "bytes"]);
    let rows = [
        ("a session of a client in one room", memory.session),
        ("a room that a node hears (its channel)", memory.room),
        ("a room's first event of 200 B", memory.first_event),
        ("each further event of 200 B", memory.event),
    ];
    for (what, bytes) in rows {
        table.row(vec![what.to_owned(), format!("{bytes:.0}")]);
    }
    Some(("Memory of Redis".to_owned(), table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_function_is_split() {
        let sample = Sample {
            cost: Cost { a: 10.0, b: 5.0, redis: 20.0 },
            beside_idle: None,
            rate: 1.0,
            own_busy: 0.1,
            latency: None,
            commands: vec![("fcall".to_owned(), (0.5, 12.0)), ("rpush".to_owned(), (1.0, 4.0))],
            recovered: None,
            seconds: 1.0,
        };
        let series = Series { scenario: Scenario::Members(1), kind: Kind::Ours, rounds: vec![Ok(sample)] };
        let results = Results { series: vec![series], ..Results::default() };
        let (_, table) = commands(&results, Kind::Ours).unwrap();
        let text = table.markdown();
        assert!(text.contains("(Lua) | 0.50 | 8.00 |"), "{text}");
        assert!(text.contains("AOF |  | 8.00 |"), "{text}");
    }

    #[test]
    fn nothing_measured_is_no_table() {
        let titles: Vec<String> = tables(&Results::default()).into_iter().map(|(title, _)| title).collect();
        assert_eq!(titles.len(), 2);
    }
}
