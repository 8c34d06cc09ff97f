//! The events that a returning client has missed.

use std::sync::Arc;

use super::super::{Replay, Step, Store};
use super::{Make, durable, key, keyed, made, media, notification, owned, room, room_event, wait};
use crate::contract::delivery::Class;
use crate::contract::rooms::{media_room, user_room};

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

pub(crate) fn a_replay_has_the_envelopes_that_were_dispatched(make: Make) {
    let (store, recorder) = made(make);
    let changes = [
        durable("1", "durable"),
        keyed(room("2", "recoverable"), key("k", 1)),
        keyed(room_event("3", "r", "latest", Class::Latest), key("l", 1)),
        owned("4", "m", Step::Progress(1.0), "u"),
        owned("5", "n", Step::Complete, "u"),
        media("6", "o", Step::Error),
        notification("u", "7", 0),
    ];
    for change in changes {
        assert!(wait(store.commit(change)).is_ok());
    }
    let (user, items) = (user_room("u"), ["m", "n", "o"].map(media_room));
    let of_media = [&user, &items[0], &items[1], &items[2]].map(String::as_str);
    let mut found = 0;
    for (namespace, rooms) in [("/", &["r"][..]), ("/media", &of_media), ("/notifications", &[&user])] {
        let replay = replayed(&*store, namespace, rooms, 0);
        assert!(replay.complete);
        for event in replay.events {
            assert_eq!(Some(&event.envelope), recorder.envelope(event.seq).as_ref());
            found += 1;
        }
    }
    assert_eq!(found, 7);
}

pub(super) fn replayed(store: &dyn Store, namespace: &'static str, rooms: &[&str], after: u64) -> Replay {
    let rooms = rooms.iter().map(|room| (Arc::from(*room), 0)).collect();
    wait(store.replay(namespace, rooms, after, i64::MAX as u64)).expect("readable")
}

/// The names of the events that every backend keeps.
fn names(replay: &Replay) -> Vec<&str> {
    assert!(replay.complete);
    assert!(replay.events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let kept = replay.events.iter().filter(|event| event.envelope.class != Class::Recoverable);
    kept.map(|event| &*event.envelope.event).collect()
}
