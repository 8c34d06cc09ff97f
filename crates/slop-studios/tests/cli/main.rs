//! The command line from outside: what each command prints, where, and with which exit code.

mod docs;
mod help;
mod listen;
mod live;
mod log;
mod policy;
mod publish;
mod redis;
#[path = "../common/redis.rs"]
mod redis_server;
mod settings;
mod start;
mod tls;
mod token;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// As long as the recommended minimum, so that nothing is warned about.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A folder of its own for each test, and the binary run in it with no environment but what the test gives.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("a file in the temporary folder");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slop-studios"));
        command.args(args).env_clear().current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with::<&str>(args, &[])
    }

    fn run_with<V: AsRef<OsStr>>(&self, args: &[&str], env: &[(&str, V)]) -> Ran {
        let mut command = self.command(args);
        for (name, value) in env {
            command.env(name, value);
        }
        Ran::from(command.output().expect("the binary starts"))
    }

    /// With this on standard input.
    fn run_on(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        // Who does not read it may have ended already.
        let _unread = child.stdin.take().expect("piped").write_all(input.as_bytes());
        Ran::from(child.wait_with_output().expect("it ends"))
    }
}

/// What a finished run left behind.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    fn refused(self) -> Self {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self
    }

    #[track_caller]
    fn failed(self) -> Self {
        assert_eq!(self.code, Some(1), "{self:#?}");
        self
    }
}
