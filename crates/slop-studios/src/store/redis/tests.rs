//! The store's guarantees on a real Redis, and what only this store promises.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use super::super::memory::MemoryStore;
use super::super::sqlite::tests::options as bounds_of;
use super::super::suite::{
    Recorder, contract_suite, enter, key, keyed, media, notification, room_event, session, wait,
};
use super::super::{MediaState, Step};
use super::*;
use crate::contract::delivery::Class;
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{media_room, user_room};
use crate::metrics::Metrics;

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
    let bounds = bounds_of(Path::new("")).bounds;
    let options = Options { url: url.to_owned(), prefix: prefix.to_owned(), bounds, durability: None };
    RedisStore::open(&options, dispatch).expect("a store")
}

/// A store on a Redis of its own.
fn temporary(dispatch: Arc<dyn Dispatch>) -> Arc<dyn Store> {
    let redis = Redis::start();
    let store = store(&redis, "slop", dispatch);
    SERVERS.with_borrow_mut(|servers| servers.push(redis));
    Arc::new(store)
}

contract_suite!(temporary);

/// A step of the comparison, on a few users and items.
#[derive(Debug, Clone)]
enum Asked {
    Media { item: u8, owner: Option<u8>, attempt: Option<u32>, follows: Option<bool>, step: u8, progress: u8 },
    Notify { user: u8, id: u8, says: u8 },
    Room { class: u8, key: Option<(u8, u8)> },
    Read { user: u8, up_to: bool, ids: Vec<u8> },
    Received { user: u8, nth: u8 },
    Look { user: u8, item: u8, limit: u8 },
    Miss { after: u8, joined: u8 },
}

fn asked() -> impl Strategy<Value = Asked> {
    let media = (0..3u8, option::of(0..2u8), option::of(1..4u32), option::of(any::<bool>()), 0..5u8, 0..4u8);
    prop_oneof![
        6 => media.prop_map(|(item, owner, attempt, follows, step, progress)| {
            Asked::Media { item, owner, attempt, follows, step, progress: progress * 33 }
        }),
        3 => (0..2u8, 0..6u8, 0..2u8).prop_map(|(user, id, says)| Asked::Notify { user, id, says }),
        3 => (0..3u8, option::of((0..3u8, 0..2u8))).prop_map(|(class, key)| Asked::Room { class, key }),
        1 => (0..2u8, any::<bool>(), vec(0..7u8, 1..4)).prop_map(|(user, up_to, ids)| Asked::Read { user, up_to, ids }),
        1 => (0..2u8, 0..9u8).prop_map(|(user, nth)| Asked::Received { user, nth }),
        2 => (0..2u8, 0..3u8, 1..4u8).prop_map(|(user, item, limit)| Asked::Look { user, item, limit }),
        1 => (0..40u8, 0..40u8).prop_map(|(after, joined)| Asked::Miss { after, joined }),
    ]
}

/// A store, and the numbers of the events that it has dispatched, which differ from those of another store.
struct Compared {
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
}

impl Compared {
    fn of(make: impl FnOnce(Arc<dyn Dispatch>) -> Arc<dyn Store>) -> Self {
        let recorder = Arc::<Recorder>::default();
        let store = make(Arc::<Recorder>::clone(&recorder));
        let users =
            [MEDIA, NOTIFICATIONS].map(|namespace| [0, 1].map(|user| (namespace, user_room(&format!("user{user}")))));
        enter(&*store, [0, 1, 2].map(|item| (MEDIA, media_room(&format!("item{item}")))));
        enter(&*store, users.into_iter().flatten().chain([(DEFAULT, "r".to_owned())]));
        Self { store, recorder }
    }

    /// The index of an event's number among all numbers.
    fn index(&self, seq: u64) -> usize {
        self.recorder.numbers().partition_point(|number| *number < seq)
    }

    /// The number of an event by its index; past the last one, a number that none has yet.
    fn number(&self, index: u8) -> u64 {
        let numbers = self.recorder.numbers();
        numbers.get(usize::from(index)).copied().unwrap_or_else(|| numbers.last().map_or(1, |last| last + 1))
    }

    fn commit(&self, change: Change) -> String {
        match wait(self.store.commit(change)) {
            Ok(Committed { id, stored, repeated, .. }) => format!("{id} {stored} {repeated}"),
            Err(error) => format!("{error:?}"),
        }
    }

