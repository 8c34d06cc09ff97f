//! Settings. Each is declared once, in the table below. From there it reaches the command line (`--ping-interval-ms`),
//! the environment (`PING_INTERVAL_MS`), the TOML file (`ping_interval_ms`), `check-config` and the typed [`Settings`].
//!
//! A flag overrides the environment, the environment overrides the file, and the file overrides the default. An empty
//! environment variable counts as not set, since container tooling can't leave one out. All errors are collected, not
//! only the first. No error shows the value of a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use secrecy::SecretString;
use socketio_server::{Origins, TrustedProxies};

use crate::emitters::Allowlist;
use crate::identity::PublicKeyFile;
use crate::metrics::Emitter;
use crate::store::redis::Durability;
use crate::store::sqlite::StoreSync;

pub(crate) mod certificate;
pub mod defaults;
mod errors;
mod flags;
mod layers;
mod parse;
mod plain_keys;
mod tables;
mod together;

use errors::nearest_name;
pub use errors::{Misspelt, SettingError, SettingErrors};
pub use flags::SettingFlags;
pub use layers::{Effective, Profile, Row, Source};
use parse::{
    accepted_claims, api_keys, base_path, boolean, buffer, claim_name, cluster_secret, cors_origin, count, days,
    emitter_events, emitters, headers, host, hours, jwks_url, log_format, log_level, milliseconds, node_address,
    optional_path, path, port, previous_secrets, public_key_files, rate, redis_durability, redis_prefix, redis_url,
    secret, size, size_or_none, store_sync, trusted_proxies, whole,
};
pub use tables::Tables;

/// Declares the settings, in groups that order the help. Each has a field, type, name, placeholder in the help,
/// default, parser, and the help text as its docs.
macro_rules! settings {
    ($( $group:literal: $(
        $(#[doc = $help:literal])+
        $field:ident: $type:ty = $name:literal $kind:ident $default:expr, $parse:expr;
    )+ )+) => {
        /// What the server was told to do, checked: no value is zero or out of its range where that makes no sense.
        /// `Debug` does not show secrets.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $( $( $(#[doc = $help])+ pub $field: $type, )+ )+
            /// What only the file can hold.
            pub tables: Tables,
            /// Variables of the environment that are likely meant to be settings.
            pub misspelt: Vec<Misspelt>,
        }

        /// The settings, as far as their texts can be used.
        #[derive(Debug)]
        struct Parsed {
            $( $( $field: Option<$type>, )+ )+
        }

        /// Every setting, in the order of the help and of `check-config`.
        pub static SETTINGS: &[Setting] = &[
            $( $( Setting {
                name: $name,
                group: $group,
                help: &[$($help),+],
                kind: Kind::$kind,
                default: $default,
            }, )+ )+
        ];

        impl Parsed {
            fn of(effective: &Effective, errors: &mut Vec<SettingError>) -> Self {
                Self { $( $( $field: effective.parse($name, $parse, errors), )+ )+ }
            }

            /// None if one is missing.
            fn complete(self, effective: &Effective) -> Option<Settings> {
                Some(Settings {
                    $( $( $field: self.$field?, )+ )+
                    tables: effective.tables().clone(),
                    misspelt: effective.misspelt().to_owned(),
                })
            }
        }
    };
}

