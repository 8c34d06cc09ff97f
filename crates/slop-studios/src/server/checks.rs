//! Checks of every socket after a change of keys or rules.

use std::sync::Arc;

use socketio_server::Handle;

use crate::contract::namespaces::ALL;
use crate::contract::rooms;
use crate::policy::Policy;
use crate::realtime::session::Sessions;

/// Checks the identity of every socket. It must be called after the new keys or rules are in force. A handler that
/// still uses the old ones has ended when its shard runs the check.
pub(super) fn check_identities(handle: &Handle, sessions: &Arc<Sessions>) {
    for namespace in ALL {
        let sessions = Arc::clone(sessions);
        handle.for_each(namespace, move |socket| {
            let _ = sessions.check_identity(socket);
        });
    }
}

/// Checks the rooms of sockets, but only of sockets in rooms for which the rules `before` and the current rules differ.
/// A check of every room of every socket takes long if there are many, and publishes wait for it.
pub(super) fn check_rooms(handle: &Handle, sessions: &Arc<Sessions>, before: &Arc<Policy>) {
    for namespace in ALL {
        let (before, now, sessions) = (Arc::clone(before), sessions.policy.get(), Arc::clone(sessions));
        let is_other = move |room: &str| match rooms::media_of(room) {
            Some(media_id) => !now.decides_media_as(&before, media_id),
            None => !now.decides_room_as(&before, namespace, room),
        };
        handle.for_each_in_rooms(namespace, is_other, move |socket| sessions.check_again(socket));
    }
}
