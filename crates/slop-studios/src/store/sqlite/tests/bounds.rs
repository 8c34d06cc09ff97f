//! Limits: retention, queues, and the size of a replay.

use futures_util::FutureExt as _;

use super::*;
use crate::limits::{RECALLS, STORE_QUEUE_REQUESTS};
use crate::store::{Floors, Revocations};

#[test]
fn the_oldest_leave_first() {
    let folder = TestFolder::bounded(|bounds| {
        bounds.media.rows = 2;
        bounds.log.bytes = 10 * crate::limits::ROW_OVERHEAD_BYTES;
        bounds.sessions.rows = 2;
        bounds.notifications_per_user = 2;
        bounds.notifications.rows = 3;
    });
    let (store, recorder) = folder.open();
    for item in ["a", "b", "a", "c"] {
        publish(&store, media("1", item, Step::Progress(1.0)));
    }
    let known = |item| wait(store.media_snapshot(item)).expect("readable").state.is_some();
    assert_eq!([known("a"), known("b"), known("c")], [true, false, true]);

    let begin = recorder.numbers().len();
    for n in 0..100 {
        publish(&store, durable("1", &format!("e{n}")));
        assert!(store.usage().log.rows <= 10);
    }
    let numbers = recorder.numbers();
    // Removed events can't be replayed, and the replay is reported as incomplete.
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
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let day_before = Moment::now().before(Duration::from_secs(86_401));
    for n in 0..1_000 {
        publish(&store, Change { at: day_before, ..durable(&n.to_string(), "old") });
    }
    publish(&store, Change { at: day_before, ..media("1", "m", Step::Complete) });
    publish(&store, Change { at: day_before, ..notification("u", "1", 0) });
    store.received("u", store.boot_seq() + 5_000);
    publish(&store, Change { at: day_before, ..keyed(room("1", "e"), key("k", 1)) });
    drop(store);

    // Rows are removed without a request, a few at a time, and only rows that are too old.
    let (store, _) = folder.open();
    publish(&store, durable("2", "new"));
    until(|| store.usage().log.rows == 1);
    let kept = store.usage();
    assert_eq!((kept.media.rows, kept.notifications.rows, kept.idempotency_keys), (0, 0, 0));
    let inboxes =
        store.read(|connection| Ok(connection.query_row("SELECT count(*) FROM inboxes", [], |row| row.get(0))?));
    assert_eq!(wait(inboxes), Ok(0));
    let newest =
        wait(store.replay("/", vec![("r".into(), 0)], store.boot_seq() - 1, i64::MAX as u64)).expect("readable");
    assert_eq!((newest.complete, newest.events.len()), (true, 1));
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
fn requests_of_clients_do_not_fill_the_queue_for_publishers() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let mut commits = vec![store.commit(durable("0", "e"))];
    let mut snapshots = Vec::new();
    let refused = loop {
        let mut snapshot = store.media_snapshot("m");
        if let Some(Err(error)) = (&mut snapshot).now_or_never() {
            break error;
        }
        snapshots.push(snapshot);
        assert!(snapshots.len() < STORE_QUEUE_REQUESTS);
    };
    assert_eq!(refused, StoreError::Overloaded);
    let page = store.notifications("u", None, 1).now_or_never();
    assert!(matches!(page, Some(Err(StoreError::Overloaded))));
    commits.push(store.commit(durable("1", "e")));
    drop(closed);
    for commit in commits {
        assert!(wait(commit).is_ok());
    }
    for snapshot in snapshots {
        assert!(wait(snapshot).is_ok());
    }
    assert!(wait(store.notifications("u", None, 1)).is_ok(), "there is room again");
}

#[test]
fn bytes_that_wait_are_bounded() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let large = || {
        let mut change = room("1", "e");
        if let ChangeKind::Room(event) = &mut change.what {
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

/// Of events that replace each other, only the newest is sent.
#[test]
fn latest_events_that_were_replaced_do_not_make_a_replay_too_large() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for n in 0..20 {
        let mut state = room_event(&n.to_string(), "r", "state", Class::Latest);
        if let ChangeKind::Room(event) = &mut state.what {
            event.argument = format!("\"{}\"", "x".repeat(100_000)).into();
        }
        // Half of the events are in the log, because they have keys, and half are in the journal.
        publish(&store, if n % 2 == 0 { keyed(state, key(&n.to_string(), 1)) } else { state });
    }
    let (again, _) = folder.killed().open();
    let replay = replayed(&again, 0);
    assert!(replay.complete);
    assert_eq!(replay.events.len(), 1);
}

#[test]
fn a_replay_that_is_too_large_is_not_complete() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    for n in 0..3 {
        let mut change = durable(&n.to_string(), "e");
        if let ChangeKind::Room(event) = &mut change.what {
            event.argument = "x".repeat(crate::limits::MAX_REPLAY_BYTES / 2).into();
        }
        publish(&store, change);
    }
    assert_eq!(replayed(&store, 0), Replay::default());
    let newest = replayed(&store, store.boot_seq() + 1);
    assert_eq!((newest.complete, newest.events.len()), (true, 1));
}

