//! Tables of the results, for the terminal and for `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::acceptance::{self, Verdict};
use crate::bench::{Results, Series};
use crate::sample::Sample;
use crate::server::Kind;
use crate::workload::Workload;

/// Rows of cells under a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { header: header.map(str::to_owned).into(), rows: Vec::new() }
    }

    /// Adds a row; what is missing at its end stays empty.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        (0..self.header.len())
            .map(|column| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
            .collect()
    }

    /// For a terminal: the first column to the left, the others to the right.
    #[must_use]
    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for cells in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = if column == 0 { write!(line, "{cell:width$}") } else { write!(line, "  {cell:>width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// As Markdown, aligned the same way.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&self.header);
        let rule = |column| if column == 0 { "---" } else { "--:" }.to_owned();
        line(&(0..self.header.len()).map(rule).collect::<Vec<_>>());
        for row in &self.rows {
            line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>());
        }
        text
    }
}

/// The table of one workload. `ours` is what the ratios are to; the first of the servers if ours is not among them.
#[must_use]
pub fn table(series: &[&Series]) -> Option<Table> {
    let first = series.first()?;
    let base = series.iter().find(|it| it.server == Kind::Ours(1)).unwrap_or(first);
    let unit = first.workload.unit();
    let ratio = format!("÷ {}", base.server);
    let idle = matches!(first.workload, Workload::Idle { .. });
    let mut table = if idle {
        let connect = "µs CPU / connect";
        Table::new(["server", unit, &ratio, "range", "empty MiB", "full MiB", "after MiB", connect, "loadgen CPU"])
    } else {
        let second = match first.workload {
            Workload::Connect => "µs CPU / leave",
            Workload::Fairness => "µs CPU / delivery",
            Workload::Growth { .. } => "µs CPU / connect",
            _ => "",
        };
        Table::new([
            "server",
            unit,
            &ratio,
            "range",
            "p50 µs",
            "p99 µs",
            "max µs",
            "per second",
            "server CPU",
            "in kernel",
            "loadgen CPU",
            second,
        ])
    };
    for it in series {
        let Some(median) = it.median() else {
            table.row(vec![it.server.title().to_owned(), it.error().unwrap_or_default().to_owned()]);
            continue;
        };
        let ratio = it.ratio_to(base).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let range = it.range().map_or_else(String::new, |(low, high)| format!("{}–{}", number(low), number(high)));
        let mut row = vec![it.server.title().to_owned(), number(median.cost), ratio, range];
        row.extend(if idle { idle_cells(&median) } else { load_cells(&median) });
        table.row(row);
    }
    if !idle && table.header.last().is_some_and(String::is_empty) {
        table.header.pop();
        for row in &mut table.rows {
            row.pop();
        }
    }
    Some(table)
}

fn load_cells(median: &Sample) -> Vec<String> {
    let latency = median.latency.map(|it| [it.p50, it.p99, it.max].map(|micros| format!("{micros:.0}")));
    let mut cells: Vec<String> = latency.unwrap_or_default().into();
    cells.extend([
        format!("{:.0}", median.rate),
        percent(median.server_busy),
        percent(median.in_kernel),
        percent(median.own_busy),
        median.second_cost.map_or_else(String::new, number),
    ]);
    cells
}