    /// What the store says to a step.
    fn ask(&self, number: usize, asked: &Asked) -> String {
        let (store, id) = (&self.store, format!("id{number}"));
        match asked {
            Asked::Media { item, owner, attempt, follows, step, progress } => {
                let item = format!("item{item}");
                let last = wait(store.media_snapshot(&item)).expect("readable").state.map_or(7, |state| state.seq);
                let step = match step {
                    0 => Step::Complete,
                    1 => Step::Error,
                    _ => Step::Progress(f64::from(*progress) / 1.1),
                };
                let mut change = media(&id, &item, step);
                if let ChangeKind::Media(media) = &mut change.what {
                    media.owner_id = owner.map(|owner| format!("user{owner}").into());
                    media.attempt = *attempt;
                    media.follows = follows.map(|is_last| if is_last { last } else { last - 1 });
                }
                self.commit(change)
            }
            Asked::Notify { user, id, says } => {
                self.commit(notification(&format!("user{user}"), &format!("note{id}"), *says))
            }
            Asked::Room { class, key: name } => {
                let class = [Class::Durable, Class::Recoverable, Class::Latest][usize::from(*class)];
                let change = room_event(&id, "r", "e", class);
                self.commit(match name {
                    Some((name, print)) => keyed(change, key(&format!("key{name}"), *print)),
                    None => change,
                })
            }
            Asked::Read { user, up_to, ids } => {
                let ids: Vec<String> = ids.iter().map(|id| format!("note{id}")).collect();
                let mark = if *up_to { ReadMark::UpTo(ids[0].clone()) } else { ReadMark::Ids(ids) };
                let read = wait(store.mark_read(&format!("user{user}"), mark));
                format!("{:?}", read.map(|Unread { count, as_of }| (count, self.index(as_of))))
            }
            Asked::Received { user, nth } => {
                store.received(&format!("user{user}"), self.number(*nth));
                String::new()
            }
            Asked::Look { user, item, limit } => {
                self.look(&format!("user{user}"), &format!("item{item}"), (*limit).into())
            }
            Asked::Miss { after, joined } => self.missed(self.number(*after), self.number(*joined)),
        }
    }

    fn look(&self, user: &str, item: &str, limit: usize) -> String {
        let store = &self.store;
        let inbox = wait(store.inbox(user, limit)).expect("readable");
        let undelivered: Vec<_> = inbox.undelivered.iter().map(|item| (self.index(item.seq), &item.id)).collect();
        let page = wait(store.notifications(user, None, limit)).expect("readable");
        let state = wait(store.media_snapshot(item)).expect("readable").state;
        let state = state.map(|state| MediaState {
            seq: self.index(state.seq) as u64,
            updated_at: Moment::from_epoch_ms(0),
            ..state
        });
        let owners = wait(store.media_owners(vec![item.into()])).expect("readable");
        let newest = wait(store.newest_media()).expect("readable");
        let under_way = wait(store.media_under_way(0, u64::MAX >> 11, 100)).expect("readable");
        let under_way: Vec<_> = under_way.items.iter().map(|item| (&item.media_id, self.index(item.seq))).collect();
        let as_of = self.index(inbox.as_of);
        format!(
            "{undelivered:?} {} {} {as_of} {page:?} {state:?} {owners:?} {} {under_way:?}",
            inbox.more,
            inbox.unread,
            self.index(newest)
        )
        .replace(&format!("as_of: {}", page.unread.as_of), &format!("as_of: #{}", self.index(page.unread.as_of)))
    }

    fn missed(&self, after: u64, joined: u64) -> String {
        let items = [0, 1, 2].map(|item| media_room(&format!("item{item}")));
        let users = [0, 1].map(|user| user_room(&format!("user{user}")));
        let of_media: Vec<&str> = items.iter().chain(&users).map(String::as_str).collect();
        let of_users: Vec<&str> = users.iter().map(String::as_str).collect();
        let mut lines = Vec::new();
        for (namespace, rooms) in [("/", &["r"][..]), ("/media", &of_media), ("/notifications", &of_users)] {
            let rooms = rooms.iter().map(|room| (Arc::from(*room), joined)).collect();
            let replay = wait(self.store.replay(namespace, rooms, after, u64::MAX >> 11)).expect("readable");
            assert!(replay.complete);
            // The store in memory keeps no other events: the engine has them.
            let kept = replay
                .events
                .into_iter()
                .filter(|event| event.envelope.class == Class::Durable || namespace == "/media");
            lines.extend(kept.map(|event| format!("{} {:?} {:?}", self.index(event.seq), event.envelope, event.rooms)));
        }
        lines.join("\n")
    }
}

