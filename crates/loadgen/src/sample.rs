//! What one measurement found, and medians over several.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::meter::Spent;

/// One measurement of one server under one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// What the workload asks for, in its unit.
    pub cost: f64,
    /// Share of one core that the server took, from 0 to its number of threads.
    pub server_busy: f64,
    /// How much of that was the kernel's, from 0 to 1.
    pub in_kernel: f64,
    /// Share of one core that the load generator took.
    pub own_busy: f64,
    /// Operations (deliveries, pings, connects) in a second.
    pub rate: f64,
    /// In microseconds, where the workload has any.
    pub latency: Option<Latency>,
    /// In KiB, where the workload looks at it.
    pub memory: Option<Memory>,
    /// A second cost, in the workload's unit: of leaving, beside connecting.
    pub second_cost: Option<f64>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 % took less.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Resident memory of a server in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Connections that were there when it was full.
    pub connections: f64,
    /// Before the first connection.
    pub empty: f64,
    /// With all connections.
    pub full: f64,
    /// After all have left.
    pub after: Option<f64>,
}

impl Memory {
    /// KiB for each connection.
    #[must_use]
    pub fn per_connection(&self) -> f64 {
        (self.full - self.empty) / self.connections
    }
}

impl Sample {
    /// A sample whose cost is the server's processor time for each operation, in microseconds.
    #[must_use]
    pub fn per_operation(spent: &Spent, operations: u64) -> Self {
        let wall = spent.wall.as_secs_f64().max(f64::MIN_POSITIVE);
        Self {
            cost: micros(spent.server) / operations.max(1) as f64,
            server_busy: spent.server.as_secs_f64() / wall,
            in_kernel: spent.in_kernel,
            own_busy: spent.own.as_secs_f64() / wall,
            rate: operations as f64 / wall,
            latency: None,
            memory: None,
            second_cost: None,
        }
    }

    /// With latencies.
    #[must_use]
    pub fn with_latency(self, latency: Option<Latency>) -> Self {
        Self { latency, ..self }
    }

    /// The median of each figure by itself.
    ///
    /// # Panics
    /// If there are no samples.
    #[must_use]
    pub fn median(samples: &[Self]) -> Self {
        let of = |figure: &dyn Fn(&Self) -> f64| median(samples.iter().map(figure)).expect("a sample");
        let latency =
            |figure: &dyn Fn(&Latency) -> f64| median(samples.iter().filter_map(|it| it.latency.as_ref()).map(figure));
        let memory =
            |figure: &dyn Fn(&Memory) -> f64| median(samples.iter().filter_map(|it| it.memory.as_ref()).map(figure));
        Self {
            cost: of(&|it| it.cost),
            server_busy: of(&|it| it.server_busy),
            in_kernel: of(&|it| it.in_kernel),
            own_busy: of(&|it| it.own_busy),
            rate: of(&|it| it.rate),
            latency: latency(&|it| it.p50).map(|p50| Latency {
                p50,
                p99: latency(&|it| it.p99).unwrap_or_default(),
                max: latency(&|it| it.max).unwrap_or_default(),
            }),
            memory: memory(&|it| it.connections).map(|connections| Memory {
                connections,
                empty: memory(&|it| it.empty).unwrap_or_default(),
                full: memory(&|it| it.full).unwrap_or_default(),
                after: median(samples.iter().filter_map(|it| it.memory?.after)),
            }),
            second_cost: median(samples.iter().filter_map(|it| it.second_cost)),
        }
    }
}

impl Latency {
    /// Of a histogram of nanoseconds; nothing if it is empty.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            p50: histogram.value_at_quantile(0.5) as f64 / 1e3,
            p99: histogram.value_at_quantile(0.99) as f64 / 1e3,
            max: histogram.max() as f64 / 1e3,
        })
    }

    /// Of some latencies; nothing if there are none.
    #[must_use]
    pub fn of_all(latencies: &[Duration]) -> Option<Self> {
        let mut sorted = latencies.to_vec();
        sorted.sort_unstable();
        Some(Self {
            p50: micros(*quantile(&sorted, 0.5)?),
            p99: micros(*quantile(&sorted, 0.99)?),
            max: micros(*sorted.last()?),
        })
    }
}

/// The smallest value that is not less than the share `q` of all (nearest rank).
fn quantile<T>(sorted: &[T], q: f64) -> Option<&T> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1))
}

/// The median; of an even number, the mean of the two in the middle.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let high = *values.get(values.len() / 2)?;
    let low = *values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(low, high))
}

/// In microseconds.
#[must_use]
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latencies: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let latency = Latency::of_all(&latencies).unwrap();
        assert_eq!((latency.p50.round(), latency.p99.round(), latency.max.round()), (100.0, 198.0, 200.0));
        let one = Latency::of_all(&latencies[..1]).unwrap();
        assert_eq!(one.p50, one.max);
        assert_eq!(Latency::of_all(&[]), None);
    }

    #[test]
    fn a_histogram_gives_the_same_percentiles_within_its_precision() {
        let mut histogram = Histogram::new(2).unwrap();
        assert_eq!(Latency::of(&histogram), None);
        for micros in 1..=200u64 {
            histogram.record(micros * 1000).unwrap();
        }
        let latency = Latency::of(&histogram).unwrap();
        assert!((latency.p50 - 100.0).abs() < 2.0 && (latency.p99 - 198.0).abs() < 3.0, "{latency:?}");
    }

    #[test]
    fn every_figure_has_its_own_median() {
        let sample = |cost, after| Sample {
            cost,
            server_busy: 1.0 / cost,
            in_kernel: 0.5,
            own_busy: 0.1,
            rate: 1.0,
            latency: None,
            memory: Some(Memory { connections: 10.0, empty: 100.0, full: 120.0, after }),
            second_cost: None,
        };
        let median = Sample::median(&[sample(1.0, Some(110.0)), sample(4.0, None), sample(2.0, Some(112.0))]);
        assert_eq!((median.cost, median.server_busy), (2.0, 0.5));
        let memory = median.memory.unwrap();
        assert_eq!((memory.after, memory.per_connection()), (Some(111.0), 2.0));
        assert_eq!(median.latency, None);
    }
}
