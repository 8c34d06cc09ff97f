//! Saved sessions.

use super::{Make, durable, made, session, wait};

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
