//! The rules of `apply.lua` beside those in Rust.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::metrics::Metrics;
use crate::store::MediaState;
use crate::store::memory::MemoryStore;

/// A step of the comparison, on a few users and items.
#[derive(Debug, Clone)]
enum Asked {
    Media { item: u8, owner: Option<u8>, attempt: Option<u32>, follows: Option<bool>, step: u8, progress: u8 },
    Notify { user: u8, id: u8, says: u8 },
    Room { class: u8, key: Option<(u8, u8)> },
    Read { user: u8, up_to: bool, ids: Vec<u8> },
    Received { user: u8, nth: u8 },
    Look { user: u8, item: u8, limit: u8 },
    Miss { after: u8, joined: u8 },
}

fn asked() -> impl Strategy<Value = Asked> {
    let media = (0..3u8, option::of(0..2u8), option::of(1..4u32), option::of(any::<bool>()), 0..5u8, 0..4u8);
    prop_oneof![
        6 => media.prop_map(|(item, owner, attempt, follows, step, progress)| {
            Asked::Media { item, owner, attempt, follows, step, progress: progress * 33 }
        }),
        3 => (0..2u8, 0..6u8, 0..2u8).prop_map(|(user, id, says)| Asked::Notify { user, id, says }),
        3 => (0..3u8, option::of((0..3u8, 0..2u8))).prop_map(|(class, key)| Asked::Room { class, key }),
        1 => (0..2u8, any::<bool>(), vec(0..7u8, 1..4)).prop_map(|(user, up_to, ids)| Asked::Read { user, up_to, ids }),
        1 => (0..2u8, 0..9u8).prop_map(|(user, nth)| Asked::Received { user, nth }),
        2 => (0..2u8, 0..3u8, 1..4u8).prop_map(|(user, item, limit)| Asked::Look { user, item, limit }),
        1 => (0..40u8, 0..40u8).prop_map(|(after, joined)| Asked::Miss { after, joined }),
    ]
}

/// A store, and the numbers of the events that it has dispatched, which differ from those of another store.
struct Compared {
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
}

impl Compared {
    fn of(make: impl FnOnce(Arc<dyn Dispatch>) -> Arc<dyn Store>) -> Self {
        let recorder = Arc::<Recorder>::default();
        let store = make(Arc::<Recorder>::clone(&recorder));
        let users =
            [MEDIA, NOTIFICATIONS].map(|namespace| [0, 1].map(|user| (namespace, user_room(&format!("user{user}")))));
        enter(&*store, [0, 1, 2].map(|item| (MEDIA, media_room(&format!("item{item}")))));
        enter(&*store, users.into_iter().flatten().chain([(DEFAULT, "r".to_owned())]));
        Self { store, recorder }
    }

    /// The index of an event's number among all numbers.
    fn index(&self, seq: u64) -> usize {
        self.recorder.numbers().partition_point(|number| *number < seq)
    }

    /// The number of an event by its index; past the last one, a number that none has yet.
    fn number(&self, index: u8) -> u64 {
        let numbers = self.recorder.numbers();
        numbers.get(usize::from(index)).copied().unwrap_or_else(|| numbers.last().map_or(1, |last| last + 1))
    }

    fn commit(&self, change: Change) -> String {
        match wait(self.store.commit(change)) {
            Ok(Committed { id, stored, repeated, .. }) => format!("{id} {stored} {repeated}"),
            Err(error) => format!("{error:?}"),
        }
    }

    /// What the store says to a step.
    fn ask(&self, number: usize, asked: &Asked) -> String {
        let (store, id) = (&self.store, format!("id{number}"));
        match asked {
            Asked::Media { item, owner, attempt, follows, step, progress } => {
                let item = format!("item{item}");
                let last = wait(store.media_snapshot(&item)).expect("readable").state.map_or(7, |state| state.seq);
                let step = match step {
                    0 => Step::Complete,
                    1 => Step::Error,
                    _ => Step::Progress(f64::from(*progress) / 1.1),
                };
                let mut change = media(&id, &item, step);
                if let ChangeKind::Media(media) = &mut change.what {
                    media.owner_id = owner.map(|owner| format!("user{owner}").into());
                    media.attempt = *attempt;
                    media.follows = follows.map(|is_last| if is_last { last } else { last - 1 });
                }
                self.commit(change)
            }
            Asked::Notify { user, id, says } => {
                self.commit(notification(&format!("user{user}"), &format!("note{id}"), *says))
            }
            Asked::Room { class, key: name } => {
                let class = [Class::Durable, Class::Recoverable, Class::Latest][usize::from(*class)];
                let change = room_event(&id, "r", "e", class);
                self.commit(match name {
                    Some((name, print)) => keyed(change, key(&format!("key{name}"), *print)),
                    None => change,
                })
            }
            Asked::Read { user, up_to, ids } => {
                let ids: Vec<String> = ids.iter().map(|id| format!("note{id}")).collect();
                let mark = if *up_to { ReadMark::UpTo(ids[0].clone()) } else { ReadMark::Ids(ids) };
                let read = wait(store.mark_read(&format!("user{user}"), mark));
                format!("{:?}", read.map(|Unread { count, as_of }| (count, self.index(as_of))))
            }
            Asked::Received { user, nth } => {
                store.received(&format!("user{user}"), self.number(*nth));
                String::new()
            }
            Asked::Look { user, item, limit } => {
                self.look(&format!("user{user}"), &format!("item{item}"), (*limit).into())
            }
            Asked::Miss { after, joined } => self.missed(self.number(*after), self.number(*joined)),
        }
    }