/// The script has rules of its own for what the store in memory decides in Rust: the life of an item, keys, inboxes. Both
/// answer the same to everything.
#[test]
fn the_script_decides_like_the_store_in_memory() {
    let redis = Redis::start();
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let mut case = 0;
    let run = |steps: Vec<Asked>| {
        case += 1;
        let ours = Compared::of(|dispatch| Arc::new(store(&redis, &format!("case{case}"), dispatch)));
        let bounds = bounds_of(Path::new("")).bounds;
        let other = Compared::of(|dispatch| Arc::new(MemoryStore::new(bounds, dispatch, &Metrics::default())));
        for (number, step) in steps.iter().enumerate() {
            prop_assert_eq!(ours.ask(number, step), other.ask(number, step), "step {}", number);
        }
        prop_assert_eq!(ours.recorder.lines(), other.recorder.lines());
        Ok(())
    };
    let run = RefCell::new(run);
    runner.run(&vec(asked(), 1..60), |steps| (run.borrow_mut())(steps)).unwrap_or_else(|error| panic!("{error}"));
}

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
    assert!(matches!(&outcomes[0], Err(StoreError::Unavailable(_))), "{outcomes:?}");
    assert!(matches!(&outcomes[2], Err(StoreError::Unavailable(_))), "{outcomes:?}");
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
fn an_emptied_redis_is_another_order() {
    let redis = Redis::start();
    let (store, recorder) = recorded(&redis);
    let last = wait(store.commit(room_event("1", "r", "e", Class::Durable))).map(|_| recorder.numbers()[0]);
    assert_eq!(redis.command("FLUSHALL"), "+OK");
    // It is not committed into an order whose numbers begin anew.
    let refused = wait(store.commit(room_event("2", "r", "e", Class::Durable)));
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(!store.is_open());
    let (again, recorder) = recorded(&redis);
    assert!(wait(again.commit(room_event("3", "r", "e", Class::Durable))).is_ok());
    assert!(last.is_ok_and(|last| last < recorder.numbers()[0]), "numbers rise over an order that was lost");
}

#[test]
fn a_redis_that_removes_keys_is_refused_in_one_line() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let bounds = bounds_of(Path::new("")).bounds;
    let options = Options { url: redis.url(), prefix: "slop".to_owned(), bounds, durability: None };
    let refused = RedisStore::open(&options, Arc::<Recorder>::default()).expect_err("unfit").to_string();
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
        let bounds = bounds_of(Path::new("")).bounds;
        let options = Options { url: redis.url(), prefix: "slop".to_owned(), bounds, durability: declared };
        let store = RedisStore::open(&options, Arc::<Recorder>::default()).expect("a store");
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

/// What a relay between a node and its Redis does to the bytes of Redis.
#[derive(Debug, Default)]
struct Line {
    /// Connections are cut in place of every such chunk; 0 for never.
    cut_every: AtomicUsize,
    chunks: AtomicUsize,
    cuts: AtomicUsize,
    /// The connections, by the order in which they came, whose chunks are swallowed.
    silent: Mutex<Vec<usize>>,
}

impl Line {
    /// Whether a chunk is passed on. An error cuts the connection.
    fn passes(&self, connection: usize) -> Result<bool, ()> {
        let chunk = self.chunks.fetch_add(1, Ordering::SeqCst) + 1;
        let cut_every = self.cut_every.load(Ordering::SeqCst);
        if cut_every > 0 && chunk.is_multiple_of(cut_every) {
            self.cuts.fetch_add(1, Ordering::SeqCst);
            return Err(());
        }
        Ok(!self.silent.lock().expect("no test panicked").contains(&connection))
    }
}

/// A relay to Redis, with its address.
fn relay(redis: &Redis) -> (String, Arc<Line>) {
    let [socket, target] = ["relay", "socket"].map(|name| redis.folder.path().join(name));
    let (listener, line) = (UnixListener::bind(&socket).expect("a socket"), Arc::<Line>::default());
    let relayed = Arc::clone(&line);
    std::thread::spawn(move || {
        for (connection, client) in listener.incoming().enumerate() {
            let (Ok(client), Ok(server)) = (client, UnixStream::connect(&target)) else { continue };
            let copies = (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
            let line = Arc::clone(&relayed);
            std::thread::spawn(move || pass(client, server, || Ok(true)));
            std::thread::spawn(move || pass(copies.1, copies.0, || line.passes(connection)));
        }
    });
    (format!("redis+unix://{}", socket.display()), line)
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut passes: impl FnMut() -> Result<bool, ()>) {
    let mut chunk = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        match passes() {
            Ok(false) => {}
            Ok(true) if to.write_all(&chunk[..length]).is_ok() => {}
            _ => break,
        }
    }
    // They may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Publishes from four threads, and returns the names of the events that were accepted.
fn publish(store: &RedisStore, each: usize) -> Vec<String> {
    let one = |thread: usize| {
        let names = (0..each).map(|n| format!("{thread}-{n}"));
        let is_accepted = |name: &String| {
            let class = if thread.is_multiple_of(2) { Class::Durable } else { Class::Recoverable };
            wait(store.commit(room_event(name, "r", name, class))).is_ok()
        };
        names.filter(is_accepted).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || one(thread)));
        threads.into_iter().flat_map(|thread| thread.join().expect("it publishes")).collect()
    })
}

