//! HTTP long-polling: packets arrive in the bodies of POST requests and leave in the responses to GET requests.

use std::{net::IpAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use socketio_protocol::engine_io::{DecodeError, TextPacket, decode_payload};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    DisconnectReason, Limit,
    connection::{Connection, Origin},
    engine_error::EngineError,
    identifier::Id,
    shard::Shard,
    stream::Detached,
    transport::{open_packet, upgrade, with_polling},
    writer::{
        Writer,
        polling::{Polling, Post, Reply},
    },
};

/// A request for a session, on any shard.
pub(crate) enum EngineRequest {
    Poll {
        sid: Id,
        reply: oneshot::Sender<Reply>,
    },
    /// The client has given up its poll.
    PollDropped {
        sid: Id,
    },
    /// Asks whether a POST may begin.
    BeginPost {
        sid: Id,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    /// The POST has begun, but its body does not arrive.
    PostAbandoned {
        sid: Id,
    },
    Post {
        sid: Id,
        body: Bytes,
        reply: oneshot::Sender<Reply>,
    },
    /// A POST that was too large. `done` is dropped when the session is closed.
    Oversized {
        sid: Id,
        done: oneshot::Sender<()>,
    },
    /// Asks whether the session exists. If it does not, the reply is dropped.
    Find {
        sid: Id,
        reply: oneshot::Sender<()>,
    },
    /// A WebSocket that asks to take over, and the bytes that came with its request.
    Upgrade {
        sid: Id,
        stream: Detached,
        leftover: Bytes,
        peer: IpAddr,
    },
}

impl EngineRequest {
    pub(crate) fn sid(&self) -> Id {
        match self {
            Self::Poll { sid, .. }
            | Self::PollDropped { sid }
            | Self::BeginPost { sid, .. }
            | Self::PostAbandoned { sid }
            | Self::Post { sid, .. }
            | Self::Oversized { sid, .. }
            | Self::Find { sid, .. }
            | Self::Upgrade { sid, .. } => *sid,
        }
    }
}

/// Opens a session and returns the response body with its handshake.
pub(crate) fn open(shard: &Rc<Shard>, origin: Origin) -> Vec<u8> {
    let sid = shard.new_polling_session_id();
    let connection = Connection::open(shard, origin, Writer::Polling(Box::new(Polling::new(sid))));
    shard.sessions.borrow_mut().insert(sid, connection);
    let mut body = Vec::with_capacity(128);
    open_packet(shard, sid.as_str(), &["websocket"], &mut body);
    body
}

impl Shard {
    /// Sends a request to its session's shard.
    pub(crate) fn route(self: &Rc<Self>, request: EngineRequest) {
        match request.sid().shard() {
            Some(shard) if shard == usize::from(self.id) => self.handle_request(request),
            shard => {
                // A dropped request is answered with the error for an unknown session.
                if let Some(mailbox) = shard.and_then(|shard| self.handle.0.mailboxes.get(shard)) {
                    let _ = mailbox.send(crate::shard::Command::Engine(request));
                }
            }
        }
    }

