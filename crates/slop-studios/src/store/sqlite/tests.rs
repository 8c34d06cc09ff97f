use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::suite::{
    Recorder, change, durable, key, keyed, media, notification, revocation, room, room_event, run, session, wait,
};
use super::super::{
    Amount, Class, CommittedEvent, Delivery, Dispatched, Floors, MediaChange, Revocations, Revoked, Step, What,
};
use super::*;
use crate::clock::Moment;
use crate::limits::{LAZY_WRITES, STORE_QUEUE_REQUESTS};

const DEADLINE: Duration = Duration::from_secs(20);

const DAY: Duration = Duration::from_secs(86_400);

const UNBOUNDED: Bound = Bound { age: DAY, rows: u64::MAX, bytes: u64::MAX };

pub(crate) fn options(folder: &Path) -> Options {
    let bounds = Bounds {
        media: UNBOUNDED,
        notifications: UNBOUNDED,
        notifications_per_user: 1_000,
        log: UNBOUNDED,
        sessions: UNBOUNDED,
        idempotency_keys: KeyBounds { age: DAY, of_all: u64::MAX, of_publisher: u64::MAX },
        revocations: RevocationBound {
            rows: u64::MAX,
            max_lifetime: Duration::from_secs(86_400),
            leeway: Duration::ZERO,
        },
    };
    Options { folder: folder.to_owned(), sync: StoreSync::Normal, bounds, journal: Duration::from_secs(60) }
}

thread_local! {
    /// Gone when the test ends.
    static FOLDERS: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A store in a folder of its own.
pub(crate) fn temporary(dispatch: Arc<dyn Dispatch>) -> SqliteStore {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&options(folder.path()), dispatch, Arc::default()).expect("a store");
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    store
}

/// Tells nobody.
#[derive(Debug)]
pub(crate) struct Silent;

impl Dispatch for Silent {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        vec![Delivery::known(0); group.len()]
    }
}

/// A store, what it dispatched, and the folder it is in.
struct Place {
    folder: TempDir,
    options: Options,
}

impl Place {
    fn new() -> Self {
        Self::bounded(|_| ())
    }

    fn bounded(bound: impl FnOnce(&mut Bounds)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = options(folder.path());
        bound(&mut options.bounds);
        Self { folder, options }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn open(&self) -> (SqliteStore, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let store = SqliteStore::open(&self.options, Arc::<Recorder>::clone(&recorder), Arc::default());
        (store.expect("it opens"), recorder)
    }

    /// What the operator is told.
    fn refused(&self) -> String {
        let store = SqliteStore::open(&self.options, Arc::<Recorder>::default(), Arc::default());
        store.expect_err("it does not open").to_string()
    }

    /// The files as a process that is killed now leaves them.
    fn killed(&self) -> Self {
        let copy = Self::new();
        for file in std::fs::read_dir(self.folder.path()).expect("a folder") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), copy.folder.path().join(file.file_name())).expect("a copy");
        }
        Self { options: Options { folder: copy.folder.path().to_owned(), ..self.options.clone() }, ..copy }
    }
}

fn publish(store: &SqliteStore, change: Change) -> Committed {
    wait(store.commit(change)).expect("accepted")
}

fn replayed(store: &SqliteStore, after: u64) -> Replay {
    wait(store.replay("/", vec![("r".to_owned(), 0)], after, i64::MAX as u64)).expect("readable")
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !what() {
        assert!(Instant::now() < deadline, "it did not come about in time");
        std::thread::yield_now();
    }
}

#[test]
fn keeps_what_a_store_promises() {
    run(|dispatch| Arc::new(temporary(dispatch)));
}

