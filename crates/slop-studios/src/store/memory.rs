//! A store in this process's memory: bounded, ordered by one lock, gone when the process ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, ready};

use super::shelf::Shelf;
use super::{
    Change, Committed, CommittedEvent, Delivery, Dispatch, Fingerprint, IdempotencyKey, MediaState, NotificationChange,
    NotificationsPage, SnapshotThen, Store, StoreError, Usage, What, media,
};
use crate::limits;

/// How much a [`MemoryStore`] keeps.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Media items; the longest without news leave first.
    pub media_items: usize,
    /// Bytes of media states; the longest without news leave first.
    pub media_bytes: usize,
    /// Notifications of one user; the oldest leave first.
    pub notifications_per_user: usize,
    /// Bytes of all users' notifications; the oldest leave first.
    pub notification_bytes: usize,
    /// Idempotency keys; the oldest leave first.
    pub idempotency_keys: usize,
    /// How long an idempotency key is kept.
    pub idempotency_key_age: Duration,
}

impl MemoryLimits {
    /// The product's limits, with this many idempotency keys.
    #[must_use]
    pub const fn new(idempotency_keys: usize) -> Self {
        Self {
            media_items: limits::MAX_MEDIA_ITEMS,
            media_bytes: limits::MAX_MEDIA_BYTES,
            notifications_per_user: limits::MAX_NOTIFICATIONS_PER_USER,
            notification_bytes: limits::MAX_NOTIFICATION_BYTES,
            idempotency_keys,
            idempotency_key_age: limits::IDEMPOTENCY_KEY_AGE,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct MemoryStore {
    /// Held while a change is applied *and* dispatched: that is what orders dispatches and snapshots.
    kept: Mutex<Kept>,
    dispatch: Arc<dyn Dispatch>,
    limits: MemoryLimits,
}

#[derive(Debug)]
struct Kept {
    media: Shelf<str, MediaState>,
    inboxes: Inboxes,
    receipts: Shelf<[u8], Remembered>,
}

/// What an idempotency key was used for.
#[derive(Debug)]
struct Remembered {
    fingerprint: Fingerprint,
    since: Instant,
    /// None for a claim.
    receipt: Option<Receipt>,
}

#[derive(Debug, Clone)]
struct Receipt {
    id: Arc<str>,
    delivery: Delivery,
}

impl Receipt {
    fn committed(self, repeated: bool) -> Committed {
        Committed { id: self.id, stored: false, repeated, delivery: self.delivery }
    }
}

impl MemoryStore {
    /// An empty store that hands what it committed to `dispatch`.
    pub fn new(limits: MemoryLimits, dispatch: Arc<dyn Dispatch>) -> Self {
        Self {
            kept: Mutex::new(Kept {
                media: Shelf::new(limits.media_items, limits.media_bytes),
                inboxes: Inboxes::default(),
                receipts: Shelf::new(limits.idempotency_keys, usize::MAX),
            }),
            dispatch,
            limits,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Each map is changed in one call, so a panic elsewhere leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit_now(&self, change: Change) -> Result<Committed, StoreError> {
        let mut kept = self.kept();
        let Kept { media: items, inboxes, receipts } = &mut *kept;

        let key = change.key.as_ref().map(|key| (receipt_key(key), key.fingerprint));
        receipts.remove_while(|remembered| remembered.since.elapsed() >= self.limits.idempotency_key_age);
        if let Some((key, fingerprint)) = &key
            && let Some(remembered) = receipts.get(key)
        {
            if remembered.fingerprint != *fingerprint {
                return Err(StoreError::KeyReused);
            }
            if let Some(receipt) = &remembered.receipt {
                return Ok(receipt.clone().committed(true));
            }
        }

        let (receipt, repeated) = match &change.what {
            What::Media(step) => {
                let (state, owner_became_known) = media::apply(items.get(&step.media_id), step, change.at)?;
                let bytes = step.media_id.len() + state.payload.len() + size_of::<MediaState>();
                items.put(Arc::clone(&step.media_id), state.clone(), bytes);
                let delivery = self.dispatch.dispatch(CommittedEvent::Media {
                    media_id: &step.media_id,
                    state: &state,
                    owner_became_known,
                });
                (Receipt { id: change.id, delivery }, false)
            }
            What::Notification(notification) => match inboxes.find(notification) {
                Some(earlier) if earlier.fingerprint != notification.fingerprint => {
                    return Err(StoreError::NotificationIdReused);
                }
                Some(earlier) => (earlier.receipt.clone(), true),
                None => {
                    let delivery = self.dispatch.dispatch(CommittedEvent::Notification(notification));
                    let receipt = Receipt { id: change.id, delivery };
                    inboxes.push(notification, receipt.clone(), &self.limits);
                    (receipt, false)
                }
            },
            What::Room(event) => {
                let delivery = self.dispatch.dispatch(CommittedEvent::Room(event));
                (Receipt { id: change.id, delivery }, false)
            }
        };

        if let Some((key, fingerprint)) = key {
            let bytes = key.len();
            let remembered = Remembered { fingerprint, since: Instant::now(), receipt: Some(receipt.clone()) };
            receipts.put(key, remembered, bytes);
        }
        Ok(receipt.committed(repeated))
    }

    fn claim_now(&self, key: &IdempotencyKey) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let name = receipt_key(key);
        match kept.receipts.get(&name) {
            Some(remembered) if remembered.fingerprint != key.fingerprint => Err(StoreError::KeyReused),
            Some(_) => Ok(()),
            None => {
                let bytes = name.len();
                let remembered = Remembered { fingerprint: key.fingerprint, since: Instant::now(), receipt: None };
                kept.receipts.put(name, remembered, bytes);
                Ok(())
            }
        }
    }
}

/// Publisher, key and place in one byte string. Neither text has a zero byte: one is hexadecimal, one a header.
fn receipt_key(key: &IdempotencyKey) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(key.publisher.len() + key.key.len() + 6);
    bytes.extend_from_slice(key.publisher.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.key.as_bytes());
    if let Some(item) = key.item {
        bytes.push(0);
        bytes.extend_from_slice(&item.to_be_bytes());
    }
    bytes.into()
}

impl Store for MemoryStore {
    fn is_durable(&self) -> bool {
        false
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(ready(self.commit_now(change)))
    }

    fn claim(&self, key: IdempotencyKey) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(ready(self.claim_now(&key)))
    }

    fn media_state(&self, media_id: &str) -> BoxFuture<'_, Result<Option<MediaState>, StoreError>> {
        Box::pin(ready(Ok(self.kept().media.get(media_id).cloned())))
    }

    fn media_snapshot_then(&self, media_id: &str, then: SnapshotThen) -> BoxFuture<'_, Result<(), StoreError>> {
        let kept = self.kept();
        then(kept.media.get(media_id));
        drop(kept);
        Box::pin(ready(Ok(())))
    }

