//! Revoked tokens.

use rusqlite::{Connection, named_params};

use super::super::{Revocation, Revoked};
use crate::clock::Moment;

const USER: i64 = 0;
const TOKEN: i64 = 1;

fn name(subject: &Revoked) -> (i64, &str) {
    match subject {
        Revoked::User(user_id) => (USER, user_id),
        Revoked::Token(token_id) => (TOKEN, token_id),
    }
}

pub(super) fn is_kept(connection: &Connection, subject: &Revoked) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM revocations WHERE kind = ?1 AND name = ?2")?.exists(name(subject))
}

/// Keeps it, or makes the one that is kept cover as much. Says whether there was none.
pub(super) fn put(connection: &Connection, revocation: &Revocation) -> rusqlite::Result<bool> {
    let is_new = !is_kept(connection, &revocation.subject)?;
    let (kind, name) = name(&revocation.subject);
    connection
        .prepare_cached(
            "INSERT INTO revocations (kind, name, at, until) VALUES (:kind, :name, :at, :until)
             ON CONFLICT DO UPDATE SET at = max(at, excluded.at), until = max(until, excluded.until)",
        )?
        .execute(named_params! {
            ":kind": kind,
            ":name": name,
            ":at": revocation.at.epoch_ms(),
            ":until": revocation.until.epoch_ms(),
        })?;
    Ok(is_new)
}

/// Those that are not over.
pub(super) fn all(connection: &Connection, now: Moment) -> rusqlite::Result<Vec<Revocation>> {
    let mut statement = connection.prepare_cached("SELECT kind, name, at, until FROM revocations WHERE until > ?1")?;
    let rows = statement.query_map([now.epoch_ms()], |row| {
        let name: std::sync::Arc<str> = row.get("name")?;
        let subject = if row.get::<_, i64>("kind")? == USER { Revoked::User(name) } else { Revoked::Token(name) };
        let (at, until) = (row.get("at")?, row.get("until")?);
        Ok(Revocation { subject, at: Moment::from_epoch_ms(at), until: Moment::from_epoch_ms(until) })
    })?;
    rows.collect()
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM revocations", [], |row| row.get(0))
}

/// Removes those that are over, at most so many, and says how many that were.
pub(super) fn remove_over(connection: &Connection, now: Moment, most: usize) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM revocations WHERE (kind, name) IN
             (SELECT kind, name FROM revocations WHERE until <= ?1 ORDER BY until LIMIT ?2)",
        )?
        .execute((now.epoch_ms(), most))
}
