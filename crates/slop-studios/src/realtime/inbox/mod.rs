//! The notification inbox. Notifications that a user has not received on any socket are sent when one of the user's
//! sockets connects. Clients can also list the kept notifications and mark them as read.
//!
//! A notification counts as received when a socket has confirmed it: the engine asks for this by a heartbeat right
//! after it. A socket with pending notifications confirms no newer ones, so that the mark never skips one.

use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_server::{Ack, EventArgs, Namespace, OwnedEvent, Position, Socket};

pub(crate) mod progress;

use progress::Progress;

use crate::contract::events::{Failed, KeptNotifications, NotificationsRead, UnreadCount, client, server};
use crate::contract::namespaces::NOTIFICATIONS;
use crate::contract::rooms;
use crate::limits::{INBOX_AGAIN_AFTER, INBOX_BATCH, MAX_IDS_PER_MARK, MAX_NOTIFICATIONS_PAGE, NOTIFICATIONS_PAGE};
use crate::realtime::session::{self, identity, send_to_user};
use crate::store::{self, ReadMark, Store, StoreError, Unread};

/// Sends and reads inboxes.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    /// Weak, since the store dispatches through the inboxes.
    store: OnceLock<Weak<dyn Store>>,
}

impl Inboxes {
    /// Sets the store of the notifications. Called once, before the server starts.
    pub(crate) fn use_store(&self, store: &Arc<dyn Store>) {
        let _ = self.store.set(Arc::downgrade(store));
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        self.store.get()?.upgrade()
    }

    /// Sends the pending notifications of the socket's user. Call this when the socket has got a user, or has recovered
    /// its session.
    pub(crate) fn deliver(self: &Arc<Self>, socket: &Socket) {
        let (Some(identity), Some(store)) = (identity(socket), self.store()) else { return };
        let user_id: Arc<str> = identity.user_id.as_str().into();
        if !session::inbox(socket, |progress| progress.begin(&user_id)) {
            return;
        }
        let (inboxes, handle, reference) = (Arc::clone(self), socket.handle().clone(), socket.reference());
        tokio::task::spawn_local(async move {
            let read = store.inbox(&user_id, INBOX_BATCH).await;
            // By then the socket's shard has sent every event up to the inbox's number.
            handle.with_socket(reference, move |socket| match (socket, read) {
                (Some(socket), Ok(inbox)) => {
                    inboxes.was_read(socket, |is_late| inboxes.give(socket, &user_id, &inbox, is_late));
                }
                (Some(socket), Err(error)) => inboxes.try_again_later(socket, &error),
                (None, _) => {}
            });
        });
    }

