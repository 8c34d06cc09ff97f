//! The handler tables of the contract's namespaces. All three accept the same client events; media subscriptions are on
//! `/media` only.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use socketio_server::{Ack, Event, EventArgs, Namespace, OwnedEvent, Socket};

use crate::contract::events::{
    AuthenticateResponse, ConnectionInfo, Done, Failed, HeartbeatAck, Pong, RoomChanged, Welcome, client, server,
};
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{self, Target};
use crate::contract::time::Moment;
use crate::limits::MAX_EVENT_NAME_BYTES;
use crate::realtime::inbox::{self, Inboxes};
use crate::realtime::session::{
    Denied, NOT_ALLOWED, NotAuthenticated, Sessions, UNAVAILABLE, identity, send, send_args,
};
use crate::realtime::subscriptions;
use crate::store::Store;
use crate::text::excerpt;
use crate::text::nearest::nearest;

/// The ack of an event that is refused because of too many events.
const TOO_MANY_EVENTS: &str = "Too many events";

/// The three namespaces.
pub(crate) fn all(sessions: &Arc<Sessions>, inboxes: &Arc<Inboxes>, store: &Arc<dyn Store>) -> [Namespace; 3] {
    let inboxes = Arc::clone(inboxes);
    let notifications =
        common(NOTIFICATIONS, "Connected to notifications namespace", sessions, move |socket| inboxes.deliver(socket));
    [
        elsewhere_no_media(common(DEFAULT, "Connected to Slop Studios 3", sessions, |_| {})),
        subscriptions::extensions(common(MEDIA, "Connected to media namespace", sessions, |_| {}), sessions, store),
        inbox::extensions(elsewhere_no_media(notifications), store),
    ]
}

/// The handlers of all namespaces. `arrive` is called when a socket gets an identity, new or recovered.
fn common(
    name: &'static str,
    greeting: &'static str,
    sessions: &Arc<Sessions>,
    arrive: impl Fn(&Socket) + Clone + Send + Sync + 'static,
) -> Namespace {
    let namespace = lifecycle(Namespace::new(name), greeting, sessions, arrive.clone());
    let namespace = identity_and_rooms(questions(namespace), sessions, arrive);
    let s = Arc::clone(sessions);
    let namespace = namespace.admit(move |socket| s.admits_event(socket));
    let namespace = namespace.on_refused(|_, event| event.ack(&Failed::new(TOO_MANY_EVENTS)));
    let s = Arc::clone(sessions);
    namespace.fallback(move |socket, event| {
        s.metrics.unknown_event(name);
        log_unknown(socket, &event);
        if event.wants_ack() {
            let error = format!("Unknown event: {}", event.name());
            event.ack(&Failed::new(&error));
        }
    })
}

/// Adds the events that are answered regardless of the identity.
fn questions(namespace: Namespace) -> Namespace {
    namespace
        .on(client::GET_CONNECTION_INFO, |socket, event| {
            event.ack(&connection_info(socket));
        })
        .on(client::PING, |socket, mut event| {
            answer(socket, event.take_ack(), server::PONG, &Pong { timestamp: Moment::now().epoch_ms() });
        })
        .on(client::HEARTBEAT, |socket, mut event| {
            // Only an object counts: serde would also fill a struct from an array.
            let sent = event.arg(0).filter(|payload| payload.get().starts_with('{'));
            let sent = sent.and_then(|payload| serde_json::from_str::<Heartbeat>(payload.get()).ok());
            let sent = sent.and_then(|heartbeat| heartbeat.timestamp?.as_f64());
            answer(socket, event.take_ack(), server::HEARTBEAT_ACK, &HeartbeatAck::new(Moment::now(), sent));
        })
}

