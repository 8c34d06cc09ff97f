//! What every [`Store`] promises, as tests. A store's own tests run [`run`] with a way to make an empty one.

use std::future::{Future, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::{
    Change, Committed, CommittedEvent, Delivery, Dispatch, IdempotencyKey, MediaChange, NotificationChange, RoomEvent,
    Step, Store, StoreError, What,
};
use crate::clock::Moment;

/// Makes an empty store that dispatches here.
pub(super) type Make = fn(Arc<dyn Dispatch>) -> Arc<dyn Store>;

pub(super) fn run(make: Make) {
    changes_are_dispatched_in_the_order_of_the_calls(make);
    a_refused_change_is_not_dispatched(make);
    a_key_is_carried_out_once(make);
    a_key_belongs_to_one_request(make);
    a_claim_has_no_receipt(make);
    a_notification_id_is_carried_out_once(make);
    notifications_are_paged_newest_first(make);
    a_snapshot_has_its_place_in_the_order(make);
    concurrent_repeats_are_one_publish(make);
}

/// Waits on this thread; the stores under test answer without a runtime, or from threads of their own.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// Writes down what it is given, and says that it went to as many sockets as events were dispatched so far.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panicked").clone()
    }
}

impl Dispatch for Recorder {
    fn dispatch(&self, event: CommittedEvent<'_>) -> Delivery {
        let line = match event {
            CommittedEvent::Media { media_id, state, owner_became_known } => {
                format!("{media_id} {:?}{}", state.step, if owner_became_known { " owned" } else { "" })
            }
            CommittedEvent::Notification(notification) => {
                format!("{} {}", notification.user_id, notification.id)
            }
            CommittedEvent::Room(event) => format!("{}{} {}", event.namespace, event.room, event.event),
        };
        let mut lines = self.0.lock().expect("no test panicked");
        lines.push(line);
        Delivery::new(ready(lines.len() as u64))
    }
}

pub(super) fn made(make: Make) -> (Arc<dyn Store>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (make(Arc::<Recorder>::clone(&recorder)), recorder)
}

pub(super) fn change(id: &str, what: What) -> Change {
    Change { id: id.into(), at: Moment::now(), key: None, what }
}

pub(super) fn media(id: &str, media_id: &str, step: Step) -> Change {
    change(
        id,
        What::Media(MediaChange {
            media_id: media_id.into(),
            owner_id: None,
            attempt: None,
            step,
            payload: format!("{{\"id\":\"{id}\"}}").into(),
        }),
    )
}

pub(super) fn notification(user_id: &str, id: &str, says: u8) -> Change {
    change(
        id,
        What::Notification(NotificationChange {
            user_id: user_id.into(),
            id: id.into(),
            fingerprint: [says; 32],
            payload: format!("{{\"id\":\"{id}\"}}").into(),
        }),
    )
}

fn room(id: &str, event: &str) -> Change {
    change(id, What::Room(RoomEvent { namespace: "/", room: "r".into(), event: event.into(), argument: "".into() }))
}

pub(super) fn key(name: &str, asked: u8) -> IdempotencyKey {
    IdempotencyKey { publisher: "p".into(), key: name.into(), item: None, fingerprint: [asked; 32] }
}

pub(super) fn keyed(change: Change, key: IdempotencyKey) -> Change {
    Change { key: Some(key), ..change }
}

fn changes_are_dispatched_in_the_order_of_the_calls(make: Make) {
    let (store, recorder) = made(make);
    let first = store.commit(room("1", "first"));
    let second = store.commit(media("2", "m", Step::Progress(1.0)));
    let third = store.commit(notification("u", "3", 0));
    // Not in the order in which they are awaited.
    for commit in [third, first, second] {
        assert!(wait(commit).is_ok());
    }
    assert_eq!(recorder.lines(), ["/r first", "m Progress(1.0)", "u 3"]);
}

