//! Commits: the order in which their changes are dispatched, and what their answers say.

use std::sync::Arc;

use super::super::{Step, StoreError};
use super::replay::replayed;
use super::{Make, durable, enter, key, keyed, made, media, notification, room, room_event, wait};
use crate::contract::delivery::Class;
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms::media_room;

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

pub(crate) fn numbers_rise_in_the_order_of_the_dispatches(make: Make) {
    let (store, recorder) = made(make);
    for publisher in 0..4 {
        enter(&*store, (3..200).step_by(4).map(|n| (MEDIA, media_room(&format!("p{publisher}-{n:03}")))));
    }
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
    let kept = replay.events.iter().filter(|event| event.envelope.class == Class::Durable);
    let replayed: Vec<String> = kept.map(|event| format!("/r {}", event.envelope.event)).collect();
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
