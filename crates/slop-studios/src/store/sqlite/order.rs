//! The order of events, behind one lock: the sequence of their numbers, and the journal of the events without a row.
//! Only the holder of the lock may dispatch.

use std::io;
use std::time::Instant;

use super::super::StoreError;
use super::journal::Journal;
use super::sequence::Sequence;
use crate::contract::delivery::Envelope;
use crate::limits::{SLOW_WRITE, SLOW_WRITE_AGAIN};

/// See the module.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) numbers: Sequence,
    /// `None` if no client is recovered.
    journal: Option<Journal>,
    /// The bytes of the journal when a write failed, or a smaller number that it had since. So a full disk causes only
    /// one line in the log. Small events may still fit into the reserved bytes, so the journal counts as writable again
    /// only when it grows.
    failing: Option<u64>,
    /// Whether the last attempt to tidy the journal failed.
    is_untidy: bool,
    /// The time until which writes to the journal are left to the writer thread, which may wait for the disk.
    slow_until: Option<Instant>,
}

impl Order {
    pub(super) fn new(numbers: Sequence, journal: Option<Journal>) -> Self {
        Self { numbers, journal, failing: None, is_untidy: false, slow_until: None }
    }

    /// Hands events to the operating system before they are dispatched, all or none.
    ///
    /// # Errors
    /// If the system does not accept them. They must not be dispatched then.
    pub(super) fn write<'a>(
        &mut self,
        events: impl IntoIterator<Item = (u64, &'a Envelope)>,
    ) -> Result<(), StoreError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let begun = Instant::now();
        let written = journal.append(events, begun);
        if begun.elapsed() > SLOW_WRITE {
            self.slow_until = Some(begun + SLOW_WRITE_AGAIN);
        }
        self.note(written).map_err(|error| StoreError::Unavailable(error.to_string().into()))
    }

    /// Whether writing an event to the journal may take long, so that it is left to the store's thread. This is so if
    /// another file has to be created, or if the last writes have waited for the disk. Normally the kernel copies the
    /// bytes and returns. On a slow disk it can wait for a transaction of the file system.
    pub(super) fn is_slow(&self, event: &Envelope) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.is_full_for(event))
            || self.slow_until.is_some_and(|until| Instant::now() < until)
    }

    /// Tidies the journal. This is called from time to time.
    pub(super) fn tidy(&mut self) {
        let last = self.numbers.peek() - 1;
        let tidied = self.journal.as_mut().map_or(Ok(()), |journal| journal.tidy(last));
        match &tidied {
            Err(error) if !self.is_untidy => tracing::error!(%error, "tidy the journal; it is tried again"),
            _ => {}
        }
        self.is_untidy = tidied.is_err();
    }

    /// Closes the journal. Nothing is dispatched afterwards.
    pub(super) fn close(&mut self) {
        if let Some(Err(error)) = self.journal.as_mut().map(Journal::close) {
            tracing::error!(%error, "close the journal");
        }
    }

    /// Bytes of the journal.
    pub(super) fn journal_bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::bytes)
    }

    fn note(&mut self, written: io::Result<()>) -> io::Result<()> {
        match (&written, self.failing) {
            (Ok(()), Some(bytes)) => {
                let now = self.journal_bytes();
                self.failing = Some(now).filter(|now| *now <= bytes);
                if self.failing.is_none() {
                    tracing::info!("the journal can be written again");
                }
            }
            (Err(error), None) => {
                tracing::error!(%error, "write the journal; publishers of room events are told to try again");
                self.failing = Some(self.journal_bytes());
            }
            _ => {}
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;

    use super::super::journal::Run;
    use super::super::schema;
    use super::*;
    use crate::contract::delivery::Class;

    /// The state after the disk was full while the journal was large.
    #[test]
    fn each_failure_of_the_journal_is_reported() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut connection = Connection::open_in_memory().expect("memory");
        schema::migrate(&mut connection).expect("tables");
        let run = Run { boot_seq: 1, previous: 0 };
        let (journal, _) = Journal::open(folder.path(), run, Duration::from_secs(60)).expect("it opens");
        let mut order = Order::new(Sequence::begin(&connection).expect("a block"), journal);
        order.failing = Some(1 << 30);
        let event = |bytes: usize| Envelope {
            namespace: "/",
            room: "a".into(),
            owner_room: None,
            event: "e".into(),
            argument: format!("\"{}\"", "x".repeat(bytes)).into(),
            class: Class::Recoverable,
        };
        order.write([(1, &event(10))]).expect("there is room");
        let small = order.failing.expect("it has not grown");
        assert!(small < 1 << 20);
        order.write([(2, &event(1 << 20))]).expect("there is room");
        assert_eq!(order.failing, None);
    }
}
