//! A disk that can be made to fail or wait while a server runs on it: see `e2e/faults/disk.c`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::server::Server;

/// The library, built with the compiler that SQLite needs too.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/faults/disk.c");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk-faults.so");
    let fresh = library.with_extension(std::process::id().to_string());
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&fresh).arg(source).arg("-ldl").status();
    assert!(built.expect("cc runs").success());
    fs::rename(fresh, &library).expect("it can be renamed");
    library
});

pub(crate) struct FaultyDisk {
    place: TempDir,
}

impl FaultyDisk {
    /// Without faults so far.
    pub(crate) fn new() -> Self {
        Self { place: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The data folder on it.
    pub(crate) fn data(&self) -> PathBuf {
        self.place.path().canonicalize().expect("it is there").join("data")
    }

    /// From now on it has these faults, and no others.
    pub(crate) fn set(&self, rules: &str) {
        let (fresh, control) = (self.place.path().join("fresh"), self.place.path().join("control"));
        fs::write(&fresh, rules).expect("it can be written");
        fs::rename(fresh, control).expect("it can be renamed");
    }

    /// How often a call met a fault.
    pub(crate) fn met(&self) -> usize {
        fs::read_to_string(self.place.path().join("met")).unwrap_or_default().lines().count()
    }

    /// What all servers on it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// A server on it.
    pub(crate) fn start(&self, settings: &[(&str, &str)]) -> Server {
        Server::spawn(self.command(settings))
    }

    /// How it is started.
    pub(crate) fn command(&self, settings: &[(&str, &str)]) -> Command {
        let log = File::options().create(true).append(true).open(self.place.path().join("log"));
        let mut command = Server::command(&self.data(), settings);
        command
            .env("LD_PRELOAD", &*LIBRARY)
            .env("DISK_FAULTS_FOLDER", self.data())
            .env("DISK_FAULTS_CONTROL", self.place.path().join("control"))
            .env("DISK_FAULTS_LOG", self.place.path().join("met"))
            .env("LOG_LEVEL", "info")
            .stderr(log.expect("a log"));
        command
    }
}