/// The events that were published. A node that comes back counts the unread notifications anew, for itself.
fn published(recorder: &Recorder) -> Vec<String> {
    recorder.lines().into_iter().filter(|line| !line.contains(" has ")).collect()
}

/// Both nodes have dispatched the same, everything that was accepted, and nothing twice.
fn assert_complete([one, other]: [&Recorder; 2], accepted: &[String]) {
    until(|| published(one).len() == published(other).len());
    let lines = published(one);
    assert_eq!(lines, published(other));
    let mut unique: Vec<_> = lines.iter().collect();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), lines.len(), "nothing twice");
    for name in accepted {
        assert!(lines.contains(&format!("/r {name}")), "{name} is lost");
    }
}

#[test]
fn a_connection_that_is_cut_between_a_batch_and_its_answer_loses_and_doubles_nothing() {
    let redis = Redis::start();
    let (url, line) = relay(&redis);
    let (_watching, watched) = recorded(&redis);
    let (store, recorder) = recorded_over(&url);
    line.cut_every.store(25, Ordering::SeqCst);
    let accepted = publish(&store, 50);
    line.cut_every.store(0, Ordering::SeqCst);
    assert!(line.cuts.load(Ordering::SeqCst) > 5, "{line:?}");
    assert!(accepted.len() > 150, "most are accepted: {}", accepted.len());
    assert!(wait(store.commit(room_event("last", "r", "last", Class::Durable))).is_ok());
    assert_complete([&recorder, &watched], &accepted);
}

/// A subscription may be dead although its connection is not, as after some failovers.
#[test]
fn a_silent_subscription_is_noticed() {
    let redis = Redis::start();
    let (url, line) = relay(&redis);
    let (other, watched) = recorded(&redis);
    let (store, recorder) = recorded_over(&url);
    assert!(wait(store.commit(room_event("0", "r", "before", Class::Durable))).is_ok());
    // Of the first two connections, the second hears.
    line.silent.lock().expect("no test panicked").push(1);
    let begun = Instant::now();
    assert!(wait(other.commit(room_event("1", "r", "missed", Class::Durable))).is_ok());
    assert!(wait(other.commit(media("2", "m", Step::Progress(50.0)))).is_ok());
    assert!(wait(store.commit(room_event("3", "r", "own", Class::Durable))).is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(published(&recorder), ["/r before", "/r missed", "m mediaProgress 2", "/r own"]);
    assert_complete([&recorder, &watched], &[]);
}

#[test]
fn nothing_accepted_is_lost_while_redis_is_killed() {
    let mut redis = Redis::start();
    let nodes = [recorded(&redis), recorded(&redis)];
    let [(store, recorder), (_, watched)] = &nodes;
    let accepted = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(store, 400));
        for _ in 0..3 {
            std::thread::park_timeout(Duration::from_millis(150));
            redis.restart();
        }
        publishing.join().expect("it publishes")
    });
    assert!(accepted.len() > 400, "{}", accepted.len());
    until(|| wait(store.commit(room_event("last", "r", "last", Class::Durable))).is_ok());
    assert_complete([recorder, watched], &accepted);
    assert!(nodes.iter().all(|(store, _)| store.is_open()));
    // What a user reads while a node is away is told to it afterwards.
    assert!(wait(store.commit(notification("u", "n", 0))).is_ok());
    redis.restart();
    until(|| wait(store.mark_read("u", ReadMark::UpTo("n".to_owned()))).is_ok());
    until(|| [recorder, watched].iter().all(|recorder| recorder.lines().iter().any(|line| line == "u has 0")));
}