/// Adds the handlers for the connect, the save, the recovery and the timer of a socket.
fn lifecycle(
    namespace: Namespace,
    greeting: &'static str,
    sessions: &Arc<Sessions>,
    arrive: impl Fn(&Socket) + Clone + Send + Sync + 'static,
) -> Namespace {
    let (s, name) = (Arc::clone(sessions), namespace.name());
    let namespace = namespace.before_connect(move |auth, headers| s.before_connect(name, auth, headers));
    let s = Arc::clone(sessions);
    let namespace = namespace.authorize(move |socket, auth| s.admit(socket, auth));
    let (s, arrived) = (Arc::clone(sessions), arrive.clone());
    let namespace = namespace.on_connect(move |socket| {
        let welcome = Welcome { message: greeting, socket_id: socket.id(), server_time: Moment::now() };
        send(socket, server::WELCOME, &welcome);
        s.begin(socket);
        arrived(socket);
    });
    let s = Arc::clone(sessions);
    let namespace = namespace.save(move |socket| s.save(socket));
    let s = Arc::clone(sessions);
    let namespace = namespace.restore(move |socket, saved, auth| s.restore(socket, saved, auth));
    let s = Arc::clone(sessions);
    let namespace = namespace.before_replay(move |socket| s.before_replay(socket));
    let (s, arrived) = (Arc::clone(sessions), arrive);
    let namespace = namespace.on_recovered(move |socket| {
        s.resume(socket);
        arrived(socket);
    });
    let s = Arc::clone(sessions);
    namespace.on_timer(move |socket| s.check_expiry(socket))
}

/// Adds the events for authentication and for room membership.
fn identity_and_rooms(
    namespace: Namespace,
    sessions: &Arc<Sessions>,
    arrive: impl Fn(&Socket) + Clone + Send + Sync + 'static,
) -> Namespace {
    let s = Arc::clone(sessions);
    let namespace = namespace.on_async(client::AUTHENTICATE, move |socket, event| {
        let (sessions, arrive) = (Arc::clone(&s), arrive.clone());
        async move {
            authenticate(&sessions, &socket, event, arrive).await;
        }
    });
    let s = Arc::clone(sessions);
    let namespace = namespace.on(client::LOGOUT, move |socket, event| {
        s.logout(socket);
        event.ack(&Done { success: true });
    });
    let (s, has_other_nodes) = (Arc::clone(sessions), sessions.interest.is_needed());
    let namespace = if has_other_nodes {
        namespace.on_async(client::JOIN_ROOM, move |socket, event| enter_room(Arc::clone(&s), socket, event))
    } else {
        namespace.on(client::JOIN_ROOM, move |socket, event| join_room(&s, socket, event))
    };
    let s = Arc::clone(sessions);
    namespace.on(client::LEAVE_ROOM, move |socket, event| leave_room(&s, socket, event))
}

/// Answers an event with an event, and acknowledges it with the same arguments.
fn answer(socket: &Socket, ack: Option<Ack>, name: &'static str, payload: &impl Serialize) {
    match EventArgs::new(payload) {
        Ok(args) => {
            send_args(socket, name, &args);
            if let Some(ack) = ack {
                ack.send_args(&args);
            }
        }
        Err(error) => tracing::error!(event = name, %error, "encode an event"),
    }
}

fn acknowledge(ack: Option<Ack>, payload: &impl Serialize) {
    if let Some(ack) = ack {
        ack.send(payload);
    }
}

/// Logs the known event that was most likely meant, for the page's developer: without a callback, the page gets no
/// error.
fn log_unknown(socket: &Socket, event: &Event<'_>) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let name = excerpt(event.name(), MAX_EVENT_NAME_BYTES);
        tracing::debug!(
            namespace = socket.namespace(),
            socket = socket.id(),
            client = %socket.remote_addr(),
            event = name,
            nearest = nearest(name, client::ALL.iter().copied()),
            has_callback = event.wants_ack(),
            "unknown event"
        );
    }
}

fn elsewhere_no_media(namespace: Namespace) -> Namespace {
    namespace
        .on(client::SUBSCRIBE_MEDIA, |_, event| {
            event.ack(&Failed::new("subscribeMedia works only on /media"));
        })
        .on(client::UNSUBSCRIBE_MEDIA, |_, event| {
            event.ack(&Failed::new("unsubscribeMedia works only on /media"));
        })
}

/// The timestamp may be any JSON value. A value that is not a number counts as missing.
#[derive(Deserialize)]
struct Heartbeat {
    timestamp: Option<serde_json::Value>,
}

async fn authenticate(sessions: &Arc<Sessions>, socket: &Socket, event: OwnedEvent, arrive: impl Fn(&Socket)) {
    socket.turn().await;
    if let Some(ready) = socket.work(|| sessions.before_authenticate(socket.namespace(), event.arg(0))) {
        ready.await;
        socket.turn().await;
    }
    if !socket.is_connected() {
        return;
    }
    match socket.work(|| sessions.authenticate(socket, event.arg(0))) {
        Ok(user_id) => {
            event.ack(&AuthenticateResponse { success: true, user_id: Some(&user_id), error: None });
            arrive(socket);
        }
        Err(error) => {
            event.ack(&AuthenticateResponse { success: false, user_id: None, error: Some(error.to_string()) });
            if error != NotAuthenticated::Unavailable {
                sessions.enforce_failure_limit(socket);
            }
        }
    }
}

