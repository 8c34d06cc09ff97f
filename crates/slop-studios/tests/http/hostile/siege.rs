//! An attack as seen by a bystander, by the system and by the metrics.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::interval;

use crate::api::{get, metric};
use crate::client::Client;
use crate::server::Server;

/// How long anything may take that is expected to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How often the bystander asks: half of what the limits allow it.
const ASKS_EVERY: Duration = Duration::from_millis(2);

pub(crate) struct Siege {
    name: &'static str,
    settings: Vec<(&'static str, &'static str)>,
    memory: usize,
}

impl Siege {
    pub(crate) fn of(name: &'static str) -> Self {
        Self { name, settings: Vec::new(), memory: 16 }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// MiB that the server may grow by, instead of 16.
    pub(crate) fn memory(mut self, mebibytes: usize) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Runs the attack, once or for as long as `HOSTILE_SECONDS` says. It returns what the server answered.
    pub(crate) async fn run(self, attack: impl AsyncFn(&Server) -> String) {
        raise_limit_of_files();
        let mut settings = vec![("SHARDS", "1")];
        settings.extend_from_slice(&self.settings);
        let server = Server::start_with(&settings);
        let bystander = Bystander::begin(&server).await;
        get(&server, "/metrics").await;
        let before = memory(&server, "VmRSS");

        let began = Instant::now();
        let answer = attack(&server).await;
        while began.elapsed() < seconds() {
            attack(&server).await;
        }

        let took = bystander.end().await;
        // Of the peak, not of what is left: that it comes and goes is no comfort.
        let grown = memory(&server, "VmHWM").saturating_sub(before);
        nothing_is_left(&server).await;
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let memory = format!("{} → {} KiB", before, before + grown);
        println!("\n| {} | {answer} | {memory} | {:.1} ms | `{test}` |", self.name, percentile(&took, 99));
        assert!(grown <= self.memory * 1024, "the server grew by {grown} KiB");
    }
}

fn seconds() -> Duration {
    let seconds = std::env::var("HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// A client that does nothing wrong.
struct Bystander {
    stop: watch::Sender<bool>,
    asks: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    async fn begin(server: &Server) -> Self {
        let mut client = Client::connect(server, "/").await;
        client.expect("welcome").await;
        let (stop, mut stopped) = watch::channel(false);
        let asks = tokio::spawn(async move {
            let (mut ticks, mut took) = (interval(ASKS_EVERY), Vec::new());
            // At least one after the attack.
            let mut last = false;
            while !last {
                tokio::select! {
                    _ = stopped.changed() => last = true,
                    _ = ticks.tick() => {}
                }
                let asked = Instant::now();
                let pong = client.call("ping", json!([])).await;
                assert!(pong["timestamp"].is_u64(), "{pong}");
                took.push(asked.elapsed());
                client.forget();
            }
            took
        });
        Self { stop, asks }
    }

    async fn end(self) -> Vec<Duration> {
        let _ = self.stop.send(true);
        self.asks.await.expect("the bystander is answered")
    }
}

/// In milliseconds.
fn percentile(took: &[Duration], percent: usize) -> f64 {
    let mut took = took.to_vec();
    took.sort_unstable();
    let index = (took.len() * percent / 100).min(took.len() - 1);
    took[index].as_secs_f64() * 1000.0
}

/// In KiB, as the system counts.
pub(crate) fn memory(server: &Server, kind: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':')).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

pub(crate) async fn limit_met(server: &Server, limit: &str) -> u64 {
    metric(server, &format!("slop_limits_met_total{{limit=\"{limit}\"}}")).await as u64
}

/// Waits until a metric is no more than this.
pub(crate) async fn falls_to(server: &Server, name: &str, most: u64) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let value = metric(server, name).await as u64;
        if value <= most {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is still {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bystander is gone too; the connection that asks is there.
async fn nothing_is_left(server: &Server) {
    for (name, most) in [
        ("slop_connections", 0),
        ("slop_sockets", 0),
        ("slop_handshakes", 0),
        ("slop_unfinished_bytes", 0),
        ("slop_streams", 1),
        ("slop_client_addresses", 1),
    ] {
        falls_to(server, name, most).await;
    }
}

fn raise_limit_of_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit can be raised to its maximum");
}
