//! Sessions.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::operation::{Operation, hex};
use super::session_record::{session, text_of};
use super::worker::Request;
use super::{Before, ClaimedSession, RedisStore, SessionKey, SessionRecord, SessionStore, StoreError};

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
        self.shared.unsaved().set_confirmed(up_to);
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
