//! The notification inbox: what a user has not received on any socket is sent when one of them comes, and clients that ask
//! see what is kept and what is read.
//!
//! A notification counts as received when a socket has confirmed it: the engine asks by a heartbeat right after it. A
//! socket that is still being sent what waited confirms nothing newer, so that the mark never passes over something.

use std::mem::{self, replace};
use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_server::{Ack, EventArgs, Namespace, OwnedEvent, Socket};

use crate::events::{Failed, KeptNotifications, NotificationsRead, UnreadCount, client, server};
use crate::limits::{
    INBOX_AGAIN_AFTER, INBOX_AGAIN_AT_LATEST, INBOX_BATCH, MAX_IDS_PER_MARK, MAX_NOTIFICATIONS_PAGE, NOTIFICATIONS_PAGE,
};
use crate::namespaces::NOTIFICATIONS;
use crate::rooms;
use crate::session::{self, identity, send_to_user};
use crate::store::{self, InboxItem, ReadMark, Store, StoreError};

/// What a socket on `/notifications` has of its user's inbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Whose inbox it is. It stays after a logout: the same user goes on with it, another one begins anew.
    user_id: Option<Arc<str>>,
    /// Up to this number everything was sent from the inbox. A session that comes back may count on it, since what was sent
    /// to one socket alone is repeated with the session.
    sent: u64,
    /// What was sent, from the inbox or live, on this connection. At least all up to `sent`.
    has: Sent,
    /// What was sent to the users that it had before, the last one last: one of them may come again.
    earlier: Vec<(Arc<str>, Sent)>,
    /// Nothing that waited is left: whatever comes now comes live.
    is_drained: bool,
    /// The client has asked for what only clients that know of the inbox understand, as whichever user.
    wants_count: bool,
    /// The count of unread notifications may have changed since the client was told.
    is_count_stale: bool,
    /// How often that came about.
    times_stale: u64,
    /// Requests that may bring the client the count and are not answered yet.
    unanswered: usize,
    /// The count of an inbox that was read meanwhile, in case that they bring none.
    held: Option<u64>,
    reading: Reading,
    /// How often in a row it could not be read.
    failures: u32,
}

/// The numbers of notifications that were sent.
#[derive(Debug, Clone, Default)]
struct Sent {
    /// All up to this one.
    up_to: u64,
    /// What came live while older ones waited: those above the first number, up to the second.
    live: Vec<(u64, u64)>,
}

/// Intervals of what came live, and earlier users, that a socket remembers. Each takes a logout or another token before the inbox
/// has been sent; with more, a notification may come twice.
const MAX_REMEMBERED: usize = 16;

impl Sent {
    fn has(&self, seq: u64) -> bool {
        seq <= self.up_to || self.live.iter().any(|(after, until)| seq > *after && seq <= *until)
    }

    fn all_up_to(&mut self, seq: u64) {
        self.up_to = self.up_to.max(seq);
        self.live.retain(|(_, until)| *until > self.up_to);
    }

    fn came_live(&mut self, after: u64, until: u64) {
        if until > after {
            push_bounded(&mut self.live, (after, until));
        }
    }
}

fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() == MAX_REMEMBERED {
        list.remove(0);
    }
    list.push(item);
}

/// Whether a socket's inbox is being read. One read at a time, however often the client authenticates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    No,
    Once,
    /// The socket got a user since the read began, the same or another: what it brings may not be all.
    Again,
}

impl Progress {
    /// That of a session which is back, to which its user's inbox was sent up to this number.
    pub(crate) fn restored(user_id: Option<&str>, sent: u64, wants_count: bool) -> Self {
        let (user_id, has) = (user_id.map(Arc::from), Sent { up_to: sent, live: Vec::new() });
        Self { user_id, sent, has, wants_count, is_count_stale: true, ..Self::default() }
    }

