//! Sessions and revocations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::answer::{Answer, unexpected};
use super::enforcement::value_of;
use super::lease::LONGEST_LEASE;
use super::operation::{Operation, hex};
use super::worker::Request;
use super::{
    Before, ClaimedSession, Moment, RedisStore, Revocation, RevocationStore, Revocations, Revoked, RevokedTokens,
    SessionKey, SessionRecord, SessionStore, StoreError,
};
use crate::store::Floors;
use crate::store::kept_revocations::KeptRevocations;

/// A session's record, without what changes apart from it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    namespace: String,
    socket_id: String,
    rooms: Vec<(Arc<str>, u64)>,
    data: String,
    updated_at: u64,
}

/// The session out of an answer, and whether it is this node's.
fn session(mut answer: Answer, key: SessionKey) -> Result<Option<ClaimedSession>, StoreError> {
    let Some(record) = answer.optional()? else { return Ok(None) };
    let Record { namespace, socket_id, rooms, data, updated_at } =
        serde_json::from_str(&record).map_err(|_no_record| unexpected())?;
    let since_seq: u64 = answer.number()?;
    let left_at = answer.optional()?.map(|left| left.parse().map(Moment::from_epoch_ms)).transpose();
    let left_at = left_at.map_err(|_no_number| unexpected())?;
    let updated_at = Moment::from_epoch_ms(updated_at);
    let before = Before::Valid;
    let record = SessionRecord { key, namespace, socket_id, rooms, data, since_seq, updated_at, left_at, before };
    Ok(Some(if answer.number()? == 1 { ClaimedSession::Own(record) } else { ClaimedSession::Stored(record) }))
}

impl SessionStore for RedisStore {
    fn save_session(&self, session: SessionRecord) -> Option<BoxFuture<'static, ()>> {
        let SessionRecord { key, namespace, socket_id, rooms, data, since_seq, updated_at, before, .. } = session;
        let record = Record { namespace, socket_id, rooms, data, updated_at: updated_at.epoch_ms() };
        // A record of texts and numbers always has a JSON form.
        let record = serde_json::to_vec(&record).unwrap_or_default();
        let operation = Operation::new("save session").text(&hex(&key)).number(since_seq).bytes(record);
        self.change_session(key, operation, true);
        // Another node must not find the outdated record.
        let saved = (before == Before::Outdated).then(|| self.shared.unsaved().when_confirmed(key)).flatten()?;
        Some(Box::pin(async {
            // It is dropped if the sessions of this node are no longer valid.
            let _ = saved.await;
        }))
    }

    fn session_left(&self, key: SessionKey, since_seq: u64) {
        self.change_session(key, Operation::new("session left").text(&hex(&key)).number(since_seq), false);
    }

    fn sessions_confirmed(&self, up_to: u64) {
        self.tell(Operation::new("confirmed").number(up_to));
    }

    fn forget_session(&self, key: SessionKey) {
        self.change_session(key, Operation::new("forget session").text(&hex(&key)), true);
    }

    fn session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<SessionRecord>, StoreError>> {
        self.ask(Operation::new("session").text(&hex(&key)), move |answer, _| {
            Ok(session(answer.done()?, key)?.map(|session| match session {
                ClaimedSession::Own(record) | ClaimedSession::Stored(record) => record,
            }))
        })
    }

    fn claim_session(&self, key: SessionKey) -> BoxFuture<'_, Result<Option<ClaimedSession>, StoreError>> {
        self.ask(Operation::new("claim session").text(&hex(&key)), move |answer, _| session(answer.done()?, key))
    }
}

/// The name of a subject in the hash of revocations.
fn name_of(subject: &Revoked) -> String {
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

pub(super) fn number_or_none(moment: Option<Moment>) -> String {
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
        let [name, value] = [&pair[0], &pair[1]].map(|value| super::answer::text_of(Some(value.clone())));
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

impl RedisStore {
    /// Has a session changed, sooner or later.
    fn change_session(&self, key: SessionKey, operation: Operation, replaces_others: bool) {
        let Some(number) = self.shared.unsaved().add(key, operation.clone(), replaces_others) else {
            tracing::warn!("a session's change is lost: too many wait for Redis");
            return;
        };
        // What is refused is sent again with the next connection.
        let _ = self.send(Request::Operation(operation, self.shared.when_saved(key, number)));
    }

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
        let floors = format!("{} {}", number_or_none(floors.issued), number_or_none(floors.expired));
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

/// The pause between two questions whether all nodes have enforced a revocation.
const IN_FORCE_INTERVAL: Duration = Duration::from_millis(10);

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
