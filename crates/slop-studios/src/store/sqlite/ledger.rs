//! What requests do to the tables, within one transaction for the whole group.

use std::mem;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};

use super::super::media::{self as life, MediaChange};
use super::super::{
    Change, Class, IdempotencyKey, Inbox, MediaState, NotificationChange, ReadMark, Revocation, RoomEvent, StoreError,
    Usage, What,
};
use super::log::{self, Entry};
use super::queue::{Lazy, Request, SessionChange};
use super::receipts::{self, Receipt, Remembered};
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
    /// The key is the request's.
    Claimed,
    /// So many are unread; if that is new, an event with this number is to go out.
    Unread { unread: u64, changed: Option<u64> },
    /// The tokens are revoked.
    Revoked,
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
    /// With the receipt of this name.
    Receipt(Vec<u8>),
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
    in_transaction: bool,
    /// Whether the last transaction failed in a way that leaves open whether the write-ahead log has it in whole.
    may_be_whole: bool,
}

impl Ledger {
    pub(super) fn new(connection: Connection, bounds: Bounds, life: u64) -> rusqlite::Result<Self> {
        let usage = Bounds::count(&connection)?;
        Ok(Self { connection, bounds, life, usage, committed: usage, in_transaction: false, may_be_whole: false })
    }

    /// To read with, between two transactions.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What is kept, as committed.
    pub(super) fn committed(&self) -> Usage {
        self.committed
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
            let committed = self.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
            // SQLite says that the disk is full only of a write to the file, and the frame that makes a transaction whole
            // is written last. After any other error, such as a failed fsync, it may be there.
            let is_full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DiskFull);
            self.may_be_whole = committed.as_ref().is_err_and(|error| !is_full(error));
            committed?;
            self.in_transaction = false;
        }
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
        self.usage = self.committed;
    }

    /// Closes the file, which moves everything out of the write-ahead log.
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
            Request::Claim { key, .. } => self.claim(key),
            Request::MarkRead { user_id, mark, .. } => self.mark_read(user_id, mark, numbers),
            Request::Revoke { revocation, .. } => self.revoke(revocation),
            Request::Snapshot { media_id, .. } => {
                media::find(&self.connection, media_id).map(Applied::Snapshot).map_err(Failed::from)
            }
            Request::Inbox { user_id, limit, .. } => {
                let as_of = numbers.peek() - 1;
                notifications::inbox(&self.connection, user_id, *limit, as_of).map(Applied::Inbox).map_err(Failed::from)
            }
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
        let name = change.key.as_ref().map(receipts::name);
        if let (Some(key), Some(name)) = (&change.key, &name)
            && let Some(receipt) = self.remembered(key, name)?.and_then(|remembered| remembered.receipt)
        {
            return Ok(Applied::Repeated { receipt, first: Origin::Receipt(name.clone()) });
        }
        let applied = match &change.what {
            What::Media(step) => self.media(step, change.at, numbers)?,
            What::Notification(notification) => self.notification(notification, change.at, numbers)?,
            What::Room(event) => self.room(event, change.at, name.is_some(), numbers)?,
        };
        if let (Some(key), Some(name)) = (&change.key, &name) {
            let (stored, delivered) = match &applied {
                Applied::Said { stored, .. } => (*stored, 0),
                Applied::Repeated { receipt, .. } => (receipt.stored, receipt.delivered),
                _ => (true, 0),
            };
            let receipt = Receipt { id: Arc::clone(&change.id), stored, delivered };
            self.remember(key, name, change.at, Some(receipt))?;
        }
        Ok(applied)
    }

    fn media(&mut self, change: &MediaChange, at: Moment, numbers: &mut Sequence) -> Result<Applied, Failed> {
        let current = media::find(&self.connection, &change.media_id)?;
        let (state, owner_became_known) =
            life::apply(current.as_ref(), change, at, numbers.peek()).map_err(StoreError::from)?;
        self.write()?;
        numbers.next();
        media::put(&self.connection, &change.media_id, &state)?;
        if let Some(current) = &current {
            self.usage.media.remove(current.payload.len() as u64);
        }
        self.usage.media.add(state.payload.len() as u64);
        if !matches!(state.step, life::Step::Progress(_)) {
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
            let receipt = Receipt { id: Arc::clone(&notification.id), stored: true, delivered: found.delivered };
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

    fn claim(&mut self, key: &IdempotencyKey) -> Result<Applied, Failed> {
        let name = receipts::name(key);
        if self.remembered(key, &name)?.is_none() {
            self.remember(key, &name, Moment::now(), None)?;
        }
        Ok(Applied::Claimed)
    }

    /// What the key was used for, unless that is too long ago.
    fn remembered(&self, key: &IdempotencyKey, name: &[u8]) -> Result<Option<Remembered>, Failed> {
        let since = Moment::now().before(self.bounds.receipts.age);
        let remembered = receipts::find(&self.connection, name)?.filter(|remembered| remembered.at > since);
        match remembered {
            Some(remembered) if remembered.fingerprint != key.fingerprint => Err(StoreError::KeyReused.into()),
            remembered => Ok(remembered),
        }
    }

    fn remember(
        &mut self,
        key: &IdempotencyKey,
        name: &[u8],
        at: Moment,
        receipt: Option<Receipt>,
    ) -> rusqlite::Result<()> {
        self.write()?;
        let remembered = Remembered { fingerprint: key.fingerprint, at, receipt };
        if !receipts::put(&self.connection, name, &remembered)? {
            self.usage.receipts.add(0);
        }
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
        if self.usage.revocations.rows >= bound && !revocations::is_kept(&self.connection, &revocation.subject)? {
            return Err(StoreError::TooManyRevocations.into());
        }
        self.write()?;
        if revocations::put(&self.connection, revocation)? {
            self.usage.revocations.add(0);
        }
        Ok(Applied::Revoked)
    }

    /// Writes what nobody waits for.
    pub(super) fn save(&mut self, lazy: &Lazy) -> rusqlite::Result<()> {
        self.write()?;
        for (key, change) in &lazy.sessions {
            if let SessionChange::Left(left) = change {
                sessions::left(&self.connection, key, *left)?;
                continue;
            }
            if let Some(bytes) = sessions::remove(&self.connection, key)? {
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
    pub(super) fn set_delivered(&self, origin: &Origin, delivered: u64) -> rusqlite::Result<()> {
        match origin {
            Origin::Receipt(name) => receipts::set_delivered(&self.connection, name, delivered),
            Origin::Notification(seq) => notifications::set_delivered(&self.connection, *seq, delivered),
        }
    }
}
