//! Sessions that outlive the process: the engine's keeper on top of the store.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use socketio_server::{MissedEvent, Recalled, SavedSession, SessionKeeper};

use crate::clock::Moment;
use crate::session::SavedState;
use crate::store::{SessionKey, SessionRecord, Store, StoreError, StoredEvent};

/// Keeps sessions in the store, by the hash of their secret.
#[derive(Debug)]
pub(crate) struct StoreKeeper {
    store: Arc<dyn Store>,
    window: Duration,
    began: Instant,
}

impl StoreKeeper {
    /// Clients of an earlier life of the server are waited for until `window` has passed.
    pub(crate) fn new(store: Arc<dyn Store>, window: Duration) -> Self {
        Self { store, window, began: Instant::now() }
    }
}

fn key_of(pid: &str) -> SessionKey {
    let mut key = SessionKey::default();
    key.copy_from_slice(digest(&SHA256, pid.as_bytes()).as_ref());
    key
}

impl SessionKeeper for StoreKeeper {
    fn save(&self, pid: &str, session: SavedSession) {
        self.store.save_session(SessionRecord {
            key: key_of(pid),
            namespace: session.namespace,
            socket_id: session.socket_id,
            rooms: session.rooms,
            data: session.data,
            since_seq: session.since,
            updated_at: Moment::now(),
        });
    }

    fn forget(&self, pid: &str) {
        self.store.forget_session(key_of(pid));
    }

    fn recall(&self, pid: &str) -> Recalled<SavedSession> {
        if self.began.elapsed() > self.window {
            return Box::pin(ready(None));
        }
        let (store, key) = (Arc::clone(&self.store), key_of(pid));
        Box::pin(async move {
            recall(&*store, key).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "recall a session");
                None
            })
        })
    }

    fn missed(&self, namespace: &str, rooms: Vec<(String, u64)>, offset: u64) -> Recalled<Vec<MissedEvent>> {
        let (store, namespace) = (Arc::clone(&self.store), namespace.to_owned());
        Box::pin(async move {
            let until = store.boot_seq().saturating_sub(1);
            match store.replay(&namespace, rooms, offset, until).await {
                Ok(replay) => replay.complete.then(|| replay.events.into_iter().map(missed).collect()),
                Err(error) => {
                    tracing::warn!(%error, "read what a session has missed");
                    None
                }
            }
        })
    }
}

async fn recall(store: &dyn Store, key: SessionKey) -> Result<Option<SavedSession>, StoreError> {
    let Some(record) = store.session(key).await? else { return Ok(None) };
    let mut session = SavedSession::new(record.namespace, record.socket_id, record.since_seq);
    session.rooms = record.rooms;
    session.data = up_to_date(store, &record.data).await?;
    Ok(Some(session))
}

fn missed(event: StoredEvent) -> MissedEvent {
    MissedEvent::new(event.seq, &*event.event, &*event.argument).to(event.rooms)
}

/// What was kept of a session, with what has become known since of the items that it follows.
async fn up_to_date(store: &dyn Store, saved: &str) -> Result<String, StoreError> {
    let Ok(mut state) = serde_json::from_str::<SavedState>(saved) else { return Ok(saved.to_owned()) };
    let mut owners = BTreeMap::new();
    for media_id in state.subscriptions.iter().filter(|(_, owner)| owner.is_none()).map(|(media_id, _)| media_id) {
        if let Some(owner) = store.media_state(media_id).await?.and_then(|state| state.owner_id) {
            owners.insert(media_id.clone(), Some(owner));
        }
    }
    state.subscriptions.extend(owners);
    state.forget_unconfirmed();
    Ok(serde_json::to_string(&state).unwrap_or_default())
}
