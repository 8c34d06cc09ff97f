//! The packets of a polling session: they leave in the responses to its GET requests.

use std::{collections::VecDeque, time::Duration};

use socketio_protocol::engine_io::PayloadWriter;
use tokio::{sync::oneshot, time::Instant};

use super::Ending;
use crate::{
    DisconnectReason,
    config::{MAX_FAREWELLS, POLL_RESPONSE_LIMIT, POLL_RESPONSE_PACKETS},
    delivery::outbox::Outbox,
    engine_error::EngineError,
    identifier::Id,
    stream::Flushed,
};

pub(crate) type Reply = Result<Vec<u8>, EngineError>;

/// The polling requests of a session.
pub(crate) struct Polling {
    pub(crate) sid: Id,
    /// The GET request that waits for packets.
    pub(crate) poll: Option<oneshot::Sender<Reply>>,
    /// The poll is not answered yet, even if packets wait: the client is ahead of its rate.
    pub(crate) resting: bool,
    /// The body of a POST request is on its way.
    pub(crate) receiving: bool,
    /// A POST request that is not answered yet.
    pub(crate) post: Option<Post>,
    /// A WebSocket has begun to take over.
    pub(crate) probing: bool,
    /// The theoretical arrival time of the request rate: when all requests are paid for, in the shard's time.
    pub(crate) tat: u64,
}

/// A POST request. It is answered when its whole body is handled and the session is not paused.
pub(crate) struct Post {
    pub(crate) body: String,
    /// The position of the next packet in the body; `None` if all packets are handled.
    pub(crate) next: Option<usize>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

impl Polling {
    pub(crate) fn new(sid: Id) -> Self {
        Self { sid, poll: None, resting: false, receiving: false, post: None, probing: false, tat: 0 }
    }

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
    pub(crate) fn release_post(&mut self) {
        if let Some(Post { next, reply, .. }) = self.post.take() {
            let _ = reply.send(if next.is_none() { Ok(b"ok".to_vec()) } else { Err(EngineError::Unavailable) });
        }
    }

    /// Ends the polling transport after a WebSocket has taken over.
    pub(crate) fn end(mut self) {
        self.noop();
        self.release_post();
    }

    pub(crate) fn close(mut self, ending: &Ending<'_>, outbox: &mut Outbox) {
        self.release_post();
        let last = match ending.reason {
            // The client closed the session, so there is nothing left to tell it.
            DisconnectReason::TransportClose => Ok(VecDeque::from([b"6".to_vec()])),
            DisconnectReason::ServerNamespace
            | DisconnectReason::ParseError
            | DisconnectReason::OverlappingRequests => Ok(last_payloads(outbox)),
            // The client is expected to come back. After a close packet, python-engineio would not.
            _ if ending.is_python => Err(EngineError::Unavailable),
            // All other waiting packets are sent again when the client comes back, or they are lost.
            _ => Ok(VecDeque::from([b"1".to_vec()])),
        };
        match (self.poll.take(), last) {
            (Some(poll), Ok(mut payloads)) => {
                let first = payloads.pop_front().unwrap_or_default();
                let _ = poll.send(Ok(first));
                ending.farewells.borrow_mut().add(self.sid, payloads, ending.keep);
            }
            (Some(poll), Err(error)) => drop(poll.send(Err(error))),
            // A poll may be on its way. It gets the response of a poll that was already waiting.
            (None, Ok(payloads))
                if matches!(ending.reason, DisconnectReason::TransportClose | DisconnectReason::ServerNamespace) =>
            {
                ending.farewells.borrow_mut().add(self.sid, payloads, ending.keep);
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
    pub(crate) sid: Id,
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

    pub(crate) fn take(&mut self, sid: Id) -> Option<Vec<u8>> {
        let position = self.0.iter().position(|farewell| farewell.sid == sid)?;
        let payloads = &mut self.0.get_mut(position)?.payloads;
        let next = payloads.pop_front();
        if payloads.is_empty() {
            self.0.remove(position);
        }
        next
    }
}
