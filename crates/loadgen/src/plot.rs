//! The growth plot: costs by the number of connections, as an SVG that needs nothing else.

use std::fmt::Write as _;

use crate::bench::Results;
use crate::sample::Sample;
use crate::server::{ALL, Kind};

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 50.0;
const TOP: f64 = 60.0;

struct Panel {
    title: &'static str,
    figure: fn(&Sample) -> Option<f64>,
}

const PANELS: [Panel; 3] = [
    Panel { title: "µs CPU / delivery", figure: |sample| Some(sample.cost) },
    Panel { title: "µs CPU / connect and join", figure: |sample| sample.second_cost },
    Panel { title: "KiB / connection", figure: |sample| sample.memory.map(|memory| memory.per_connection()) },
];

const fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours(1) => "#d62728",
        Kind::Ours(_) => "#ff9896",
        Kind::WithoutRecovery => "#ff7f0e",
        Kind::Engine(1) => "#9467bd",
        Kind::Engine(_) => "#c5b0d5",
        Kind::Floor => "#7f7f7f",
        Kind::Uws => "#1f77b4",
        Kind::Bun => "#e377c2",
        Kind::Socketioxide => "#2ca02c",
        Kind::Ws => "#8c564b",
    }
}

/// The plot, if the growth was measured at two points at least.
#[must_use]
pub fn growth(results: &Results) -> Option<String> {
    let lines: Vec<(Kind, Vec<(usize, Sample)>)> =
        ALL.into_iter().map(|kind| (kind, results.growth(kind))).filter(|(_, points)| points.len() >= 2).collect();
    let counts: Vec<usize> = lines
        .iter()
        .map(|(_, points)| points)
        .max_by_key(|points| points.len())?
        .iter()
        .map(|(count, _)| *count)
        .collect();
    let width = PANELS.len() as f64 * (WIDTH + MARGIN) + MARGIN / 2.0;
    let height = TOP + HEIGHT + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, (kind, _)) in lines.iter().enumerate() {
        let x = MARGIN + index as f64 * 190.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"18\">{}</text>",
            colour(*kind),
            x + 20.0,
            kind.title()
        );
    }
    for (index, panel) in PANELS.iter().enumerate() {
        draw(&mut svg, panel, MARGIN + index as f64 * (WIDTH + MARGIN), &lines, &counts)?;
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Draws a panel whose left edge is at `left`.
fn draw(
    svg: &mut String,
    panel: &Panel,
    left: f64,
    lines: &[(Kind, Vec<(usize, Sample)>)],
    counts: &[usize],
) -> Option<()> {
    let (first, last) = (*counts.first()? as f64, *counts.last()? as f64);
    let values = lines.iter().flat_map(|(_, points)| points).filter_map(|(_, sample)| (panel.figure)(sample));
    let step = step(values.fold(0.0, f64::max));
    let top = step * 5.0;
    let x = |count: usize| left + (count as f64 / first).ln() / (last / first).ln() * WIDTH;
    let y = |value: f64| TOP + HEIGHT - value / top * HEIGHT;

    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>", TOP - 12.0, panel.title);
    for mark in 0..=5 {
        let value = step * f64::from(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + WIDTH,
            left - 5.0,
            y(value) + 4.0,
            (value * 100.0).round() / 100.0,
            y = y(value),
        );
    }
    for &count in counts {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{count}</text>",
            x(count),
            TOP + HEIGHT + 18.0
        );
    }
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\">connections</text>", TOP + HEIGHT + 36.0);
    for (kind, points) in lines {
        let drawn = points.iter().filter_map(|(count, sample)| Some((x(*count), y((panel.figure)(sample)?))));
        let path: Vec<String> = drawn.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            colour(*kind)
        );
    }
    Some(())
}

/// A fifth of an axis that is a little longer than `most`, with one figure: 1, 2 or 5 times a power of ten.
fn step(most: f64) -> f64 {
    let least = (most / 5.0).max(1e-3);
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::series;
    use crate::workload::Workload;

    #[test]
    fn the_axis_is_round_and_long_enough() {
        for (most, expected) in [(1.0, 0.2), (4.9, 1.0), (5.1, 2.0), (30.0, 10.0), (260.0, 100.0), (0.0, 1e-3)] {
            let step = step(most);
            assert!((step - expected).abs() < 1e-9, "{most}: {step}");
        }
    }

    #[test]
    fn the_plot_has_a_line_for_each_server_and_figure() {
        let at = |connections, cost| series(Workload::Growth { connections }, Kind::Ours(1), &[cost]);
        let results = Results { series: vec![at(100, 1.0), at(16_000, 2.0)], skipped: 0 };
        let svg = growth(&results).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert!(svg.contains("slop-studios, 1 shard") && svg.ends_with("</svg>\n"));
        assert_eq!(growth(&Results { series: vec![at(100, 1.0)], skipped: 0 }), None);
    }
}
