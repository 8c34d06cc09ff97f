//! What is counted of the emitters.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

labels! {
    /// A kind of emitter: a library with which other programs publish over Redis.
    pub enum Emitter {
        /// npm `@socket.io/redis-emitter`.
        Redis => "redis",
        /// npm `@socket.io/redis-streams-emitter`.
        Streams => "streams",
        /// PyPI `python-socketio`, its `RedisManager`.
        Python => "python",
    }
}

labels! {
    /// The outcome of an emitter's message that was not refused.
    pub(crate) enum EmitterOutcome {
        /// It was published.
        Accepted => "accepted",
        /// It had been published before, and its cursor was not saved.
        Repeated => "repeated",
        /// It was published without an idempotency key, because too many keys are remembered.
        WithoutKey => "without key",
    }
}

labels! {
    /// The reason why an emitter's message was not published.
    pub enum EmitterRefusal {
        /// It is larger than `MAX_PAYLOAD_BYTES`.
        Oversized => "size",
        /// It does not have the emitter's format.
        Malformed => "malformed",
        /// It is a pickled Python object.
        Pickle => "pickle",
        /// Another Socket.IO server sent it to its own nodes.
        Foreign => "another server",
        /// It has binary data.
        Binary => "binary data",
        /// It is a request and no event: to join, leave, disconnect, or for the servers themselves.
        Request => "request",
        /// It names a namespace that the server does not have.
        Namespace => "namespace",
        /// `EMITTER_EVENTS` does not have its event.
        NotAllowed => "not allowed",
        /// It is for all sockets of a namespace.
        NoRoom => "no room",
        /// It is for several rooms at once.
        SeveralRooms => "several rooms",
        /// It excludes sockets.
        Except => "except",
        /// It asks for an answer.
        Callback => "callback",
        /// The HTTP API would refuse it as well.
        Invalid => "invalid",
        /// It does not fit the state of its media item, or another notification has its id.
        Conflict => "conflict",
        /// The store could not commit it.
        Store => "store",
        /// Too many messages waited.
        QueueFull => "queue full",
        /// Another node may read the emitters by now.
        NoLease => "no lease",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct EmitterMetrics {
    messages: Family<MessageLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    /// 1 while this node reads the emitters.
    pub(crate) is_reader: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    emitter: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    emitter: &'static str,
    reason: &'static str,
}

impl EmitterMetrics {
    /// Creates the series of an emitter, so that the first refusal is an increase.
    pub(crate) fn create_series(&self, emitter: Emitter) {
        let emitter = emitter.as_str();
        for outcome in EmitterOutcome::ALL {
            drop(self.messages.get_or_create(&MessageLabels { emitter, outcome: outcome.as_str() }));
        }
        for reason in EmitterRefusal::ALL {
            drop(self.refusals.get_or_create(&RefusalLabels { emitter, reason: reason.as_str() }));
        }
    }

    /// Counts a message that was not refused.
    pub(crate) fn done(&self, emitter: Emitter, outcome: EmitterOutcome) {
        let (emitter, outcome) = (emitter.as_str(), outcome.as_str());
        self.messages.get_or_create(&MessageLabels { emitter, outcome }).inc();
    }

    /// Counts a message that was refused.
    pub(crate) fn refused(&self, emitter: Emitter, reason: EmitterRefusal) {
        let (emitter, reason) = (emitter.as_str(), reason.as_str());
        self.refusals.get_or_create(&RefusalLabels { emitter, reason }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "emitter_messages",
            "Messages of emitters that were published, by what became of them",
            self.messages.clone(),
        );
        registry.register(
            "emitter_refusals",
            "Messages of emitters that were not published, by reason",
            self.refusals.clone(),
        );
        registry.register("emitter_reader", "1 while this node reads the emitters", self.is_reader.clone());
    }
}
