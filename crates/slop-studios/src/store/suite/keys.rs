//! A publish that is asked for again, by its idempotency key or by the id of its notification, is carried out once.

use std::sync::Arc;

use super::super::{Committed, IdempotencyKey, Step, StoreError};
use super::{Make, key, keyed, made, media, notification, room, wait};

pub(crate) fn a_key_is_carried_out_once(make: Make) {
    let (store, recorder) = made(make);
    let first = wait(store.commit(keyed(room("1", "e"), key("k", 1)))).expect("accepted");
    assert!(wait(store.commit(room("2", "other"))).is_ok());
    let repeat = wait(store.commit(keyed(room("3", "e"), key("k", 1)))).expect("accepted");
    assert_eq!(receipt(first), ("1".to_owned(), 1, false));
    assert_eq!(receipt(repeat), ("1".to_owned(), 1, true));
    let others = [
        IdempotencyKey { publisher: "q".into(), ..key("k", 1) },
        IdempotencyKey { item: Some(1), ..key("k", 1) },
        key("l", 1),
    ];
    for other in others {
        let committed = wait(store.commit(keyed(room("4", "e"), other))).expect("accepted");
        assert!(!committed.repeated);
    }
    assert_eq!(recorder.lines().len(), 5);
}

pub(crate) fn a_key_belongs_to_one_request(make: Make) {
    let (store, recorder) = made(make);
    // A refused change leaves the key free.
    assert!(wait(store.commit(media("1", "m", Step::Complete))).is_ok());
    assert!(wait(store.commit(keyed(media("2", "m", Step::Complete), key("k", 1)))).is_err());
    assert!(wait(store.commit(keyed(room("3", "e"), key("k", 2)))).is_ok());
    let reused = wait(store.commit(keyed(room("4", "e"), key("k", 3))));
    assert_eq!(reused.map(|committed| committed.id), Err(StoreError::KeyReused));
    assert_eq!(recorder.lines().len(), 2);
}

pub(crate) fn a_key_is_a_batchs_once_an_item_was_accepted(make: Make) {
    let (store, recorder) = made(make);
    let item = |asked, item| IdempotencyKey { item: Some(item), ..key("k", asked) };
    let commit = |id: &str, key| wait(store.commit(keyed(room(id, "e"), key))).map(|committed| committed.repeated);
    for asked in [1, 2, 1] {
        assert_eq!(wait(store.check_key(key("k", asked))), Ok(()));
    }
    assert_eq!(commit("1", item(1, 7)), Ok(false));
    assert_eq!(
        (wait(store.check_key(key("k", 1))), wait(store.check_key(key("k", 2)))),
        (Ok(()), Err(StoreError::KeyReused))
    );
    assert_eq!(commit("2", item(2, 8)), Err(StoreError::KeyReused));
    assert_eq!(
        [commit("3", item(1, 8)), commit("4", item(1, 7)), commit("5", item(1, 8))],
        [Ok(false), Ok(true), Ok(true)]
    );
    assert_eq!(recorder.lines().len(), 2);
    let again = wait(store.commit(keyed(room("6", "e"), item(1, 8)))).expect("accepted");
    assert_eq!(receipt(again), ("3".to_owned(), 2, true));
}

pub(crate) fn a_notification_id_is_carried_out_once(make: Make) {
    let (store, recorder) = made(make);
    let first = wait(store.commit(notification("u", "n", 1))).expect("accepted");
    let repeat = wait(store.commit(keyed(notification("u", "n", 1), key("k", 1)))).expect("accepted");
    assert_eq!(receipt(first), ("n".to_owned(), 1, false));
    assert_eq!(receipt(repeat), ("n".to_owned(), 1, true));
    let reused = wait(store.commit(notification("u", "n", 2)));
    assert_eq!(reused.map(|committed| committed.id), Err(StoreError::NotificationIdReused));
    assert!(wait(store.commit(notification("v", "n", 2))).is_ok());
    assert_eq!(recorder.lines(), ["u n", "v n"]);
}

pub(crate) fn concurrent_repeats_are_one_publish(make: Make) {
    let (store, recorder) = made(make);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                (0..100)
                    .map(|n| {
                        let id = format!("{thread}-{n}");
                        let change = keyed(room(&id, "e"), key(&format!("k{n}"), 1));
                        receipt(wait(store.commit(change)).expect("accepted"))
                    })
                    .map(|(id, sockets, _)| (id, sockets))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let receipts: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it publishes")).collect();
    assert!(receipts.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(recorder.lines().len(), 100);
}

fn receipt(committed: Committed) -> (String, u64, bool) {
    (committed.id.to_string(), wait(committed.delivery.sockets()), committed.repeated)
}
