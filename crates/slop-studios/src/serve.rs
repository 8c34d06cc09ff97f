//! The composition root: makes the parts, joins them, and ends them in order.

use std::convert::Infallible;
use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::header::AUTHORIZATION;
use socketio_server::{Config, Drained, Handle, Recovery, Server, SessionKeeper};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{interval, sleep, sleep_until, timeout};

use crate::config::Settings;
use crate::dispatch::EngineDispatch;
use crate::http::{Api, ApiOptions, App, Bodies, BodyLimits, PublishRate};
use crate::identity::{Jwks, Revocations, TokenVerifier};
use crate::in_force::InForce;
use crate::inbox::Inboxes;
use crate::limits;
use crate::listener;
use crate::logging;
use crate::memory::{self, Crowd};
use crate::metrics::Metrics;
use crate::namespaces;
use crate::open_files::{self, Places};
use crate::owners::NewOwners;
use crate::policy::Policy;
use crate::publish::Executor;
use crate::publishers::{Credentials, Publishers};
use crate::recovery::StoreKeeper;
use crate::refusals::Refusals;
use crate::reload::{self, Reload};
use crate::revoke::Revoker;
use crate::rooms;
use crate::session::Sessions;
use crate::store::sqlite::{Backlog, Bound, Bounds, Ending, KeyBounds, Options, RevocationBound, SqliteStore};
use crate::store::{Revocations as Forgotten, Store};
use crate::tls::Certificate;
use crate::user_rate::UserRates;
use crate::watchdog::Watchdog;

/// The part of the grace period, one in so many, in which `/health/ready` fails already and connections are still taken,
/// so that a balancer can turn clients away before they are refused.
const READINESS_SHARE: u32 = 10;

/// How long the process may take to end after `SHUTDOWN_GRACE_MS` has passed: for the last commit, which takes a slow disk a
/// second. Whatever hangs, it has ended after both together, so that a supervisor which waits longer never has to kill it.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// How much of [`STOP_MARGIN`] the drain may take, if it has not ended with the grace period.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// How long the last commit may take after a second signal: a healthy disk needs some milliseconds.
const IMPATIENT_COMMIT: Duration = Duration::from_secs(1);

/// How much of [`STOP_MARGIN`] is for writing down that sessions are not saved, on a disk that may not answer.
const LAST_MARK: Duration = Duration::from_millis(500);

/// How the server ended. Unless the connections were drained, clients are served to the end, and what they change after the
/// last commit is as after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The connections were drained, and all that was accepted is written.
    InOrder,
    /// A second signal, with this number, ended it before the connections were drained. All that was accepted before the last
    /// commit is written.
    Interrupted(u8),
    /// Something is not written, the store had broken down or did not end, or the connections could not be drained.
    OutOfOrder,
}

