//! Sessions that other nodes ask for, because their clients have come back there.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::{Dispatch, SessionRecord};
use super::operation::Operation;
use super::session_record::text_of;

/// A message on a node's channel, besides the marks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeMessage<'a> {
    /// Another node asks for a session. `sealed` is its secret id in a form that only the nodes can read.
    Give { session: &'a str, to: &'a str, sealed: &'a str },
    /// Another node has handed over a session, or does not have it.
    Given { session: &'a str },
}

impl<'a> NodeMessage<'a> {
    /// Reads a message. `None` if it is not one.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(message).ok()?.split(' ');
        let read = match (words.next()?, words.next()?) {
            ("give", session) => Self::Give { session, to: words.next()?, sealed: words.next()? },
            ("given", session) => Self::Given { session },
            _ => return None,
        };
        words.next().is_none().then_some(read)
    }
}

/// The sessions that are being handed over.
pub(super) struct HandOvers {
    dispatch: Arc<dyn Dispatch>,
    done: UnboundedSender<Operation>,
    operations: UnboundedReceiver<Operation>,
}

impl HandOvers {
    pub(super) fn new(dispatch: Arc<dyn Dispatch>) -> Self {
        let (done, operations) = unbounded_channel();
        Self { dispatch, done, operations }
    }

    /// Takes a session away from this node, for another one.
    pub(super) fn begin(&self, session: &str, to: &str, sealed: &str) {
        let (session, to, done) = (session.to_owned(), to.to_owned(), self.done.clone());
        let taken = self.dispatch.hand_over(sealed);
        tokio::spawn(async move {
            let taken = taken.await;
            // Without a receiver, the store is closed.
            let _ = done.send(hand_over(&session, &to, taken.as_ref()));
        });
    }

    /// The next operation that hands over a session.
    pub(super) async fn next(&mut self) -> Option<Operation> {
        self.operations.recv().await
    }
}

/// The operation that gives a session to another node, or says that this node does not have it.
fn hand_over(key: &str, to: &str, session: Option<&SessionRecord>) -> Operation {
    let since = session.map_or(0, |session| session.since_seq);
    let own_events = session.and_then(|session| session.own_events.as_deref()).unwrap_or_default();
    let record = session.map(text_of).unwrap_or_default();
    Operation::new("hand over").text(key).text(to).number(since).bytes(record).text(own_events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let read = |text: &'static str| NodeMessage::read(text.as_bytes());
        assert_eq!(read("give 0a n2 x-_"), Some(NodeMessage::Give { session: "0a", to: "n2", sealed: "x-_" }));
        assert_eq!(read("given 0a"), Some(NodeMessage::Given { session: "0a" }));
        for foreign in ["", "5 7", "give", "give 0a", "give 0a n2", "give 0a n2 x y", "given", "given 0a b", "else x"] {
            assert_eq!(read(foreign), None, "{foreign}");
        }
    }
}
