//! Revocations. The node decides on what it has read. If another node was faster, it decides again.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::answer::{Answer, text_of, unexpected};
use super::lease::LONGEST_LEASE;
use super::operation::Operation;
use super::{Moment, RedisStore, Revocation, RevocationStore, Revocations, Revoked, RevokedTokens, StoreError};
use crate::store::Floors;
use crate::store::kept_revocations::KeptRevocations;

/// The pause between two questions whether all nodes have enforced a revocation.
const IN_FORCE_INTERVAL: Duration = Duration::from_millis(10);

/// The name of a subject in the hash of revocations.
pub(super) fn name_of(subject: &Revoked) -> String {
    match subject {
        Revoked::User(id) => format!("user {id}"),
        Revoked::Token(id) => format!("token {id}"),
    }
}

pub(super) fn subject_of(name: &str) -> Option<Revoked> {
    match name.split_once(' ')? {
        ("user", id) => Some(Revoked::User(id.into())),
        ("token", id) => Some(Revoked::Token(id.into())),
        _ => None,
    }
}

fn number_or_none(moment: Option<Moment>) -> String {
    moment.map_or_else(|| "-".to_owned(), |moment| moment.epoch_ms().to_string())
}

fn moment_or_none(text: &str) -> Option<Option<Moment>> {
    match text {
        "-" => Some(None),
        number => Some(Some(Moment::from_epoch_ms(number.parse().ok()?))),
    }
}

/// Two moments, of which the second may be missing, as Redis has them.
pub(super) fn pair_of(text: &str) -> Option<(Option<Moment>, Option<Moment>)> {
    let (one, other) = text.split_once(' ')?;
    Some((moment_or_none(one)?, moment_or_none(other)?))
}

/// The revocations, and their version.
pub(super) fn revocations(mut answer: Answer) -> Result<(String, Revocations), StoreError> {
    let (mut version, mut found) = ("0".to_owned(), Revocations::default());
    let fields = answer.list()?;
    for pair in fields.chunks_exact(2) {
        let [name, value] = [&pair[0], &pair[1]].map(|value| text_of(Some(value.clone())));
        let (name, value) = (name?, value?);
        match name.as_str() {
            "version" => version = value,
            "floors" => {
                let (issued, expired) = pair_of(&value).ok_or_else(unexpected)?;
                found.floors = Floors { issued, expired };
            }
            name => {
                let (Some(subject), Some((Some(at), expires_at))) = (subject_of(name), pair_of(&value)) else {
                    return Err(unexpected());
                };
                found.list.push(Revocation { subject, at, expires_at });
            }
        }
    }
    Ok((version, found))
}

/// A revocation's value in Redis.
pub(super) fn value_of(revocation: &Revocation) -> String {
    format!("{} {}", revocation.at.epoch_ms(), number_or_none(revocation.expires_at))
}

/// The floors as Redis has them.
pub(super) fn floors_value(floors: Floors) -> String {
    format!("{} {}", number_or_none(floors.issued), number_or_none(floors.expired))
}

impl RedisStore {
    fn read_revocations(&self) -> BoxFuture<'_, Result<(String, Revocations), StoreError>> {
        self.ask(Operation::new("revocations"), |answer, _| revocations(answer.done()?))
    }

    /// Replaces what a subject has, and returns the version that this makes. `None` if another node was faster.
    async fn replace_revocation(
        &self,
        version: &str,
        (subject, kept): (&Revoked, Option<&Revocation>),
        removed: Option<&Revocation>,
        floors: Floors,
    ) -> Result<Option<u64>, StoreError> {
        let value = kept.map_or_else(String::new, value_of);
        let (name, removed_value) =
            removed.map_or_else(Default::default, |removed| (name_of(&removed.subject), value_of(removed)));
        let floors = floors_value(floors);
        let operation = Operation::new("revoke").text(version).text(&name_of(subject));
        let operation = operation.text(&value).text(&name).text(&removed_value).text(&floors);
        self.ask(operation, |answer, _| match answer.outcome() {
            "changed" => Ok(None),
            _ => answer.done()?.number().map(Some),
        })
        .await
    }

    /// Waits until every running node has a change of the revocations in force. Returns the number of sockets that have
    /// lost their identities. A node that does not answer is silent when its lease has ended.
    async fn when_in_force(&self, version: u64) -> u64 {
        let deadline = Instant::now() + LONGEST_LEASE;
        loop {
            let asked = self.ask(Operation::new("lacking").number(version), |answer, _| {
                let mut answer = answer.done()?;
                Ok((answer.number()?, answer.number()?))
            });
            match asked.await {
                Ok((0, sockets)) => return sockets,
                Ok((_, sockets)) if Instant::now() >= deadline => return sockets,
                // The change is made, whatever becomes of the question.
                Err(_) if Instant::now() >= deadline => return 0,
                Ok(_) | Err(_) => sleep(IN_FORCE_INTERVAL).await,
            }
        }
    }
}

impl RevocationStore for RedisStore {
    fn revoke(&self, revocation: Revocation) -> BoxFuture<'_, Result<RevokedTokens, StoreError>> {
        Box::pin(async move {
            loop {
                let (version, read) = self.read_revocations().await?;
                let mut kept = KeptRevocations::of(read, self.revocation_bound);
                let evicted = kept.add(revocation.clone(), Moment::now())?;
                let subject = &revocation.subject;
                let (changed, floors) = ((subject, kept.get(subject)), kept.all().floors);
                if let Some(version) = self.replace_revocation(&version, changed, evicted.list.first(), floors).await? {
                    let sockets = self.when_in_force(version).await;
                    return Ok(RevokedTokens { evicted, sockets });
                }
            }
        })
    }

    fn undo_revocation(&self, subject: Revoked) -> BoxFuture<'_, Result<Option<Revocation>, StoreError>> {
        Box::pin(async move {
            loop {
                let (version, read) = self.read_revocations().await?;
                let Some(undone) = read.list.into_iter().find(|kept| kept.subject == subject) else { return Ok(None) };
                let changed = self.replace_revocation(&version, (&subject, None), None, read.floors).await?;
                if let Some(version) = changed {
                    self.when_in_force(version).await;
                    return Ok(Some(undone));
                }
            }
        })
    }

    fn revocations(&self) -> BoxFuture<'_, Result<Revocations, StoreError>> {
        Box::pin(async { self.read_revocations().await.map(|(_, revocations)| revocations) })
    }
}
