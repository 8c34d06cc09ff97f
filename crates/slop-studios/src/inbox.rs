//! The notification inbox: what a user has not received on any socket is sent when one of them comes, and clients that ask
//! see what is kept and what is read.
//!
//! A notification counts as received when a socket has confirmed it: the engine asks by a heartbeat right after it. A
//! socket that is still being sent what waited confirms nothing newer, so that the mark never passes over something.

use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};

use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_server::{Ack, EventArgs, Namespace, OwnedEvent, Socket};

use crate::events::{Failed, KeptNotifications, NotificationsRead, UnreadCount, client, server};
use crate::limits::{INBOX_BATCH, MAX_IDS_PER_MARK, MAX_NOTIFICATIONS_PAGE, NOTIFICATIONS_PAGE};
use crate::namespaces::NOTIFICATIONS;
use crate::rooms;
use crate::session::{self, identity, send};
use crate::store::{self, InboxItem, ReadMark, Store, StoreError};

/// What a socket on `/notifications` has of its user's inbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Number of the last notification that was sent to it from the inbox.
    pub(crate) sent: u64,
    /// Nothing that waited is left: whatever comes now comes live.
    is_drained: bool,
    /// It has asked for what only clients that know of the inbox understand.
    wants_count: bool,
}

impl Progress {
    /// That of a session which is back, whose inbox was sent up to this number.
    pub(crate) fn sent_up_to(sent: u64) -> Self {
        Self { sent, ..Self::default() }
    }
}

/// Sends and reads inboxes.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    /// Weak, since the store dispatches through the inboxes.
    store: OnceLock<Weak<dyn Store>>,
}

impl Inboxes {
    /// Where notifications are kept. Said once, before the server starts.
    pub(crate) fn use_store(&self, store: &Arc<dyn Store>) {
        let _ = self.store.set(Arc::downgrade(store));
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        self.store.get()?.upgrade()
    }

    /// Sends what waits for the socket's user. To be called when the socket has got a user, or its session back.
    pub(crate) fn deliver(self: &Arc<Self>, socket: &Socket) {
        let (Some(identity), Some(store)) = (identity(socket), self.store()) else { return };
        let (inboxes, handle, reference) = (Arc::clone(self), socket.handle().clone(), socket.reference());
        let user_id: Arc<str> = identity.user_id.as_str().into();
        let asked = Arc::clone(&user_id);
        tokio::task::spawn_local(async move {
            let then = move |inbox: &store::Inbox| {
                let inbox = inbox.clone();
                handle.with_socket(reference, move |socket| {
                    if let Some(socket) = socket {
                        inboxes.give(socket, &user_id, &inbox);
                    }
                });
            };
            if let Err(error) = store.inbox_then(&asked, INBOX_BATCH, Box::new(then)).await {
                tracing::warn!(%error, "read an inbox");
            }
        });
    }

    /// Runs on the socket's shard, in order with the dispatches.
    fn give(self: &Arc<Self>, socket: &Socket, user_id: &Arc<str>, inbox: &store::Inbox) {
        // Who the user is may have changed meanwhile; then the new one's inbox is on its way.
        let Some(joined) = socket.joined_at(&rooms::user_room(user_id)) else { return };
        let sent = session::inbox(socket, |progress| progress.sent);
        // What came after the socket was in its user's room came live.
        let waited = |item: &&InboxItem| item.seq > sent && item.seq <= joined;
        for item in inbox.undelivered.iter().filter(waited) {
            if let Err(error) = socket.emit_args(server::NOTIFICATION, &EventArgs::from_raw(&*item.payload)) {
                tracing::error!(%error, "encode a notification");
            }
        }
        let last = inbox.undelivered.last().map_or(0, |item| item.seq);
        let is_drained = inbox.undelivered.len() < INBOX_BATCH;
        session::inbox(socket, |progress| {
            progress.sent = progress.sent.max(last.min(joined));
            progress.is_drained = is_drained;
        });
        let up_to = if is_drained { inbox.as_of } else { last };
        if inbox.undelivered.is_empty() {
            return;
        }
        let (inboxes, user_id, weak) = (Arc::clone(self), Arc::clone(user_id), socket.clone());
        socket.when_arrived(move || {
            inboxes.received(&user_id, up_to);
            if !is_drained {
                inboxes.deliver(&weak);
            }
        });
    }

    fn received(&self, user_id: &str, up_to: u64) {
        if let Some(store) = self.store() {
            store.received(user_id, up_to);
        }
    }

    /// A notification of the socket's user has just been sent to it. Runs on the socket's shard.
    pub(crate) fn notified(self: &Arc<Self>, socket: &Socket, user_id: &Arc<str>, seq: u64, unread: u64) {
        self.count_changed(socket, unread);
        if session::inbox(socket, |progress| progress.is_drained) {
            let (inboxes, user_id) = (Arc::clone(self), Arc::clone(user_id));
            socket.when_arrived(move || inboxes.received(&user_id, seq));
        }
    }

    /// Tells the client how much its user has not read, if it knows of such things. Runs on the socket's shard.
    pub(crate) fn count_changed(&self, socket: &Socket, unread: u64) {
        if session::inbox(socket, |progress| progress.wants_count) {
            send(socket, server::UNREAD_COUNT, &UnreadCount { count: unread });
        }
    }
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

/// The user's own inbox, for one who has an identity.
async fn answer<F: Future<Output = Result<String, String>>>(
    store: Arc<dyn Store>,
    socket: Socket,
    mut event: OwnedEvent,
    f: impl Fn(Arc<dyn Store>, Rc<crate::identity::Identity>, Option<Box<RawValue>>) -> F,
) {
    let ack: Option<Ack> = event.take_ack();
    let result = match identity(&socket) {
        None => Err("Not authenticated".to_owned()),
        Some(identity) => {
            session::inbox(&socket, |progress| progress.wants_count = true);
            f(store, identity, event.arg(0).map(ToOwned::to_owned)).await
        }
    };
    let Some(ack) = ack else { return };
    match result {
        Ok(json) => ack.send_args(&EventArgs::from_raw(json)),
        Err(error) => ack.send(&Failed::new(&error)),
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
) -> Result<String, String> {
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
    let next = page.next.as_deref();
    let response = KeptNotifications { success: true, notifications, next, unread_count: page.unread };
    serde_json::to_string(&response).map_err(|error| error.to_string())
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
) -> Result<String, String> {
    let mark: Mark = object(payload.as_deref().map_or("null", RawValue::get))?;
    let mark = match (mark.ids, mark.up_to) {
        (Some(ids), None) if ids.len() <= MAX_IDS_PER_MARK => ReadMark::Ids(ids),
        (Some(_), None) => return Err(format!("ids must be at most {MAX_IDS_PER_MARK}")),
        (None, Some(id)) => ReadMark::UpTo(id),
        _ => return Err("ids or upTo is required".to_owned()),
    };
    let unread_count = store.mark_read(&identity.user_id, mark).await.map_err(text)?;
    serde_json::to_string(&NotificationsRead { success: true, unread_count }).map_err(|error| error.to_string())
}

/// Only an object: serde would fill a struct from an array too.
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