impl Stopped {
    /// See docs/operations.md.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::InOrder => 0,
            Self::OutOfOrder => 3,
            // As a shell reports a process that the signal ended.
            Self::Interrupted(signal) => 128 + signal,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains. `on_listening` is called once, when connections are taken. With
/// `load`, SIGHUP reads the settings and the certificate again; without, it ends the process as the system does.
///
/// # Errors
/// If the address can't be listened on, or the system gives no threads.
pub(crate) fn run(
    settings: Settings,
    load: Option<reload::Load>,
    on_listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<Stopped> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start the main thread's runtime")?;
    // Before anybody is told that the server listens, so that no signal ends it the hard way.
    let mut stop = StopSignals::new(&runtime).context("listen for signals")?;
    let mut hang_up = HangUp::new(&runtime, load.is_some()).context("listen for SIGHUP")?;
    let metrics = Arc::new(Metrics::default());
    let certificate = settings.tls().map(|files| Certificate::load(&files, Arc::clone(&metrics))).transpose()?;
    let listener = listener::listen(&runtime, &settings)?;
    let started = start(&settings, &runtime, listener, &metrics, certificate.as_ref())?;
    let reload = load.map(|load| reloadable(load, &started, certificate));
    let Started { server, store, refusals, .. } = started;
    say_started(&settings, server.local_addr());
    on_listening(server.local_addr());

    let signal = runtime.block_on(async {
        let mut crowd = Crowd::default();
        let mut ticks = interval(memory::INTERVAL);
        let mut watching = pin!(watch(&settings, Arc::<SqliteStore>::clone(&store), metrics));
        loop {
            tokio::select! {
                biased;
                signal = stop.received() => break signal,
                () = hang_up.received() => reload.iter().for_each(Reload::run),
                _ = ticks.tick() => {
                    crowd.observe(server.handle().metrics().connections);
                    refusals.tell_due();
                }
                never = &mut watching => match never {},
            }
        }
    });
    tracing::info!(signal = signal.name, grace_ms = settings.shutdown_grace.as_millis() as u64, "draining");
    let stopped = runtime.block_on(end(server, store, &mut stop, settings.shutdown_grace));
    refusals.tell_rest();
    // Not by a drop, which would wait for a name that is being resolved.
    runtime.shutdown_background();
    stopped
}

/// Drains the connections, commits what was accepted, and does not wait for anything longer than until the one deadline.
async fn end(
    server: Server,
    store: Arc<SqliteStore>,
    stop: &mut StopSignals,
    grace: Duration,
) -> anyhow::Result<Stopped> {
    let began = Instant::now();
    let deadline = began + grace + STOP_MARGIN - LAST_MARK;
    let drained = tokio::select! {
        biased;
        // Whoever asks twice does not want to wait.
        signal = stop.received() => Drain::Interrupted(signal),
        drained = drain(server, grace) => drained?,
        () = sleep_until((began + grace + DRAIN_MARGIN).into()) => Drain::Late,
    };
    let deadline = match drained {
        Drain::Done(_) | Drain::Late | Drain::Failed => deadline,
        Drain::Interrupted(_) => deadline.min(Instant::now() + IMPATIENT_COMMIT),
    };
    match drained {
        Drain::Done(Drained { connections_left, .. }) => tracing::info!(connections_left, "drained"),
        Drain::Late => tracing::error!("the drain did not end in time"),
        Drain::Failed => tracing::error!("the drain failed"),
        Drain::Interrupted(signal) => {
            tracing::warn!(signal = signal.name, "stopped before the connections were drained");
        }
    }

    // Whatever was accepted is committed before the process ends, and the next one finds a tidy file.
    let closing = Arc::clone(&store);
    let closed = on_a_thread("last-commit", move || closing.close_by(deadline))?;
    let ending = tokio::select! {
        biased;
        signal = stop.received() => {
            tracing::error!(signal = signal.name, "stopped before everything was written");
            store.close_by(Instant::now())
        }
        closed = closed => closed.context("close the store")?,
    };
    let Ending { unwritten, is_broken, is_late } = ending;
    let Backlog { requests, sessions, inboxes } = unwritten;
    if is_late {
        tracing::error!("the store did not end in time: its files are as after a kill");
    }
    if is_broken || unwritten != Backlog::default() {
        tracing::error!(requests, sessions, inboxes, is_broken, "stopped, and not everything is written");
    }
    if sessions > 0 {
        let marked = on_a_thread("last-mark", move || store.void_sessions())?;
        if timeout(LAST_MARK, marked).await.is_err() {
            tracing::error!(
                "the disk does not answer: clients may come back as they were before they left a room or logged out"
            );
        }
    }
    Ok(match drained {
        _ if ending != Ending::default() => Stopped::OutOfOrder,
        Drain::Late | Drain::Failed => Stopped::OutOfOrder,
        Drain::Interrupted(signal) => Stopped::Interrupted(signal.number),
        Drain::Done(_) => {
            tracing::info!("stopped");
            Stopped::InOrder
        }
    })
}

/// What became of a drain.
enum Drain {
    Done(Drained),
    /// It did not end in time.
    Late,
    /// It panicked.
    Failed,
    Interrupted(StopSignal),
}

/// Fails the readiness for a while, then closes the connections.
async fn drain(server: Server, grace: Duration) -> anyhow::Result<Drain> {
    server.announce_shutdown();
    let notice = grace / READINESS_SHARE;
    sleep(notice).await;
    let drained = on_a_thread("drain", move || server.shutdown(grace - notice))?;
    Ok(drained.await.map_or(Drain::Failed, Drain::Done))
}

fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<T>> {
    let (done, finished) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    // Whoever waited has left by then, if nobody takes the outcome.
    thread.spawn(move || drop(done.send(work()))).with_context(|| format!("start the thread {name:?}"))?;
    Ok(finished)
}

/// Ends media items without news, if that is asked for.
async fn watch(settings: &Settings, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Infallible {
    if settings.media_stall.is_zero() {
        return pending().await;
    }
    Watchdog::new(store, metrics, settings.media_stall).run().await
}

/// What the composition root goes on to hold.
struct Started {
    server: Server,
    store: Arc<SqliteStore>,
    sessions: Arc<Sessions>,
    publishers: Arc<Publishers>,
    refusals: Arc<Refusals>,
}

fn start(
    settings: &Settings,
    runtime: &Runtime,
    listener: TcpListener,
    metrics: &Arc<Metrics>,
    certificate: Option<&Certificate>,
) -> anyhow::Result<Started> {
    let places = places_that_fit(settings)?;
    let builder = Server::builder(engine_config(settings, places));
    let handle = builder.handle();
    let revocations = Arc::<Revocations>::default();
    let (verifier, jwks) = verifier(settings, runtime, metrics)?;
    let verifier = verifier.with_revocations(Arc::clone(&revocations));
    let refusals = Arc::new(Refusals::new(Arc::clone(metrics)));
    let sessions = Arc::new(Sessions {
        verifier,
        policy: InForce::new(settings.policy()),
        changes: AtomicU64::new(0),
        metrics: Arc::clone(metrics),
        refusals: Arc::clone(&refusals),
        expiry_notice: settings.token_expiring_notice,
        auth_failure_limit: settings.auth_failure_limit,
        max_rooms_per_socket: settings.max_rooms_per_socket,
        user_rates: UserRates::new(settings.event_rate_per_user),
        owners: NewOwners::new(settings.recovery + settings.ping_interval + settings.ping_timeout),
    });
    let (at, shared) = (handle.clone(), Arc::clone(&sessions));
    sessions.verifier.when_keys_leave(move || {
        shared.changed();
        check_identities(&at, &shared);
    });
    jwks.into_iter().for_each(|jwks| drop(runtime.spawn(jwks.keep_fresh())));
    let inboxes = Arc::<Inboxes>::default();
    let dispatch = Arc::new(EngineDispatch::new(handle.clone(), Arc::clone(&sessions), Arc::clone(&inboxes)));
    let embedded = Arc::new(SqliteStore::open(&store_options(settings), dispatch, Arc::clone(metrics))?);
    let store: Arc<dyn Store> = Arc::<SqliteStore>::clone(&embedded);
    inboxes.use_store(&store);
    let kept = runtime.block_on(store.revocations()).context("read the revocations")?;
    kept.list.iter().for_each(|revocation| revocations.add(revocation));
    revocations.forget(&Forgotten { floors: kept.floors, ..Forgotten::default() });
    let revoker = Arc::new(Revoker::new(
        Arc::clone(&store),
        revocations,
        Arc::clone(&sessions),
        handle.clone(),
        settings.jwt_max_lifetime,
        settings.jwt_leeway,
    ));
    let publishers = Arc::new(Publishers::new(credentials(settings), Arc::clone(&sessions)));
    let bodies = BodyLimits {
        bytes: settings.max_payload_bytes,
        time: settings.body_timeout,
        unfinished: settings.max_unfinished_bytes,
    };
    let app = App {
        executor: Executor::new(Arc::clone(&store), Arc::clone(metrics)),
        revoker,
        publishers: Arc::clone(&publishers),
        registry: metrics.registry(handle.clone(), Arc::clone(&store)),
        bodies: Bodies::new(bodies, Arc::clone(metrics)),
        publish_rate: PublishRate::new(settings.publish_rate_per_key, Arc::clone(metrics)),
        store: Arc::clone(&store),
        handle,
        metrics: Arc::clone(metrics),
        refusals: Arc::clone(&refusals),
    };
    let options = ApiOptions {
        over_tls: certificate.is_some(),
        access_log: settings.access_log,
        serve_client: settings.serve_client,
        base_path: &settings.base_path,
    };
    let api = Api::new(Arc::new(app), options);
    let builder = builder.recovery(recovery(settings, &embedded, &store)).fallback(api);
    let builder = crate::namespaces::all(&sessions, &inboxes, &store)
        .into_iter()
        .fold(builder, |builder, namespace| builder.namespace(namespace));
    let builder = match certificate {
        Some(certificate) => builder.tls(certificate.tls()),
        None => builder,
    };
    let noted = Arc::clone(&refusals);
    let builder = builder.on_refusal(move |client| noted.note_client(client));
    let server = builder.start(listener).context("start the server")?;
    Ok(Started { server, store: embedded, sessions, publishers, refusals })
}

/// Logs what runs where, and with how much of what decides who may do what.
fn say_started(settings: &Settings, address: SocketAddr) {
    let folder = std::path::absolute(&settings.data_dir).unwrap_or_else(|_unknown| settings.data_dir.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        url = format!("{}://{address}", settings.scheme()),
        base_path = Some(settings.base_path.as_str()).filter(|path| !path.is_empty()),
        data_dir = %folder.display(),
        store_sync = settings.store_sync.as_str(),
        shards = settings.shards,
        room_rules = settings.tables.rules.rooms.len(),
        media_rules = settings.tables.rules.media.len(),
        auth_required = settings.auth_required,
        token_secrets = usize::from(settings.jwt_secret.is_some()) + settings.jwt_previous_secrets.len(),
        token_key_files = settings.jwt_public_keys.len(),
        token_key_set = settings.jwks_url.is_some(),
        publisher_keys = settings.api_keys.len() + settings.tables.publisher_keys.len(),
        publish_claim = settings.publish_claim.as_deref(),
        "started"
    );
}

fn credentials(settings: &Settings) -> Credentials {
    Credentials::new(&settings.api_keys, &settings.tables.publisher_keys, settings.publish_claim.as_deref())
}

/// What SIGHUP can change.
fn reloadable(load: reload::Load, started: &Started, certificate: Option<Certificate>) -> Reload {
    let Started { server, sessions, publishers, .. } = started;
    let (handle, sessions, publishers) = (server.handle(), Arc::clone(sessions), Arc::clone(publishers));
    let reload = Reload::new(load, Arc::clone(&sessions.metrics))
        .part(&["LOG_LEVEL"], |settings| {
            let level = settings.log_level;
            Ok(Box::new(move || logging::set_level(level)))
        })
        .part(&["API_KEYS", "PUBLISH_CLAIM"], move |settings| {
            let credentials = credentials(settings);
            let publishers = Arc::clone(&publishers);
            Ok(Box::new(move || publishers.replace(credentials)))
        })
        .part(&["JWT_SECRET", "JWT_PREVIOUS_SECRETS", "JWT_PUBLIC_KEYS", "AUTH_REQUIRED"], move |settings| {
            let (keys, policy) = (settings.token_keys()?, settings.policy());
            let (handle, sessions) = (handle.clone(), Arc::clone(&sessions));
            Ok(Box::new(move || {
                sessions.verifier.replace(keys);
                let before = sessions.policy.get();
                sessions.policy.replace(policy);
                sessions.changed();
                check_identities(&handle, &sessions);
                check_rooms(&handle, &sessions, &before);
            }))
        });
    // That TLS is spoken at all is settled at the start.
    let Some(certificate) = certificate else { return reload };
    reload.part(&["TLS_CERT_FILE", "TLS_KEY_FILE"], move |settings| match settings.tls() {
        Some(files) => Ok(certificate.prepare(&files)?),
        None => Ok(Box::new(|| reload::say_restart_needed("TLS_CERT_FILE"))),
    })
}

/// Has every socket asked whether it may still be who it is. To be called after other keys or rules were put in force: a handler
/// that still goes by the old ones has ended when its shard comes to this.
fn check_identities(handle: &Handle, sessions: &Arc<Sessions>) {
    for namespace in [namespaces::DEFAULT, namespaces::MEDIA, namespaces::NOTIFICATIONS] {
        let sessions = Arc::clone(sessions);
        handle.for_each(namespace, move |socket| {
            let _ = sessions.check_identity(socket);
        });
    }
}

/// The same for where they are, of those in rooms that the rules before did not decide as those now do. To ask for every room of
/// every socket takes long where they are many, and publishes wait for it.
fn check_rooms(handle: &Handle, sessions: &Arc<Sessions>, before: &Arc<Policy>) {
    for namespace in [namespaces::DEFAULT, namespaces::MEDIA, namespaces::NOTIFICATIONS] {
        let (before, now, sessions) = (Arc::clone(before), sessions.policy.get(), Arc::clone(sessions));
        let is_other = move |room: &str| match rooms::media_of(room) {
            Some(media_id) => !now.decides_media_as(&before, media_id),
            None => !now.decides_room_as(&before, namespace, room),
        };
        handle.for_each_in_rooms(namespace, is_other, move |socket| sessions.check_again(socket));
    }
}

/// With the issuer's keys, if they can be had by now. They are still to be kept fresh.
fn verifier(
    settings: &Settings,
    runtime: &Runtime,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(TokenVerifier, Option<Arc<Jwks>>)> {
    let keys = settings.token_keys()?;
    let is_alone = keys.is_empty();
    let verifier = TokenVerifier::new(keys, settings.claim_rules());
    let Some(jwks) = settings.jwks(metrics)? else { return Ok((verifier, None)) };
    let fetched = runtime.block_on(jwks.fetch());
    if is_alone {
        // Every token would be refused, and clients would take it that theirs are bad.
        fetched.context("fetch the keys of JWKS_URL, without which no token can be verified")?;
    }
    Ok((verifier.with_jwks(Arc::clone(&jwks)), Some(jwks)))
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
    let unnoticed = settings.ping_interval + settings.ping_timeout;
    Options {
        folder: settings.data_dir.clone(),
        sync: settings.store_sync,
        journal: if settings.recovery.is_zero() { Duration::ZERO } else { settings.recovery + unnoticed },
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
        },
    }
}

fn engine_config(settings: &Settings, places: Places) -> Config {
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
        // One more for the user's room, which a socket gets however many others it is in.
        max_rooms_per_socket: settings.max_rooms_per_socket.saturating_add(1),
        max_header_bytes: settings.max_header_bytes,
        header_timeout: settings.header_timeout,
        keep_alive_timeout: settings.keep_alive_timeout,
        body_timeout: settings.body_timeout,
        max_connections: places.connections,
        max_http_connections: places.http,
        max_connections_per_address: places.of_address(settings.max_connections_per_address, wanted_places(settings)),
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

fn wanted_places(settings: &Settings) -> Places {
    Places { connections: settings.max_connections, http: settings.max_http_connections }
}

/// As many as wanted, if the system lets so many files be open.
fn places_that_fit(settings: &Settings) -> anyhow::Result<Places> {
    let files = open_files::raise_limit();
    let wanted = wanted_places(settings);
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

/// SIGHUP, if it is listened to.
struct HangUp(Option<Signal>);

impl HangUp {
    fn new(runtime: &Runtime, listens: bool) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self(listens.then(|| signal(SignalKind::hangup())).transpose()?))
    }

    async fn received(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// Caught, so that a file at the limit of the process (`ulimit -f`) is an error of the write and not the end.
    _file_size: Signal,
}

#[derive(Debug, Clone, Copy)]
struct StopSignal {
    name: &'static str,
    number: u8,
}

impl StopSignals {
    fn new(runtime: &Runtime) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn received(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal { name: "SIGTERM", number: 15 },
            _ = self.interrupt.recv() => StopSignal { name: "SIGINT", number: 2 },
        }
    }
}
