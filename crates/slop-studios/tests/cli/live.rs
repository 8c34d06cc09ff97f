//! `dev`, `listen` and `publish` together, as someone who tries the server uses them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::{Place, Ran};

/// Every wait in these tests ends after this many seconds, by the commands' own time limits.
pub(crate) const PATIENCE: &str = "20";

/// A running `dev`, which must end well when told to.
pub(crate) struct Dev {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) url: String,
}

impl Dev {
    pub(crate) fn start(place: &Place) -> Self {
        Self::start_with(place, &[])
    }

    /// With more flags.
    pub(crate) fn start_with(place: &Place, flags: &[&str]) -> Self {
        let mut child = place
            .command(&[&["dev", "--port", "0"], flags].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dev starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a first line");
        let url = line
            .trim_end()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("the first line is {line:?}"))
            .to_owned();
        Self { child, output, url }
    }

    /// The rest of what it prints at the start.
    fn guide(&mut self) -> String {
        let mut guide = String::new();
        while !guide.contains("Ctrl-C") {
            let read = self.output.read_line(&mut guide).expect("UTF-8");
            assert!(read > 0, "the output ends early: {guide}");
        }
        guide
    }

    /// Stops it as an orchestrator does.
    pub(crate) fn stop(mut self) {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(told.success());
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.code(), Some(0), "SIGTERM ends it with 0");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // After `stop` it is gone already; in a test that failed it must not stay.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A running `listen`.
pub(crate) struct Listener {
    child: Child,
    progress: BufReader<ChildStderr>,
}

impl Listener {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("listen starts");
        let progress = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, progress }
    }

    /// Reads standard error up to a line that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let mut all = String::new();
        loop {
            let start = all.len();
            let read = self.progress.read_line(&mut all).expect("UTF-8");
            assert!(read > 0, "no {text:?} in {all:?}");
            if all[start..].contains(text) {
                return;
            }
        }
    }

    pub(crate) fn finish(mut self) -> Ran {
        let mut stdout = String::new();
        let mut stderr = String::new();
        let mut output = self.child.stdout.take().expect("piped");
        output.read_to_string(&mut stdout).expect("UTF-8");
        self.progress.read_to_string(&mut stderr).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        Ran { code: status.code(), stdout, stderr }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // One that nobody waited for to finish.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The events that `listen --json` showed, by namespace, name and first argument.
fn events(ran: &Ran) -> Vec<(String, String, Value)> {
    ran.stdout
        .lines()
        .map(|line| {
            let mut event: Value = serde_json::from_str(line).expect("a line of JSON");
            let text = |value: &Value| value.as_str().expect("a string").to_owned();
            assert_eq!(text(&event["time"]).len(), "2026-11-23T08:00:00.000Z".len());
            let argument = event["args"][0].take();
            (text(&event["namespace"]), text(&event["event"]), argument)
        })
        .collect()
}

#[test]
fn the_printed_commands_work_when_pasted() {
    let place = Place::new();
    let mut dev = Dev::start(&place);
    let guide = dev.guide();
    let pasted = |name: &str| {
        let words = format!(" {name} --url ");
        let line = guide.lines().find(|line| line.contains(&words)).unwrap_or_else(|| panic!("no {name} in {guide}"));
        line.trim().to_owned()
    };
    // Another shell stands elsewhere.
    let elsewhere = Place::new();
    let shell = |line: String| {
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(elsewhere.path()).stdin(Stdio::null());
        command
    };
    let listen = format!("exec {} --event mediaComplete --count 1 --timeout {PATIENCE} --json", pasted("listen"));
    let mut listener = Listener::start(shell(listen.clone()));
    let item = listen.split(" --media ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an item").to_owned();
    assert!(item.starts_with("demo-"), "{item}");
    listener.wait_for(&format!("subscribed to the media item \"{item}\""));
    let published = shell(pasted("publish")).output().expect("sh runs");
    let receipt = Ran::from(published).ok().stdout;
    let receipt: Value = serde_json::from_str(&receipt).expect("a receipt");
    assert_eq!(receipt["delivered"], 1, "{receipt}");
    assert_eq!(
        events(&listener.finish().ok()),
        [(
            "/media".to_owned(),
            "mediaComplete".to_owned(),
            json!({"mediaId": item, "url": "https://example.com/demo.mp4"}),
        )]
    );
    dev.stop();
}

#[test]
fn a_server_in_memory_keeps_nothing() {
    let place = Place::new();
    for _ in 0..2 {
        let dev = Dev::start_with(&place, &["--memory"]);
        // An item ends once.
        let complete = ["publish", "--url", &dev.url, "complete", "m", "https://example.com/1.mp4"];
        place.run(&complete).ok();
        place.run(&complete).failed();
        dev.stop();
    }
    let files = std::fs::read_dir(place.path().join("data")).expect("a folder");
    let mut names: Vec<_> = files.map(|file| file.expect("readable").file_name()).collect();
    names.sort();
    assert_eq!(names, ["dev-jwt-secret", "dev-publisher-key"]);
}

#[test]
fn every_kind_of_event_is_published_and_shown() {
    for flags in [&[][..], &["--memory"]] {
        is_published_and_shown(flags);
    }
}

fn is_published_and_shown(flags: &[&str]) {
    let place = Place::new();
    let dev = Dev::start_with(&place, flags);
    // The development secret and key are found in the folder of both.
    let token = place.run(&["token", "--user", "alice"]).ok().stdout;
    let mut listener = Listener::start(place.command(&[
        "listen",
        "--url",
        &dev.url,
        "--namespace",
        "/notifications",
        "--media",
        "m/1",
        "--media",
        "m2",
        "--room",
        "project-1",
        "--token",
        token.trim(),
        "--event",
        "mediaProgress",
        "--event",
        "mediaComplete",
        "--event",
        "mediaError",
        "--event",
        "notification",
        "--event",
        "projectUpdate",
        "--count",
        "5",
        "--timeout",
        PATIENCE,
        "--json",
    ]));
    // The namespaces answer in the order they were asked for, and the rooms' first.
    listener.wait_for("joined the room \"project-1\" on /");
    listener.wait_for("subscribed to the media item \"m2\"");

    let publish = |args: &[&str]| {
        let args = [&["publish", "--url", &dev.url], args].concat();
        let receipt: Value = serde_json::from_str(&place.run(&args).ok().stdout).expect("a receipt");
        assert!(receipt["id"].is_string(), "{receipt}");
        assert_eq!(receipt["delivered"], 1, "{receipt}");
    };
    publish(&["progress", "m/1", "--progress", "42.5", "--stage", "render", "--message", "half"]);
    publish(&[
        "complete",
        "m/1",
        "https://example.com/1.mp4",
        "--thumbnail-url",
        "https://example.com/1.png",
        "--metadata",
        r#"{"seconds": 3}"#,
    ]);
    publish(&["error", "m2", "out of memory", "--code", "OOM"]);
    publish(&[
        "notification",
        "alice",
        "--title",
        "Done",
        "--message",
        "It is",
        "--type",
        "success",
        "--id",
        "n1",
        "--data",
        r#"{"a": 1}"#,
    ]);
    publish(&["room", "project-1", "projectUpdate", r#"{"step": 2}"#]);

    let ran = listener.finish().ok();
    let mut events = events(&ran);
    let notification = &mut events[3].2;
    assert!(notification["timestamp"].take().is_string(), "{notification}");
    let expected = [
        ("/media", "mediaProgress", json!({"mediaId": "m/1", "progress": 42.5, "stage": "render", "message": "half"})),
        (
            "/media",
            "mediaComplete",
            json!({
                "mediaId": "m/1",
                "url": "https://example.com/1.mp4",
                "thumbnailUrl": "https://example.com/1.png",
                "metadata": {"seconds": 3},
            }),
        ),
        ("/media", "mediaError", json!({"mediaId": "m2", "error": "out of memory", "code": "OOM"})),
        (
            "/notifications",
            "notification",
            json!({
                "id": "n1", "type": "success", "title": "Done", "message": "It is", "timestamp": null, "data": {"a": 1},
            }),
        ),
        ("/", "projectUpdate", json!({"step": 2})),
    ]
    .map(|(namespace, event, argument)| (namespace.to_owned(), event.to_owned(), argument));
    assert_eq!(events, expected);
    dev.stop();
}

#[test]
fn what_the_server_refuses_is_said_on_standard_error() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let url = dev.url.as_str();
    let conflict = ["publish", "--url", url, "complete", "m", "https://example.com/a"];
    place.run(&conflict).ok();
    let ran = place.run(&conflict).failed();
    assert!(ran.stderr.contains("409"), "{ran:#?}");
    let ran = place.run(&["publish", "--url", url, "--key", "wrong-key", "error", "m", "x"]).failed();
    assert!(ran.stderr.contains("401"), "{ran:#?}");
    assert!(!ran.stderr.contains("wrong-key"), "{ran:#?}");

    let ran = place.run(&["listen", "--url", url, "--namespace", "/nowhere"]).failed();
    assert!(ran.stderr.contains("Invalid namespace"), "{ran:#?}");
    let mut listener = Listener::start(place.command(&["listen", "--url", url, "--room", "user:bob"]));
    listener.wait_for("not joined the room \"user:bob\" on /: ");
    listener.finish().failed();
    dev.stop();
}

#[cfg(unix)]
#[test]
fn development_secrets_are_made_once_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let files = ["data/dev-jwt-secret", "data/dev-publisher-key"].map(|name| place.path().join(name));
    Dev::start(&place).stop();
    let read = || files.clone().map(|file| std::fs::read_to_string(file).expect("a secret"));
    let first = read();
    assert_ne!(first[0], first[1]);
    for file in &files {
        let mode = std::fs::metadata(file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    Dev::start(&place).stop();
    assert_eq!(read(), first);
}

#[test]
fn without_a_server_or_a_key_it_says_so() {
    let place = Place::new();
    let ran = place.run(&["publish", "--url", "http://127.0.0.1:1", "--key", "k", "error", "m", "x"]).failed();
    assert!(ran.stderr.contains("can't connect to http://127.0.0.1:1"), "{ran:#?}");
    let ran = place.run(&["publish", "error", "m", "x"]).refused();
    assert!(ran.stderr.contains("no publisher key"), "{ran:#?}");
    let ran = place.run(&["publish", "--url", "https://127.0.0.1:1", "--key", "k", "error", "m", "x"]).failed();
    assert!(ran.stderr.contains("can't connect to https://127.0.0.1:1"), "{ran:#?}");
    let ran = place.run(&["listen", "--url", "http://127.0.0.1:1", "--count", "1", "--timeout", "0.3"]).failed();
    assert!(ran.stderr.contains("trying again in"), "{ran:#?}");
    assert!(ran.stderr.contains("timed out after 0 of 1 events"), "{ran:#?}");
}
