//! Session persistence across restarts: the engine's session keeper on top of the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::{OptionFuture, join};
use socketio_server::{
    Claimed, Missed, MissedEvent, NotRecalled, Position, Recalled, SavedSession, Saving, SessionKeeper,
};

use crate::contract::namespaces;
use crate::contract::time::Moment;
use crate::limits::ALIVE_INTERVAL;
use crate::realtime::interest::Interest;
use crate::realtime::owners::NewOwners;
use crate::realtime::secrets::Secrets;
use crate::realtime::session::SavedState;
use crate::store::{
    ClaimedSession, MediaOwners, Replay, ReplayedEvent, Room, SessionKey, SessionRecord, Store, StoreError,
};

/// A session keeper that stores each session under the hash of its secret.
#[derive(Debug)]
pub(crate) struct StoreKeeper {
    store: Arc<dyn Store>,
    interest: Arc<Interest>,
    owners: Arc<NewOwners>,
    secrets: Arc<Secrets>,
    window: Duration,
}

impl StoreKeeper {
    /// Creates a keeper. A client may be away for up to `window`, even if the server restarts during that time.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        (interest, owners): (Arc<Interest>, Arc<NewOwners>),
        secrets: Arc<Secrets>,
        window: Duration,
    ) -> Self {
        Self { store, interest, owners, secrets, window }
    }
}

/// The record of a session, as its socket has it now.
pub(super) fn record_of(pid: &str, session: SavedSession) -> SessionRecord {
    SessionRecord {
        key: key_of(pid),
        namespace: session.namespace,
        socket_id: session.socket_id,
        rooms: session.rooms.into_iter().map(|(room, joined)| (room, joined.get())).collect(),
        data: session.data,
        since_seq: session.since.get(),
        updated_at: Moment::now(),
        left_at: None,
        before: session.before,
        own_events: session.own_events,
    }
}

fn key_of(pid: &str) -> SessionKey {
    let mut key = SessionKey::default();
    key.copy_from_slice(digest(&SHA256, pid.as_bytes()).as_ref());
    key
}

impl SessionKeeper for StoreKeeper {
    fn save(&self, pid: &str, session: SavedSession) -> Option<Saving> {
        self.store.save_session(record_of(pid, session))
    }

    fn left(&self, pid: &str, since: Position) {
        self.store.session_left(key_of(pid), since.get());
    }

    fn confirmed(&self, up_to: Position) {
        self.store.sessions_confirmed(up_to.get());
    }

    fn forget(&self, pid: &str) {
        self.store.forget_session(key_of(pid));
    }

    fn is_shared(&self) -> bool {
        self.store.has_other_nodes()
    }

    fn claim(&self, pid: &str, is_here: bool) -> Recalled<Claimed> {
        let (store, key, window) = (Arc::clone(&self.store), key_of(pid), self.window);
        let sealed = if store.has_other_nodes() { self.secrets.seal(pid) } else { String::new() };
        let owners = Arc::clone(&self.owners);
        Box::pin(async move {
            let claimed = claim(&*store, &owners, (key, sealed), is_here, window).await;
            recalled(&*store, claimed, "claim a session")
        })
    }

    fn missed(
        &self,
        namespace: &str,
        rooms: Vec<(Arc<str>, Position)>,
        offset: Position,
        own_events: bool,
    ) -> Recalled<Missed> {
        let (store, namespace) = (Arc::clone(&self.store), namespaces::named(namespace));
        let rooms = rooms.into_iter().map(|(room, joined)| (room, joined.get())).collect();
        let interest = Arc::clone(&self.interest);
        Box::pin(async move {
            let namespace = namespace.ok_or(NotRecalled::Gone)?;
            let missed = read_missed(&*store, &interest, namespace, rooms, (offset.get(), own_events)).await;
            recalled(&*store, missed, "read what a session has missed")
        })
    }
}

/// The answer for the engine. If other nodes have the same data, the client may ask one of them.
fn recalled<T>(store: &dyn Store, read: Result<Option<T>, StoreError>, what: &str) -> Result<T, NotRecalled> {
    match read {
        Ok(Some(_)) if !store.is_current() => Err(NotRecalled::Unavailable),
        Ok(found) => found.ok_or(NotRecalled::Gone),
        Err(error) => {
            tracing::warn!(%error, "{what}");
            let is_elsewhere = store.has_other_nodes() && !matches!(error, StoreError::Damaged(_));
            Err(if is_elsewhere { NotRecalled::Unavailable } else { NotRecalled::Gone })
        }
    }
}

