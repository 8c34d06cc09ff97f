//! Successive runs of a store: the data that one run leaves to the next, and the files that a store opens with.

use rusqlite::Connection;

use super::*;
use crate::store::Before;

#[test]
fn what_was_accepted_survives_a_kill() {
    let folder = TestFolder::new();
    let (store, recorder) = folder.open();
    publish(&store, media("1", "m", Step::Progress(1.0)));
    publish(&store, media("2", "m", Step::Complete));
    publish(&store, notification("u", "3", 1));
    let first = publish(&store, keyed(durable("4", "e"), key("k", 1)));
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    // This commit writes the count of the keyed change.
    publish(&store, durable("5", "f"));

    let after = folder.killed();
    let (again, recorded) = after.open();
    assert!(again.boot_seq() > *recorder.numbers().last().expect("some"));
    let state = wait(again.media_snapshot("m")).expect("readable").state.expect("known");
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
    let folder = TestFolder::new();
    let (store, recorder) = folder.open();
    let latest = |id: &str, event: &str| room_event(id, "r", event, Class::Latest);
    publish(&store, room("1", "first"));
    publish(&store, latest("2", "state"));
    publish(&store, durable("3", "second"));
    publish(&store, latest("4", "state"));
    publish(&store, keyed(room("5", "third"), key("k", 1)));
    publish(&store, keyed(latest("6", "state"), key("l", 1)));
    publish(&store, room("7", "fourth"));
    let events_of = |replay: Replay| {
        assert!(replay.complete);
        replay.events.iter().map(|event| event.envelope.event.to_string()).collect::<Vec<_>>()
    };
    let all = ["first", "second", "third", "state", "fourth"];
    let (again, _) = folder.killed().open();
    assert_eq!(events_of(replayed(&again, 0)), all);
    assert_eq!(events_of(replayed(&again, recorder.numbers()[4])), all[3..]);
    assert!(publish(&again, keyed(room("8", "third"), key("k", 1))).repeated);
    publish(&again, room("9", "fifth"));
    drop(again);
    // Two runs later, and after an orderly end.
    store.close();
    let (again, _) = folder.open();
    publish(&again, room("9", "fifth"));
    again.close();
    let (third, _) = folder.open();
    assert_eq!(events_of(replayed(&third, 0)), ["first", "second", "third", "state", "fourth", "fifth"]);
}

#[test]
fn how_far_a_client_has_come_is_known_in_the_next_run() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let found = |store: &SqliteStore, key| wait(store.session([key; 32])).expect("readable");
    for key in 1..=3 {
        store.save_session(session(key, "{}"));
    }
    store.session_left([2; 32], 9);
    store.sessions_confirmed(12);
    // This client was connected at the confirmation, and left after it.
    store.session_left([3; 32], 10);
    until(|| store.usage().sessions.rows == 3);
    let first_end = Moment::now();
    let killed = folder.killed();
    let (second, _) = killed.open();
    let since = |store: &SqliteStore| [1, 2, 3].map(|key| found(store, key).map(|session| session.since_seq));
    assert_eq!(since(&second), [Some(12), Some(9), Some(10)]);
    let left_at = |store: &SqliteStore| [1, 2, 3].map(|key| found(store, key).and_then(|session| session.left_at));
    assert!(left_at(&second).iter().all(|left_at| left_at.is_some_and(|at| at <= first_end.after(DEADLINE))));

    // A client comes back that has received less than the others.
    second.sessions_confirmed(11);
    second.save_session(SessionRecord { since_seq: 11, ..session(1, "{}") });
    second.close();
    let (third, _) = killed.open();
    assert_eq!(since(&third), [Some(11), Some(9), Some(10)]);
    third.close();
    // A session whose client has not come back has the end of its own run.
    let (fourth, _) = killed.open();
    let [first, second, _] = left_at(&fourth).map(|at| at.expect("it is known"));
    assert!(second <= first);
}

fn changed(key: u8, data: &str) -> SessionRecord {
    SessionRecord { before: Before::Outdated, ..session(key, data) }
}

