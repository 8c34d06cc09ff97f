//! Session recovery: how a returning client gets its session back.

use std::{borrow::Cow, collections::HashSet, rc::Rc, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::Connection;
use crate::{
    DisconnectReason, Handle, RecoveryFailure, Socket, SocketRef,
    api::event::EventArgs,
    config::{CROWDED_PAUSE, CROWDED_PAUSES, LARGEST_WAIT},
    delivery::frame::Frame,
    identifier::{Id, Position},
    recovery::{
        Away, Claimed, Direct, Entry, Memory, MissedEvent, NotRecalled, Offset, SavedSession, SessionKeeper,
        SocketRecovery, TooLate, Whereabouts, keeper,
    },
};

/// A client's claim to its earlier session.
pub(crate) struct Claim {
    pid: Id,
    /// The offset of the client's last event; `None` if the client has received no event.
    offset: Result<Option<Offset>, RecoveryFailure>,
}

/// A client's request when it connects to a namespace.
pub(crate) enum Wish {
    /// A new session. The client may resume it later, unless the client has declined that.
    Session { recoverable: bool },
    /// The client's earlier session.
    Recovery(Claim),
}

#[derive(Default, Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    pid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    offset: Option<Cow<'a, str>>,
    recovery: Option<bool>,
}

impl Wish {
    /// Reads the `auth` of a CONNECT. If it has no `recovery` entry, `usual` applies.
    pub(crate) fn of(auth: Option<&RawValue>, usual: bool) -> Self {
        let auth = auth.filter(|auth| auth.get().starts_with('{'));
        let auth: Auth<'_> = auth.and_then(|auth| serde_json::from_str(auth.get()).ok()).unwrap_or_default();
        let recoverable = auth.recovery.unwrap_or(usual);
        match auth.pid.and_then(|pid| Id::parse(&pid)).filter(|_| recoverable) {
            None => Self::Session { recoverable },
            Some(pid) => {
                let offset = auth.offset.map(|offset| Offset::parse(&offset).ok_or(RecoveryFailure::BadOffset));
                Self::Recovery(Claim { pid, offset: offset.transpose() })
            }
        }
    }
}

/// A session that is about to return to its client.
struct FoundSession {
    session: SavedSession,
    direct: Direct,
    /// The events after the client's offset that the keeper has.
    recalled: Recalled,
}

/// The events that a keeper has of a session.
#[derive(Default)]
struct Recalled {
    events: Vec<MissedEvent>,
    /// The offset up to which they are complete.
    until: Position,
}

/// Restores the client's session, or connects the client with a new session.
pub(crate) async fn resume(connection: Rc<Connection>, namespace: u16, claim: Claim, auth: Option<Box<RawValue>>) {
    let shard = connection.shard.clone();
    let found = find(&connection, &claim).await;
    connection.no_longer_connecting(namespace);
    connection.batch(|| {
        let take_up = |found| connection.work(|| connection.take_up(namespace, &claim, found, auth.as_deref()));
        let resumed = found.and_then(take_up);
        match resumed {
            Ok(()) => shard.metrics.recovered.increment(),
            Err(RecoveryFailure::Unavailable) => {
                shard.metrics.recovery_failed(RecoveryFailure::Unavailable);
                connection.close_later(DisconnectReason::Unavailable);
            }
            Err(failure) => {
                shard.metrics.recovery_failed(failure);
                tracing::debug!(failure = failure.as_str(), "session not recovered");
                connection.connect_anew(namespace, auth.as_deref(), true);
            }
        }
    });
}

async fn find(connection: &Rc<Connection>, claim: &Claim) -> Result<FoundSession, RecoveryFailure> {
    let unknown = RecoveryFailure::UnknownSession;
    let shard = &connection.shard;
    let Some(recovery) = shard.handle.recovery() else { return Err(unknown) };
    let offset = claim.offset.as_ref().map_err(|failure| *failure)?;
    let taken = take_when_free(connection, recovery, &claim.pid).await.ok_or(unknown)?;
    let mut returning = Returning { connection, pid: claim.pid, exists: false };
    let mut found = taken.map_err(|_too_late| unknown)?.map(|away| {
        let (session, direct) = away.unpack(|namespace| shard.space(namespace).namespace);
        FoundSession { session, direct: direct.unpack(), recalled: Recalled::default() }
    });
    returning.exists = found.is_some();
    if let Some(keeper) = &recovery.settings.keeper {
        let read = connection.unless_ended(read(connection, &**keeper, claim, offset.as_ref(), &mut found)).await;
        returning.exists = found.is_some();
        match read.unwrap_or(Ok(())) {
            Ok(()) => {}
            Err(RecoveryFailure::Unavailable) => {
                returning.goes_on();
                put_back(connection, recovery, claim.pid, found);
                return Err(RecoveryFailure::Unavailable);
            }
            Err(failure) => return Err(failure),
        }
    }
    let found = found.ok_or(unknown)?;
    // Clients that came back earlier get time to receive their replays.
    for _ in 0..CROWDED_PAUSES {
        if !shard.is_crowded(connection.client) || connection.is_closed() {
            break;
        }
        sleep(CROWDED_PAUSE).await;
    }
    // This shard must have processed every broadcast that the client received through another shard.
    shard.caught_up().await;
    // The client may have missed many events, and the session may be in many rooms.
    shard.turn().await;
    if connection.is_closed() {
        returning.goes_on();
        put_back(connection, recovery, claim.pid, Some(found));
        return Err(unknown);
    }
    returning.goes_on();
    Ok(found)
}

