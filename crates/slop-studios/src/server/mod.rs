//! The composition root: makes the parts, joins them, and ends them in order.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::Builder;
use tokio::time::interval;

mod checks;
mod listener;
pub mod logging;
mod memory;
mod open_files;
mod options;
mod parts;
pub(crate) mod reload;
mod reloadable;
mod signals;
mod stop;

use self::memory::HeapTrim;
pub(crate) use self::options::{Keep, store_options};
use self::parts::{Started, start};
use self::reload::Reload;
use self::reloadable::reloadable;
use self::signals::{HangUp, StopSignals};
pub(crate) use self::stop::Stopped;
use self::stop::end;
use crate::config::Settings;
use crate::config::certificate::Certificate;
use crate::metrics::Metrics;
use crate::publish::watchdog::Watchdog;
use crate::store::Store;

/// Serves until SIGTERM or SIGINT, then drains. `on_listening` is called once, when connections are accepted. With
/// `load`, SIGHUP reads the settings and the certificate again. Without it, SIGHUP ends the process, as is the system's
/// default.
///
/// # Errors
/// If the server can't listen on the address, or the system provides no threads.
pub(crate) fn run(
    settings: Settings,
    keep: Keep,
    load: Option<reload::Load>,
    on_listening: impl FnOnce(SocketAddr),
) -> anyhow::Result<Stopped> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start the main thread's runtime")?;
    // Before the server announces that it listens, so that no signal ends it without a drain.
    let mut stop = StopSignals::new(&runtime).context("listen for signals")?;
    let mut hang_up = HangUp::new(&runtime, load.is_some()).context("listen for SIGHUP")?;
    let metrics = Arc::new(Metrics::default());
    let certificate = settings.tls().map(|files| Certificate::load(&files, Arc::clone(&metrics))).transpose()?;
    let listener = listener::listen(&runtime, &settings)?;
    let started = start(&settings, keep, &runtime, listener, &metrics, certificate.as_ref())?;
    let reload = load.map(|load| reloadable(load, &started, certificate));
    let Started { server, store, refusals, emitters, .. } = started;
    say_started(&settings, keep, server.local_addr());
    on_listening(server.local_addr());

    let signal = runtime.block_on(async {
        let mut trim = HeapTrim::default();
        let mut ticks = interval(memory::INTERVAL);
        let mut watching = pin!(watch(&settings, Arc::clone(&store) as Arc<dyn Store>, metrics));
        loop {
            tokio::select! {
                biased;
                signal = stop.received() => break signal,
                () = hang_up.received() => reload.iter().for_each(Reload::run),
                _ = ticks.tick() => {
                    trim.observe(server.handle().metrics().connections);
                    refusals.tell_due();
                }
                never = &mut watching => match never {},
            }
        }
    });
    tracing::info!(signal = signal.name, grace_ms = settings.shutdown_grace.as_millis() as u64, "draining");
    let stopped = runtime.block_on(end(server, emitters, store, &mut stop, settings.shutdown_grace));
    refusals.tell_rest();
    // Not by a drop, which would wait for a name resolution in progress.
    runtime.shutdown_background();
    stopped
}

/// Ends media items without news, if the settings ask for it.
async fn watch(settings: &Settings, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Infallible {
    if settings.media_stall.is_zero() {
        return pending().await;
    }
    Watchdog::new(store, metrics, settings.media_stall).run().await
}

/// Logs the start: the version, the address, the folder, and the numbers of rules, keys and secrets that control
/// access.
fn say_started(settings: &Settings, keep: Keep, address: SocketAddr) {
    let folder = std::path::absolute(&settings.data_dir).unwrap_or_else(|_unknown| settings.data_dir.clone());
    let is_in_folder = keep == Keep::Folder;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        url = format!("{}://{address}", settings.scheme()),
        base_path = Some(settings.base_path.as_str()).filter(|path| !path.is_empty()),
        store = keep.as_str(),
        data_dir = is_in_folder.then(|| display(folder.display())),
        store_sync = is_in_folder.then(|| settings.store_sync.as_str()),
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