settings! {
    "Address":

    /// Address to listen on: an IP address, or a name that resolves to one of this machine's
    host: String = "HOST" Text DefaultValue::Profile { serve: defaults::HOST_SERVE, dev: defaults::HOST_DEV }, host;

    /// Port to listen on; 0 picks a free one
    port: u16 = "PORT" Number DefaultValue::Fixed(defaults::PORT), port;

    "Users' tokens":

    /// Secret that the users' JSON Web Tokens are signed with (HS256, HS384 or HS512).
    /// As a flag it shows in the process list: prefer the environment or the file
    jwt_secret: Option<SecretString> = "JWT_SECRET" Secret DefaultValue::Fixed(""), secret;

    /// Secrets that were JWT_SECRET before, comma-separated: tokens signed with them are accepted still
    jwt_previous_secrets: Vec<SecretString> = "JWT_PREVIOUS_SECRETS" SecretList DefaultValue::Fixed(""), previous_secrets;

    /// PEM files with public keys that tokens are signed with, comma-separated (RS256, ES256, ES384 or EdDSA, as the key is);
    /// with another algorithm before it, as `PS256:/etc/slop/key.pem`
    jwt_public_keys: Vec<PublicKeyFile> = "JWT_PUBLIC_KEYS" List DefaultValue::Fixed(""), public_key_files;

    /// URL of the issuer's JSON Web Key set, fetched at the start and when a token names a key that is not in it
    jwks_url: Option<Uri> = "JWKS_URL" Text DefaultValue::Fixed(""), jwks_url;

    /// Least time between two fetches of JWKS_URL
    jwks_cooldown: Duration = "JWKS_COOLDOWN_MS" Number DefaultValue::Fixed(defaults::JWKS_COOLDOWN_MS), milliseconds;

    /// Age of the key set at which JWKS_URL is fetched anew
    jwks_max_age: Duration = "JWKS_MAX_AGE_MS" Number DefaultValue::Fixed(defaults::JWKS_MAX_AGE_MS), milliseconds;

    /// Issuers whose tokens are accepted (claim `iss`), comma-separated; without any, all whose signature is good
    jwt_issuers: Vec<String> = "JWT_ISSUER" List DefaultValue::Fixed(""), accepted_claims;

    /// Audiences of which a token must name one (claim `aud`), comma-separated; without any, it need not
    jwt_audiences: Vec<String> = "JWT_AUDIENCE" List DefaultValue::Fixed(""), accepted_claims;

    /// Seconds that the issuers' clocks may be off by; a token is accepted for so long after its end
    jwt_leeway: Duration = "JWT_LEEWAY_SECONDS" Number DefaultValue::Fixed(defaults::JWT_LEEWAY_SECONDS),
        |text| whole(text, 0, defaults::MAX_LEEWAY_SECONDS).map(Duration::from_secs);

    /// Longest life of a token after the moment that it names as its issue (claim `iat`), in days; revocations are kept for
    /// at least as long
    jwt_max_lifetime: Duration = "JWT_MAX_LIFETIME_DAYS" Number DefaultValue::Fixed(defaults::JWT_MAX_LIFETIME_DAYS), days;

    /// How long before the end of its token a client is told by `tokenExpiring`; 0 for never
    token_expiring_notice: Duration = "TOKEN_EXPIRING_NOTICE_MS" Number
        DefaultValue::Fixed(defaults::TOKEN_EXPIRING_NOTICE_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    "Publishers":

    /// Keys that publishers may authenticate with, comma-separated; without any, nothing can be published
    api_keys: Vec<SecretString> = "API_KEYS" SecretList DefaultValue::Fixed(""), api_keys;

    /// Claim of a token that says, as a list of scopes, what its bearer may publish; empty: tokens can't publish
    publish_claim: Option<String> = "PUBLISH_CLAIM" Text DefaultValue::Fixed(""), claim_name;

    "TLS":

    /// File with the server's certificate and those of the authorities between it and a known one, in PEM form. With it the
    /// server speaks TLS only
    tls_cert_file: Option<PathBuf> = "TLS_CERT_FILE" Text DefaultValue::Fixed(""), optional_path;

    /// File with the certificate's private key, in PEM form
    tls_key_file: Option<PathBuf> = "TLS_KEY_FILE" Text DefaultValue::Fixed(""), optional_path;

    "What is kept":

    /// Folder for what the server keeps; each server needs one of its own
    data_dir: PathBuf = "DATA_DIR" Text DefaultValue::Fixed(defaults::DATA_DIR), path;

    "Who may connect":

    /// Origins whose pages may connect besides the server's own, comma-separated, as `https://app.example.com`; `*` for any
    cors_origin: Origins = "CORS_ORIGIN" List
        DefaultValue::Profile { serve: defaults::CORS_ORIGIN_SERVE, dev: defaults::CORS_ORIGIN_DEV }, cors_origin;

    /// Whether a connection without a valid token is refused
    auth_required: bool = "AUTH_REQUIRED" Boolean DefaultValue::Fixed(defaults::AUTH_REQUIRED), boolean;

    "Log":

    /// Least severe level that is logged: off, error, warn, info, debug or trace
    log_level: LogLevel = "LOG_LEVEL" Text DefaultValue::Fixed(defaults::LOG_LEVEL), log_level;

    /// Form of the log on standard error, and of the start-up line on standard output: text or json
    log_format: LogFormat = "LOG_FORMAT" Text DefaultValue::Fixed(defaults::LOG_FORMAT), log_format;

    /// Whether each request to the HTTP API is logged, at the level info
    access_log: bool = "ACCESS_LOG" Boolean DefaultValue::Fixed(defaults::ACCESS_LOG), boolean;

    /// Whether the browser's client is served, at /socket.io/socket.io.js
    serve_client: bool = "SERVE_CLIENT" Boolean DefaultValue::Fixed(defaults::SERVE_CLIENT), boolean;

    "Connections":

    /// Time between the server's pings
    ping_interval: Duration = "PING_INTERVAL_MS" Number DefaultValue::Fixed(defaults::PING_INTERVAL_MS), milliseconds;

    /// How long a client may take to answer a ping
    ping_timeout: Duration = "PING_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::PING_TIMEOUT_MS), milliseconds;

    /// How long a connection may stay without having joined a namespace
    connect_timeout: Duration = "CONNECT_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::CONNECT_TIMEOUT_MS), milliseconds;

    /// Size of the largest message that a client may send
    max_payload_bytes: usize = "MAX_PAYLOAD_BYTES" Number DefaultValue::Fixed(defaults::MAX_PAYLOAD_BYTES),
        |text| size(text, defaults::MAX_PAYLOAD_LIMIT_BYTES);

    /// How long a client that lost its connection may be away and still get its session back, and what it missed; 0 for none
    recovery: Duration = "RECOVERY_MS" Number DefaultValue::Fixed(defaults::RECOVERY_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    "Process":

    /// Threads that serve connections
    shards: usize = "SHARDS" Number DefaultValue::Cores, |text| size(text, defaults::MAX_SHARDS);

    /// How long the connections' closing is spread over at shutdown; 0 closes them at once
    shutdown_grace: Duration = "SHUTDOWN_GRACE_MS" Number DefaultValue::Fixed(defaults::SHUTDOWN_GRACE_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    "Slow clients":

    /// Bytes waiting for one client past which the server stops reading from it
    outbox_soft_bytes: usize = "OUTBOX_SOFT_BYTES" Number DefaultValue::Fixed(defaults::OUTBOX_SOFT_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// Bytes waiting for one client past which its connection is closed
    outbox_hard_bytes: usize = "OUTBOX_HARD_BYTES" Number DefaultValue::Fixed(defaults::OUTBOX_HARD_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// How long a client may take no byte of what waits for it before its connection is closed
    write_stall: Duration = "WRITE_STALL_MS" Number DefaultValue::Fixed(defaults::WRITE_STALL_MS), milliseconds;

    /// Bytes that the system may hold for one client besides, in its connection's send buffer; 0 leaves that to the system
    send_buffer_bytes: u32 = "SEND_BUFFER_BYTES" Number DefaultValue::Fixed(defaults::SEND_BUFFER_BYTES), buffer;

    "Media items":

    /// How long nobody may say anything of a media item before it ends with mediaError, code STALLED; 0 for ever
    media_stall: Duration = "MEDIA_STALL_MS" Number DefaultValue::Fixed(defaults::MEDIA_STALL_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    "Clients' limits":

    /// Rooms and media subscriptions that one socket may have
    max_rooms_per_socket: usize = "MAX_ROOMS_PER_SOCKET" Number DefaultValue::Fixed(defaults::MAX_ROOMS_PER_SOCKET),
        |text| size(text, u64::from(u32::MAX));

    /// Connections of clients in all; publishers and health checks come in besides. Past it a client gets 503
    max_connections: usize = "MAX_CONNECTIONS" Number DefaultValue::Fixed(defaults::MAX_CONNECTIONS),
        |text| size(text, u64::from(u32::MAX));

    /// TCP connections besides, of publishers, health checks and clients' requests. Past it the one leaves that has been idle
    /// for longest, of the address that has most
    max_http_connections: usize = "MAX_HTTP_CONNECTIONS" Number DefaultValue::Fixed(defaults::MAX_HTTP_CONNECTIONS),
        |text| size(text, u64::from(u32::MAX));

    /// Connections of one client address (IPv6: of one /64), 0 for any number. Past it a client gets 429
    max_connections_per_address: usize = "MAX_CONNECTIONS_PER_ADDRESS" Number
        DefaultValue::Share { of: "MAX_CONNECTIONS", parts: defaults::ADDRESSES_THAT_FILL }, size_or_none;

    /// New connections of one client address each second, and ten times as many at once; 0 for any number. Past it a client
    /// gets 429
    connection_rate_per_address: u32 = "CONNECTION_RATE_PER_ADDRESS" Number
        DefaultValue::Fixed(defaults::CONNECTION_RATE_PER_ADDRESS), rate;

    /// Connections that are in no namespace, bodies on their way, and HTTP connections that are silent or idle, of each in all.
    /// Past it a client gets 503, or the one leaves that has been idle for longest
    max_handshakes: usize = "MAX_HANDSHAKES" Number DefaultValue::Fixed(defaults::MAX_HANDSHAKES),
        |text| size(text, u64::from(u32::MAX));

    /// The same of one client address, idle connections not among them; 0 for any number. Past it a client gets 429
    max_handshakes_per_address: usize = "MAX_HANDSHAKES_PER_ADDRESS" Number
        DefaultValue::Share { of: "MAX_HANDSHAKES", parts: defaults::ADDRESSES_THAT_HANDSHAKE }, size_or_none;

    /// Networks of proxies whose X-Forwarded-For, -Host and -Proto are believed, comma-separated, as `10.0.0.0/8`; behind a
    /// balancer, its addresses, or all clients count as one
    trusted_proxies: TrustedProxies = "TRUSTED_PROXIES" List DefaultValue::Fixed(""), trusted_proxies;

    /// Path that a proxy serves the server under, as `/realtime`. Requests may have it before their paths or not, links and
    /// redirects do
    base_path: String = "BASE_PATH" Text DefaultValue::Fixed(defaults::BASE_PATH), base_path;

    /// Bytes of a request's headers
    max_header_bytes: usize = "MAX_HEADER_BYTES" Number DefaultValue::Fixed(defaults::MAX_HEADER_BYTES), headers;

    /// How long a client may take to send a request's headers
    header_timeout: Duration = "HEADER_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::HEADER_TIMEOUT_MS), milliseconds;

    /// How long an HTTP connection may be idle between two requests; clients are told by `Keep-Alive`
    keep_alive_timeout: Duration = "KEEP_ALIVE_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::KEEP_ALIVE_TIMEOUT_MS), milliseconds;

    /// How long a client or publisher may take to send a request's body
    body_timeout: Duration = "BODY_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::BODY_TIMEOUT_MS), milliseconds;

    /// Requests of one polling session each second, and ten times as many at once; 0 for any number. Past it they are
    /// answered at this rate
    request_rate_per_session: u32 = "REQUEST_RATE_PER_SESSION" Number
        DefaultValue::Fixed(defaults::REQUEST_RATE_PER_SESSION), rate;

    /// Messages of one connection each second, and ten times as many at once; 0 for any number. Past it its events are
    /// refused, far past it the connection is closed
    event_rate_per_socket: u32 = "EVENT_RATE_PER_SOCKET" Number DefaultValue::Fixed(defaults::EVENT_RATE_PER_SOCKET), rate;

    /// Events of one user each second, over all connections, and ten times as many at once; 0 for any number. Past it
    /// they are refused
    event_rate_per_user: u32 = "EVENT_RATE_PER_USER" Number DefaultValue::Fixed(defaults::EVENT_RATE_PER_USER), rate;

    /// Binary attachments of one event
    max_attachments: usize = "MAX_ATTACHMENTS" Number DefaultValue::Fixed(defaults::MAX_ATTACHMENTS),
        |text| size(text, u64::from(u32::MAX));

    /// Arrays and objects of an event that may stand within one another
    max_json_depth: usize = "MAX_JSON_DEPTH" Number DefaultValue::Fixed(defaults::MAX_JSON_DEPTH),
        |text| size(text, defaults::MAX_JSON_DEPTH_LIMIT);

    /// Acknowledgements that one client may owe the server
    max_pending_acks: usize = "MAX_PENDING_ACKS" Number DefaultValue::Fixed(defaults::MAX_PENDING_ACKS),
        |text| size(text, u64::from(u32::MAX));

    /// Bytes of messages and headers that have not arrived in whole or wait to be handled, of all clients of a shard together;
    /// an address has a quarter. Past it clients that hold large ones are closed
    max_unfinished_bytes: usize = "MAX_UNFINISHED_BYTES" Number DefaultValue::Fixed(defaults::MAX_UNFINISHED_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// Bytes that wait for all clients of a shard together or may not have arrived, broadcasts not counted; an address has a
    /// quarter. Past half of it clients that leave some waiting are not read, and past it they are closed
    max_unarrived_bytes: usize = "MAX_UNARRIVED_BYTES" Number DefaultValue::Fixed(defaults::MAX_UNARRIVED_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// Rooms and subscriptions of all sockets of a shard together; an address has a quarter. Past it a socket that is in
    /// eight joins no more
    max_rooms: usize = "MAX_ROOMS" Number DefaultValue::Fixed(defaults::MAX_ROOMS),
        |text| size(text, u64::from(u32::MAX));

    "Publishers":

    /// Publishes of one publisher key each second, and ten times as many at once; 0 for any number. Past it the publisher
    /// gets 429. A batch may go past it, and delays the next request
    publish_rate_per_key: u32 = "PUBLISH_RATE_PER_KEY" Number DefaultValue::Fixed(defaults::PUBLISH_RATE_PER_KEY), rate;

    "Clients' limits":

    /// Failed authentications in a row on one connection after which it is closed
    auth_failure_limit: u32 = "AUTH_FAILURE_LIMIT" Number DefaultValue::Fixed(defaults::AUTH_FAILURE_LIMIT), count;

    "Publishers":

    /// Idempotency keys that are remembered, each for 24 hours; a batch counts as one for every ten items. Past it
    /// publishes with a new key get 503
    max_idempotency_keys: usize = "MAX_IDEMPOTENCY_KEYS" Number DefaultValue::Fixed(defaults::MAX_IDEMPOTENCY_KEYS),
        |text| size(text, u64::from(u32::MAX));

    /// The same of one publisher, 0 for any number. Past it the publisher gets 429
    max_idempotency_keys_per_publisher: usize = "MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER" Number
        DefaultValue::Fixed(defaults::MAX_IDEMPOTENCY_KEYS_PER_PUBLISHER), size_or_none;

    "What is kept":

    /// How long durable events are kept for clients that reconnect, in hours
    log_retention: Duration = "LOG_RETENTION_HOURS" Number DefaultValue::Fixed(defaults::LOG_RETENTION_HOURS), hours;

    /// Bytes of durable events that are kept for clients that reconnect; past it the oldest leave
    log_max_bytes: u64 = "LOG_MAX_BYTES" Number DefaultValue::Fixed(defaults::LOG_MAX_BYTES),
        |text| whole(text, 1, i64::MAX as u64);

    /// How long a media item is remembered after its last event, in days
    media_retention: Duration = "MEDIA_RETENTION_DAYS" Number DefaultValue::Fixed(defaults::MEDIA_RETENTION_DAYS), days;

    /// How long notifications are kept, in days
    notification_retention: Duration = "NOTIFICATION_RETENTION_DAYS" Number
        DefaultValue::Fixed(defaults::NOTIFICATION_RETENTION_DAYS), days;

    /// What an accepted publish survives: full (the machine loses its power) or normal (the server is killed)
    store_sync: StoreSync = "STORE_SYNC" Text DefaultValue::Fixed(defaults::STORE_SYNC), store_sync;

    "Many nodes":

    /// Redis or Valkey that keeps everything in place of DATA_DIR, for any number of nodes, as `redis://host:6379/0`,
    /// `rediss://` for TLS, or `redis+sentinel://host:26379,host:26379/service`. As a flag it shows in the process list: prefer the environment or the file
    redis_url: Option<SecretString> = "REDIS_URL" Secret DefaultValue::Fixed(""), redis_url;

    /// Beginning of the names in Redis. Servers with the same one are nodes of one cluster
    redis_prefix: String = "REDIS_PREFIX" Text DefaultValue::Fixed(defaults::REDIS_PREFIX), redis_prefix;

    /// What Redis does with what it has accepted, for the answers to publishers: always (`appendfsync always`), everysec or
    /// none; empty: always, if Redis says so itself. If it says that it does less, nothing counts as stored
    redis_durability: Option<Durability> = "REDIS_DURABILITY" Text DefaultValue::Fixed(""), redis_durability;

    /// Replicas of Redis that must have a change before it is answered; 0 for none. With Sentinels, as many as there are, so
    /// that nothing accepted is lost when another Redis takes over
    redis_wait: usize = "REDIS_WAIT" Number DefaultValue::Fixed(defaults::REDIS_WAIT),
        |text| whole(text, 0, defaults::MAX_REDIS_REPLICAS).map(|number| number as usize);

    /// Secret of the cluster, of 32 bytes or more, the same on all nodes: for the ids of sockets and the requests between nodes
    cluster_secret: Option<SecretString> = "CLUSTER_SECRET" Secret DefaultValue::Fixed(""), cluster_secret;

    /// Address and port at which the other nodes reach this one, as `10.0.0.7:3001`, on a private network. Without it, the
    /// balancer has to send all requests of a polling client to one node
    node_address: Option<String> = "NODE_ADDRESS" Text DefaultValue::Fixed(""), node_address;

    /// Libraries with which other programs publish over Redis, comma-separated: redis (`@socket.io/redis-emitter`), streams
    /// (`@socket.io/redis-streams-emitter`) and python (python-socketio's RedisManager); empty: none
    emitters: Vec<Emitter> = "EMITTERS" List DefaultValue::Fixed(""), emitters;

    /// Events that they may send, comma-separated, each a namespace, a colon and a name with `*` for any text
    emitter_events: Allowlist = "EMITTER_EVENTS" List DefaultValue::Fixed(defaults::EMITTER_EVENTS), emitter_events;
}

/// The settings with keys to verify tokens. One of them must be set.
const TOKEN_KEYS: [&str; 4] = ["JWT_SECRET", "JWT_PREVIOUS_SECRETS", "JWT_PUBLIC_KEYS", "JWKS_URL"];

const TOKEN_KEYS_HINT: &str = "it is the secret that users' tokens are signed with. Use that of the service which issues them, \
     or set JWT_PUBLIC_KEYS or JWKS_URL if it signs with a key of its own, or make one:\n\
     \x20   export JWT_SECRET=\"$(openssl rand -hex 32)\"\n\
     For trying things out, `slop-studios dev` makes one by itself";

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The name, as in the environment.
    pub name: &'static str,
    /// The heading above it in the help.
    group: &'static str,
    help: &'static [&'static str],
    kind: Kind,
    default: DefaultValue,
}

/// The form of a value, which determines its TOML type and its placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Boolean,
    List,
    Secret,
    SecretList,
}

#[derive(Debug)]
enum DefaultValue {
    Fixed(&'static str),
    Profile {
        serve: &'static str,
        dev: &'static str,
    },
    /// One for each core that the process may use.
    Cores,
    /// The value of another setting, which must be above it in the table, divided by `parts`.
    Share {
        of: &'static str,
        parts: u64,
    },
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether this is the key of a setting in the file.
fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key() == key)
}

impl Setting {
    /// Its key in the file: `ping_interval_ms`.
    pub fn key(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// Its flag, without the dashes before: `ping-interval-ms`.
    pub fn flag(&self) -> String {
        self.key().replace('_', "-")
    }

    /// Its help text, in one line.
    pub fn help(&self) -> String {
        let lines: Vec<&str> = self.help.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::SecretList)
    }

    /// The text of the default. `set` has the settings above this one.
    fn default_text(&self, profile: Profile, set: &BTreeMap<&'static str, (String, Source)>) -> String {
        match (&self.default, profile) {
            (DefaultValue::Fixed(text), _)
            | (DefaultValue::Profile { serve: text, .. }, Profile::Serve)
            | (DefaultValue::Profile { dev: text, .. }, Profile::Dev) => (*text).to_owned(),
            (DefaultValue::Share { of, parts }, _) => {
                // A text that is not a number is reported for the other setting.
                let whole = set.get(of).and_then(|(text, _)| text.trim().parse::<u64>().ok());
                (whole.unwrap_or_default() / parts).max(1).to_string()
            }
            (DefaultValue::Cores, _) => {
                // This function takes a container's share of the cores into account.
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                cores.to_string()
            }
        }
    }
}
