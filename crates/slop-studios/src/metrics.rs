//! Every number that `/metrics` shows, with its help and unit. The engine's own are read from its snapshot on each
//! scrape, as are the store's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use socketio_server::Handle;

use crate::identity::{AuthError, epoch_seconds};
use crate::publish::Kind;
use crate::refusals::Reason;
use crate::store::Store;

/// What `slop_build_info` says.
const BUILD: [(&str, &str); 3] =
    [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];

/// From the 100 µs of a commit without a disk to the seconds of a disk that stalls, by factors of about three.
const PUBLISH_SECONDS: [f64; 10] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// From one request to a full group, by factors of two to three.
const GROUP_REQUESTS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 25.0, 75.0, 200.0, 500.0];

/// What the product counts.
#[derive(Debug)]
pub struct Metrics {
    authentications: Family<AuthenticationLabels, Counter>,
    identities_expired: Counter,
    identities_revoked: Counter,
    identities_withdrawn: Counter,
    jwks_fetches: Family<ResultLabels, Counter>,
    jwks_fetched: Gauge,
    jwks_keys: Gauge,
    joins_refused: Family<NamespaceLabels, Counter>,
    subscriptions_refused: Counter,
    subscriptions_ended: Counter,
    room_memberships_ended: Counter,
    reloads: Family<ReloadLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    unknown_events: Family<NamespaceLabels, Counter>,
    publishes: Family<PublishLabels, Counter>,
    publish_duration: Family<KindLabels, Histogram, fn() -> Histogram>,
    http_requests: Family<HttpLabels, Counter>,
    media_stalled: Counter,
    store_commit_duration: Histogram,
    store_group_size: Histogram,
    pub(crate) store_commits_failed: Counter,
    store_writes_dropped: Counter,
    /// 1 while commits succeed.
    pub(crate) store_writable: Gauge,
    limits: Family<LimitLabels, Counter>,
    /// In seconds since 1970; none without TLS.
    pub(crate) certificate_expiry: Gauge,
    certificate_reloads: Family<ResultLabels, Counter>,
}

/// Makes the enum, the list of all of them, and their labels, so that none is left out.
macro_rules! limits {
    ($($(#[$meta:meta])* $limit:ident => $label:literal,)+) => {
        /// A limit of the product that a client or publisher met; the engine has more.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit {
            $($(#[$meta])* $limit,)+
        }

        impl Limit {
            const ALL: &'static [Self] = &[$(Self::$limit,)+];

            const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$limit => $label,)+
                }
            }
        }
    };
}

