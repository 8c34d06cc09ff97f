//! Revoked tokens. A revocation stays for as long as there is room. When there is no room, revocations that are over
//! under the current settings are removed, the oldest first. They leave a floor: the tokens that they covered stay
//! refused under any later settings.

use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::super::{Floors, Revocation, RevocationBound, Revocations, Revoked};
use crate::contract::time::Moment;

const USER: i64 = 0;
const TOKEN: i64 = 1;

/// Names in `meta`.
const ISSUED: &str = "revoked_issued";
const EXPIRED: &str = "revoked_expired";

/// The query for all revocations.
pub(super) const ALL: &str = "SELECT kind, name, at, expires FROM revocations";

fn name(subject: &Revoked) -> (i64, &str) {
    match subject {
        Revoked::User(user_id) => (USER, user_id),
        Revoked::Token(token_id) => (TOKEN, token_id),
    }
}

pub(super) fn revocation(row: &Row<'_>) -> rusqlite::Result<Revocation> {
    let name: std::sync::Arc<str> = row.get("name")?;
    let subject = if row.get::<_, i64>("kind")? == USER { Revoked::User(name) } else { Revoked::Token(name) };
    let expires_at = row.get::<_, Option<u64>>("expires")?.map(Moment::from_epoch_ms);
    Ok(Revocation { subject, at: Moment::from_epoch_ms(row.get("at")?), expires_at })
}

pub(super) fn find(connection: &Connection, subject: &Revoked) -> rusqlite::Result<Option<Revocation>> {
    connection
        .prepare_cached("SELECT kind, name, at, expires FROM revocations WHERE kind = ?1 AND name = ?2")?
        .query_row(name(subject), revocation)
        .optional()
}

/// Stores a revocation, or extends the stored one of the same subject to cover as much. If one of the two has no known
/// end, the result has none, and stays longer.
pub(super) fn put(connection: &Connection, revocation: &Revocation) -> rusqlite::Result<()> {
    let (kind, name) = name(&revocation.subject);
    connection
        .prepare_cached(
            "INSERT INTO revocations (kind, name, at, expires) VALUES (:kind, :name, :at, :expires)
             ON CONFLICT DO UPDATE SET at = max(at, excluded.at), expires = max(expires, excluded.expires)",
        )?
        .execute(named_params! {
            ":kind": kind,
            ":name": name,
            ":at": revocation.at.epoch_ms(),
            ":expires": revocation.expires_at.map(Moment::epoch_ms),
        })?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, subject: &Revoked) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM revocations WHERE kind = ?1 AND name = ?2")?.execute(name(subject))?;
    Ok(())
}

/// All stored revocations, and the floors.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Revocations> {
    let mut statement = connection.prepare_cached(ALL)?;
    let list = statement.query_map([], revocation)?.collect::<rusqlite::Result<_>>()?;
    Ok(Revocations { list, floors: floors(connection)? })
}

/// The floors.
pub(super) fn floors(connection: &Connection) -> rusqlite::Result<Floors> {
    let floor = |name| {
        let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        let floor: Option<u64> = statement.query_row([name], |row| row.get(0)).optional()?;
        Ok::<_, rusqlite::Error>(floor.map(Moment::from_epoch_ms))
    };
    Ok(Floors { issued: floor(ISSUED)?, expired: floor(EXPIRED)? })
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM revocations", [], |row| row.get(0))
}

/// The revocations that are over, at most `most`, and the floors to put in their place. Revocations with a known `exp`
/// come first: their floor refuses only tokens that have ended by their own `exp`.
pub(super) fn over(
    connection: &Connection,
    bound: &RevocationBound,
    now: Moment,
    most: u64,
) -> rusqlite::Result<Revocations> {
    if most == 0 {
        return Ok(Revocations::default());
    }
    let expired = now.before(bound.leeway);
    let mut list = connection
        .prepare_cached(
            "SELECT kind, name, at, expires FROM revocations WHERE expires <= ?1 ORDER BY expires LIMIT ?2",
        )?
        .query_map((expired.epoch_ms(), most), revocation)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let of_expired = list.iter().filter_map(|revocation| revocation.expires_at).max();
    let issued = now.before(bound.max_lifetime).before(bound.skew());
    let mut of_issue = connection
        .prepare_cached(
            "SELECT kind, name, at, expires FROM revocations
             WHERE at <= ?1 AND (expires IS NULL OR expires > ?2) ORDER BY at LIMIT ?3",
        )?
        .query_map((issued.epoch_ms(), expired.epoch_ms(), most - list.len() as u64), revocation)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let floor = of_issue.iter().map(|revocation| revocation.at.after(bound.skew())).max();
    list.append(&mut of_issue);
    Ok(Revocations { list, floors: Floors { issued: floor, expired: of_expired } })
}

/// Raises the floors to these, unless the current ones are higher.
pub(super) fn raise(connection: &Connection, floors: Floors) -> rusqlite::Result<()> {
    for (name, floor) in [(ISSUED, floors.issued), (EXPIRED, floors.expired)] {
        let Some(floor) = floor else { continue };
        connection
            .prepare_cached(
                "INSERT INTO meta (name, value) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            )?
            .execute((name, floor.epoch_ms()))?;
    }
    Ok(())
}
