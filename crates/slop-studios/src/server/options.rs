//! The settings in the form of the engine's and the store's options.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use secrecy::ExposeSecret as _;
use socketio_server::{Config, Handle, NodeTag};

use super::open_files::{self, Capacity};
use crate::config::Settings;
use crate::store::sqlite::Options;
use crate::store::{Bound, Bounds, KeyBounds, RevocationBound, redis};
use crate::{emitters, limits};

/// Where the server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// In the folder `DATA_DIR`.
    Folder,
    /// In memory, until it ends.
    Memory,
    /// In Redis, with other nodes.
    Redis,
}

impl Keep {
    /// The place that the settings name.
    pub(crate) fn of(settings: &Settings) -> Self {
        if settings.redis_url.is_some() { Self::Redis } else { Self::Folder }
    }

    /// The place, for the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// The options of the store in Redis, if the settings name one. Other nodes reach the node at `address`.
pub(super) fn redis_options(
    settings: &Settings,
    handle: &Handle,
    node: NodeTag,
    address: Option<String>,
) -> Option<redis::Options> {
    let handle = handle.clone();
    let mut socket_id_key = [0; 16];
    socket_id_key.copy_from_slice(&settings.cluster_key("socket ids")?[..16]);
    Some(redis::Options {
        target: settings.redis_url.as_ref()?.expose_secret().parse().ok()?,
        prefix: settings.redis_prefix.clone(),
        bounds: bounds(settings),
        // A client that comes back late is told so by another check.
        away: settings.recovery + limits::ALIVE_INTERVAL * 2,
        durability: settings.redis_durability,
        replicas: settings.redis_wait,
        socket_id_key,
        node: node.get(),
        address,
        node_of_socket_id: Arc::new(move |name: &str| handle.node_of_socket_id(name).map(NodeTag::get)),
    })
}

/// The options of the emitters, if the settings name some.
pub(super) fn emitter_options(settings: &Settings) -> Option<emitters::Options> {
    if settings.emitters.is_empty() {
        return None;
    }
    Some(emitters::Options {
        target: settings.redis_url.as_ref()?.expose_secret().parse().ok()?,
        prefix: settings.redis_prefix.clone(),
        emitters: settings.emitters.clone(),
        events: settings.emitter_events.clone(),
        most_bytes: settings.max_payload_bytes,
    })
}

/// The options of the store in `DATA_DIR`.
pub(crate) fn store_options(settings: &Settings) -> Options {
    let unnoticed = settings.ping_interval + settings.ping_timeout;
    Options {
        folder: settings.data_dir.clone(),
        sync: settings.store_sync,
        journal: if settings.recovery.is_zero() { Duration::ZERO } else { settings.recovery + unnoticed },
        bounds: bounds(settings),
    }
}

/// The limits of the store.
pub(super) fn bounds(settings: &Settings) -> Bounds {
    Bounds {
        media: Bound { age: settings.media_retention, rows: limits::MAX_MEDIA_ITEMS, bytes: limits::MAX_MEDIA_BYTES },
        notifications: Bound {
            age: settings.notification_retention,
            rows: u64::MAX,
            bytes: limits::MAX_NOTIFICATION_BYTES,
        },
        notifications_per_user: limits::MAX_NOTIFICATIONS_PER_USER,
        log: Bound { age: settings.log_retention, rows: u64::MAX, bytes: settings.log_max_bytes },
        sessions: Bound { age: limits::SESSION_AGE, rows: limits::MAX_SESSIONS, bytes: limits::MAX_SESSION_BYTES },
        revocations: RevocationBound {
            rows: limits::MAX_REVOCATIONS,
            max_lifetime: settings.jwt_max_lifetime,
            leeway: settings.jwt_leeway,
        },
        idempotency_keys: KeyBounds {
            age: limits::IDEMPOTENCY_KEY_AGE,
            of_all: settings.max_idempotency_keys as u64,
            of_publisher: match settings.max_idempotency_keys_per_publisher {
                0 => u64::MAX,
                most => most as u64,
            },
        },
    }
}

pub(super) fn engine_config(settings: &Settings, capacity: Capacity) -> Config {
    Config {
        shards: settings.shards,
        ping_interval: settings.ping_interval,
        ping_timeout: settings.ping_timeout,
        connect_timeout: settings.connect_timeout,
        max_payload: settings.max_payload_bytes,
        origins: settings.cors_origin.clone(),
        origins_setting: "CORS_ORIGIN",
        base_path: settings.base_path.clone(),
        // A client that can't set `auth` may send its token as a header.
        kept_headers: vec![AUTHORIZATION],
        outbox_soft_limit: settings.outbox_soft_bytes,
        outbox_hard_limit: settings.outbox_hard_bytes,
        write_stall_timeout: settings.write_stall,
        // One more for the user's room, which a socket gets in addition to all others.
        max_rooms_per_socket: settings.max_rooms_per_socket.saturating_add(1),
        max_header_bytes: settings.max_header_bytes,
        header_timeout: settings.header_timeout,
        keep_alive_timeout: settings.keep_alive_timeout,
        body_timeout: settings.body_timeout,
        max_connections: capacity.connections,
        max_http_connections: capacity.http,
        max_connections_per_address: capacity
            .of_address(settings.max_connections_per_address, wanted_capacity(settings)),
        connection_rate_per_address: settings.connection_rate_per_address,
        max_handshakes: settings.max_handshakes,
        max_handshakes_per_address: settings.max_handshakes_per_address,
        trusted_proxies: settings.trusted_proxies.clone(),
        request_rate_per_session: settings.request_rate_per_session,
        event_rate_per_socket: settings.event_rate_per_socket,
        max_attachments: settings.max_attachments,
        max_json_depth: settings.max_json_depth,
        max_pending_acks: settings.max_pending_acks,
        max_unfinished_bytes: settings.max_unfinished_bytes,
        max_unarrived_bytes: settings.max_unarrived_bytes,
        max_rooms: settings.max_rooms,
        ..Config::default()
    }
}

fn wanted_capacity(settings: &Settings) -> Capacity {
    Capacity { connections: settings.max_connections, http: settings.max_http_connections }
}

/// The wanted capacity, or less if the system's limit on open files does not allow it.
pub(super) fn capacity_that_fits(settings: &Settings) -> anyhow::Result<Capacity> {
    let files = open_files::raise_limit();
    let wanted = wanted_capacity(settings);
    let fit = wanted.that_fit(files, settings.shards)?;
    if fit != wanted {
        tracing::warn!(
            open_files = files,
            "MAX_CONNECTIONS is {} and MAX_HTTP_CONNECTIONS {}, but the system's limit of open files leaves room for {} and {}",
            wanted.connections,
            wanted.http,
            fit.connections,
            fit.http
        );
    }
    Ok(fit)
}
