//! Media subscriptions: the event handlers that only `/media` has.

use std::sync::Arc;

use serde::Serialize;
use socketio_server::{EventArgs, Handle, Namespace, OwnedEvent, Socket, SocketRef};
use tokio::sync::oneshot;

use crate::contract::events::{Failed, MediaSubscribed, client};
use crate::contract::rooms;
use crate::realtime::session::{self, Sessions, Unanswered};
use crate::store::{MediaState, SnapshotThen, Store};

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

/// Subscribes a socket without a gap or a duplicate between the snapshot and the live events. The store runs
/// `enter_later` between two dispatches. The shard's mailbox keeps its order. So `enter` runs on the socket's shard
/// after every event that is in the snapshot, and before every event that is not.
async fn subscribe(sessions: Arc<Sessions>, store: Arc<dyn Store>, socket: Socket, mut event: OwnedEvent) {
    let media_id: Arc<str> = match rooms::parse_name(event.arg(0)) {
        Ok(media_id) => media_id.into(),
        Err(error) => return event.ack(&Failed::new(&format!("Media id {error}"))),
    };
    if !socket.is_connected() {
        return;
    }
    let answer = session::keep_unanswered(&socket, event.take_ack());

    let (done, entered) = oneshot::channel();
    let then = enter_later(&sessions, &media_id, answer, socket.handle(), socket.reference(), done);
    let asked = store.media_snapshot_then(&media_id, then).await;
    if let Err(error) = &asked {
        tracing::debug!(%error, "read a media item's state");
    }
    // Events that do not overlap with this event wait until it is answered.
    let entered = entered.await;
    if entered.is_err() {
        acknowledge(&socket, answer, &Failed::new("Try again later"));
    }
}

fn enter_later(
    sessions: &Arc<Sessions>,
    media_id: &Arc<str>,
    answer: Unanswered,
    handle: &Handle,
    socket: SocketRef,
    done: oneshot::Sender<()>,
) -> SnapshotThen {
    let (sessions, media_id, handle) = (Arc::clone(sessions), Arc::clone(media_id), handle.clone());
    Box::new(move |state| {
        let state = state.cloned();
        handle.with_socket(socket, move |socket| {
            if let Some(socket) = socket {
                enter(&sessions, socket, &media_id, answer, state.as_ref());
            }
            let _ = done.send(());
        });
    })
}

/// Subscribes with the socket's *current* identity, which may have expired since the request.
fn enter(sessions: &Sessions, socket: &Socket, media_id: &str, answer: Unanswered, state: Option<&MediaState>) {
    let owner = state.and_then(|state| state.owner_id.clone());
    if let Err(denied) = sessions.subscribe(socket, media_id, owner) {
        sessions.metrics.subscription_refused();
        tracing::debug!(socket = socket.id(), media_id, rule = denied.rule(), "refuse a subscription");
        return acknowledge(socket, answer, &Failed::new(&denied.to_string()));
    }
    acknowledge(socket, answer, &subscribed(media_id));
    if let Some(state) = state
        // Sent in the item's room: the replay leaves it out if the recovered session may no longer follow the item.
        && let Err(error) = socket.emit_args_in(
            &rooms::media_room(media_id),
            state.step.route().event,
            &EventArgs::from_raw(&*state.payload),
        )
    {
        tracing::error!(%error, "encode a media item's state");
    }
}

fn acknowledge(socket: &Socket, answer: Unanswered, response: &impl Serialize) {
    if let Some(ack) = session::take_unanswered(socket, answer) {
        ack.send(response);
    }
}

fn subscribed(media_id: &str) -> MediaSubscribed<'_> {
    MediaSubscribed { success: true, media_id }
}
