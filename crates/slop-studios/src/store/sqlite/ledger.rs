//! The effect of requests on the tables, within one transaction for the whole group.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::super::media::{self as media_rules, MediaChange};
use super::super::{
    Bounds, Change, ChangeKind, IdempotencyKey, Inbox, MediaSnapshot, NotificationChange, ReadMark, Revocation,
    Revocations, Revoked, StoreError, Unread, Usage,
};
use super::lazy::{Lazy, SessionChange};
use super::log::{self, Entry};
use super::receipts::{self, KeyedItem, Keys, Receipt};
use super::request::Request;
use super::sequence::Sequence;
use super::{Failed, media, notifications, revocations, sessions};
use crate::contract::delivery::{Class, Envelope, Route};
use crate::contract::time::Moment;

/// The result of a request, provided that the transaction is committed.
#[derive(Debug)]
pub(super) enum Applied {
    /// A media item has a new state. Its event is to be sent.
    Media { seq: u64, envelope: Envelope, new_owner: Option<Arc<str>> },
    /// A user has a new notification, which is to be sent.
    Notified { seq: u64, envelope: Envelope, unread: u64 },
    /// An event for a room is to be sent. `kept`: the event is in the log, whether that was requested or not.
    RoomEvent { seq: u64, stored: bool, kept: bool },
    /// The change was committed before.
    Repeated { receipt: Receipt, first: Origin },
    /// The request may use the key.
    KeyIsFit,
    /// The file can be written.
    Written,
    /// The number of unread notifications. If it changed, the event with its number is to be sent.
    Read { unread: Unread, changed: bool },
    /// The tokens are revoked, and these revocations were evicted for it.
    Revoked(Revocations),
    /// The stored revocation, if there was one, is removed.
    Undone(Option<Revocation>),
    /// The item's state at this position in the order.
    Snapshot(MediaSnapshot),
    /// The user's undelivered notifications at this position in the order.
    Inbox(Inbox),
    /// The request was refused, and nothing was changed.
    Refused(StoreError),
    /// The request reads later, after the commit.
    Later,
}

/// The row that stores the number of sockets that a publish was queued for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// The receipt of this item.
    Receipt(KeyedItem),
    /// The notification with this number.
    Notification(u64),
}

/// The file, and the state that is known without reading it.
#[derive(Debug)]
pub(super) struct Ledger {
    connection: Connection,
    bounds: Bounds,
    /// The first number of this run.
    boot_seq: u64,
    /// The usage after the current transaction.
    usage: Usage,
    /// The usage before the current transaction.
    committed: Usage,
    keys: Keys,
    in_transaction: bool,
    /// Whether the last transaction failed, but may be complete in the write-ahead log.
    may_be_whole: bool,
}

impl Ledger {
    pub(super) fn new(connection: Connection, bounds: Bounds, boot_seq: u64) -> rusqlite::Result<Self> {
        let usage = Bounds::count(&connection)?;
        Ok(Self {
            connection,
            bounds,
            boot_seq,
            usage,
            committed: usage,
            keys: Keys::default(),
            in_transaction: false,
            may_be_whole: false,
        })
    }

    /// The connection, for reads between two transactions.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The usage as of the last commit.
    pub(super) fn committed(&self) -> Usage {
        self.committed
    }

    /// The first number of this run.
    pub(super) fn boot_seq(&self) -> u64 {
        self.boot_seq
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether the stored data exceeds a limit.
    pub(super) fn is_over_bounds(&self) -> bool {
        self.bounds.exceeded(self.usage)
    }

    /// See [`Bounds::enforce`].
    pub(super) fn enforce_bounds(&mut self, most: usize) -> rusqlite::Result<bool> {
        self.write()?;
        self.keys.write(&self.connection)?;
        self.bounds.enforce(&self.connection, &mut self.usage, Moment::now(), most)
    }

    /// Begins the transaction if it has not begun. A transaction without changes costs nothing.
    pub(super) fn write(&mut self) -> rusqlite::Result<()> {
        if !self.in_transaction {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.in_transaction = true;
        }
        Ok(())
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        if self.in_transaction {
            self.keys.write(&self.connection)?;
            let committed = self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
            // SQLite reports a full disk only for a write to the file, and the frame that completes a transaction is
            // written last. After any other error, such as a failed fsync, that frame may be in the file.
            let is_full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DiskFull);
            self.may_be_whole = committed.as_ref().is_err_and(|error| !is_full(error));
            committed?;
            self.in_transaction = false;
        }
        self.keys.clear();
        self.committed = self.usage;
        Ok(())
    }