#[test]
fn only_what_is_over_leaves_and_it_leaves_a_floor() {
    const DAY: Duration = Duration::from_secs(86_400);
    let (now, skew) = (Moment::now(), Duration::from_secs(2));
    let ago = |days: u32| now.before(DAY * days).epoch_ms();
    let folder = TestFolder::bounded(|bounds| bounds.revocations.rows = 3);
    let (store, _) = folder.open();
    let row = |name: &str, at, expires_at| revocation(Revoked::Token(name.into()), at, expires_at);
    let revoke = |revoked: &Revocation| wait(store.revoke(revoked.clone())).map(|revoked| revoked.evicted);
    let user = revocation(Revoked::User("u".into()), ago(3), None);
    let (long, short) = (row("long", ago(2), None), row("short", ago(1), Some(ago(0) - 1_000)));
    for revoked in [&user, &long, &short] {
        assert_eq!(revoke(revoked), Ok(Revocations::default()), "there is room");
    }
    let fresh = row("fresh", ago(0), None);
    // The revocation whose own end has come is removed first, although it is not the oldest.
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
    let kept = wait(folder.open().0.revocations()).expect("readable");
    assert_eq!((kept.list.len(), kept.floors), (3, floors(Some(long.at.after(skew)), Some(ago(0) - 1_000))));
}

/// With a shorter maximum lifetime or less leeway, more revocations are over. With more of either, fewer are over.
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
        let folder =
            TestFolder::bounded(|bounds| bounds.revocations = RevocationBound { rows: 1, max_lifetime, leeway });
        let (store, _) = folder.open();
        let revoke = |name: &str, at, end| wait(store.revoke(revocation(Revoked::Token(name.into()), at, end)));
        assert!(revoke("old", ago(4), expires_at).is_ok());
        assert_eq!(revoke("new", ago(0), None).is_ok(), makes_room, "{max_lifetime:?} {leeway:?} {expires_at:?}");
    }
}

/// A folder for returning sessions with many rooms, and their rooms. More events were logged meanwhile, so that each
/// room has to be looked up.
fn folder_of_crowded_sessions() -> (TestFolder, Vec<(Arc<str>, u64)>) {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let commits: Vec<_> = (0..1_500).map(|n| store.commit(durable(&n.to_string(), "e"))).collect();
    assert!(commits.into_iter().all(|commit| wait(commit).is_ok()));
    store.save_session(session(1, "{}"));
    until(|| store.usage().sessions.rows == 1);
    store.close();
    (folder, (0..1_000).map(|n| (format!("project-{n}").into(), 0)).collect())
}

#[test]
fn what_is_asked_for_waits_for_a_slice_of_those_that_come_back() {
    let (folder, rooms) = folder_of_crowded_sessions();
    let gate = Arc::<Gate>::default();
    let store = SqliteStore::open(&folder.options, Arc::<Gate>::clone(&gate), Arc::default()).expect("it opens");
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("1", "e"));
    let replays: Vec<_> = (0..RECALLS).map(|_| store.replay("/", rooms.clone(), 0, store.boot_seq() - 1)).collect();
    let queue = Arc::clone(&store.queue);
    let asked = store.read(move |_| Ok(queue.recalls()));
    drop(closed);
    assert!(wait(first).is_ok());
    let left = wait(asked).expect("readable");
    assert!(left > RECALLS / 2, "it has waited for {} of them", RECALLS - left);
    for replay in replays {
        let replay = wait(replay).expect("readable");
        assert_eq!((replay.complete, replay.events.len()), (true, 0));
    }
}

/// A client that disconnects releases its permit only when its read is gone, so the reads behind it never exceed the
/// limit.
#[test]
fn who_hangs_up_while_the_store_is_busy_costs_nobody_a_session() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("1", "e"));
    for _ in 0..3 * RECALLS {
        let mut gone = store.replay("/", Vec::new(), 0, store.boot_seq() - 1);
        assert!(gone.as_mut().now_or_never().is_none());
    }
    let mut waits = store.replay("/", Vec::new(), 0, store.boot_seq() - 1);
    assert!(waits.as_mut().now_or_never().is_none());
    drop(closed);
    assert!(wait(first).is_ok() && wait(waits).is_ok_and(|replay| replay.complete));
}

/// Returning sessions are saved again.
#[test]
fn what_is_asked_for_waits_for_a_part_of_the_sessions_that_are_saved() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("1", "e"));
    until(|| store.queue.is_idle());
    for key in 1..=20 {
        let rooms = (0..1_000).map(|n| (format!("{n:0128}").into(), 0)).collect();
        store.save_session(SessionRecord { rooms, ..session(key, "{}") });
    }
    let begun = Instant::now();
    until(|| begun.elapsed() > crate::limits::LAZY_WRITES_AFTER);
    let usage = Arc::clone(&store.usage);
    let asked = store.read(move |_| Ok(usage.lock().expect("no test panicked").sessions.rows));
    drop(closed);
    assert!(wait(first).is_ok());
    let saved = wait(asked).expect("readable");
    assert!((1..10).contains(&saved), "it has waited for {saved}");
    until(|| store.usage().sessions.rows == 20);
    assert!((1..=20).all(|key| wait(store.session([key; 32])).is_ok_and(|found| found.is_some())));
}

