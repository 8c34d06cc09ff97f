//! Each user's notifications, and how far the user has received and read them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{
    Fingerprint, Inbox, InboxItem, KeptNotification, NotificationChange, NotificationsPage, ReadMark, StoreError,
    Unread,
};
use super::Failed;
use crate::contract::time::Moment;
use crate::limits::{INBOX_BATCH_BYTES, MAX_NOTIFICATIONS_PAGE_BYTES};

/// The stored data for the answer to a repeat of a notification.
#[derive(Debug)]
pub(super) struct FirstNotification {
    pub(super) seq: u64,
    pub(super) fingerprint: Fingerprint,
    pub(super) delivered: u64,
}

pub(super) fn find(connection: &Connection, user: &str, id: &str) -> rusqlite::Result<Option<FirstNotification>> {
    connection
        .prepare_cached("SELECT seq, fingerprint, delivered FROM notifications WHERE user = ?1 AND id = ?2")?
        .query_row((user, id), |row| {
            Ok(FirstNotification { seq: row.get(0)?, fingerprint: row.get(1)?, delivered: row.get(2)? })
        })
        .optional()
}

pub(super) fn insert(
    connection: &Connection,
    seq: u64,
    at: Moment,
    notification: &NotificationChange,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO notifications (seq, user, id, fingerprint, payload, created_at)
             VALUES (:seq, :user, :id, :fingerprint, :payload, :created_at)",
        )?
        .execute(named_params! {
            ":seq": seq,
            ":user": notification.user_id,
            ":id": notification.id,
            ":fingerprint": notification.fingerprint,
            ":payload": notification.payload,
            ":created_at": at.epoch_ms(),
        })?;
    Ok(())
}

/// Removes the oldest notifications in excess of `most`, and returns the bytes of each.
pub(super) fn keep_newest(connection: &Connection, user: &str, most: usize) -> rusqlite::Result<Vec<u64>> {
    let kept: usize = connection
        .prepare_cached("SELECT count(*) FROM notifications WHERE user = ?1")?
        .query_row([user], |row| row.get(0))?;
    if kept <= most {
        return Ok(Vec::new());
    }
    connection
        .prepare_cached(
            "DELETE FROM notifications WHERE seq IN
             (SELECT seq FROM notifications WHERE user = ?1 ORDER BY seq LIMIT ?2)
             RETURNING octet_length(payload)",
        )?
        .query_map((user, kept - most), |row| row.get(0))?
        .collect()
}

pub(super) fn unread(connection: &Connection, user: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM notifications WHERE user = ?1 AND read = 0")?
        .query_row([user], |row| row.get(0))
}

/// Stores the number of sockets that a notification was queued for.
pub(super) fn set_delivered(connection: &Connection, seq: u64, delivered: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE notifications SET delivered = ?2 WHERE seq = ?1")?.execute((seq, delivered))?;
    Ok(())
}

pub(super) fn page(
    connection: &Connection,
    user: &str,
    before: Option<&str>,
    limit: usize,
    as_of: u64,
) -> Result<NotificationsPage, Failed> {
    let end = match before {
        None => u64::MAX >> 1,
        Some(id) => find(connection, user, id)?.ok_or(StoreError::UnknownNotification)?.seq,
    };
    let mut statement = connection.prepare_cached(
        "SELECT id, payload, read FROM notifications WHERE user = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
    )?;
    // One more row tells whether there is a next page.
    let mut rows = statement.query((user, end, limit + 1))?;
    let (mut notifications, mut last, mut next, mut bytes) = (Vec::new(), None, None, 0);
    while let Some(row) = rows.next()? {
        bytes += row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?.len();
        if notifications.len() >= limit || (bytes > MAX_NOTIFICATIONS_PAGE_BYTES && !notifications.is_empty()) {
            next = last;
            break;
        }
        last = Some(row.get::<_, Arc<str>>(0)?);
        notifications.push(KeptNotification { payload: row.get(1)?, read: row.get(2)? });
    }
    Ok(NotificationsPage { notifications, next, unread: Unread { count: unread(connection, user)?, as_of } })
}

pub(super) fn inbox(connection: &Connection, user: &str, limit: usize, as_of: u64) -> rusqlite::Result<Inbox> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, id, payload FROM notifications
         WHERE user = ?1 AND seq > coalesce((SELECT received FROM inboxes WHERE user = ?1), 0)
         ORDER BY seq LIMIT ?2",
    )?;
    // One more row tells whether there are more.
    let mut rows = statement.query((user, limit + 1))?;
    let (mut undelivered, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        let item = InboxItem { seq: row.get(0)?, id: row.get(1)?, payload: row.get(2)? };
        bytes += item.payload.len();
        more = undelivered.len() == limit || (bytes > INBOX_BATCH_BYTES && !undelivered.is_empty());
        if more {
            break;
        }
        undelivered.push(item);
    }
    Ok(Inbox { undelivered, more, unread: unread(connection, user)?, as_of })
}

pub(super) fn received(connection: &Connection, user: &str, up_to: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO inboxes (user, received)
             SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM notifications WHERE user = ?1)
             ON CONFLICT (user) DO UPDATE SET received = excluded.received WHERE excluded.received > received",
        )?
        .execute((user, up_to))?;
    Ok(())
}

/// Marks notifications as read, and returns how many of them were unread.
pub(super) fn mark_read(connection: &Connection, user: &str, mark: &ReadMark) -> Result<usize, Failed> {
    match mark {
        ReadMark::UpTo(id) => {
            let newest = find(connection, user, id)?.ok_or(StoreError::UnknownNotification)?.seq;
            let mut statement = connection
                .prepare_cached("UPDATE notifications SET read = 1 WHERE user = ?1 AND read = 0 AND seq <= ?2")?;
            Ok(statement.execute((user, newest))?)
        }
        ReadMark::Ids(ids) => {
            let mut statement = connection
                .prepare_cached("UPDATE notifications SET read = 1 WHERE user = ?1 AND id = ?2 AND read = 0")?;
            let mut changed = 0;
            for id in ids {
                changed += statement.execute((user, id))?;
            }
            Ok(changed)
        }
    }
}
