//! The system's numbers about this process, under the names that the client libraries of Prometheus share
//! (`process_cpu_seconds_total` and so on). All of them come from `/proc`: a system without it shows none.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// A snapshot of the numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessUsage {
    stat: Option<Stat>,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

/// The numbers from `/proc/self/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    /// The start time, in seconds since 1970.
    started_seconds: f64,
}

impl ProcessUsage {
    /// Reads the numbers. With very many open files this takes milliseconds on Linux before 6.2, so it must not run on
    /// a shard.
    pub(crate) fn read() -> Self {
        Self { stat: stat(), open_files: open_files(), max_files: getrlimit(Resource::Nofile).current }
    }
}

fn stat() -> Option<Stat> {
    let (own, system) = (fs::read_to_string("/proc/self/stat").ok()?, fs::read_to_string("/proc/stat").ok()?);
    parse(&own, &system, clock_ticks_per_second() as f64, page_size() as u64)
}

/// Parses `/proc/self/stat`, with the field numbers of proc_pid_stat(5). `/proc/stat` has the time of the system's
/// start.
fn parse(own: &str, system: &str, ticks_per_second: f64, page_bytes: u64) -> Option<Stat> {
    // The program's name may contain spaces and parentheses. The field after it is the third.
    let (_, fields) = own.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())?;
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
    Some(Stat {
        cpu_seconds: seconds(field(14)? + field(15)?),
        started_seconds: booted as f64 + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?.saturating_mul(page_bytes),
    })
}

fn open_files() -> Option<u64> {
    const OPEN_FILES: &str = "/proc/self/fd";
    // From Linux 6.2 on, the folder's size is the number of open files.
    match fs::metadata(OPEN_FILES).ok()?.len() {
        // One of them is the open folder itself.
        0 => Some((fs::read_dir(OPEN_FILES).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

impl Collector for ProcessUsage {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &'static str, help: &str, unit: Option<Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)
        };
        if let Some(stat) = self.stat {
            let help = "Resident memory of the process.";
            gauge("process_resident_memory", help, Some(Unit::Bytes), stat.resident_bytes as f64)?;
            let help = "Virtual memory of the process.";
            gauge("process_virtual_memory", help, Some(Unit::Bytes), stat.virtual_bytes as f64)?;
            let help = "When the process was started, since 1970.";
            gauge("process_start_time", help, Some(Unit::Seconds), stat.started_seconds)?;
        }
        if let Some(open) = self.open_files {
            gauge("process_open_fds", "Open files of the process, connections among them.", None, open as f64)?;
        }
        if let Some(most) = self.max_files {
            gauge("process_max_fds", "Files that the process may have open.", None, most as f64)?;
        }
        if let Some(stat) = self.stat {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            let help = "Processor time of the process, in its own code and in the system.";
            let descriptor = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?;
            cpu.encode(descriptor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_manual() {
        let own = "4711 (a (b) c) S 1 4711 4711 0 -1 4194560 100 200 3 4 250 50 7 8 20 0 5 0 12345 99000320 2048 18446744073709551615 1 1 0";
        let system = "cpu 1 2 3\nintr 5\nbtime 1700000000\nprocesses 9\n";
        let expected = Stat {
            cpu_seconds: 3.0,
            virtual_bytes: 99_000_320,
            resident_bytes: 2048 * 4096,
            started_seconds: 1_700_000_123.45,
        };
        assert_eq!(parse(own, system, 100.0, 4096), Some(expected));
        for broken in ["", "1 (a)", "1 (a) S", "1 (a) S x x x x x x x x x x x x x x x x x x x x x"] {
            assert_eq!(parse(broken, system, 100.0, 4096), None, "{broken}");
        }
        assert_eq!(parse(own, "cpu 1", 100.0, 4096), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let before = ProcessUsage::read();
        let held: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").expect("it is there")).collect();
        let after = ProcessUsage::read();
        drop(held);
        let open = |usage: ProcessUsage| usage.open_files.expect("they can be counted");
        // Other tests of this process open and close files, too.
        assert!(open(after) + 15 > open(before) + 20, "{before:?} {after:?}");
        let stat = after.stat.expect("it can be read");
        assert!(stat.resident_bytes > 100_000 && stat.virtual_bytes >= stat.resident_bytes, "{stat:?}");
    }
}
