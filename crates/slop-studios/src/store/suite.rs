//! Tests of the guarantees of every [`Store`]. A backend's tests call `contract_suite!` with a
//! function that makes an empty store.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Handle, Runtime};

use super::{
    Before, Change, ChangeKind, Committed, CommittedEvent, Delivery, Dispatch, Dispatched, Effect, Floors,
    IdempotencyKey, Inbox, MediaChange, NotificationChange, ReadMark, Replay, Revocation, Revocations, Revoked,
    SessionRecord, Step, Store, StoreError, Unread,
};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms::{media_of, media_room, user_room};
use crate::contract::time::Moment;
use crate::limits::MAX_NOTIFICATIONS_PAGE_BYTES;

/// A function that makes an empty store with this dispatch.
pub(crate) type Make = fn(Arc<dyn Dispatch>) -> Arc<dyn Store>;

/// Makes a test of each guarantee, on the stores that `$make` makes.
macro_rules! contract_suite {
    ($make:expr) => {
        $crate::store::suite::contract_suite! { $make =>
            changes_are_dispatched_in_the_order_of_the_calls,
            a_refused_change_is_not_dispatched,
            a_key_is_carried_out_once,
            a_key_belongs_to_one_request,
            a_key_is_a_batchs_once_an_item_was_accepted,
            a_notification_id_is_carried_out_once,
            notifications_are_paged_newest_first,
            a_page_of_notifications_is_bounded_in_bytes,
            a_snapshot_has_its_place_in_the_order,
            what_is_under_way_is_found_by_its_last_event,
            concurrent_repeats_are_one_publish,
            numbers_rise_in_the_order_of_the_dispatches,
            what_must_survive_is_said_to_be_stored,
            a_replay_is_what_the_rooms_were_told,
            a_replay_has_the_newest_progress,
            an_inbox_is_what_was_not_received,
            an_inbox_has_its_place_in_the_order,
            reading_changes_what_is_unread,
            a_session_is_kept_until_it_is_forgotten,
            owners_are_told_as_far_as_they_are_known,
            a_revocation_is_kept_until_it_is_undone,
        }
    };
    ($make:expr => $($guarantee:ident,)+) => {
        mod contract {
            use super::*;

            $(
                #[test]
                fn $guarantee() {
                    $crate::store::suite::$guarantee($make);
                }
            )+
        }
    };
}
pub(crate) use contract_suite;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Blocks this thread until the future is ready. The future runs on a tokio runtime, as a remote backend needs it: the
/// test's own, if it has one.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    if Handle::try_current().is_err() {
        return RUNTIME.with(|runtime| runtime.block_on(future));
    }
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// Records the events that it is given. As the count of sockets, it reports the number of events dispatched so far.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<(u64, String)>>);

impl Recorder {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panicked").iter().map(|(_, line)| line.clone()).collect()
    }

    /// The number of each event.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.0.lock().expect("no test panicked").iter().map(|(seq, _)| *seq).collect()
    }
}

impl Dispatch for Recorder {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        assert!(!group.is_empty());
        let mut recorded = self.0.lock().expect("no test panicked");
        let deliveries = group.iter().map(|dispatched| {
            let line = match dispatched.event {
                CommittedEvent::Event { envelope, effect } => {
                    let Envelope { namespace, room, event, argument, .. } = envelope;
                    match effect {
                        Effect::None if *namespace == MEDIA => {
                            format!("{} {event} {}", media_of(room).unwrap_or(room), id_in(argument))
                        }
                        Effect::None => format!("{namespace}{room} {event}"),
                        Effect::OwnerKnown { media_id, .. } => format!("{media_id} {event} owned"),
                        Effect::Notified { user_id, .. } => format!("{user_id} {}", id_in(argument)),
                    }
                }
                CommittedEvent::Unread { user_id, unread } => format!("{user_id} has {unread}"),
            };
            assert!(recorded.last().is_none_or(|(last, _)| *last < dispatched.seq), "numbers rise");
            recorded.push((dispatched.seq, line));
            Delivery::known(recorded.len() as u64)
        });
        deliveries.collect()
    }
}

