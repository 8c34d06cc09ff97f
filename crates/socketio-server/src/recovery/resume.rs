//! The way of a session back to a socket.

use std::{borrow::Cow, collections::HashSet, rc::Rc, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    RecoveryFailure, Socket, SocketRef,
    config::{CROWDED_PAUSE, CROWDED_PAUSES, LARGEST_WAIT},
    connection::Connection,
    event::EventArgs,
    frame::Frame,
    identifier::Id,
    recovery::{
        Away, Direct, Entry, Memory, MissedEvent, Offset, SavedSession, SessionKeeper, SocketRecovery, TooLate,
        Whereabouts,
    },
    shard::{Command, Shard},
};

/// What a client says of the session that it had.
pub(crate) struct Claim {
    pid: Id,
    /// Its last event's. One that has got none has none.
    offset: Result<Option<Offset>, RecoveryFailure>,
}

/// What a client wishes when it connects to a namespace.
pub(crate) enum Wish {
    /// A session. It may come back for it, unless it has declined.
    Session { recoverable: bool },
    /// The session that it had.
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
    /// What the `auth` of a CONNECT says; of `recovery`, unless it says so, what is `usual`.
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

/// A session on its way back to its client.
struct FoundSession {
    session: SavedSession,
    direct: Direct,
    /// What earlier lives of the server sent after the client's offset.
    recalled: Vec<MissedEvent>,
}

/// Gives the client its session back, or connects it anew.
pub(crate) async fn resume(connection: Rc<Connection>, namespace: u16, claim: Claim, auth: Option<Box<RawValue>>) {
    let shard = connection.shard.clone();
    let found = find(&connection, &claim).await;
    connection.no_longer_connecting(namespace);
    connection.turn(|| {
        let take_up = |found| connection.work(|| connection.take_up(namespace, &claim, found, auth.as_deref()));
        let resumed = found.and_then(take_up);
        match resumed {
            Ok(()) => shard.metrics.recovered.increment(),
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
    // Who waits for longer may be gone: that is looked at again.
    let patience = shard.config.connect_timeout;
    let taken = loop {
        match take(recovery, &claim.pid) {
            Taken::Session(taken) => break taken,
            Taken::HeldBy(socket) if socket.is_of(connection) => return Err(unknown),
            // The client knew sooner than the server that its connection was lost.
            Taken::HeldBy(socket) => {
                let _ = timeout(patience, hang_up(shard, socket)).await;
            }
            // The same of a connection on which it has just come back.
            Taken::Returning(returned) => {
                let _ = timeout(patience, returned).await;
            }
        }
        if connection.is_closed() {
            return Err(unknown);
        }
    };
    let mut returning = Returning { connection, pid: claim.pid, exists: false };
    let mut found = taken.map_err(|_too_late| unknown)?.map(|away| {
        let (session, direct) = away.unpack(|namespace| shard.space(namespace).namespace);
        FoundSession { session, direct: direct.unpack(), recalled: Vec::new() }
    });
    returning.exists = found.is_some();
    if let Some(keeper) = &recovery.settings.keeper {
        let read = connection.unless_ended(read(connection, &**keeper, claim, offset.as_ref(), &mut found)).await;
        returning.exists = found.is_some();
        read.unwrap_or(Ok(()))?;
    }
    let found = found.ok_or(unknown)?;
    // Those who came before have the time to take what they are sent again.
    for _ in 0..CROWDED_PAUSES {
        if !shard.is_crowded(connection.client) || connection.is_closed() {
            break;
        }
        sleep(CROWDED_PAUSE).await;
    }
    // What the client has seen on another shard must have been seen here. Whatever goes to all shards is posted under the
    // history's lock, so it stands before the mark on every shard or behind it on every shard.
    let (mark, reached) = oneshot::channel();
    {
        let _order = recovery.history();
        shard.post(Command::Mark(mark));
    }
    let _ = reached.await;
    // Much may have been missed, and the session may be in many rooms.
    shard.turn().await;
    if connection.is_closed() {
        let FoundSession { session, direct, .. } = found;
        if let (Some(namespace), Some(id)) = (shard.space_named(&session.namespace), Id::parse(&session.socket_id)) {
            returning.goes_on();
            recovery.keep(claim.pid, Away::new(namespace, connection.address(), id, session, direct.pack()));
        }
        return Err(unknown);
    }
    returning.goes_on();
    Ok(found)
}

/// Reads what the keeper has of a session: the session itself if nobody else has it, and what earlier lives of the server sent.
async fn read(
    connection: &Connection,
    keeper: &dyn SessionKeeper,
    claim: &Claim,
    offset: Option<&Offset>,
    found: &mut Option<FoundSession>,
) -> Result<(), RecoveryFailure> {
    let shard = &connection.shard;
    let begun = shard.handle.recovery().map_or(0, |recovery| recovery.history().start());
    let after = |session: &SavedSession| offset.map_or(0, |offset| offset.broadcast).max(session.since);
    if found.as_ref().is_some_and(|found| after(&found.session) >= begun) {
        return Ok(());
    }
    let _place = match connection.address() {
        Some(address) => Some(shard.readers.enter(address).await),
        None => None,
    };
    let found = match found {
        Some(found) => found,
        None => {
            let session = keeper.recall(claim.pid.as_str()).await.ok_or(RecoveryFailure::UnknownSession)?;
            found.insert(FoundSession { session, direct: Direct::default(), recalled: Vec::new() })
        }
    };
    let (session, after) = (&found.session, after(&found.session));
    // Also for a session that came back before: what was sent to it then may not have arrived.
    if after < begun {
        let mut rooms = session.rooms.clone();
        rooms.push((session.socket_id.as_str().into(), 0));
        let missed = keeper.missed(&session.namespace, rooms, after).await;
        found.recalled = missed.ok_or(RecoveryFailure::Forgotten)?;
        // What came since, the history has.
        found.recalled.retain(|event| event.offset <= begun);
    }
    Ok(())
}

/// What came of an attempt to take a session.
enum Taken {
    Session(Result<Option<Away>, TooLate>),
    /// A socket has it.
    HeldBy(SocketRef),
    /// It is on its way back on another connection, until this resolves.
    Returning(oneshot::Receiver<()>),
}

/// Takes the session, unless somebody has it.
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

/// Ends the session, unless it goes on.
struct Returning<'a> {
    connection: &'a Connection,
    pid: Id,
    /// There is one. What the client made up, the keeper need not be told of.
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
        // A server that stops before its client has it has changed nothing of what is kept.
        let stops = shard.is_draining() && !std::thread::panicking();
        if self.exists && !stops {
            recovery.end(&self.pid);
        } else {
            recovery.sessions().end(&self.pid);
        }
    }
}

/// Closes a socket's connection, wherever it lives, and waits until that is done.
async fn hang_up(shard: &Shard, socket: SocketRef) {
    let (done, is_done) = oneshot::channel::<()>();
    shard.handle.with_socket(socket, move |socket| {
        if let Some(socket) = socket {
            socket.inner().connection.hand_over(done);
        }
    });
    let _ = is_done.await;
}

impl Connection {
    /// Makes a socket of a session, and sends what its client has missed.
    fn take_up(
        self: &Rc<Self>,
        namespace: u16,
        claim: &Claim,
        found: FoundSession,
        auth: Option<&RawValue>,
    ) -> Result<(), RecoveryFailure> {
        let shard = &self.shard;
        let Some(recovery) = shard.handle.recovery() else { return Err(RecoveryFailure::UnknownSession) };
        let ending = Returning { connection: self, pid: claim.pid, exists: true };
        let space = shard.space(namespace);
        let FoundSession { session, mut direct, mut recalled } = found;
        let id = Id::parse(&session.socket_id).filter(|_| session.namespace == space.namespace);
        let id = id.filter(|id| !space.sockets.borrow().contains_key(id)).ok_or(RecoveryFailure::UnknownSession)?;
        let offset = claim.offset.as_ref().ok().and_then(Option::as_ref);
        let position = shard.position();
        let since = offset.map_or(0, |offset| offset.broadcast).max(session.since);
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
        let has_room = socket.join_again(&session.rooms);
        let accepted = has_room
            && space
                .handlers()
                .restore
                .as_ref()
                .is_none_or(|restore| shard.guarded(|| restore(&socket, &session.data, auth)).unwrap_or_default());
        let rooms = space.rooms.borrow().memberships_of(&socket);
        let missed = recovery.history().missed(namespace, &id, &rooms, since, position);
        let replay = match missed {
            None => Err(RecoveryFailure::Forgotten),
            Some(_) if !has_room => Err(RecoveryFailure::TooManyRooms),
            Some(_) if !accepted => Err(RecoveryFailure::Refused),
            Some(missed) => {
                // What the restored session may no longer be in, it has left by now.
                let held: HashSet<&str> = rooms.iter().map(|(room, _)| &**room).chain([id.as_str()]).collect();
                let is_held = |event: &MissedEvent| event.rooms.iter().any(|room| held.contains(room.as_str()));
                recalled.retain(|event| event.rooms.is_empty() || is_held(event));
                if let Some(recovery) = &socket.inner().recovery {
                    recovery.direct.borrow_mut().retain_rooms(|room| held.contains(room));
                }
                let replay = replay(&socket, &recalled, &missed);
                let most = shard.config.outbox_hard_limit.saturating_mul(LARGEST_WAIT);
                let bytes: usize = replay.iter().map(|frame| frame.len()).sum();
                if bytes <= most { Ok((replay, bytes)) } else { Err(RecoveryFailure::Forgotten) }
            }
        };
        let (replay, bytes) = replay.inspect_err(|_| {
            socket.set_connected(false);
            socket.leave_all();
            space.sockets.borrow_mut().remove(&id);
            socket.drop_data();
        })?;
        ending.goes_on();

        self.welcome(&socket);
        let claimed = offset.copied().unwrap_or(Offset::of_broadcast(since));
        shard.before_replay.set(Some((socket.reference(), claimed)));
        self.call(&socket, space.handlers().before_replay.as_deref());
        shard.before_replay.set(None);
        self.hold_remembered();
        self.allow_beyond_limit(bytes);
        replay.into_iter().for_each(|frame| self.queue(frame));
        // What is recalled has offsets of earlier lives, which need not tell that it has arrived.
        if recalled.is_empty() {
            self.ask_for_arrivals();
        } else {
            self.ask_what_arrived();
        }
        self.call(&socket, space.handlers().on_recovered.as_deref());
        Ok(())
    }
}

/// What is sent again, in its order: that of earlier lives of the server, then broadcasts and the socket's own events.
fn replay(socket: &Socket, recalled: &[MissedEvent], broadcasts: &[Arc<Entry>]) -> Vec<Rc<Frame>> {
    let mut replay = Vec::new();
    for event in recalled {
        let (args, offset) = (EventArgs::from_raw(event.args.as_str()), Offset::of_broadcast(event.offset));
        if let Ok(frames) = args.event_frames(socket.namespace(), None, &event.event, Some(offset)) {
            replay.extend(frames.into_iter().map(Rc::new));
        }
    }
    let mut broadcasts = broadcasts.iter().peekable();
    let frames = |entry: &Arc<Entry>| entry.frames.iter().map(Frame::again).map(Rc::new).collect::<Vec<_>>();
    if let Some(recovery) = &socket.inner().recovery {
        for (after, own) in recovery.direct.borrow().events() {
            while let Some(entry) = broadcasts.next_if(|entry| entry.offset <= after) {
                replay.extend(frames(entry));
            }
            replay.extend_from_slice(own);
        }
    }
    replay.extend(broadcasts.flat_map(frames));
    replay
}
