//! `publish`: what it refuses itself, events from standard input, and many over one connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::live::Dev;
use crate::{Place, Ran};

/// The line, and the receipt or the problem's code.
fn outcomes(ran: &Ran) -> Vec<(u64, Result<Value, String>)> {
    let outcome = |line: &str| {
        let mut outcome: Value = serde_json::from_str(line).expect("a line of JSON");
        let code = outcome["problem"]["code"].as_str().map(str::to_owned);
        let number = outcome["line"].as_u64().expect("a line's number");
        match outcome["ok"].as_bool().expect("ok or not") {
            true => (number, Ok(outcome["receipt"].take())),
            false => (number, Err(code.expect("a problem's code"))),
        }
    };
    ran.stdout.lines().map(outcome).collect()
}

fn room_event(number: usize, filler: usize) -> String {
    json!({"kind": "roomEvent", "room": "r", "event": "e", "data": [number, "x".repeat(filler)]}).to_string() + "\n"
}

#[test]
fn progress_beyond_its_range_is_refused() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let publish = |progress: &str| {
        place.run(&["publish", "--url", &dev.url, "progress", "m", "--progress", progress, "--stage", "s"])
    };
    for wrong in ["200", "100.1", "-1", "-0.1", "NaN", "inf", "1e3", "half", ""] {
        let ran = publish(wrong).refused();
        assert!(ran.stderr.contains("not a number from 0 to 100"), "{ran:#?}");
    }
    for good in ["0", "33.3", "100"] {
        assert_eq!(publish(good).ok().stderr, "");
    }
    dev.stop();
}

