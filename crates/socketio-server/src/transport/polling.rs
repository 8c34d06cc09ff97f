//! HTTP long-polling: packets come in the bodies of POST requests and leave in the answers to GET requests.

use std::{collections::VecDeque, net::IpAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use socketio_protocol::engine_io::{DecodeError, Open, PayloadWriter, TextPacket, decode_payload};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    DisconnectReason, Limit,
    config::{MAX_FAREWELLS, POLL_RESPONSE_LIMIT, POLL_RESPONSE_PACKETS},
    connection::{Connection, Origin},
    identifier::Id,
    outbox::Outbox,
    shard::Shard,
    transport::{Flushed, Transport, stream::Detached, upgrade},
};

/// Why a request on the engine's path fails; codes and messages are Engine.IO's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineError {
    UnknownTransport,
    UnknownSession,
    BadHandshakeMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    HeaderTooLarge,
    Timeout,
    Unavailable,
    UnsupportedEncoding,
    /// Too many bytes of other bodies are on their way.
    NoRoom,
    /// Too many of something.
    Limit(Limit),
}

impl EngineError {
    /// `{code, message}` of the answer, and its HTTP status.
    pub(crate) fn describe(self) -> (u16, u8, &'static str) {
        match self {
            Self::UnknownTransport => (400, 0, "Transport unknown"),
            Self::UnknownSession => (400, 1, "Session ID unknown"),
            Self::BadHandshakeMethod => (400, 2, "Bad handshake method"),
            Self::BadRequest => (400, 3, "Bad request"),
            Self::Forbidden => (403, 4, "Forbidden"),
            Self::UnsupportedVersion => (400, 5, "Unsupported protocol version"),
            Self::TooLarge => (413, 3, "Payload too large"),
            Self::HeaderTooLarge => (431, 3, "Request header fields too large"),
            Self::Timeout => (408, 3, "Request timeout"),
            Self::UnsupportedEncoding => (415, 3, "Unsupported content encoding"),
            Self::Limit(Limit::Connections | Limit::HttpConnections | Limit::Handshakes)
            | Self::NoRoom
            | Self::Unavailable => (503, 3, "Service unavailable"),
            Self::Limit(_) => (429, 3, "Too many connections"),
        }
    }

    /// Seconds after which the client may try again, if that is all that is wrong.
    pub(crate) fn retry_after(self) -> Option<u32> {
        match self {
            Self::Limit(limit) => Some(limit.retry_after()),
            Self::NoRoom => Some(Limit::UnfinishedBytes.retry_after()),
            _ => None,
        }
    }

    /// Whether the connection ends with the answer: it has nothing to go on with, and holds a place that others need.
    pub(crate) fn ends_connection(self) -> bool {
        matches!(self, Self::Limit(_) | Self::NoRoom | Self::Unavailable | Self::Timeout)
    }

    /// The limit that was met, if it is not counted already.
    pub(crate) fn limit(self) -> Option<Limit> {
        match self {
            Self::Limit(limit) => Some(limit),
            Self::HeaderTooLarge => Some(Limit::HeaderSize),
            Self::Timeout => Some(Limit::BodyTime),
            _ => None,
        }
    }
}

pub(crate) type Reply = Result<Vec<u8>, EngineError>;

