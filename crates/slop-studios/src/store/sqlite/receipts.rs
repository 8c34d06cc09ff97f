//! Receipts by idempotency key.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, named_params};

use super::super::{Fingerprint, IdempotencyKey};
use crate::clock::Moment;

/// What an idempotency key was used for.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) fingerprint: Fingerprint,
    pub(super) at: Moment,
    /// None for a claim.
    pub(super) receipt: Option<Receipt>,
}

#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) id: Arc<str>,
    pub(super) stored: bool,
    pub(super) delivered: u64,
}

/// Publisher, key and place in one byte string. Neither text has a zero byte: one is hexadecimal, one a header.
pub(super) fn name(key: &IdempotencyKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.publisher.len() + key.key.len() + 6);
    bytes.extend_from_slice(key.publisher.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.key.as_bytes());
    if let Some(item) = key.item {
        bytes.push(0);
        bytes.extend_from_slice(&item.to_be_bytes());
    }
    bytes
}

pub(super) fn find(connection: &Connection, name: &[u8]) -> rusqlite::Result<Option<Remembered>> {
    connection
        .prepare_cached("SELECT * FROM receipts WHERE key = ?1")?
        .query_row([name], |row| {
            let id: Option<Arc<str>> = row.get("id")?;
            let (stored, delivered) = (row.get("stored")?, row.get("delivered")?);
            Ok(Remembered {
                fingerprint: row.get("fingerprint")?,
                at: Moment::from_epoch_ms(row.get("created_at")?),
                receipt: id.map(|id| Receipt { id, stored, delivered }),
            })
        })
        .optional()
}

/// Says whether there was one of this name, which it replaces.
pub(super) fn put(connection: &Connection, name: &[u8], remembered: &Remembered) -> rusqlite::Result<bool> {
    let replaced = connection.prepare_cached("DELETE FROM receipts WHERE key = ?1")?.execute([name])? > 0;
    let receipt = remembered.receipt.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO receipts (key, fingerprint, id, stored, delivered, created_at)
             VALUES (:key, :fingerprint, :id, :stored, :delivered, :created_at)",
        )?
        .execute(named_params! {
            ":key": name,
            ":fingerprint": remembered.fingerprint,
            ":id": receipt.map(|receipt| &receipt.id),
            ":stored": receipt.is_some_and(|receipt| receipt.stored),
            ":delivered": receipt.map_or(0, |receipt| receipt.delivered),
            ":created_at": remembered.at.epoch_ms(),
        })?;
    Ok(replaced)
}

/// Writes down how many sockets the publish was queued for.
pub(super) fn set_delivered(connection: &Connection, name: &[u8], delivered: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE receipts SET delivered = ?2 WHERE key = ?1")?.execute((name, delivered))?;
    Ok(())
}
