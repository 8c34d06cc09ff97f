//! Reads a folder for a migration, row by row. Its server is stopped: the file is locked meanwhile.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::super::Floors;
use super::super::migration::{KeyRow, MediaRow, Migrated, NotificationRow, ReceivedRow};
use super::{OpenError, Options, media, open, receipts, revocations};
use crate::contract::time::Moment;

/// A folder whose server is stopped.
#[derive(Debug)]
pub struct Folder {
    connection: Connection,
    options: Options,
    now: Moment,
}

/// Takes a row.
type Take<'a, E> = &'a mut dyn FnMut(Migrated) -> Result<(), E>;

impl Folder {
    /// Opens the folder of a server, and locks it. A file of an older version is brought to the newest one.
    ///
    /// # Errors
    /// If there is no store, or it can't be used. The error explains it in one line.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        if !options.folder.join(open::FILE).exists() {
            return Err(OpenError::NoStore { folder: options.folder.clone() });
        }
        Ok(Self { connection: open::open(options)?, options: options.clone(), now: Moment::now() })
    }

    /// What identifies the content: it is another one after each start of a server on the folder.
    ///
    /// # Errors
    /// If the file can't be read, or no server has used it yet.
    pub fn identity(&self) -> Result<String, OpenError> {
        let query = "SELECT value FROM secrets WHERE name = 'socket ids'";
        let secret: Option<[u8; 16]> =
            self.connection.query_row(query, [], |row| row.get(0)).optional().map_err(|error| self.failed(&error))?;
        let secret = secret.ok_or_else(|| OpenError::NoStore { folder: self.options.folder.clone() })?;
        let text = [&secret[..], &self.next_number()?.to_be_bytes()].concat();
        Ok(digest(&SHA256, &text).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }

    /// A number above those of all events.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn next_number(&self) -> Result<u64, OpenError> {
        let query = "SELECT value FROM meta WHERE name = 'next_seq'";
        let next = self.connection.query_row(query, [], |row| row.get(0)).optional();
        Ok(next.map_err(|error| self.failed(&error))?.unwrap_or(1))
    }

    fn failed(&self, error: &rusqlite::Error) -> OpenError {
        OpenError::of(error, &self.options.folder)
    }

    /// Hands over every row that is not too old, one at a time.
    ///
    /// # Errors
    /// If the file can't be read, or with the error of `take`.
    pub fn read<E: From<OpenError>>(&self, mut take: impl FnMut(Migrated) -> Result<(), E>) -> Result<(), E> {
        self.read_media(&mut take)?;
        self.read_notifications(&mut take)?;
        self.read_received(&mut take)?;
        self.read_keys(&mut take)?;
        self.read_revocations(&mut take)
    }

    fn read_media<E: From<OpenError>>(&self, take: Take<'_, E>) -> Result<(), E> {
        self.each(media::ALL, take, |row| {
            let state = media::state(row)?;
            let until = self.until(state.updated_at.epoch_ms(), self.options.bounds.media.age);
            self.unless_old(until, || Ok(Migrated::Media(MediaRow { id: row.get("id")?, state, until }))).transpose()
        })
    }

    fn read_notifications<E: From<OpenError>>(&self, take: Take<'_, E>) -> Result<(), E> {
        let query = "SELECT user, id, seq, fingerprint, payload, read, created_at FROM notifications ORDER BY seq";
        self.each(query, take, |row| {
            let until = self.until(row.get("created_at")?, self.options.bounds.notifications.age);
            let notification = || {
                Ok(Migrated::Notification(NotificationRow {
                    user: row.get("user")?,
                    id: row.get("id")?,
                    seq: row.get("seq")?,
                    fingerprint: row.get("fingerprint")?,
                    payload: row.get("payload")?,
                    is_read: row.get("read")?,
                    until,
                }))
            };
            self.unless_old(until, notification).transpose()
        })
    }

    fn read_received<E: From<OpenError>>(&self, take: Take<'_, E>) -> Result<(), E> {
        let query = "SELECT user, received, (SELECT created_at FROM notifications WHERE user = inboxes.user
                     ORDER BY seq DESC LIMIT 1) AS newest FROM inboxes";
        self.each(query, take, |row| {
            // Without a notification it says nothing.
            let Some(newest) = row.get("newest")? else { return Ok(None) };
            let until = self.until(newest, self.options.bounds.notifications.age);
            let received =
                || Ok(Migrated::Received(ReceivedRow { user: row.get("user")?, up_to: row.get("received")?, until }));
            self.unless_old(until, received).transpose()
        })
    }

    fn read_keys<E: From<OpenError>>(&self, take: Take<'_, E>) -> Result<(), E> {
        self.each(receipts::ALL, take, |row| {
            let at = Moment::from_epoch_ms(row.get("created_at")?);
            let until = self.until(at.epoch_ms(), self.options.bounds.idempotency_keys.age);
            let key = || {
                Ok(Migrated::Key(KeyRow {
                    publisher: row.get("name")?,
                    key: row.get("key")?,
                    fingerprint: row.get("fingerprint")?,
                    receipts: receipts::of(row)?,
                    at: at.min(self.now),
                    until,
                }))
            };
            self.unless_old(until, key).transpose()
        })
    }

    fn read_revocations<E: From<OpenError>>(&self, take: Take<'_, E>) -> Result<(), E> {
        self.each(revocations::ALL, take, |row| Ok(Some(Migrated::Revocation(revocations::revocation(row)?))))?;
        let floors = revocations::floors(&self.connection).map_err(|error| self.failed(&error))?;
        if floors == Floors::default() { Ok(()) } else { take(Migrated::Floors(floors)) }
    }

    /// When something of this time is too old. A clock that was ahead does not count.
    fn until(&self, at: u64, age: Duration) -> Moment {
        Moment::from_epoch_ms(at).min(self.now).after(age)
    }

    fn unless_old(
        &self,
        until: Moment,
        read: impl FnOnce() -> rusqlite::Result<Migrated>,
    ) -> Option<rusqlite::Result<Migrated>> {
        (until > self.now).then(read)
    }

    /// Reads each row of a query, and hands it over.
    fn each<E: From<OpenError>>(
        &self,
        query: &str,
        take: Take<'_, E>,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<Option<Migrated>>,
    ) -> Result<(), E> {
        let failed = |error: rusqlite::Error| E::from(self.failed(&error));
        let mut statement = self.connection.prepare(query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if let Some(migrated) = read(row).map_err(failed)? {
                take(migrated)?;
            }
        }
        Ok(())
    }
}
