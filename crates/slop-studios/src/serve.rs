//! The composition root: makes the parts, joins them, and ends them in order.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;

use anyhow::Context as _;
use http::header::AUTHORIZATION;
use socketio_server::{Config, Drained, Origins, Recovery, Server, SessionKeeper};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::interval;

use crate::config::{CorsOrigin, Settings};
use crate::dispatch::EngineDispatch;
use crate::http::{App, PublisherKeys};
use crate::identity::{Jwks, Pace, Revocations, TokenVerifier};
use crate::inbox::Inboxes;
use crate::limits;
use crate::memory::{self, Crowd};
use crate::metrics::Metrics;
use crate::owners::NewOwners;
use crate::publish::Executor;
use crate::recovery::StoreKeeper;
use crate::revoke::Revoker;
use crate::rooms::RoomPolicy;
use crate::session::Sessions;
use crate::store::Store;
use crate::store::sqlite::{Bound, Bounds, Options, SqliteStore};

/// Connections that the kernel holds until they are accepted: what Linux allows by default (`net.core.somaxconn`), so
/// that a fleet that reconnects at once is not turned away.
const LISTEN_BACKLOG: u32 = 4096;

/// The part of the grace period, one in so many, in which `/health/ready` fails already and connections are still taken,
/// so that a balancer can turn clients away before they are refused.
const READINESS_SHARE: u32 = 10;

/// Serves until SIGTERM or SIGINT, then drains. `on_listening` is called once, when connections are taken.
///
/// # Errors
/// If the address can't be listened on, or the system gives no threads.
pub fn run(settings: Settings, on_listening: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start the main thread's runtime")?;
    // Before anybody is told that the server listens, so that no signal ends it the hard way.
    let mut stop = StopSignals::new(&runtime).context("listen for signals")?;
    let listener = listen(&runtime, &settings.host, settings.port)?;
    let (server, store) = start(&settings, &runtime, listener)?;
    on_listening(server.local_addr());

    let name = runtime.block_on(async {
        let mut crowd = Crowd::default();
        let mut ticks = interval(memory::INTERVAL);
        loop {
            tokio::select! {
                biased;
                name = stop.received() => break name,
                _ = ticks.tick() => crowd.observe(server.handle().metrics().connections),
            }
        }
    });
    tracing::info!(signal = name, grace_ms = settings.shutdown_grace.as_millis() as u64, "draining");
    server.announce_shutdown();
    let notice = settings.shutdown_grace / READINESS_SHARE;
    let (done, drained) = oneshot::channel();
    runtime.block_on(async {
        tokio::select! {
            _ = stop.received() => {}
            () = tokio::time::sleep(notice) => {}
        }
    });
    std::thread::Builder::new()
        .name("drain".to_owned())
        .spawn(move || done.send(server.shutdown(settings.shutdown_grace - notice)))
        .context("start the drain")?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            // Whoever asks twice does not want to wait.
            name = stop.received() => tracing::warn!(signal = name, "stopped before the connections were drained"),
            drained = drained => match drained {
                Ok(Drained { connections_left, .. }) => tracing::info!(connections_left, "stopped"),
                Err(_panicked) => tracing::error!("the drain failed"),
            },
        }
    });
    // Whatever was accepted is committed before the process ends, and the next one finds a tidy file.
    store.close();
    Ok(())
}

fn start(settings: &Settings, runtime: &Runtime, listener: TcpListener) -> anyhow::Result<(Server, Arc<SqliteStore>)> {
    let builder = Server::builder(engine_config(settings));
    let handle = builder.handle();
    let metrics = Arc::new(Metrics::default());
    let revocations = Arc::<Revocations>::default();
    let verifier = verifier(settings, runtime, &metrics)?.with_revocations(Arc::clone(&revocations));
    let sessions = Arc::new(Sessions {
        verifier,
        expiry_notice: settings.token_expiring_notice,
        policy: RoomPolicy { anonymous: !settings.auth_required },
        metrics: Arc::clone(&metrics),
        auth_required: settings.auth_required,
        auth_failure_limit: settings.auth_failure_limit,
        max_rooms: settings.max_rooms_per_socket,
        owners: NewOwners::new(settings.recovery + settings.ping_interval + settings.ping_timeout),
    });
    let inboxes = Arc::<Inboxes>::default();
    let dispatch = Arc::new(EngineDispatch::new(handle.clone(), Arc::clone(&sessions), Arc::clone(&inboxes)));
    let embedded = Arc::new(SqliteStore::open(&store_options(settings), dispatch, Arc::clone(&metrics))?);
    let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&embedded);
    inboxes.use_store(&store);
    let kept = runtime.block_on(store.revocations()).context("read the revocations")?;
    kept.iter().for_each(|revocation| revocations.add(revocation));
    let revoker = Arc::new(Revoker::new(
        Arc::clone(&store),
        revocations,
        Arc::clone(&sessions),
        handle.clone(),
        settings.jwt_max_lifetime,
        settings.jwt_leeway,
    ));
    let app = App {
        revoker,
        executor: Executor::new(Arc::clone(&store), Arc::clone(&metrics)),
        keys: PublisherKeys::new(&settings.api_keys),
        registry: metrics.registry(handle.clone(), Arc::clone(&store)),
        max_body: settings.max_payload_bytes,
        store: Arc::clone(&store),
        handle,
        metrics,
    };
    let builder = builder.recovery(recovery(settings, &embedded, &store)).fallback(crate::http::router(Arc::new(app)));
    let builder = crate::namespaces::all(&sessions, &inboxes, &store)
        .into_iter()
        .fold(builder, |builder, namespace| builder.namespace(namespace));
    Ok((builder.start(listener).context("start the server")?, embedded))
}

