//! An attack as seen by bystanders, by the system and by the metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConfig;

use super::bystanders::{Asked, Bystanders, Seen};
use super::peer::Peer;
use super::victim::{Origin, Victim};
use crate::api::value_of;
use crate::server::Server;

/// How long anything may take that is expected to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What a bystander may wait, in milliseconds. It counts where it is measured: not in `make test`.
const PING_P99: f64 = 50.0;
const PUBLISH_P99: f64 = 100.0;
const HEALTH: f64 = 1_000.0;

pub(crate) struct Siege {
    name: &'static str,
    settings: Vec<(&'static str, &'static str)>,
    memory: usize,
    publish_p99: Option<f64>,
    tls: Option<Arc<ClientConfig>>,
    one_address: bool,
}

impl Siege {
    pub(crate) fn of(name: &'static str) -> Self {
        let (settings, memory) = (Vec::new(), 16);
        Self { name, settings, memory, publish_p99: Some(PUBLISH_P99), tls: None, one_address: false }
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

    /// The disk takes so many milliseconds for a commit, and so a publish takes up to twice the time longer.
    pub(crate) fn slow_disk(mut self, milliseconds: u32) -> Self {
        self.publish_p99 = Some(PUBLISH_P99 + 2.0 * f64::from(milliseconds));
        self
    }

    /// Nobody publishes: the disk hangs.
    pub(crate) fn without_publishes(mut self) -> Self {
        self.publish_p99 = None;
        self
    }

    /// All connect by TLS and trust this server.
    pub(crate) fn tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// It is about what one address may have.
    pub(crate) fn one_address_only(mut self) -> Self {
        self.one_address = true;
        self
    }

    /// Runs the attack from one address, and where it is measured from a thousand, too. It returns what the server answered.
    pub(crate) async fn run(self, attack: impl AsyncFn(&Victim) -> String) {
        let start = async |settings: &[(&str, &str)]| (Server::start_with(settings), ());
        self.run_on(start, async |victim, ()| attack(victim).await).await;
    }

    /// The same with what is started: a server, and whatever belongs to it.
    pub(crate) async fn run_on<T>(
        self,
        start: impl AsyncFn(&[(&str, &str)]) -> (Server, T),
        attack: impl AsyncFn(&Victim, &T) -> String,
    ) {
        raise_limit_of_files();
        let measured = measured();
        let mut settings = vec![("SHARDS", "1")];
        settings.extend_from_slice(&self.settings);
        let mut origins = vec![Origin::OneAddress];
        if measured.is_some() && !self.one_address {
            origins.push(Origin::ThousandAddresses);
        }
        let mut row = Row { siege: &self, measured: measured.is_some(), answer: String::new(), found: Vec::new() };
        for origin in origins {
            let (server, other) = start(&settings).await;
            let victim = Victim::new(server, self.tls.clone(), origin);
            let (answer, found) = self.once(&victim, &other, &attack, measured.unwrap_or_default()).await;
            row.found.push(found);
            if origin == Origin::OneAddress {
                row.answer = answer;
            }
        }
        let past = row.past_its_limits();
        drop(row);
        assert!(past.is_empty(), "{}", past.join("; "));
    }

    async fn once<T>(
        &self,
        victim: &Victim,
        other: &T,
        attack: &impl AsyncFn(&Victim, &T) -> String,
        least: Duration,
    ) -> (String, Found) {
        let bystanders = Bystanders::begin(&victim.way, self.publish_p99.is_some()).await;
        let before = memory(victim, "VmRSS");
        let began = Instant::now();
        let answer = attack(victim, other).await;
        while began.elapsed() < least {
            attack(victim, other).await;
        }
        let seen = bystanders.end();
        // Of the peak, not of what is left: that it comes and goes is no comfort.
        let peak = memory(victim, "VmHWM").max(before);
        nothing_is_left(victim).await;
        (answer, Found { before, peak, seen })
    }
}

/// How long an attack is repeated, where that is to be measured.
pub(crate) fn measured() -> Option<Duration> {
    let seconds = std::env::var("HOSTILE_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("HOSTILE_SECONDS is a number")))
}

/// What was found in one run.
struct Found {
    /// KiB.
    before: usize,
    peak: usize,
    seen: Seen,
}

/// A figure, and whether it is past its limit.
struct Cell(String, bool);

impl Found {
    fn memory(&self, siege: &Siege) -> Cell {
        let [before, peak] = [self.before, self.peak].map(|kibibytes| kibibytes as f64 / 1024.0);
        Cell(format!("{before:.1} → {peak:.1}"), peak - before > siege.memory as f64)
    }

    fn pings(&self, measured: bool) -> Cell {
        let p99 = percentile(&self.seen.pings, 99);
        Cell(format!("{p99:.1}"), measured && p99 > PING_P99)
    }

    fn publishes(&self, siege: &Siege, measured: bool) -> Cell {
        let Some(most) = siege.publish_p99 else { return Cell("–".to_owned(), false) };
        let Asked { took, refused } = &self.seen.publishes;
        let p99 = percentile(took, 99);
        let mut cell = Cell(format!("{p99:.1}"), measured && p99 > most);
        if !refused.is_empty() {
            cell = Cell(format!("{}, {} of {} refused: {}", cell.0, refused.len(), took.len(), refused[0]), true);
        }
        cell
    }

    /// Nothing if all is well.
    fn health(&self, measured: bool) -> Cell {
        let Asked { took, refused } = &self.seen.health;
        let longest = percentile(took, 100);
        if !refused.is_empty() {
            return Cell(format!("{} of {} health checks refused: {}", refused.len(), took.len(), refused[0]), true);
        }
        Cell(format!("a health check took {longest:.0} ms"), measured && longest > HEALTH)
    }
}

/// A row of the table, printed when the attack is over, however it ends.
struct Row<'a> {
    siege: &'a Siege,
    measured: bool,
    answer: String,
    found: Vec<Found>,
}

impl Row<'_> {
    fn cells(&self) -> [(&str, Vec<Cell>); 4] {
        let each = |cell: &dyn Fn(&Found) -> Cell| self.found.iter().map(cell).collect::<Vec<Cell>>();
        [
            ("memory in MiB", each(&|found| found.memory(self.siege))),
            ("ping p99 in ms", each(&|found| found.pings(self.measured))),
            ("publish p99 in ms", each(&|found| found.publishes(self.siege, self.measured))),
            ("health", each(&|found| found.health(self.measured))),
        ]
    }

