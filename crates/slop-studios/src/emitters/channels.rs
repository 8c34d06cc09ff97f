//! The messages on channels of Redis, which come whether somebody reads them or not: a bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::message::Refusal;
use super::outcomes::Outcomes;
use crate::limits::{EMITTER_MESSAGE_OVERHEAD_BYTES, EMITTER_QUEUE_BYTES};
use crate::metrics::{Emitter, EmitterRefusal};

/// The channels of `@socket.io/redis-emitter`: for events, and for requests.
pub(super) const REDIS_PATTERNS: [&str; 2] = ["socket.io#*", "socket.io-request#*"];

/// The channel of python-socketio.
pub(super) const PYTHON_CHANNEL: &str = "socketio";

/// A message that was heard.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) emitter: Emitter,
    pub(super) channel: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// The sending end of the queue.
pub(super) struct Inlet {
    sender: UnboundedSender<Heard>,
    bytes: Arc<AtomicUsize>,
    most_bytes: usize,
    outcomes: Arc<Outcomes>,
}

/// The receiving end.
pub(super) struct Outlet {
    receiver: UnboundedReceiver<Heard>,
    bytes: Arc<AtomicUsize>,
}

/// A queue for messages of at most `most_bytes` each.
pub(super) fn queue(most_bytes: usize, outcomes: &Arc<Outcomes>) -> (Inlet, Outlet) {
    let (sender, receiver) = unbounded_channel();
    let bytes = Arc::<AtomicUsize>::default();
    let inlet = Inlet { sender, bytes: Arc::clone(&bytes), most_bytes, outcomes: Arc::clone(outcomes) };
    (inlet, Outlet { receiver, bytes })
}

impl Heard {
    fn cost(&self) -> usize {
        self.channel.len() + self.payload.len() + EMITTER_MESSAGE_OVERHEAD_BYTES
    }

    /// The message that a push brings, if it is one.
    fn of(PushInfo { kind, data }: PushInfo) -> Option<Self> {
        let emitter = match kind {
            PushKind::PMessage => Emitter::Redis,
            PushKind::Message => Emitter::Python,
            _ => return None,
        };
        let mut data = data.into_iter().rev();
        match (data.next()?, data.next()?) {
            (Value::BulkString(payload), Value::BulkString(channel)) => Some(Self { emitter, channel, payload }),
            _ => None,
        }
    }
}

impl Inlet {
    /// Queues the message that a push brings. An error ends the connection's pushes: the queue has been closed.
    pub(super) fn take(&self, push: PushInfo) -> Result<(), ()> {
        let Some(heard) = Heard::of(push) else { return Ok(()) };
        if heard.payload.len() > self.most_bytes {
            let refusal = Refusal::new(EmitterRefusal::Oversized, "it is larger than MAX_PAYLOAD_BYTES");
            self.outcomes.refuse(heard.emitter, &refusal);
            return Ok(());
        }
        let cost = heard.cost();
        if self.bytes.load(Ordering::Relaxed) + cost > EMITTER_QUEUE_BYTES {
            let refusal = Refusal::new(EmitterRefusal::QueueFull, "messages come faster than they are published");
            self.outcomes.refuse(heard.emitter, &refusal);
            return Ok(());
        }
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        self.sender.send(heard).map_err(|_closed| ())
    }
}

impl Outlet {
    /// The next message; `None` if the connection is lost.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        let heard = self.receiver.recv().await?;
        self.bytes.fetch_sub(heard.cost(), Ordering::Relaxed);
        Some(heard)
    }

    /// A message that has come already.
    pub(super) fn try_next(&mut self) -> Option<Heard> {
        let heard = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(heard.cost(), Ordering::Relaxed);
        Some(heard)
    }
}
