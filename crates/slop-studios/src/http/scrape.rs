//! The contents of `/metrics`: the product's own counts, and the numbers of the engine and the store, which are read at
//! each scrape.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use socketio_server::Handle;

use crate::metrics::{Limit, LimitLabels, Metrics, ReasonLabels};
use crate::store::{Store, Usage};

/// The labels of `slop_build_info`.
const BUILD: [(&str, &str); 3] =
    [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];

/// The registry of all metrics.
pub(crate) fn registry(metrics: &Metrics, handle: Handle, store: Arc<dyn Store>) -> Registry {
    let mut registry = Registry::with_prefix("slop");
    registry.register("build", "The program that runs", Info::new(BUILD.to_vec()));
    metrics.register(&mut registry);
    registry.register_collector(Box::new(Snapshot { handle, store, limits: metrics.limits.clone() }));
    registry
}

/// Numbers that are kept elsewhere and read at each scrape.
struct Snapshot {
    handle: Handle,
    store: Arc<dyn Store>,
    limits: Family<LimitLabels, Counter>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// The engine's gauges: the field in the engine's snapshot, the metric's name, and the help text.
const ENGINE_GAUGES: [(&str, &str, &str); 15] = [
    ("connections", "connections", "Engine.IO connections that are open"),
    ("websockets", "connections_websocket", "Of those, the ones on WebSocket"),
    ("streams", "streams", "TCP connections that are open, whatever they speak"),
    ("http_connections", "http_connections", "TCP connections that speak HTTP"),
    (
        "handshakes",
        "handshakes",
        "Requests that have not arrived in whole, and connections that are in no namespace yet",
    ),
    ("addresses", "client_addresses", "Client addresses that something is connected from"),
    (
        "unfinished_bytes",
        "unfinished_bytes",
        "Bytes of clients' messages and headers that have not arrived in whole, or wait to be handled",
    ),
    (
        "unarrived_bytes",
        "unarrived_bytes",
        "Bytes that wait to be written to one client alone, or may not have arrived",
    ),
    ("room_memberships", "room_memberships", "Rooms that sockets are in, each counted for each socket"),
    ("sockets", "sockets", "Namespace sockets that are connected"),
    ("sessions_away", "sessions_away", "Sessions whose clients are away and may come back"),
    ("history_entries", "history_entries", "Events that are remembered for clients that come back"),
    ("history_bytes", "history_bytes", "Bytes of these"),
    ("outbox_bytes", "outbox_bytes", "Bytes that wait for clients which don't take them at once"),
    ("timers", "timers", "Deadlines that are remembered"),
];

/// The engine's counters, in the same form.
const ENGINE_COUNTERS: [(&str, &str, &str); 26] = [
    (
        "accept_failures",
        "accept_failures",
        "Times that no connection could be accepted, mostly for want of a file descriptor",
    ),
    ("connections_opened", "connections_opened", "Engine.IO connections opened"),
    ("sockets_connected", "sockets_connected", "Namespace sockets connected"),
    ("upgrades", "upgrades", "Polling connections that changed to WebSocket"),
    ("upgrades_failed", "upgrades_failed", "WebSocket probes that did not end in an upgrade"),
    ("bad_requests", "bad_requests", "Socket.IO requests answered with an error"),
    ("events_received", "events_received", "Events received from clients"),
    ("events_refused", "events_refused", "Events of clients refused because too many came"),
    ("events_stray", "events_stray", "Events received for a namespace that the connection had left"),
    (
        "packets_encoded",
        "packets_encoded",
        "Packets encoded; a broadcast counts once, whatever the number of its receivers",
    ),
    ("broadcasts", "broadcasts", "Broadcasts carried out, counted once for each shard"),
    ("packets_queued", "packets_queued", "Packets queued for clients, heartbeats not counted"),
    ("volatile_dropped", "volatile_dropped", "Volatile packets dropped because their client was not ready"),
    ("writes", "writes", "Writes to WebSocket connections"),
    ("bytes_written", "written_bytes", "Bytes written to WebSocket connections"),
    ("bytes_read", "read_bytes", "Bytes read from WebSocket connections"),
    (
        "reads_paused",
        "reads_paused",
        "Times that a connection was not read because too much waited for its client or its handlers",
    ),
    ("handler_panics", "handler_panics", "Event handlers that panicked"),
    ("recovered", "recovered", "Sockets that got their session back, and what they missed"),
    (
        "latest_replaced",
        "latest_replaced",
        "Events of the class latest replaced by newer ones while they waited for a slow client",
    ),
    ("tls_handshakes", "tls_handshakes", "TLS handshakes made"),
    ("tls_handshakes_failed", "tls_handshakes_failed", "TLS handshakes that failed or took too long"),
    ("requests_forwarded", "requests_forwarded", "Requests forwarded to the node of their session, and answered"),
    ("upgrades_forwarded", "upgrades_forwarded", "WebSockets forwarded to the node of their session"),
    (
        "forwards_failed",
        "forwards_failed",
        "Requests of another node's session whose node was not alive or did not answer",
    ),
    (
        "forwards_refused",
        "forwards_refused",
        "Requests to the internal listener that were refused, because they did not have the secret of the nodes",
    ),
];

/// The store's gauges.
fn store_gauges(kept: &Usage) -> [(&'static str, &'static str, u64); 12] {
    [
        ("media_items", "Media items whose state is kept", kept.media.rows),
        ("media_state_bytes", "Bytes of media states that are kept", kept.media.bytes),
        ("notifications_kept", "Notifications that are kept in all inboxes", kept.notifications.rows),
        ("notification_bytes", "Bytes of notifications that are kept", kept.notifications.bytes),
        ("log_entries", "Durable events that are kept for replay", kept.log.rows),
        ("log_bytes", "Bytes of durable events that are kept for replay", kept.log.bytes),
        (
            "journal_bytes",
            "Bytes of the journal's files, which have the room events that are not durable",
            kept.journal_bytes,
        ),
        ("sessions_kept", "Sessions that are kept for recovery", kept.sessions.rows),
        (
            "idempotency_keys",
            "Idempotency keys that are remembered; a batch counts as one for every ten of its items",
            kept.idempotency_keys,
        ),
        ("revocations_kept", "Revocations of users and tokens that are kept", kept.revocations.rows),
        ("store_queue_length", "Requests that wait for the store", kept.queued),
        ("store_recalls_waiting", "Reads of the store for clients that come back", kept.recalls),
    ]
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let engine = self.handle.metrics();
        let numbers: HashMap<&str, u64> = engine.numbers().collect();
        let of_engine =
            |(field, name, help): (&'static str, _, _)| (name, help, numbers.get(field).copied().unwrap_or_default());
        let gauges = ENGINE_GAUGES.map(of_engine).into_iter().chain(store_gauges(&self.store.usage()));
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, &format!("{help}."), None, gauge.metric_type())?)?;
        }
        for (name, help, value) in ENGINE_COUNTERS.map(of_engine) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, &format!("{help}."), None, counter.metric_type())?)?;
        }
        let turn = ConstGauge::new(engine.longest_turn.as_secs_f64());
        let help = "The longest that a shard has done one thing and nothing else in the last ten seconds or so.";
        turn.encode(encoder.encode_descriptor("shard_turn", help, Some(&Unit::Seconds), turn.metric_type())?)?;
        let families = [
            (
                "disconnects",
                "Namespace sockets disconnected, by reason.",
                by_reason(engine.disconnects.iter().map(|(reason, count)| (reason.as_str(), *count))),
            ),
            (
                "recovery_failures",
                "Clients that asked for their session and got a new one, by reason.",
                by_reason(engine.recovery_failures.iter().map(|(failure, count)| (failure.as_str(), *count))),
            ),
        ];
        for (name, help, family) in families {
            family.encode(encoder.encode_descriptor(name, help, None, family.metric_type())?)?;
        }
        // The engine's and the product's limits, in one family.
        let limits = Family::<LimitLabels, Counter>::default();
        for (limit, count) in &engine.limits {
            limits.get_or_create(&LimitLabels { limit: limit.as_str() }).inc_by(*count);
        }
        for limit in Limit::ALL {
            let labels = LimitLabels { limit: limit.as_str() };
            limits.get_or_create(&labels).inc_by(self.limits.get_or_create(&labels).get());
        }
        let help = "Times that a peer met a limit, by limit.";
        limits.encode(encoder.encode_descriptor("limits_met", help, None, limits.metric_type())?)
    }
}

fn by_reason(counts: impl Iterator<Item = (&'static str, u64)>) -> Family<ReasonLabels, Counter> {
    let family = Family::<ReasonLabels, Counter>::default();
    for (reason, count) in counts {
        family.get_or_create(&ReasonLabels { reason }).inc_by(count);
    }
    family
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use socketio_server::MetricsSnapshot;

    use super::*;

    /// Counted by namespace instead, as `unknown_events`.
    const NOT_SHOWN: &str = "events_unknown";

    #[test]
    fn every_number_of_the_engine_is_shown() {
        let shown = ENGINE_GAUGES.iter().chain(&ENGINE_COUNTERS).map(|(field, _, _)| *field).chain([NOT_SHOWN]);
        let counted = MetricsSnapshot::default().numbers().map(|(field, _)| field).collect::<BTreeSet<_>>();
        assert_eq!(shown.collect::<BTreeSet<_>>(), counted);
    }
}