/// The id of `{"id":"…"}`.
fn id_in(payload: &str) -> &str {
    payload.split('"').nth(3).unwrap_or_default()
}

fn made(make: Make) -> (Arc<dyn Store>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (make(Arc::<Recorder>::clone(&recorder)), recorder)
}

pub(super) fn change(id: &str, what: ChangeKind) -> Change {
    Change { id: id.into(), at: Moment::now(), key: None, what }
}

pub(super) fn media(id: &str, media_id: &str, step: Step) -> Change {
    change(
        id,
        ChangeKind::Media(MediaChange {
            media_id: media_id.into(),
            owner_id: None,
            attempt: None,
            follows: None,
            step,
            payload: format!("{{\"id\":\"{id}\"}}").into(),
        }),
    )
}

pub(super) fn notification(user_id: &str, id: &str, says: u8) -> Change {
    change(
        id,
        ChangeKind::Notification(NotificationChange {
            user_id: user_id.into(),
            id: id.into(),
            fingerprint: [says; 32],
            payload: format!("{{\"id\":\"{id}\"}}").into(),
        }),
    )
}

pub(super) fn room(id: &str, event: &str) -> Change {
    room_event(id, "r", event, Class::Recoverable)
}

pub(super) fn durable(id: &str, event: &str) -> Change {
    room_event(id, "r", event, Class::Durable)
}

pub(super) fn room_event(id: &str, room: &str, event: &str, class: Class) -> Change {
    let (namespace, argument) = ("/", "");
    change(
        id,
        ChangeKind::Room(Envelope {
            namespace,
            room: room.into(),
            owner_room: None,
            event: event.into(),
            argument: argument.into(),
            class,
        }),
    )
}

/// A media change that names its owner.
fn owned(id: &str, media_id: &str, step: Step, owner: &str) -> Change {
    let mut change = media(id, media_id, step);
    if let ChangeKind::Media(media) = &mut change.what {
        media.owner_id = Some(owner.into());
    }
    change
}

pub(super) fn key(name: &str, asked: u8) -> IdempotencyKey {
    IdempotencyKey { publisher: "p".into(), key: name.into(), item: None, fingerprint: [asked; 32] }
}

pub(super) fn keyed(change: Change, key: IdempotencyKey) -> Change {
    Change { key: Some(key), ..change }
}

pub(crate) fn changes_are_dispatched_in_the_order_of_the_calls(make: Make) {
    let (store, recorder) = made(make);
    let first = store.commit(room("1", "first"));
    let second = store.commit(media("2", "m", Step::Progress(1.0)));
    let third = store.commit(notification("u", "3", 0));
    // They are awaited in another order.
    for commit in [third, first, second] {
        assert!(wait(commit).is_ok());
    }
    assert_eq!(recorder.lines(), ["/r first", "m mediaProgress 2", "u 3"]);
}