fn failure(error: NotRecalled, gone: RecoveryFailure) -> RecoveryFailure {
    match error {
        NotRecalled::Gone => gone,
        NotRecalled::Unavailable => RecoveryFailure::Unavailable,
    }
}

/// Keeps a session again whose client could not get it. Without the session, only the client's claim to it ends.
fn put_back(connection: &Connection, recovery: &Memory, pid: Id, found: Option<FoundSession>) {
    let known = found.and_then(|FoundSession { session, direct, .. }| {
        let namespace = connection.shard.space_named(&session.namespace)?;
        let id = Id::parse(&session.socket_id)?;
        Some(Away::new(namespace, connection.address(), id, session, direct.pack()))
    });
    match known {
        Some(away) => recovery.keep(pid, away),
        None => recovery.sessions().end(&pid),
    }
}

/// Reads a session's data from the keeper: the session itself, unless it is already found and no other server can have
/// it, and the events that the history of this server does not have.
async fn read(
    connection: &Connection,
    keeper: &dyn SessionKeeper,
    claim: &Claim,
    offset: Option<&Offset>,
    found: &mut Option<FoundSession>,
) -> Result<(), RecoveryFailure> {
    let shard = &connection.shard;
    let begun = shard.handle.recovery().map_or(Position::NONE, |recovery| recovery.history().start());
    let after = |session: &SavedSession| offset.map_or(Position::NONE, |offset| offset.broadcast).max(session.since);
    let is_shared = keeper.is_shared();
    if !is_shared && found.as_ref().is_some_and(|found| after(&found.session) >= begun) {
        return Ok(());
    }
    let _reader = match connection.address() {
        Some(address) => Some(shard.readers.enter(address).await),
        None => None,
    };
    let mut has_own_events = found.is_some();
    if is_shared || found.is_none() {
        match keeper
            .claim(claim.pid.as_str(), found.is_some())
            .await
            .map_err(|error| failure(error, RecoveryFailure::UnknownSession))?
        {
            Claimed::Here => {}
            Claimed::Saved(session) => {
                let direct = session.own_events.as_deref().and_then(Direct::of_text).map(Direct::unpack);
                has_own_events = direct.is_some();
                let direct = direct.unwrap_or_default();
                *found = Some(FoundSession { session, direct, recalled: Recalled::default() });
            }
        }
    }
    let found = found.as_mut().ok_or(RecoveryFailure::UnknownSession)?;
    let (session, after) = (&found.session, after(&found.session));
    // This includes a session that was resumed before: events sent to it then may not have arrived.
    if is_shared || after < begun {
        let mut rooms = session.rooms.clone();
        rooms.push((session.socket_id.as_str().into(), Position::NONE));
        let missed = keeper.missed(&session.namespace, rooms, after, has_own_events).await;
        let missed = missed.map_err(|error| failure(error, RecoveryFailure::Forgotten))?;
        let keeper::Missed { mut events, until } = missed;
        // The history has all later events.
        events.retain(|event| event.offset <= until);
        found.recalled = Recalled { events, until };
    }
    Ok(())
}

/// Takes the session as soon as no other connection has it. A connection that has it is closed. Returns `None` if the
/// client has gone meanwhile, or if this very connection has the session.
async fn take_when_free(
    connection: &Rc<Connection>,
    recovery: &Memory,
    pid: &Id,
) -> Option<Result<Option<Away>, TooLate>> {
    let shard = &connection.shard;
    // After this time the client may be gone, so its connection is checked again.
    let patience = shard.config.connect_timeout;
    loop {
        match take(recovery, pid) {
            Taken::Session(taken) => return Some(taken),
            Taken::HeldBy(socket) if socket.is_of(connection.key, shard.id) => return None,
            // The client noticed the loss of its connection before the server did.
            Taken::HeldBy(socket) => {
                let _ = timeout(patience, hang_up(&shard.handle, socket)).await;
            }
            // The same holds for a connection on which the session is being resumed.
            Taken::Returning(returned) => {
                let _ = timeout(patience, returned).await;
            }
        }
        if connection.is_closed() {
            return None;
        }
    }
}