async fn claim(
    store: &dyn Store,
    owners: &NewOwners,
    (key, sealed): (SessionKey, String),
    is_here: bool,
    window: Duration,
) -> Result<Option<Claimed>, StoreError> {
    let record = match store.claim_session(key, sealed).await? {
        Some(ClaimedSession::Own(record)) if is_here => {
            // This node may not have heard of them: while the client was away, the items had no member here.
            for (media_id, owner) in owners_of(store, &record.data).await? {
                owners.add(&media_id.into(), &owner);
            }
            return Ok(Some(Claimed::Here));
        }
        Some(ClaimedSession::Own(record) | ClaimedSession::Stored(record)) => record,
        None => return Ok(None),
    };
    if record.left_at.is_some_and(|left_at| left_at.after(window + ALIVE_INTERVAL) < Moment::now()) {
        return Ok(None);
    }
    let mut session = SavedSession::new(record.namespace, record.socket_id, record.since_seq.into());
    session.rooms = record.rooms.into_iter().map(|(room, joined)| (room, joined.into())).collect();
    session.data = up_to_date(store, &record.data, record.own_events.is_some()).await?;
    session.own_events = record.own_events;
    Ok(Some(Claimed::Saved(session)))
}

/// Reads what earlier runs have sent. With other nodes, it reads what was sent so far, and later events are dispatched
/// here.
async fn read_missed(
    store: &dyn Store,
    interest: &Arc<Interest>,
    namespace: &'static str,
    rooms: Vec<(Arc<str>, u64)>,
    (after, own_events): (u64, bool),
) -> Result<Option<Missed>, StoreError> {
    let joined: HashMap<Arc<str>, u64> = rooms.iter().cloned().collect();
    let names = rooms.iter().map(|(room, _)| Room { namespace, room: Arc::clone(room) });
    let entered = interest.enter_all(names.collect());
    let until = if store.has_other_nodes() { u64::MAX } else { store.boot_seq().saturating_sub(1) };
    let replay = store.replay(namespace, rooms, after, until);
    let (entered, replay) = join(OptionFuture::from(entered), replay).await;
    entered.transpose()?;
    let Replay { complete, mut events, up_to } = replay?;
    if own_events {
        // The states that the client was sent when it joined are among its own events.
        let joined = |room: &String| joined.get(&**room).copied().unwrap_or_default();
        events.retain(|event| event.rooms.iter().any(|room| event.seq > after.max(joined(room))));
    }
    Ok(complete.then(|| Missed { events: events.into_iter().map(missed).collect(), until: up_to.into() }))
}

fn missed(ReplayedEvent { seq, envelope, rooms }: ReplayedEvent) -> MissedEvent {
    MissedEvent::new(seq.into(), &*envelope.event, &*envelope.argument).to(rooms)
}

/// The owners of the items of a saved session that had none when it was saved.
async fn owners_of(store: &dyn Store, saved: &str) -> Result<MediaOwners, StoreError> {
    let Ok(state) = serde_json::from_str::<SavedState>(saved) else { return Ok(Vec::new()) };
    let without = state.subscriptions.into_iter().filter(|(_, owner)| owner.is_none());
    let without: Vec<_> = without.map(|(media_id, _)| media_id).collect();
    if without.is_empty() { Ok(Vec::new()) } else { store.media_owners(without).await }
}

/// The saved state of a session, completed with the media owners that became known since the save. Without the events
/// that were sent to the socket alone, the inbox starts again.
async fn up_to_date(store: &dyn Store, saved: &str, own_events: bool) -> Result<String, StoreError> {
    let Ok(mut state) = serde_json::from_str::<SavedState>(saved) else { return Ok(saved.to_owned()) };
    let owners = owners_of(store, saved).await?;
    state.subscriptions.extend(owners.into_iter().map(|(media_id, owner)| (media_id, Some(owner))));
    if !own_events {
        state.restart_inbox();
    }
    Ok(serde_json::to_string(&state).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Before;
    use crate::store::sqlite::tests::temporary;
    use crate::store::suite::{Recorder, wait};

    #[test]
    fn a_client_may_be_away_for_the_window_however_often_the_server_was_restarted() {
        let window = Duration::from_secs(120);
        let store: Arc<dyn Store> = Arc::new(temporary(Arc::<Recorder>::default()));
        let keeper = StoreKeeper::new(
            Arc::clone(&store),
            (Arc::default(), Arc::new(NewOwners::new(window))),
            Arc::new(Secrets::new(&[1; 32])),
            window,
        );
        for (pid, away, is_known) in [("a", 0, true), ("b", 119, true), ("c", 126, false)] {
            store.save_session(SessionRecord {
                key: key_of(pid),
                namespace: "/".to_owned(),
                socket_id: pid.to_owned(),
                rooms: Vec::new(),
                data: "{}".to_owned(),
                since_seq: 1,
                updated_at: Moment::now(),
                left_at: Some(Moment::now().before(Duration::from_secs(away))),
                before: Before::Nothing,
                own_events: None,
            });
            assert_eq!(wait(keeper.claim(pid, false)).is_ok(), is_known, "{away}");
        }
        assert!(wait(keeper.claim("d", false)).is_err());
    }
}