#[test]
fn an_event_comes_from_standard_input() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let on = |args: &[&str], input: &str| place.run_on(&[&["publish", "--url", &dev.url], args].concat(), input);
    let receipt = |ran: Ran| -> Value { serde_json::from_str(&ran.stdout).expect("a receipt") };

    let ran =
        on(&["json"], "{\n  \"kind\": \"progress\",\n  \"mediaId\": \"m\", \"progress\": 200, \"stage\": \"s\"\n}\n")
            .ok();
    let told = "warning: progress is above 100 and was taken as 100; lower progress of this attempt will be refused\n";
    assert_eq!(ran.stderr, told);
    assert_eq!(receipt(ran)["warnings"][0]["field"], "progress");
    let ran = on(&["json", "-"], r#"{"kind":"progress","mediaId":"m","progress":99,"stage":"s"}"#).failed();
    assert!(ran.stderr.contains("409 Conflict") && ran.stdout.is_empty(), "{ran:#?}");
    let ran = on(&["json"], r#"{"kind":"progress","mediaId":"m"}"#).failed();
    assert!(ran.stderr.contains("422") && ran.stderr.contains("stage"), "{ran:#?}");
    let ran = on(&["json"], "{").refused();
    assert!(ran.stderr.contains("standard input is not JSON"), "{ran:#?}");
    let key = ["--idempotency-key", "k", "json", "event.json"];
    place.write("event.json", r#"{"kind":"error","mediaId":"n","error":"e"}"#);
    let first = on(&key, "").ok();
    assert_eq!(on(&key, "").ok().stdout, first.stdout);

    // Where a value of JSON is wanted.
    on(&["room", "r", "e", "-"], r#"{"a": 1}"#).ok();
    // A text that was cut within an emoji.
    on(&["room", "r", "e", "-"], r#"{"a": "x \ud83d"}"#).ok();
    on(&["complete", "m", "https://example.com/m", "--metadata", "-"], r#"{"a": 1}"#).ok();
    on(&["notification", "u", "--title", "t", "--message", "m", "--data", "-"], r#"{"a": 1}"#).ok();
    let ran = on(&["room", "r", "e", "-"], "a").refused();
    assert!(ran.stderr.contains("what standard input has is not JSON"), "{ran:#?}");
    dev.stop();
}

#[test]
fn each_of_many_events_has_an_outcome() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let deep =
        format!(r#"{{"kind":"roomEvent","room":"r","event":"e","data":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let lines = [
        r#"{"kind":"progress","mediaId":"m","progress":150,"stage":"s"}"#,
        "",
        "not JSON",
        r#" {"kind": "complete", "mediaId": "m", "url": "https://example.com/m"} "#,
        r#"{"kind":"complete","mediaId":"m","url":"https://example.com/m"}"#,
        deep.as_str(),
        r#"{"kind":"notification","userId":"u","type":"info","title":"t","message":"m","id":"n"}"#,
        r#"[{"kind":"error"}]"#,
        r#"{"kind":"roomEvent","room":"r","event":"e"}"#,
    ];
    // The last line has no end.
    let ran = place.run_on(&["publish", "--url", &dev.url, "ndjson"], &lines.join("\r\n")).failed();
    let outcomes = outcomes(&ran);
    let refused = |code: &str| Err(code.to_owned());
    let numbers: Vec<u64> = outcomes.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8, 9], "{ran:#?}");
    let told: Vec<_> = outcomes.iter().map(|(_, outcome)| outcome.as_ref().map(|_| ()).map_err(Clone::clone)).collect();
    let expected = [
        Ok(()),
        refused("malformed"),
        Ok(()),
        refused("media_conflict"),
        refused("malformed"),
        Ok(()),
        refused("invalid"),
        Ok(()),
    ];
    assert_eq!(told, expected, "{ran:#?}");
    assert_eq!(outcomes[5].1.as_ref().map(|receipt| receipt["id"].clone()), Ok(json!("n")));
    assert!(ran.stdout.contains("the line is not JSON: expected ident at column 2"), "{ran:#?}");
    assert!(ran.stderr.contains("warning: line 1: progress is above 100"), "{ran:#?}");
    assert!(ran.stderr.ends_with("error: 4 of 8 events were not accepted\n"), "{ran:#?}");

    // From a file, and all well.
    place.write("events.ndjson", &(0..250).map(|number| room_event(number, 10)).collect::<String>());
    let ran = place.run(&["publish", "--url", &dev.url, "ndjson", "events.ndjson"]).ok();
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (250, ""));
    assert_eq!(place.run(&["publish", "--url", &dev.url, "ndjson"]).ok().stdout, "", "nothing on standard input");
    dev.stop();
}

#[test]
fn what_is_wrong_for_all_events_ends_it() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let events = room_event(1, 0) + &room_event(2, 0);
    for (args, told) in [
        (["--key", "wrong-key", "--url", &dev.url], "401 Unauthorized"),
        (["--key", "k", "--url", "http://127.0.0.1:1"], "can't connect to http://127.0.0.1:1"),
    ] {
        let ran = place.run_on(&[&["publish"], &args[..], &["ndjson"]].concat(), &events).failed();
        assert!(ran.stderr.contains("error: line 1 and all after it were not published: "), "{ran:#?}");
        assert!(ran.stderr.contains(told) && ran.stdout.is_empty(), "{told}\n{ran:#?}");
        assert!(!ran.stderr.contains("wrong-key"), "{ran:#?}");
    }
    place.run(&["publish", "--url", &dev.url, "--idempotency-key", "k", "ndjson"]).refused();
    dev.stop();
}

#[test]
fn a_line_that_is_too_large_takes_no_other_with_it() {
    let place = Place::new();
    let dev = Dev::start_with(&place, &["--max-payload-bytes", "2000"]);
    let mut command = place.command(&["publish", "--url", &dev.url, "ndjson"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut outcome = |filler: usize| -> Value {
        input.write_all(room_event(0, filler).as_bytes()).expect("it reads");
        let mut line = String::new();
        output.read_line(&mut line).expect("UTF-8");
        serde_json::from_str(&line).expect("a line of JSON")
    };
    assert_eq!(outcome(100)["ok"], true);
    let refused = outcome(3_000);
    assert_eq!(refused["problem"]["code"], "too_large", "{refused}");
    assert_eq!(outcome(100)["ok"], true);
    drop(input);
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    dev.stop();
}

#[test]
fn a_line_that_no_event_can_be_is_refused_and_the_others_go_on() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let mut command = place.command(&["publish", "--url", &dev.url, "ndjson"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || {
        for line in [room_event(0, 100), format!("{}\n", "x".repeat(16_000_001)), room_event(0, 100)] {
            input.write_all(line.as_bytes()).expect("it reads");
        }
    });
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let outcomes: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(&line.expect("UTF-8")).expect("JSON")).collect();
    writer.join().expect("no panic");
    let ok: Vec<_> = outcomes.iter().map(|outcome| (&outcome["line"], outcome["ok"] == true)).collect();
    assert_eq!(ok, [(&json!(1), true), (&json!(2), false), (&json!(3), true)], "{outcomes:?}");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    dev.stop();
}

/// Ten seconds' worth may come at once, which is 400, and no batch may when something is owed.
#[test]
fn a_publisher_that_is_too_fast_waits() {
    let place = Place::new();
    let dev = Dev::start_with(&place, &["--publish-rate-per-key", "40"]);
    let events: String = (0..600).map(|number| room_event(number, 0)).collect();
    let ran = place.run_on(&["publish", "--url", &dev.url, "ndjson"], &events).ok();
    let numbers: Vec<u64> = outcomes(&ran).iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=600).collect::<Vec<_>>());
    assert!(ran.stderr.contains("429 Too Many Requests") && ran.stderr.contains("trying again in"), "{ran:#?}");
    dev.stop();
}