    /// Reads the inbox again after a wait, which is longer after each failure. Meanwhile the inbox counts as being
    /// read, so that a socket has one retry at a time, whatever its client does.
    fn try_again_later(self: &Arc<Self>, socket: &Socket, error: &StoreError) {
        let wait = session::inbox(socket, Progress::failed);
        if wait <= INBOX_AGAIN_AFTER {
            tracing::warn!(%error, socket = socket.id(), "read an inbox; it is tried again");
        }
        let wait = jittered(wait);
        let (inboxes, handle, reference) = (Arc::clone(self), socket.handle().clone(), socket.reference());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            handle.with_socket(reference, move |socket| {
                // A broken store stays broken until the server is restarted.
                if let Some(socket) = socket
                    && inboxes.store().is_some_and(|store| store.is_open())
                {
                    session::inbox(socket, Progress::try_again);
                    inboxes.deliver(socket);
                }
            });
        });
    }

    /// Calls `done` after a read, and reads again if the socket got a user meanwhile.
    fn was_read(self: &Arc<Self>, socket: &Socket, done: impl FnOnce(bool)) {
        let is_late = session::inbox(socket, Progress::was_read);
        done(is_late);
        if is_late {
            self.deliver(socket);
        }
    }

    /// Sends an inbox to the socket. Runs on the socket's shard, after every event that the inbox includes, and maybe
    /// after later ones. `is_late`: the inbox is about to be read again.
    fn give(self: &Arc<Self>, socket: &Socket, user_id: &Arc<str>, inbox: &store::Inbox, is_late: bool) {
        // The user may have changed meanwhile. Then the new user's inbox is on its way.
        let Some(joined) = socket.joined_at(&rooms::user_room(user_id)).map(Position::get) else { return };
        let (new, is_drained, live, count) = session::inbox(socket, |progress| {
            let new = progress.take(inbox, joined, is_late);
            (new, progress.is_drained, progress.last_live, progress.take_count(inbox, is_late))
        });
        for item in new {
            let args = EventArgs::from_raw(&*item.payload);
            // A session that is recovered as another user, or as anonymous, does not get it again.
            if let Err(error) = socket.emit_args_in(&rooms::user_room(user_id), server::NOTIFICATION, &args) {
                tracing::error!(%error, "encode a notification");
            }
        }
        if let Some(count) = count {
            send_count(socket, user_id, count);
        }
        let last = inbox.undelivered.last().map_or(0, |item| item.seq);
        let up_to = if is_drained { inbox.as_of.max(live) } else { last };
        if inbox.undelivered.is_empty() && live <= inbox.as_of {
            return;
        }
        let (inboxes, user_id, again) = (Arc::clone(self), Arc::clone(user_id), socket.clone());
        socket.when_arrived(move || {
            inboxes.received(&user_id, up_to);
            if !is_drained && !is_late {
                inboxes.deliver(&again);
            }
        });
    }

    fn received(&self, user_id: &str, up_to: u64) {
        if let Some(store) = self.store() {
            store.received(user_id, up_to);
        }
    }

    /// Handles a notification that has just been sent to the socket. Runs on the socket's shard.
    pub(crate) fn notified(self: &Arc<Self>, socket: &Socket, user_id: &Arc<str>, seq: u64, unread: u64) {
        self.count_changed(socket, seq, unread);
        if session::inbox(socket, |progress| progress.came_live(seq)) {
            let (inboxes, user_id) = (Arc::clone(self), Arc::clone(user_id));
            socket.when_arrived(move || inboxes.received(&user_id, seq));
        }
    }

    /// Sends the client the number of unread notifications, if the client has used an inbox event. Runs on the socket's
    /// shard.
    pub(crate) fn count_changed(&self, socket: &Socket, seq: u64, unread: u64) {
        let Some(identity) = identity(socket) else { return };
        let unread = Unread { count: unread, as_of: seq };
        if let Some(count) = session::inbox(socket, |progress| progress.count_changed(unread)) {
            send_count(socket, &identity.user_id, count);
        }
    }
}

/// Half to all of the wait, at random, so that sockets that met the same fault do not retry at the same time.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    wait.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

fn send_count(socket: &Socket, user_id: &str, unread: u64) {
    send_to_user(socket, user_id, server::UNREAD_COUNT, &UnreadCount { count: unread });
}

/// Adds the extensions `listNotifications` and `markNotificationsRead` to a namespace.
pub(crate) fn extensions(namespace: Namespace, store: &Arc<dyn Store>) -> Namespace {
    let (list, mark) = (Arc::clone(store), Arc::clone(store));
    namespace
        .on_async(client::LIST_NOTIFICATIONS, move |socket, event| answer(Arc::clone(&list), socket, event, list_page))
        .on_async(client::MARK_NOTIFICATIONS_READ, move |socket, event| {
            answer(Arc::clone(&mark), socket, event, mark_read)
        })
}