/// Joins a room whose events are dispatched here already.
fn join_room(sessions: &Sessions, socket: &Socket, mut event: Event<'_>) {
    let ack = event.take_ack();
    match rooms::parse_room(event.arg(0)) {
        Ok(room) => answer_join(socket, ack, &room, join(sessions, socket, &room)),
        Err(error) => acknowledge(ack, &Failed::new(&format!("Room name {error}"))),
    }
}

/// Has the events of a room dispatched here, then joins it.
async fn enter_room(sessions: Arc<Sessions>, socket: Socket, mut event: OwnedEvent) {
    let ack = event.take_ack();
    let room = match rooms::parse_room(event.arg(0)) {
        Ok(room) => room,
        Err(error) => return acknowledge(ack, &Failed::new(&format!("Room name {error}"))),
    };
    if target(&socket, &room) == Target::Custom {
        if let Err(denied) = sessions.may_join(&socket, &room) {
            return answer_join(&socket, ack, &room, Err(denied));
        }
        if let Some(entered) = sessions.interest.enter(socket.namespace(), &room) {
            let entered = entered.await;
            socket.caught_up().await;
            if let Err(error) = entered {
                tracing::debug!(%error, room, "hear a room");
                return acknowledge(ack, &Failed::new(UNAVAILABLE));
            }
        }
        if !sessions.interest.is_current() {
            return acknowledge(ack, &Failed::new(UNAVAILABLE));
        }
    }
    if socket.is_connected() {
        answer_join(&socket, ack, &room, join(&sessions, &socket, &room));
    }
}

fn join(sessions: &Sessions, socket: &Socket, room: &str) -> Result<(), Denied> {
    match target(socket, room) {
        Target::Own => Ok(()),
        Target::Another => Err(Denied::Reserved),
        Target::Custom => sessions.join_custom(socket, room),
    }
    .inspect_err(|_| sessions.metrics.join_refused(socket.namespace()))
}

fn answer_join(socket: &Socket, ack: Option<Ack>, room: &str, joined: Result<(), Denied>) {
    match joined {
        Ok(()) => {
            answer(socket, ack, server::ROOM_JOINED, &RoomChanged { room, success: true });
        }
        Err(denied) => {
            let rule = denied.rule();
            tracing::debug!(namespace = socket.namespace(), socket = socket.id(), room, rule, "refuse a join");
            acknowledge(ack, &Failed::new(&denied.to_string()));
        }
    }
}

fn leave_room(sessions: &Sessions, socket: &Socket, mut event: Event<'_>) {
    let ack = event.take_ack();
    let room = match rooms::parse_room(event.arg(0)) {
        Ok(room) => room,
        Err(error) => return acknowledge(ack, &Failed::new(&format!("Room name {error}"))),
    };
    match target(socket, &room) {
        Target::Own | Target::Another => return acknowledge(ack, &Failed::new(NOT_ALLOWED)),
        Target::Custom => sessions.leave_custom(socket, &room),
    }
    answer(socket, ack, server::ROOM_LEFT, &RoomChanged { room: &room, success: true });
}

fn target(socket: &Socket, room: &str) -> Target {
    let identity = identity(socket);
    let user_id = identity.as_ref().map(|identity| identity.user_id.as_str());
    match rooms::target(room, socket.id(), user_id) {
        Target::Custom if socket.handle().is_socket_id(room) => Target::Another,
        target => target,
    }
}

fn connection_info(socket: &Socket) -> ConnectionInfo<'_> {
    let own = identity(socket).map(|identity| rooms::user_room(&identity.user_id));
    let authenticated = own.is_some();
    let mut joined: Vec<String> =
        (socket.rooms().into_iter()).filter(|room| !rooms::is_internal(room) && Some(room) != own.as_ref()).collect();
    joined.sort_unstable();
    let mut rooms = vec![socket.id().to_owned()];
    rooms.extend(own);
    rooms.extend(joined);
    ConnectionInfo {
        socket_id: socket.id(),
        connected: socket.is_connected(),
        rooms,
        authenticated,
        connected_at: socket.connected_at().into(),
    }
}
