//! The engine's metrics. Each shard has its own counters, so that no two threads write the same cache line.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{DisconnectReason, Limit, RecoveryFailure, Refusal};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One shard's counters.
        #[derive(Debug)]
        #[repr(align(128))]
        pub(crate) struct ShardMetrics {
            $(pub(crate) $name: Metric,)*
            /// Nanoseconds of the longest turn since the last tick of the clock that clears it, and in the interval
            /// before that tick.
            pub(crate) longest_turn: Metric,
            pub(crate) longest_turn_before: Metric,
            disconnects: [AtomicU64; DisconnectReason::ALL.len()],
            recovery_failures: [AtomicU64; RecoveryFailure::ALL.len()],
            limits: [AtomicU64; Limit::ALL.len()],
            refusals: [AtomicU64; Refusal::ALL.len()],
        }

        impl Default for ShardMetrics {
            fn default() -> Self {
                Self { $($name: Metric::default(),)*
                    longest_turn: Metric::default(),
                    longest_turn_before: Metric::default(),
                    disconnects: [const { AtomicU64::new(0) }; DisconnectReason::ALL.len()],
                    recovery_failures: [const { AtomicU64::new(0) }; RecoveryFailure::ALL.len()],
                    limits: [const { AtomicU64::new(0) }; Limit::ALL.len()],
                    refusals: [const { AtomicU64::new(0) }; Refusal::ALL.len()],
                }
            }
        }

        /// All shards' counters, added up.
        #[derive(Debug, Clone, Default)]
        #[non_exhaustive]
        pub struct MetricsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Sockets disconnected so far, by reason.
            pub disconnects: Vec<(DisconnectReason, u64)>,
            /// Clients that asked for their session and got a new one, by reason.
            pub recovery_failures: Vec<(RecoveryFailure, u64)>,
            /// How often each limit was met.
            pub limits: Vec<(Limit, u64)>,
            /// Refused clients, by reason.
            pub refusals: Vec<(Refusal, u64)>,
            /// Gauge: the longest recent time that a shard spent on one task without interruption.
            pub longest_turn: Duration,
            /// Gauge: TCP connections, of any protocol.
            pub streams: u64,
            /// Gauge: TCP connections that speak HTTP.
            pub http_connections: u64,
            /// Gauge: handshakes in progress, as counted for [`Config::max_handshakes`](crate::Config::max_handshakes).
            pub handshakes: u64,
            /// Gauge: known client addresses.
            pub addresses: u64,
            /// Gauge: broadcasts remembered for recovery.
            pub history_entries: u64,
            /// Gauge: bytes of the broadcasts remembered for recovery.
            pub history_bytes: u64,
            /// Gauge: sessions whose clients are away.
            pub sessions_away: u64,
        }

        impl MetricsSnapshot {
            /// All metrics except those by reason or limit and the longest turn, each with the name of its field.
            pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
                // Without a rest pattern, so that a new field is named here.
                let Self {
                    $($name,)*
                    streams,
                    http_connections,
                    handshakes,
                    addresses,
                    history_entries,
                    history_bytes,
                    sessions_away,
                    disconnects: _,
                    recovery_failures: _,
                    limits: _,
                    refusals: _,
                    longest_turn: _,
                } = self;
                let of_shards = [$((stringify!($name), *$name)),*];
                let of_all = [
                    ("streams", *streams),
                    ("http_connections", *http_connections),
                    ("handshakes", *handshakes),
                    ("addresses", *addresses),
                    ("history_entries", *history_entries),
                    ("history_bytes", *history_bytes),
                    ("sessions_away", *sessions_away),
                ];
                of_shards.into_iter().chain(of_all)
            }

            pub(crate) fn sum<'a>(shards: impl Iterator<Item = &'a ShardMetrics> + Clone) -> Self {
                let disconnects = DisconnectReason::ALL
                    .iter()
                    .enumerate()
                    .map(|(index, reason)| {
                        let of = |shard: &ShardMetrics| shard.disconnects.get(index).map_or(0, |count| count.load(Relaxed));
                        (*reason, shards.clone().map(of).sum())
                    })
                    .collect();
                let recovery_failures = RecoveryFailure::ALL
                    .iter()
                    .enumerate()
                    .map(|(index, failure)| {
                        let of = |shard: &ShardMetrics| shard.recovery_failures.get(index).map_or(0, |count| count.load(Relaxed));
                        (*failure, shards.clone().map(of).sum())
                    })
                    .collect();
                let limits = Limit::ALL
                    .iter()
                    .enumerate()
                    .map(|(index, limit)| {
                        let of = |shard: &ShardMetrics| shard.limits.get(index).map_or(0, |count| count.load(Relaxed));
                        (*limit, shards.clone().map(of).sum())
                    })
                    .collect();
                let refusals = Refusal::ALL
                    .iter()
                    .enumerate()
                    .map(|(index, refusal)| {
                        let of = |shard: &ShardMetrics| shard.refusals.get(index).map_or(0, |count| count.load(Relaxed));
                        (*refusal, shards.clone().map(of).sum())
                    })
                    .collect();
                let turns = shards.clone().map(|shard| shard.longest_turn.get().max(shard.longest_turn_before.get()));
                let longest_turn = Duration::from_nanos(turns.max().unwrap_or_default());
                Self {
                    limits,
                    refusals,
                    longest_turn,
                    $($name: shards.clone().map(|shard| shard.$name.get()).sum(),)*
                    disconnects,
                    recovery_failures,
                    ..Self::default()
                }
            }
        }
    };
}

