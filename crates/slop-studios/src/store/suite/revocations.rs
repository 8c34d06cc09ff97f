//! Revocations of users and of tokens.

use super::super::{Floors, Revocations, Revoked};
use super::{Make, made, revocation, wait};

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
        assert_eq!(forgotten.evicted, Revocations::default());
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
