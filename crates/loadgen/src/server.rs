//! The measured servers as processes: how each is started, and that it ends.

use std::fmt;
use std::io::{BufRead as _, BufReader, Seek as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::http::API_KEY;
use crate::publishing::Door;

/// How long a server may take until it listens.
pub(crate) const START: Duration = Duration::from_secs(20);

/// The load comes from one address and as fast as it can: what the limits would refuse is what is to be measured. They
/// are on, and wide.
const WIDE_LIMITS: [(&str, &str); 8] = [
    ("MAX_CONNECTIONS_PER_ADDRESS", "1000000"),
    ("CONNECTION_RATE_PER_ADDRESS", "1000000"),
    ("MAX_HANDSHAKES", "1000000"),
    ("MAX_HANDSHAKES_PER_ADDRESS", "1000000"),
    ("REQUEST_RATE_PER_SESSION", "1000000"),
    ("EVENT_RATE_PER_SOCKET", "1000000"),
    ("EVENT_RATE_PER_USER", "1000000"),
    ("PUBLISH_RATE_PER_KEY", "1000000"),
];

/// A server that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The product, with so many shards.
    Ours(u8),
    /// The product with one shard and without recovery: no history and no journal.
    WithoutRecovery,
    /// The engine alone, with so many shards.
    Engine(u8),
    /// The plain system calls.
    Floor,
    /// Socket.IO on uWebSockets.
    Uws,
    /// Socket.IO on Bun.
    Bun,
    /// socketioxide.
    Socketioxide,
    /// Socket.IO on Node's `ws`.
    Ws,
}

/// All kinds, in the order of the tables.
pub const ALL: [Kind; 10] = [
    Kind::Ours(1),
    Kind::Ours(2),
    Kind::WithoutRecovery,
    Kind::Engine(1),
    Kind::Engine(2),
    Kind::Floor,
    Kind::Uws,
    Kind::Bun,
    Kind::Socketioxide,
    Kind::Ws,
];

impl Kind {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours(1) => "ours",
            Self::Ours(_) => "ours-2",
            Self::WithoutRecovery => "without-recovery",
            Self::Engine(1) => "engine",
            Self::Engine(_) => "engine-2",
            Self::Floor => "floor",
            Self::Uws => "uws",
            Self::Bun => "bun",
            Self::Socketioxide => "socketioxide",
            Self::Ws => "ws",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What it is, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours(1) => "slop-studios, 1 shard",
            Self::Ours(_) => "slop-studios, 2 shards",
            Self::WithoutRecovery => "slop-studios, 1 shard, `RECOVERY_MS=0`",
            Self::Engine(1) => "the engine alone, 1 shard",
            Self::Engine(_) => "the engine alone, 2 shards",
            Self::Floor => "the floor (plain system calls)",
            Self::Uws => "Socket.IO + uWebSockets",
            Self::Bun => "Socket.IO + Bun engine",
            Self::Socketioxide => "socketioxide",
            Self::Ws => "Socket.IO + ws",
        }
    }

    /// Whether it is somebody else's.
    #[must_use]
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Uws | Self::Bun | Self::Socketioxide | Self::Ws)
    }

    /// How events get into it.
    #[must_use]
    pub fn door(self) -> Door {
        if matches!(self, Self::Ours(_) | Self::WithoutRecovery) { Door::Http } else { Door::Socket }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the servers' programs are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The program `loadgen`, which starts the others: see [`exec`].
    pub launcher: PathBuf,
    /// Cargo's directory of release builds.
    pub binaries: PathBuf,
    /// `bench/peers`.
    pub peers: PathBuf,
}

impl Places {
    /// The program and its arguments.
    #[must_use]
    pub fn program(&self, kind: Kind) -> Vec<PathBuf> {
        let node = self.peers.join("node");
        match kind {
            Kind::Ours(_) | Kind::WithoutRecovery => vec![self.binaries.join("slop-studios"), "serve".into()],
            Kind::Engine(_) => vec![self.binaries.join("examples/bench_room")],
            Kind::Floor => vec![self.binaries.join("floor")],
            Kind::Socketioxide => vec![self.peers.join("socketioxide/target/release/socketioxide-peer")],
            Kind::Bun => vec![node.join(Self::bun()), node.join("bun.js")],
            Kind::Uws => vec!["node".into(), node.join("uws.js")],
            Kind::Ws => vec!["node".into(), node.join("ws.js")],
        }
    }

