//! The parts of the server, made from the settings, and the links between them.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use socketio_server::{Cluster, Handle, NodeTag, Recovery, Server, ServerBuilder, SessionKeeper};
use tokio::runtime::Runtime;

use super::checks::check_identities;
use super::listener::listen_for_nodes;
use super::options::{Keep, bounds, capacity_that_fits, emitter_options, engine_config, redis_options, store_options};
use crate::config::Settings;
use crate::config::certificate::Certificate;
use crate::emitters::Emitters;
use crate::hot_swap::HotSwap;
use crate::http::{Api, ApiOptions, App, Bodies, BodyLimits, PublishRate, scrape};
use crate::identity::{Jwks, Revocations, TokenVerifier};
use crate::metrics::Metrics;
use crate::publish::Executor;
use crate::publish::publishers::Publishers;
use crate::realtime::dispatch::EngineDispatch;
use crate::realtime::inbox::Inboxes;
use crate::realtime::interest::Interest;
use crate::realtime::namespaces;
use crate::realtime::owners::NewOwners;
use crate::realtime::revoke::{Enforcer, Revoker};
use crate::realtime::saved_sessions::StoreKeeper;
use crate::realtime::secrets::Secrets;
use crate::realtime::session::Sessions;
use crate::realtime::user_rate::UserRates;
use crate::refusals::Refusals;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Dispatch, Store, StoreControl};

/// The parts that the composition root keeps.
pub(super) struct Started {
    pub(super) server: Server,
    pub(super) store: Arc<dyn StoreControl>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) publishers: Arc<Publishers>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) emitters: Option<Emitters>,
}

