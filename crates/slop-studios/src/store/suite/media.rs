//! Media items: their state with its place in the order, those that are under way, and their owners.

use std::sync::Arc;

use super::super::Step;
use super::{Make, id_in, made, media, owned, wait};

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

pub(crate) fn owners_are_told_as_far_as_they_are_known(make: Make) {
    let (store, _) = made(make);
    for change in [owned("1", "a", Step::Progress(1.0), "u"), media("2", "b", Step::Complete)] {
        assert!(wait(store.commit(change)).is_ok());
    }
    let owners = wait(store.media_owners(["b", "a", "unseen"].map(Into::into).to_vec()));
    assert_eq!(owners, Ok(vec![("a".into(), "u".into())]));
}
