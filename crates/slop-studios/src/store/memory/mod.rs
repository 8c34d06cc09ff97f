//! A store in memory, for tests and for a server that is tried out: nothing of it outlives the process.
//!
//! One lock holds everything. A call carries out its change and dispatches the event before it returns, so the order of
//! the calls is the order of the changes and of the dispatches. [`Committed::stored`] says what another store would keep.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::{BoxFuture, ready};

use super::media::{self, MediaChange, MediaState};
use super::{
    Bounds, Change, ChangeKind, Committed, CommittedEvent, Delivery, Dispatch, Dispatched, Effect, Ending,
    IdempotencyKey, Inbox, MediaOwners, MediaSnapshot, MediaUnderWay, NotificationChange, NotificationsPage, ReadMark,
    Replay, Revocation, RevocationStore, Revocations, Revoked, RevokedTokens, RoomInterest, SessionKey, SessionRecord,
    SessionStore, Step, Store, StoreControl, StoreError, UnderWay, Unread, Usage,
};
use crate::contract::delivery::{Class, Envelope, Route};
use crate::contract::time::Moment;
use crate::metrics::Metrics;

mod inboxes;
mod keys;
mod log;
mod sessions;
mod shelf;

use super::kept_revocations::KeptRevocations;
use inboxes::KeptInboxes;
use keys::{Keys, Receipt};
use log::LogEntry;
use sessions::KeptSessions;
use shelf::{Row, Shelf};

/// See the module.
pub struct MemoryStore {
    /// Only the holder of this lock dispatches.
    state: Mutex<State>,
    dispatch: Arc<dyn Dispatch>,
    boot_seq: u64,
    began: Instant,
    socket_id_key: [u8; 16],
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("boot_seq", &self.boot_seq).finish_non_exhaustive()
    }
}

/// The kept data.
#[derive(Debug)]
struct State {
    /// The number of the next event.
    next: u64,
    media: Shelf<Item>,
    media_by_id: HashMap<Arc<str>, u64>,
    inboxes: KeptInboxes,
    log: Shelf<LogEntry>,
    /// The highest number that has left the log.
    log_removed: u64,
    keys: Keys,
    sessions: KeptSessions,
    revocations: KeptRevocations,
    is_closed: bool,
}

/// A media item.
#[derive(Debug)]
struct Item {
    id: Arc<str>,
    state: MediaState,
}

impl Row for Item {
    fn bytes(&self) -> u64 {
        self.state.payload.len() as u64
    }

    fn at(&self) -> Moment {
        self.state.updated_at
    }
}

impl MemoryStore {
    /// Creates an empty store. Committed events are handed to `dispatch`.
    pub(crate) fn new(bounds: Bounds, dispatch: Arc<dyn Dispatch>, metrics: &Metrics) -> Self {
        // Offsets of an earlier process are lower, so its clients are not recovered.
        let boot_seq = Moment::now().epoch_ms() * 1_000;
        let mut socket_id_key = [0; 16];
        // Without randomness, the engine could not start either.
        getrandom::fill(&mut socket_id_key).expect("the system gives random bytes");
        let state = State {
            next: boot_seq,
            media: Shelf::new(bounds.media),
            media_by_id: HashMap::new(),
            inboxes: KeptInboxes::new(bounds.notifications, bounds.notifications_per_user),
            log: Shelf::new(bounds.log),
            log_removed: 0,
            keys: Keys::new(bounds.idempotency_keys),
            sessions: KeptSessions::new(bounds.sessions),
            revocations: KeptRevocations::new(bounds.revocations),
            is_closed: false,
        };
        metrics.store_writable.set(1);
        Self { state: Mutex::new(state), dispatch, boot_seq, began: Instant::now(), socket_id_key }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A dispatch that panics leaves a change without its event. No other code under this lock panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a request at once, unless the store is closed.
    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        let mut state = self.state();
        let result = if state.is_closed {
            Err(StoreError::Unavailable("the store is closed".into()))
        } else {
            request(&mut state)
        };
        Box::pin(ready(result))
    }
}