/// With the issuer's keys, if they can be had by now.
fn verifier(settings: &Settings, runtime: &Runtime, metrics: &Arc<Metrics>) -> anyhow::Result<TokenVerifier> {
    let keys = settings.token_keys()?;
    let is_alone = keys.is_empty();
    let verifier = TokenVerifier::new(keys, settings.claim_rules());
    let Some(url) = &settings.jwks_url else { return Ok(verifier) };
    let pace = Pace { cooldown: settings.jwks_cooldown, max_age: settings.jwks_max_age };
    let jwks = Arc::new(Jwks::of(url, pace, Arc::clone(metrics))?);
    let fetched = runtime.block_on(jwks.fetch());
    if is_alone {
        // Every token would be refused, and clients would take it that theirs are bad.
        fetched.context("fetch the keys of JWKS_URL, without which no token can be verified")?;
    }
    runtime.spawn(Arc::clone(&jwks).keep_fresh());
    Ok(verifier.with_jwks(jwks))
}

/// Offsets are the store's numbers, whether anybody is recovered or not: the inbox rests on them too.
fn recovery(settings: &Settings, embedded: &SqliteStore, store: &Arc<dyn Store>) -> Recovery {
    let keeper = StoreKeeper::new(Arc::clone(store), settings.recovery);
    Recovery {
        window: settings.recovery,
        after: Some(store.boot_seq().saturating_sub(1)),
        id_key: Some(embedded.socket_id_key()),
        keeper: (!settings.recovery.is_zero()).then(|| Arc::new(keeper) as Arc<dyn SessionKeeper>),
        ..Recovery::default()
    }
}

fn store_options(settings: &Settings) -> Options {
    Options {
        folder: settings.data_dir.clone(),
        sync: settings.store_sync,
        bounds: Bounds {
            media: Bound {
                age: settings.media_retention,
                rows: limits::MAX_MEDIA_ITEMS,
                bytes: limits::MAX_MEDIA_BYTES,
            },
            notifications: Bound {
                age: settings.notification_retention,
                rows: u64::MAX,
                bytes: limits::MAX_NOTIFICATION_BYTES,
            },
            notifications_per_user: limits::MAX_NOTIFICATIONS_PER_USER,
            log: Bound { age: settings.log_retention, rows: u64::MAX, bytes: settings.log_max_bytes },
            sessions: Bound { age: limits::SESSION_AGE, rows: limits::MAX_SESSIONS, bytes: limits::MAX_SESSION_BYTES },
            revocations: limits::MAX_REVOCATIONS,
            receipts: Bound {
                age: limits::IDEMPOTENCY_KEY_AGE,
                rows: settings.max_idempotency_keys as u64,
                bytes: u64::MAX,
            },
        },
    }
}

fn engine_config(settings: &Settings) -> Config {
    Config {
        shards: settings.shards,
        ping_interval: settings.ping_interval,
        ping_timeout: settings.ping_timeout,
        connect_timeout: settings.connect_timeout,
        max_payload: settings.max_payload_bytes,
        origins: match &settings.cors_origin {
            CorsOrigin::Any => Origins::Any,
            CorsOrigin::List(origins) => Origins::List(origins.clone()),
        },
        // A client that can't set `auth` may send its token as a header.
        kept_headers: vec![AUTHORIZATION],
        outbox_soft_limit: settings.outbox_soft_bytes,
        outbox_hard_limit: settings.outbox_hard_bytes,
        write_stall_timeout: settings.write_stall,
        // One more for the user's room, which a socket gets however many others it is in.
        max_rooms_per_socket: settings.max_rooms_per_socket.saturating_add(1),
        ..Config::default()
    }
}

/// Listens on the first address of the host that can be.
fn listen(runtime: &Runtime, host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let _inside = runtime.enter();
    let addresses = (host, port).to_socket_addrs().with_context(|| format!("resolve {host}"))?;
    let mut result = Err(std::io::Error::other("the name has no address"));
    for address in addresses {
        result = listen_on(address);
        if result.is_ok() {
            break;
        }
    }
    result.with_context(|| format!("listen on {host} port {port}"))
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that starts again must not wait for the connections of its predecessor to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)?.into_std()
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new(runtime: &Runtime) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