/// Connections that are still being closed when the store ends, as after a second signal.
#[test]
fn what_comes_after_the_end_costs_no_session_but_its_own() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for key in 1..=3 {
        store.save_session(session(key, "{}"));
    }
    until(|| store.usage().sessions.rows == 3);
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
    store.session_left([1; 32], 9);
    store.save_session(changed(2, "logged out"));
    store.received("u", 1);
    drop(store);
    let (again, _) = folder.open();
    let found = [1, 2, 3].map(|key| wait(again.session([key; 32])).expect("readable").is_some());
    assert_eq!(found, [true, false, true]);
}

#[test]
fn what_changes_while_the_store_ends_is_not_undone() {
    let folder = TestFolder::new();
    let gate = Arc::<Gate>::default();
    let store = SqliteStore::open(&folder.options, Arc::<Gate>::clone(&gate), Arc::default()).expect("it opens");
    for key in 1..=5 {
        store.save_session(session(key, "old"));
    }
    until(|| store.usage().sessions.rows == 5);
    // The writer waits for this lock before it takes any request.
    let dispatching = store.order.lock().expect("no test panicked");
    let closed = gate.0.lock().expect("no test panicked");
    store.save_session(changed(1, "older"));
    let event = store.commit(durable("1", "e"));
    store.queue.close();
    store.save_session(changed(1, "new"));
    store.save_session(changed(2, "new"));
    store.forget_session([3; 32]);
    drop(dispatching);
    // All of this is committed. The writer waits before it records that.
    until(|| store.usage().log.rows == 1);
    store.save_session(changed(1, "newest"));
    store.save_session(changed(4, "new"));
    drop(closed);
    assert!(wait(event).is_ok());
    assert_eq!(store.close_by(Instant::now() + DEADLINE), Ending::default());
    drop(store);
    let (again, _) = folder.open();
    let found = [1, 2, 3, 4, 5].map(|key| wait(again.session([key; 32])).expect("readable").map(|it| it.data));
    assert_eq!(found, [None, Some("new".into()), None, None, Some("old".into())]);
}

/// The process is killed before a change of a session is written.
#[test]
fn a_session_that_has_changed_since_it_was_saved_is_not_found() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for key in 1..=4 {
        store.save_session(session(key, "{}"));
    }
    until(|| store.usage().sessions.rows == 4);
    // Nothing is written while the order is locked.
    let dispatching = store.order.lock().expect("no test panicked");
    store.save_session(SessionRecord { before: Before::Outdated, ..session(1, "logged out") });
    store.save_session(SessionRecord { before: Before::Valid, ..session(2, "{}") });
    store.forget_session([3; 32]);
    let killed = folder.killed();
    drop(dispatching);
    let found =
        |store: &SqliteStore| [1, 2, 3, 4].map(|key| wait(store.session([key; 32])).expect("readable").is_some());
    let (again, _) = killed.open();
    assert_eq!(found(&again), [false, true, false, true]);
    assert_eq!(again.usage().sessions.rows, 2);
    store.close();
    let (again, _) = folder.open();
    assert_eq!(found(&again), [true, true, false, true]);
}

#[test]
fn sessions_of_a_run_that_left_no_journal_are_unknown() {
    let mut folder = TestFolder::new();
    folder.options.journal = Duration::ZERO;
    let (store, _) = folder.open();
    store.save_session(session(1, "{}"));
    store.close();
    folder.options.journal = Duration::from_secs(60);
    let (again, _) = folder.open();
    assert_eq!(wait(again.session([1; 32])).expect("readable"), None);
}

#[test]
fn a_number_is_never_used_twice() {
    let mut folder = TestFolder::new();
    let mut last = 0;
    for run in 0..5 {
        let (store, recorder) = folder.open();
        assert!(store.boot_seq() > last);
        for _ in 0..3 {
            publish(&store, room("1", "not stored"));
        }
        assert_eq!(recorder.numbers()[0], store.boot_seq());
        last = *recorder.numbers().last().expect("some");
        if run % 2 == 0 {
            let killed = folder.killed();
            drop(store);
            folder = killed;
        }
    }
}

