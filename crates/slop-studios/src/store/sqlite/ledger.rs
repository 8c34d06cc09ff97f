//! What requests do to the tables, within one transaction for the whole group.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::super::media::{self as media_rules, MediaChange};
use super::super::{
    Change, Class, IdempotencyKey, Inbox, MediaState, NotificationChange, ReadMark, Revocation, Revocations, Revoked,
    RoomEvent, StoreError, Usage, What,
};
use super::log::{self, Entry};
use super::queue::{Lazy, Request, SessionChange};
use super::receipts::{self, KeyedItem, Keys, Receipt};
use super::retention::Bounds;
use super::sequence::Sequence;
use super::{Failed, media, notifications, revocations, sessions};
use crate::clock::Moment;
use crate::events::server;
use crate::namespaces::{MEDIA, NOTIFICATIONS};
use crate::rooms;

/// What became of a request, for as long as the transaction is going to be committed.
#[derive(Debug)]
pub(super) enum Applied {
    /// A media item has a new state; its event is to go out.
    Media { state: MediaState, owner_became_known: bool },
    /// A user has a new notification, which is to go out.
    Notified { seq: u64, unread: u64 },
    /// A room is to be told something. `kept`: it is in the log, whether that was asked for or not.
    Said { seq: u64, stored: bool, kept: bool },
    /// It was done before.
    Repeated { receipt: Receipt, first: Origin },
    /// The key may be the request's.
    KeyIsFit,
    /// It can be written.
    Written,
    /// So many are unread; if that is new, an event with this number is to go out.
    Unread { unread: u64, changed: Option<u64> },
    /// The tokens are revoked, and these revocations have left for it.
    Revoked(Revocations),
    /// The revocation that was kept is no more.
    Undone(Option<Revocation>),
    /// What was known at this place in the order.
    Snapshot(Option<MediaState>),
    /// What waited at this place in the order.
    Inbox(Inbox),
    /// Nothing happened.
    Refused(StoreError),
    /// It reads later, when all is committed.
    Later,
}

/// Where the number of sockets that a publish was queued for is written down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// With the receipt of this item.
    Receipt(KeyedItem),
    /// With the notification of this number.
    Notification(u64),
}

/// The file, and what is known of it without looking.
#[derive(Debug)]
pub(super) struct Ledger {
    connection: Connection,
    bounds: Bounds,
    /// The first number of this life.
    life: u64,
    /// What is kept, as the transaction leaves it.
    usage: Usage,
    /// What is kept, as it was before.
    committed: Usage,
    keys: Keys,
    in_transaction: bool,
    /// Whether the last transaction failed in a way that leaves open whether the write-ahead log has it in whole.
    may_be_whole: bool,
}

impl Ledger {
    pub(super) fn new(connection: Connection, bounds: Bounds, life: u64) -> rusqlite::Result<Self> {
        let usage = Bounds::count(&connection)?;
        Ok(Self {
            connection,
            bounds,
            life,
            usage,
            committed: usage,
            keys: Keys::default(),
            in_transaction: false,
            may_be_whole: false,
        })
    }

    /// To read with, between two transactions.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What is kept, as committed.
    pub(super) fn committed(&self) -> Usage {
        self.committed
    }

    /// The first number of this life.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether more is kept than may be.
    pub(super) fn is_over_bounds(&self) -> bool {
        self.bounds.exceeded(self.usage)
    }

    /// See [`Bounds::enforce`].
    pub(super) fn enforce_bounds(&mut self, most: usize) -> rusqlite::Result<bool> {
        self.write()?;
        self.keys.write(&self.connection)?;
        self.bounds.enforce(&self.connection, &mut self.usage, Moment::now(), most)
    }

