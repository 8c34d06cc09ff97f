//! The store's guarantees on a real Redis, and what only this store promises.

mod migration;
mod outages;
mod rules;

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::super::Step;
use super::super::sqlite::tests::options as bounds_of;
use super::super::suite::{
    Recorder, contract_suite, enter, key, keyed, media, notification, room_event, session, wait,
};
use super::*;
use crate::contract::delivery::Class;
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{media_room, user_room};

/// A Redis of one test. It ends with the test.
struct Redis {
    folder: TempDir,
    process: Child,
    settings: &'static [&'static str],
}

impl Redis {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(settings: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let process = Self::run(folder.path(), settings);
        Self { folder, process, settings }
    }

    fn run(folder: &Path, settings: &[&str]) -> Child {
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let process = Command::new(program)
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--unixsocket",
                "socket",
            ])
            .args(settings)
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: redis-server)");
        // While it reads its file, it answers that it is loading.
        until(|| command(&folder.join("socket"), "PING").is_ok_and(|answer| answer == "+PONG"));
        process
    }

    /// Kills Redis, and starts it again with the same data.
    fn restart(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        self.process.wait().expect("it ends");
        self.process = Self::run(self.folder.path(), self.settings);
    }

    /// Has Redis carry out a command, and returns the first line of its answer.
    fn command(&self, line: &str) -> String {
        command(&self.folder.path().join("socket"), line).expect("it answers")
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("socket").display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

thread_local! {
    static SERVERS: RefCell<Vec<Redis>> = const { RefCell::new(Vec::new()) };
}

fn store(redis: &Redis, prefix: &str, dispatch: Arc<dyn Dispatch>) -> RedisStore {
    store_over(&redis.url(), prefix, dispatch)
}

fn store_over(url: &str, prefix: &str, dispatch: Arc<dyn Dispatch>) -> RedisStore {
    let options = Options { prefix: prefix.to_owned(), ..options(url) };
    RedisStore::open(&options, dispatch, Arc::default()).expect("a store")
}

fn options(url: &str) -> Options {
    Options {
        target: url.parse().expect("a URL"),
        replicas: 0,
        prefix: "slop".to_owned(),
        bounds: bounds_of(Path::new("")).bounds,
        away: Duration::from_secs(60),
        durability: None,
        socket_id_key: [7; 16],
        node: 1,
        address: None,
        node_of_socket_id: Arc::new(|_| None),
    }
}

/// A store on a Redis of its own.
fn temporary(dispatch: Arc<dyn Dispatch>) -> Arc<dyn Store> {
    let redis = Redis::start();
    let store = store(&redis, "slop", dispatch);
    SERVERS.with_borrow_mut(|servers| servers.push(redis));
    Arc::new(store)
}

contract_suite!(temporary);
fn command(socket: &Path, line: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("{line}\r\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn recorded(redis: &Redis) -> (RedisStore, Arc<Recorder>) {
    recorded_over(&redis.url())
}

fn recorded_over(url: &str) -> (RedisStore, Arc<Recorder>) {
    let recorder = Arc::<Recorder>::default();
    let store = store_over(url, "slop", Arc::<Recorder>::clone(&recorder));
    enter(&store, ["r", "s"].map(|room| (DEFAULT, room.to_owned())));
    enter(&store, ["m", "n"].map(|item| (MEDIA, media_room(item))));
    enter(&store, [MEDIA, NOTIFICATIONS].map(|namespace| (namespace, user_room("u"))));
    (store, recorder)
}

/// Waits until this is so.
fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The events that were published. A node that comes back counts the unread notifications anew, for itself.
fn published(recorder: &Recorder) -> Vec<String> {
    recorder.lines().into_iter().filter(|line| !line.contains(" has ")).collect()
}

#[test]
fn two_nodes_dispatch_the_same_in_the_same_order() {
    let redis = Redis::start();
    let nodes = [recorded(&redis), recorded(&redis)];
    let items = || [0, 1].into_iter().flat_map(|node| (3..300).step_by(4).map(move |n| format!("{node}-{n}")));
    for (store, _) in &nodes {
        enter(store, items().map(|item| (MEDIA, media_room(&item))));
    }
    std::thread::scope(|scope| {
        for (node, (store, _)) in nodes.iter().enumerate() {
            scope.spawn(move || {
                for n in 0..300 {
                    let id = format!("{node}-{n}");
                    let change = match n % 4 {
                        0 => room_event(&id, "r", &id, Class::Recoverable),
                        1 => keyed(room_event(&id, "r", "same", Class::Durable), key(&format!("k{n}"), 1)),
                        2 => notification("u", &id, 0),
                        _ => media(&id, &id, Step::Complete),
                    };
                    assert!(wait(store.commit(change)).is_ok());
                }
            });
        }
    });
    let lines = || nodes.each_ref().map(|(_, recorder)| recorder.lines());
    // The keyed events of one node are repeats of the other's.
    until(|| lines().iter().all(|lines| lines.len() == 600 - 75));
    let [one, other] = lines();
    assert_eq!(one, other);
    assert_eq!(nodes[0].1.numbers(), nodes[1].1.numbers());
}

#[test]
fn foreign_values_end_what_needs_them_and_nothing_else() {
    let redis = Redis::start();
    let (store, recorder) = recorded(&redis);
    assert_eq!(redis.command("SET {slop}:log:/:r foreign"), "+OK");
    assert_eq!(redis.command("SET {slop}:item:m foreign"), "+OK");
    let commits = [
        store.commit(room_event("1", "r", "e", Class::Durable)),
        store.commit(room_event("2", "s", "e", Class::Durable)),
        store.commit(media("3", "m", Step::Complete)),
        store.commit(media("4", "n", Step::Complete)),
    ];
    let outcomes = commits.map(|commit| wait(commit).map(|committed| committed.id.to_string()));
    assert!(matches!(&outcomes[0], Err(StoreError::Damaged(_))), "{outcomes:?}");
    assert!(matches!(&outcomes[2], Err(StoreError::Damaged(_))), "{outcomes:?}");
    assert_eq!((&outcomes[1], &outcomes[3]), (&Ok("2".to_owned()), &Ok("4".to_owned())));
    for message in ["x", "1 2 3", "99 0 0 n d - 0 1:/1:r0:1:e0:", "\"\""] {
        redis.command(&format!("PUBLISH {{slop}}:room:/:r \"{message}\""));
    }
    assert!(wait(store.commit(room_event("5", "s", "e", Class::Durable))).is_ok());
    assert_eq!(recorder.lines(), ["/s e", "n mediaComplete 4", "/s e"]);
}

#[test]
fn a_function_that_was_removed_is_loaded_again() {
    let redis = Redis::start();
    let (store, recorder) = recorded(&redis);
    assert_eq!(redis.command("FUNCTION FLUSH"), "+OK");
    assert!(wait(store.commit(room_event("1", "r", "e", Class::Durable))).is_ok());
    assert_eq!(published(&recorder), ["/r e"]);
}

#[test]
fn after_a_loss_of_events_the_node_begins_anew() {
    let redis = Redis::start();
    let (store, recorder) = recorded(&redis);
    let last = wait(store.commit(room_event("1", "r", "e", Class::Durable))).map(|_| recorder.numbers()[0]);
    let last = last.expect("committed");
    assert_eq!(redis.command("FLUSHALL"), "+OK");
    // It is not committed into an order whose numbers begin anew.
    let refused = wait(store.commit(room_event("2", "r", "e", Class::Durable)));
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    until(|| wait(store.commit(room_event("3", "r", "e", Class::Durable))).is_ok());
    assert_eq!(recorder.lines().last().map(String::as_str), Some("reset"), "the room is not heard any more");
    // Nobody continues after the number of a lost event.
    let missed = wait(store.replay(DEFAULT, vec![("r".into(), 0)], last, u64::MAX)).expect("readable");
    assert!(!missed.complete);
    enter(&store, [(DEFAULT, "r".to_owned())]);
    assert!(wait(store.commit(room_event("4", "r", "e", Class::Durable))).is_ok());
    let now = recorder.numbers().last().copied().expect("it is heard");
    assert!(last < now, "numbers rise over an order that was lost");
    let missed = wait(store.replay(DEFAULT, vec![("r".into(), 0)], now - 1, u64::MAX)).expect("readable");
    assert_eq!((missed.complete, missed.events.len(), missed.up_to), (true, 1, now));
}

#[test]
fn a_redis_that_removes_keys_is_refused_in_one_line() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let options = options(&redis.url());
    let refused =
        RedisStore::open(&options, Arc::<Recorder>::default(), Arc::default()).expect_err("unfit").to_string();
    assert_eq!(refused, "Redis: its maxmemory-policy is allkeys-lru, which removes keys: set noeviction");
}

#[test]
fn an_event_is_stored_if_redis_keeps_it_or_the_operator_says_so() {
    for (settings, declared, expected) in [
        (&["--appendfsync", "always"][..], None, true),
        (&["--appendfsync", "everysec"], None, false),
        (&["--appendfsync", "everysec"], Some(Durability::EverySecond), true),
        (&["--appendonly", "no"], None, false),
        (&["--rename-command", "CONFIG", ""], None, false),
        (&["--rename-command", "CONFIG", ""], Some(Durability::Always), true),
    ] {
        let redis = Redis::start_with(settings);
        let options = Options { durability: declared, ..options(&redis.url()) };
        let store = RedisStore::open(&options, Arc::<Recorder>::default(), Arc::default()).expect("a store");
        let committed = wait(store.commit(media("1", "m", Step::Complete))).expect("accepted");
        assert_eq!(committed.stored, expected, "{settings:?} {declared:?}");
    }
}

/// Other rooms cost a node nothing.
#[test]
fn only_events_of_rooms_that_were_entered_are_dispatched() {
    let redis = Redis::start();
    let (store, recorder) = recorded(&redis);
    for (id, room) in [("1", "other"), ("2", "r"), ("3", "s")] {
        assert!(wait(store.commit(room_event(id, room, "e", Class::Durable))).is_ok());
    }
    store.leave(Room { namespace: DEFAULT, room: "s".into() });
    enter(&store, [(DEFAULT, "other".to_owned())]);
    for (id, room) in [("4", "other"), ("5", "r"), ("6", "s")] {
        assert!(wait(store.commit(room_event(id, room, "e", Class::Durable))).is_ok());
    }
    assert_eq!(recorder.lines(), ["/r e", "/s e", "/other e", "/r e"]);
}

#[test]
fn without_redis_every_request_is_answered() {
    let mut redis = Redis::start();
    let (store, _) = recorded(&redis);
    redis.process.kill().expect("it runs");
    for id in ["1", "2"] {
        let refused = wait(store.commit(room_event(id, "r", "e", Class::Durable)));
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    assert!(wait(store.inbox("u", 1)).is_err());
}