/// The result of an attempt to take a session.
enum Taken {
    Session(Result<Option<Away>, TooLate>),
    /// A socket has the session.
    HeldBy(SocketRef),
    /// The session is being resumed on another connection, until this resolves.
    Returning(oneshot::Receiver<()>),
}

/// Takes the session, unless a socket has it or another connection is resuming it.
fn take(recovery: &Memory, pid: &Id) -> Taken {
    let mut sessions = recovery.sessions();
    if let Some(Whereabouts::With(socket)) = sessions.find(pid) {
        return Taken::HeldBy(*socket);
    }
    match sessions.returned(pid) {
        Some(returned) => Taken::Returning(returned),
        None => Taken::Session(sessions.take(*pid)),
    }
}

/// Ends the session when dropped, unless `goes_on` is called.
struct Returning<'a> {
    connection: &'a Connection,
    pid: Id,
    /// The session exists. The keeper need not know about an id that the client invented.
    exists: bool,
}

impl Returning<'_> {
    fn goes_on(self) {
        std::mem::forget(self);
    }
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        let shard = &self.connection.shard;
        let Some(recovery) = shard.handle.recovery() else { return };
        // If the server stops before the client has the session, the saved data is unchanged and stays valid.
        let stops = shard.is_draining() && !std::thread::panicking();
        if self.exists && !stops {
            recovery.end(&self.pid);
        } else {
            recovery.sessions().end(&self.pid);
        }
    }
}

impl Handle {
    /// Takes a session away from this server, for another server that its client has come back to: closes its client's
    /// connection, if there is one, and forgets the session. `None` if this server does not have it. The keeper is not
    /// told.
    pub async fn hand_over(&self, pid: &str) -> Option<SavedSession> {
        let (recovery, pid) = (self.recovery()?, Id::parse(pid)?);
        loop {
            match take(recovery, &pid) {
                Taken::Session(taken) => {
                    recovery.sessions().end(&pid);
                    let (mut session, direct) = taken.ok()??.unpack(|index| self.namespace_name(index));
                    session.own_events = Some(direct.to_text());
                    return Some(session);
                }
                Taken::HeldBy(socket) => hang_up(self, socket).await,
                // The client has come back here too, or was about to.
                Taken::Returning(returned) => drop(returned.await),
            }
        }
    }
}

/// Closes a socket's connection, on any shard, and waits until that is done.
async fn hang_up(handle: &Handle, socket: SocketRef) {
    let (done, is_done) = oneshot::channel::<()>();
    handle.with_socket(socket, move |socket| {
        if let Some(socket) = socket {
            socket.inner().connection.hand_over(done);
        }
    });
    let _ = is_done.await;
}

impl Connection {
    /// Creates a socket for the session, and sends the missed events to the client.
    fn take_up(
        self: &Rc<Self>,
        namespace: u16,
        claim: &Claim,
        found: FoundSession,
        auth: Option<&RawValue>,
    ) -> Result<(), RecoveryFailure> {
        let shard = &self.shard;
        if shard.handle.recovery().is_none() {
            return Err(RecoveryFailure::UnknownSession);
        }
        let ending = Returning { connection: self, pid: claim.pid, exists: true };
        let space = shard.space(namespace);
        let FoundSession { session, mut direct, recalled } = found;
        let has_recalled = !recalled.events.is_empty();
        let id = Id::parse(&session.socket_id).filter(|_| session.namespace == space.namespace);
        let id = id.filter(|id| !space.sockets.borrow().contains_key(id)).ok_or(RecoveryFailure::UnknownSession)?;
        let offset = claim.offset.as_ref().ok().and_then(Option::as_ref);
        let position = shard.position();
        let since = offset.map_or(Position::NONE, |offset| offset.broadcast).max(session.since);
        if since > position {
            return Err(RecoveryFailure::BadOffset);
        }
        if !direct.resume(&id, offset) {
            return Err(RecoveryFailure::Forgotten);
        }

        let socket = Socket::new(
            self,
            self.next_reference(namespace),
            id,
            Some(SocketRecovery::resumed(claim.pid, since, direct)),
        );
        socket.set_connected(true);
        space.sockets.borrow_mut().insert(id, socket.clone());
        let missed = self.restore(&socket, &session, recalled, since, auth).inspect_err(|_| {
            socket.set_connected(false);
            socket.leave_all();
            space.sockets.borrow_mut().remove(&id);
            socket.drop_data();
        })?;
        ending.goes_on();
        let claimed = offset.copied().unwrap_or(Offset::of_broadcast(since));
        self.send_missed(&socket, claimed, missed, has_recalled);
        Ok(())
    }