    /// Begins the transaction if it has not begun. One in which nothing changes costs nothing.
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
            // SQLite says that the disk is full only of a write to the file, and the frame that makes a transaction whole
            // is written last. After any other error, such as a failed fsync, it may be there.
            let is_full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DiskFull);
            self.may_be_whole = committed.as_ref().is_err_and(|error| !is_full(error));
            committed?;
            self.in_transaction = false;
        }
        self.keys.clear();
        self.committed = self.usage;
        Ok(())
    }

    /// Whether the transaction that failed may come back: the next start reads the write-ahead log up to the last whole
    /// transaction. Until another one has been written over it, nothing may happen that must come after it.
    pub(super) fn may_come_back(&mut self) -> bool {
        mem::take(&mut self.may_be_whole)
    }

    pub(super) fn rollback(&mut self) {
        // Some errors have rolled back already. If this fails, the next BEGIN does too, and nothing is accepted.
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
        // An error of the disk is one here. Nobody else uses the file, so that it is never busy.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Closes the file and gives up its lock.
    pub(super) fn close(self) -> rusqlite::Result<()> {
        self.connection.close().map_err(|(_, error)| error)
    }

    /// Applies a request, with the numbers for its events.
    ///
    /// # Errors
    /// If the transaction can't go on. A refusal is no error.
    pub(super) fn apply(&mut self, request: &Request, numbers: &mut Sequence) -> rusqlite::Result<Applied> {
        let applied = match request {
            Request::Commit { change, .. } => self.change(change, numbers),
            Request::CheckKey { key, .. } => self.receipt(key).map(|_| Applied::KeyIsFit),
            Request::MarkRead { user_id, mark, .. } => self.mark_read(user_id, mark, numbers),
            Request::Revoke { revocation, .. } => self.revoke(revocation),
            Request::UndoRevocation { subject, .. } => self.undo_revocation(subject),
            Request::Snapshot { media_id, .. } => {
                media::find(&self.connection, media_id).map(Applied::Snapshot).map_err(Failed::from)
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

    /// Nothing is written before the last reason to refuse, so a refusal leaves nothing behind.
    fn change(&mut self, change: &Change, numbers: &mut Sequence) -> Result<Applied, Failed> {
        if let Some(key) = &change.key
            && let Some(receipt) = self.receipt(key)?
        {
            return Ok(Applied::Repeated { receipt, first: Origin::Receipt(KeyedItem::of(key)) });
        }
        let applied = match &change.what {
            What::Media(step) => self.media(step, change.at, numbers)?,
            What::Notification(notification) => self.notification(notification, change.at, numbers)?,
            What::Room(event) => self.room(event, change.at, change.key.is_some(), numbers)?,
        };
        if let Some(key) = &change.key {
            let (stored, delivered) = match &applied {
                Applied::Said { stored, .. } => (*stored, 0),
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
        if !matches!(state.step, media_rules::Step::Progress(_)) {
            let owner_room = state.owner_id.as_deref().map(rooms::user_room);
            self.log(&Entry {
                seq: state.seq,
                at,
                namespace: MEDIA,
                room: &rooms::media_room(&change.media_id),
                owner_room: owner_room.as_deref(),
                event: state.step.event(),
                argument: &state.payload,
                is_latest: false,
            })?;
        }
        Ok(Applied::Media { state, owner_became_known })
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
        self.log(&Entry {
            seq,
            at,
            namespace: NOTIFICATIONS,
            room: &rooms::user_room(user),
            owner_room: None,
            event: server::NOTIFICATION,
            argument: &notification.payload,
            is_latest: false,
        })?;
        Ok(Applied::Notified { seq, unread: notifications::unread(&self.connection, user)? })
    }

    /// With an idempotency key it is logged whatever its class: once the receipt is committed, nobody publishes it again.
    fn room(
        &mut self,
        event: &RoomEvent,
        at: Moment,
        has_key: bool,
        numbers: &mut Sequence,
    ) -> Result<Applied, Failed> {
        let stored = event.class == Class::Durable;
        let kept = stored || has_key;
        if kept {
            self.write()?;
        }
        let seq = numbers.next();
        if kept {
            self.log(&Entry {
                seq,
                at,
                namespace: event.namespace,
                room: &event.room,
                owner_room: None,
                event: &event.event,
                argument: &event.argument,
                is_latest: event.class == Class::Latest,
            })?;
        }
        Ok(Applied::Said { seq, stored, kept })
    }

    fn log(&mut self, entry: &Entry<'_>) -> rusqlite::Result<()> {
        self.usage.log.add(entry.argument.len() as u64);
        log::append(&self.connection, entry)
    }

    /// The receipt that an earlier publish with this key got, unless that is too long ago. If the key is new, there is a
    /// place for it.
    fn receipt(&mut self, key: &IdempotencyKey) -> Result<Option<Receipt>, Failed> {
        let (item, since) = (KeyedItem::of(key), self.keys_since(Moment::now()));
        match self.keys.find(&self.connection, &item, since)? {
            Some(known) if known.fingerprint != key.fingerprint => Err(StoreError::KeyReused.into()),
            Some(known) => Ok(known.receipt(&item).cloned()),
            None => self.make_room(&key.publisher).map(|()| None),
        }
    }

    /// Keys that were used then, or earlier, are forgotten.
    fn keys_since(&self, now: Moment) -> Moment {
        now.before(self.bounds.idempotency_keys.age)
    }

    /// Makes sure that a key of this publisher can be remembered, if need be by forgetting what is too old already. A batch
    /// may be more than what is left: one that is large must not be refused for ever.
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
        let unread = notifications::unread(&self.connection, user_id)?;
        Ok(Applied::Unread { unread, changed: changed.then(|| numbers.next()) })
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

    /// Writes a page as it is.
    fn try_to_write(&mut self) -> Result<Applied, Failed> {
        self.write()?;
        self.connection.prepare_cached("UPDATE meta SET value = value WHERE name = 'next_seq'")?.execute([])?;
        Ok(Applied::Written)
    }

    /// Writes what nobody waits for.
    pub(super) fn save(&mut self, lazy: &Lazy) -> rusqlite::Result<()> {
        self.write()?;
        if let Some(up_to) = lazy.confirmed_at_most {
            sessions::confirmed_at_most(&self.connection, self.life, up_to)?;
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
                self.usage.sessions.add(sessions::insert(&self.connection, session, self.life)?);
            }
        }
        if let Some(up_to) = lazy.confirmed {
            sessions::confirmed(&self.connection, self.life, up_to)?;
        }
        for (user_id, up_to) in &lazy.received {
            notifications::received(&self.connection, user_id, *up_to)?;
        }
        Ok(())
    }

    /// Writes down how many sockets a publish was queued for.
    pub(super) fn set_delivered(&mut self, origin: &Origin, delivered: u64) -> rusqlite::Result<()> {
        match origin {
            Origin::Receipt(item) => self.keys.set_delivered(&self.connection, item, delivered),
            Origin::Notification(seq) => notifications::set_delivered(&self.connection, *seq, delivered),
        }
    }
}
