//! The delivery of committed changes to the receiving sockets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use socketio_server::{EventArgs, Handle, Socket};

use crate::contract::delivery::Envelope;
use crate::contract::namespaces::{MEDIA, NOTIFICATIONS};
use crate::contract::rooms;
use crate::realtime::inbox::Inboxes;
use crate::realtime::revoke::Enforcer;
use crate::realtime::saved_sessions::record_of;
use crate::realtime::secrets::Secrets;
use crate::realtime::session::Sessions;
use crate::store::{CommittedEvent, Delivery, Dispatch, Dispatched, Effect, RevocationChange, Room, SessionRecord};

/// Hands committed events to the engine. The store calls it in commit order, and the engine keeps that order.
#[derive(Debug)]
pub(crate) struct EngineDispatch {
    handle: Handle,
    sessions: Arc<Sessions>,
    inboxes: Arc<Inboxes>,
    enforcer: Arc<Enforcer>,
    secrets: Arc<Secrets>,
}

impl EngineDispatch {
    pub(crate) fn new(enforcer: Arc<Enforcer>, inboxes: Arc<Inboxes>, secrets: Arc<Secrets>) -> Self {
        let (handle, sessions) = (enforcer.handle.clone(), Arc::clone(&enforcer.sessions));
        Self { handle, sessions, inboxes, enforcer, secrets }
    }

    /// Emits the event to the sockets in its rooms, once to each socket.
    fn emit(&self, seq: u64, envelope: &Envelope) -> Delivery {
        let mut broadcast = self.handle.to(envelope.namespace, &envelope.room).offset(seq);
        if let Some(owner_room) = &envelope.owner_room {
            broadcast = broadcast.room(owner_room);
        }
        if let Some(key) = envelope.latest_key() {
            broadcast = broadcast.latest(&key);
        }
        match broadcast.emit_args(&envelope.event, &EventArgs::from_raw(&*envelope.argument)) {
            Ok(delivery) => Delivery::new(delivery),
            Err(error) => {
                // The names were checked when the publish was read.
                tracing::error!(%error, seq, "dispatch a committed event");
                Delivery::known(0)
            }
        }
    }

    /// Applies the new owner before the event, so that no socket gets the event without permission, neither live nor
    /// after a recovery.
    fn owner_became_known(&self, room: &str, media_id: &Arc<str>, owner_id: &Arc<str>) {
        self.sessions.owners.add(media_id, owner_id);
        let (sessions, media_id, owner_id) = (Arc::clone(&self.sessions), Arc::clone(media_id), Arc::clone(owner_id));
        self.handle.for_each_in_room(MEDIA, room, move |socket| {
            sessions.owner_became_known(socket, &media_id, &owner_id);
        });
    }

    /// Updates the inboxes of the user's sockets, after the event.
    fn notified(&self, seq: u64, room: &str, user_id: &Arc<str>, unread: u64) {
        let (inboxes, user_id) = (Arc::clone(&self.inboxes), Arc::clone(user_id));
        self.handle.for_each_in_room(NOTIFICATIONS, room, move |socket| {
            inboxes.notified(socket, &user_id, seq, unread);
        });
    }

    fn event(&self, seq: u64, envelope: &Envelope, effect: Effect<'_>) -> Delivery {
        if let Effect::OwnerKnown { media_id, owner_id } = effect {
            self.owner_became_known(&envelope.room, media_id, owner_id);
        }
        let delivery = self.emit(seq, envelope);
        if let Effect::Notified { user_id, unread } = effect {
            self.notified(seq, &envelope.room, user_id, unread);
        }
        delivery
    }

    /// Sends the new unread count after a user has read notifications on one of the user's sockets.
    fn count_changed(&self, seq: u64, user_id: &str, unread: u64) -> Delivery {
        let inboxes = Arc::clone(&self.inboxes);
        self.handle.for_each_in_room(NOTIFICATIONS, &rooms::user_room(user_id), move |socket| {
            inboxes.count_changed(socket, seq, unread);
        });
        Delivery::known(0)
    }
}

impl Dispatch for EngineDispatch {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        let each = |Dispatched { seq, event }: &Dispatched<'_>| match *event {
            CommittedEvent::Event { envelope, effect } => self.event(*seq, envelope, effect),
            CommittedEvent::Unread { user_id, unread } => self.count_changed(*seq, user_id, unread),
        };
        group.iter().map(each).collect()
    }

    fn advance(&self, seq: u64) {
        self.handle.advance(seq.into());
    }

    fn revoked(&self, change: RevocationChange) -> BoxFuture<'static, u64> {
        let enforcer = Arc::clone(&self.enforcer);
        Box::pin(async move { enforcer.enforce(change).await })
    }

    fn hand_over(&self, sealed: &str) -> BoxFuture<'static, Option<SessionRecord>> {
        let (handle, pid) = (self.handle.clone(), self.secrets.open(sealed));
        Box::pin(async move {
            let pid = pid?;
            Some(record_of(&pid, handle.hand_over(&pid).await?))
        })
    }

    fn lost(&self, room: &Room) {
        self.handle.for_each_in_room(room.namespace, &room.room, Socket::close_unavailable);
    }

    fn reset(&self) {
        self.handle.close_all();
        self.sessions.interest.forget_all();
    }
}
