//! Each user's notifications, and how far the user has received and read them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::super::{
    Amount, Bound, Delivery, Inbox, InboxItem, KeptNotification, NotificationChange, NotificationsPage, ReadMark,
    StoreError, Unread,
};
use super::shelf::{Row, Shelf};
use crate::contract::time::Moment;
use crate::limits::{INBOX_BATCH_BYTES, MAX_NOTIFICATIONS_PAGE_BYTES};

/// A kept notification.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) change: NotificationChange,
    pub(super) delivery: Delivery,
    at: Moment,
    is_read: bool,
}

impl Row for Notification {
    fn bytes(&self) -> u64 {
        self.change.payload.len() as u64
    }

    fn at(&self) -> Moment {
        self.at
    }
}

/// A user's notifications, by their numbers.
#[derive(Debug, Default)]
struct User {
    numbers: BTreeSet<u64>,
    by_id: HashMap<Arc<str>, u64>,
    /// Every notification up to this number was received on some socket.
    received: u64,
    unread: u64,
}

/// The notifications of all users.
#[derive(Debug)]
pub(super) struct KeptInboxes {
    kept: Shelf<Notification>,
    users: HashMap<Arc<str>, User>,
    most_per_user: usize,
}

impl KeptInboxes {
    pub(super) fn new(bound: Bound, most_per_user: usize) -> Self {
        Self { kept: Shelf::new(bound), users: HashMap::new(), most_per_user }
    }

    pub(super) fn amount(&self) -> Amount {
        self.kept.amount()
    }

    /// The user's notification with this id.
    pub(super) fn find(&self, user_id: &str, id: &str) -> Option<&Notification> {
        self.kept.get(self.number_of(user_id, id)?)
    }

    fn number_of(&self, user_id: &str, id: &str) -> Option<u64> {
        self.users.get(user_id)?.by_id.get(id).copied()
    }

    pub(super) fn insert(&mut self, seq: u64, at: Moment, change: &NotificationChange) {
        let user = self.users.entry(Arc::clone(&change.user_id)).or_default();
        user.numbers.insert(seq);
        user.by_id.insert(Arc::clone(&change.id), seq);
        user.unread += 1;
        let excess = user.numbers.len().saturating_sub(self.most_per_user);
        let excess: Vec<u64> = user.numbers.iter().take(excess).copied().collect();
        let notification = Notification { change: change.clone(), delivery: Delivery::known(0), at, is_read: false };
        self.kept.insert(seq, notification);
        for number in excess {
            if let Some(removed) = self.kept.remove(number) {
                self.forget(number, &removed);
            }
        }
        while let Some((number, removed)) = self.kept.pop_excess(at) {
            self.forget(number, &removed);
        }
    }

    fn forget(&mut self, number: u64, removed: &Notification) {
        let Some(user) = self.users.get_mut(&removed.change.user_id) else { return };
        user.numbers.remove(&number);
        user.by_id.remove(&removed.change.id);
        user.unread -= u64::from(!removed.is_read);
        if user.numbers.is_empty() {
            self.users.remove(&removed.change.user_id);
        }
    }

    pub(super) fn set_delivery(&mut self, seq: u64, delivery: Delivery) {
        if let Some(notification) = self.kept.get_mut(seq) {
            notification.delivery = delivery;
        }
    }

    /// The number of the user's unread notifications.
    pub(super) fn unread(&self, user_id: &str) -> u64 {
        self.users.get(user_id).map_or(0, |user| user.unread)
    }

    pub(super) fn page(
        &self,
        user_id: &str,
        before: Option<&str>,
        limit: usize,
        as_of: u64,
    ) -> Result<NotificationsPage, StoreError> {
        let end = match before {
            None => u64::MAX,
            Some(id) => self.number_of(user_id, id).ok_or(StoreError::UnknownNotification)?,
        };
        let mut page =
            NotificationsPage { unread: Unread { count: self.unread(user_id), as_of }, ..NotificationsPage::default() };
        let (mut last, mut bytes) = (None, 0);
        let numbers = self.users.get(user_id).into_iter().flat_map(|user| user.numbers.range(..end).rev());
        for notification in numbers.filter_map(|number| self.kept.get(*number)) {
            let payload = &notification.change.payload;
            bytes += payload.len();
            let is_full = bytes > MAX_NOTIFICATIONS_PAGE_BYTES && !page.notifications.is_empty();
            if page.notifications.len() >= limit || is_full {
                page.next = last;
                break;
            }
            last = Some(Arc::clone(&notification.change.id));
            page.notifications.push(KeptNotification { payload: Arc::clone(payload), read: notification.is_read });
        }
        Ok(page)
    }

    pub(super) fn inbox(&self, user_id: &str, limit: usize, as_of: u64) -> Inbox {
        let mut inbox = Inbox { unread: self.unread(user_id), as_of, ..Inbox::default() };
        let Some(user) = self.users.get(user_id) else { return inbox };
        let mut bytes = 0;
        for number in user.numbers.range(user.received + 1..) {
            let Some(Notification { change, .. }) = self.kept.get(*number) else { continue };
            bytes += change.payload.len();
            inbox.more =
                inbox.undelivered.len() == limit || (bytes > INBOX_BATCH_BYTES && !inbox.undelivered.is_empty());
            if inbox.more {
                break;
            }
            let (id, payload) = (Arc::clone(&change.id), Arc::clone(&change.payload));
            inbox.undelivered.push(InboxItem { seq: *number, id, payload });
        }
        inbox
    }

    pub(super) fn received(&mut self, user_id: &str, up_to: u64) {
        if let Some(user) = self.users.get_mut(user_id) {
            user.received = user.received.max(up_to);
        }
    }

    /// Marks notifications as read. Returns how many of them were unread.
    pub(super) fn mark_read(&mut self, user_id: &str, mark: &ReadMark) -> Result<u64, StoreError> {
        let numbers: Vec<u64> = match mark {
            ReadMark::Ids(ids) => ids.iter().filter_map(|id| self.number_of(user_id, id)).collect(),
            ReadMark::UpTo(id) => {
                let newest = self.number_of(user_id, id).ok_or(StoreError::UnknownNotification)?;
                self.users.get(user_id).into_iter().flat_map(|user| user.numbers.range(..=newest)).copied().collect()
            }
        };
        let mut changed = 0;
        for number in numbers {
            if let Some(notification) = self.kept.get_mut(number).filter(|notification| !notification.is_read) {
                notification.is_read = true;
                changed += 1;
            }
        }
        if let Some(user) = self.users.get_mut(user_id) {
            user.unread -= changed;
        }
        Ok(changed)
    }
}
