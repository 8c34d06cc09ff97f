//! From a committed change to the sockets that are to get it.

use std::sync::Arc;

use socketio_server::{EncodeError, EventArgs, Handle};

use crate::events::server;
use crate::inbox::Inboxes;
use crate::namespaces::{MEDIA, NOTIFICATIONS};
use crate::rooms;
use crate::session::Sessions;
use crate::store::{Class, CommittedEvent, Delivery, Dispatch, Dispatched, MediaState, Step};

/// Hands committed events to the engine. The store calls it in commit order, and the engine keeps that order.
#[derive(Debug)]
pub(crate) struct EngineDispatch {
    handle: Handle,
    sessions: Arc<Sessions>,
    inboxes: Arc<Inboxes>,
}

impl EngineDispatch {
    pub(crate) fn new(handle: Handle, sessions: Arc<Sessions>, inboxes: Arc<Inboxes>) -> Self {
        Self { handle, sessions, inboxes }
    }

    /// To the item's subscribers and its owner's sockets, each once.
    fn media(
        &self,
        seq: u64,
        media_id: &Arc<str>,
        state: &MediaState,
        owner_became_known: bool,
    ) -> Result<socketio_server::Delivery, EncodeError> {
        let room = rooms::media_room(media_id);
        let mut broadcast = self.handle.to(MEDIA, &room).offset(seq);
        if let Step::Progress(_) = state.step {
            // No room event has such a key; see `latest_key`.
            broadcast = broadcast.latest(media_id);
        }
        if let Some(owner) = &state.owner_id {
            broadcast = broadcast.room(&rooms::user_room(owner));
            if owner_became_known {
                // Queued before the event, so that nobody gets it who may not have it; also not by coming back.
                self.sessions.owners.add(media_id, owner);
                let (sessions, media_id, owner) = (Arc::clone(&self.sessions), Arc::clone(media_id), Arc::clone(owner));
                self.handle.for_each_in_room(MEDIA, &room, move |socket| {
                    sessions.owner_became_known(socket, &media_id, &owner);
                });
            }
        }
        broadcast.emit_args(state.step.event(), &EventArgs::from_raw(&*state.payload))
    }
}

impl Dispatch for EngineDispatch {
    fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
        group.iter().map(|dispatched| self.event(dispatched.seq, dispatched.event)).collect()
    }
}

impl EngineDispatch {
    fn event(&self, seq: u64, event: CommittedEvent<'_>) -> Delivery {
        let delivery = match event {
            CommittedEvent::Media { media_id, state, owner_became_known } => {
                self.media(seq, media_id, state, owner_became_known)
            }
            CommittedEvent::Notification { notification, unread } => {
                let room = rooms::user_room(&notification.user_id);
                let delivery = (self.handle.to(NOTIFICATIONS, &room).offset(seq))
                    .emit_args(server::NOTIFICATION, &EventArgs::from_raw(&*notification.payload));
                let (inboxes, user_id) = (Arc::clone(&self.inboxes), Arc::clone(&notification.user_id));
                self.handle.for_each_in_room(NOTIFICATIONS, &room, move |socket| {
                    inboxes.notified(socket, &user_id, seq, unread);
                });
                delivery
            }
            CommittedEvent::Unread { user_id, unread } => {
                let inboxes = Arc::clone(&self.inboxes);
                self.handle.for_each_in_room(NOTIFICATIONS, &rooms::user_room(user_id), move |socket| {
                    inboxes.count_changed(socket, unread);
                });
                return Delivery::known(0);
            }
            CommittedEvent::Room(event) => {
                let mut broadcast = self.handle.to(event.namespace, &event.room).offset(seq);
                if event.class == Class::Latest {
                    broadcast = broadcast.latest(&latest_key(&event.room, &event.event));
                }
                broadcast.emit_args(&event.event, &EventArgs::from_raw(&*event.argument))
            }
        };
        match delivery {
            Ok(delivery) => Delivery::new(delivery),
            Err(error) => {
                // The names were checked when the publish was read.
                tracing::error!(%error, "encode a committed event");
                Delivery::known(0)
            }
        }
    }
}

/// What events of one name in one room have in common, and nothing else: no room, no event and no media item has a control
/// character in its name.
fn latest_key(room: &str, event: &str) -> String {
    format!("{room}\0{event}")
}