    /// Whether the failed transaction may come back: the next start reads the write-ahead log up to the last complete
    /// transaction. Until another transaction has been written over it, nothing may happen that must come after it.
    pub(super) fn may_come_back(&mut self) -> bool {
        mem::take(&mut self.may_be_whole)
    }

    pub(super) fn rollback(&mut self) {
        // Some errors have already rolled back. If this fails, the next BEGIN fails too, and nothing is accepted.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "roll back");
        }
        self.in_transaction = false;
        self.keys.clear();
        self.usage = self.committed;
    }

    /// Moves everything out of the write-ahead log into the file, and waits for the disk.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        // A disk error is returned here. No other process uses the file, so it is never busy.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Closes the file and releases its lock.
    pub(super) fn close(self) -> rusqlite::Result<()> {
        self.connection.close().map_err(|(_, error)| error)
    }

    /// Applies a request. Its events get their numbers from `numbers`.
    ///
    /// # Errors
    /// If the transaction can't continue. A refusal is not an error.
    pub(super) fn apply(&mut self, request: &Request, numbers: &mut Sequence) -> rusqlite::Result<Applied> {
        let applied = match request {
            Request::Commit { change, .. } => self.change(change, numbers),
            Request::CheckKey { key, .. } => self.receipt(key).map(|_| Applied::KeyIsFit),
            Request::MarkRead { user_id, mark, .. } => self.mark_read(user_id, mark, numbers),
            Request::Revoke { revocation, .. } => self.revoke(revocation),
            Request::UndoRevocation { subject, .. } => self.undo_revocation(subject),
            Request::Snapshot { media_id, .. } => {
                let as_of = numbers.peek() - 1;
                media::snapshot(&self.connection, media_id, as_of).map(Applied::Snapshot).map_err(Failed::from)
            }
            Request::Inbox { user_id, limit, .. } => {
                let as_of = numbers.peek() - 1;
                notifications::inbox(&self.connection, user_id, *limit, as_of).map(Applied::Inbox).map_err(Failed::from)
            }
            Request::TryToWrite { .. } => self.try_to_write(),
            Request::Read(_) => Ok(Applied::Later),
        };
        match applied {
            Ok(applied) => Ok(applied),
            Err(Failed::Refused(error)) => Ok(Applied::Refused(error)),
            Err(Failed::Broken(error)) => Err(error),
        }
    }

    /// Applies a change. Nothing is written before the last check, so a refusal leaves nothing behind.
    fn change(&mut self, change: &Change, numbers: &mut Sequence) -> Result<Applied, Failed> {
        if let Some(key) = &change.key
            && let Some(receipt) = self.receipt(key)?
        {
            return Ok(Applied::Repeated { receipt, first: Origin::Receipt(KeyedItem::of(key)) });
        }
        let applied = match &change.what {
            ChangeKind::Media(step) => self.media(step, change.at, numbers)?,
            ChangeKind::Notification(notification) => self.notification(notification, change.at, numbers)?,
            ChangeKind::Room(event) => self.room(event, change.at, change.key.is_some(), numbers)?,
        };
        if let Some(key) = &change.key {
            let (stored, delivered) = match &applied {
                Applied::RoomEvent { stored, .. } => (*stored, 0),
                Applied::Repeated { receipt: Receipt(_, stored, delivered), .. } => (*stored, *delivered),
                _ => (true, 0),
            };
            self.remember(key, change.at, Receipt(Arc::clone(&change.id), stored, delivered))?;
        }
        Ok(applied)
    }

    fn media(&mut self, change: &MediaChange, at: Moment, numbers: &mut Sequence) -> Result<Applied, Failed> {
        let current = media::find(&self.connection, &change.media_id)?;
        let (state, owner_became_known) =
            media_rules::apply(current.as_ref(), change, at, numbers.peek()).map_err(StoreError::from)?;
        self.write()?;
        numbers.next();
        media::put(&self.connection, &change.media_id, &state)?;
        if let Some(current) = &current {
            self.usage.media.remove(current.payload.len() as u64);
        }
        self.usage.media.add(state.payload.len() as u64);
        let envelope = state.envelope(&change.media_id);
        // For progress, the state is kept instead.
        if envelope.class == Class::Durable {
            self.log(&Entry { seq: state.seq, at, envelope: &envelope })?;
        }
        let new_owner = state.owner_id.filter(|_| owner_became_known);
        Ok(Applied::Media { seq: state.seq, envelope, new_owner })
    }

    fn notification(
        &mut self,
        notification: &NotificationChange,
        at: Moment,
        numbers: &mut Sequence,
    ) -> Result<Applied, Failed> {
        let user = &*notification.user_id;
        if let Some(found) = notifications::find(&self.connection, user, &notification.id)? {
            if found.fingerprint != notification.fingerprint {
                return Err(StoreError::NotificationIdReused.into());
            }
            let receipt = Receipt(Arc::clone(&notification.id), true, found.delivered);
            return Ok(Applied::Repeated { receipt, first: Origin::Notification(found.seq) });
        }
        self.write()?;
        let seq = numbers.next();
        notifications::insert(&self.connection, seq, at, notification)?;
        self.usage.notifications.add(notification.payload.len() as u64);
        for bytes in notifications::keep_newest(&self.connection, user, self.bounds.notifications_per_user)? {
            self.usage.notifications.remove(bytes);
        }
        let envelope = Envelope::of_user(Route::NOTIFICATION, user, &notification.payload);
        self.log(&Entry { seq, at, envelope: &envelope })?;
        Ok(Applied::Notified { seq, envelope, unread: notifications::unread(&self.connection, user)? })
    }

    /// Applies an event for a room. With an idempotency key it is logged whatever its class: after the receipt is
    /// committed, the event is not published again.
    fn room(&mut self, event: &Envelope, at: Moment, has_key: bool, numbers: &mut Sequence) -> Result<Applied, Failed> {
        let stored = event.class == Class::Durable;
        let kept = stored || has_key;
        if kept {
            self.write()?;
        }
        let seq = numbers.next();
        if kept {
            self.log(&Entry { seq, at, envelope: event })?;
        }
        Ok(Applied::RoomEvent { seq, stored, kept })
    }

    fn log(&mut self, entry: &Entry<'_>) -> rusqlite::Result<()> {
        self.usage.log.add(entry.envelope.argument.len() as u64);
        log::append(&self.connection, entry)
    }

    /// The receipt of an earlier publish with this key, unless it is too old. If the key is new, room is made for it.
    fn receipt(&mut self, key: &IdempotencyKey) -> Result<Option<Receipt>, Failed> {
        let (item, since) = (KeyedItem::of(key), self.keys_since(Moment::now()));
        match self.keys.find(&self.connection, &item, since)? {
            Some(known) if known.fingerprint != key.fingerprint => Err(StoreError::KeyReused.into()),
            Some(known) => Ok(known.receipt(&item).cloned()),
            None => self.make_room(&key.publisher).map(|()| None),
        }
    }

    /// The age limit of keys: keys used at this time or earlier are forgotten.
    fn keys_since(&self, now: Moment) -> Moment {
        now.before(self.bounds.idempotency_keys.age)
    }

    /// Makes sure that a key of this publisher can be remembered, if necessary by forgetting keys that are already too
    /// old. A batch may exceed the remaining room; otherwise a large batch would be refused for ever.
    fn make_room(&mut self, publisher: &str) -> Result<(), Failed> {
        let bounds = self.bounds.idempotency_keys;
        for (of, limit) in [(Some(publisher), bounds.of_publisher), (None, bounds.of_all)] {
            let used = match of {
                Some(publisher) => receipts::used_by(&self.connection, publisher)?,
                None => self.usage.idempotency_keys,
            };
            let Some(left) = used.checked_sub(limit) else { continue };
            let Some((row, at)) = receipts::last_in_the_way(&self.connection, of, left + 1)? else { continue };
            let now = Moment::now();
            let since = self.keys_since(now);
            if at > since {
                let wait = Duration::from_millis(at.min(now).epoch_ms().saturating_sub(since.epoch_ms()));
                return Err(StoreError::TooManyKeys { of_publisher: of.is_some(), limit, wait }.into());
            }
            self.write()?;
            self.keys.write(&self.connection)?;
            let (_, freed) = receipts::forget_up_to(&self.connection, of, row, since)?;
            self.usage.idempotency_keys = self.usage.idempotency_keys.saturating_sub(freed);
        }
        Ok(())
    }

    fn remember(&mut self, key: &IdempotencyKey, at: Moment, receipt: Receipt) -> rusqlite::Result<()> {
        self.write()?;
        let since = self.keys_since(Moment::now());
        let more = self.keys.add(&self.connection, key, (at, since), receipt)?;
        self.usage.idempotency_keys = self.usage.idempotency_keys.saturating_add_signed(more);
        Ok(())
    }

    fn mark_read(&mut self, user_id: &str, mark: &ReadMark, numbers: &mut Sequence) -> Result<Applied, Failed> {
        self.write()?;
        let changed = notifications::mark_read(&self.connection, user_id, mark)? > 0;
        let count = notifications::unread(&self.connection, user_id)?;
        let as_of = if changed { numbers.next() } else { numbers.peek() - 1 };
        Ok(Applied::Read { unread: Unread { count, as_of }, changed })
    }

    fn revoke(&mut self, revocation: &Revocation) -> Result<Applied, Failed> {
        let bound = self.bounds.revocations;
        let is_new = revocations::find(&self.connection, &revocation.subject)?.is_none();
        let excess = if is_new { (self.usage.revocations.rows + 1).saturating_sub(bound.rows) } else { 0 };
        let over = revocations::over(&self.connection, &bound, Moment::now(), excess)?;
        if (over.list.len() as u64) < excess {
            return Err(StoreError::TooManyRevocations.into());
        }
        self.write()?;
        for forgotten in &over.list {
            revocations::remove(&self.connection, &forgotten.subject)?;
            self.usage.revocations.remove(0);
        }
        revocations::raise(&self.connection, over.floors)?;
        revocations::put(&self.connection, revocation)?;
        if is_new {
            self.usage.revocations.add(0);
        }
        Ok(Applied::Revoked(over))
    }

    fn undo_revocation(&mut self, subject: &Revoked) -> Result<Applied, Failed> {
        let kept = revocations::find(&self.connection, subject)?;
        if kept.is_some() {
            self.write()?;
            revocations::remove(&self.connection, subject)?;
            self.usage.revocations.remove(0);
        }
        Ok(Applied::Undone(kept))
    }

    /// Writes a page without changing it.
    fn try_to_write(&mut self) -> Result<Applied, Failed> {
        self.write()?;
        self.connection.prepare_cached("UPDATE meta SET value = value WHERE name = 'next_seq'")?.execute([])?;
        Ok(Applied::Written)
    }

    /// Writes the deferred changes, which no caller waits for.
    pub(super) fn save(&mut self, lazy: &Lazy) -> rusqlite::Result<()> {
        self.write()?;
        if let Some(up_to) = lazy.confirmed_at_most {
            sessions::confirmed_at_most(&self.connection, self.boot_seq, up_to)?;
        }
        for (key, change) in &lazy.sessions {
            if let SessionChange::Left(left) = change {
                sessions::left(&self.connection, key, *left)?;
                continue;
            }
            if !change.is_first()
                && let Some(bytes) = sessions::remove(&self.connection, key)?
            {
                self.usage.sessions.remove(bytes);
            }
            if let SessionChange::Saved(session) = change {
                self.usage.sessions.add(sessions::insert(&self.connection, session, self.boot_seq)?);
            }
        }
        if let Some(up_to) = lazy.confirmed {
            sessions::confirmed(&self.connection, self.boot_seq, up_to)?;
        }
        for (user_id, up_to) in &lazy.received {
            notifications::received(&self.connection, user_id, *up_to)?;
        }
        Ok(())
    }

    /// Stores the number of sockets that a publish was queued for.
    pub(super) fn set_delivered(&mut self, origin: &Origin, delivered: u64) -> rusqlite::Result<()> {
        match origin {
            Origin::Receipt(item) => self.keys.set_delivered(&self.connection, item, delivered),
            Origin::Notification(seq) => notifications::set_delivered(&self.connection, *seq, delivered),
        }
    }
}
