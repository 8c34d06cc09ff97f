//! A user's notifications: the pages of all of them, those that no client has received yet, and the marks of the read ones.

use std::sync::Arc;

use super::super::{ChangeKind, Inbox, ReadMark, Store, StoreError, Unread};
use super::{Make, made, notification, wait};
use crate::limits::MAX_NOTIFICATIONS_PAGE_BYTES;

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

fn inbox(store: &dyn Store, limit: usize) -> Inbox {
    wait(store.inbox("u", limit)).expect("readable")
}