    fn look(&self, user: &str, item: &str, limit: usize) -> String {
        let store = &self.store;
        let inbox = wait(store.inbox(user, limit)).expect("readable");
        let undelivered: Vec<_> = inbox.undelivered.iter().map(|item| (self.index(item.seq), &item.id)).collect();
        let page = wait(store.notifications(user, None, limit)).expect("readable");
        let state = wait(store.media_snapshot(item)).expect("readable").state;
        let state = state.map(|state| MediaState {
            seq: self.index(state.seq) as u64,
            updated_at: Moment::from_epoch_ms(0),
            ..state
        });
        let owners = wait(store.media_owners(vec![item.into()])).expect("readable");
        let newest = wait(store.newest_media()).expect("readable");
        let under_way = wait(store.media_under_way(0, u64::MAX >> 11, 100)).expect("readable");
        let under_way: Vec<_> = under_way.items.iter().map(|item| (&item.media_id, self.index(item.seq))).collect();
        let as_of = self.index(inbox.as_of);
        format!(
            "{undelivered:?} {} {} {as_of} {page:?} {state:?} {owners:?} {} {under_way:?}",
            inbox.more,
            inbox.unread,
            self.index(newest)
        )
        .replace(&format!("as_of: {}", page.unread.as_of), &format!("as_of: #{}", self.index(page.unread.as_of)))
    }

    fn missed(&self, after: u64, joined: u64) -> String {
        // No client has a lower number.
        let after = after.max(self.store.boot_seq() - 1);
        let items = [0, 1, 2].map(|item| media_room(&format!("item{item}")));
        let users = [0, 1].map(|user| user_room(&format!("user{user}")));
        let of_media: Vec<&str> = items.iter().chain(&users).map(String::as_str).collect();
        let of_users: Vec<&str> = users.iter().map(String::as_str).collect();
        let mut lines = Vec::new();
        for (namespace, rooms) in [("/", &["r"][..]), ("/media", &of_media), ("/notifications", &of_users)] {
            let rooms = rooms.iter().map(|room| (Arc::from(*room), joined)).collect();
            let replay = wait(self.store.replay(namespace, rooms, after, u64::MAX >> 11)).expect("readable");
            assert!(replay.complete);
            // The store in memory keeps no other events: the engine has them.
            let kept = replay
                .events
                .into_iter()
                .filter(|event| event.envelope.class == Class::Durable || namespace == "/media");
            lines.extend(kept.map(|event| format!("{} {:?} {:?}", self.index(event.seq), event.envelope, event.rooms)));
        }
        lines.join("\n")
    }
}

/// The script has rules of its own for what the store in memory decides in Rust: the life of an item, keys, inboxes. Both
/// answer the same to everything.
#[test]
fn the_script_decides_like_the_store_in_memory() {
    let redis = Redis::start();
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let mut case = 0;
    let run = |steps: Vec<Asked>| {
        case += 1;
        let ours = Compared::of(|dispatch| Arc::new(store(&redis, &format!("case{case}"), dispatch)));
        let bounds = bounds_of(Path::new("")).bounds;
        let other = Compared::of(|dispatch| Arc::new(MemoryStore::new(bounds, dispatch, &Metrics::default())));
        for (number, step) in steps.iter().enumerate() {
            prop_assert_eq!(ours.ask(number, step), other.ask(number, step), "step {}", number);
        }
        prop_assert_eq!(ours.recorder.lines(), other.recorder.lines());
        Ok(())
    };
    let run = RefCell::new(run);
    runner.run(&vec(asked(), 1..60), |steps| (run.borrow_mut())(steps)).unwrap_or_else(|error| panic!("{error}"));
}

/// Publishers may send room events to a user's room, whose log has the notifications too.
#[test]
fn a_log_with_events_of_several_kinds_is_replayed_in_whole() {
    let redis = Redis::start();
    let recorder = Arc::<Recorder>::default();
    let store = store(&redis, "slop", Arc::<Recorder>::clone(&recorder));
    enter(&store, [(NOTIFICATIONS, user_room("u"))]);
    let to_user = |id: &str| {
        let mut change = room_event(id, "user:u", id, Class::Durable);
        if let ChangeKind::Room(envelope) = &mut change.what {
            envelope.namespace = NOTIFICATIONS;
        }
        change
    };
    for change in [to_user("1"), notification("u", "n", 0), to_user("3"), notification("u", "m", 0)] {
        assert!(wait(store.commit(change)).is_ok());
    }
    let first = recorder.numbers()[0];
    let replay = wait(store.replay(NOTIFICATIONS, vec![("user:u".into(), 0)], first, u64::MAX)).expect("readable");
    let names: Vec<&str> = replay.events.iter().map(|event| &*event.envelope.event).collect();
    assert_eq!((replay.complete, names), (true, vec!["notification", "3", "notification"]));
}

#[test]
fn an_entry_that_was_removed_from_a_log_is_noticed() {
    let redis = Redis::start();
    let recorder = Arc::<Recorder>::default();
    let store = store(&redis, "slop", Arc::<Recorder>::clone(&recorder));
    enter(&store, [(DEFAULT, "r".to_owned())]);
    for id in ["1", "2", "3", "4"] {
        assert!(wait(store.commit(room_event(id, "r", id, Class::Durable))).is_ok());
    }
    let first = recorder.numbers()[0];
    let replay = || wait(store.replay(DEFAULT, vec![("r".into(), 0)], first, u64::MAX)).expect("readable");
    assert!(replay().complete);
    redis.command("LSET {slop}:log:/:r 2 x");
    assert_eq!(redis.command("LREM {slop}:log:/:r 0 x"), ":1");
    assert!(!replay().complete);
}