pub(crate) fn a_refused_change_is_not_dispatched(make: Make) {
    let (store, recorder) = made(make);
    assert!(wait(store.commit(media("1", "m", Step::Complete))).is_ok());
    let refused = wait(store.commit(media("2", "m", Step::Error)));
    assert!(matches!(refused, Err(StoreError::Media(_))), "{refused:?}");
    assert_eq!(recorder.lines(), ["m mediaComplete 1"]);
    let state = |id| wait(store.media_snapshot(id)).expect("readable").state;
    let kept = state("m").expect("known");
    assert_eq!((kept.step, &*kept.payload), (Step::Complete, r#"{"id":"1"}"#));
    assert_eq!(state("other"), None);
}

fn receipt(committed: Committed) -> (String, u64, bool) {
    (committed.id.to_string(), wait(committed.delivery.sockets()), committed.repeated)
}

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

pub(crate) fn notifications_are_paged_newest_first(make: Make) {
    let (store, _) = made(make);
    for id in ["1", "2", "3", "4", "5"] {
        assert!(wait(store.commit(notification("u", id, 0))).is_ok());
    }
    let page = |before: Option<&str>, limit| {
        let page = wait(store.notifications("u", before, limit)).expect("readable");
        let payloads: Vec<String> = page.notifications.iter().map(|kept| kept.payload.to_string()).collect();
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
    assert!(nobody.notifications.is_empty());
}

pub(crate) fn a_page_of_notifications_is_bounded_in_bytes(make: Make) {
    let (store, _) = made(make);
    let third = MAX_NOTIFICATIONS_PAGE_BYTES / 3;
    for (id, bytes) in [("1", third), ("2", third + 1), ("3", third), ("4", third), ("5", 900_000), ("6", 100)] {
        let mut change = notification("u", id, 0);
        if let ChangeKind::Notification(notification) = &mut change.what {
            notification.payload = "x".repeat(bytes).into();
        }
        assert!(wait(store.commit(change)).is_ok());
    }
    let page = |before: Option<&str>| {
        let page = wait(store.notifications("u", before, 100)).expect("readable");
        let sizes: Vec<usize> = page.notifications.iter().map(|kept| kept.payload.len()).collect();
        (sizes, page.next.map(|next| next.to_string()))
    };
    let next = |id: &str| Some(id.to_owned());
    assert_eq!(page(None), (vec![100], next("6")));
    assert_eq!(page(Some("6")), (vec![900_000], next("5")));
    assert_eq!(page(Some("5")), (vec![third, third], next("3")));
    assert_eq!(page(Some("3")), (vec![third + 1, third], None));
}

pub(crate) fn a_snapshot_has_its_place_in_the_order(make: Make) {
    let (store, recorder) = made(make);
    let publishing = Arc::clone(&store);
    let publisher = std::thread::spawn(move || {
        for step in 0..1_000 {
            let change = media(&step.to_string(), "m", Step::Progress(f64::from(step) / 10.0));
            assert!(wait(publishing.commit(change)).is_ok());
        }
    });
    for _ in 0..200 {
        let snapshot = wait(store.media_snapshot("m")).expect("readable");
        let (dispatched, numbers) = (recorder.lines(), recorder.numbers());
        // Everything up to its number was dispatched, and the state is the last event of these.
        let count = numbers.partition_point(|number| *number <= snapshot.as_of);
        let last = dispatched[..count].last();
        let state = snapshot.state.map(|state| (state.seq, format!("m mediaProgress {}", id_in(&state.payload))));
        assert_eq!(state.as_ref().map(|(_, line)| line), last);
        assert_eq!(state.map_or(snapshot.as_of, |(number, _)| number), snapshot.as_of);
    }
    publisher.join().expect("it publishes");
}

pub(crate) fn what_is_under_way_is_found_by_its_last_event(make: Make) {
    let (store, recorder) = made(make);
    assert_eq!(wait(store.newest_media()), Ok(0));
    for (id, step) in [
        ("a", Step::Progress(1.0)),
        ("b", Step::Progress(1.0)),
        ("c", Step::Complete),
        ("d", Step::Progress(1.0)),
        ("a", Step::Progress(2.0)),
    ] {
        assert!(wait(store.commit(media(id, id, step))).is_ok());
    }
    let numbers = recorder.numbers();
    let newest = wait(store.newest_media()).expect("readable");
    assert_eq!(Some(&newest), numbers.last());
    let found = |after, until, most| {
        let page = wait(store.media_under_way(after, until, most)).expect("readable");
        (page.items.iter().map(|item| format!("{} {}", item.media_id, item.seq)).collect::<Vec<_>>(), page.up_to)
    };
    let item = |id: &str, number: usize| format!("{id} {}", numbers[number]);
    assert_eq!(found(0, newest, 9), (vec![item("b", 1), item("d", 3), item("a", 4)], newest));
    assert_eq!(found(0, newest, 2), (vec![item("b", 1)], numbers[2]));
    assert_eq!(found(numbers[2], newest, 2), (vec![item("d", 3), item("a", 4)], newest));
    assert_eq!(found(numbers[1], numbers[3], 9), (vec![item("d", 3)], numbers[3]));
    assert_eq!(found(newest, newest + 7, 9), (Vec::new(), newest + 7));
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

pub(crate) fn numbers_rise_in_the_order_of_the_dispatches(make: Make) {
    let (store, recorder) = made(make);
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                // Some commits start together, so that they share groups. They are of every kind, so that some need no
                // row.
                let mut commits = Vec::new();
                for n in 0..200 {
                    let (id, name) = (format!("{publisher}-{n}"), format!("p{publisher}-{n:03}"));
                    commits.push(store.commit(match n % 4 {
                        0 => room(&id, &name),
                        1 => durable(&id, &name),
                        2 => notification(&format!("p{publisher}"), &format!("{n:03}"), 0),
                        _ => media(&id, &name, Step::Complete),
                    }));
                    if n % 10 == publisher || n == 199 {
                        commits.drain(..).for_each(|commit| assert!(wait(commit).is_ok()));
                    }
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().expect("it publishes");
    }
    // The recorder saw the numbers rise. Each publisher's events went out in the order of its calls.
    let (lines, numbers) = (recorder.lines(), recorder.numbers());
    assert_eq!(lines.len(), 800);
    assert!(numbers[0] >= store.boot_seq());
    for publisher in 0..4 {
        let own = lines.iter().filter(|line| line.contains(&format!("p{publisher}")));
        let places: Vec<u32> = own
            .map(|line| line.chars().filter(char::is_ascii_digit).collect::<String>())
            .map(|digits| digits[1..4].parse().expect("a place"))
            .collect();
        assert_eq!(places, (0..200).collect::<Vec<_>>());
    }
    // The log has the durable events of the room exactly as they were dispatched.
    let said: Vec<String> = (recorder.lines().into_iter()).filter(|line| line.starts_with("/r")).collect();
    let durable = said
        .iter()
        .filter(|line| line[4..].split('-').next_back().is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n % 4 == 1)));
    let replay = replayed(&*store, "/", &["r"], 0);
    let replayed: Vec<String> = replay.events.iter().map(|event| format!("/r {}", event.envelope.event)).collect();
    assert_eq!(replayed, durable.cloned().collect::<Vec<_>>());
}

pub(crate) fn what_must_survive_is_said_to_be_stored(make: Make) {
    let (store, _) = made(make);
    let stored = |change| wait(store.commit(change)).expect("accepted").stored;
    assert!(stored(media("1", "m", Step::Progress(1.0))));
    assert!(stored(media("2", "m", Step::Complete)));
    assert!(stored(notification("u", "3", 0)));
    assert!(stored(durable("4", "e")));
    assert!(!stored(room("5", "e")));
    assert!(!stored(room_event("6", "r", "e", Class::Latest)));
    // A repeat gets the answer of the first change.
    for _ in 0..2 {
        assert!(!stored(keyed(room("7", "e"), key("k", 1))));
        assert!(stored(keyed(durable("8", "e"), key("l", 1))));
    }
}

fn replayed(store: &dyn Store, namespace: &'static str, rooms: &[&str], after: u64) -> Replay {
    let rooms = rooms.iter().map(|room| (Arc::from(*room), 0)).collect();
    wait(store.replay(namespace, rooms, after, i64::MAX as u64)).expect("readable")
}

fn names(replay: &Replay) -> Vec<&str> {
    assert!(replay.complete);
    assert!(replay.events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    replay.events.iter().map(|event| &*event.envelope.event).collect()
}

pub(crate) fn a_replay_is_what_the_rooms_were_told(make: Make) {
    let (store, recorder) = made(make);
    let changes = [
        durable("1", "first"),
        room("2", "not stored"),
        room_event("3", "s", "other room", Class::Durable),
        owned("4", "m", Step::Complete, "u"),
        media("5", "n", Step::Error),
        notification("u", "6", 0),
        durable("7", "last"),
    ];
    for change in changes {
        assert!(wait(store.commit(change)).is_ok());
    }
    let numbers = recorder.numbers();
    assert_eq!(names(&replayed(&*store, "/", &["r"], 0)), ["first", "last"]);
    assert_eq!(names(&replayed(&*store, "/", &["s", "r", "t"], 0)), ["first", "other room", "last"]);
    assert_eq!(names(&replayed(&*store, "/", &["r"], numbers[0])), ["last"]);
    let joined = vec![("s".into(), numbers[2]), ("r".into(), numbers[0])];
    let joined = wait(store.replay("/", joined, 0, i64::MAX as u64)).expect("readable");
    assert_eq!(names(&joined), ["last"], "what a room was told before it was joined is not among it");
    let until = wait(store.replay("/", vec![("r".into(), 0)], 0, numbers[5])).expect("readable");
    assert_eq!(names(&until), ["first"]);
    assert_eq!(names(&replayed(&*store, "/media", &["r"], 0)), [""; 0]);

    let (item, owner) = (media_room("m"), user_room("u"));
    assert_eq!(names(&replayed(&*store, "/media", &[&item], 0)), ["mediaComplete"]);
    // The event occurs once, although it went to both rooms.
    let both = replayed(&*store, "/media", &[&item, &owner], 0);
    assert_eq!(names(&both), ["mediaComplete"]);
    assert_eq!(both.events[0].rooms, [item, owner.clone()]);
    assert_eq!(names(&replayed(&*store, "/media", &[&owner, &media_room("n")], 0)), ["mediaComplete", "mediaError"]);
    let notified = replayed(&*store, "/notifications", &[&owner], 0);
    assert_eq!(names(&notified), ["notification"]);
    assert_eq!((&*notified.events[0].envelope.argument, notified.events[0].seq), (r#"{"id":"6"}"#, numbers[5]));
}

pub(crate) fn a_replay_has_the_newest_progress(make: Make) {
    let (store, recorder) = made(make);
    for (id, change) in [
        media("1", "m", Step::Progress(1.0)),
        owned("2", "n", Step::Progress(1.0), "u"),
        media("3", "m", Step::Progress(2.0)),
        media("4", "done", Step::Progress(1.0)),
        media("5", "done", Step::Complete),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(wait(store.commit(change)).is_ok(), "{id}");
    }
    let numbers = recorder.numbers();
    let rooms = [media_room("m"), media_room("done"), user_room("u")];
    let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let all = replayed(&*store, "/media", &rooms, 0);
    assert_eq!(names(&all), ["mediaProgress", "mediaProgress", "mediaComplete"]);
    let marks: Vec<_> = all
        .events
        .iter()
        .map(|event| (event.seq, &*event.envelope.argument, event.envelope.class == Class::Latest))
        .collect();
    let expected = [
        (numbers[1], r#"{"id":"2"}"#, true),
        (numbers[2], r#"{"id":"3"}"#, true),
        (numbers[4], r#"{"id":"5"}"#, false),
    ];
    assert_eq!(marks, expected);
    assert_eq!(names(&replayed(&*store, "/media", &rooms, numbers[2])), ["mediaComplete"]);
    assert_eq!(names(&replayed(&*store, "/", &rooms, 0)), [""; 0]);

    // A client that joined after the last event it received was sent the state at that time. It may not have received
    // that state.
    let joined = |id: &str, at: u64, after: u64| {
        wait(store.replay("/media", vec![(media_room(id).into(), at)], after, i64::MAX as u64)).expect("readable")
    };
    let (last, later) = (numbers[4], numbers[4] + 1);
    assert_eq!(names(&joined("done", last, numbers[1])), ["mediaComplete"]);
    assert_eq!(names(&joined("m", later, later)), ["mediaProgress"]);
    assert_eq!(names(&joined("done", last, later)), [""; 0]);
}

fn inbox(store: &dyn Store, limit: usize) -> Inbox {
    wait(store.inbox("u", limit)).expect("readable")
}

pub(crate) fn an_inbox_is_what_was_not_received(make: Make) {
    let (store, recorder) = made(make);
    assert_eq!(inbox(&*store, 10).undelivered, []);
    for id in ["1", "2", "3"] {
        assert!(wait(store.commit(notification("u", id, 0))).is_ok());
    }
    let ids = |limit| inbox(&*store, limit).undelivered.iter().map(|item| item.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(10), ["1", "2", "3"]);
    assert_eq!(ids(2), ["1", "2"]);
    assert_eq!([2, 3].map(|limit| inbox(&*store, limit).more), [true, false]);
    let (numbers, first) = (recorder.numbers(), inbox(&*store, 1));
    assert_eq!((first.unread, first.undelivered[0].seq), (3, numbers[0]));
    assert_eq!(&*first.undelivered[0].payload, r#"{"id":"1"}"#);

    // The received number takes effect at once for the next caller, and never goes back.
    store.received("u", numbers[1]);
    assert_eq!(ids(10), ["3"]);
    store.received("u", numbers[0]);
    assert_eq!(ids(10), ["3"]);
    store.received("v", numbers[2]);
    store.received("u", numbers[2]);
    let drained = inbox(&*store, 10);
    assert_eq!((drained.undelivered, drained.unread, drained.as_of), (vec![], 3, numbers[2]));
    assert!(wait(store.commit(notification("u", "4", 0))).is_ok());
    assert_eq!(ids(10), ["4"]);
}

pub(crate) fn an_inbox_has_its_place_in_the_order(make: Make) {
    let (store, recorder) = made(make);
    let publishing = Arc::clone(&store);
    let publisher = std::thread::spawn(move || {
        for id in 0..100 {
            assert!(wait(publishing.commit(notification("u", &id.to_string(), 0))).is_ok());
        }
    });
    for _ in 0..50 {
        let inbox = inbox(&*store, 1_000);
        let waiting: Vec<u64> = inbox.undelivered.iter().map(|item| item.seq).collect();
        let mut dispatched = recorder.numbers();
        assert!(dispatched.last().is_none_or(|last| *last >= inbox.as_of));
        dispatched.retain(|number| *number <= inbox.as_of);
        assert_eq!(waiting, dispatched);
    }
    publisher.join().expect("it publishes");
}

pub(crate) fn reading_changes_what_is_unread(make: Make) {
    let (store, recorder) = made(make);
    for id in ["1", "2", "3", "4"] {
        assert!(wait(store.commit(notification("u", id, 0))).is_ok());
    }
    let first = recorder.numbers()[0];
    let read = |mark| wait(store.mark_read("u", mark)).map(|unread| (unread.count, unread.as_of));
    let ids = |ids: &[&str]| ReadMark::Ids(ids.iter().map(ToString::to_string).collect());
    let up_to = |id: &str| ReadMark::UpTo(id.to_owned());
    assert_eq!(read(ids(&["3", "unknown", "3"])), Ok((3, first + 4)));
    assert_eq!(read(ids(&["3", "unknown"])), Ok((3, first + 4)));
    assert_eq!(read(up_to("2")), Ok((1, first + 5)));
    assert_eq!(read(up_to("1")), Ok((1, first + 5)));
    assert_eq!(read(up_to("unknown")), Err(StoreError::UnknownNotification));
    assert_eq!(wait(store.mark_read("v", ids(&["1"]))), Ok(Unread { count: 0, as_of: first + 5 }));
    assert_eq!(recorder.lines()[4..], ["u has 3", "u has 1"]);
    assert_eq!(inbox(&*store, 10).unread, 1);
    let page = wait(store.notifications("u", None, 10)).expect("readable");
    let flags: Vec<bool> = page.notifications.iter().map(|kept| kept.read).collect();
    assert_eq!(flags, [false, true, true, true]);
    assert_eq!(page.unread, Unread { count: 1, as_of: first + 5 });
    let marked = page.notifications[1].with_read_mark().expect("an object");
    assert_eq!(marked.get(), r#"{"id":"3","read":true}"#);
}

pub(super) fn session(key: u8, data: &str) -> SessionRecord {
    SessionRecord {
        key: [key; 32],
        namespace: "/media".to_owned(),
        socket_id: "s".to_owned(),
        rooms: vec![("a".into(), 3), (media_room("m").into(), 0)],
        data: data.to_owned(),
        since_seq: 7,
        updated_at: Moment::now(),
        left_at: None,
        before: Before::Valid,
    }
}

pub(crate) fn a_session_is_kept_until_it_is_forgotten(make: Make) {
    let (store, _) = made(make);
    let found = |key| wait(store.session([key; 32])).expect("readable");
    assert_eq!(found(1), None);
    let (first, second) = (session(1, "{}"), session(1, r#"{"a":1}"#));
    store.save_session(first.clone());
    store.save_session(session(2, "2"));
    assert_eq!(found(1), Some(first));
    store.save_session(second.clone());
    assert_eq!(found(1), Some(second.clone()));
    // Sooner or later, a commit writes it too.
    while store.usage().sessions.rows < 2 {
        assert!(wait(store.commit(durable("1", "e"))).is_ok());
    }
    assert_eq!((found(1), found(2).is_some()), (Some(second), true));
    store.forget_session([1; 32]);
    assert_eq!((found(1), found(2).is_some()), (None, true));
}

pub(crate) fn owners_are_told_as_far_as_they_are_known(make: Make) {
    let (store, _) = made(make);
    for change in [owned("1", "a", Step::Progress(1.0), "u"), media("2", "b", Step::Complete)] {
        assert!(wait(store.commit(change)).is_ok());
    }
    let owners = wait(store.media_owners(["b", "a", "unseen"].map(Into::into).to_vec()));
    assert_eq!(owners, Ok(vec![("a".into(), "u".into())]));
}

pub(super) fn revocation(subject: Revoked, at: u64, expires_at: Option<u64>) -> Revocation {
    Revocation { subject, at: Moment::from_epoch_ms(at), expires_at: expires_at.map(Moment::from_epoch_ms) }
}

pub(crate) fn a_revocation_is_kept_until_it_is_undone(make: Make) {
    let (store, recorder) = made(make);
    let (user, token) = (Revoked::User("x".into()), Revoked::Token("x".into()));
    let kept = || {
        let Revocations { mut list, floors } = wait(store.revocations()).expect("readable");
        list.sort_by_key(|revocation| revocation.at);
        assert_eq!(floors, Floors::default(), "nothing had to leave");
        list
    };
    let revoke = |subject: &Revoked, at, expires_at| {
        let forgotten = wait(store.revoke(revocation(subject.clone(), at, expires_at))).expect("kept");
        assert_eq!(forgotten, Revocations::default());
    };
    assert_eq!(kept(), []);
    revoke(&user, 5, None);
    revoke(&token, 7, Some(9));
    let both = [revocation(user.clone(), 5, None), revocation(token.clone(), 7, Some(9))];
    assert_eq!(kept(), both, "a user and a token of the same name are two, and both are old");
    // For one subject, the wider coverage is kept.
    revoke(&user, 6, None);
    revoke(&token, 3, Some(10));
    assert_eq!(kept(), [revocation(user.clone(), 6, None), revocation(token.clone(), 7, Some(10))]);
    revoke(&token, 8, None);
    revoke(&token, 9, Some(11));
    assert_eq!(kept()[1], revocation(token.clone(), 9, None), "whose end is not known stays");
    let undo = |subject: &Revoked| wait(store.undo_revocation(subject.clone())).expect("done");
    assert_eq!(undo(&user), Some(revocation(user.clone(), 6, None)));
    assert_eq!((undo(&user), undo(&Revoked::User("y".into()))), (None, None));
    assert_eq!(kept(), [revocation(token, 9, None)]);
    assert_eq!(recorder.lines(), [] as [&str; 0], "nobody is told");
}