    fn notifications(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'_, Result<NotificationsPage, StoreError>> {
        Box::pin(ready(self.kept().inboxes.page(user_id, before, limit)))
    }

    fn usage(&self) -> Usage {
        let kept = self.kept();
        Usage {
            media_items: kept.media.len(),
            media_bytes: kept.media.bytes(),
            notifications: kept.inboxes.by_age.len(),
            notification_bytes: kept.inboxes.bytes,
            idempotency_keys: kept.receipts.len(),
        }
    }
}

/// Every user's notifications, oldest first, and all of them by age.
#[derive(Debug, Default)]
struct Inboxes {
    users: HashMap<Arc<str>, VecDeque<KeptNotification>>,
    by_age: BTreeMap<u64, Arc<str>>,
    next_place: u64,
    bytes: usize,
}

#[derive(Debug)]
struct KeptNotification {
    place: u64,
    payload: Arc<str>,
    fingerprint: Fingerprint,
    receipt: Receipt,
}

impl KeptNotification {
    fn bytes(&self) -> usize {
        self.payload.len() + self.receipt.id.len() + size_of::<Self>()
    }
}

impl Inboxes {
    fn find(&self, notification: &NotificationChange) -> Option<&KeptNotification> {
        let inbox = self.users.get(&notification.user_id)?;
        inbox.iter().rev().find(|kept| kept.receipt.id == notification.id)
    }

    fn push(&mut self, notification: &NotificationChange, receipt: Receipt, limits: &MemoryLimits) {
        let kept = KeptNotification {
            place: self.next_place,
            payload: Arc::clone(&notification.payload),
            fingerprint: notification.fingerprint,
            receipt,
        };
        self.next_place += 1;
        self.bytes += kept.bytes();
        self.by_age.insert(kept.place, Arc::clone(&notification.user_id));
        let inbox = self.users.entry(Arc::clone(&notification.user_id)).or_default();
        inbox.push_back(kept);
        if inbox.len() > limits.notifications_per_user {
            self.remove_oldest_of(&notification.user_id);
        }
        while self.bytes > limits.notification_bytes && self.by_age.len() > 1 {
            let Some((_, user)) = self.by_age.first_key_value() else { break };
            let user = Arc::clone(user);
            self.remove_oldest_of(&user);
        }
    }

    /// A user's oldest is also the oldest of all that are the user's in `by_age`.
    fn remove_oldest_of(&mut self, user_id: &str) {
        let Some(inbox) = self.users.get_mut(user_id) else { return };
        if let Some(oldest) = inbox.pop_front() {
            self.by_age.remove(&oldest.place);
            self.bytes = self.bytes.saturating_sub(oldest.bytes());
        }
        if inbox.is_empty() {
            self.users.remove(user_id);
        }
    }