#[test]
fn what_was_accepted_survives_a_kill() {
    let place = Place::new();
    let (store, recorder) = place.open();
    publish(&store, media("1", "m", Step::Progress(1.0)));
    publish(&store, media("2", "m", Step::Complete));
    publish(&store, notification("u", "3", 1));
    let first = publish(&store, keyed(durable("4", "e"), key("k", 1)));
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    // It settles the count of the keyed one.
    publish(&store, durable("5", "f"));

    let after = place.killed();
    let (again, recorded) = after.open();
    assert!(again.boot_seq() > *recorder.numbers().last().expect("some"));
    let state = wait(again.media_state("m")).expect("readable").expect("known");
    assert_eq!((state.step, &*state.payload), (Step::Complete, r#"{"id":"2"}"#));
    assert_eq!(wait(again.notifications("u", None, 10)).expect("readable").notifications.len(), 1);
    assert_eq!(replayed(&again, 0).events.len(), 2);
    assert_eq!(wait(again.session([1; 32])).expect("readable").expect("known").rooms.len(), 2);

    let repeat = publish(&again, keyed(durable("6", "e"), key("k", 1)));
    assert_eq!((repeat.repeated, &repeat.id, repeat.stored), (true, &first.id, true));
    assert_eq!(wait(repeat.delivery.sockets()), wait(first.delivery.sockets()));
    assert!(publish(&again, notification("u", "3", 1)).repeated);
    assert_eq!(
        wait(again.commit(media("7", "m", Step::Error)))
            .map(|_| ())
            .map_err(|error| error.to_string())
            .err()
            .as_deref(),
        Some("attempt 1 has ended; a higher attempt begins again")
    );
    assert_eq!(recorded.lines(), [""; 0]);
    let of_tables = |store: &SqliteStore| Usage { journal_bytes: 0, ..store.usage() };
    assert_eq!(of_tables(&again), of_tables(&store));
}

/// Room events of each class, with and without an idempotency key.
#[test]
fn room_events_that_are_not_durable_survive_a_kill_too() {
    let place = Place::new();
    let (store, recorder) = place.open();
    let latest = |id: &str, event: &str| room_event(id, "r", event, Class::Latest);
    publish(&store, room("1", "first"));
    publish(&store, latest("2", "state"));
    publish(&store, durable("3", "second"));
    publish(&store, latest("4", "state"));
    publish(&store, keyed(room("5", "third"), key("k", 1)));
    publish(&store, keyed(latest("6", "state"), key("l", 1)));
    publish(&store, room("7", "fourth"));
    let said = |replay: Replay| {
        assert!(replay.complete);
        replay.events.iter().map(|event| event.event.to_string()).collect::<Vec<_>>()
    };
    let all = ["first", "second", "third", "state", "fourth"];
    let (again, _) = place.killed().open();
    assert_eq!(said(replayed(&again, 0)), all);
    assert_eq!(said(replayed(&again, recorder.numbers()[4])), all[3..]);
    assert!(publish(&again, keyed(room("8", "third"), key("k", 1))).repeated);
    publish(&again, room("9", "fifth"));
    drop(again);
    // Two lives later, and after an orderly end.
    store.close();
    let (again, _) = place.open();
    publish(&again, room("9", "fifth"));
    again.close();
    let (third, _) = place.open();
    assert_eq!(said(replayed(&third, 0)), ["first", "second", "third", "state", "fourth", "fifth"]);
}

#[test]
fn how_far_a_client_has_come_is_known_in_the_next_life() {
    let place = Place::new();
    let (store, _) = place.open();
    let found = |store: &SqliteStore, key| wait(store.session([key; 32])).expect("readable");
    for key in 1..=3 {
        store.save_session(session(key, "{}"));
    }
    store.session_left([2; 32], 9);
    store.sessions_confirmed(12);
    // It was there when that was confirmed, and left after it.
    store.session_left([3; 32], 10);
    until(|| store.usage().sessions.rows == 3);
    let first_end = Moment::now();
    let killed = place.killed();
    let (second, _) = killed.open();
    let since = |store: &SqliteStore| [1, 2, 3].map(|key| found(store, key).map(|session| session.since_seq));
    assert_eq!(since(&second), [Some(12), Some(9), Some(10)]);
    let left_at = |store: &SqliteStore| [1, 2, 3].map(|key| found(store, key).and_then(|session| session.left_at));
    assert!(left_at(&second).iter().all(|left_at| left_at.is_some_and(|at| at <= first_end.after(DEADLINE))));

    // One comes back that has received less than the others.
    second.sessions_confirmed(11);
    second.save_session(SessionRecord { since_seq: 11, ..session(1, "{}") });
    second.close();
    let (third, _) = killed.open();
    assert_eq!(since(&third), [Some(11), Some(9), Some(10)]);
    third.close();
    // A session that nobody has come back for has the end of its own life.
    let (fourth, _) = killed.open();
    let [first, second, _] = left_at(&fourth).map(|at| at.expect("it is known"));
    assert!(second <= first);
}

/// Connections that are still being closed when the store ends, as after a second signal.
#[test]
fn what_comes_after_the_end_costs_no_session_but_its_own() {
    let place = Place::new();
    let (store, _) = place.open();
    for key in 1..=3 {
        store.save_session(session(key, "{}"));
    }
    until(|| store.usage().sessions.rows == 3);
    store.queue.close();
    store.session_left([1; 32], 9);
    store.save_session(SessionRecord { is_changed: true, ..session(2, "logged out") });
    store.received("u", 1);
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
    let (again, _) = place.open();
    let found = [1, 2, 3].map(|key| wait(again.session([key; 32])).expect("readable").is_some());
    assert_eq!(found, [true, false, true]);
}

/// The process is killed before a change of a session is written.
#[test]
fn a_session_that_has_changed_since_it_was_saved_is_not_found() {
    let place = Place::new();
    let (store, _) = place.open();
    for key in 1..=4 {
        store.save_session(session(key, "{}"));
    }
    until(|| store.usage().sessions.rows == 4);
    // Nothing is written for as long as somebody dispatches.
    let dispatching = store.order.lock().expect("no test panicked");
    store.save_session(SessionRecord { is_changed: true, ..session(1, "logged out") });
    store.save_session(SessionRecord { is_changed: false, ..session(2, "{}") });
    store.forget_session([3; 32]);
    let killed = place.killed();
    drop(dispatching);
    let found =
        |store: &SqliteStore| [1, 2, 3, 4].map(|key| wait(store.session([key; 32])).expect("readable").is_some());
    let (again, _) = killed.open();
    assert_eq!(found(&again), [false, true, false, true]);
    assert_eq!(again.usage().sessions.rows, 2);
    store.close();
    let (again, _) = place.open();
    assert_eq!(found(&again), [true, true, false, true]);
}

#[test]
fn sessions_of_a_life_that_left_no_journal_are_unknown() {
    let mut place = Place::new();
    place.options.journal = Duration::ZERO;
    let (store, _) = place.open();
    store.save_session(session(1, "{}"));
    store.close();
    place.options.journal = Duration::from_secs(60);
    let (again, _) = place.open();
    assert_eq!(wait(again.session([1; 32])).expect("readable"), None);
}

#[test]
fn a_number_is_never_used_twice() {
    let mut place = Place::new();
    let mut last = 0;
    for life in 0..5 {
        let (store, recorder) = place.open();
        assert!(store.boot_seq() > last);
        for _ in 0..3 {
            publish(&store, room("1", "not stored"));
        }
        assert_eq!(recorder.numbers()[0], store.boot_seq());
        last = *recorder.numbers().last().expect("some");
        if life % 2 == 0 {
            let killed = place.killed();
            drop(store);
            place = killed;
        }
    }
}

#[test]
fn a_log_that_was_cut_off_opens_with_what_is_whole() {
    let place = Place::new();
    let (store, _) = place.open();
    for n in 0..100 {
        publish(&store, durable(&n.to_string(), &format!("e{n}")));
    }
    let after = place.killed();
    let log = after.folder.path().join("store.db-wal");
    let length = std::fs::metadata(&log).expect("a write-ahead log").len();
    let file = std::fs::OpenOptions::new().write(true).open(&log).expect("it can be written");
    file.set_len(length - 5_000).expect("it can be cut off");
    let (again, _) = after.open();
    let events = replayed(&again, 0).events;
    assert!((90..100).contains(&events.len()), "{}", events.len());
    assert!(events.iter().enumerate().all(|(n, event)| *event.event == *format!("e{n}")));
    publish(&again, durable("x", "e"));
}

#[test]
fn a_refusal_to_open_says_why() {
    let place = Place::new();
    let (store, _) = place.open();
    let refused = place.refused();
    assert!(refused.contains("in use by another process"), "{refused}");
    assert!(refused.contains(&place.folder.path().display().to_string()), "{refused}");
    publish(&store, durable("1", "e"));
    drop(store);

    let file = Connection::open(place.file()).expect("a file");
    file.pragma_update(None, "user_version", 99).expect("it can be written");
    drop(file);
    let refused = place.refused();
    let known = schema::VERSION;
    assert!(
        refused.ends_with(&format!("was written by a newer version (schema 99, this one knows {known})")),
        "{refused}"
    );

    std::fs::write(place.file(), "no database, but long enough for a header of a hundred bytes".repeat(3))
        .expect("written");
    let refused = place.refused();
    assert!(refused.contains("is damaged, or is no store"), "{refused}");

    // As root nothing is read-only, so something that is no folder and something that is no file stand in the way.
    let mut place = Place::new();
    std::fs::create_dir(place.file()).expect("a folder");
    let refused = place.refused();
    assert!(refused.contains("can't open") && refused.contains("store.db: "), "{refused}");
    place.options.folder = place.folder.path().join("file").join("data");
    std::fs::write(place.folder.path().join("file"), "").expect("a file");
    let refused = place.refused();
    assert!(refused.contains("as the data folder: "), "{refused}");
}

#[test]
fn a_damaged_page_is_found_when_it_opens() {
    let place = Place::new();
    let (store, _) = place.open();
    for n in 0..500 {
        publish(&store, durable(&n.to_string(), "e"));
    }
    drop(store);
    let mut bytes = std::fs::read(place.file()).expect("a file");
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 8_192] {
        *byte ^= 0x5a;
    }
    std::fs::write(place.file(), bytes).expect("written");
    let refused = place.refused();
    assert!(refused.contains("is damaged, or is no store"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

/// As if the disk had room for so many pages more.
pub(crate) fn leave_room(store: &SqliteStore, pages: u32) {
    let done = store.read(move |connection| {
        let used: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", used + pages, |_| Ok(()))?;
        Ok(())
    });
    assert_eq!(wait(done), Ok(()));
}

#[test]
fn on_a_full_disk_nothing_is_accepted_and_then_it_goes_on() {
    let place = Place::new();
    let (store, recorder) = place.open();
    publish(&store, media("1", "m", Step::Progress(1.0)));
    leave_room(&store, 2);

    let large = |id: &str| {
        let mut change = media(id, id, Step::Complete);
        if let What::Media(media) = &mut change.what {
            media.payload = "x".repeat(50_000).into();
        }
        change
    };
    // A group is carried out or not at all; what is small may still fit.
    let commits: Vec<_> = (0..20).map(|n| store.commit(large(&format!("l{n}")))).collect();
    for commit in commits {
        let outcome = wait(commit).map(|committed| committed.id);
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    assert!(matches!(wait(store.check_key(key("k", 1))), Ok(()) | Err(StoreError::Unavailable(_))));
    assert_eq!(recorder.lines(), ["m Progress(1.0)"]);
    assert_eq!(store.usage().media, Amount { rows: 1, bytes: r#"{"id":"1"}"#.len() as u64 });
    assert_eq!(wait(store.media_state("l0")), Ok(None));
    // What only reads is answered.
    let then = Box::new(|state: Option<&MediaState>| assert!(state.is_some()));
    assert_eq!(wait(store.media_snapshot_then("m", then)), Ok(()));

    leave_room(&store, 1_000);
    for n in 0..20 {
        publish(&store, large(&format!("l{n}")));
    }
    assert_eq!((recorder.lines().len(), store.usage().media.rows), (21, 21));
}

#[test]
fn the_store_says_since_when_it_takes_all() {
    let place = Place::new();
    let (store, _) = place.open();
    let since = || wait(store.writable_since()).expect("it takes all");
    let begun = since();
    publish(&store, durable("1", "e"));
    assert_eq!(since(), begun, "nothing was refused");
    leave_room(&store, 0);
    let mut large = durable("2", "e");
    if let What::Room(event) = &mut large.what {
        event.argument = "x".repeat(50_000).into();
    }
    assert!(wait(store.commit(large.clone())).is_err());
    assert_eq!(store.queue.availability.since(), None);
    // It tries to write, what fits here.
    let again = since();
    assert!(again > begun);
    assert_eq!((since(), store.queue.availability.since()), (again, Some(again)));
    drop(wait(store.commit(large)));
    leave_room(&store, 1_000);
    publish(&store, durable("3", "e"));
    assert!(since() > again);
    store.close();
    assert!(wait(store.commit(durable("4", "e"))).is_err());
}

#[test]
fn what_nobody_waits_for_is_written_when_there_is_room_again() {
    let place = Place::new();
    let (store, _) = place.open();
    leave_room(&store, 0);
    store.save_session(session(1, &"x".repeat(20_000)));
    until(|| store.metrics.store_commits_failed.get() > 0);
    assert_eq!(store.usage().sessions.rows, 0);
    leave_room(&store, 1_000);
    until(|| store.usage().sessions.rows == 1);
}

/// Without room, without numbers, and with something to do that nobody asked for.
#[test]
fn what_fails_is_not_tried_again_at_once() {
    let place = Place::new();
    let (store, _) = place.open();
    let day_before = Moment::now().before(Duration::from_secs(86_401));
    for n in 0..5_000 {
        publish(&store, Change { at: day_before, ..durable(&n.to_string(), "old") });
    }
    drop(store);
    // It is busy removing them for a second.
    let (store, _) = place.open();
    let read_only = store.read(|connection| Ok(connection.pragma_update(None, "query_only", true)?));
    assert_eq!(wait(read_only), Ok(()));
    store.order.lock().expect("no test panicked").numbers.give_up_block();
    store.save_session(session(1, "{}"));
    store.received("u", 1);

    let failed = || store.metrics.store_commits_failed.get();
    until(|| failed() > 0);
    assert!(store.usage().log.rows > 0, "it has still something to do");
    let (before, began) = (failed(), Instant::now());
    until(|| began.elapsed() > Duration::from_secs(1));
    assert!(failed() - before <= 5, "{} times a second", failed() - before);
}

#[test]
fn numbers_of_a_group_that_failed_go_to_the_next() {
    let place = Place::new();
    let (store, recorder) = place.open();
    publish(&store, durable("1", "e"));
    leave_room(&store, 0);
    let mut large = durable("2", "e");
    if let What::Room(event) = &mut large.what {
        event.argument = "x".repeat(50_000).into();
    }
    assert!(matches!(wait(store.commit(large)), Err(StoreError::Unavailable(_))));
    publish(&store, room("3", "e"));
    let numbers = recorder.numbers();
    assert_eq!(numbers, [store.boot_seq(), store.boot_seq() + 1]);
}

/// As a stop finds it when the disk is full.
#[test]
fn what_is_not_written_in_the_end_is_said_and_sessions_are_void() {
    let place = Place::new();
    let (store, _) = place.open();
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    leave_room(&store, 0);
    store.save_session(session(2, &"x".repeat(20_000)));
    store.received("u", 1);
    let ending = store.close_by(Instant::now() + DEADLINE);
    let unwritten = Backlog { requests: 0, sessions: 1, inboxes: 1 };
    assert_eq!(ending, Ending { unwritten, ..Ending::default() });
    drop(store);
    let (again, _) = place.open();
    assert_eq!(again.usage().sessions.rows, 0);
    assert_eq!(wait(again.session([1; 32])), Ok(None));
    assert_eq!(again.close_by(Instant::now() + DEADLINE), Ending::default());
}

/// The lists of sessions may not have reached the disk by then.
#[test]
fn after_a_power_failure_lost_changes_of_sessions_are_not_undone() {
    for is_lost in [false, true] {
        let place = Place::new();
        let (store, recorder) = place.open();
        store.save_session(session(1, "{}"));
        until(|| store.usage().sessions.rows == 1);
        publish(&store, room("1", "e"));
        let last = recorder.numbers()[0];
        if is_lost {
            leave_room(&store, 0);
            store.save_session(session(2, &"x".repeat(20_000)));
        }
        drop(store);
        drop(Unsaved::begin(place.folder.path()).expect("writable"));
        for file in std::fs::read_dir(place.folder.path()).expect("a folder") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let mut bytes = std::fs::read(&path).expect("readable");
                // As another run of the machine finds it.
                bytes[32..48].fill(1);
                std::fs::write(&path, bytes).expect("it can be written");
            }
        }
        let (again, _) = place.open();
        let missed = again.replay("/", vec![("r".to_owned(), 0)], last, again.boot_seq() - 1);
        assert_eq!(wait(missed).expect("readable").complete, !is_lost);
    }
}

#[test]
fn a_store_that_ends_in_order_leaves_no_session_in_doubt() {
    let place = Place::new();
    let (store, _) = place.open();
    let changed = |key| SessionRecord { is_changed: true, ..session(key, "{}") };
    store.save_session(changed(1));
    until(|| store.usage().sessions.rows == 1);
    store.save_session(changed(2));
    store.forget_session([3; 32]);
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
    drop(store);
    assert_eq!(Found::read(place.folder.path()).expect("readable"), Found::Sessions(Vec::new()));
    let (again, _) = place.open();
    assert_eq!(again.usage().sessions.rows, 2);
}

#[test]
fn a_session_for_which_there_is_no_room_voids_all_in_the_next_life() {
    let gate = Arc::<Gate>::default();
    let place = Place::new();
    let store = SqliteStore::open(&place.options, Arc::<Gate>::clone(&gate), Arc::default()).expect("it opens");
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("0", "e"));
    for n in 0..=2 * LAZY_WRITES as u32 {
        let mut key = [0xff; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        store.forget_session(key);
        if store.queue.given_up().sessions > 0 {
            break;
        }
    }
    assert_eq!(store.queue.given_up().sessions, 1);
    drop(closed);
    assert!(wait(first).is_ok());
    // Everything that waited is written, and the next life knows that it is not all.
    publish(&store, durable("1", "e"));
    assert_eq!(Found::read(place.folder.path()).expect("readable"), Found::All);
    drop(store);
    let (again, _) = place.open();
    assert_eq!(again.usage().sessions.rows, 0);
}

#[test]
fn after_a_panic_no_session_is_recovered() {
    let place = Place::new();
    let store = SqliteStore::open(&place.options, Arc::new(Broken), Arc::default()).expect("it opens");
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    assert!(wait(store.commit(media("2", "m", Step::Complete))).is_err());
    let ending = store.close_by(Instant::now() + DEADLINE);
    assert!(ending.is_broken, "{ending:?}");
    drop(store);
    let (again, _) = place.open();
    assert_eq!(again.usage().sessions.rows, 0);
}

#[test]
fn a_store_that_does_not_end_in_time_says_what_waits() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let commits: Vec<_> = (0..3).map(|n| store.commit(durable(&n.to_string(), "e"))).collect();
    let ending = store.close_by(Instant::now() + Duration::from_millis(50));
    assert_eq!((ending.unwritten.requests, ending.is_late), (3, true));
    drop(closed);
    assert!(commits.into_iter().all(|commit| wait(commit).is_ok()));
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
}

#[test]
fn the_oldest_leave_first() {
    let place = Place::bounded(|bounds| {
        bounds.media.rows = 2;
        bounds.log.bytes = 10 * crate::limits::ROW_OVERHEAD_BYTES;
        bounds.sessions.rows = 2;
        bounds.notifications_per_user = 2;
        bounds.notifications.rows = 3;
    });
    let (store, recorder) = place.open();
    for item in ["a", "b", "a", "c"] {
        publish(&store, media("1", item, Step::Progress(1.0)));
    }
    let known = |item| wait(store.media_state(item)).expect("readable").is_some();
    assert_eq!([known("a"), known("b"), known("c")], [true, false, true]);

    let begin = recorder.numbers().len();
    for n in 0..100 {
        publish(&store, durable("1", &format!("e{n}")));
        assert!(store.usage().log.rows <= 10);
    }
    let numbers = recorder.numbers();
    // What was removed can't be replayed, and that is said.
    assert_eq!(replayed(&store, numbers[begin + 88]), Replay::default());
    let kept = replayed(&store, numbers[begin + 89]);
    assert_eq!((kept.complete, kept.events.len()), (true, 10));

    for (user, id) in [("u", "1"), ("u", "2"), ("u", "3"), ("v", "4"), ("w", "5")] {
        publish(&store, notification(user, id, 0));
    }
    let count = |user: &str| wait(store.notifications(user, None, 10)).expect("readable").notifications.len();
    assert_eq!([count("u"), count("v"), count("w")], [1, 1, 1]);
    assert_eq!(store.usage().notifications, Amount { rows: 3, bytes: 30 });

    for (n, key) in [1, 2, 1, 3].into_iter().enumerate() {
        store.save_session(session(key, &n.to_string()));
        until(|| {
            wait(store.read(move |connection| Ok(sessions::find(connection, &[key; 32])?)))
                .is_ok_and(|found| found.is_some_and(|(found, _)| found.data == n.to_string()))
        });
    }
    until(|| store.usage().sessions.rows == 2);
    let found = |key: u8| wait(store.session([key; 32])).expect("readable").is_some();
    assert_eq!([found(1), found(2), found(3)], [true, false, true]);
}

#[test]
fn what_is_too_old_leaves() {
    let place = Place::new();
    let (store, _) = place.open();
    let day_before = Moment::now().before(Duration::from_secs(86_401));
    for n in 0..1_000 {
        publish(&store, Change { at: day_before, ..durable(&n.to_string(), "old") });
    }
    publish(&store, Change { at: day_before, ..media("1", "m", Step::Complete) });
    publish(&store, Change { at: day_before, ..notification("u", "1", 0) });
    store.received("u", store.boot_seq() + 5_000);
    publish(&store, Change { at: day_before, ..keyed(room("1", "e"), key("k", 1)) });
    drop(store);

    // By itself, a few at a time; and never more than is too old.
    let (store, _) = place.open();
    publish(&store, durable("2", "new"));
    until(|| store.usage().log.rows == 1);
    let kept = store.usage();
    assert_eq!((kept.media.rows, kept.notifications.rows, kept.idempotency_keys), (0, 0, 0));
    let inboxes =
        store.read(|connection| Ok(connection.query_row("SELECT count(*) FROM inboxes", [], |row| row.get(0))?));
    assert_eq!(wait(inboxes), Ok(0));
    let newest =
        wait(store.replay("/", vec![("r".to_owned(), 0)], store.boot_seq() - 1, i64::MAX as u64)).expect("readable");
    assert_eq!((newest.complete, newest.events.len()), (true, 1));
}

#[test]
fn a_key_that_is_too_old_is_free() {
    let place = Place::new();
    let (store, _) = place.open();
    let day_before = Moment::now().before(Duration::from_secs(86_401));
    publish(&store, Change { at: day_before, ..keyed(room("1", "e"), key("k", 1)) });
    let again = publish(&store, keyed(room("2", "e"), key("k", 2)));
    assert!(!again.repeated);
    assert!(publish(&store, keyed(room("3", "e"), key("k", 2))).repeated);
}

fn of(publisher: &str, name: &str) -> IdempotencyKey {
    IdempotencyKey { publisher: publisher.into(), ..key(name, 1) }
}

#[test]
fn a_key_that_is_not_too_old_is_never_forgotten() {
    let place = Place::bounded(|bounds| {
        bounds.idempotency_keys = KeyBounds { age: DAY, of_all: 3, of_publisher: 2 };
    });
    let (store, recorder) = place.open();
    let commit = |change: Change, key| wait(store.commit(keyed(change, key))).map(|committed| committed.repeated);
    let refused = |outcome: Result<bool, StoreError>, publisher: bool, most: u64| match outcome {
        Err(StoreError::TooManyKeys { of_publisher, limit, wait }) => {
            assert_eq!((of_publisher, limit), (publisher, most));
            assert!(wait <= DAY && wait > DAY - DEADLINE, "{wait:?}");
        }
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!([commit(room("1", "e"), of("p", "a")), commit(room("2", "e"), of("p", "b"))], [Ok(false), Ok(false)]);
    refused(commit(room("3", "e"), of("p", "c")), true, 2);
    refused(commit(notification("u", "4", 1), of("p", "c")), true, 2);
    refused(wait(store.check_key(of("p", "c"))).map(|()| false), true, 2);
    assert_eq!(commit(room("5", "e"), of("q", "a")), Ok(false));
    refused(commit(room("6", "e"), of("r", "a")), false, 3);
    for (publisher, name) in [("p", "a"), ("p", "b"), ("q", "a")] {
        assert_eq!(commit(room("7", "e"), of(publisher, name)), Ok(true), "{publisher} {name}");
    }
    assert_eq!(wait(store.check_key(of("p", "a"))), Ok(()));
    // What has no key is not concerned, and what was refused left nothing behind.
    publish(&store, durable("8", "e"));
    assert_eq!((recorder.lines().len(), store.usage().idempotency_keys), (4, 3));
    assert_eq!(wait(store.notifications("u", None, 10)), Ok(NotificationsPage::default()));
    // The next process counts the same.
    drop(store);
    let (store, _) = place.open();
    assert_eq!(store.usage().idempotency_keys, 3);
    refused(wait(store.commit(keyed(room("9", "e"), of("p", "c")))).map(|committed| committed.repeated), true, 2);
}

#[test]
fn a_batch_is_one_key_for_every_ten_of_its_items() {
    let place = Place::bounded(|bounds| bounds.idempotency_keys.of_publisher = 4);
    let (store, _) = place.open();
    let item = |name: &str, item| IdempotencyKey { item: Some(item), ..of("p", name) };
    publish(&store, keyed(room("1", "e"), of("p", "a")));
    let batch = |store: &SqliteStore| {
        let commits: Vec<_> =
            (0..1_000).map(|n| store.commit(keyed(room(&n.to_string(), "e"), item("batch", n)))).collect();
        commits.into_iter().map(|commit| wait(commit).expect("accepted")).collect::<Vec<_>>()
    };
    // There is room for it, and for nothing behind it.
    let first = batch(&store);
    assert_eq!((store.usage().idempotency_keys, first.iter().filter(|each| each.repeated).count()), (101, 0));
    assert!(matches!(wait(store.check_key(of("p", "b"))), Err(StoreError::TooManyKeys { .. })));
    assert!(publish(&store, keyed(room("2", "e"), of("p", "a"))).repeated);
    let (again, recorder) = place.killed().open();
    let second = batch(&again);
    assert!(first.iter().zip(&second).all(|(first, second)| second.repeated && first.id == second.id));
    assert_eq!((again.usage().idempotency_keys, recorder.lines().len()), (101, 0));
}

#[test]
fn a_batch_that_was_cut_off_by_a_kill_goes_on_where_it_was() {
    let place = Place::new();
    let (store, _) = place.open();
    let item = |item| IdempotencyKey { item: Some(item), ..key("k", 1) };
    let first = publish(&store, keyed(durable("0", "e"), item(0)));
    publish(&store, keyed(durable("2", "e"), item(2)));
    let (again, recorder) = place.killed().open();
    let repeated: Vec<_> = (0..4).map(|n| publish(&again, keyed(durable(&n.to_string(), "e"), item(n)))).collect();
    assert_eq!(repeated.iter().map(|each| each.repeated).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!((&repeated[0].id, recorder.lines().len()), (&first.id, 2));
    assert_eq!(wait(again.check_key(key("k", 2))), Err(StoreError::KeyReused));
}

#[test]
fn a_place_is_free_when_the_wait_is_over() {
    // On a machine that is too slow to meet the refusal the wait is a longer one.
    let waits = [200, 2_000, 10_000].map(Duration::from_millis);
    assert!(waits.into_iter().any(is_free_after), "no refusal was met");
}

/// Whether all refusals were met before the keys were too old.
fn is_free_after(longest: Duration) -> bool {
    let place = Place::bounded(|bounds| {
        bounds.idempotency_keys = KeyBounds { age: DAY, of_all: 2, of_publisher: 1 };
    });
    let (store, _) = place.open();
    let fill = |name: &str| {
        for publisher in ["p", "q"] {
            until(|| wait(store.check_key(of(publisher, name))).is_ok());
            let almost = Moment::now().before(DAY - longest);
            publish(&store, Change { at: almost, ..keyed(room("1", "e"), of(publisher, name)) });
        }
    };
    let waits = |publisher: &str, name: &str| {
        let refused = wait(store.check_key(of(publisher, name)));
        let Err(StoreError::TooManyKeys { wait: time, .. }) = refused else {
            assert_eq!(refused, Ok(()));
            return false;
        };
        assert!(time <= longest, "{time:?}");
        let over = Instant::now() + time;
        until(|| Instant::now() >= over);
        assert_eq!(wait(store.check_key(of(publisher, name))), Ok(()));
        true
    };
    fill("a");
    let is_publisher_met = waits("p", "b");
    fill("b");
    let is_total_met = waits("r", "a");
    assert!(store.usage().idempotency_keys < 2);
    is_publisher_met && is_total_met
}

#[test]
fn a_key_that_was_used_while_the_clock_was_ahead_leaves_a_day_after_that() {
    let place = Place::new();
    let (store, _) = place.open();
    let ahead = Moment::now().after(400 * DAY);
    publish(&store, Change { at: ahead, ..keyed(room("1", "e"), key("k", 1)) });
    drop(store);
    let (store, _) = place.open();
    until(|| {
        let at = store.read(|connection| {
            Ok(connection.query_row("SELECT created_at FROM idempotency_keys", [], |row| row.get::<_, u64>(0))?)
        });
        wait(at).expect("readable") <= Moment::now().epoch_ms()
    });
    assert!(publish(&store, keyed(room("2", "e"), key("k", 1))).repeated);
}

#[test]
fn keys_of_an_older_version_are_read() {
    let place = Place::new();
    let mut file = Connection::open(place.file()).expect("a file");
    schema::migrate_to(&mut file, 2);
    let now = Moment::now().epoch_ms();
    let old = |name: &[u8], asked: u8, id: Option<&str>, delivered: u64| {
        let row = (name, [asked; 32], id, id.is_some(), delivered, now);
        let insert = "INSERT INTO receipts (key, fingerprint, id, stored, delivered, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        file.execute(insert, row).expect("inserted");
    };
    old(b"p\0single", 1, Some("one"), 3);
    old(b"key:\xc3\xa9\0single", 1, Some("another's"), 4);
    old(b"p\0claim", 2, None, 0);
    old(b"p\0batch", 1, None, 0);
    old(b"p\0batch\0\0\0\0\0", 1, Some("first"), 1);
    old(b"p\0batch\0\0\0\x03\xe7", 1, Some("last"), 2);
    // Its claim was the oldest and left first; then the key was used for another request.
    old(b"p\0again\0\0\0\0\0", 1, Some("older"), 1);
    old(b"p\0again\0\0\0\0\x01", 1, Some("older too"), 1);
    old(b"p\0again", 2, Some("newest"), 5);
    drop(file);

    let (store, recorder) = place.open();
    let repeat = |key| {
        let committed = publish(&store, keyed(durable("new", "e"), key));
        (committed.repeated, committed.id.to_string(), committed.stored, wait(committed.delivery.sockets()))
    };
    let item = |item| IdempotencyKey { item: Some(item), ..key("batch", 1) };
    assert_eq!(store.usage().idempotency_keys, 4);
    assert_eq!(repeat(key("single", 1)), (true, "one".to_owned(), true, 3));
    assert_eq!(repeat(of("key:é", "single")), (true, "another's".to_owned(), true, 4));
    assert_eq!(repeat(item(0)), (true, "first".to_owned(), true, 1));
    assert_eq!(repeat(item(999)), (true, "last".to_owned(), true, 2));
    assert_eq!(wait(store.check_key(key("batch", 2))), Err(StoreError::KeyReused));
    assert_eq!(repeat(key("again", 2)), (true, "newest".to_owned(), true, 5));
    assert_eq!(wait(store.check_key(key("again", 1))), Err(StoreError::KeyReused));
    assert_eq!(recorder.lines(), [""; 0]);
    assert_eq!((repeat(item(1)).0, repeat(key("claim", 1)).0), (false, false));
}

#[test]
fn a_new_owner_is_told_once() {
    let (store, recorder) = Place::new().open();
    for progress in [1.0, 2.0] {
        let owned = What::Media(MediaChange {
            media_id: "m".into(),
            owner_id: Some("u".into()),
            attempt: None,
            follows: None,
            step: Step::Progress(progress),
            payload: "{}".into(),
        });
        publish(&store, change("1", owned));
    }
    assert_eq!(recorder.lines(), ["m Progress(1.0) owned", "m Progress(2.0)"]);
}

/// The row that a repeat finds is older than the count that its own group writes.
#[test]
fn a_repeat_gets_the_count_that_its_own_group_writes() {
    let place = Place::new();
    let (store, _) = place.open();
    for n in 0..50 {
        let keyed = |id: &str| keyed(room(id, "e"), key(&format!("k{n}"), 1));
        let first = publish(&store, keyed("first"));
        let other = store.commit(durable("other", "e"));
        let repeat = store.commit(keyed("repeat"));
        assert!(wait(other).is_ok());
        let repeat = wait(repeat).expect("accepted");
        assert!(repeat.repeated);
        assert_eq!(wait(repeat.delivery.sockets()), wait(first.delivery.sockets()));
    }
}

/// Stands in a dispatch until it is let go.
#[derive(Debug, Default)]
struct Gate(Mutex<()>);

impl Dispatch for Gate {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        drop(self.0.lock().expect("no test panicked"));
        vec![Delivery::known(0); group.len()]
    }
}

#[test]
fn what_waits_is_bounded() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let mut commits = vec![store.commit(durable("0", "e"))];
    let refused = loop {
        let mut commit = store.commit(room("1", "e"));
        if let Some(Err(error)) = (&mut commit).now_or_never() {
            break error;
        }
        commits.push(commit);
        assert!(commits.len() < 3 * STORE_QUEUE_REQUESTS);
    };
    assert_eq!(refused, StoreError::Overloaded);
    assert_eq!(store.usage().queued, STORE_QUEUE_REQUESTS as u64);
    drop(closed);
    for commit in commits {
        assert!(wait(commit).is_ok());
    }
}

#[test]
fn bytes_that_wait_are_bounded() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let large = || {
        let mut change = room("1", "e");
        if let What::Room(event) = &mut change.what {
            event.argument = "x".repeat(1_000_000).into();
        }
        change
    };
    let first = store.commit(durable("0", "e"));
    let mut outcomes: Vec<_> = (0..100).map(|_| store.commit(large())).collect();
    let refused = outcomes.iter_mut().filter_map(|commit| commit.now_or_never());
    assert!(refused.filter(|outcome| matches!(outcome, Err(StoreError::Overloaded))).count() >= 25);
    drop(closed);
    assert!(wait(first).is_ok());
}

#[test]
fn what_is_not_kept_goes_out_at_once_unless_something_waits_before_it() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    until(|| store.commit(room("1", "e")).now_or_never().is_some());
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("2", "e"));
    let mut second = store.commit(room("3", "e"));
    assert!((&mut second).now_or_never().is_none());
    drop(closed);
    assert!(wait(first).is_ok() && wait(second).is_ok());
}

/// Breaks at some events.
#[derive(Debug, Default)]
struct Broken;

impl Dispatch for Broken {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        let breaks = |dispatched: &Dispatched<'_>| match dispatched.event {
            CommittedEvent::Media { .. } => true,
            CommittedEvent::Room(event) => &*event.event == "broken",
            _ => false,
        };
        assert!(!group.iter().any(breaks), "as the test asks for");
        vec![Delivery::known(0); group.len()]
    }
}

