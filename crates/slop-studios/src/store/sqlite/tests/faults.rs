//! Full disks, panics, and late stops.

use super::*;
use crate::contract::namespaces::MEDIA;
use crate::limits::LAZY_WRITES;
use crate::store::{Before, CommittedEvent};

#[test]
fn on_a_full_disk_nothing_is_accepted_and_then_it_goes_on() {
    let folder = TestFolder::new();
    let (store, recorder) = folder.open();
    publish(&store, media("1", "m", Step::Progress(1.0)));
    leave_room(&store, 2);

    let large = |id: &str| {
        let mut change = media(id, id, Step::Complete);
        if let ChangeKind::Media(media) = &mut change.what {
            media.payload = "x".repeat(50_000).into();
        }
        change
    };
    // A group is carried out as a whole or not at all. Small changes may still fit.
    let commits: Vec<_> = (0..20).map(|n| store.commit(large(&format!("l{n}")))).collect();
    for commit in commits {
        let outcome = wait(commit).map(|committed| committed.id);
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    assert!(matches!(wait(store.check_key(key("k", 1))), Ok(()) | Err(StoreError::Unavailable(_))));
    assert_eq!(recorder.lines(), ["m mediaProgress 1"]);
    assert_eq!(store.usage().media, Amount { rows: 1, bytes: r#"{"id":"1"}"#.len() as u64 });
    let state = |id| wait(store.media_snapshot(id)).expect("readable").state;
    assert_eq!(state("l0"), None);
    // Requests that only read are answered.
    assert!(state("m").is_some());

    leave_room(&store, 1_000);
    for n in 0..20 {
        publish(&store, large(&format!("l{n}")));
    }
    assert_eq!((recorder.lines().len(), store.usage().media.rows), (21, 21));
}

#[test]
fn the_store_says_since_when_it_takes_all() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let since = || wait(store.writable_since()).expect("it takes all");
    let begun = since();
    publish(&store, durable("1", "e"));
    assert_eq!(since(), begun, "nothing was refused");
    leave_room(&store, 0);
    let mut large = durable("2", "e");
    if let ChangeKind::Room(event) = &mut large.what {
        event.argument = "x".repeat(50_000).into();
    }
    assert!(wait(store.commit(large.clone())).is_err());
    assert_eq!(store.queue.availability.since(), None);
    // The store tries a write, which fits here.
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
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    leave_room(&store, 0);
    store.save_session(session(1, &"x".repeat(20_000)));
    until(|| store.metrics.store_commits_failed.get() > 0);
    assert_eq!(store.usage().sessions.rows, 0);
    leave_room(&store, 1_000);
    until(|| store.usage().sessions.rows == 1);
}

/// The disk has no room, no numbers are reserved, and there is work that no caller requested.
#[test]
fn what_fails_is_not_tried_again_at_once() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let day_before = Moment::now().before(Duration::from_secs(86_401));
    for n in 0..5_000 {
        publish(&store, Change { at: day_before, ..durable(&n.to_string(), "old") });
    }
    drop(store);
    // The store is busy for a second with their removal.
    let (store, _) = folder.open();
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
    let folder = TestFolder::new();
    let (store, recorder) = folder.open();
    publish(&store, durable("1", "e"));
    leave_room(&store, 0);
    let mut large = durable("2", "e");
    if let ChangeKind::Room(event) = &mut large.what {
        event.argument = "x".repeat(50_000).into();
    }
    assert!(matches!(wait(store.commit(large)), Err(StoreError::Unavailable(_))));
    publish(&store, room("3", "e"));
    let numbers = recorder.numbers();
    assert_eq!(numbers, [store.boot_seq(), store.boot_seq() + 1]);
}

/// The store stops while the disk is full.
#[test]
fn what_is_not_written_in_the_end_is_reported_and_sessions_are_void() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    leave_room(&store, 0);
    store.save_session(session(2, &"x".repeat(20_000)));
    store.received("u", 1);
    let ending = store.close_by(Instant::now() + DEADLINE);
    let unwritten = Backlog { requests: 0, sessions: 1, inboxes: 1 };
    assert_eq!(ending, Ending { unwritten, ..Ending::default() });
    drop(store);
    let (again, _) = folder.open();
    assert_eq!(again.usage().sessions.rows, 0);
    assert_eq!(wait(again.session([1; 32])), Ok(None));
    assert_eq!(again.close_by(Instant::now() + DEADLINE), Ending::default());
}

