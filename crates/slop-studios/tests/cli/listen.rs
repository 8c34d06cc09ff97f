//! `listen`: as whom, what it shows on a terminal and elsewhere, and its exit code.

use std::io::Read as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::Place;
use crate::live::{Dev, Listener, PATIENCE};

#[test]
fn a_user_is_enough_where_dev_runs() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let listen = |user: &[&str]| {
        let args =
            ["listen", "--url", &dev.url, "--namespace", "/", "--event", "authenticated", "--count", "1", "--json"];
        [&args[..], &["--timeout", PATIENCE], user].concat().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let run = |place: &Place, user: &[&str]| {
        let args = listen(user);
        place.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ran = run(&place, &["--user", "alice"]).ok();
    let event: Value = serde_json::from_str(&ran.stdout).expect("an event");
    assert_eq!(event["args"][0]["userId"], "alice", "{event}");
    // From another folder, by the one where `dev` keeps its secret.
    let elsewhere = Place::new();
    let data = place.path().join("data");
    run(&elsewhere, &["--user", "bob", "--data-dir", data.to_str().expect("UTF-8")]).ok();
    let ran = run(&elsewhere, &["--user", "bob"]).refused();
    assert!(ran.stderr.contains("JWT_SECRET is not set"), "{ran:#?}");
    run(&place, &["--user", "alice", "--token", "x"]).refused();
    run(&place, &["--user", ""]).refused();
    dev.stop();
}

/// A session that could be recovered has one argument more.
#[test]
fn events_are_shown_without_the_offset() {
    let place = Place::new();
    let dev = Dev::start(&place);
    for form in [&["--json"][..], &[]] {
        let args = ["listen", "--url", &dev.url, "--room", "r", "--event", "e", "--count", "1", "--timeout", PATIENCE];
        let mut listener = Listener::start(place.command(&[&args[..], form].concat()));
        listener.wait_for("joined the room");
        place.run(&["publish", "--url", &dev.url, "room", "r", "e", r#"{"a":1}"#]).ok();
        let ran = listener.finish().ok();
        match form {
            [] => assert!(ran.stdout.ends_with(" / e {\"a\":1}\n") && ran.stdout.lines().count() == 1, "{ran:#?}"),
            _ => assert!(ran.stdout.ends_with("\"event\":\"e\",\"args\":[{\"a\":1}]}\n"), "{ran:#?}"),
        }
    }
    dev.stop();
}

#[test]
fn without_a_connection_or_a_room_it_fails() {
    let place = Place::new();
    let ran = place.run(&["listen", "--url", "http://127.0.0.1:1", "--timeout", "0.3"]).failed();
    assert!(ran.stderr.contains("error: never connected to http://127.0.0.1:1"), "{ran:#?}");
    let dev = Dev::start(&place);
    let listen = |args: &[&str]| place.run(&[&["listen", "--url", &dev.url], args].concat());
    let none = "error: the server lets us have none of the rooms and media items";
    for refused in [&["--room", "user:bob"][..], &["--room", "user:bob", "--room", "/media:user:bob"]] {
        let ran = listen(refused).failed();
        assert!(ran.stderr.contains(none), "{ran:#?}");
    }
    // What it has of what was asked for is worth listening to, and a namespace that was asked for by name.
    for rest in [["--room", "lobby"], ["--media", "m"], ["--namespace", "/"]] {
        let ran = listen(&[&["--room", "user:bob", "--timeout", "0.5"], &rest[..]].concat()).ok();
        assert!(ran.stderr.contains("not joined the room \"user:bob\""), "{ran:#?}");
    }
    dev.stop();
}

/// A `listen` whose standard streams are a terminal.
struct OnTerminal {
    child: Child,
    output: ChildStdout,
    shown: String,
}

impl OnTerminal {
    fn start(place: &Place, args: &[&str], env: &[(&str, &str)]) -> Self {
        let words = [&[env!("CARGO_BIN_EXE_slop-studios")], args].concat();
        let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["-qefc", &line, "/dev/null"]).env_clear().env("TERM", "xterm").current_dir(place.path());
        script.envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("script runs (util-linux)");
        let output = child.stdout.take().expect("piped");
        Self { child, output, shown: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        while !self.shown.contains(text) {
            let read = self.output.read(&mut buffer).expect("the terminal can be read");
            assert!(read > 0, "no {text:?} in {:?}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    fn finish(mut self) -> String {
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).expect("the terminal can be read");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0), "{}", self.shown);
        self.shown.clone() + &String::from_utf8_lossy(&rest)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_terminal_has_colours_and_a_bar() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let shown = |media: &str, env: &[(&str, &str)]| {
        let args =
            ["listen", "--url", &dev.url, "--media", media, "--event", "mediaProgress", "--event", "mediaComplete"];
        let args = [&args[..], &["--count", "3", "--timeout", PATIENCE]].concat();
        let mut terminal = OnTerminal::start(&place, &args, env);
        terminal.wait_for("subscribed to the media item");
        let publish = |event: &[&str]| place.run(&[&["publish", "--url", &dev.url], event].concat()).ok();
        publish(&["progress", media, "--progress", "10", "--stage", "render"]);
        terminal.wait_for(" 10 % render");
        publish(&["progress", media, "--progress", "60", "--stage", "encode"]);
        terminal.wait_for(" 60 % encode");
        publish(&["complete", media, "https://example.com/m.mp4"]);
        terminal.finish()
    };
    let coloured = shown("m", &[]);
    // The second bar is drawn over the first, and the end stands on a line of its own.
    assert!(coloured.contains("\r\x1b[2K"), "{coloured:?}");
    for line in coloured.split('\n').filter(|line| line.contains("% render")) {
        assert!(line.contains("% encode"), "{coloured:?}");
    }
    assert!(coloured.contains("mediaComplete\x1b[0m {"), "{coloured:?}");
    assert!(coloured.contains("\x1b[32m##\x1b[0m------------------]"), "{coloured:?}");
    // <https://no-color.org>
    let plain = shown("n", &[("NO_COLOR", "1")]);
    assert!(plain.contains("[############--------]  60 % encode") && plain.contains("\r\x1b[2K"), "{plain:?}");
    assert!(!plain.contains("\x1b[1m") && !plain.contains("\x1b[3") && !plain.contains("\x1b[0m"), "{plain:?}");
    let dumb = shown_on_dumb(&place, &dev);
    assert!(!dumb.contains('\x1b'), "{dumb:?}");
    dev.stop();
}

/// A terminal that can't move its cursor is served like a file.
fn shown_on_dumb(place: &Place, dev: &Dev) -> String {
    let args = [
        "listen",
        "--url",
        &dev.url,
        "--media",
        "m",
        "--event",
        "mediaComplete",
        "--count",
        "1",
        "--timeout",
        PATIENCE,
    ];
    OnTerminal::start(place, &args, &[("TERM", "dumb")]).finish()
}
