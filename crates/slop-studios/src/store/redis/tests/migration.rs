//! A folder that moves to Redis.

use super::super::super::migration::Migrated;
use super::super::super::sqlite::{Folder, SqliteStore};
use super::*;
use crate::store::sqlite;

/// Fills a folder with a store of its own.
fn filled(options: &sqlite::Options, fill: impl FnOnce(&SqliteStore)) -> Folder {
    let store = SqliteStore::open(options, Arc::<Recorder>::default(), Arc::default()).expect("a store");
    fill(&store);
    drop(store);
    Folder::open(options).expect("a folder")
}

fn rows(folder: &Folder) -> Vec<Migrated> {
    let mut rows = Vec::new();
    let read = folder.read(|row| {
        rows.push(row);
        Ok::<_, sqlite::OpenError>(())
    });
    read.expect("it can be read");
    rows
}

fn begin(redis: &Redis, folder: &Folder) -> (Import, Result<Standing, ImportError>) {
    let mut import = Import::connect(&redis.url().parse().expect("a URL"), "slop").expect("Redis");
    let (source, next) = (folder.identity().expect("an identity"), folder.next_number().expect("a number"));
    let begun = import.begin(&source, next, true);
    (import, begun)
}

fn migrate(redis: &Redis, folder: &Folder) {
    let (mut import, begun) = begin(redis, folder);
    begun.expect("nothing is in its way");
    rows(folder).into_iter().for_each(|row| import.take(row).expect("Redis takes it"));
    import.finish(0).expect("Redis takes all");
}

fn revoke(store: &SqliteStore, subject: Revoked, expires_at: Option<Moment>) {
    wait(store.revoke(Revocation { subject, at: Moment::now(), expires_at })).expect("there is room");
}

#[test]
fn revocations_and_their_floors_move() {
    let (redis, place) = (Redis::start(), tempfile::tempdir().expect("a temporary folder"));
    let mut options = bounds_of(place.path());
    options.bounds.revocations.rows = 2;
    let over = Moment::now().before(Duration::from_secs(60));
    let folder = filled(&options, |store| {
        revoke(store, Revoked::Token("ended".into()), Some(over));
        revoke(store, Revoked::User("user of three words".into()), None);
        // It has no room beside both, so that the first leaves a floor.
        revoke(store, Revoked::Token("t".into()), Some(Moment::now().after(Duration::from_secs(60))));
    });
    migrate(&redis, &folder);
    let store = store(&redis, "slop", Arc::<Recorder>::default());
    let mut found = wait(store.revocations()).expect("they can be read");
    drop(folder);
    let kept = SqliteStore::open(&options, Arc::<Recorder>::default(), Arc::default()).expect("a store");
    let mut expected = wait(kept.revocations()).expect("they can be read");
    for revocations in [&mut found, &mut expected] {
        revocations.list.sort_by_key(|revocation| format!("{:?}", revocation.subject));
    }
    assert_eq!(found, expected);
    assert_eq!((found.list.len(), found.floors.expired), (2, Some(over)));
    // The hash has all that a change needs.
    let undone = wait(store.undo_revocation(Revoked::Token("t".into()))).expect("it can be undone");
    assert!(undone.is_some());
}

#[test]
fn states_inboxes_and_keys_move_and_what_is_too_old_does_not() {
    let (redis, place) = (Redis::start(), tempfile::tempdir().expect("a temporary folder"));
    let options = bounds_of(place.path());
    let folder = filled(&options, |store| {
        wait(store.commit(media("a", "m", Step::Progress(12.5)))).expect("committed");
        wait(store.commit(media("b", "n", Step::Complete))).expect("committed");
        wait(store.commit(notification("u", "1", 1))).expect("committed");
        wait(store.commit(notification("u", "2", 1))).expect("committed");
        let first = wait(store.inbox("u", 1)).expect("an inbox").undelivered.remove(0);
        store.received("u", first.seq);
        wait(store.mark_read("u", ReadMark::UpTo("1".into()))).expect("it is there");
        wait(store.commit(keyed(room_event("c", "r", "e", Class::Durable), key("k", 1)))).expect("committed");
    });
    migrate(&redis, &folder);

    let mut none = options.clone();
    none.bounds.media.age = Duration::ZERO;
    none.bounds.notifications.age = Duration::ZERO;
    none.bounds.idempotency_keys.age = Duration::ZERO;
    drop(folder);
    let aged = Folder::open(&none).expect("a folder");
    assert_eq!(rows(&aged), []);
    drop(aged);

    let old = SqliteStore::open(&options, Arc::<Recorder>::default(), Arc::default()).expect("a store");
    let new = store(&redis, "slop", Arc::<Recorder>::default());
    for item in ["m", "n", "absent"] {
        let state = |store: &dyn Store| wait(store.media_snapshot(item)).expect("readable").state;
        assert_eq!(state(&new), state(&old), "{item}");
    }
    let seen = |store: &dyn Store| {
        let inbox = wait(store.inbox("u", 10)).expect("an inbox");
        let page = wait(store.notifications("u", None, 10)).expect("a page");
        let ids: Vec<_> = inbox.undelivered.into_iter().map(|item| (item.id, item.seq)).collect();
        (ids, inbox.unread, page.notifications)
    };
    assert_eq!(seen(&new), seen(&old));
    let again = wait(new.commit(keyed(room_event("d", "r", "e", Class::Durable), key("k", 1)))).expect("repeated");
    assert_eq!((&*again.id, again.stored, again.repeated), ("c", true, true));
    let next = wait(new.commit(media("e", "m", Step::Progress(13.0)))).expect("it goes on");
    assert!(!next.repeated);
    let moved = wait(new.media_snapshot("m")).expect("readable").state.expect("a state");
    assert!(moved.seq >= new.boot_seq() && moved.seq > old.boot_seq());
}

#[test]
fn no_node_uses_a_prefix_whose_migration_is_not_complete() {
    let (redis, place) = (Redis::start(), tempfile::tempdir().expect("a temporary folder"));
    let options = bounds_of(place.path());
    let folder = filled(&options, |store| {
        wait(store.commit(media("a", "m", Step::Complete))).expect("committed");
    });
    let (_ended, begun) = begin(&redis, &folder);
    assert_eq!(begun.expect("the first"), Standing::New);
    let opened = RedisStore::open(&super::options(&redis.url()), Arc::<Recorder>::default(), Arc::default());
    assert!(matches!(opened, Err(OpenError::Unfit(Unfit::Migration))), "{opened:?}");
    assert_eq!(begin(&redis, &folder).1.expect("again"), Standing::Again);
    migrate(&redis, &folder);
    assert_eq!(begin(&redis, &folder).1.expect("nothing is left to do"), Standing::Done);
    // A server that runs on the folder again makes another one of it.
    drop(folder);
    let folder = filled(&options, |_| ());
    let (_, refused) = begin(&redis, &folder);
    assert!(matches!(refused, Err(ImportError::Data)), "{refused:?}");
}