impl State {
    /// The number of the last event.
    fn as_of(&self) -> u64 {
        self.next - 1
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn media_state(&self, media_id: &str) -> Option<&MediaState> {
        Some(&self.media.get(*self.media_by_id.get(media_id)?)?.state)
    }

    /// Applies a change and dispatches its event. Nothing is changed before the last check.
    fn commit(&mut self, change: &Change, dispatch: &dyn Dispatch) -> Result<Committed, StoreError> {
        if let Some(key) = &change.key
            && let Some(receipt) = self.keys.receipt(key, Moment::now())?
        {
            return Ok(receipt.repeated());
        }
        let committed = match &change.what {
            ChangeKind::Media(step) => self.media(change, step, dispatch)?,
            ChangeKind::Notification(notification) => self.notification(change, notification, dispatch)?,
            ChangeKind::Room(envelope) => self.room(change, envelope, dispatch),
        };
        if let Some(key) = &change.key {
            let Committed { id, stored, delivery, .. } = committed.clone();
            self.keys.add(key, change.at, Receipt { id, stored, delivery });
        }
        Ok(committed)
    }

    fn media(&mut self, change: &Change, step: &MediaChange, dispatch: &dyn Dispatch) -> Result<Committed, StoreError> {
        let (state, owner_became_known) = media::apply(self.media_state(&step.media_id), step, change.at, self.next)?;
        let seq = self.take_number();
        if let Some(before) = self.media_by_id.insert(Arc::clone(&step.media_id), seq) {
            self.media.remove(before);
        }
        self.media.insert(seq, Item { id: Arc::clone(&step.media_id), state: state.clone() });
        while let Some((number, removed)) = self.media.pop_excess(change.at) {
            if self.media_by_id.get(&removed.id) == Some(&number) {
                self.media_by_id.remove(&removed.id);
            }
        }
        let envelope = state.envelope(&step.media_id);
        // For progress, the state is kept instead.
        if envelope.class == Class::Durable {
            self.keep(seq, change.at, &envelope);
        }
        let effect = match state.owner_id.as_ref().filter(|_| owner_became_known) {
            Some(owner_id) => Effect::OwnerKnown { media_id: &step.media_id, owner_id },
            None => Effect::None,
        };
        Ok(committed(change, true, send(dispatch, seq, &envelope, effect)))
    }

    fn notification(
        &mut self,
        change: &Change,
        notification: &NotificationChange,
        dispatch: &dyn Dispatch,
    ) -> Result<Committed, StoreError> {
        let NotificationChange { user_id, id, fingerprint, payload } = notification;
        if let Some(found) = self.inboxes.find(user_id, id) {
            if found.change.fingerprint != *fingerprint {
                return Err(StoreError::NotificationIdReused);
            }
            return Ok(Receipt { id: Arc::clone(id), stored: true, delivery: found.delivery.clone() }.repeated());
        }
        let seq = self.take_number();
        self.inboxes.insert(seq, change.at, notification);
        let envelope = Envelope::of_user(Route::NOTIFICATION, user_id, payload);
        self.keep(seq, change.at, &envelope);
        let effect = Effect::Notified { user_id, unread: self.inboxes.unread(user_id) };
        let delivery = send(dispatch, seq, &envelope, effect);
        self.inboxes.set_delivery(seq, delivery.clone());
        Ok(committed(change, true, delivery))
    }

    fn room(&mut self, change: &Change, envelope: &Envelope, dispatch: &dyn Dispatch) -> Committed {
        let seq = self.take_number();
        let stored = envelope.class == Class::Durable;
        // Its key prevents a second publish, so a client that missed it must get it from the log.
        if stored || change.key.is_some() {
            self.keep(seq, change.at, envelope);
        }
        committed(change, stored, send(dispatch, seq, envelope, Effect::None))
    }

    fn keep(&mut self, seq: u64, at: Moment, envelope: &Envelope) {
        self.log.insert(seq, LogEntry { envelope: envelope.clone(), at });
        while let Some((removed, _)) = self.log.pop_excess(at) {
            self.log_removed = removed;
        }
    }

    fn mark_read(&mut self, user_id: &str, mark: &ReadMark, dispatch: &dyn Dispatch) -> Result<Unread, StoreError> {
        let changed = self.inboxes.mark_read(user_id, mark)?;
        let count = self.inboxes.unread(user_id);
        if changed > 0 {
            let user_id: Arc<str> = user_id.into();
            let event = CommittedEvent::Unread { user_id: &user_id, unread: count };
            dispatch.dispatch(&[Dispatched { seq: self.take_number(), event }]);
        }
        Ok(Unread { count, as_of: self.as_of() })
    }

    fn under_way(&self, after: u64, until: u64, most: usize) -> MediaUnderWay {
        let (mut items, mut examined, mut last) = (Vec::new(), 0, until);
        for (seq, item) in self.media.range(after, until).take(most) {
            (examined, last) = (examined + 1, seq);
            if matches!(item.state.step, Step::Progress(_)) {
                items.push(UnderWay { media_id: Arc::clone(&item.id), seq });
            }
        }
        MediaUnderWay { items, up_to: if examined == most { last } else { until } }
    }
}

fn send(dispatch: &dyn Dispatch, seq: u64, envelope: &Envelope, effect: Effect<'_>) -> Delivery {
    let event = CommittedEvent::Event { envelope, effect };
    dispatch.dispatch(&[Dispatched { seq, event }]).pop().unwrap_or_else(|| Delivery::known(0))
}

fn committed(change: &Change, stored: bool, delivery: Delivery) -> Committed {
    Committed { id: Arc::clone(&change.id), stored, repeated: false, delivery }
}

impl StoreControl for MemoryStore {
    fn socket_id_key(&self) -> [u8; 16] {
        self.socket_id_key
    }

