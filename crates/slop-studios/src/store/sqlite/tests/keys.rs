//! Idempotency keys: how long they are remembered, and how many.

use rusqlite::Connection;

use super::*;

#[test]
fn a_key_that_is_too_old_is_free() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
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
    let folder = TestFolder::bounded(|bounds| {
        bounds.idempotency_keys = KeyBounds { age: DAY, of_all: 3, of_publisher: 2 };
    });
    let (store, recorder) = folder.open();
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
    // Changes without a key are not affected, and refused changes left nothing behind.
    publish(&store, durable("8", "e"));
    assert_eq!((recorder.lines().len(), store.usage().idempotency_keys), (4, 3));
    assert_eq!(wait(store.notifications("u", None, 10)).expect("readable").notifications, []);
    // The next process counts the same.
    drop(store);
    let (store, _) = folder.open();
    assert_eq!(store.usage().idempotency_keys, 3);
    refused(wait(store.commit(keyed(room("9", "e"), of("p", "c")))).map(|committed| committed.repeated), true, 2);
}

#[test]
fn a_batch_is_one_key_for_every_ten_of_its_items() {
    let folder = TestFolder::bounded(|bounds| bounds.idempotency_keys.of_publisher = 4);
    let (store, _) = folder.open();
    let item = |name: &str, item| IdempotencyKey { item: Some(item), ..of("p", name) };
    publish(&store, keyed(room("1", "e"), of("p", "a")));
    let batch = |store: &SqliteStore| {
        let commits: Vec<_> =
            (0..1_000).map(|n| store.commit(keyed(room(&n.to_string(), "e"), item("batch", n)))).collect();
        commits.into_iter().map(|commit| wait(commit).expect("accepted")).collect::<Vec<_>>()
    };
    // There is room for the batch, and for nothing behind it.
    let first = batch(&store);
    assert_eq!((store.usage().idempotency_keys, first.iter().filter(|each| each.repeated).count()), (101, 0));
    assert!(matches!(wait(store.check_key(of("p", "b"))), Err(StoreError::TooManyKeys { .. })));
    assert!(publish(&store, keyed(room("2", "e"), of("p", "a"))).repeated);
    let (again, recorder) = folder.killed().open();
    let second = batch(&again);
    assert!(first.iter().zip(&second).all(|(first, second)| second.repeated && first.id == second.id));
    assert_eq!((again.usage().idempotency_keys, recorder.lines().len()), (101, 0));
}

#[test]
fn a_batch_that_was_cut_off_by_a_kill_goes_on_where_it_was() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let item = |item| IdempotencyKey { item: Some(item), ..key("k", 1) };
    let first = publish(&store, keyed(durable("0", "e"), item(0)));
    publish(&store, keyed(durable("2", "e"), item(2)));
    let (again, recorder) = folder.killed().open();
    let repeated: Vec<_> = (0..4).map(|n| publish(&again, keyed(durable(&n.to_string(), "e"), item(n)))).collect();
    assert_eq!(repeated.iter().map(|each| each.repeated).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!((&repeated[0].id, recorder.lines().len()), (&first.id, 2));
    assert_eq!(wait(again.check_key(key("k", 2))), Err(StoreError::KeyReused));
}

#[test]
fn a_place_is_free_when_the_wait_is_over() {
    // On a machine that is too slow to get the refusal, a longer wait is tried.
    let waits = [200, 2_000, 10_000].map(Duration::from_millis);
    assert!(waits.into_iter().any(is_free_after), "no refusal was met");
}

/// Whether all refusals came before the keys were too old.
fn is_free_after(longest: Duration) -> bool {
    let folder = TestFolder::bounded(|bounds| {
        bounds.idempotency_keys = KeyBounds { age: DAY, of_all: 2, of_publisher: 1 };
    });
    let (store, _) = folder.open();
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
    let folder = TestFolder::new();
    let (store, _) = folder.open();
    let ahead = Moment::now().after(400 * DAY);
    publish(&store, Change { at: ahead, ..keyed(room("1", "e"), key("k", 1)) });
    drop(store);
    let (store, _) = folder.open();
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
    let folder = TestFolder::new();
    let mut file = Connection::open(folder.file()).expect("a file");
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
    // Its claim was the oldest and was removed first. Then the key was used for another request.
    old(b"p\0again\0\0\0\0\0", 1, Some("older"), 1);
    old(b"p\0again\0\0\0\0\x01", 1, Some("older too"), 1);
    old(b"p\0again", 2, Some("newest"), 5);
    drop(file);

    let (store, recorder) = folder.open();
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

/// The row that a repeat finds is older than the count that its own group writes.
#[test]
fn a_repeat_gets_the_count_that_its_own_group_writes() {
    let folder = TestFolder::new();
    let (store, _) = folder.open();
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
