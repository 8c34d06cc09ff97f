//! What processes cost, read from the system.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The clocks of a server, of the load generator and of the wall, read together.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    server: Duration,
    server_user: f64,
    server_system: f64,
    own: Duration,
    at: Instant,
}

/// What passed between two readings.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// The server's processor time, of all its threads, those that ended included.
    pub server: Duration,
    /// How much of it was the kernel's, from 0 to 1; by clock ticks, so coarse for short runs.
    pub in_kernel: f64,
    /// The load generator's own processor time.
    pub own: Duration,
    /// Time.
    pub wall: Duration,
}

impl Reading {
    /// Reads all clocks now.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn take(server: Pid) -> Result<Self> {
        let (server_user, server_system) = ticks(server)?;
        Ok(Self {
            // The clock has nanoseconds, where /proc/PID/stat has hundredths of a second.
            server: read_clock(ClockId::pid_cpu_clock_id(server).context("the server has ended")?)?,
            server_user,
            server_system,
            own: read_clock(ClockId::CLOCK_PROCESS_CPUTIME_ID)?,
            at: Instant::now(),
        })
    }

    /// What has passed since.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn spent(&self, server: Pid) -> Result<Spent> {
        let now = Self::take(server)?;
        let (user, system) = (now.server_user - self.server_user, now.server_system - self.server_system);
        Ok(Spent {
            server: now.server.saturating_sub(self.server),
            in_kernel: if user + system > 0.0 { system / (user + system) } else { 0.0 },
            own: now.own.saturating_sub(self.own),
            wall: now.at - self.at,
        })
    }
}

fn read_clock(clock: ClockId) -> Result<Duration> {
    let nanoseconds = clock_gettime(clock)?.num_nanoseconds();
    Ok(Duration::from_nanos(u64::try_from(nanoseconds)?))
}

/// Seconds in user and in kernel mode.
fn ticks(pid: Pid) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server has ended")?;
    let (user, system) = parse_stat(&stat).context("/proc/PID/stat has another format")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok((user as f64 / per_second, system as f64 / per_second))
}

/// `utime` and `stime` (proc(5)): fields 14 and 15, the second of which may have spaces and brackets.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// If it has ended.
pub fn resident_kib(pid: Pid) -> Result<u64> {
    // Exact, where /proc/PID/statm sums up per-CPU counters.
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the server has ended")?;
    parse_rss(&rollup).context("/proc/PID/smaps_rollup has another format")
}

fn parse_rss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "4242 (a) b (c)) S 1 4242 4242 0 -1 4194304 100 0 0 0 17 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_stat(stat), Some((17, 5)));
        assert_eq!(parse_stat("4242 (x) S 1"), None);
    }

    #[test]
    fn resident_memory_is_the_first_line_of_its_name() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:                2044 kB\nPss:  500 kB\n";
        assert_eq!(parse_rss(rollup), Some(2044));
        assert_eq!(parse_rss("Pss: 1 kB"), None);
    }

    #[test]
    fn this_process_costs_something() {
        let me = Pid::this();
        let before = Reading::take(me).unwrap();
        let mut number = 1u64;
        while before.at.elapsed() < Duration::from_millis(20) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let spent = before.spent(me).unwrap();
        assert!(spent.server > Duration::from_millis(1) && spent.server <= spent.wall * 64, "{spent:?}");
        assert!(resident_kib(me).unwrap() > 100);
    }
}
