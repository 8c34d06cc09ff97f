//! Sessions.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::answer::{Answer, unexpected};
use super::operation::{Operation, hex};
use super::worker::Request;
use super::{Before, ClaimedSession, Moment, RedisStore, SessionKey, SessionRecord, SessionStore, StoreError};

/// A session's record, without what changes apart from it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    namespace: String,
    socket_id: String,
    rooms: Vec<(Arc<str>, u64)>,
    data: String,
    updated_at: u64,
}

/// The text of a session that does not change apart from it.
fn text_of(record: &SessionRecord) -> Vec<u8> {
    let SessionRecord { namespace, socket_id, rooms, data, updated_at, .. } = record;
    let (namespace, socket_id, data) = (namespace.clone(), socket_id.clone(), data.clone());
    let record = Record { namespace, socket_id, rooms: rooms.clone(), data, updated_at: updated_at.epoch_ms() };
    // A record of texts and numbers always has a JSON form.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The operation that gives a session to another node, or says that this node does not have it.
pub(super) fn hand_over(key: &str, to: &str, session: Option<&SessionRecord>) -> Operation {
    let since = session.map_or(0, |session| session.since_seq);
    let own_events = session.and_then(|session| session.own_events.as_deref()).unwrap_or_default();
    let record = session.map(text_of).unwrap_or_default();
    Operation::new("hand over").text(key).text(to).number(since).bytes(record).text(own_events)
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
    let is_own = answer.number()? == 1;
    let own_events = answer.optional()?;
    let record =
        SessionRecord { key, namespace, socket_id, rooms, data, since_seq, updated_at, left_at, before, own_events };
    Ok(Some(if is_own { ClaimedSession::Own(record) } else { ClaimedSession::Stored(record) }))
}

impl SessionStore for RedisStore {
    fn save_session(&self, session: SessionRecord) -> Option<BoxFuture<'static, ()>> {
        let SessionRecord { key, since_seq, before, .. } = session;
        let operation = Operation::new("save session").text(&hex(&key)).number(since_seq).bytes(text_of(&session));
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

    fn claim_session(
        &self,
        key: SessionKey,
        sealed: String,
    ) -> BoxFuture<'_, Result<Option<ClaimedSession>, StoreError>> {
        Box::pin(async move {
            let name = hex(&key);
            let claim = |sealed: &str| Operation::new("claim session").text(&name).text(sealed);
            let (shared, asked) = (Arc::clone(&self.shared), name.clone());
            let claimed = self.ask(claim(&sealed), move |answer, _| match answer.outcome() {
                // Before the other node's answer is heard.
                "asked" => Ok(Err(shared.when_given(&asked))),
                _ => session(answer.done()?, key).map(Ok),
            });
            let given = match claimed.await? {
                Ok(claimed) => return Ok(claimed),
                Err(given) => given,
            };
            // A node that does not answer is killed, or busy: its session is taken as it was saved.
            let _ = timeout(HAND_OVER_PATIENCE, given).await;
            self.shared.given(&name);
            self.ask(claim(""), move |answer, _| session(answer.done()?, key)).await
        })
    }
}

/// How long another node may take to hand over a session.
const HAND_OVER_PATIENCE: Duration = Duration::from_millis(300);

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
}