    fn past_its_limits(&self) -> Vec<String> {
        let past = |(name, cells): (&str, Vec<Cell>)| {
            let past = cells.into_iter().filter(|Cell(_, is_past)| *is_past);
            past.map(|Cell(text, _)| format!("{name}: {text}")).collect::<Vec<String>>()
        };
        self.cells().into_iter().flat_map(past).collect()
    }
}

impl Drop for Row<'_> {
    fn drop(&mut self) {
        let marked = |Cell(text, is_past): &Cell| if *is_past { format!("**{text}**") } else { text.clone() };
        let [memory, pings, publishes, health] = self.cells().map(|(_, cells)| cells);
        let each = |cells: &[Cell]| cells.iter().map(marked).collect::<Vec<String>>().join("<br>");
        let mut answer = if std::thread::panicking() { "**not as it should**" } else { &self.answer }.to_owned();
        for cell in health.iter().filter(|Cell(_, is_past)| *is_past) {
            answer = format!("{answer}; {}", marked(cell));
        }
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let test = test.strip_prefix("hostile::").unwrap_or(&test);
        let [memory, pings, publishes] = [&memory, &pings, &publishes].map(|cells| each(cells));
        println!("\n| {} | {answer} | {memory} | {pings} | {publishes} | `{test}` |", self.siege.name);
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

/// A number of `/metrics`, by whichever way the server is reached.
pub(crate) async fn metric(victim: &Victim, name: &str) -> f64 {
    try_metric(victim, name).await.unwrap_or_else(|| panic!("no {name}"))
}

/// The same, if it is there: what has no label yet is not.
pub(crate) async fn try_metric(victim: &Victim, name: &str) -> Option<f64> {
    let mut peer = Peer::dial("127.0.0.5", &victim.way).await.expect("a connection");
    peer.request("GET", "/metrics", "Connection: close\r\n", b"").await;
    let answer = peer.answer().await.expect("an answer");
    value_of(&answer.body, name)
}

pub(crate) async fn limit_met(victim: &Victim, limit: &str) -> u64 {
    metric(victim, &format!("slop_limits_met_total{{limit=\"{limit}\"}}")).await as u64
}

/// Waits until something is so.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it did not come about in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a metric is no more than this.
pub(crate) async fn falls_to(victim: &Victim, name: &str, most: u64) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let value = metric(victim, name).await as u64;
        if value <= most {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is still {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The bystanders are gone too; the connection that asks is there.
async fn nothing_is_left(victim: &Victim) {
    for (name, most) in [
        ("slop_connections", 0),
        ("slop_sockets", 0),
        ("slop_handshakes", 0),
        ("slop_unfinished_bytes", 0),
        ("slop_streams", 1),
        ("slop_client_addresses", 1),
    ] {
        falls_to(victim, name, most).await;
    }
}

fn raise_limit_of_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the limit can be raised to its maximum");
}
