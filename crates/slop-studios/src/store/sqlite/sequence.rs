//! The numbers of events. No process uses a number that another process has used. Numbers are reserved in blocks, so
//! that an event without a row needs no write either.

use rusqlite::{Connection, OptionalExtension as _};

/// The size of a block. At 20,000 events a second, it lasts for about 50 s between two writes. The 2^63 numbers last
/// for nine trillion restarts.
const BLOCK: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    next: u64,
    end: u64,
}

impl Sequence {
    /// Reserves the first block of this run.
    pub(super) fn begin(connection: &Connection) -> rusqlite::Result<Self> {
        let mut sequence = Self { next: 0, end: 0 };
        sequence.reserve(connection)?;
        Ok(sequence)
    }

    /// The first number of the run that was recorded last, or 0 if there is none.
    pub(super) fn previous_run(connection: &Connection) -> rusqlite::Result<u64> {
        let query = "SELECT value FROM meta WHERE name = 'life'";
        Ok(connection.query_row(query, [], |row| row.get(0)).optional()?.unwrap_or_default())
    }

    /// Records the run that begins with this number. Everything that the run needs is in place by then: a run that
    /// can't begin does not count, and leaves no gap. The record is synchronised to the disk: if it were lost, the next
    /// run would take this run's journal for that of a process that never began.
    pub(super) fn note_run(connection: &Connection, boot_seq: u64) -> rusqlite::Result<()> {
        let note = "INSERT OR REPLACE INTO meta (name, value) VALUES ('life', ?1)";
        synchronised(connection, |connection| connection.execute(note, [boot_seq]).map(drop))
    }

    /// Returns the next number. No number is returned twice.
    pub(super) fn next(&mut self) -> u64 {
        let next = self.next;
        self.next += 1;
        next
    }

    /// How many numbers are left before more must be reserved.
    pub(super) fn left(&self) -> u64 {
        self.end - self.next
    }

    /// The number that [`Self::next`] returns next.
    pub(super) fn peek(&self) -> u64 {
        self.next
    }

    /// Takes back the numbers from this one on. No event has them.
    pub(super) fn take_back(&mut self, from: u64) {
        self.next = from;
    }

    /// Gives up the rest of the block, so that the next number needs a write first.
    pub(super) fn give_up_block(&mut self) {
        self.end = self.next;
    }

    /// Makes sure that at least `count` numbers are left. Must not be called inside a transaction.
    pub(super) fn ensure(&mut self, count: usize, connection: &Connection) -> rusqlite::Result<()> {
        if self.left() < count as u64 { self.reserve(connection) } else { Ok(()) }
    }

    /// Reserves a block. The write is synchronised to the disk, because a number must not be used again after a power
    /// failure either.
    fn reserve(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let (start, end) = synchronised(connection, Self::reserve_block)?;
        if self.end != start {
            self.next = start;
        }
        self.end = end;
        Ok(())
    }

    fn reserve_block(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
        let start = "SELECT value FROM meta WHERE name = 'next_seq'";
        let start: u64 = connection.query_row(start, [], |row| row.get(0)).optional()?.unwrap_or(1);
        let end = start + BLOCK;
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('next_seq', ?1)", [end])?;
        Ok((start, end))
    }
}

/// Runs a write that is on the disk when this returns, whatever the store's setting.
fn synchronised<T>(
    connection: &Connection,
    write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let setting: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let written = write(connection);
    connection.pragma_update(None, "synchronous", setting)?;
    written
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    #[test]
    fn a_number_is_given_once() {
        let mut connection = Connection::open_in_memory().expect("memory");
        schema::migrate(&mut connection).expect("tables");
        let mut first = Sequence::begin(&connection).expect("a block");
        assert_eq!((first.next(), first.next(), first.peek()), (1, 2, 3));
        assert_eq!(Sequence::previous_run(&connection).expect("readable"), 0);
        Sequence::note_run(&connection, 1).expect("writable");
        assert_eq!(Sequence::previous_run(&connection).expect("readable"), 1);
        // The next run does not know the last number of this one.
        let mut second = Sequence::begin(&connection).expect("a block");
        assert_eq!(second.next(), 1 + BLOCK);

        second.ensure(BLOCK as usize, &connection).expect("another block");
        assert_eq!(second.next(), 2 + BLOCK);
        assert!(second.end - second.next >= BLOCK);
        let mut third = Sequence::begin(&connection).expect("a block");
        assert!(third.next() >= second.end);
    }

    #[test]
    fn a_block_that_was_given_up_is_followed_by_another() {
        let mut connection = Connection::open_in_memory().expect("memory");
        schema::migrate(&mut connection).expect("tables");
        let mut sequence = Sequence::begin(&connection).expect("a block");
        assert_eq!((sequence.next(), sequence.next(), sequence.next()), (1, 2, 3));
        sequence.take_back(2);
        assert_eq!((sequence.next(), sequence.peek()), (2, 3));
        sequence.give_up_block();
        assert_eq!((sequence.left(), sequence.peek()), (0, 3));
        sequence.ensure(1, &connection).expect("another block");
        assert_eq!(sequence.next(), 1 + BLOCK);
    }
}
