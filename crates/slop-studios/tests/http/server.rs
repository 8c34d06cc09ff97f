//! A server process, gone when the test ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use slop_studios::contract::time::epoch_seconds;
use slop_studios::identity::{SigningAlgorithm, TokenSigner};
use tempfile::TempDir;

pub(crate) const SECRET: &str = "a secret of the tests, longer than thirty-two bytes";
pub(crate) const KEY: &str = "a-publisher-key-of-the-tests-32-bytes";
pub(crate) const OTHER_KEY: &str = "another-publisher-key-of-the-tests-32";

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Its own folder, unless the test gave it one.
    _data: Option<TempDir>,
    killed: bool,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With settings as in the environment.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self::start_in(data.path(), settings);
        server._data = Some(data);
        server
    }

    /// With this data folder, which outlives it.
    pub(crate) fn start_in(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn(Self::command(data, settings))
    }

    /// With settings as in the environment; it logs JSON of this level, which can be read when it has stopped.
    pub(crate) fn start_logging(level: &str, settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut all = vec![("LOG_LEVEL", level), ("LOG_FORMAT", "json")];
        all.extend_from_slice(settings);
        let mut server = Self::start_in_with(data.path(), &all, Stdio::piped());
        server._data = Some(data);
        server
    }

    /// The same; its log goes to `log`.
    pub(crate) fn start_in_with(data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        let mut command = Self::command(data, settings);
        command.stderr(log);
        Self::spawn(command)
    }

    /// From a shell that does something before.
    pub(crate) fn start_after(script: &str, settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let direct = Self::command(data.path(), settings);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("{script}; exec \"$0\" \"$@\""))
            .arg(direct.get_program())
            .args(direct.get_args());
        command.env_clear().stdin(Stdio::null());
        command.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut server = Self::spawn(command);
        server._data = Some(data);
        server
    }

    /// As the command says.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let output = child.stdout.take().expect("its output is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        let url = match serde_json::from_str::<Value>(&line) {
            Ok(line) => line["url"].as_str().map(str::to_owned),
            Err(_text) => line.trim().strip_prefix("listening on ").map(str::to_owned),
        };
        let address = url.as_deref().and_then(|url| url.split_once("://")).map(|(_, address)| address.parse());
        let address = address.expect("the start-up line").expect("an address");
        Self { child, address, _data: None, killed: false }
    }

    /// How it is started.
    pub(crate) fn command(data: &Path, settings: &[(&str, &str)]) -> Command {
        // Another build's, to compare with.
        let binary = std::env::var_os("SLOP_STUDIOS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_slop-studios").into());
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .env_clear()
            .env("HOST", "127.0.0.1")
            .env("PORT", "0")
            .env("SHARDS", "2")
            .env("JWT_SECRET", SECRET)
            .env("API_KEYS", format!("{KEY},{OTHER_KEY}"))
            .env("DATA_DIR", data)
            .env("SHUTDOWN_GRACE_MS", "3000")
            .env("LOG_LEVEL", "error")
            .envs(settings.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// All that it logged, once it has stopped.
    pub(crate) fn log(&mut self) -> String {
        let mut log = String::new();
        self.child.stderr.take().expect("its log is piped").read_to_string(&mut log).expect("UTF-8");
        log
    }

    /// Ends it in order, and returns what it logged, if it was told to log JSON.
    pub(crate) async fn log_lines(&mut self) -> Vec<Value> {
        self.signal("TERM");
        assert!(self.wait().await.success());
        self.log().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Waits until it has stopped.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not stop in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The same, and its exit code may be any.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let status = self.wait().await;
        self.killed = true;
        status.code()
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        // What `drop` looks for is a crash.
        self.killed = true;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(status.expect("sh runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let crashed = !self.killed && self.child.try_wait().ok().flatten().is_some_and(|status| !status.success());
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(!crashed || std::thread::panicking(), "the server crashed");
    }
}

/// A token of this user that is valid for an hour.
pub(crate) fn token(user: &str) -> String {
    token_until(user, 3600)
}

/// A token of this user that ends in so many seconds.
pub(crate) fn token_until(user: &str, seconds: i64) -> String {
    let now = i64::try_from(epoch_seconds()).expect("a date");
    signed(json!({"userId": user, "email": format!("{user}@example.com"), "exp": now + seconds}))
}

/// A token with these claims.
pub(crate) fn signed(claims: Value) -> String {
    signed_with(SECRET, claims)
}

/// A token with these claims that is signed with this secret.
pub(crate) fn signed_with(secret: &str, claims: Value) -> String {
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let signer = TokenSigner::new(&SecretString::from(secret));
    let token = signer.sign(SigningAlgorithm::Hs256, &claims).expect("HMAC signs");
    token.expose_secret().to_owned()
}
