//! Connections that are cut or silent, and a Redis that is killed.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::sync::atomic::AtomicUsize;

use super::*;

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
