//! What a server prints where the log is JSON: nothing else, on either stream.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Place, Ran, SECRET};

const ENV: [(&str, &str); 4] =
    [("LOG_FORMAT", "json"), ("LOG_LEVEL", "debug"), ("JWT_SECRET", SECRET), ("HOST", "127.0.0.1")];

/// Runs a server until it listens, and then ends it in order.
fn run_and_stop(place: &Place, args: &[&str]) -> Ran {
    let mut command = place.command(args);
    let mut child = command.envs(ENV).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut stdout = String::new();
    let read = output.read_line(&mut stdout).expect("UTF-8");
    assert!(read > 0, "it says nothing");
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(told.success());
    output.read_to_string(&mut stdout).expect("UTF-8");
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    let status = child.wait().expect("it ends");
    Ran { code: status.code(), stdout, stderr }
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    text.lines().map(line).collect()
}

fn messages(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["message"].as_str().expect("a text")).collect()
}

#[test]
fn json_is_on_both_streams() {
    let place = Place::new();
    let ran = run_and_stop(&place, &["serve", "--port", "0", "--shutdown-grace-ms", "0"]).ok();
    let (stdout, stderr) = (lines(&ran.stdout), lines(&ran.stderr));
    assert_eq!(messages(&stdout), ["listening"]);
    let url = stdout[0]["url"].as_str().expect("a text");
    assert!(url.starts_with("http://127.0.0.1:") && stdout[0]["level"] == "INFO", "{ran:#?}");
    let started = stderr.iter().find(|line| line["message"] == "started").unwrap_or_else(|| panic!("{ran:#?}"));
    assert_eq!(started["url"], url);
    // Warnings of the settings are lines of the log.
    assert!(messages(&stderr).iter().any(|message| message.starts_with("API_KEYS is empty")), "{ran:#?}");
    for line in stdout.iter().chain(&stderr) {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string(), "{line}");
    }
}

#[test]
fn the_guide_of_dev_is_one_line_of_json() {
    let place = Place::new();
    let ran = run_and_stop(&place, &["dev", "--port", "0", "--shutdown-grace-ms", "0"]).ok();
    let (stdout, _) = (lines(&ran.stdout), lines(&ran.stderr));
    let [listening, guide] = messages(&stdout)[..] else { panic!("{ran:#?}") };
    assert_eq!(listening, "listening");
    assert!(guide.contains("publisher key:\n") && guide.ends_with("Stop with Ctrl-C."), "{guide}");
}

#[test]
fn a_server_that_can_not_start_says_so_in_json() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let ran = place.run_with(&["serve", "--port", &port], &ENV).failed();
    let stderr = lines(&ran.stderr);
    let last = stderr.last().unwrap_or_else(|| panic!("{ran:#?}"));
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"the server failed".into()));
    assert!(last["error"].as_str().is_some_and(|error| error.contains(&port)), "{last}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn an_access_log_that_nobody_sees_is_warned_about() {
    let place = Place::new();
    let check = |level: &str| {
        let env = [("JWT_SECRET", SECRET), ("ACCESS_LOG", "true"), ("LOG_LEVEL", level)];
        place.run_with(&["check-config"], &env).ok().stderr
    };
    assert!(check("warn").contains("warning: ACCESS_LOG is true"), "{}", check("warn"));
    assert!(!check("info").contains("ACCESS_LOG"));
}