/// The lists of sessions may not have reached the disk by then.
#[test]
fn after_a_power_failure_lost_changes_of_sessions_are_not_undone() {
    for is_lost in [false, true] {
        let folder = TestFolder::new();
        let (store, recorder) = folder.open();
        store.save_session(session(1, "{}"));
        until(|| store.usage().sessions.rows == 1);
        publish(&store, room("1", "e"));
        let last = recorder.numbers()[0];
        if is_lost {
            leave_room(&store, 0);
            store.save_session(session(2, &"x".repeat(20_000)));
        }
        drop(store);
        drop(Unsaved::begin(folder.dir.path()).expect("writable"));
        for file in std::fs::read_dir(folder.dir.path()).expect("a folder") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let mut bytes = std::fs::read(&path).expect("readable");
                // The file as another run of the machine finds it.
                bytes[32..48].fill(1);
                std::fs::write(&path, bytes).expect("it can be written");
            }
        }
        let (again, _) = folder.open();
        let missed = again.replay("/", vec![("r".into(), 0)], last, again.boot_seq() - 1);
        assert_eq!(wait(missed).expect("readable").complete, !is_lost);
    }
}

#[test]
fn a_store_that_ends_in_order_leaves_no_session_in_doubt() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let changed = |key| SessionRecord { before: Before::Outdated, ..session(key, "{}") };
    store.save_session(changed(1));
    until(|| store.usage().sessions.rows == 1);
    store.save_session(changed(2));
    store.forget_session([3; 32]);
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
    drop(store);
    assert_eq!(Found::read(folder.dir.path()).expect("readable"), Found::Sessions(Vec::new()));
    let (again, _) = folder.open();
    assert_eq!(again.usage().sessions.rows, 2);
}

#[test]
fn a_session_for_which_there_is_no_room_voids_all_in_the_next_run() {
    let gate = Arc::<Gate>::default();
    let folder = TestFolder::new();
    let store = SqliteStore::open(&folder.options, Arc::<Gate>::clone(&gate), Arc::default()).expect("it opens");
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
    // All queued changes are written, and the next run knows that they are not complete.
    publish(&store, durable("1", "e"));
    assert_eq!(Found::read(folder.dir.path()).expect("readable"), Found::All);
    drop(store);
    let (again, _) = folder.open();
    assert_eq!(again.usage().sessions.rows, 0);
}

#[test]
fn after_a_panic_no_session_is_recovered() {
    let folder = TestFolder::new();
    let store = SqliteStore::open(&folder.options, Arc::new(Broken), Arc::default()).expect("it opens");
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    assert!(wait(store.commit(media("2", "m", Step::Complete))).is_err());
    let ending = store.close_by(Instant::now() + DEADLINE);
    assert!(ending.is_broken, "{ending:?}");
    drop(store);
    let (again, _) = folder.open();
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

/// A dispatch that breaks at some events.
#[derive(Debug, Default)]
struct Broken;

impl Dispatch for Broken {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        let breaks = |dispatched: &Dispatched<'_>| match dispatched.event {
            CommittedEvent::Event { envelope, .. } => envelope.namespace == MEDIA || &*envelope.event == "broken",
            CommittedEvent::Unread { .. } => false,
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
    assert!(wait(store.media_snapshot("m")).is_err());
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
        // The writer held the numbers, so the event and the panic were its own.
        assert!(Instant::now() < deadline, "it did not come about in time");
        store = temporary(Arc::new(Broken));
    }
    let outcome = wait(store.commit(room("2", "e")));
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}