    /// How far this user's inbox was sent, for a session that may come back.
    pub(crate) fn sent_to(&self, user_id: &str) -> u64 {
        if self.user_id.as_deref() == Some(user_id) { self.sent } else { 0 }
    }

    /// Whether the client is to be told how many notifications are unread, for a session that may come back.
    pub(crate) fn wants_count(&self) -> bool {
        self.wants_count
    }

    /// The client has asked for an inbox, and is told the count with the answer. Says whether it is the first time.
    fn want_count(&mut self) -> bool {
        self.unanswered += 1;
        !replace(&mut self.wants_count, true)
    }

    /// What it asked for when `times_stale` was `asked` was answered, and `told` the count or not. Gives the count that it is to
    /// be told now.
    fn answered(&mut self, asked: u64, told: bool) -> Option<u64> {
        self.unanswered = self.unanswered.saturating_sub(1);
        if told && self.times_stale == asked {
            (self.is_count_stale, self.held) = (false, None);
        }
        let held = if self.unanswered == 0 { self.held.take() } else { None };
        self.is_count_stale &= held.is_none();
        held
    }

    /// The socket has got a user. Says whether the inbox is to be read now.
    fn begin(&mut self, user_id: &Arc<str>) -> bool {
        if self.user_id.as_ref() != Some(user_id) {
            let mut earlier = mem::take(&mut self.earlier);
            if let Some(before) = self.user_id.take() {
                push_bounded(&mut earlier, (before, mem::take(&mut self.has)));
            }
            let known = earlier.iter().position(|(earlier, _)| earlier == user_id);
            *self = Self {
                has: known.map(|known| earlier.remove(known).1).unwrap_or_default(),
                earlier,
                user_id: Some(Arc::clone(user_id)),
                reading: self.reading,
                wants_count: self.wants_count,
                is_count_stale: true,
                times_stale: self.times_stale + 1,
                unanswered: self.unanswered,
                failures: self.failures,
                ..Self::default()
            };
        }
        if self.is_drained {
            return false;
        }
        let is_first = self.reading == Reading::No;
        self.reading = if is_first { Reading::Once } else { Reading::Again };
        is_first
    }

    /// The inbox was read. Says whether it is to be read again.
    fn was_read(&mut self) -> bool {
        self.failures = 0;
        replace(&mut self.reading, Reading::No) == Reading::Again
    }

    /// The inbox could not be read, and counts as being read until it is tried again. Says how long that is to wait at most.
    fn failed(&mut self) -> Duration {
        let wait = INBOX_AGAIN_AFTER * 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait.min(INBOX_AGAIN_AT_LATEST)
    }

    /// It is tried again, for the user that the socket has by now.
    fn try_again(&mut self) {
        self.reading = Reading::No;
    }

    /// The socket leaves its user's room, where it was given everything from the number after `joined` up to `position` live. As
    /// long as older ones wait, that says nothing of them.
    pub(crate) fn end(&mut self, joined: u64, position: u64) {
        self.is_count_stale = true;
        self.times_stale += 1;
        self.held = None;
        if replace(&mut self.is_drained, false) {
            self.has.all_up_to(position);
        } else {
            self.has.came_live(joined, position);
        }
    }

    /// Whether the client is to be told the count of an inbox that was read.
    fn take_count(&mut self, is_late: bool, unread: u64) -> bool {
        if is_late || !self.is_count_stale {
            return false;
        }
        if self.unanswered > 0 {
            self.held = Some(unread);
            return false;
        }
        self.is_count_stale = false;
        self.wants_count
    }