    fn page(&self, user_id: &str, before: Option<&str>, limit: usize) -> Result<NotificationsPage, StoreError> {
        let inbox = self.users.get(user_id);
        let end = match before {
            None => inbox.map_or(0, VecDeque::len),
            Some(id) => inbox
                .and_then(|inbox| inbox.iter().rposition(|kept| &*kept.receipt.id == id))
                .ok_or(StoreError::UnknownNotification)?,
        };
        let Some(inbox) = inbox else { return Ok(NotificationsPage::default()) };
        let start = end.saturating_sub(limit);
        let page = inbox.range(start..end);
        let oldest = page.clone().next().filter(|_| start > 0);
        Ok(NotificationsPage {
            next: oldest.map(|kept| Arc::clone(&kept.receipt.id)),
            payloads: page.rev().map(|kept| Arc::clone(&kept.payload)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{Make, change, key, keyed, made, media, notification, run, wait};
    use super::super::{MediaChange, Step};
    use super::*;

    const MAKE: Make = |dispatch| Arc::new(MemoryStore::new(MemoryLimits::new(1_000), dispatch));

    #[test]
    fn keeps_what_a_store_promises() {
        run(MAKE);
    }

    #[test]
    fn nothing_is_said_to_outlive_the_process() {
        let (store, _) = made(MAKE);
        assert!(!store.is_durable());
        let committed = wait(store.commit(notification("u", "n", 0))).expect("accepted");
        assert!(!committed.stored);
    }

    #[test]
    fn the_longest_without_news_leave_first() {
        let (store, _) = made(|dispatch| {
            let limits = MemoryLimits { media_items: 2, ..MemoryLimits::new(1) };
            Arc::new(MemoryStore::new(limits, dispatch))
        });
        for item in ["a", "b", "a", "c"] {
            assert!(wait(store.commit(media("1", item, Step::Progress(1.0)))).is_ok());
        }
        let known = |item| wait(store.media_state(item)).expect("readable").is_some();
        assert_eq!([known("a"), known("b"), known("c")], [true, false, true]);
        assert_eq!(store.usage().media_items, 2);
    }

    #[test]
    fn an_inbox_keeps_the_newest() {
        let (store, _) = made(|dispatch| {
            let limits = MemoryLimits { notifications_per_user: 2, ..MemoryLimits::new(1) };
            Arc::new(MemoryStore::new(limits, dispatch))
        });
        for id in ["1", "2", "3"] {
            assert!(wait(store.commit(notification("u", id, 0))).is_ok());
        }
        let page = wait(store.notifications("u", None, 10)).expect("readable");
        let payloads: Vec<&str> = page.payloads.iter().map(AsRef::as_ref).collect();
        assert_eq!(payloads, [r#"{"id":"3"}"#, r#"{"id":"2"}"#]);
        assert_eq!((page.next, store.usage().notifications), (None, 2));
    }

    #[test]
    fn all_inboxes_together_are_bounded_in_bytes() {
        let (store, _) = made(|dispatch| {
            let limits = MemoryLimits { notification_bytes: 100_000, ..MemoryLimits::new(1) };
            Arc::new(MemoryStore::new(limits, dispatch))
        });
        for n in 0..10_000 {
            let committed = wait(store.commit(notification(&format!("u{n}"), "n", 0)));
            assert!(committed.is_ok());
            assert!(store.usage().notification_bytes <= 100_000);
        }
        let newest = wait(store.notifications("u9999", None, 1)).expect("readable");
        assert_eq!(newest.payloads.len(), 1);
        let oldest = wait(store.notifications("u0", None, 1)).expect("readable");
        assert_eq!(oldest.payloads.len(), 0);
    }

    #[test]
    fn keys_are_forgotten_by_number_and_by_age() {
        let (store, recorder) = made(|dispatch| Arc::new(MemoryStore::new(MemoryLimits::new(2), dispatch)));
        for name in ["a", "b", "c", "a"] {
            let change = keyed(notification("u", &format!("{name}-{}", store.usage().notifications), 0), key(name, 1));
            assert!(wait(store.commit(change)).is_ok());
        }
        assert_eq!((recorder.lines().len(), store.usage().idempotency_keys), (4, 2));

        let (store, _) = made(|dispatch| {
            let limits = MemoryLimits { idempotency_key_age: Duration::ZERO, ..MemoryLimits::new(10) };
            Arc::new(MemoryStore::new(limits, dispatch))
        });
        for asked in [1, 2] {
            let change = keyed(notification("u", &asked.to_string(), 0), key("a", asked));
            assert!(wait(store.commit(change)).is_ok());
        }
    }

    #[test]
    fn a_new_owner_is_told_once() {
        let (store, recorder) = made(MAKE);
        for progress in [1.0, 2.0] {
            let owned = What::Media(MediaChange {
                media_id: "m".into(),
                owner_id: Some("u".into()),
                attempt: None,
                step: Step::Progress(progress),
                payload: "{}".into(),
            });
            assert!(wait(store.commit(change("1", owned))).is_ok());
        }
        assert_eq!(recorder.lines(), ["m Progress(1.0) owned", "m Progress(2.0)"]);
    }
}
