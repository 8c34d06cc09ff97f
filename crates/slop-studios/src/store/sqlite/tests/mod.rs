//! The tests of the store by subject. This file has the shared helpers, and the tests without a subject.

mod bounds;
mod faults;
mod keys;
mod runs;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tempfile::TempDir;

use super::super::suite::{
    Recorder, change, contract_suite, durable, key, keyed, media, notification, revocation, room, room_event, session,
    wait,
};
use super::super::{
    Amount, Backlog, Bound, Bounds, ChangeKind, Delivery, Dispatched, Ending, KeyBounds, MediaChange, RevocationBound,
    Revoked, Step, StoreControl,
};
use super::*;
use crate::contract::delivery::Class;
use crate::contract::time::Moment;

const DEADLINE: Duration = Duration::from_secs(20);

const DAY: Duration = Duration::from_secs(86_400);

const UNBOUNDED: Bound = Bound { age: DAY, rows: u64::MAX, bytes: u64::MAX };

pub(crate) fn options(folder: &Path) -> Options {
    let bounds = Bounds {
        media: UNBOUNDED,
        notifications: UNBOUNDED,
        notifications_per_user: 1_000,
        log: UNBOUNDED,
        sessions: UNBOUNDED,
        idempotency_keys: KeyBounds { age: DAY, of_all: u64::MAX, of_publisher: u64::MAX },
        revocations: RevocationBound {
            rows: u64::MAX,
            max_lifetime: Duration::from_secs(86_400),
            leeway: Duration::ZERO,
        },
    };
    Options { folder: folder.to_owned(), sync: StoreSync::Normal, bounds, journal: Duration::from_secs(60) }
}

thread_local! {
    /// The folders of the test. They are removed when the test ends.
    static FOLDERS: RefCell<Vec<TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A store in a folder of its own.
pub(crate) fn temporary(dispatch: Arc<dyn Dispatch>) -> SqliteStore {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(&options(folder.path()), dispatch, Arc::default()).expect("a store");
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    store
}

/// A dispatch without receivers.
#[derive(Debug)]
pub(crate) struct Silent;

impl Dispatch for Silent {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        vec![Delivery::known(0); group.len()]
    }
}

/// A store's folder and options.
struct TestFolder {
    dir: TempDir,
    options: Options,
}

impl TestFolder {
    fn new() -> Self {
        Self::bounded(|_| ())
    }

    fn bounded(bound: impl FnOnce(&mut Bounds)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut options = options(dir.path());
        bound(&mut options.bounds);
        Self { dir, options }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    fn open(&self) -> (SqliteStore, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let store = SqliteStore::open(&self.options, Arc::<Recorder>::clone(&recorder), Arc::default());
        (store.expect("it opens"), recorder)
    }

    /// The error text for the operator.
    fn refused(&self) -> String {
        let store = SqliteStore::open(&self.options, Arc::<Recorder>::default(), Arc::default());
        store.expect_err("it does not open").to_string()
    }

    /// A copy of the files as a process that is killed now leaves them.
    fn killed(&self) -> Self {
        let copy = Self::new();
        for file in std::fs::read_dir(self.dir.path()).expect("a folder") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), copy.dir.path().join(file.file_name())).expect("a copy");
        }
        Self { options: Options { folder: copy.dir.path().to_owned(), ..self.options.clone() }, ..copy }
    }
}

fn publish(store: &SqliteStore, change: Change) -> Committed {
    wait(store.commit(change)).expect("accepted")
}

fn replayed(store: &SqliteStore, after: u64) -> Replay {
    wait(store.replay("/", vec![("r".into(), 0)], after, i64::MAX as u64)).expect("readable")
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !what() {
        assert!(Instant::now() < deadline, "it did not come about in time");
        std::thread::yield_now();
    }
}

/// Limits the store to this many more pages, as a nearly full disk does.
pub(crate) fn leave_room(store: &SqliteStore, pages: u32) {
    let done = store.read(move |connection| {
        let used: u32 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", used + pages, |_| Ok(()))?;
        Ok(())
    });
    assert_eq!(wait(done), Ok(()));
}

/// A dispatch that blocks until it is released.
#[derive(Debug, Default)]
struct Gate(Mutex<()>);

impl Dispatch for Gate {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        drop(self.0.lock().expect("no test panicked"));
        vec![Delivery::known(0); group.len()]
    }
}

contract_suite!(|dispatch| Arc::new(temporary(dispatch)));

#[test]
fn a_new_owner_is_reported_once() {
    let (store, recorder) = TestFolder::new().open();
    for progress in [1.0, 2.0] {
        let owned = ChangeKind::Media(MediaChange {
            media_id: "m".into(),
            owner_id: Some("u".into()),
            attempt: None,
            follows: None,
            step: Step::Progress(progress),
            payload: "{}".into(),
        });
        publish(&store, change("1", owned));
    }
    assert_eq!(recorder.lines(), ["m mediaProgress owned", "m mediaProgress "]);
}

#[test]
fn what_is_not_kept_goes_out_at_once_unless_something_waits_before_it() {
    let gate = Arc::<Gate>::default();
    let store = temporary(Arc::<Gate>::clone(&gate));
    until(|| store.commit(room("1", "e")).now_or_never().is_some());
    let closed = gate.0.lock().expect("no test panicked");
    let first = store.commit(durable("2", "e"));
    let mut second = store.commit(room("3", "e"));
    assert!((&mut second).now_or_never().is_none());
    drop(closed);
    assert!(wait(first).is_ok() && wait(second).is_ok());
}