#[test]
fn after_a_panic_nothing_is_accepted() {
    let store = temporary(Arc::new(Broken));
    publish(&store, room("1", "e"));
    let broken = store.commit(media("2", "m", Step::Complete));
    let unavailable = |outcome: Result<Committed, StoreError>| matches!(outcome, Err(StoreError::Unavailable(_)));
    assert!(unavailable(wait(broken)));
    until(|| unavailable(wait(store.commit(room("3", "e")))));
    assert!(wait(store.media_state("m")).is_err());
    store.received("u", 1);
    store.save_session(session(1, "{}"));
}

#[test]
fn after_a_panic_on_the_publishers_thread_nothing_is_accepted_either() {
    let breaks = |store: &SqliteStore| {
        let publish = || drop(store.commit(room("1", "broken")));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(publish)).is_err()
    };
    let deadline = Instant::now() + DEADLINE;
    let mut store = temporary(Arc::new(Broken));
    while !breaks(&store) {
        // The writer had the numbers, and so the event and the panic were its own.
        assert!(Instant::now() < deadline, "it did not come about in time");
        store = temporary(Arc::new(Broken));
    }
    let outcome = wait(store.commit(room("2", "e")));
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}

#[test]
fn closing_carries_out_what_waits() {
    let place = Place::new();
    let (store, recorder) = place.open();
    let commits: Vec<_> = (0..2_000).map(|n| store.commit(durable(&n.to_string(), "e"))).collect();
    store.save_session(session(1, "{}"));
    store.close();
    for commit in commits {
        assert!(wait(commit).is_ok());
    }
    assert_eq!(recorder.lines().len(), 2_000);
    assert!(matches!(wait(store.commit(room("1", "e"))), Err(StoreError::Unavailable(_))));
    // All of it is in the one file.
    assert!(place.file().exists() && !place.folder.path().join("store.db-wal").exists());
    let (again, _) = place.open();
    assert_eq!((again.usage().log.rows, again.usage().sessions.rows), (2_000, 1));
}

