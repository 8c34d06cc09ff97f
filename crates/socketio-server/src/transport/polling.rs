//! HTTP long-polling: packets arrive in the bodies of POST requests and leave in the responses to GET requests.

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

/// The reason why a request on the engine's path fails. The codes and messages are those of Engine.IO.
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
    /// Too many bytes of other request bodies are on their way.
    NoRoom,
    /// A limit is met.
    Limit(Limit),
}

impl EngineError {
    /// The `{code, message}` of the response, and its HTTP status.
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

    /// Seconds after which the client may try again; `None` if a later attempt does not help.
    pub(crate) fn retry_after(self) -> Option<u32> {
        match self {
            Self::Limit(limit) => Some(limit.retry_after()),
            Self::NoRoom => Some(Limit::UnfinishedBytes.retry_after()),
            _ => None,
        }
    }

    /// Whether the response ends the connection: the connection has no further use, and holds a place that others need.
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

/// Writes the handshake of Engine.IO.
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

/// Opens a session and returns the response body with its handshake.
pub(crate) fn open(shard: &Rc<Shard>, origin: Origin) -> Vec<u8> {
    let sid = shard.entropy.borrow_mut().session_id(shard.id);
    let polling =
        Box::new(Polling { sid, poll: None, resting: false, receiving: false, post: None, probing: false, tat: 0 });
    let connection = Connection::open(shard, origin, Transport::Polling(polling));
    shard.sessions.borrow_mut().insert(sid, connection);
    let mut body = Vec::with_capacity(128);
    open_packet(shard, sid.as_str(), &["websocket"], &mut body);
    body
}

/// The polling requests of a session.
pub(crate) struct Polling {
    sid: Id,
    /// The GET request that waits for packets.
    poll: Option<oneshot::Sender<Reply>>,
    /// The poll is not answered yet, even if packets wait: the client is ahead of its rate.
    resting: bool,
    /// The body of a POST request is on its way.
    receiving: bool,
    /// A POST request that is not answered yet.
    post: Option<Post>,
    /// A WebSocket has begun to take over.
    probing: bool,
    /// The theoretical arrival time of the request rate: when all requests are paid for, in the shard's time.
    tat: u64,
}

/// A POST request. It is answered when its whole body is handled and the session is not paused.
struct Post {
    body: String,
    /// The position of the next packet in the body; `None` if all packets are handled.
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
        // If the client is gone, the packets are lost, and its dropped poll closes the session.
        let _ = poll.send(Ok(payload.finish()));
        if outbox.is_empty() { Flushed::All } else { Flushed::Waiting }
    }

    /// Ends the waiting poll with a NOOP packet.
    pub(crate) fn noop(&mut self) {
        if let Some(poll) = self.poll.take() {
            let _ = poll.send(Ok(b"6".to_vec()));
        }
    }

    pub(crate) fn has_post(&self) -> bool {
        self.post.is_some()
    }

    /// Whether a part of a POST request is not handled yet.
    pub(crate) fn has_unhandled(&self) -> bool {
        self.post.as_ref().is_some_and(|post| post.next.is_some())
    }

    /// Answers the POST request. No more of it is handled.
    fn release_post(&mut self) {
        if let Some(Post { next, reply, .. }) = self.post.take() {
            let _ = reply.send(if next.is_none() { Ok(b"ok".to_vec()) } else { Err(EngineError::Unavailable) });
        }
    }

    /// Ends the polling transport after a WebSocket has taken over.
    pub(crate) fn end(mut self) {
        self.noop();
        self.release_post();
    }

    pub(crate) fn close(mut self, connection: &Rc<Connection>, reason: DisconnectReason, outbox: &mut Outbox) {
        let shard = &connection.shard;
        self.release_post();
        let last = match reason {
            // The client closed the session, so there is nothing left to tell it.
            DisconnectReason::TransportClose => Ok(VecDeque::from([b"6".to_vec()])),
            DisconnectReason::ServerNamespace
            | DisconnectReason::ParseError
            | DisconnectReason::OverlappingRequests => Ok(last_payloads(outbox)),
            // The client is expected to come back. After a close packet, python-engineio would not.
            _ if connection.is_python() => Err(EngineError::Unavailable),
            // All other waiting packets are sent again when the client comes back, or they are lost.
            _ => Ok(VecDeque::from([b"1".to_vec()])),
        };
        match (self.poll.take(), last) {
            (Some(poll), Ok(mut payloads)) => {
                let first = payloads.pop_front().unwrap_or_default();
                let _ = poll.send(Ok(first));
                shard.farewells.borrow_mut().add(self.sid, payloads, shard.config.ping_timeout);
            }
            (Some(poll), Err(error)) => drop(poll.send(Err(error))),
            // A poll may be on its way. It gets the response of a poll that was already waiting.
            (None, Ok(payloads))
                if matches!(reason, DisconnectReason::TransportClose | DisconnectReason::ServerNamespace) =>
            {
                shard.farewells.borrow_mut().add(self.sid, payloads, shard.config.ping_timeout);
            }
            // The next poll gets the error for an unknown session, so the client comes back.
            (None, _) => {}
        }
    }
}

/// The waiting packets, and then the CLOSE packet in a payload of its own. The stock client closes as soon as it reads
/// CLOSE. It passes packets that it read before to its application only afterwards, when it is no longer connected.
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

/// The last packets of sessions that the server closed between two polls. They are the responses to the next polls.
#[derive(Default)]
pub(crate) struct Farewells(VecDeque<Farewell>);

struct Farewell {
    until: Instant,
    sid: Id,
    payloads: VecDeque<Vec<u8>>,
}

/// The largest farewell that is kept: a farewell is for a disconnect packet and the packets just before it.
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

/// Calls `f` with the session's polling transport, unless the session has changed to another transport.
pub(super) fn with_polling<T>(session: &Connection, f: impl FnOnce(&mut Polling) -> T) -> Option<T> {
    match &mut *session.transport.borrow_mut() {
        Transport::Polling(polling) => Some(f(polling)),
        _ => None,
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
    let outcome = session.turn(|| {
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