fn a_refused_change_is_not_dispatched(make: Make) {
    let (store, recorder) = made(make);
    assert!(wait(store.commit(media("1", "m", Step::Complete))).is_ok());
    let refused = wait(store.commit(media("2", "m", Step::Error)));
    assert!(matches!(refused, Err(StoreError::Media(_))), "{refused:?}");
    assert_eq!(recorder.lines(), ["m Complete"]);
    let state = wait(store.media_state("m")).expect("readable").expect("known");
    assert_eq!((state.step, &*state.payload), (Step::Complete, r#"{"id":"1"}"#));
    assert_eq!(wait(store.media_state("other")), Ok(None));
}

fn receipt(committed: Committed) -> (String, u64, bool) {
    (committed.id.to_string(), wait(committed.delivery.sockets()), committed.repeated)
}

fn a_key_is_carried_out_once(make: Make) {
    let (store, recorder) = made(make);
    let first = wait(store.commit(keyed(room("1", "e"), key("k", 1)))).expect("accepted");
    assert!(wait(store.commit(room("2", "other"))).is_ok());
    let repeat = wait(store.commit(keyed(room("3", "e"), key("k", 1)))).expect("accepted");
    assert_eq!(receipt(first), ("1".to_owned(), 1, false));
    assert_eq!(receipt(repeat), ("1".to_owned(), 1, true));
    let others = [
        IdempotencyKey { publisher: "q".into(), ..key("k", 1) },
        IdempotencyKey { item: Some(0), ..key("k", 1) },
        key("l", 1),
    ];
    for other in others {
        let committed = wait(store.commit(keyed(room("4", "e"), other))).expect("accepted");
        assert!(!committed.repeated);
    }
    assert_eq!(recorder.lines().len(), 5);
}

fn a_key_belongs_to_one_request(make: Make) {
    let (store, recorder) = made(make);
    // What was refused leaves the key free.
    assert!(wait(store.commit(media("1", "m", Step::Complete))).is_ok());
    assert!(wait(store.commit(keyed(media("2", "m", Step::Complete), key("k", 1)))).is_err());
    assert!(wait(store.commit(keyed(room("3", "e"), key("k", 2)))).is_ok());
    let reused = wait(store.commit(keyed(room("4", "e"), key("k", 3))));
    assert_eq!(reused.map(|committed| committed.id), Err(StoreError::KeyReused));
    assert_eq!(recorder.lines().len(), 2);
}

fn a_claim_has_no_receipt(make: Make) {
    let (store, _) = made(make);
    assert_eq!(wait(store.claim(key("k", 1))), Ok(()));
    assert_eq!(wait(store.claim(key("k", 1))), Ok(()));
    assert_eq!(wait(store.claim(key("k", 2))), Err(StoreError::KeyReused));
    let reused = wait(store.commit(keyed(room("1", "e"), key("k", 2))));
    assert_eq!(reused.map(|committed| committed.id), Err(StoreError::KeyReused));
}

fn a_notification_id_is_carried_out_once(make: Make) {
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

fn notifications_are_paged_newest_first(make: Make) {
    let (store, _) = made(make);
    for id in ["1", "2", "3", "4", "5"] {
        assert!(wait(store.commit(notification("u", id, 0))).is_ok());
    }
    let page = |before: Option<&str>, limit| {
        let page = wait(store.notifications("u", before, limit)).expect("readable");
        let payloads: Vec<String> = page.payloads.iter().map(ToString::to_string).collect();
        (payloads.join(" "), page.next.map(|next| next.to_string()))
    };
    let next = |id: &str| Some(id.to_owned());
    assert_eq!(page(None, 2), (r#"{"id":"5"} {"id":"4"}"#.to_owned(), next("4")));
    assert_eq!(page(Some("4"), 2), (r#"{"id":"3"} {"id":"2"}"#.to_owned(), next("2")));
    assert_eq!(page(Some("2"), 2), (r#"{"id":"1"}"#.to_owned(), None));
    assert_eq!(page(Some("1"), 2), (String::new(), None));
    assert_eq!(page(Some("3"), 2), (r#"{"id":"2"} {"id":"1"}"#.to_owned(), None));
    let unknown = wait(store.notifications("u", Some("9"), 2));
    assert_eq!(unknown.map(|page| page.next), Err(StoreError::UnknownNotification));
    let nobody = wait(store.notifications("nobody", None, 2)).expect("readable");
    assert!(nobody.payloads.is_empty());
}

fn a_snapshot_has_its_place_in_the_order(make: Make) {
    let (store, recorder) = made(make);
    let publishing = Arc::clone(&store);
    let publisher = std::thread::spawn(move || {
        for step in 0..1_000 {
            assert!(wait(publishing.commit(media("p", "m", Step::Progress(f64::from(step) / 10.0)))).is_ok());
        }
    });
    for _ in 0..200 {
        let recorder = Arc::clone(&recorder);
        let (say, said) = std::sync::mpsc::channel();
        let asked = store.media_snapshot_then(
            "m",
            Box::new(move |state| {
                let _ = say.send((state.map(|state| format!("m {:?}", state.step)), recorder.lines()));
            }),
        );
        assert_eq!(wait(asked), Ok(()));
        let (state, dispatched) = said.recv().expect("it ran");
        // The state is what was dispatched last: nothing in between, nothing after.
        assert_eq!(state.as_ref(), dispatched.last());
    }
    publisher.join().expect("it publishes");
}

fn concurrent_repeats_are_one_publish(make: Make) {
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
