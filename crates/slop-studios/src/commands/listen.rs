//! `listen`: a Socket.IO client over WebSocket that shows events as they come.
//!
//! Standard output has one line per event and nothing else; messages about the connection go to standard error. Only a
//! terminal shows colours, and progress as a moving bar.

mod line;
mod screen;
mod session;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use secrecy::SecretString;

use super::dev::TOKEN_SECONDS;
use super::server_url::ServerUrl;
use super::terminal::one_line;
use super::token;
use super::trust::TlsMistake;
use crate::commands::failure::Failure;
use crate::config::SettingFlags;
use line::Line;
use screen::Screen;
use session::{End, Session};

/// The headings of the help.
const SERVER: &str = "Server and user";
const EVENTS: &str = "Which events";

/// The namespaces of the contract.
const NAMESPACES: [&str; 3] = ["/", MEDIA, "/notifications"];
const MEDIA: &str = "/media";

/// The stock client's waiting times before it reconnects: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What to listen to, and until when.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// The server
    #[arg(long, help_heading = SERVER, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    url: ServerUrl,
    /// File with the certificates of the CAs to trust (PEM), instead of the system's
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A user's token
    #[arg(long, help_heading = SERVER)]
    token: Option<SecretString>,
    /// The user to be, with a token that is made now: signed with JWT_SECRET, else with the secret that `dev` keeps in DATA_DIR
    #[arg(long, help_heading = SERVER, value_name = "NAME", conflicts_with = "token")]
    user: Option<String>,
    /// Folder in which `dev` keeps its secret [default: ./data] [env: DATA_DIR]
    #[arg(long, help_heading = SERVER, value_name = "FOLDER", requires = "user")]
    data_dir: Option<String>,
    /// TOML file with settings
    #[arg(long, help_heading = SERVER, value_name = "FILE", requires = "user")]
    config: Option<PathBuf>,
    /// A namespace, as /media; may be given several times.
    /// Without any, those that --room and --media need, else all three
    #[arg(long = "namespace", help_heading = EVENTS, value_name = "NAME", value_parser = namespace)]
    namespaces: Vec<String>,
    /// A room to join on the namespace `/`, or on another as /media:project-1; may be given several times
    #[arg(long = "room", help_heading = EVENTS, value_name = "[NAMESPACE:]ROOM", value_parser = room)]
    rooms: Vec<Room>,
    /// A media item to subscribe to; may be given several times
    #[arg(long = "media", help_heading = EVENTS, value_name = "ID")]
    media: Vec<String>,
    /// Show these events only; may be given several times
    #[arg(long = "event", help_heading = EVENTS, value_name = "NAME")]
    events: Vec<String>,
    /// Show each event as a JSON object {time, namespace, event, args}
    #[arg(long)]
    json: bool,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds; with --count, that is a failure (exit code 1)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// A room of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Room {
    namespace: String,
    name: String,
}

/// The tasks of each new connection.
#[derive(Debug)]
struct Plan {
    url: ServerUrl,
    ca: Option<PathBuf>,
    namespaces: Vec<String>,
    /// Whether a namespace is useful without any of the rooms and media items.
    wants_namespaces: bool,
    rooms: Vec<Room>,
    media: Vec<String>,
    token: Option<SecretString>,
}

/// The destination of events.
#[derive(Debug)]
struct Output {
    events: Vec<String>,
    json: bool,
    /// `None` if standard output is no terminal, or is read by programs.
    screen: Option<Screen>,
    wanted: Option<u64>,
    shown: u64,
    /// Whether a namespace has accepted the connection.
    connected: bool,
}

pub(crate) fn run(args: ListenArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let timeout = args.timeout;
    let token = match &args.user {
        Some(user) => {
            let flags = SettingFlags::of(args.config.clone(), [("DATA_DIR", args.data_dir.clone())]);
            Some(token::mint(user, TOKEN_SECONDS, &flags)?)
        }
        None => args.token.clone(),
    };
    let plan = Plan {
        namespaces: namespaces(&args),
        wants_namespaces: !args.namespaces.is_empty() || (args.rooms.is_empty() && args.media.is_empty()),
        url: args.url,
        ca: args.ca,
        rooms: args.rooms,
        media: args.media,
        token,
    };
    let mut output = Output {
        events: args.events,
        json: args.json,
        screen: if args.json { None } else { Screen::of_standard_output() },
        wanted: args.count,
        shown: 0,
        connected: false,
    };
    let ended = runtime.block_on(listen_until(&plan, &mut output, timeout));
    output.end_bar();
    Ok(ended?)
}