    /// What of an inbox a socket has not got, if whatever has a higher number than `joined` came live. `is_late`: it was read
    /// before the socket joined.
    fn take<'a>(&mut self, inbox: &'a store::Inbox, joined: u64, is_late: bool) -> Vec<&'a InboxItem> {
        let is_new = |item: &&InboxItem| !self.has.has(item.seq) && item.seq <= joined;
        let new = inbox.undelivered.iter().filter(is_new).collect();
        // What came live before a logout may be lost with the connection, and nothing repeats it then but the inbox.
        let is_unsure = inbox.undelivered.iter().any(|item| item.seq > self.sent && self.has.has(item.seq));
        let last = inbox.undelivered.last().map_or(0, |item| item.seq).min(joined);
        if !is_unsure {
            self.sent = self.sent.max(last);
        }
        self.is_drained = !inbox.more && !is_late;
        self.has.all_up_to(if self.is_drained { inbox.as_of } else { last });
        new
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
        if !session::inbox(socket, |progress| progress.begin(&user_id)) {
            return;
        }
        let asked = Arc::clone(&user_id);
        tokio::task::spawn_local(async move {
            let (failed, at) = (Arc::clone(&inboxes), handle.clone());
            let then = move |inbox: &store::Inbox| {
                let inbox = inbox.clone();
                handle.with_socket(reference, move |socket| {
                    if let Some(socket) = socket {
                        inboxes.was_read(socket, |is_late| inboxes.give(socket, &user_id, &inbox, is_late));
                    }
                });
            };
            if let Err(error) = store.inbox_then(&asked, INBOX_BATCH, Box::new(then)).await {
                at.with_socket(reference, move |socket| {
                    if let Some(socket) = socket {
                        failed.try_again_later(socket, &error);
                    }
                });
            }
        });
    }

    /// Reads the inbox again after a while, which is longer after each failure. Meanwhile it counts as being read, so that there
    /// is one try of a socket at a time, whatever the client does.
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
                // A store that has broken down stays so until the server is restarted.
                if let Some(socket) = socket
                    && inboxes.store().is_some_and(|store| store.is_open())
                {
                    session::inbox(socket, Progress::try_again);
                    inboxes.deliver(socket);
                }
            });
        });
    }

    /// Does what is to be done after a read, and reads again if the socket got a user meanwhile.
    fn was_read(self: &Arc<Self>, socket: &Socket, done: impl FnOnce(bool)) {
        let is_late = session::inbox(socket, Progress::was_read);
        done(is_late);
        if is_late {
            self.deliver(socket);
        }
    }

    /// Runs on the socket's shard, in order with the dispatches. `is_late`: the inbox is about to be read again.
    fn give(self: &Arc<Self>, socket: &Socket, user_id: &Arc<str>, inbox: &store::Inbox, is_late: bool) {
        // Who the user is may have changed meanwhile; then the new one's inbox is on its way.
        let Some(joined) = socket.joined_at(&rooms::user_room(user_id)) else { return };
        let (new, is_drained, tells_count) = session::inbox(socket, |progress| {
            (progress.take(inbox, joined, is_late), progress.is_drained, progress.take_count(is_late, inbox.unread))
        });
        for item in new {
            let args = EventArgs::from_raw(&*item.payload);
            // A session that comes back as somebody else, or as nobody, does not get it again.
            if let Err(error) = socket.emit_args_in(&rooms::user_room(user_id), server::NOTIFICATION, &args) {
                tracing::error!(%error, "encode a notification");
            }
        }
        if tells_count {
            // What changes it from here on is dispatched later.
            send_count(socket, user_id, inbox.unread);
        }
        let last = inbox.undelivered.last().map_or(0, |item| item.seq);
        let up_to = if is_drained { inbox.as_of } else { last };
        if inbox.undelivered.is_empty() {
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
        let Some(identity) = identity(socket) else { return };
        let wants_count = session::inbox(socket, |progress| {
            progress.held = None;
            progress.wants_count
        });
        if wants_count {
            send_count(socket, &identity.user_id, unread);
        }
    }
}

/// Half to once as long, so that those whom one fault met do not come at the same time.
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

