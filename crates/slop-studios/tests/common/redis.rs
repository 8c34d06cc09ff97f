//! A real Redis for a test.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A Redis of one test, on a socket in a folder of its own.
pub(crate) struct Redis {
    folder: TempDir,
    pub(crate) process: Child,
}

impl Redis {
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket", "socket"])
            .args(settings)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)");
        let redis = Self { folder, process };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !redis.socket().exists() {
            assert!(Instant::now() < deadline, "Redis starts");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        redis
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Has Redis carry out a command.
    pub(crate) fn command(&self, words: &[&str]) {
        let done = Command::new("redis-cli").arg("-s").arg(self.socket()).args(words).stdout(Stdio::null()).status();
        assert!(done.expect("redis-cli is installed (Debian: redis-tools)").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
