//! Changes of the revocations: read from messages, and enforced on this node one after the other.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::{Dispatch, Floors, Revocation, RevocationChange, Revocations};
use super::answer::{Answer, unexpected};
use super::message::field;
use super::revocations::{pair_of, revocations, subject_of};
use crate::store::StoreError;

/// A change, and the version of the revocations that it made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VersionedChange {
    pub(super) version: u64,
    pub(super) change: RevocationChange,
}

/// A change that is in force on this node, and the number of sockets that have lost their identities by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InForce {
    pub(super) version: u64,
    pub(super) sockets: u64,
}

/// The task that enforces changes.
pub(super) struct Enforcement {
    changes: UnboundedSender<VersionedChange>,
    in_force: UnboundedReceiver<InForce>,
    /// The version of the last change.
    last: u64,
}

impl Enforcement {
    /// Starts the task.
    pub(super) fn new(dispatch: Arc<dyn Dispatch>) -> Self {
        let (changes, mut asked) = unbounded_channel::<VersionedChange>();
        let (done, in_force) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(VersionedChange { version, change }) = asked.recv().await {
                let sockets = dispatch.revoked(change).await;
                // Without a receiver, the store is closed.
                let _ = done.send(InForce { version, sockets });
            }
        });
        Self { changes, in_force, last: 0 }
    }

    /// Has a change enforced. Returns false if it is not the one after the last: then all have to be read.
    pub(super) fn take(&mut self, change: VersionedChange) -> bool {
        if change.version <= self.last {
            return true;
        }
        let is_next = change.version == self.last + 1;
        if is_next {
            self.last = change.version;
            let _ = self.changes.send(change);
        }
        is_next
    }

    /// Has all revocations enforced, and waits until they are in force. Returns their version.
    pub(super) async fn enforce_all(&mut self, answer: Answer) -> Result<u64, StoreError> {
        let (version, all) = revocations(answer)?;
        let version = version.parse().map_err(|_no_number| unexpected())?;
        self.last = version;
        let _ = self.changes.send(VersionedChange { version, change: RevocationChange::All(all) });
        // Earlier changes come first.
        while self.in_force.recv().await.is_some_and(|in_force| in_force.version != version) {}
        Ok(version)
    }

    /// The next change that is in force.
    pub(super) async fn next(&mut self) -> Option<InForce> {
        self.in_force.recv().await
    }
}

impl VersionedChange {
    /// Reads a message. `None` if it is not one.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (version, text) = text.split_once(' ')?;
        let (subject, text) = field(text)?;
        let (value, text) = field(text)?;
        let (evicted, text) = field(text)?;
        let (evicted_value, floors) = field(text)?;
        let (issued, expired) = pair_of(floors)?;
        let subject = subject_of(subject)?;
        let revocation = |subject, value| match pair_of(value)? {
            (Some(at), expires_at) => Some(Revocation { subject, at, expires_at }),
            (None, _) => None,
        };
        let change = if value.is_empty() {
            RevocationChange::Undone(subject)
        } else {
            let mut gone = Revocations { list: Vec::new(), floors: Floors { issued, expired } };
            if !evicted.is_empty() {
                gone.list.push(revocation(subject_of(evicted)?, evicted_value)?);
            }
            RevocationChange::Added(revocation(subject, value)?, gone)
        };
        Some(Self { version: version.parse().ok()?, change })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Revoked;
    use super::*;
    use crate::contract::time::Moment;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let at = Moment::from_epoch_ms;
        let revocation = |id: &str, end| Revocation { subject: Revoked::User(id.into()), at: at(5), expires_at: end };
        let read = |text: &str| VersionedChange::read(text.as_bytes()).map(|change| (change.version, change.change));
        assert_eq!(
            read("7 6:user u3:5 90:0:- -"),
            Some((7, RevocationChange::Added(revocation("u", Some(at(9))), Revocations::default())))
        );
        let gone =
            Revocations { list: vec![revocation("v", None)], floors: Floors { issued: Some(at(3)), expired: None } };
        assert_eq!(
            read("8 6:user u3:5 -6:user v3:5 -3 -"),
            Some((8, RevocationChange::Added(revocation("u", None), gone)))
        );
        assert_eq!(read("9 6:user u0:0:0:- -"), Some((9, RevocationChange::Undone(Revoked::User("u".into())))));
        for bad in ["", "x", "7 6:user u3:5 90:0:-", "7 4:else3:5 90:0:- -", "7 6:user u3:- 90:0:- -", "7 6:user"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
