//! The memberships of a socket: its custom rooms and media subscriptions, each checked against the policy.

use std::sync::Arc;

use socketio_server::{JoinError, Socket};

use super::{NOT_ALLOWED, Session, Sessions, identity, with_session};
use crate::contract::rooms;
use crate::metrics::Limit;
use crate::policy::Decision;

/// Why a membership was refused. The text is for the ack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// Refused by this rule, which is for the log.
    #[error("{NOT_ALLOWED}")]
    ByPolicy(String),
    /// The room is another user's or another socket's own.
    #[error("{NOT_ALLOWED}")]
    Reserved,
    #[error("Too many rooms and subscriptions")]
    TooMany,
}

impl Denied {
    /// The rule that refused the membership, for the log.
    pub(crate) fn rule(&self) -> &str {
        match self {
            Self::ByPolicy(rule) => rule,
            Self::Reserved => "reserved",
            Self::TooMany => "MAX_ROOMS_PER_SOCKET or MAX_ROOMS",
        }
    }
}

fn permitted(decision: Decision<'_>) -> Result<(), Denied> {
    if decision.allowed { Ok(()) } else { Err(Denied::ByPolicy(decision.ground.to_string())) }
}

impl From<JoinError> for Denied {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::TooMany => Self::TooMany,
            JoinError::Reserved | JoinError::Disconnected => Self::Reserved,
        }
    }
}

impl Sessions {
    /// Removes the socket's identity if the keys in force do not accept its token, and ends the memberships that the
    /// rules in force deny. Call this after a change of keys or rules: until then, a handler on the socket's shard may
    /// have used the old ones.
    pub(crate) fn check_again(&self, socket: &Socket) {
        // A socket without a session has no memberships, and this must not create a session.
        if socket.with_data(|_: &mut Session| ()).is_some() && self.check_identity(socket).is_none() {
            self.leave_what_is_denied(socket);
        }
    }

    /// Leaves the denied rooms without an event: a client would take `roomLeft` for the answer to its `leaveRoom`.
    pub(super) fn leave_what_is_denied(&self, socket: &Socket) {
        let policy = self.policy.get();
        let (denied_rooms, denied_media) = with_session(socket, |session| {
            let identity = session.identity.as_deref();
            let mut denied_media = Vec::new();
            session.subscriptions.retain(|media_id, owner| {
                let may = policy.subscribe(identity, media_id, owner.as_deref()).allowed;
                if !may {
                    denied_media.push(rooms::media_room(media_id));
                }
                may
            });
            let denied_rooms: Vec<String> = (socket.rooms().into_iter())
                .filter(|room| is_custom(room) && !policy.join(identity, socket.namespace(), room).allowed)
                .collect();
            session.memberships = session.memberships.saturating_sub(denied_rooms.len() + denied_media.len());
            (denied_rooms, denied_media)
        });
        for _ in &denied_media {
            self.metrics.subscription_ended();
        }
        for _ in &denied_rooms {
            self.metrics.room_membership_ended();
        }
        for room in denied_rooms.iter().chain(&denied_media) {
            socket.leave(room);
        }
    }

    /// Whether the socket may join a custom room.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn may_join(&self, socket: &Socket, room: &str) -> Result<(), Denied> {
        permitted(self.policy.get().join(identity(socket).as_deref(), socket.namespace(), room))
    }

    /// Adds the socket to a custom room, if the policy allows it. A repeated join succeeds.
    pub(crate) fn join_custom(&self, socket: &Socket, room: &str) -> Result<(), Denied> {
        if socket.in_room(room) {
            return Ok(());
        }
        self.may_join(socket, room)?;
        self.join_within_limit(socket, room)
    }

    /// Removes the socket from a custom room, if it is a member.
    pub(crate) fn leave_custom(&self, socket: &Socket, room: &str) {
        if socket.leave(room) {
            with_session(socket, |session| session.memberships = session.memberships.saturating_sub(1));
        }
    }

    /// Subscribes the socket to a media item, if the policy allows it. The owner is the one that was known a moment
    /// ago. A repeated subscription succeeds.
    pub(crate) fn subscribe(&self, socket: &Socket, media_id: &str, owner: Option<Arc<str>>) -> Result<(), Denied> {
        let owner = owner.or_else(|| self.owners.of(media_id));
        permitted(self.policy.get().subscribe(identity(socket).as_deref(), media_id, owner.as_deref()))?;
        let room = rooms::media_room(media_id);
        if !socket.in_room(&room) {
            self.join_within_limit(socket, &room)?;
        }
        with_session(socket, |session| session.subscriptions.insert(media_id.into(), owner));
        socket.session_changed();
        Ok(())
    }

    /// Ends a subscription, if there is one.
    pub(crate) fn unsubscribe(&self, socket: &Socket, media_id: &str) {
        if socket.leave(&rooms::media_room(media_id)) {
            with_session(socket, |session| {
                session.subscriptions.remove(media_id);
                session.memberships = session.memberships.saturating_sub(1);
            });
        }
    }

    /// Checks a subscription against the item's new owner. A denied subscriber is removed without an event.
    pub(crate) fn owner_became_known(&self, socket: &Socket, media_id: &str, owner: &Arc<str>) {
        if self.policy.get().subscribe(identity(socket).as_deref(), media_id, Some(owner)).allowed {
            with_session(socket, |session| {
                if let Some(known) = session.subscriptions.get_mut(media_id) {
                    *known = Some(Arc::clone(owner));
                }
            });
            socket.session_changed();
        } else {
            self.unsubscribe(socket, media_id);
            self.metrics.subscription_ended();
        }
    }

    fn join_within_limit(&self, socket: &Socket, room: &str) -> Result<(), Denied> {
        if with_session(socket, |session| session.memberships) >= self.max_rooms_per_socket {
            self.metrics.limit_met(Limit::Rooms);
            return Err(Denied::TooMany);
        }
        if socket.join(room)? {
            with_session(socket, |session| session.memberships += 1);
        }
        Ok(())
    }
}

/// Whether the room is neither an internal room nor a user's room.
pub(super) fn is_custom(room: &str) -> bool {
    !rooms::is_internal(room) && !room.starts_with(rooms::USER_PREFIX)
}