/// More rooms than are read at once, with events in all of them while they are read.
#[test]
fn a_node_with_many_rooms_misses_nothing_while_it_catches_up() {
    let redis = Redis::start();
    let (url, line) = relay(&redis);
    let (other, watched) = recorded(&redis);
    let (store, recorder) = recorded_over(&url);
    let rooms: Vec<String> = (0..700).map(|n| format!("room{n}")).collect();
    for store in [&store, &other] {
        enter(store, rooms.iter().map(|room| (DEFAULT, room.clone())));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (n, room) in rooms.iter().cycle().take(4_000).enumerate() {
                let class = [Class::Durable, Class::Recoverable][n % 2];
                assert!(wait(other.commit(room_event(&n.to_string(), room, &n.to_string(), class))).is_ok());
            }
        });
        for _ in 0..5 {
            let cuts = line.cuts.load(Ordering::SeqCst);
            line.cut_every.store(1, Ordering::SeqCst);
            until(|| line.cuts.load(Ordering::SeqCst) > cuts);
            line.cut_every.store(0, Ordering::SeqCst);
            until(|| wait(store.commit(room_event("0", "s", "again", Class::Latest))).is_ok());
        }
    });
    let of_rooms =
        |recorder: &Recorder| recorder.lines().into_iter().filter(|line| line.starts_with("/room")).collect::<Vec<_>>();
    until(|| of_rooms(&recorder).len() == 4_000);
    assert_eq!(of_rooms(&recorder), of_rooms(&watched));
}

/// A node knows how far the order has come, however little it hears of it.
#[test]
fn a_node_does_not_miss_what_was_published_before_it_entered() {
    let redis = Redis::start();
    let (url, line) = relay(&redis);
    let (other, _) = recorded(&redis);
    let (store, recorder) = recorded_over(&url);
    let busy = |id: usize| other.commit(room_event(&id.to_string(), "busy", "e", Class::Durable));
    let commits: Vec<_> = (0..3_000).map(busy).collect();
    commits.into_iter().for_each(|commit| assert!(wait(commit).is_ok()));
    enter(&store, [(DEFAULT, "busy".to_owned())]);
    assert!(wait(store.inbox("u", 1)).is_ok());
    let cuts = line.cuts.load(Ordering::SeqCst);
    line.cut_every.store(1, Ordering::SeqCst);
    until(|| line.cuts.load(Ordering::SeqCst) > cuts);
    line.cut_every.store(0, Ordering::SeqCst);
    until(|| wait(store.commit(room_event("y", "r", "y", Class::Durable))).is_ok());
    assert_eq!(published(&recorder), ["/r y"]);
}

/// Otherwise those who may not have the item would get its end.
#[test]
fn an_owner_that_became_known_while_a_node_was_away_is_known_before_the_end() {
    let redis = Redis::start();
    let (url, line) = relay(&redis);
    let (other, _) = recorded(&redis);
    let (store, recorder) = recorded_over(&url);
    line.silent.lock().expect("no test panicked").push(1);
    let mut named = media("1", "m", Step::Progress(1.0));
    if let ChangeKind::Media(media) = &mut named.what {
        media.owner_id = Some("u".into());
    }
    for change in [named, media("2", "m", Step::Complete)] {
        assert!(wait(other.commit(change)).is_ok());
    }
    assert!(wait(store.commit(room_event("3", "r", "e", Class::Durable))).is_ok());
    assert_eq!(published(&recorder), ["m mediaComplete owned", "/r e"]);
}

/// Otherwise a session could be recovered as it was before a logout.
#[test]
fn a_session_that_is_forgotten_during_an_outage_is_forgotten_afterwards() {
    let mut redis = Redis::start();
    let (store, _) = recorded(&redis);
    for key in [1, 2, 3] {
        store.save_session(session(key, "{}"));
    }
    let found = |key| wait(store.session([key; 32]));
    assert!([1, 2, 3].iter().all(|key| found(*key).expect("readable").is_some()));
    redis.process.kill().expect("it runs");
    redis.process.wait().expect("it ends");
    // Longer than requests wait.
    until(|| wait(store.inbox("u", 1)).is_err());
    store.forget_session([1; 32]);
    store.save_session(session(2, r#"{"a":1}"#));
    store.session_left([2; 32], 9);
    until(|| found(3).is_err());
    redis.restart();
    until(|| found(3).is_ok());
    assert_eq!(found(1), Ok(None));
    let changed = found(2).expect("readable").expect("known");
    assert_eq!((changed.data.as_str(), changed.since_seq, changed.left_at.is_some()), (r#"{"a":1}"#, 9, true));
}
