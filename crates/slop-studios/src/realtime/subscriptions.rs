//! Media subscriptions: the event handlers that only `/media` has.

use std::sync::Arc;

use futures_util::future::{OptionFuture, join};
use socketio_server::{EventArgs, Forgotten, Namespace, OwnedEvent, Socket};

use crate::contract::events::{Failed, MediaSubscribed, client};
use crate::contract::namespaces::MEDIA;
use crate::contract::rooms;
use crate::realtime::session::Sessions;
use crate::store::{MediaSnapshot, Store};

/// The answer when the store or the server can't give the item's state now.
const TRY_AGAIN: &str = "Try again later";

/// Adds `subscribeMedia` and `unsubscribeMedia` to a namespace.
pub(crate) fn extensions(namespace: Namespace, sessions: &Arc<Sessions>, store: &Arc<dyn Store>) -> Namespace {
    let (s, store) = (Arc::clone(sessions), Arc::clone(store));
    let namespace = namespace.on_overlapping(client::SUBSCRIBE_MEDIA, move |socket, event| {
        subscribe(Arc::clone(&s), Arc::clone(&store), socket, event)
    });
    let s = Arc::clone(sessions);
    namespace.on(client::UNSUBSCRIBE_MEDIA, move |socket, event| match rooms::parse_name(event.arg(0)) {
        Ok(media_id) => {
            s.unsubscribe(socket, &media_id);
            event.ack(&subscribed(&media_id));
        }
        Err(error) => event.ack(&Failed::new(&format!("Media id {error}"))),
    })
}

/// Subscribes a socket without a gap or a step back between the item's state and the live events. The state was read as
/// of a number, and the socket's shard has sent every event up to it before `enter` runs.
async fn subscribe(sessions: Arc<Sessions>, store: Arc<dyn Store>, socket: Socket, event: OwnedEvent) {
    let media_id = match rooms::parse_name(event.arg(0)) {
        Ok(media_id) => media_id,
        Err(error) => return event.ack(&Failed::new(&format!("Media id {error}"))),
    };
    // The read comes after the question for the room's events.
    let entered = sessions.interest.enter(MEDIA, &rooms::media_room(&media_id));
    let snapshot = store.media_snapshot(&media_id);
    let (entered, snapshot) = join(OptionFuture::from(entered), snapshot).await;
    match entered.transpose().and(snapshot) {
        Ok(snapshot) => {
            socket.caught_up().await;
            if !sessions.interest.is_current() {
                return event.ack(&Failed::new(TRY_AGAIN));
            }
            if socket.is_connected() {
                enter(&sessions, &socket, &media_id, event, &snapshot);
            }
        }
        Err(error) => {
            tracing::debug!(%error, "read a media item's state");
            event.ack(&Failed::new(TRY_AGAIN));
        }
    }
}

/// Subscribes with the socket's *current* identity, which may have expired since the request.
fn enter(sessions: &Sessions, socket: &Socket, media_id: &str, event: OwnedEvent, snapshot: &MediaSnapshot) {
    let room = rooms::media_room(media_id);
    // An event since the read is the newer state.
    let newer = match socket.newest_in(&room, snapshot.as_of.into()) {
        Ok(newer) => newer,
        // More was published since the read than the server remembers.
        Err(Forgotten) => return event.ack(&Failed::new(TRY_AGAIN)),
    };
    let owner = snapshot.state.as_ref().and_then(|state| state.owner_id.clone());
    if let Err(denied) = sessions.subscribe(socket, media_id, owner) {
        sessions.metrics.subscription_refused();
        tracing::debug!(socket = socket.id(), media_id, rule = denied.rule(), "refuse a subscription");
        return event.ack(&Failed::new(&denied.to_string()));
    }
    event.ack(&subscribed(media_id));
    match (newer, &snapshot.state) {
        (Some(newer), _) => socket.send_again(&newer),
        (None, Some(state)) => {
            // Sent in the item's room: the replay leaves it out if the recovered session may no longer follow the item.
            let args = EventArgs::from_raw(&*state.payload);
            if let Err(error) = socket.emit_args_in(&room, state.step.route().event, &args) {
                tracing::error!(%error, "encode a media item's state");
            }
        }
        (None, None) => {}
    }
}

fn subscribed(media_id: &str) -> MediaSubscribed<'_> {
    MediaSubscribed { success: true, media_id }
}