#[test]
fn a_full_queue_turns_nobody_away_that_comes_back() {
    let (folder, rooms) = folder_of_crowded_sessions();
    let gate = Arc::<Gate>::default();
    let store = SqliteStore::open(&folder.options, Arc::<Gate>::clone(&gate), Arc::default()).expect("it opens");
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("1", "e"));
    until(|| store.queue.is_idle());
    let waiting: Vec<_> = (0..STORE_QUEUE_REQUESTS).map(|_| store.commit(durable("2", "e"))).collect();
    assert_eq!(wait(store.commit(durable("2", "e"))).err(), Some(StoreError::Overloaded));
    let session = store.session([1; 32]);
    let owners = store.media_owners(vec!["m".into()]);
    let replay = store.replay("/", rooms, 0, store.boot_seq() - 1);
    drop(closed);
    assert!(wait(first).is_ok());
    assert!(wait(session).expect("readable").is_some());
    assert_eq!(wait(owners), Ok(Vec::new()));
    assert!(wait(replay).expect("readable").complete);
    assert!(waiting.into_iter().all(|commit| wait(commit).is_ok()));
}

/// A replay has the same events however it is sliced, whether few events were logged or too many to examine.
#[test]
fn a_replay_in_slices_is_what_one_at_once_is() {
    for others in [0, 200] {
        let folder = TestFolder::new();
        let (store, recorder) = folder.open();
        let say = |n: usize, room: &str, class: Class| {
            let change = room_event(&format!("e{n}"), room, "state", class);
            publish(&store, if n.is_multiple_of(2) { keyed(change, key(&n.to_string(), 1)) } else { change });
        };
        for n in 0..40 {
            say(n, ["r", "s", "unasked"][n % 3], [Class::Latest, Class::Durable, Class::Recoverable][n % 7 % 3]);
        }
        for n in 0..others {
            publish(&store, durable(&n.to_string(), "another"));
        }
        for n in 0..30 {
            let item = ChangeKind::Media(MediaChange {
                media_id: format!("m{n}").into(),
                owner_id: Some(["u", "v"][n % 2].into()),
                attempt: None,
                follows: None,
                step: if n % 3 == 0 { Step::Complete } else { Step::Progress(1.0) },
                payload: "{}".into(),
            });
            publish(&store, change(&format!("m{n}"), item));
        }
        let last = *recorder.numbers().last().expect("an event");
        let first = recorder.numbers()[0];
        store.close();
        let (store, _) = folder.open();
        let until = store.boot_seq() - 1;
        let rooms = |names: &[&str]| names.iter().map(|name| (Arc::from(*name), 0)).collect::<Vec<_>>();
        let mut media_rooms = rooms(&["user:u"]);
        media_rooms
            .extend((0..30).map(|n| (crate::contract::rooms::media_room(&format!("m{n}")).into(), [0, last][n % 2])));
        let mut read = 0;
        for (namespace, rooms) in [("/", rooms(&["r", "s", "nothing"])), ("/media", media_rooms)] {
            for after in [first - 1, first + 10, last - 5, last] {
                let at_once = wait(store.replay(namespace, rooms.clone(), after, until)).expect("readable");
                assert!(at_once.complete);
                read += at_once.events.len();
                let mut cut = ReplayRead::new(store.earlier.get(), namespace, rooms.clone(), after, until);
                let in_slices = wait(store.read(move |connection| {
                    let begun = Instant::now();
                    // The time is always up.
                    loop {
                        if let Some(replay) = cut.go_on(connection, begun)? {
                            return Ok(replay);
                        }
                    }
                }));
                assert_eq!(in_slices, Ok(at_once), "{namespace} after {after}");
            }
        }
        assert!(read > 60, "{read}");
    }
}

#[test]
fn a_thousand_subscriptions_take_a_handful_of_turns() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    publish(&store, media("1", "m7", Step::Progress(1.0)));
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("2", "e"));
    until(|| store.queue.is_idle());
    let (mut snapshots, mut turns) = (Vec::new(), Vec::new());
    for n in 0..1_000 {
        snapshots.push(store.media_snapshot(&format!("m{n}")));
        if n % 10 == 0 {
            // With each turn, fewer requests are queued.
            let queue = Arc::clone(&store.queue);
            turns.push(store.read(move |_| Ok(queue.len())));
        }
    }
    drop(closed);
    let begun = Instant::now();
    assert!(wait(first).is_ok());
    let known =
        |snapshot: BoxFuture<'_, Result<MediaSnapshot, StoreError>>| wait(snapshot).expect("readable").state.is_some();
    assert!((0..).zip(snapshots).all(|(n, snapshot)| known(snapshot) == (n == 7)));
    println!("1,000 snapshots take {:?}", begun.elapsed());
    let turns: std::collections::BTreeSet<usize> =
        turns.into_iter().map(|turn| wait(turn).expect("readable")).collect();
    assert!(turns.len() <= 3, "{turns:?}");
}