    /// Restores the session's rooms and the application's data. Collects the events that the client has missed after
    /// the broadcast `since`.
    fn restore(
        self: &Rc<Self>,
        socket: &Socket,
        session: &SavedSession,
        recalled: Recalled,
        since: Position,
        auth: Option<&RawValue>,
    ) -> Result<Missed, RecoveryFailure> {
        let (shard, space, id) = (&self.shard, socket.space(), socket.inner().id);
        let Some(recovery) = shard.handle.recovery() else { return Err(RecoveryFailure::UnknownSession) };
        let has_room = socket.join_again(&session.rooms);
        let restore = space.handlers().restore.as_ref().filter(|_| has_room);
        let accepted =
            restore.is_none_or(|restore| shard.guarded(|| restore(socket, &session.data, auth)).unwrap_or_default());
        let rooms = space.rooms.borrow().memberships_of(socket);
        let namespace = socket.reference().namespace;
        let Recalled { events: mut recalled, until } = recalled;
        let missed = recovery.history().missed(namespace, &id, &rooms, since.max(until), shard.position());
        let missed = missed.ok_or(RecoveryFailure::Forgotten)?;
        if !has_room {
            return Err(RecoveryFailure::TooManyRooms);
        }
        if !accepted {
            return Err(RecoveryFailure::Refused);
        }
        // The socket has by now left the rooms that the restored session may no longer be in.
        let held: HashSet<&str> = rooms.iter().map(|(room, _)| &**room).chain([id.as_str()]).collect();
        let is_held = |event: &MissedEvent| event.rooms.iter().any(|room| held.contains(room.as_str()));
        recalled.retain(|event| event.rooms.is_empty() || is_held(event));
        if let Some(recovery) = &socket.inner().recovery {
            recovery.direct.borrow_mut().retain_rooms(|room| held.contains(room));
        }
        let frames = replay(socket, &recalled, &missed);
        let most = shard.config.outbox_hard_limit.saturating_mul(LARGEST_WAIT);
        let bytes = frames.iter().map(|frame| frame.len()).sum();
        if bytes <= most { Ok(Missed { frames, bytes }) } else { Err(RecoveryFailure::Forgotten) }
    }

    /// Tells the client that its session is restored, and then sends the missed events.
    fn send_missed(self: &Rc<Self>, socket: &Socket, claimed: Offset, missed: Missed, has_recalled: bool) {
        let handlers = socket.space().handlers();
        self.welcome(socket);
        self.shard.before_replay.set(Some((socket.reference(), claimed)));
        self.call(socket, handlers.before_replay.as_deref());
        self.shard.before_replay.set(None);
        self.hold_remembered();
        self.allow_beyond_limit(missed.bytes);
        missed.frames.into_iter().for_each(|frame| self.queue(frame));
        // Recalled events have offsets from earlier runs of the server. These need not confirm the events' arrival.
        if has_recalled {
            self.ask_what_arrived();
        } else {
            self.ask_for_arrivals();
        }
        self.call(socket, handlers.on_recovered.as_deref());
    }
}

/// The frames for a client that has come back.
struct Missed {
    frames: Vec<Rc<Frame>>,
    bytes: usize,
}

/// The frames of a replay, in order: the keeper's events, then this server's broadcasts, with the socket's own events
/// between them.
fn replay(socket: &Socket, recalled: &[MissedEvent], broadcasts: &[Arc<Entry>]) -> Vec<Rc<Frame>> {
    let recalled = recalled.iter().map(|event| {
        let (args, offset) = (EventArgs::from_raw(event.args.as_str()), Offset::of_broadcast(event.offset));
        let frames = args.event_frames(socket.namespace(), None, &event.event, Some(offset));
        (event.offset, frames.into_iter().flatten().map(Rc::new).collect::<Vec<_>>())
    });
    let remembered = broadcasts.iter().map(|entry| {
        let frames = entry.frames.iter().map(Frame::again).map(Rc::new).collect();
        (entry.offset, frames)
    });
    let mut broadcasts = recalled.chain(remembered).peekable();
    let mut replay = Vec::new();
    if let Some(recovery) = &socket.inner().recovery {
        for (after, own) in recovery.direct.borrow().events() {
            while let Some((_, frames)) = broadcasts.next_if(|(offset, _)| *offset <= after) {
                replay.extend(frames);
            }
            replay.extend_from_slice(own);
        }
    }
    replay.extend(broadcasts.flat_map(|(_, frames)| frames));
    replay
}