/// Passes connections on, counts them, and can end them as an idle server does.
struct Way {
    url: String,
    connections: Arc<Mutex<Vec<Connection>>>,
}

struct Connection {
    client: TcpStream,
    /// Told when the client has closed its side.
    is_closed: mpsc::Receiver<()>,
}

impl Way {
    fn to(url: &str) -> Self {
        let server = url.strip_prefix("http://").expect("a plain URL").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let way =
            Self { url: format!("http://{}", listener.local_addr().expect("an address")), connections: Arc::default() };
        let connections = Arc::clone(&way.connections);
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) =
                    (client.expect("a client"), TcpStream::connect(&server).expect("a server"));
                let (closed, is_closed) = mpsc::channel();
                let again = |stream: &TcpStream| stream.try_clone().expect("another handle");
                connections.lock().expect("no panic").push(Connection { client: again(&client), is_closed });
                let (mut from_server, mut to_client) = (again(&server), again(&client));
                thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
                thread::spawn(move || {
                    let _either_end_may_fail = std::io::copy(&mut client, &mut server);
                    let _nobody_waits = closed.send(());
                });
            }
        });
        way
    }

    fn count(&self) -> usize {
        self.connections.lock().expect("no panic").len()
    }

    /// Closes the last connection, and returns once the client has noticed.
    fn close_last(&self) {
        let connections = self.connections.lock().expect("no panic");
        let Connection { client, is_closed } = connections.last().expect("a connection");
        client.shutdown(Shutdown::Write).expect("it was open");
        is_closed.recv().expect("the client closes its side");
    }
}

#[test]
fn events_are_published_as_they_come_over_one_connection() {
    let place = Place::new();
    let dev = Dev::start(&place);
    let way = Way::to(&dev.url);
    let mut command = place.command(&["publish", "--url", &way.url, "ndjson", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let mut input = child.stdin.take().expect("piped");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut next = |number: u64| {
        let mut line = String::new();
        output.read_line(&mut line).expect("UTF-8");
        assert!(line.starts_with(&format!("{{\"line\":{number},\"ok\":true,\"receipt\":{{\"id\":")), "{line:?}");
    };
    for number in 1..=3 {
        input.write_all(room_event(0, 0).as_bytes()).expect("it reads");
        next(number);
    }
    let many: String = (0..500).map(|number| room_event(number, 1_000)).collect();
    let writer = thread::spawn(move || input.write_all(many.as_bytes()).map(|()| input));
    (4..=503).for_each(&mut next);
    assert_eq!(way.count(), 1);

    // A connection that was closed meanwhile is replaced.
    way.close_last();
    let mut input = writer.join().expect("no panic").expect("it reads");
    input.write_all(room_event(0, 0).as_bytes()).expect("it reads");
    next(504);
    assert_eq!(way.count(), 2);
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("UTF-8");
    assert_eq!(rest, "");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    dev.stop();
}