/// Of those that are replaced only the newest is sent.
#[test]
fn latest_events_that_were_replaced_do_not_make_a_replay_too_large() {
    let place = Place::new();
    let (store, _) = place.open();
    for n in 0..20 {
        let mut state = room_event(&n.to_string(), "r", "state", Class::Latest);
        if let What::Room(event) = &mut state.what {
            event.argument = format!("\"{}\"", "x".repeat(100_000)).into();
        }
        // Half of them are in the log, for their keys' sake, and half in the journal.
        publish(&store, if n % 2 == 0 { keyed(state, key(&n.to_string(), 1)) } else { state });
    }
    let (again, _) = place.killed().open();
    let replay = replayed(&again, 0);
    assert!(replay.complete);
    assert_eq!(replay.events.len(), 1);
}

#[test]
fn a_replay_that_is_too_large_is_not_complete() {
    let place = Place::new();
    let (store, _) = place.open();
    for n in 0..3 {
        let mut change = durable(&n.to_string(), "e");
        if let What::Room(event) = &mut change.what {
            event.argument = "x".repeat(crate::limits::MAX_REPLAY_BYTES / 2).into();
        }
        publish(&store, change);
    }
    assert_eq!(replayed(&store, 0), Replay::default());
    let newest = replayed(&store, store.boot_seq() + 1);
    assert_eq!((newest.complete, newest.events.len()), (true, 1));
}