    pub(crate) fn handle_request(self: &Rc<Self>, request: EngineRequest) {
        let sid = request.sid();
        let session = self.sessions.borrow().get(&sid).cloned();
        let Some(session) = session else {
            if let EngineRequest::Poll { reply, .. } = request {
                let _ = reply.send(self.farewells.borrow_mut().take(sid).ok_or(EngineError::UnknownSession));
            }
            return;
        };
        match request {
            EngineRequest::Poll { reply, .. } => poll(&session, reply),
            EngineRequest::PollDropped { .. } => {
                // This applies even if the poll was answered meanwhile: the client did not get the response.
                if with_polling(&session, |_| ()).is_some() {
                    session.close(DisconnectReason::TransportError);
                }
            }
            EngineRequest::BeginPost { reply, .. } => {
                let begun = begin_post(&session);
                after(begun.unwrap_or_default(), move || _ = reply.send(begun.map(|_waited| ())));
            }
            EngineRequest::PostAbandoned { .. } => {
                with_polling(&session, |polling| polling.receiving = false);
            }
            EngineRequest::Post { body, reply, .. } => post(&session, body, reply),
            EngineRequest::Oversized { done, .. } => {
                session.close(DisconnectReason::PayloadTooLarge);
                drop(done);
            }
            EngineRequest::Find { reply, .. } => drop(reply.send(())),
            EngineRequest::Upgrade { stream, leftover, peer, .. } => upgrade::adopt(&session, stream, leftover, peer),
        }
    }
}

/// Counts a request of the session, and returns how long the request must wait. A client at its rate is slowed down and
/// not refused: it may have much to read or send in many small pieces, and an error would make it end its session. The
/// client has one poll and one POST under way, so it can exceed its rate further only by POSTs that it begins and gives
/// up.
fn count_request(session: &Connection) -> Duration {
    let (now, rate) = (session.shard.now(), session.shard.request_rate);
    let wait = with_polling(session, |polling| {
        (polling.tat, _) = rate.take(polling.tat, now);
        rate.wait(polling.tat, now)
    });
    let wait = wait.unwrap_or_default();
    if !wait.is_zero() {
        session.shard.metrics.limit_met(Limit::RequestRate);
    }
    wait
}

/// Calls `f` after the request has waited.
fn after(wait: Duration, f: impl FnOnce() + 'static) {
    if wait.is_zero() {
        return f();
    }
    tokio::task::spawn_local(async move {
        sleep(wait).await;
        f();
    });
}

/// Whether a POST may begin, and after which wait.
fn begin_post(session: &Rc<Connection>) -> Result<Duration, EngineError> {
    let wait = count_request(session);
    match with_polling(session, |polling| std::mem::replace(&mut polling.receiving, true) || polling.post.is_some()) {
        Some(false) => Ok(wait),
        // The previous POST has not arrived or is not answered yet. The client does not wait as it should, or has lost
        // that POST.
        Some(true) => {
            session.close(DisconnectReason::OverlappingRequests);
            Err(EngineError::BadRequest)
        }
        // The session is a WebSocket now, and a POST must not come between its messages.
        None => Err(EngineError::BadRequest),
    }
}

fn poll(session: &Rc<Connection>, reply: oneshot::Sender<Reply>) {
    let wait = count_request(session);
    let mut reply = Some(reply);
    let second = with_polling(session, |polling| {
        if polling.poll.is_none() {
            polling.poll = reply.take();
            polling.resting = !wait.is_zero();
        }
        reply.take()
    });
    match second {
        Some(None) => {
            let session = session.clone();
            after(wait, move || {
                with_polling(&session, |polling| polling.resting = false);
                session.flush();
            });
        }
        Some(Some(reply)) => {
            let _ = reply.send(Err(EngineError::BadRequest));
            session.close(DisconnectReason::OverlappingRequests);
        }
        None => drop(reply.map(|reply| reply.send(Err(EngineError::BadRequest)))),
    }
}

fn post(session: &Rc<Connection>, body: Bytes, reply: oneshot::Sender<Reply>) {
    let Ok(body) = String::from_utf8(body.into()) else {
        let _ = reply.send(Err(EngineError::BadRequest));
        return session.close(DisconnectReason::ParseError);
    };
    let post = Post { body, next: Some(0), reply };
    let bytes = post.body.capacity();
    let is_taken = with_polling(session, |polling| {
        polling.receiving = false;
        polling.post = Some(post);
    });
    // The session may have become a WebSocket meanwhile, and this POST must not come between its messages. A dropped
    // request is answered.
    if is_taken.is_some() {
        match session.hold(bytes) {
            Ok(()) => handle_post(session),
            Err(reason) => session.close(reason),
        }
    }
}

/// Handles the rest of the session's POST request, as long as its slice lasts. Answers the request if nothing is left.
pub(crate) fn handle_post(session: &Rc<Connection>) {
    if session.is_paused() || session.is_closed() || !session.begin_slice() {
        return;
    }
    let Some(mut post) = with_polling(session, |polling| polling.post.take()).flatten() else { return };
    let outcome = session.batch(|| {
        let outcome = handle_payload(session, &mut post);
        // The POST is answered before the poll that carries its results. The `disconnect` of python-engineio waits for
        // an open POST, and would wait until the next heartbeat.
        match outcome {
            Ok(()) if post.next.is_some() || session.is_paused() || session.is_over_soft_limit() => {
                with_polling(session, |polling| polling.post = Some(post));
            }
            Ok(()) | Err(DisconnectReason::TransportClose) => drop(post.reply.send(Ok(b"ok".to_vec()))),
            Err(_) => drop(post.reply.send(Err(EngineError::BadRequest))),
        }
        outcome
    });
    match outcome {
        // The client has come back on another connection. This one ends once its request is done.
        Ok(()) if session.is_handed_over() && (session.is_paused() || !has_unhandled(session)) => {
            session.close(DisconnectReason::SessionResumed);
        }
        Ok(()) if session.is_paused() => {}
        // The packets that waited for the client have just left.
        Ok(()) => {
            if has_unhandled(session) {
                session.wait_for_turn();
            } else {
                with_polling(session, Polling::release_post);
            }
        }
        Err(reason) => session.close(reason),
    }
}

fn has_unhandled(session: &Connection) -> bool {
    with_polling(session, |polling| polling.has_unhandled()) == Some(true)
}

fn handle_payload(session: &Rc<Connection>, post: &mut Post) -> Result<(), DisconnectReason> {
    while let Some(rest) = post.next.and_then(|next| post.body.get(next..)) {
        let mut packets = decode_payload(rest);
        let packet = packets.next().unwrap_or(Err(DecodeError::Empty)).map_err(|_| DisconnectReason::ParseError)?;
        let next = packets.rest().map(|rest| post.body.len() - rest.len());
        session.count_message()?;
        match packet {
            TextPacket::Packet(packet) => session.on_text(packet)?,
            TextPacket::Binary(data) => session.on_binary(&data)?,
        }
        post.next = next;
        if !session.goes_on()? || session.is_paused() || session.is_over_soft_limit() {
            break;
        }
    }
    if post.next.is_none() {
        post.body = String::new();
    }
    session.hold(post.body.capacity())
}