    fn close_by(&self, _deadline: Instant) -> Ending {
        self.state().is_closed = true;
        Ending::default()
    }

    fn void_sessions(&self) {}
}

impl Store for MemoryStore {
    fn boot_seq(&self) -> u64 {
        self.boot_seq
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.ask(|state| state.commit(&change, &*self.dispatch))
    }

    fn check_key(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(|state| state.keys.receipt(&key, Moment::now()).map(|_receipt| ()))
    }

    fn media_snapshot(&self, media_id: &str) -> BoxFuture<'_, Result<MediaSnapshot, StoreError>> {
        self.ask(|state| Ok(MediaSnapshot { state: state.media_state(media_id).cloned(), as_of: state.as_of() }))
    }

    fn media_owners(&self, media_ids: Vec<Box<str>>) -> BoxFuture<'_, Result<MediaOwners, StoreError>> {
        self.ask(|state| {
            let owner = |id: &str| state.media_state(id)?.owner_id.clone();
            Ok(media_ids.into_iter().filter_map(|id| owner(&id).map(|owner| (id, owner))).collect())
        })
    }

    fn newest_media(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.ask(|state| Ok(state.media.last().unwrap_or_default()))
    }

    fn media_under_way(&self, after: u64, until: u64, most: usize) -> BoxFuture<'_, Result<MediaUnderWay, StoreError>> {
        self.ask(|state| Ok(state.under_way(after, until, most)))
    }

    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>> {
        self.ask(|state| state.inboxes.page(user_id, before, limit, state.as_of()))
    }

    fn inbox(&self, user_id: &str, limit: usize) -> BoxFuture<'_, Result<Inbox, StoreError>> {
        self.ask(|state| Ok(state.inboxes.inbox(user_id, limit, state.as_of())))
    }

    fn received(&self, user_id: &str, up_to: u64) {
        self.state().inboxes.received(user_id, up_to);
    }

    fn mark_read(&self, user_id: &str, mark: ReadMark) -> BoxFuture<'_, Result<Unread, StoreError>> {
        self.ask(|state| state.mark_read(user_id, &mark, &*self.dispatch))
    }

    fn replay(
        &self,
        namespace: &'static str,
        rooms: Vec<(Arc<str>, u64)>,
        after: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Replay, StoreError>> {
        self.ask(|state| Ok(state.replay(namespace, &rooms, after, until)))
    }

    fn writable_since(&self) -> BoxFuture<'_, Result<Instant, StoreError>> {
        self.ask(|_state| Ok(self.began))
    }

    fn is_open(&self) -> bool {
        !self.state().is_closed
    }

    fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            media: state.media.amount(),
            notifications: state.inboxes.amount(),
            log: state.log.amount(),
            sessions: state.sessions.amount(),
            idempotency_keys: state.keys.used(),
            revocations: state.revocations.amount(),
            ..Usage::default()
        }
    }
}

