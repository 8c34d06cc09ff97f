//! The numbers of events, which no process uses that another has used. They are reserved in blocks, so that an
//! event that needs no row needs no write either.

use rusqlite::{Connection, OptionalExtension as _};

/// Some 50 s of 20,000 events a second between two writes; 2^63 of them last for nine trillion restarts.
const BLOCK: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    next: u64,
    end: u64,
}

impl Sequence {
    /// Reserves the first block of this life.
    pub(super) fn begin(connection: &Connection) -> rusqlite::Result<Self> {
        let mut sequence = Self { next: 0, end: 0 };
        sequence.reserve(connection)?;
        Ok(sequence)
    }

    /// The first number of the life that was noted last, 0 without one.
    pub(super) fn previous_life(connection: &Connection) -> rusqlite::Result<u64> {
        let life = "SELECT value FROM meta WHERE name = 'life'";
        Ok(connection.query_row(life, [], |row| row.get(0)).optional()?.unwrap_or_default())
    }

    /// Takes note of the life that begins with this number. What it needs is there: a life that can't begin is none, and
    /// leaves no gap. Synchronised to the disk: if it were lost, the next life would take this one's journal for that of a
    /// process which never began.
    pub(super) fn note_life(connection: &Connection, boot_seq: u64) -> rusqlite::Result<()> {
        let note = "INSERT OR REPLACE INTO meta (name, value) VALUES ('life', ?1)";
        synchronised(connection, |connection| connection.execute(note, [boot_seq]).map(drop))
    }

    /// The next number; none is given twice.
    pub(super) fn next(&mut self) -> u64 {
        let next = self.next;
        self.next += 1;
        next
    }

    /// How many there are before more must be reserved.
    pub(super) fn left(&self) -> u64 {
        self.end - self.next
    }

    /// The number that [`Self::next`] is going to give.
    pub(super) fn peek(&self) -> u64 {
        self.next
    }

    /// Takes back the numbers from this one on, which no event has.
    pub(super) fn take_back(&mut self, from: u64) {
        self.next = from;
    }

    /// Gives up what is left of the block, so that the next number needs a write first.
    pub(super) fn give_up_block(&mut self) {
        self.end = self.next;
    }

    /// Makes sure that there are at least so many numbers. Must not be called inside a transaction.
    pub(super) fn ensure(&mut self, count: usize, connection: &Connection) -> rusqlite::Result<()> {
        if self.left() < count as u64 { self.reserve(connection) } else { Ok(()) }
    }

    /// Synchronised to the disk: a number must not come back after a power failure either.
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

/// Writes something that is on the disk when this returns, whatever the store's setting.
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
        assert_eq!(Sequence::previous_life(&connection).expect("readable"), 0);
        Sequence::note_life(&connection, 1).expect("writable");
        assert_eq!(Sequence::previous_life(&connection).expect("readable"), 1);
        // The next life does not know how far this one came.
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
