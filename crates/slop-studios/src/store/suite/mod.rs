//! Tests of the guarantees of every [`Store`], one file for each subject. A backend's tests call `contract_suite!` with a
//! function that makes an empty store. This file has that macro, and what the tests share.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Handle, Runtime};

use super::{
    Before, Change, ChangeKind, CommittedEvent, Delivery, Dispatch, Dispatched, Effect, IdempotencyKey, MediaChange,
    NotificationChange, Revocation, Revoked, Room, SessionRecord, Step, Store,
};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{media_of, media_room, user_room};
use crate::contract::time::Moment;

pub(super) mod commits;
pub(super) mod keys;
pub(super) mod media;
pub(super) mod notifications;
pub(super) mod replay;
pub(super) mod revocations;
pub(super) mod sessions;

/// A function that makes an empty store with this dispatch.
pub(crate) type Make = fn(Arc<dyn Dispatch>) -> Arc<dyn Store>;

/// Makes a test of each guarantee, on the stores that `$make` makes.
macro_rules! contract_suite {
    ($make:expr) => {
        $crate::store::suite::contract_suite! { $make =>
            commits: [
                changes_are_dispatched_in_the_order_of_the_calls,
                a_refused_change_is_not_dispatched,
                numbers_rise_in_the_order_of_the_dispatches,
                what_must_survive_is_said_to_be_stored,
            ],
            keys: [
                a_key_is_carried_out_once,
                a_key_belongs_to_one_request,
                a_key_is_a_batchs_once_an_item_was_accepted,
                a_notification_id_is_carried_out_once,
                concurrent_repeats_are_one_publish,
            ],
            media: [
                a_snapshot_has_its_place_in_the_order,
                what_is_under_way_is_found_by_its_last_event,
                owners_are_told_as_far_as_they_are_known,
            ],
            notifications: [
                notifications_are_paged_newest_first,
                a_page_of_notifications_is_bounded_in_bytes,
                an_inbox_is_what_was_not_received,
                an_inbox_has_its_place_in_the_order,
                reading_changes_what_is_unread,
            ],
            replay: [
                a_replay_is_what_the_rooms_were_told,
                a_replay_has_the_newest_progress,
                a_replay_has_the_envelopes_that_were_dispatched,
            ],
            revocations: [
                a_revocation_is_kept_until_it_is_undone,
            ],
            sessions: [
                a_session_is_kept_until_it_is_forgotten,
            ],
        }
    };
    ($make:expr => $($subject:ident: [$($guarantee:ident,)+],)+) => {
        mod contract {
            use super::*;

            $($(
                #[test]
                fn $guarantee() {
                    $crate::store::suite::$subject::$guarantee($make);
                }
            )+)+
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
pub(crate) struct Recorder(Mutex<Vec<Recorded>>);

#[derive(Debug)]
struct Recorded {
    seq: u64,
    line: String,
    envelope: Option<Envelope>,
}

impl Recorder {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panicked").iter().map(|recorded| recorded.line.clone()).collect()
    }

    /// The number of each event.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.0.lock().expect("no test panicked").iter().map(|recorded| recorded.seq).collect()
    }

    /// The event that was dispatched with this number.
    fn envelope(&self, seq: u64) -> Option<Envelope> {
        let recorded = self.0.lock().expect("no test panicked");
        recorded.iter().find(|recorded| recorded.seq == seq)?.envelope.clone()
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
            let envelope = match dispatched.event {
                CommittedEvent::Event { envelope, .. } => Some(envelope.clone()),
                CommittedEvent::Unread { .. } => None,
            };
            let seq = dispatched.seq;
            assert!(recorded.last().is_none_or(|last| last.seq < seq), "numbers rise");
            recorded.push(Recorded { seq, line, envelope });
            Delivery::known(recorded.len() as u64)
        });
        deliveries.collect()
    }
    fn reset(&self) {
        let mut recorded = self.0.lock().expect("no test panicked");
        let seq = recorded.last().map_or(0, |last| last.seq);
        recorded.push(Recorded { seq, line: "reset".to_owned(), envelope: None });
    }
}

/// The id of `{"id":"…"}`.
fn id_in(payload: &str) -> &str {
    payload.split('"').nth(3).unwrap_or_default()
}

fn made(make: Make) -> (Arc<dyn Store>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let store = make(Arc::<Recorder>::clone(&recorder));
    enter(&*store, ["m", "n", "o", "a", "b", "c", "d", "done"].map(|item| (MEDIA, media_room(item))));
    enter(&*store, ["r", "s"].map(|room| (DEFAULT, room.to_owned())));
    for namespace in [MEDIA, NOTIFICATIONS] {
        enter(&*store, ["u", "v", "p0", "p1", "p2", "p3"].map(|user| (namespace, user_room(user))));
    }
    (store, recorder)
}

/// Has the events of these rooms dispatched.
pub(super) fn enter(store: &dyn Store, rooms: impl IntoIterator<Item = (&'static str, String)>) {
    let rooms = rooms.into_iter().map(|(namespace, room)| Room { namespace, room: room.into() });
    wait(store.enter(rooms.collect())).expect("entered");
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

/// A media change that names its owner.
fn owned(id: &str, media_id: &str, step: Step, owner: &str) -> Change {
    let mut change = media(id, media_id, step);
    if let ChangeKind::Media(media) = &mut change.what {
        media.owner_id = Some(owner.into());
    }
    change
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

pub(super) fn key(name: &str, asked: u8) -> IdempotencyKey {
    IdempotencyKey { publisher: "p".into(), key: name.into(), item: None, fingerprint: [asked; 32] }
}

pub(super) fn keyed(change: Change, key: IdempotencyKey) -> Change {
    Change { key: Some(key), ..change }
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
        own_events: None,
    }
}

pub(super) fn revocation(subject: Revoked, at: u64, expires_at: Option<u64>) -> Revocation {
    Revocation { subject, at: Moment::from_epoch_ms(at), expires_at: expires_at.map(Moment::from_epoch_ms) }
}
