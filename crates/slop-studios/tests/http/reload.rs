//! SIGHUP: what it changes, and that a wrong configuration changes nothing.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::api::{post, send, value_of};
use crate::client::Client;
use crate::issuer::Key;
use crate::server::{SECRET, Server, signed_with, token};

/// A server with a configuration file, which can be written again.
pub(crate) struct Configured {
    server: Server,
    folder: TempDir,
    settings: Vec<(String, String)>,
}

impl Deref for Configured {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Configured {
    pub(crate) fn start(toml: &str) -> Self {
        Self::start_with(toml, &[])
    }

    /// With settings as in the environment; those that the file is to say are empty there.
    pub(crate) fn start_with(toml: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>();
        fs::write(folder.path().join("slop.toml"), toml).expect("the folder can be written");
        Self { server: spawn(folder.path(), &settings), folder, settings }
    }

    /// Stops the server as a deploy does, and starts it with another configuration.
    pub(crate) async fn restart(&mut self, toml: &str) {
        self.signal("TERM");
        assert!(self.server.wait().await.success(), "{}", self.log());
        fs::write(self.folder.path().join("slop.toml"), toml).expect("the folder can be written");
        self.server = spawn(self.folder.path(), &self.settings);
    }

    /// Puts another configuration in force, which must be a good one.
    pub(crate) async fn reload(&self, toml: &str) {
        assert!(self.try_reload(toml).await, "{}", self.log());
    }

    /// Whether the server has put this configuration in force.
    pub(crate) async fn try_reload(&self, toml: &str) -> bool {
        fs::write(self.folder.path().join("slop.toml"), toml).expect("the folder can be written");
        let before = [self.reloads("applied").await, self.reloads("refused").await];
        self.signal("HUP");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = [self.reloads("applied").await, self.reloads("refused").await];
            if now != before {
                return now[0] > before[0];
            }
            assert!(Instant::now() < deadline, "it does not reload");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn reloads(&self, outcome: &str) -> u64 {
        self.metric(&format!("slop_reloads_total{{outcome=\"{outcome}\"}}")).await
    }

    /// A number of `/metrics`; 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        value_of(&send(self, "GET", "/metrics", &[], b"").await.text, name).unwrap_or(0.0) as u64
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the log is there")
    }
}

fn spawn(folder: &Path, settings: &[(String, String)]) -> Server {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("the folder can be written");
    let mut command = Server::command(&folder.join("data"), &settings);
    command.arg("--config").arg(folder.join("slop.toml")).stderr(log);
    Server::spawn(command)
}

#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_is_named() {
    let server = Configured::start("[[rooms]]\nname = \"lobby\"\nallow = \"nobody\"\n");
    let wrong = "[[rooms]]\nname = \"lobby\"\nalow = \"anyone\"\n[[publisher_keys]]\nname = \"x\"\nhash = \"secret\"\nscopes = [\"*\"]\n";
    assert!(!server.try_reload(wrong).await);
    let log = server.log();
    for part in ["[[rooms]] 1 in ", "has the unknown key `alow`; did you mean `allow`?", "[[publisher_keys]] 1 in "] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    assert!(!log.contains("secret"), "{log}");
    // A setting that is wrong keeps good rules out too.
    assert!(!server.try_reload("max_rooms_per_socket = 0\n[[rooms]]\nname = \"lobby\"\nallow = \"anyone\"\n").await);
    let mut client = Client::connect(&server, "/").await;
    assert_eq!(client.call("joinRoom", json!(["lobby"])).await["success"], false, "the first rules are in force");
    server.reload("[[rooms]]\nname = \"lobby\"\nallow = \"anyone\"\n").await;
    assert_eq!(client.call("joinRoom", json!(["lobby"])).await["success"], true);
}

#[tokio::test]
async fn secrets_and_whether_a_token_is_required_change_at_run_time() {
    let secret = |secret: &str, more: &str| format!("jwt_secret = {secret:?}\n{more}");
    let server = Configured::start_with(&secret(SECRET, ""), &[("JWT_SECRET", "")]);
    let mut old = Client::connect_as(&server, "/", &token("alice")).await;
    let mut anonymous = Client::connect(&server, "/").await;
    anonymous.call("joinRoom", json!(["lobby"])).await;
    old.call("joinRoom", json!(["lobby"])).await;

    let next = "another secret of the tests, longer than thirty-two";
    server.reload(&secret(next, "auth_required = true\n")).await;
    // Who was let in by the old secret stays as nobody, and who comes needs a token of the new one.
    assert_eq!(old.call("getConnectionInfo", json!([])).await["authenticated"], false);
    let new = signed_with(next, json!({"userId": "bob"}));
    let _bob = Client::connect_as(&server, "/", &new).await;
    for auth in [json!({}), json!({"token": token("alice")})] {
        let refused = Client::try_connect(&server, "/", auth, None).await;
        assert_eq!(refused.err().expect("it is refused")["message"], "Unauthorized");
    }
    let delivered = post(&server, "/v1/rooms/lobby/events", &json!({"event": "e"})).await.json()["delivered"].clone();
    assert_eq!(delivered, 0, "who has no good token has left the room");
    assert_eq!(anonymous.call("joinRoom", json!(["lobby"])).await, json!({"success": false, "error": "Not allowed"}));
}

