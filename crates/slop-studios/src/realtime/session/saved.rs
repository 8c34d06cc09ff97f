//! A session that is saved, and restored for a client that comes back.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use socketio_server::Socket;

use super::memberships::is_custom;
use super::offered::offered_token;
use super::{Session, Sessions};
use crate::contract::auth_error::AuthError;
use crate::contract::rooms;
use crate::identity::{Flaw, Identity};
use crate::realtime::inbox::progress::Progress;

/// The saved state of a socket's session, for its recovery.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SavedState {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    /// Why there is no identity, if the client may not know.
    #[serde(rename = "untold", skip_serializing_if = "Option::is_none")]
    unconfirmed_error: Option<AuthError>,
    /// The subscribed media items, and their owners as far as known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) subscriptions: BTreeMap<Box<str>, Option<Arc<str>>>,
    #[serde(skip_serializing_if = "is_zero")]
    auth_failures: u32,
    /// Number of the last notification that was sent from the inbox.
    #[serde(skip_serializing_if = "is_zero")]
    inbox_sent: u64,
    /// Whether the client is sent the number of unread notifications.
    #[serde(skip_serializing_if = "is_zero")]
    wants_count: bool,
}

impl SavedState {
    /// Lets the inbox start again: the last sent notifications may have been lost with the server.
    pub(crate) fn restart_inbox(&mut self) {
        self.inbox_sent = 0;
    }
}

fn is_zero<T: Default + PartialEq>(count: &T) -> bool {
    *count == T::default()
}

/// The identity of a restored session.
struct Identified {
    identity: Option<Identity>,
    /// Why the saved identity is no longer valid.
    lost: Option<AuthError>,
}

impl Sessions {
    /// The state to save of the socket's session.
    pub(crate) fn save(&self, socket: &Socket) -> String {
        let state = socket.with_data(|session: &mut Session| SavedState {
            identity: session.identity.as_deref().cloned(),
            unconfirmed_error: session.unconfirmed_error.as_deref().copied(),
            subscriptions: session.subscriptions.clone(),
            auth_failures: socket.strikes(),
            inbox_sent: (session.identity.as_ref()).map_or(0, |identity| session.inbox.sent_to(&identity.user_id)),
            wants_count: session.inbox.wants_count(),
        });
        state.and_then(|state| serde_json::to_string(&state).ok()).unwrap_or_default()
    }

    /// Restores a saved session, as far as it is valid now: its token may have ended, its key may have been withdrawn,
    /// and a followed media item may have an owner by now. Returns `false` if the session is not for this client.
    pub(crate) fn restore(&self, socket: &Socket, saved: &str, auth: Option<&RawValue>) -> bool {
        let mut state = match saved {
            "" => SavedState::default(),
            saved => match serde_json::from_str::<SavedState>(saved) {
                Ok(state) => state,
                Err(error) => {
                    tracing::warn!(%error, "a kept session is not readable");
                    return false;
                }
            },
        };
        if !self.interest.is_current() {
            return false;
        }
        let offered = offered_token(socket, auth).and_then(|token| self.verify(&token));
        // A missing token is nothing to report.
        let refused = offered.as_ref().err().filter(|flaw| **flaw != Flaw::Missing).cloned();
        let Some(Identified { identity, lost }) = self.identify(state.identity.take(), offered.ok()) else {
            return false;
        };
        if let Some(flaw) = &refused {
            self.note_refused(socket, "come back", flaw, flaw.setting());
        }
        let refused = refused.map(|flaw| flaw.error());
        let unconfirmed_error = lost.or(state.unconfirmed_error).or(refused).filter(|_| identity.is_none());
        // A user's notifications are not repeated to another user. If the user comes back later, the inbox starts
        // again.
        let user_id = identity.as_ref().map(|identity| &*identity.user_id);
        let own = user_id.map(rooms::user_room);
        let inbox = Progress::restored(user_id, state.inbox_sent, state.wants_count);
        let mut subscriptions = state.subscriptions;
        for (media_id, owner) in &mut subscriptions {
            if owner.is_none() {
                *owner = self.owners.of(media_id);
            }
        }
        let custom = socket.rooms().into_iter().filter(|room| is_custom(room)).count();
        socket.set_data(Session {
            identity: identity.map(Rc::new),
            unconfirmed_error: unconfirmed_error.map(Rc::new),
            auth_failures: state.auth_failures,
            memberships: custom + subscriptions.len(),
            subscriptions,
            inbox,
            ..Session::default()
        });
        for room in socket.rooms() {
            if room.starts_with(rooms::USER_PREFIX) && Some(&room) != own.as_ref() {
                socket.leave(&room);
            }
        }
        self.leave_what_is_denied(socket);
        true
    }

    /// The identity that a restored session continues with, from the saved one and the one that the client offers.
    /// `None` if the session is not for this client.
    ///
    /// An invalid token does no harm: the session may have a better one, which was sent later. A valid token must be of
    /// the same user, and may be newer.
    fn identify(&self, mut saved: Option<Identity>, offered: Option<Identity>) -> Option<Identified> {
        let lost =
            saved.as_mut().and_then(|saved| self.verifier.recheck(saved).map(|end| saved.expires_at = end).err());
        let end = |identity: &Identity| identity.expires_at.unwrap_or(u64::MAX);
        let identity = match (saved, offered) {
            (Some(saved), Some(offered)) if saved.user_id != offered.user_id => return None,
            // The saved session was logged out or its token had ended, and the client has an identity again: that is a
            // new session.
            (None, Some(_)) => return None,
            // If both end at the same time, the offered token is used, because the rules in force were applied to it.
            (Some(saved), Some(offered)) if lost.is_some() || end(&offered) >= end(&saved) => Some(offered),
            (Some(_), None) if lost.is_some() => None,
            (saved, _) => saved,
        };
        if identity.is_none() {
            if self.policy.get().auth_required() {
                return None;
            }
            lost.into_iter().for_each(|reason| self.metrics.identity_lost(reason));
        }
        Some(Identified { identity, lost })
    }
}