async fn listen_until(plan: &Plan, output: &mut Output, timeout: Option<Duration>) -> anyhow::Result<()> {
    let timer = async {
        match timeout {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let timed_out = tokio::select! {
        // Ctrl-C comes first. An event that has arrived counts before the timeout.
        biased;
        signal = tokio::signal::ctrl_c() => {
            signal.context("wait for Ctrl-C")?;
            false
        }
        outcome = listen(plan, output) => return outcome,
        () = timer => true,
    };
    match output.wanted {
        Some(wanted) if timed_out => bail!("timed out after {} of {wanted} events", output.shown),
        _ if !output.connected => bail!("never connected to {}", plan.url),
        _ => Ok(()),
    }
}

/// Connects repeatedly until there is nothing to wait for.
async fn listen(plan: &Plan, output: &mut Output) -> anyhow::Result<()> {
    let mut wait = FIRST_WAIT;
    loop {
        let ended = match Session::open(plan).await {
            Ok(session) => {
                wait = FIRST_WAIT;
                session.run(output).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(End::Enough) => return Ok(()),
            Ok(End::Refused) => bail!("the server lets us into none of the namespaces"),
            Ok(End::NothingLeft) => bail!("the server lets us have none of the rooms and media items"),
            // The next attempt would fail in the same way. After a first connection, the server may just be in the
            // middle of a change.
            Err(error) if error.is::<TlsMistake>() && !output.connected => return Err(error),
            Err(error) => {
                let pause = jittered(wait);
                output.note(&format!("{}; trying again in {:.1} s", one_line(&error), pause.as_secs_f64()));
                tokio::time::sleep(pause).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// The wait, multiplied by a random factor from 0.5 to 1.5, so that clients do not all reconnect to a restarted server
/// at once.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

impl Output {
    /// Shows an event. Returns `false` when no more are wanted.
    fn show(&mut self, line: &Line<'_>) -> anyhow::Result<bool> {
        if !self.events.is_empty() && !self.events.iter().any(|name| *name == line.event) {
            return Ok(true);
        }
        let text = match &mut self.screen {
            Some(screen) => screen.draw(line),
            None if self.json => line.json() + "\n",
            None => line.text() + "\n",
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // The reader has ended, as in `listen | head -1`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error).context("can't write to standard output"),
        }
        self.shown += 1;
        Ok(self.wanted.is_none_or(|wanted| self.shown < wanted))
    }

    /// Prints a message about the connection.
    fn note(&mut self, text: &str) {
        self.end_bar();
        eprintln!("{text}");
    }

    /// Ends the line of a bar.
    fn end_bar(&mut self) {
        if self.screen.as_mut().is_some_and(Screen::end_bar) {
            // A failure here loses nothing.
            let _closed = io::stdout().write_all(b"\n");
        }
    }
}

fn namespaces(args: &ListenArgs) -> Vec<String> {
    let mut namespaces = args.namespaces.clone();
    namespaces.extend(args.rooms.iter().map(|room| room.namespace.clone()));
    if !args.media.is_empty() {
        namespaces.push(MEDIA.to_owned());
    }
    if namespaces.is_empty() {
        namespaces.extend(NAMESPACES.map(str::to_owned));
    }
    let mut seen = std::collections::HashSet::new();
    namespaces.retain(|namespace| seen.insert(namespace.clone()));
    namespaces
}

fn namespace(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.contains(',') {
        Ok(text.to_owned())
    } else {
        Err("a namespace begins with a slash and has no comma, as /media".to_owned())
    }
}

fn room(text: &str) -> Result<Room, String> {
    if !text.starts_with('/') {
        return Ok(Room { namespace: "/".to_owned(), name: text.to_owned() });
    }
    let (before, name) = text.split_once(':').ok_or(
        "a room on another namespace has the form /media:project-1; one whose name begins with a slash, /:/name",
    )?;
    Ok(Room { namespace: namespace(before)?, name: name.to_owned() })
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "not a number of seconds above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_name_their_namespace() {
        let parsed = |text: &str| room(text).map(|room| (room.namespace, room.name));
        assert_eq!(parsed("project-1"), Ok(("/".into(), "project-1".into())));
        assert_eq!(parsed("user:1"), Ok(("/".into(), "user:1".into())));
        assert_eq!(parsed("/media:a:b"), Ok(("/media".into(), "a:b".into())));
        assert_eq!(parsed("/:/odd"), Ok(("/".into(), "/odd".into())));
        assert!(parsed("/media").is_err());
    }

    #[test]
    fn only_the_namespaces_that_are_needed() {
        #[derive(clap::Parser)]
        struct Parser {
            #[command(flatten)]
            args: ListenArgs,
        }
        let chosen = |line: &[&str]| {
            let words = std::iter::once(&"listen").chain(line);
            let parser = <Parser as clap::Parser>::try_parse_from(words).expect("valid");
            namespaces(&parser.args)
        };
        assert_eq!(chosen(&[]), ["/", "/media", "/notifications"]);
        assert_eq!(chosen(&["--media", "m", "--media", "n"]), ["/media"]);
        assert_eq!(chosen(&["--room", "r"]), ["/"]);
        assert_eq!(chosen(&["--namespace", "/notifications", "--media", "m"]), ["/notifications", "/media"]);
    }
}