impl RoomInterest for MemoryStore {}

impl SessionStore for MemoryStore {
    fn save_session(&self, session: SessionRecord) -> Option<BoxFuture<'static, ()>> {
        self.state().sessions.save(session);
        None
    }

    fn session_left(&self, key: SessionKey, since_seq: u64) {
        self.state().sessions.left(&key, since_seq);
    }

    fn sessions_confirmed(&self, up_to: u64) {
        self.state().sessions.confirmed(up_to);
    }

    fn forget_session(&self, key: SessionKey) {
        self.state().sessions.forget(&key);
    }

    fn session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>> {
        self.ask(|state| Ok(state.sessions.find(&key)))
    }
}

impl RevocationStore for MemoryStore {
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'_, Result<RevokedTokens, StoreError>> {
        self.ask(|state| state.revocations.add(revocation, Moment::now()).map(RevokedTokens::from))
    }

    fn undo_revocation(&self, subject: Revoked) -> BoxFuture<'_, Result<Option<Revocation>, StoreError>> {
        self.ask(|state| Ok(state.revocations.remove(&subject)))
    }

    fn revocations(&self) -> BoxFuture<'_, Result<Revocations, StoreError>> {
        self.ask(|state| Ok(state.revocations.all()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sqlite::tests::options;
    use super::super::suite::{contract_suite, durable, media, notification, wait};
    use super::*;

    fn bounds() -> Bounds {
        options(std::path::Path::new("")).bounds
    }

    fn made(dispatch: Arc<dyn Dispatch>, bounds: Bounds) -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(bounds, dispatch, &Metrics::default()))
    }

    contract_suite!(|dispatch| made(dispatch, bounds()));

    #[test]
    fn everything_is_bounded() {
        let mut bounds = bounds();
        for bound in [&mut bounds.media, &mut bounds.log, &mut bounds.notifications] {
            bound.rows = 2;
        }
        bounds.notifications_per_user = 1;
        let store = made(Arc::<super::super::suite::Recorder>::default(), bounds);
        for id in ["1", "2", "3"] {
            assert!(wait(store.commit(media(id, id, Step::Progress(1.0)))).is_ok());
            assert!(wait(store.commit(notification("u", id, 0))).is_ok());
            assert!(wait(store.commit(durable(id, "e"))).is_ok());
        }
        let usage = store.usage();
        assert_eq!([usage.media.rows, usage.notifications.rows, usage.log.rows], [2, 1, 2]);
        let known = |id| wait(store.media_snapshot(id)).expect("readable").state.is_some();
        assert_eq!(["1", "2", "3"].map(known), [false, true, true]);
        assert_eq!(wait(store.inbox("u", 9)).expect("readable").undelivered.len(), 1);
        let replay = |after| wait(store.replay("/", vec![("r".into(), 0)], after, u64::MAX)).expect("readable");
        assert!(!replay(0).complete);
        assert!(replay(store.boot_seq() + 7).complete);
    }

    #[test]
    fn a_closed_store_refuses() {
        let store = made(Arc::<super::super::suite::Recorder>::default(), bounds());
        assert_eq!(store.close_by(Instant::now() + Duration::from_secs(1)), Ending::default());
        assert!(!store.is_open());
        assert!(matches!(wait(store.commit(durable("1", "e"))), Err(StoreError::Unavailable(_))));
    }
}
