//! The metrics of the product, each with its help text and unit. `http::scrape` shows them, together with those of the
//! engine and the store.

mod cluster;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::cluster::ClusterMetrics;
use crate::contract::auth_error::AuthError;
use crate::contract::kind::Kind;
use crate::contract::time::epoch_seconds;

/// Buckets from the 100 µs of a commit without a disk to the seconds of a stalled disk, by factors of about three.
const PUBLISH_SECONDS: [f64; 10] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// Buckets from one request to a full group, by factors of two to three.
const GROUP_REQUESTS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 25.0, 75.0, 200.0, 500.0];

/// The metrics of the product.
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
    pub(crate) limits: Family<LimitLabels, Counter>,
    /// In seconds since 1970; unset without TLS.
    pub(crate) certificate_expiry: Gauge,
    certificate_reloads: Family<ResultLabels, Counter>,
    pub(crate) cluster: ClusterMetrics,
    pub(crate) emitters: EmitterMetrics,
}

/// Makes an enum of labels, the list of all of them, and their texts, so that none is left out.
macro_rules! labels {
    (
        $(#[$outer:meta])*
        $vis:vis enum $name:ident {
            $($(#[$meta:meta])* $label:ident => $text:literal,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$meta])* $label,)+
        }

        impl $name {
            /// All of them, in the order of their declaration.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$label,)+];

            /// The text in metrics and logs.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$label => $text,)+
                }
            }
        }
    };
}

mod emitters;

pub(crate) use emitters::EmitterOutcome;
pub use emitters::{Emitter, EmitterRefusal};

use emitters::EmitterMetrics;

labels! {
    /// A limit of the product that a client or publisher reached; the engine has further limits.
    pub enum Limit {
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
}

labels! {
    /// The reason for the refusal of a client or publisher.
    pub(crate) enum Reason {
        /// A page of another origin.
        Origin => "origin",
        /// A client of another version of Engine.IO, or of none.
        ProtocolVersion => "protocol version",
        /// A client with another parser.
        Parser => "parser",
        /// A request to the HTTP API while publishing is off.
        PublishingOff => "publishing off",
        /// A request to the HTTP API without a key.
        NoPublisherKey => "no publisher key",
        /// A request to the HTTP API with an unknown key.
        UnknownPublisherKey => "unknown publisher key",
        /// A request to the HTTP API with a refused token.
        PublisherToken => "publisher token",
        /// A publisher whose scopes do not cover its request, or an item of its batch.
        PublisherScope => "publisher scope",
        /// A client without the required token.
        NoToken => "no token",
        /// A client's token that cannot be read.
        MalformedToken => "malformed token",
        /// A client's token that no known key has signed.
        TokenKey => "token key",
        /// A client's token of another issuer.
        TokenIssuer => "token issuer",
        /// A client's token for another audience.
        TokenAudience => "token audience",
        /// A client's token that has expired.
        TokenExpired => "token expired",
        /// A client's token that is not valid yet.
        TokenNotYetValid => "token not yet valid",
        /// A client's token that names no user.
        TokenWithoutUser => "token without user",
        /// A client's token that was revoked.
        TokenRevoked => "token revoked",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabels {
    pub(crate) limit: &'static str,
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

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishOutcome {
    /// It was carried out.
    Accepted,
    /// It was a repeat, and was answered with the earlier receipt.
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
            cluster: ClusterMetrics::default(),
            emitters: EmitterMetrics::default(),
        }
    }
}

impl Metrics {
    /// Counts a token that was checked.
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

    /// Counts a fetch of the issuer's keys with this number of keys.
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

    /// Counts a subscription that ended because it is no longer allowed.
    pub fn subscription_ended(&self) {
        self.subscriptions_ended.inc();
    }

    /// Counts a room membership that ended because it is no longer allowed.
    pub fn room_membership_ended(&self) {
        self.room_memberships_ended.inc();
    }

    /// Counts a reload of the configuration, and whether it was put in force.
    pub fn reloaded(&self, is_applied: bool) {
        let outcome = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    /// Counts a client's event without a handler.
    pub fn unknown_event(&self, namespace: &'static str) {
        self.unknown_events.get_or_create(&NamespaceLabels { namespace }).inc();
    }

    /// Counts a publish, and its duration.
    pub fn published(&self, kind: Kind, outcome: PublishOutcome, took: Duration) {
        let (kind, outcome) = (kind.as_str(), outcome.as_str());
        self.publishes.get_or_create(&PublishLabels { kind, outcome }).inc();
        self.publish_duration.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// Counts a request outside of the engine. The route is the pattern, never the path, so that peers cannot create
    /// new series.
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

    /// Counts a media item that was ended for lack of news.
    pub fn media_stalled(&self) {
        self.media_stalled.inc();
    }

    /// Counts a transaction with this number of requests.
    pub fn store_committed(&self, took: Duration, requests: usize) {
        self.store_commit_duration.observe(took.as_secs_f64());
        self.store_group_size.observe(requests as f64);
    }

    /// Counts a transaction that failed.
    pub fn store_commit_failed(&self) {
        self.store_commits_failed.inc();
    }

    /// Counts a reached limit.
    pub fn limit_met(&self, limit: Limit) {
        self.limits.get_or_create(&LimitLabels { limit: limit.as_str() }).inc();
    }

    /// Counts a session or similar write that was dropped because too many were waiting.
    pub fn store_write_dropped(&self) {
        self.store_writes_dropped.inc();
    }

    /// Counts an attempt to replace the certificate.
    pub(crate) fn certificate_reloaded(&self, done: bool) {
        let result = if done { "done" } else { "failed" };
        self.certificate_reloads.get_or_create(&ResultLabels { result }).inc();
    }

    /// Registers all metrics except those of the limits, to which the engine adds its own.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.register_identities(registry);
        self.register_realtime(registry);
        self.register_publishing(registry);
        self.emitters.register(registry);
        self.register_store(registry);
        self.register_operation(registry);
        self.cluster.register(registry);
    }

    /// Registers the metrics of tokens and refusals.
    fn register_identities(&self, registry: &mut Registry) {
        // The series exist from the start, so that the first refusal is an increase.
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
    }

    /// Registers the metrics of denied and ended actions of clients.
    fn register_realtime(&self, registry: &mut Registry) {
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
            "unknown_events",
            "Events of clients that the contract does not have",
            self.unknown_events.clone(),
        );
    }

    /// Registers the metrics of publishes and requests.
    fn register_publishing(&self, registry: &mut Registry) {
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
    }

    /// Registers the metrics of the store's transactions.
    fn register_store(&self, registry: &mut Registry) {
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
    }

    /// Registers the metrics of reloads, and of the certificate if there is one.
    fn register_operation(&self, registry: &mut Registry) {
        registry.register(
            "reloads",
            "Times that the configuration was read again, by whether it was put in force",
            self.reloads.clone(),
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
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabels {
    pub(crate) reason: &'static str,
}