/// Answers a request for the user's own inbox. The socket needs an identity. `f` returns the count at its position in
/// the order, and makes the answer from the count that is sent to the client.
async fn answer<F, A>(
    store: Arc<dyn Store>,
    socket: Socket,
    mut event: OwnedEvent,
    f: impl Fn(Arc<dyn Store>, Rc<crate::identity::Identity>, Option<Box<RawValue>>) -> F,
) where
    F: Future<Output = Result<(Unread, A), String>>,
    A: FnOnce(u64) -> serde_json::Result<String>,
{
    let ack: Option<Ack> = event.take_ack();
    let Some(identity) = identity(&socket) else {
        if let Some(ack) = ack {
            ack.send(&Failed::new("Not authenticated"));
        }
        return;
    };
    let (asked, is_first) = session::inbox(&socket, |progress| (progress.times_stale, progress.want_count()));
    if is_first {
        socket.session_changed();
    }
    let result = f(store, identity, event.arg(0).map(ToOwned::to_owned)).await.and_then(|(unread, answer)| {
        let count = session::inbox(&socket, |progress| progress.newest(asked, unread));
        answer(count).map_err(|error| error.to_string())
    });
    let has_count = ack.is_some() && result.is_ok();
    match (ack, result) {
        (Some(ack), Ok(json)) => ack.send_args(&EventArgs::from_raw(json)),
        (Some(ack), Err(error)) => ack.send(&Failed::new(&error)),
        (None, _) => {}
    }
    let held = session::inbox(&socket, |progress| progress.answered(asked, has_count));
    if let (Some(unread), Some(identity)) = (held, self::identity(&socket)) {
        send_count(&socket, &identity.user_id, unread);
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    before: Option<String>,
    limit: Option<usize>,
}

async fn list_page(
    store: Arc<dyn Store>,
    identity: Rc<crate::identity::Identity>,
    payload: Option<Box<RawValue>>,
) -> Result<(Unread, impl FnOnce(u64) -> serde_json::Result<String>), String> {
    let List { before, limit } = match payload.as_deref().map(RawValue::get) {
        None | Some("null") => List::default(),
        Some(json) => object(json)?,
    };
    let limit = limit.unwrap_or(NOTIFICATIONS_PAGE);
    if !(1..=MAX_NOTIFICATIONS_PAGE).contains(&limit) {
        return Err(format!("limit must be 1 to {MAX_NOTIFICATIONS_PAGE}"));
    }
    let page = store.notifications(&identity.user_id, before.as_deref(), limit).await.map_err(text)?;
    let notifications = page.notifications.iter().map(|kept| kept.with_read_mark()).collect::<Result<Vec<_>, _>>();
    let notifications = notifications.map_err(|error| error.to_string())?;
    Ok((page.unread, move |unread_count| {
        let next = page.next.as_deref();
        serde_json::to_string(&KeptNotifications { success: true, notifications, next, unread_count })
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mark {
    ids: Option<Vec<String>>,
    up_to: Option<String>,
}

async fn mark_read(
    store: Arc<dyn Store>,
    identity: Rc<crate::identity::Identity>,
    payload: Option<Box<RawValue>>,
) -> Result<(Unread, impl FnOnce(u64) -> serde_json::Result<String>), String> {
    let mark: Mark = object(payload.as_deref().map_or("null", RawValue::get))?;
    let mark = match (mark.ids, mark.up_to) {
        (Some(ids), None) if ids.len() <= MAX_IDS_PER_MARK => ReadMark::Ids(ids),
        (Some(_), None) => return Err(format!("ids must be at most {MAX_IDS_PER_MARK}")),
        (None, Some(id)) => ReadMark::UpTo(id),
        _ => return Err("ids or upTo is required".to_owned()),
    };
    let unread = store.mark_read(&identity.user_id, mark).await.map_err(text)?;
    Ok((unread, |unread_count| serde_json::to_string(&NotificationsRead { success: true, unread_count })))
}

/// Reads an object only: serde would also fill a struct from an array.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    if !json.starts_with('{') {
        return Err("An object is required".to_owned());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn text(error: StoreError) -> String {
    match error {
        StoreError::UnknownNotification => "No such notification is kept".to_owned(),
        error => {
            tracing::warn!(%error, namespace = NOTIFICATIONS, "an inbox is not available");
            "Try again later".to_owned()
        }
    }
}