/// One token after another comes while secrets change, and public keys with them.
#[tokio::test]
async fn secrets_and_keys_are_rotated_under_load_without_a_dropped_connection() {
    let [old_key, new_key] = ["a", "b"].map(Key::new);
    let files = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).expect("the folder can be written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (old_file, new_file) = (file("old.pem", &old_key.pem()), file("new.pem", &new_key.pem()));
    let config = |secret: &str, previous: &[&str], files: &[&str]| {
        format!("jwt_secret = {secret:?}\njwt_previous_secrets = {previous:?}\njwt_public_keys = {files:?}\n")
    };
    let [old, next] =
        ["the first secret of this test without a comma", "the second secret of this test without a comma"];
    let server = Arc::new(Configured::start_with(&config(old, &[], &[&old_file]), &[("JWT_SECRET", "")]));
    let [by_old, by_new] = [old, next].map(|secret| signed_with(secret, json!({"userId": "alice"})));
    let mut first = Client::connect_as(&server, "/", &by_old).await;
    first.call("joinRoom", json!(["r"])).await;

    // Clients whose tokens are of what is in force before and after each change come all the while.
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (server, stop, served) = (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&served));
        let by_old = by_old.clone();
        async move {
            let mut clients = Vec::new();
            while !stop.load(Ordering::Acquire) && clients.len() < 500 {
                let mut client = Client::connect_as(&server, "/", &by_old).await;
                assert_eq!(client.call("joinRoom", json!(["r"])).await["success"], true);
                assert_eq!(post(&server, "/v1/rooms/r/events", &json!({"event": "e"})).await.status, 200);
                clients.push(client);
                served.fetch_add(1, Ordering::AcqRel);
            }
            clients
        }
    });
    let some_more = async || {
        let goal = served.load(Ordering::Acquire) + 10;
        while served.load(Ordering::Acquire) < goal && !load.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    some_more().await;
    let both = config(next, &[old], &[&old_file, &new_file]);
    server.reload(&both).await;
    some_more().await;
    for token in [&by_new, &old_key.token("alice"), &new_key.token("alice")] {
        Client::connect_as(&server, "/", token).await;
    }
    // A private key, put there by mistake, changes nothing.
    file("new.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    assert!(!server.try_reload(&config(next, &[], &[&new_file])).await);
    file("new.pem", &new_key.pem());
    some_more().await;
    stop.store(true, Ordering::Release);
    let mut clients = load.await.expect("everybody was served");
    server.reload(&config(next, &[], &[&new_file])).await;

    // What was withdrawn lets nobody in, and nobody who is in was sent away.
    for token in [&by_old, &old_key.token("alice")] {
        let refused = Client::try_connect(&server, "/", json!({"token": token}), None).await;
        let mut refused = refused.expect("it is connected without an identity");
        refused.expect("welcome").await;
        assert_eq!(refused.expect("authError").await, json!({"message": "Token is invalid"}));
    }
    clients.push(first);
    let delivered = post(&server, "/v1/rooms/r/events", &json!({"event": "last"})).await.json()["delivered"].clone();
    assert_eq!(delivered, clients.len());
    for client in &mut clients {
        assert_eq!(client.call("getConnectionInfo", json!([])).await["authenticated"], false);
        let told = client.events().await;
        let withdrawn = ("authError".to_owned(), json!({"message": "Token is invalid"}));
        assert_eq!(told.iter().filter(|(event, _)| event == "authError").collect::<Vec<_>>(), [&withdrawn]);
    }
}

#[tokio::test]
async fn the_log_can_be_turned_up() {
    let rules = "[[rooms]]\nname = \"*\"\nallow = \"nobody\"\n";
    let server = Configured::start_with(rules, &[("LOG_LEVEL", "")]);
    let mut client = Client::connect(&server, "/").await;
    client.call("joinRoom", json!(["first"])).await;
    server.reload(&format!("log_level = \"debug\"\n{rules}")).await;
    client.call("joinRoom", json!(["second"])).await;
    let log = server.log();
    assert!(!log.contains("first") && log.contains("second") && log.contains("[[rooms]] 1"), "{log}");
}

#[tokio::test]
async fn a_setting_that_needs_a_restart_is_logged() {
    let server = Configured::start_with("max_rooms_per_socket = 5\n", &[("LOG_LEVEL", "warn")]);
    server.reload("max_rooms_per_socket = 6\n").await;
    let log = server.log();
    assert!(log.contains("takes effect at the next start") && log.contains("MAX_ROOMS_PER_SOCKET"), "{log}");
}