limits! {
    /// `EVENT_RATE_PER_USER`.
    UserRate => "event rate per user",
    /// `PUBLISH_RATE_PER_KEY`.
    PublishRate => "publish rate per key",
    /// `MAX_IDEMPOTENCY_KEYS`.
    IdempotencyKeys => "idempotency keys",
    /// `MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER`.
    IdempotencyKeysPerPublisher => "idempotency keys per publisher",
    /// `MAX_UNFINISHED_BYTES`, by publishers.
    UnfinishedBodies => "unfinished bytes of publishers",
    /// `MAX_HANDSHAKES`, by publishers' bodies.
    PublishersBodies => "bodies of publishers",
    /// `MAX_ROOMS_PER_SOCKET`.
    Rooms => "rooms and subscriptions",
    /// `AUTH_FAILURE_LIMIT`.
    AuthFailures => "failed authentications",
    /// [`MAX_REVOCATIONS`](crate::limits::MAX_REVOCATIONS).
    Revocations => "revocations",
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthenticationLabels {
    namespace: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabels {
    namespace: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabels {
    kind: &'static str,
    outcome: &'static str,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishOutcome {
    /// It was carried out.
    Accepted,
    /// It had been before, and was answered with its receipt.
    Repeated,
    /// It broke a rule.
    Refused,
    /// The server failed.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    route: String,
    method: &'static str,
    status: u16,
}

impl PublishOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Repeated => "repeated",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            authentications: Family::default(),
            identities_expired: Counter::default(),
            identities_revoked: Counter::default(),
            identities_withdrawn: Counter::default(),
            jwks_fetches: Family::default(),
            jwks_fetched: Gauge::default(),
            jwks_keys: Gauge::default(),
            joins_refused: Family::default(),
            subscriptions_refused: Counter::default(),
            subscriptions_ended: Counter::default(),
            room_memberships_ended: Counter::default(),
            reloads: Family::default(),
            refusals: Family::default(),
            unknown_events: Family::default(),
            publishes: Family::default(),
            publish_duration: Family::new_with_constructor(|| Histogram::new(PUBLISH_SECONDS)),
            http_requests: Family::default(),
            media_stalled: Counter::default(),
            store_commit_duration: Histogram::new(PUBLISH_SECONDS),
            store_group_size: Histogram::new(GROUP_REQUESTS),
            store_commits_failed: Counter::default(),
            store_writes_dropped: Counter::default(),
            store_writable: Gauge::default(),
            limits: Family::default(),
            certificate_expiry: Gauge::default(),
            certificate_reloads: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a token that was looked at.
    pub fn authenticated(&self, namespace: &'static str, result: Result<(), AuthError>) {
        let result = match result {
            Ok(()) => "accepted",
            Err(AuthError::Required) => "missing",
            Err(AuthError::Expired) => "expired",
            Err(AuthError::NotYetValid) => "not_yet_valid",
            Err(AuthError::Invalid) => "invalid",
            Err(AuthError::NoUserId) => "no_user_id",
            Err(AuthError::Revoked) => "revoked",
        };
        self.authentications.get_or_create(&AuthenticationLabels { namespace, result }).inc();
    }

    /// Counts a socket that lost its identity, while it was connected or away.
    pub fn identity_lost(&self, reason: AuthError) {
        let counter = match reason {
            AuthError::Expired => &self.identities_expired,
            AuthError::Revoked => &self.identities_revoked,
            _ => &self.identities_withdrawn,
        };
        counter.inc();
    }

    /// Counts a fetch of the issuer's keys that brought so many.
    pub fn jwks_fetched(&self, keys: Result<usize, ()>) {
        let result = if keys.is_ok() { "ok" } else { "failed" };
        self.jwks_fetches.get_or_create(&ResultLabels { result }).inc();
        if let Ok(keys) = keys {
            self.jwks_fetched.set(epoch_seconds() as i64);
            self.jwks_keys.set(keys as i64);
        }
    }

    /// Counts a join that reservation, policy or limit refused.
    pub fn join_refused(&self, namespace: &'static str) {
        self.joins_refused.get_or_create(&NamespaceLabels { namespace }).inc();
    }

    /// Counts a subscription that policy or limit refused.
    pub fn subscription_refused(&self) {
        self.subscriptions_refused.inc();
    }

    /// Counts a subscription that ended because it no longer may be.
    pub fn subscription_ended(&self) {
        self.subscriptions_ended.inc();
    }

    /// Counts a room that a socket was taken out of because it no longer may be there.
    pub fn room_membership_ended(&self) {
        self.room_memberships_ended.inc();
    }

    /// Counts a time that the configuration was read again, and whether it could be put in force.
    pub fn reloaded(&self, is_applied: bool) {
        let outcome = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// Counts somebody who was turned away.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    /// Counts an event of a client that nobody handles.
    pub fn unknown_event(&self, namespace: &'static str) {
        self.unknown_events.get_or_create(&NamespaceLabels { namespace }).inc();
    }

    /// Counts a publish, and how long it took.
    pub fn published(&self, kind: Kind, outcome: PublishOutcome, took: Duration) {
        let (kind, outcome) = (kind.as_str(), outcome.as_str());
        self.publishes.get_or_create(&PublishLabels { kind, outcome }).inc();
        self.publish_duration.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// Counts a request to anything but the engine. The route is the pattern, never the path, so that nobody outside
    /// can make new series.
    pub fn http_request(&self, route: &str, method: &http::Method, status: http::StatusCode) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "OPTIONS" => "OPTIONS",
            _ => "other",
        };
        let labels = HttpLabels { route: route.to_owned(), method, status: status.as_u16() };
        self.http_requests.get_or_create(&labels).inc();
    }

    /// Counts a media item that was ended because nobody said anything of it.
    pub fn media_stalled(&self) {
        self.media_stalled.inc();
    }

    /// Counts a transaction of so many requests.
    pub fn store_committed(&self, took: Duration, requests: usize) {
        self.store_commit_duration.observe(took.as_secs_f64());
        self.store_group_size.observe(requests as f64);
    }

    /// Counts a transaction that failed.
    pub fn store_commit_failed(&self) {
        self.store_commits_failed.inc();
    }

    /// Counts that a limit was met.
    pub fn limit_met(&self, limit: Limit) {
        self.limits.get_or_create(&LimitLabels { limit: limit.as_str() }).inc();
    }

    /// Counts a session or the like that was not written because too many waited.
    pub fn store_write_dropped(&self) {
        self.store_writes_dropped.inc();
    }

    /// Counts a certificate that was to be replaced.
    pub(crate) fn certificate_reloaded(&self, done: bool) {
        let result = if done { "done" } else { "failed" };
        self.certificate_reloads.get_or_create(&ResultLabels { result }).inc();
    }

    /// A registry of these, the engine's and the store's.
    #[must_use]
    pub fn registry(&self, handle: Handle, store: Arc<dyn Store>) -> Registry {
        let mut registry = Registry::with_prefix("slop");
        registry.register("build", "The program that runs", Info::new(BUILD.to_vec()));
        // All of them from the start, so that the first refusal is an increase.
        for reason in Reason::ALL {
            drop(self.refusals.get_or_create(&ReasonLabels { reason: reason.as_str() }));
        }
        registry.register("refusals", "Publishers and clients that were turned away, by reason", self.refusals.clone());
        registry.register("authentications", "Tokens looked at, at connecting or later", self.authentications.clone());
        registry.register(
            "identities_expired",
            "Sockets whose token expired while they were connected or away",
            self.identities_expired.clone(),
        );
        registry.register(
            "identities_revoked",
            "Sockets whose token was revoked while they were connected or away",
            self.identities_revoked.clone(),
        );
        registry.register(
            "identities_withdrawn",
            "Sockets whose token's key, issuer or audience was accepted no longer",
            self.identities_withdrawn.clone(),
        );
        registry.register("jwks_fetches", "Fetches of JWKS_URL, by what became of them", self.jwks_fetches.clone());
        registry.register_with_unit(
            "jwks_fetched_timestamp",
            "When the keys of JWKS_URL were fetched last, since 1970; 0 for never",
            Unit::Seconds,
            self.jwks_fetched.clone(),
        );
        registry.register("jwks_keys", "Keys of JWKS_URL that tokens are verified with", self.jwks_keys.clone());
        registry.register(
            "joins_refused",
            "joinRoom calls refused by reservation, policy or limit",
            self.joins_refused.clone(),
        );
        registry.register(
            "subscriptions_refused",
            "subscribeMedia calls refused by policy or limit",
            self.subscriptions_refused.clone(),
        );
        registry.register(
            "subscriptions_ended",
            "Subscriptions ended because an owner, an identity or a policy no longer allows them",
            self.subscriptions_ended.clone(),
        );
        registry.register(
            "room_memberships_ended",
            "Rooms that sockets were taken out of because an identity or a policy no longer allows it",
            self.room_memberships_ended.clone(),
        );
        registry.register(
            "reloads",
            "Times that the configuration was read again, by whether it was put in force",
            self.reloads.clone(),
        );
        registry.register(
            "unknown_events",
            "Events of clients that the contract does not have",
            self.unknown_events.clone(),
        );
        registry.register("publishes", "Publishes read, by what became of them", self.publishes.clone());
        registry.register_with_unit(
            "publish_duration",
            "Time from reading a publish to its receipt",
            Unit::Seconds,
            self.publish_duration.clone(),
        );
        registry.register("http_requests", "Requests outside of Socket.IO", self.http_requests.clone());
        registry.register(
            "media_stalled",
            "Media items ended because nobody said anything of them for too long",
            self.media_stalled.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time that a transaction of the store took, its synchronisation to the disk included",
            Unit::Seconds,
            self.store_commit_duration.clone(),
        );
        registry.register(
            "store_group_size",
            "Requests that were carried out in one transaction of the store",
            self.store_group_size.clone(),
        );
        registry.register(
            "store_commits_failed",
            "Transactions of the store that failed; nothing of them was accepted",
            self.store_commits_failed.clone(),
        );
        registry.register(
            "store_writes_dropped",
            "Sessions and inbox positions not written because too many waited",
            self.store_writes_dropped.clone(),
        );
        registry.register(
            "store_writable",
            "1 if the last transaction of the store was committed; 0 if it failed, or the store's files are gone",
            self.store_writable.clone(),
        );
        if self.certificate_expiry.get() != 0 {
            registry.register_with_unit(
                "tls_certificate_expiry_timestamp",
                "When the certificate in use expires, since 1970",
                Unit::Seconds,
                self.certificate_expiry.clone(),
            );
            registry.register(
                "tls_certificate_reloads",
                "Times that the certificate's files were read again; failed ones changed nothing",
                self.certificate_reloads.clone(),
            );
        }
        registry.register_collector(Box::new(Snapshot { handle, store, limits: self.limits.clone() }));
        registry
    }
}

/// Numbers that are kept elsewhere and read when asked for.
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

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let engine = self.handle.metrics();
        let kept = self.store.usage();
        let gauges = [
            ("connections", "Engine.IO connections that are open", engine.connections),
            ("connections_websocket", "Of those, the ones on WebSocket", engine.websockets),
            ("streams", "TCP connections that are open, whatever they speak", engine.streams),
            ("http_connections", "TCP connections that speak HTTP", engine.http_connections),
            (
                "handshakes",
                "Requests that have not arrived in whole, and connections that are in no namespace yet",
                engine.handshakes,
            ),
            ("client_addresses", "Client addresses that something is connected from", engine.addresses),
            (
                "unfinished_bytes",
                "Bytes of clients' messages and headers that have not arrived in whole, or wait to be handled",
                engine.unfinished_bytes,
            ),
            (
                "unarrived_bytes",
                "Bytes that wait to be written to one client alone, or may not have arrived",
                engine.unarrived_bytes,
            ),
            ("room_memberships", "Rooms that sockets are in, each counted for each socket", engine.room_memberships),
            ("sockets", "Namespace sockets that are connected", engine.sockets),
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
            ("sessions_away", "Sessions whose clients are away and may come back", engine.sessions_away),
            ("history_entries", "Events that are remembered for clients that come back", engine.history_entries),
            ("history_bytes", "Bytes of these", engine.history_bytes),
            ("outbox_bytes", "Bytes that wait for clients which don't take them at once", engine.outbox_bytes),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, &format!("{help}."), None, gauge.metric_type())?)?;
        }
        let turn = ConstGauge::new(engine.longest_turn.as_secs_f64());
        let help = "The longest that a shard has done one thing and nothing else in the last ten seconds or so.";
        turn.encode(encoder.encode_descriptor("shard_turn", help, Some(&Unit::Seconds), turn.metric_type())?)?;
        let counters = [
            (
                "accept_failures",
                "Times that no connection could be accepted, mostly for want of a file descriptor",
                engine.accept_failures,
            ),
            ("connections_opened", "Engine.IO connections opened", engine.connections_opened),
            ("sockets_connected", "Namespace sockets connected", engine.sockets_connected),
            ("upgrades", "Polling connections that changed to WebSocket", engine.upgrades),
            ("upgrades_failed", "WebSocket probes that did not end in an upgrade", engine.upgrades_failed),
            ("bad_requests", "Socket.IO requests answered with an error", engine.bad_requests),
            ("events_received", "Events received from clients", engine.events_received),
            ("events_refused", "Events of clients refused because too many came", engine.events_refused),
            ("events_stray", "Events received for a namespace that the connection had left", engine.events_stray),
            (
                "packets_encoded",
                "Packets encoded; a broadcast counts once, whatever the number of its receivers",
                engine.packets_encoded,
            ),
            ("broadcasts", "Broadcasts carried out, counted once for each shard", engine.broadcasts),
            ("packets_queued", "Packets queued for clients, heartbeats not counted", engine.packets_queued),
            (
                "volatile_dropped",
                "Volatile packets dropped because their client was not ready",
                engine.volatile_dropped,
            ),
            ("writes", "Writes to WebSocket connections", engine.writes),
            ("written_bytes", "Bytes written to WebSocket connections", engine.bytes_written),
            ("read_bytes", "Bytes read from WebSocket connections", engine.bytes_read),
            (
                "reads_paused",
                "Times that a connection was not read because too much waited for its client or its handlers",
                engine.reads_paused,
            ),
            ("handler_panics", "Event handlers that panicked", engine.handler_panics),
            ("recovered", "Sockets that got their session back, and what they missed", engine.recovered),
            (
                "latest_replaced",
                "Events of the class latest replaced by newer ones while they waited for a slow client",
                engine.latest_replaced,
            ),
            ("tls_handshakes", "TLS handshakes made", engine.tls_handshakes),
            ("tls_handshakes_failed", "TLS handshakes that failed or took too long", engine.tls_handshakes_failed),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, &format!("{help}."), None, counter.metric_type())?)?;
        }
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
        // The engine's limits and the product's in one.
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}