fn idle_cells(median: &Sample) -> Vec<String> {
    let mib = |kib: Option<f64>| kib.map_or_else(String::new, |kib| format!("{:.1}", kib / 1024.0));
    let memory = median.memory;
    vec![
        mib(memory.map(|it| it.empty)),
        mib(memory.map(|it| it.full)),
        mib(memory.and_then(|it| it.after)),
        median.second_cost.map_or_else(String::new, number),
        percent(median.own_busy),
    ]
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three figures or so.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table of the promises: all, or those that the measurements tell something about.
#[must_use]
pub fn promises(results: &Results, all: bool) -> Table {
    let mut table = Table::new(["promise", "found", "at most", ""]);
    for line in acceptance::lines(results).into_iter().filter(|line| all || line.found.is_some()) {
        let verdict = match line.verdict() {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::NotMeasured => "not measured",
        };
        let found = line.found.map_or_else(String::new, |found| format!("{found:.2}"));
        table.row(vec![line.promise, found, number(line.limit), verdict.to_owned()]);
    }
    table
}

/// What stands between the marks of `docs/benchmarks.md`.
#[must_use]
pub fn document(results: &Results, command: &str, facts: &[(String, String)], plot: Option<&str>) -> String {
    let mut text = format!("Command: `{command}`\n\n");
    let mut machine = Table::new(["machine and versions", ""]);
    for (name, value) in facts {
        machine.row(vec![name.clone(), value.clone()]);
    }
    let _ = write!(text, "{}\n## Promises\n\n{}", machine.markdown(), promises(results, true).markdown());
    if let Some(plot) = plot {
        let _ = write!(text, "\n## Growth\n\n![Cost by the number of connections]({plot})\n");
    }
    for workload in results.workloads() {
        if let Some(table) = table(&results.under(workload)) {
            let _ = write!(text, "\n## `{}`: {}\n\n{}", workload.name(), workload.title(), table.markdown());
        }
    }
    text
}

/// Puts `text` between the marks of a command in a document, which keeps what people wrote around them. One without marks
/// gets them at its end.
#[must_use]
pub fn insert(document: &str, command: &str, text: &str) -> String {
    let [begin, end] = ["begin", "end"].map(|mark| format!("<!-- {mark}: written by `loadgen {command}` -->\n"));
    let parts = document.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match parts {
        Some((before, after)) => format!("{before}{begin}\n{text}\n{end}{after}"),
        None if document.is_empty() => format!("# Benchmarks\n\n{begin}\n{text}\n{end}"),
        None => format!("{document}\n{begin}\n{text}\n{end}"),
    }
}

/// Writes the document, and the growth plot beside it if there is one.
///
/// # Errors
/// If a file can't be written.
pub fn save(path: &Path, results: &Results, command: &str, facts: &[(String, String)]) -> Result<()> {
    const PLOT: &str = "benchmarks-growth.svg";
    let plot = crate::plot::growth(results);
    if let Some(plot) = &plot {
        std::fs::write(path.with_file_name(PLOT), plot).context("write the plot")?;
    }
    let before = std::fs::read_to_string(path).unwrap_or_default();
    let text = document(results, command, facts, plot.as_ref().map(|_| PLOT));
    std::fs::write(path, insert(&before, "bench", &text)).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::series;

    #[test]
    fn columns_are_aligned_whatever_they_hold() {
        let mut table = Table::new(["server", "µs"]);
        table.row(vec!["ours".to_owned(), "1.25".to_owned()]);
        table.row(vec!["uWebSockets".to_owned()]);
        assert_eq!(table.text(), "server         µs\nours         1.25\nuWebSockets\n");
        assert_eq!(table.markdown(), "| server | µs |\n| --- | --: |\n| ours | 1.25 |\n| uWebSockets |  |\n");
    }

    #[test]
    fn a_workloads_table_has_medians_and_ratios_to_ours() {
        let ours = series(Workload::Ping, Kind::Ours(1), &[10.0, 12.0, 11.0]);
        let peer = series(Workload::Ping, Kind::Uws, &[20.0, 24.0, 22.0]);
        let text = table(&[&peer, &ours]).unwrap().text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("÷ ours"), "{text}");
        assert!(lines[1].contains("22.0") && lines[1].contains("2.00") && lines[1].contains("20.0–24.0"), "{text}");
    }

    #[test]
    fn what_people_wrote_stays() {
        let first = insert("", "bench", "one");
        assert!(first.starts_with("# Benchmarks\n"));
        let written = format!("Before.\n{first}After.\n");
        let second = insert(&written, "bench", "two");
        assert!(second.starts_with("Before.\n") && second.ends_with("After.\n"), "{second}");
        assert!(second.contains("two") && !second.contains("one"), "{second}");
        assert!(insert("Text.\n", "bench", "one").starts_with("Text.\n"));
    }
}