/// The user's own inbox, for one who has an identity.
async fn answer<F: Future<Output = Result<String, String>>>(
    store: Arc<dyn Store>,
    socket: Socket,
    mut event: OwnedEvent,
    f: impl Fn(Arc<dyn Store>, Rc<crate::identity::Identity>, Option<Box<RawValue>>) -> F,
) {
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
    let result = f(store, identity, event.arg(0).map(ToOwned::to_owned)).await;
    let told = ack.is_some() && result.is_ok();
    match (ack, result) {
        (Some(ack), Ok(json)) => ack.send_args(&EventArgs::from_raw(json)),
        (Some(ack), Err(error)) => ack.send(&Failed::new(&error)),
        (None, _) => {}
    }
    let held = session::inbox(&socket, |progress| progress.answered(asked, told));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(numbers: &[u64], as_of: u64) -> store::Inbox {
        let item = |&seq| InboxItem { seq, id: "n".into(), payload: "{}".into() };
        store::Inbox { undelivered: numbers.iter().map(item).collect(), as_of, ..store::Inbox::default() }
    }

    fn taken(progress: &mut Progress, inbox: &store::Inbox, joined: u64) -> Vec<u64> {
        progress.take(inbox, joined, false).iter().map(|item| item.seq).collect()
    }

    #[test]
    fn what_came_before_a_logout_does_not_come_again() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6], 7), 4), [2, 3], "the last one came live");
        progress.end(4, 8);
        progress.begin(&user);
        // Nothing is confirmed yet, and 9 came while it was logged out.
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6, 8, 9], 10), 9), [9]);
        assert_eq!(taken(&mut progress, &waiting(&[2, 3, 6, 8, 9], 10), 9), [0; 0]);
        progress.end(9, 10);
        progress.begin(&other);
        assert_eq!(taken(&mut progress, &waiting(&[5], 11), 11), [5], "another one's inbox");
    }

    #[test]
    fn what_came_before_another_user_does_not_come_again() {
        let (user, other): (Arc<str>, Arc<str>) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2], 3), 3), [2]);
        progress.end(3, 5);
        progress.begin(&other);
        assert_eq!(taken(&mut progress, &waiting(&[4], 5), 5), [4]);
        progress.end(5, 7);
        progress.begin(&user);
        // 5 came live, and none is confirmed yet.
        assert_eq!(taken(&mut progress, &waiting(&[2, 5, 6], 8), 8), [6]);
        assert_eq!(progress.sent_to("u"), 0, "who comes back counts on nothing that came live");
        for number in 0..2 * MAX_REMEMBERED {
            progress.begin(&number.to_string().into());
        }
        assert_eq!(progress.earlier.len(), MAX_REMEMBERED);
    }

    #[test]
    fn what_came_live_while_others_waited_does_not_come_again() {
        let user = "u".into();
        let mut progress = Progress::default();
        progress.begin(&user);
        // The inbox is not read yet when it logs out.
        progress.end(3, 5);
        progress.was_read();
        progress.begin(&user);
        let batch = store::Inbox { more: true, ..waiting(&[2, 4], 8) };
        assert_eq!(taken(&mut progress, &batch, 7), [2], "4 came live");
        progress.end(7, 9);
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[2, 4, 6, 8, 10], 10), 10), [6, 10]);
        assert!(progress.has.live.is_empty(), "all are sent");
    }

    #[test]
    fn one_read_at_a_time_and_one_more_after_it() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        assert!(progress.begin(&user));
        for user in [&user, &other, &user] {
            assert!(!progress.begin(user));
        }
        assert!(progress.was_read(), "for those that came meanwhile");
        // It joined after that read: 2 is on its way, and what comes live does not stand for it.
        assert_eq!(progress.take(&waiting(&[1], 1), 3, true).len(), 1);
        progress.end(3, 4);
        assert!(progress.begin(&user));
        assert!(!progress.was_read());
        assert_eq!(taken(&mut progress, &waiting(&[1, 2, 4], 4), 3), [2]);
        assert!(!progress.begin(&user), "nothing waits");
        progress.end(3, 5);
        assert!(progress.begin(&user));
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_once_at_a_time_and_less_and_less_often() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        assert!(progress.begin(&user));
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(progress.failed());
            assert!(!progress.begin(&user), "one try at a time");
            progress.try_again();
            assert!(progress.begin(&user));
        }
        assert_eq!((waits[0], waits[1]), (INBOX_AGAIN_AFTER, 2 * INBOX_AGAIN_AFTER));
        assert!(waits.is_sorted() && waits[39] == INBOX_AGAIN_AT_LATEST, "{waits:?}");
        progress.end(0, 1);
        assert!(!progress.begin(&other), "not by another user either");
        assert_eq!(progress.failed(), INBOX_AGAIN_AT_LATEST);
        progress.try_again();
        assert!(progress.begin(&other));
        assert!(!progress.was_read());
        assert!(progress.begin(&other));
        assert_eq!(progress.failed(), INBOX_AGAIN_AFTER);
    }

    #[test]
    fn what_comes_live_does_not_pass_for_what_waits() {
        let mut progress = Progress::default();
        progress.begin(&"u".into());
        let batch = store::Inbox { more: true, ..waiting(&[1, 2], 500) };
        assert_eq!(taken(&mut progress, &batch, 400), [1, 2]);
        progress.end(400, 501);
        assert_eq!(taken(&mut progress, &waiting(&[300, 502], 502), 502), [300, 502]);
    }

    #[test]
    fn a_session_that_comes_back_counts_on_nothing_that_came_live() {
        let user = "u".into();
        let mut progress = Progress::default();
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[1], 2), 2), [1]);
        progress.end(2, 3);
        progress.begin(&user);
        assert_eq!(taken(&mut progress, &waiting(&[1, 3, 4], 5), 5), [4]);
        assert_eq!((progress.sent_to("u"), progress.sent_to("v")), (1, 0));
        let mut back = Progress::restored(Some("u"), 1, false);
        back.begin(&user);
        assert_eq!(taken(&mut back, &waiting(&[1, 3, 4], 5), 5), [3, 4]);
    }

    #[test]
    fn the_count_is_told_when_it_may_have_changed_unheard() {
        let (user, other) = ("u".into(), "v".into());
        let mut progress = Progress::default();
        progress.begin(&user);
        assert!(!progress.take_count(false, 1), "the client has not asked for it");
        assert_eq!([progress.want_count(), progress.want_count()], [true, false]);
        assert_eq!([progress.answered(1, true), progress.answered(1, true)], [None; 2]);
        assert!(!progress.take_count(false, 1), "what it asked for had the count");
        progress.end(0, 1);
        progress.begin(&user);
        assert!(!progress.take_count(true, 1), "read before the socket joined");
        assert_eq!([progress.take_count(false, 1), progress.take_count(false, 1)], [true, false]);
        progress.begin(&other);
        assert!(progress.take_count(false, 1), "it is another one's");
        assert!(Progress::restored(None, 0, progress.wants_count()).take_count(false, 1));
    }

    #[test]
    fn the_count_of_an_inbox_is_told_unless_an_answer_tells_it() {
        let begun = || {
            let mut progress = Progress::default();
            progress.begin(&"u".into());
            progress.want_count();
            let asked = progress.times_stale;
            assert!(!progress.take_count(false, 5), "the answer will tell it");
            (progress, asked)
        };
        let (mut told, asked) = begun();
        assert_eq!((told.answered(asked, true), told.take_count(false, 5)), (None, false));
        let (mut failed, asked) = begun();
        assert_eq!((failed.answered(asked, false), failed.take_count(false, 5)), (Some(5), false));
        let (mut away, asked) = begun();
        away.end(0, 2);
        away.begin(&"u".into());
        assert_eq!((away.answered(asked, true), away.take_count(false, 6)), (None, true), "it was away since it asked");
    }
}
