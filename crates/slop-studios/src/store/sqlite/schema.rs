//! The tables. The file records the number of applied migrations.

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

/// The migrations. Never change a released one; add another.
const MIGRATIONS: &[M<'static>] =
    &[M::up(TABLES), M::up(REVOCATIONS), M::up(LIVES), M::up(IDEMPOTENCY_KEYS), M::up(REVOCATIONS_THAT_STAY)];

/// The number of migrations that this version knows.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// The first tables. The primary key of a table, `seq` or `row`, orders its rows from the oldest to the newest, so that
/// retention never needs an index of its own. A row that replaces another one gets the highest key.
const TABLES: &str = "
-- next_seq: the first number that no process has reserved. log_removed: the highest number that left the log.
CREATE TABLE meta (
    name TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The last event of each item. step: 0 progress, 1 complete, 2 error. progress: per cent, for step 0.
CREATE TABLE media (
    seq INTEGER PRIMARY KEY NOT NULL,
    id TEXT NOT NULL UNIQUE,
    owner TEXT,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    progress REAL,
    payload TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX media_under_way_by_owner ON media (owner) WHERE owner IS NOT NULL AND step = 0;

-- Durable events, with the one or two rooms that each went to.
CREATE TABLE log (
    seq INTEGER PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    room TEXT NOT NULL,
    owner_room TEXT,
    event TEXT NOT NULL,
    argument TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX log_by_room ON log (namespace, room);
CREATE INDEX log_by_owner_room ON log (namespace, owner_room) WHERE owner_room IS NOT NULL;

-- delivered: sockets that it was queued for, as far as known.
CREATE TABLE notifications (
    seq INTEGER PRIMARY KEY NOT NULL,
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    payload TEXT NOT NULL,
    read INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (user, id)
) STRICT;
CREATE INDEX notifications_by_user ON notifications (user);
CREATE INDEX notifications_unread ON notifications (user) WHERE read = 0;

-- received: every notification up to this seq was received on some socket. Without notifications it says nothing.
CREATE TABLE inboxes (
    user TEXT PRIMARY KEY NOT NULL,
    received INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER notifications_gone AFTER DELETE ON notifications
WHEN NOT EXISTS (SELECT 1 FROM notifications WHERE user = OLD.user)
BEGIN
    DELETE FROM inboxes WHERE user = OLD.user;
END;

-- key: SHA-256 of the session's secret. rooms: a JSON array of [name, seq after which it was joined].
CREATE TABLE sessions (
    row INTEGER PRIMARY KEY NOT NULL,
    key BLOB NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    socket_id TEXT NOT NULL,
    rooms TEXT NOT NULL,
    data TEXT NOT NULL,
    since_seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- id: that of the receipt, NULL for a claim.
CREATE TABLE receipts (
    row INTEGER PRIMARY KEY NOT NULL,
    key BLOB NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    id TEXT,
    stored INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;
";

/// Revocations, and secrets.
const REVOCATIONS: &str = "
-- kind: 0 a user, 1 a token. at: when it was revoked; until: when it is over. In ms since 1970.
CREATE TABLE revocations (
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    at INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX revocations_by_end ON revocations (until);

-- What the server made up for itself once, such as the key that tells socket ids from other names.
CREATE TABLE secrets (
    name TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Columns and tables that preserve across several restarts how long a client was away and which events it has.
/// The table `lives` has the runs of the server.
const LIVES: &str = "
-- Of a session: the first number of the run of the server that has saved it, and when its client left; NULL while it is
-- there. The run of earlier sessions is not known.
ALTER TABLE sessions ADD COLUMN life INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN left_at INTEGER;

-- confirmed: every client that was there when that run ended has received everything up to this seq.
CREATE TABLE lives (
    first_seq INTEGER PRIMARY KEY NOT NULL,
    confirmed INTEGER NOT NULL
) STRICT;

-- latest: of the events of its name in its room, only the newest matters.
ALTER TABLE log ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;
";

/// One row for each idempotency key with its publisher. Before, there was one row for each item of a batch.
const IDEMPOTENCY_KEYS: &str = "
-- used: what the publisher's keys count as. Who has none has no row.
CREATE TABLE publishers (
    id INTEGER PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    used INTEGER NOT NULL DEFAULT 0
) STRICT;

-- receipts: a JSON object of [id, stored, delivered] by the item's place in its batch, 0 for what is no batch.
CREATE TABLE idempotency_keys (
    row INTEGER PRIMARY KEY NOT NULL,
    publisher INTEGER NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    receipts TEXT NOT NULL,
    cost INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (publisher, key)
) STRICT;
CREATE INDEX idempotency_keys_by_publisher ON idempotency_keys (publisher);

CREATE TRIGGER idempotency_key_added AFTER INSERT ON idempotency_keys
BEGIN
    UPDATE publishers SET used = used + NEW.cost WHERE id = NEW.publisher;
END;
CREATE TRIGGER idempotency_key_changed AFTER UPDATE OF cost ON idempotency_keys
BEGIN
    UPDATE publishers SET used = used + NEW.cost - OLD.cost WHERE id = NEW.publisher;
END;
CREATE TRIGGER idempotency_key_gone AFTER DELETE ON idempotency_keys
BEGIN
    UPDATE publishers SET used = used - OLD.cost WHERE id = OLD.publisher;
    DELETE FROM publishers WHERE id = OLD.publisher AND used = 0;
END;

-- The old key: the publisher, a zero, the key, and of an item a zero and its place in four bytes, big-endian, below 1,000.
-- Without an id it was a claim, which stands for nothing that happened.
CREATE TEMP TABLE old_receipts AS
SELECT row, fingerprint, id, stored, delivered, created_at,
    CAST(substr(key, 1, length(key) - length(rest) - 1) AS TEXT) AS publisher,
    CAST(iif(zero = 0, rest, substr(rest, 1, zero - 1)) AS TEXT) AS name,
    iif(zero = 0, '0000', hex(substr(rest, zero + 3, 2))) AS item
FROM (
    SELECT *, instr(rest, x'00') AS zero
    FROM (SELECT *, substr(key, instr(key, x'00') + 1) AS rest FROM receipts WHERE id IS NOT NULL)
);
-- A claim could leave before its items, and the key be used for another request. The newest one has it.
INSERT INTO publishers (name) SELECT DISTINCT publisher FROM old_receipts;
INSERT INTO idempotency_keys (publisher, key, fingerprint, receipts, cost, created_at)
SELECT publishers.id, old_receipts.name, fingerprint,
    json_group_object(
        instr('123456789ABCDEF', substr(item, 1, 1)) * 4096 + instr('123456789ABCDEF', substr(item, 2, 1)) * 256
        + instr('123456789ABCDEF', substr(item, 3, 1)) * 16 + instr('123456789ABCDEF', substr(item, 4, 1)),
        json_array(old_receipts.id, json(iif(stored, 'true', 'false')), delivered)
    ),
    (count(*) + 9) / 10, max(created_at)
FROM (
    SELECT *, first_value(fingerprint) OVER (PARTITION BY publisher, name ORDER BY row DESC) AS newest FROM old_receipts
) AS old_receipts
JOIN publishers ON publishers.name = old_receipts.publisher
WHERE fingerprint = newest
GROUP BY old_receipts.publisher, old_receipts.name, fingerprint
ORDER BY min(row);
DROP TABLE old_receipts;
DROP TABLE receipts;
";

/// A revocation stays for as long as there is room, because the time at which it is over depends on settings that may
/// change.
const REVOCATIONS_THAT_STAY: &str = "
-- expires: the `exp` of a single token in ms since 1970, if it is known. Names in meta: revoked_issued and revoked_expired,
-- also in ms, are the floors that revocations have left which are kept no more.
DROP INDEX revocations_by_end;
ALTER TABLE revocations DROP COLUMN until;
ALTER TABLE revocations ADD COLUMN expires INTEGER;
CREATE INDEX revocations_by_at ON revocations (at);
CREATE INDEX revocations_by_expiry ON revocations (expires) WHERE expires IS NOT NULL;
";

/// The number of migrations applied to the file.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Migrates an older file to the newest version.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    Migrations::from_slice(MIGRATIONS).to_latest(connection)
}

/// Migrates to an older version, which knew this many migrations.
#[cfg(test)]
pub(super) fn migrate_to(connection: &mut Connection, version: usize) {
    Migrations::from_slice(MIGRATIONS).to_version(connection, version).expect("the migrations work");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_work() {
        assert!(Migrations::from_slice(MIGRATIONS).validate().is_ok());
    }
}