    /// Bun's program in its npm package, below `node`.
    pub(crate) fn bun() -> &'static str {
        if cfg!(target_arch = "aarch64") {
            "node_modules/@oven/bun-linux-aarch64/bin/bun"
        } else {
            "node_modules/@oven/bun-linux-x64/bin/bun"
        }
    }

    /// What is missing to start it, if anything.
    #[must_use]
    pub fn missing(&self, kind: Kind) -> Option<PathBuf> {
        let mut files = self.program(kind);
        if matches!(kind, Kind::Uws | Kind::Ws | Kind::Bun) {
            files.push(self.peers.join("node/node_modules/socket.io"));
        }
        files.into_iter().find(|file| file.components().count() > 1 && !file.exists())
    }
}

/// A process that listens; it ends with this value, and with the load generator whatever becomes of that.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
    log: std::fs::File,
    _data: tempfile::TempDir,
}

impl Process {
    /// Starts a program with these settings besides those that all servers get, and waits until it says where it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(launcher: &Path, name: &str, program: &[PathBuf], settings: &[(&str, &str)]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let log = tempfile::tempfile()?;
        let mut command = launch(launcher, program);
        command
            .envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("LOG_LEVEL", "warn"), ("NODE_ENV", "production")])
            .envs([("API_KEYS", API_KEY), ("JWT_SECRET", "bench-bench-bench-bench-bench-bench")])
            .envs(WIDE_LIMITS)
            .env("DATA_DIR", data.path())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let lines = lines_of(&mut child);
        let mut process = Self { child, address: ([0; 4], 0).into(), log, _data: data };
        process.address = loop {
            match lines.recv_timeout(START) {
                Ok(line) => {
                    if let Some(address) = line.trim().strip_prefix("listening on http://") {
                        break address.parse().with_context(|| format!("the address of {name}: {address}"))?;
                    }
                }
                Err(_) => bail!("{name} does not listen: {}", process.last_words()),
            }
        };
        Ok(process)
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The last lines that it logged.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        let read = self.log.rewind().and_then(|()| std::io::read_to_string(&self.log));
        if let Ok(log) = read {
            let lines: Vec<&str> = log.lines().collect();
            text = lines[lines.len().saturating_sub(5)..].join(" | ");
        }
        if text.is_empty() { "it logged nothing".to_owned() } else { text }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process writes to its standard output.
pub(crate) fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Reads to the end, so that the process can't be held up by a full pipe; it ends when the process does.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

/// A command that becomes the program with an environment of its own: see [`exec`].
pub(crate) fn launch(launcher: &Path, program: &[PathBuf]) -> Command {
    let mut command = Command::new(launcher);
    command.arg("exec").arg("--").args(program).env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A running server of a kind.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    process: Process,
}

impl Server {
    /// Starts a server with settings of its own and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(kind: Kind, places: &Places, settings: &[(&str, &str)]) -> Result<Self> {
        let shards = if let Kind::Ours(shards) | Kind::Engine(shards) = kind { shards } else { 1 }.to_string();
        let mut all = vec![("SHARDS", shards.as_str())];
        all.extend((kind == Kind::WithoutRecovery).then_some(("RECOVERY_MS", "0")));
        all.extend(settings);
        let process = Process::start(&places.launcher, kind.name(), &places.program(kind), &all)?;
        Ok(Self { kind, process })
    }

    /// Which server it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// The last lines that it logged.
    pub fn last_words(&mut self) -> String {
        self.process.last_words()
    }
}

/// Becomes the program, which the system then kills when our parent ends, however it ends.
///
/// # Errors
/// If it can't be started.
pub fn exec(program: &[PathBuf]) -> Result<()> {
    let (name, arguments) = program.split_first().context("no program")?;
    nix::sys::prctl::set_pdeathsig(Some(Signal::SIGKILL))?;
    let error = Command::new::<&Path>(name).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", name.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_a_name_of_its_own() {
        for kind in ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("nobody"), None);
    }
}