#[test]
fn what_is_kept_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut place = Place::new();
    place.options.folder = place.folder.path().join("data");
    let (store, _) = place.open();
    publish(&store, durable("1", "e"));
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&place.options.folder), 0o700);
    for file in std::fs::read_dir(&place.options.folder).expect("a folder").flatten() {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[test]
fn a_revocation_survives_a_kill_and_so_does_its_undoing() {
    let place = Place::new();
    let (store, _) = place.open();
    let revoked = revocation(Revoked::User("u".into()), 5, None);
    wait(store.revoke(revoked.clone())).expect("committed");
    wait(store.revoke(revocation(Revoked::Token("t".into()), 5, None))).expect("committed");
    wait(store.undo_revocation(Revoked::Token("t".into()))).expect("committed");
    let (again, _) = place.killed().open();
    assert_eq!(wait(again.revocations()).expect("readable").list, [revoked]);
    assert_eq!((again.usage().revocations.rows, again.socket_id_key()), (1, store.socket_id_key()));
}

#[test]
fn only_what_is_over_leaves_and_it_leaves_a_floor() {
    const DAY: Duration = Duration::from_secs(86_400);
    let (now, skew) = (Moment::now(), Duration::from_secs(2));
    let ago = |days: u32| now.before(DAY * days).epoch_ms();
    let place = Place::bounded(|bounds| bounds.revocations.rows = 3);
    let (store, _) = place.open();
    let row = |name: &str, at, expires_at| revocation(Revoked::Token(name.into()), at, expires_at);
    let revoke = |revoked: &Revocation| wait(store.revoke(revoked.clone()));
    let user = revocation(Revoked::User("u".into()), ago(3), None);
    let (long, short) = (row("long", ago(2), None), row("short", ago(1), Some(ago(0) - 1_000)));
    for revoked in [&user, &long, &short] {
        assert_eq!(revoke(revoked), Ok(Revocations::default()), "there is room");
    }
    let fresh = row("fresh", ago(0), None);
    // The one whose own end has come makes room first, though it is not the oldest.
    let floors =
        |issued: Option<Moment>, expired: Option<u64>| Floors { issued, expired: expired.map(Moment::from_epoch_ms) };
    let gone = Revocations { list: vec![short.clone()], floors: floors(None, short.expires_at.map(Moment::epoch_ms)) };
    assert_eq!(revoke(&fresh), Ok(gone));
    let oldest = Revocations { list: vec![user.clone()], floors: floors(Some(user.at.after(skew)), None) };
    assert_eq!(revoke(&row("another", ago(0), None)), Ok(oldest));
    assert_eq!(revoke(&fresh), Ok(Revocations::default()), "it is no more than before");
    let older = Revocations { list: vec![long.clone()], floors: floors(Some(long.at.after(skew)), None) };
    assert_eq!(revoke(&row("a third", ago(0), None)), Ok(older));
    assert_eq!(revoke(&row("one more", ago(0), None)), Err(StoreError::TooManyRevocations));
    assert_eq!(store.usage().revocations.rows, 3);

    // The next process knows the floors.
    store.close();
    let kept = wait(place.open().0.revocations()).expect("readable");
    assert_eq!((kept.list.len(), kept.floors), (3, floors(Some(long.at.after(skew)), Some(ago(0) - 1_000))));
}

/// With a shorter longest life or less leeway more is over, and with more of either less.
#[test]
fn the_settings_in_force_say_what_is_over() {
    let hour = Duration::from_secs(3_600);
    let ago = |hours: u32| Moment::now().before(hour * hours).epoch_ms();
    for (max_lifetime, leeway, expires_at, makes_room) in [
        (hour * 5, Duration::ZERO, None, false),
        (hour * 3, Duration::ZERO, None, true),
        (hour * 3, hour * 2, None, false),
        (hour * 5, Duration::ZERO, Some(ago(1)), true),
        (hour * 5, hour * 2, Some(ago(1)), false),
        (hour * 3, Duration::ZERO, Some(u64::from(u32::MAX) * 1_000), true),
    ] {
        let place = Place::bounded(|bounds| bounds.revocations = RevocationBound { rows: 1, max_lifetime, leeway });
        let (store, _) = place.open();
        let revoke = |name: &str, at, end| wait(store.revoke(revocation(Revoked::Token(name.into()), at, end)));
        assert!(revoke("old", ago(4), expires_at).is_ok());
        assert_eq!(revoke("new", ago(0), None).is_ok(), makes_room, "{max_lifetime:?} {leeway:?} {expires_at:?}");
    }
}