metrics! {
    /// Gauge: Engine.IO connections that are open.
    connections,
    /// Gauge: Engine.IO connections over WebSocket that are open.
    websockets,
    /// Gauge: namespace sockets that are connected.
    sockets,
    /// Engine.IO connections opened so far.
    connections_opened,
    /// Namespace sockets connected so far.
    sockets_connected,
    /// Polling connections that changed to WebSocket so far.
    upgrades,
    /// WebSocket probes that did not end in an upgrade.
    upgrades_failed,
    /// Requests on the engine's path answered with an error.
    bad_requests,
    /// Events received so far.
    events_received,
    /// Events refused because there were too many.
    events_refused,
    /// Gauge: bytes of unfinished messages and headers.
    unfinished_bytes,
    /// Gauge: bytes that are queued for one client alone, or may not have arrived.
    unarrived_bytes,
    /// Gauge: room memberships of the sockets.
    room_memberships,
    /// Gauge: pending deadlines.
    timers,
    /// Events received without a handler for them.
    events_unknown,
    /// Events received for a namespace that the connection had left.
    events_stray,
    /// Packets encoded so far; a broadcast counts once, whatever the number of its receivers.
    packets_encoded,
    /// Broadcasts carried out so far, counted once for each shard.
    broadcasts,
    /// Packets put into outboxes so far, heartbeats not counted.
    packets_queued,
    /// Gauge: bytes queued for clients that do not take them at once.
    outbox_bytes,
    /// Volatile packets dropped because their client was not ready.
    volatile_dropped,
    /// Writes to WebSocket connections so far.
    writes,
    /// Bytes written to WebSocket connections so far, including the answers to the requests that opened them.
    bytes_written,
    /// Bytes read from WebSocket connections so far.
    bytes_read,
    /// Times that reading from a connection was paused because too many bytes were queued for its client or its
    /// handlers.
    reads_paused,
    /// Handlers that panicked.
    handler_panics,
    /// Sockets that got their session back so far.
    recovered,
    /// Events replaced by newer ones while they waited for a slow client.
    latest_replaced,
    /// Failed accepts of connections, mostly for lack of a file descriptor.
    accept_failures,
    /// TLS handshakes made so far.
    tls_handshakes,
    /// TLS handshakes that failed or took too long.
    tls_handshakes_failed,
    /// Requests of other nodes' sessions that were forwarded to their node and answered.
    requests_forwarded,
    /// WebSockets of other nodes' sessions that are or were forwarded to their node.
    upgrades_forwarded,
    /// Requests of other nodes' sessions whose node was not alive or did not answer.
    forwards_failed,
    /// Requests to the internal listener that were refused, because they did not have the secret of the nodes.
    forwards_refused,
}

/// One counter or gauge of a shard.
#[derive(Debug, Default)]
pub(crate) struct Metric(AtomicU64);

impl Metric {
    // Only the shard's own thread writes, so a plain load and store is enough, and cheaper than a locked add.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).saturating_sub(1), Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl ShardMetrics {
    pub(crate) fn recovery_failed(&self, failure: RecoveryFailure) {
        let index = RecoveryFailure::ALL.iter().position(|known| *known == failure);
        if let Some(count) = index.and_then(|index| self.recovery_failures.get(index)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn limit_met(&self, limit: Limit) {
        let index = Limit::ALL.iter().position(|known| *known == limit);
        if let Some(count) = index.and_then(|index| self.limits.get(index)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn client_refused(&self, refusal: Refusal) {
        let index = Refusal::ALL.iter().position(|known| *known == refusal);
        if let Some(count) = index.and_then(|index| self.refusals.get(index)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn disconnected(&self, reason: DisconnectReason) {
        let index = DisconnectReason::ALL.iter().position(|known| *known == reason);
        if let Some(count) = index.and_then(|index| self.disconnects.get(index)) {
            count.fetch_add(1, Relaxed);
        }
    }
}