#[test]
fn a_log_that_was_cut_off_opens_with_what_is_whole() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for n in 0..100 {
        publish(&store, durable(&n.to_string(), &format!("e{n}")));
    }
    let after = folder.killed();
    let log = after.dir.path().join("store.db-wal");
    let length = std::fs::metadata(&log).expect("a write-ahead log").len();
    let file = std::fs::OpenOptions::new().write(true).open(&log).expect("it can be written");
    file.set_len(length - 5_000).expect("it can be cut off");
    let (again, _) = after.open();
    let events = replayed(&again, 0).events;
    assert!((90..100).contains(&events.len()), "{}", events.len());
    assert!(events.iter().enumerate().all(|(n, event)| *event.envelope.event == *format!("e{n}")));
    publish(&again, durable("x", "e"));
}

#[test]
fn a_refusal_to_open_says_why() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let refused = folder.refused();
    assert!(refused.contains("in use by another process"), "{refused}");
    assert!(refused.contains(&folder.dir.path().display().to_string()), "{refused}");
    publish(&store, durable("1", "e"));
    drop(store);

    let file = Connection::open(folder.file()).expect("a file");
    file.pragma_update(None, "user_version", 99).expect("it can be written");
    drop(file);
    let refused = folder.refused();
    let known = schema::VERSION;
    assert!(
        refused.ends_with(&format!("was written by a newer version (schema 99, this one knows {known})")),
        "{refused}"
    );

    std::fs::write(folder.file(), "no database, but long enough for a header of a hundred bytes".repeat(3))
        .expect("written");
    let refused = folder.refused();
    assert!(refused.contains("is damaged, or is no store"), "{refused}");

    // For root nothing is read-only, so the test puts a non-folder and a non-file in the way.
    let mut folder = TestFolder::new();
    std::fs::create_dir(folder.file()).expect("a folder");
    let refused = folder.refused();
    assert!(refused.contains("can't open") && refused.contains("store.db: "), "{refused}");
    folder.options.folder = folder.dir.path().join("file").join("data");
    std::fs::write(folder.dir.path().join("file"), "").expect("a file");
    let refused = folder.refused();
    assert!(refused.contains("is a file and no folder"), "{refused}");
}

#[test]
fn a_damaged_page_is_found_when_it_opens() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for n in 0..500 {
        publish(&store, durable(&n.to_string(), "e"));
    }
    drop(store);
    let mut bytes = std::fs::read(folder.file()).expect("a file");
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 8_192] {
        *byte ^= 0x5a;
    }
    std::fs::write(folder.file(), bytes).expect("written");
    let refused = folder.refused();
    assert!(refused.contains("is damaged, or is no store"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[test]
fn closing_carries_out_what_waits() {
    let folder = TestFolder::new();
    let (store, recorder) = folder.open();
    let commits: Vec<_> = (0..2_000).map(|n| store.commit(durable(&n.to_string(), "e"))).collect();
    store.save_session(session(1, "{}"));
    store.close();
    for commit in commits {
        assert!(wait(commit).is_ok());
    }
    assert_eq!(recorder.lines().len(), 2_000);
    assert!(matches!(wait(store.commit(room("1", "e"))), Err(StoreError::Unavailable(_))));
    // All data is in the one file.
    assert!(folder.file().exists() && !folder.dir.path().join("store.db-wal").exists());
    let (again, _) = folder.open();
    assert_eq!((again.usage().log.rows, again.usage().sessions.rows), (2_000, 1));
}

#[test]
fn what_is_kept_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut folder = TestFolder::new();
    folder.options.folder = folder.dir.path().join("data");
    let (store, _) = folder.open();
    publish(&store, durable("1", "e"));
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder.options.folder), 0o700);
    for file in std::fs::read_dir(&folder.options.folder).expect("a folder").flatten() {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[test]
fn a_revocation_survives_a_kill_and_so_does_its_undoing() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let revoked = revocation(Revoked::User("u".into()), 5, None);
    wait(store.revoke(revoked.clone())).expect("committed");
    wait(store.revoke(revocation(Revoked::Token("t".into()), 5, None))).expect("committed");
    wait(store.undo_revocation(Revoked::Token("t".into()))).expect("committed");
    let (again, _) = folder.killed().open();
    assert_eq!(wait(again.revocations()).expect("readable").list, [revoked]);
    assert_eq!((again.usage().revocations.rows, again.socket_id_key()), (1, store.socket_id_key()));
}