/// What a request asks of a session, wherever it lives.
pub(crate) enum EngineRequest {
    Poll {
        sid: Id,
        reply: oneshot::Sender<Reply>,
    },
    /// The client gave up its poll.
    PollDropped {
        sid: Id,
    },
    /// Whether a POST may begin.
    BeginPost {
        sid: Id,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    /// It began, and does not come.
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
    /// Whether there is such a session; if not, the reply is dropped.
    Find {
        sid: Id,
        reply: oneshot::Sender<()>,
    },
    /// A WebSocket that wants to take over, and what came with its request.
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

/// The handshake of Engine.IO.
pub(super) fn open_packet(shard: &Shard, sid: &str, upgrades: &[&str], out: &mut Vec<u8>) {
    let open = Open {
        sid,
        upgrades,
        ping_interval_ms: shard.config.ping_interval.as_millis() as u64,
        ping_timeout_ms: shard.config.ping_timeout.as_millis() as u64,
        max_payload: shard.config.max_payload,
    };
    open.encode(out);
}

/// Opens a session and returns the body that says so.
pub(crate) fn open(shard: &Rc<Shard>, origin: Origin) -> Vec<u8> {
    let sid = shard.entropy.borrow_mut().session_id(shard.id);
    let polling =
        Box::new(Polling { sid, poll: None, resting: false, receiving: false, post: None, probing: false, paid_at: 0 });
    let connection = Connection::open(shard, origin, Transport::Polling(polling));
    shard.sessions.borrow_mut().insert(sid, connection);
    let mut body = Vec::with_capacity(128);
    open_packet(shard, sid.as_str(), &["websocket"], &mut body);
    body
}

/// A session's requests.
pub(crate) struct Polling {
    sid: Id,
    /// The GET request that waits for packets.
    poll: Option<oneshot::Sender<Reply>>,
    /// It is not answered yet, whatever there is: the client is ahead of its rate.
    resting: bool,
    /// The body of a POST request is on its way.
    receiving: bool,
    /// A POST request that is not answered yet.
    post: Option<Post>,
    /// A WebSocket has begun to take over.
    probing: bool,
    /// When its requests are paid for, in the shard's time.
    paid_at: u64,
}

/// A POST request. It is answered when all of it is handled and the session is read.
struct Post {
    body: String,
    /// Where in the body the next packet begins; none if all are handled.
    next: Option<usize>,
    reply: oneshot::Sender<Reply>,
}

impl Polling {
    pub(crate) fn is_polled(&self) -> bool {
        self.poll.is_some() && !self.resting
    }

    pub(crate) fn sid(&self) -> Id {
        self.sid
    }

    pub(crate) fn probing_mut(&mut self) -> &mut bool {
        &mut self.probing
    }

    pub(crate) fn flush(&mut self, outbox: &mut Outbox) -> Flushed {
        if outbox.is_empty() {
            return Flushed::All;
        }
        let Some(poll) = self.poll.take_if(|_| !self.resting) else { return Flushed::Waiting };
        let mut payload = PayloadWriter::new();
        outbox.drain_into(&mut payload, POLL_RESPONSE_PACKETS, POLL_RESPONSE_LIMIT);
        // If the client is gone, so are the packets: its dropped poll closes the session.
        let _ = poll.send(Ok(payload.finish()));
        if outbox.is_empty() { Flushed::All } else { Flushed::Waiting }
    }

    /// Ends the waiting poll with a packet that says nothing.
    pub(crate) fn noop(&mut self) {
        if let Some(poll) = self.poll.take() {
            let _ = poll.send(Ok(b"6".to_vec()));
        }
    }

    pub(crate) fn has_post(&self) -> bool {
        self.post.is_some()
    }

    /// Whether some of a request is not handled yet.
    pub(crate) fn has_unhandled(&self) -> bool {
        self.post.as_ref().is_some_and(|post| post.next.is_some())
    }

    /// Answers the request, of which nothing more is handled.
    fn release_post(&mut self) {
        if let Some(Post { next, reply, .. }) = self.post.take() {
            let _ = reply.send(if next.is_none() { Ok(b"ok".to_vec()) } else { Err(EngineError::Unavailable) });
        }
    }

    /// A WebSocket has taken over.
    pub(crate) fn end(mut self) {
        self.noop();
        self.release_post();
    }

    pub(crate) fn close(mut self, connection: &Rc<Connection>, reason: DisconnectReason, outbox: &mut Outbox) {
        let shard = &connection.shard;
        self.release_post();
        let last = match reason {
            // The client closed: nothing is left to tell it.
            DisconnectReason::TransportClose => Ok(VecDeque::from([b"6".to_vec()])),
            DisconnectReason::ServerNamespace
            | DisconnectReason::ParseError
            | DisconnectReason::OverlappingRequests => Ok(last_payloads(outbox)),
            // The client is to come back. Told by a close packet, python-engineio would not.
            _ if connection.is_python() => Err(EngineError::Unavailable),
            // Whatever else waits, the client is sent again when it comes back, or has lost.
            _ => Ok(VecDeque::from([b"1".to_vec()])),
        };
        match (self.poll.take(), last) {
            (Some(poll), Ok(mut payloads)) => {
                let first = payloads.pop_front().unwrap_or_default();
                let _ = poll.send(Ok(first));
                shard.farewells.borrow_mut().add(self.sid, payloads, shard.config.ping_timeout);
            }
            (Some(poll), Err(error)) => drop(poll.send(Err(error))),
            // A poll may be on its way, which is to be answered as if it had been there.
            (None, Ok(payloads))
                if matches!(reason, DisconnectReason::TransportClose | DisconnectReason::ServerNamespace) =>
            {
                shard.farewells.borrow_mut().add(self.sid, payloads, shard.config.ping_timeout);
            }
            // Its session is unknown: it comes back.
            (None, _) => {}
        }
    }
}

/// What waits, and then the packet that closes. That comes by itself, since the stock client closes as soon as it reads it,
/// and hands what it has read before to its application only after that: by then it would be no longer connected.
fn last_payloads(outbox: &mut Outbox) -> VecDeque<Vec<u8>> {
    let mut payloads = VecDeque::new();
    while !outbox.is_empty() {
        let mut payload = PayloadWriter::new();
        outbox.drain_into(&mut payload, POLL_RESPONSE_PACKETS, POLL_RESPONSE_LIMIT);
        payloads.push_back(payload.finish());
    }
    payloads.push_back(b"1".to_vec());
    payloads
}

/// The last packets of sessions that the server closed between two polls: the answers to their next polls.
#[derive(Default)]
pub(crate) struct Farewells(VecDeque<Farewell>);

struct Farewell {
    until: Instant,
    sid: Id,
    payloads: VecDeque<Vec<u8>>,
}

/// Longer ones are not kept: they are for a disconnect packet and what was said just before.
const MAX_FAREWELL_BYTES: usize = 16 * 1024;

impl Farewells {
    fn add(&mut self, sid: Id, payloads: VecDeque<Vec<u8>>, keep: Duration) {
        let now = Instant::now();
        self.0.retain(|farewell| farewell.until > now);
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        if !payloads.is_empty() && bytes <= MAX_FAREWELL_BYTES {
            self.0.truncate(MAX_FAREWELLS - 1);
            self.0.push_front(Farewell { until: now + keep, sid, payloads });
        }
    }

    fn take(&mut self, sid: Id) -> Option<Vec<u8>> {
        let position = self.0.iter().position(|farewell| farewell.sid == sid)?;
        let payloads = &mut self.0.get_mut(position)?.payloads;
        let next = payloads.pop_front();
        if payloads.is_empty() {
            self.0.remove(position);
        }
        next
    }
}

impl Shard {
    /// Sends a request to the shard of its session.
    pub(crate) fn route(self: &Rc<Self>, request: EngineRequest) {
        match request.sid().shard() {
            Some(shard) if shard == usize::from(self.id) => self.handle_request(request),
            shard => {
                // Dropping a request answers it: its session is unknown.
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
                // Even if it was answered meanwhile: the client did not get the answer.
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

/// Calls `f` with the session's polling transport, unless it has changed to another.
pub(super) fn with_polling<T>(session: &Connection, f: impl FnOnce(&mut Polling) -> T) -> Option<T> {
    match &mut *session.transport.borrow_mut() {
        Transport::Polling(polling) => Some(f(polling)),
        _ => None,
    }
}

/// Counts a request of the session, and tells how long it is to wait: a client that is at its rate is slowed down to it. It may
/// have much to read or to say, in many small pieces; told so by an error, it would end its session. It has one poll and one POST
/// under way, so it comes no further past its rate than by POSTs that it begins and gives up.
fn pay(session: &Connection) -> Duration {
    let (now, rate) = (session.shard.now(), session.shard.request_rate);
    let wait = with_polling(session, |polling| {
        (polling.paid_at, _) = rate.take(polling.paid_at, now);
        rate.wait(polling.paid_at, now)
    });
    let wait = wait.unwrap_or_default();
    if !wait.is_zero() {
        session.shard.metrics.limit_met(Limit::RequestRate);
    }
    wait
}

/// Does something when a request has waited.
fn after(wait: Duration, f: impl FnOnce() + 'static) {
    if wait.is_zero() {
        return f();
    }
    tokio::task::spawn_local(async move {
        sleep(wait).await;
        f();
    });
}

/// Whether a POST may begin, and when.
fn begin_post(session: &Rc<Connection>) -> Result<Duration, EngineError> {
    let wait = pay(session);
    match with_polling(session, |polling| std::mem::replace(&mut polling.receiving, true) || polling.post.is_some()) {
        Some(false) => Ok(wait),
        // The one before has not come or is not answered yet: this client doesn't wait as it should, or has lost it.
        Some(true) => {
            session.close(DisconnectReason::OverlappingRequests);
            Err(EngineError::BadRequest)
        }
        // It is a WebSocket now, and this must not get in between its messages.
        None => Err(EngineError::BadRequest),
    }
}

fn poll(session: &Rc<Connection>, reply: oneshot::Sender<Reply>) {
    let wait = pay(session);
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
    // It may have become a WebSocket meanwhile, and this must not get in between its messages. A request that is dropped is
    // answered.
    if is_taken.is_some() {
        match session.hold(bytes) {
            Ok(()) => handle_post(session),
            Err(reason) => session.close(reason),
        }
    }
}

/// Handles what is left of the session's POST request, for as long as the session has time, and answers it if nothing is.
pub(crate) fn handle_post(session: &Rc<Connection>) {
    if session.is_paused() || session.is_closed() || !session.begin_slice() {
        return;
    }
    let Some(mut post) = with_polling(session, |polling| polling.post.take()).flatten() else { return };
    let outcome = session.turn(|| {
        let outcome = handle_payload(session, &mut post);
        // The POST is answered before the poll that brings what it caused: python-engineio's `disconnect` waits for a
        // POST that is still open, and would do so until the next heartbeat.
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
        // Its client has come back on another connection, once this is done.
        Ok(()) if session.is_handed_over() && (session.is_paused() || !has_unhandled(session)) => {
            session.close(DisconnectReason::SessionResumed);
        }
        Ok(()) if session.is_paused() => {}
        // What waited for the client has just left.
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
        session.pay()?;
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