/// Makes the parts, joins them, and starts the engine.
pub(super) fn start(
    settings: &Settings,
    keep: Keep,
    runtime: &Runtime,
    listener: TcpListener,
    metrics: &Arc<Metrics>,
    certificate: Option<&Certificate>,
) -> anyhow::Result<Started> {
    let builder = Server::builder(engine_config(settings, capacity_that_fits(settings)?));
    let handle = builder.handle();
    let revocations = Arc::<Revocations>::default();
    let refusals = Arc::new(Refusals::new(Arc::clone(metrics)));
    let sessions = sessions(settings, runtime, &handle, &revocations, &refusals, metrics)?;
    let inboxes = Arc::<Inboxes>::default();
    let enforcer = Arc::new(Enforcer { revocations, sessions: Arc::clone(&sessions), handle: handle.clone() });
    // Without other nodes, nothing is sealed.
    let secrets = Arc::new(Secrets::new(&settings.cluster_key("sessions").unwrap_or_default()));
    let dispatch = Arc::new(EngineDispatch::new(Arc::clone(&enforcer), Arc::clone(&inboxes), Arc::clone(&secrets)));
    let node = Node::listen(settings, keep, runtime)?;
    let controlled = open_store(settings, keep, dispatch, metrics, (&handle, node.as_ref()))?;
    controlled.set_rules(settings.rules_digest());
    let store: Arc<dyn Store> = Arc::<dyn StoreControl>::clone(&controlled);
    inboxes.use_store(&store);
    if let Some(node) = &node {
        sessions.interest.use_store(&store, node.tag);
    }
    runtime.spawn(Arc::clone(&sessions.interest).keep_tidy());
    let kept = runtime.block_on(store.revocations()).context("read the revocations")?;
    enforcer.revocations.replace(&kept);
    let revoker = Arc::new(Revoker::new(
        Arc::<dyn StoreControl>::clone(&controlled),
        enforcer,
        settings.jwt_max_lifetime,
        settings.jwt_leeway,
    ));
    let publishers = Arc::new(Publishers::new(settings.publisher_credentials(), Arc::clone(&sessions.verifier)));
    let executor = Executor::new(Arc::clone(&store), Arc::clone(metrics));
    let app = App {
        executor: executor.clone(),
        revoker,
        publishers: Arc::clone(&publishers),
        registry: scrape::registry(metrics, handle.clone(), Arc::clone(&store)),
        bodies: Bodies::new(body_limits(settings), Arc::clone(metrics)),
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
    let noted = Arc::clone(&refusals);
    let builder = builder
        .recovery(recovery(settings, &*controlled, &store, (&sessions, &secrets)))
        .observe_rooms(Arc::<Interest>::clone(&sessions.interest))
        .fallback(Api::new(Arc::new(app), options))
        .on_refusal(move |client| noted.note_client(client));
    let builder = namespaces::all(&sessions, &inboxes, &store).into_iter().fold(builder, ServerBuilder::namespace);
    let builder = match certificate {
        Some(certificate) => builder.tls(certificate.tls()),
        None => builder,
    };
    let builder = match node {
        Some(node) => builder.cluster(node.cluster(settings, &controlled)?),
        None => builder,
    };
    let server = builder.start(listener).context("start the server")?;
    let start = |options| Emitters::start(options, executor, metrics).context("start the thread for emitters");
    let emitters = emitter_options(settings).filter(|_| keep == Keep::Redis).map(start).transpose()?;
    Ok(Started { server, store: controlled, sessions, publishers, refusals, emitters })
}

/// This server as a node of a cluster.
struct Node {
    tag: NodeTag,
    listener: TcpListener,
    /// Where other nodes reach the listener, if they do.
    address: Option<String>,
}

impl Node {
    /// Listens for other nodes, if there may be some.
    fn listen(settings: &Settings, keep: Keep, runtime: &Runtime) -> anyhow::Result<Option<Self>> {
        if keep != Keep::Redis {
            return Ok(None);
        }
        let (listener, address) = listen_for_nodes(runtime, settings)?;
        Ok(Some(Self { tag: NodeTag::random(), listener, address }))
    }

    /// The engine's part of it.
    fn cluster(self, settings: &Settings, store: &Arc<dyn StoreControl>) -> anyhow::Result<Cluster> {
        let secret = settings.cluster_key("requests between nodes").context("CLUSTER_SECRET is empty")?;
        // Weak, since the store dispatches to the sockets.
        let store = Arc::downgrade(store);
        let address_of = move |tag: NodeTag| store.upgrade()?.address_of_node(tag.get());
        Ok(Cluster::new(self.tag, &secret, self.listener, address_of))
    }
}

fn open_store(
    settings: &Settings,
    keep: Keep,
    dispatch: Arc<dyn Dispatch>,
    metrics: &Arc<Metrics>,
    (handle, node): (&Handle, Option<&Node>),
) -> anyhow::Result<Arc<dyn StoreControl>> {
    Ok(match keep {
        Keep::Folder => Arc::new(SqliteStore::open(&store_options(settings), dispatch, Arc::clone(metrics))?),
        Keep::Memory => Arc::new(MemoryStore::new(bounds(settings), dispatch, metrics)),
        Keep::Redis => {
            let options = node.and_then(|node| redis_options(settings, handle, node.tag, node.address.clone()));
            let options = options.context("REDIS_URL or CLUSTER_SECRET is empty")?;
            let opened = RedisStore::open(&options, dispatch, Arc::clone(metrics));
            Arc::new(opened.with_context(|| format!("use the Redis of REDIS_URL, {}", options.target))?)
        }
    })
}

/// The state shared by all sessions. When keys are removed, the identity of every socket is checked again.
fn sessions(
    settings: &Settings,
    runtime: &Runtime,
    handle: &Handle,
    revocations: &Arc<Revocations>,
    refusals: &Arc<Refusals>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<Sessions>> {
    let (verifier, jwks) = verifier(settings, runtime, metrics)?;
    let sessions = Arc::new(Sessions {
        verifier: Arc::new(verifier.with_revocations(Arc::clone(revocations))),
        policy: HotSwap::new(settings.policy()),
        changes: AtomicU64::new(0),
        metrics: Arc::clone(metrics),
        refusals: Arc::clone(refusals),
        expiry_notice: settings.token_expiring_notice,
        auth_failure_limit: settings.auth_failure_limit,
        max_rooms_per_socket: settings.max_rooms_per_socket,
        user_rates: UserRates::new(settings.event_rate_per_user),
        interest: Arc::default(),
        owners: Arc::new(NewOwners::new(settings.recovery + settings.ping_interval + settings.ping_timeout)),
    });
    let (handle, shared) = (handle.clone(), Arc::clone(&sessions));
    sessions.verifier.when_keys_leave(move || {
        shared.changed();
        check_identities(&handle, &shared);
    });
    jwks.into_iter().for_each(|jwks| drop(runtime.spawn(jwks.keep_fresh())));
    Ok(sessions)
}

fn body_limits(settings: &Settings) -> BodyLimits {
    BodyLimits {
        bytes: settings.max_payload_bytes,
        time: settings.body_timeout,
        unfinished: settings.max_unfinished_bytes,
    }
}

/// The token verifier, with the issuer's keys if they can be fetched now. The caller must keep those keys fresh.
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
        // Otherwise every token would be refused, and clients would conclude that their tokens are bad.
        fetched.context("fetch the keys of JWKS_URL, without which no token can be verified")?;
    }
    Ok((verifier.with_jwks(Arc::clone(&jwks)), Some(jwks)))
}

/// The options for recovery. Offsets are the store's numbers even without recovery: the inbox depends on them too.
fn recovery(
    settings: &Settings,
    controlled: &dyn StoreControl,
    store: &Arc<dyn Store>,
    (sessions, secrets): (&Arc<Sessions>, &Arc<Secrets>),
) -> Recovery {
    let (interest, owners) = (Arc::clone(&sessions.interest), Arc::clone(&sessions.owners));
    let keeper = StoreKeeper::new(Arc::clone(store), (interest, owners), Arc::clone(secrets), settings.recovery);
    Recovery {
        window: settings.recovery,
        after: Some(store.boot_seq().saturating_sub(1).into()),
        id_key: Some(controlled.socket_id_key()),
        keeper: (!settings.recovery.is_zero()).then(|| Arc::new(keeper) as Arc<dyn SessionKeeper>),
        ..Recovery::default()
    }
}
