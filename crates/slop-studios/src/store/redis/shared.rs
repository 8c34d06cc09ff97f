//! What the thread shares with the store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::super::availability::Availability;
use super::super::{SessionKey, StoreError, Usage};
use super::answer::{Answer, Reply};
use super::lease::Lease;
use super::unsaved::Unsaved;
use crate::metrics::Metrics;

/// The number of awaited sessions at which those are forgotten whose clients have gone.
const MANY_AWAITED: usize = 1_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The number of requests that wait, and their bytes.
    pub(super) queued: AtomicUsize,
    pub(super) queued_bytes: AtomicUsize,
    /// The stored amounts as of the last look at them.
    pub(super) usage: Mutex<Usage>,
    pub(super) availability: Availability,
    unsaved: Mutex<Unsaved>,
    /// Whether Redis keeps what is to be stored.
    pub(super) is_kept: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lease: Lease,
    /// The sessions that other nodes were asked for.
    awaited: Mutex<HashMap<String, oneshot::Sender<()>>>,
    /// The digest of the rules by which this node decides.
    rules: Mutex<String>,
    /// The addresses of the running nodes, by their tags.
    nodes: Mutex<HashMap<u32, Arc<str>>>,
}

impl Shared {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    pub(super) fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        // No code under this lock panics half way.
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, HashMap<u32, Arc<str>>> {
        // No code under this lock panics half way.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when another node has handed over a session, or a later claim of it waits.
    pub(super) fn when_given(&self, session: &str) -> oneshot::Receiver<()> {
        let (given, is_given) = oneshot::channel();
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if awaited.len() >= MANY_AWAITED {
            awaited.retain(|_, waiting| !waiting.is_closed());
        }
        awaited.insert(session.to_owned(), given);
        is_given
    }

    /// Records that another node has handed over a session, or that nobody waits any more.
    pub(super) fn given(&self, session: &str) {
        let given = self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(session);
        if let Some(given) = given {
            // Without a receiver, it was claimed without it.
            let _ = given.send(());
        }
    }

    pub(super) fn set_rules(&self, digest: String) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = digest;
    }

    pub(super) fn rules(&self) -> String {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the answer to the renewal of the lease that was asked for at this time.
    pub(super) fn renewed(&self, asked_at: u64, mut answer: Answer) -> Result<(), StoreError> {
        let version = answer.number()?;
        let (mut running, mut rules) = (HashMap::new(), HashSet::new());
        let rows = answer.rows()?;
        let number = rows.len();
        for mut node in rows {
            let (tag, address) = (node.text()?, node.text()?);
            rules.insert(node.text()?);
            // A node may be without an address, or of another version.
            if let (Ok(tag), false) = (tag.parse(), address.is_empty()) {
                running.insert(tag, address.into());
            }
        }
        *self.nodes() = running;
        self.lease.renew(asked_at, version);
        self.metrics.cluster.nodes.set(number as i64);
        // A node that has just started has none yet.
        rules.remove("");
        if self.metrics.cluster.rules.set(rules.len() as i64) != rules.len() as i64 && rules.len() > 1 {
            tracing::warn!("the nodes decide by different rules or secrets: compare their configurations");
        }
        self.metrics.cluster.lease.set(i64::from(self.lease.is_valid()));
        Ok(())
    }

    /// Records that the last batch was carried out.
    pub(super) fn available(&self) {
        if self.availability.since().is_none() {
            self.availability.committed();
        }
        self.metrics.store_writable.set(1);
    }

    /// Records that nothing can be carried out now.
    pub(super) fn unavailable(&self) {
        self.availability.failed();
        self.metrics.store_writable.set(0);
        self.metrics.store_commit_failed();
        self.metrics.cluster.lease.set(i64::from(self.lease.is_valid()));
    }

    /// Counts a request that waits.
    pub(super) fn note_queued(&self, bytes: usize) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes the confirmation of a session's changes.
    pub(super) fn when_saved(self: &Arc<Self>, key: SessionKey, number: u64) -> Reply {
        let shared = Arc::clone(self);
        Box::new(move |answer, _| match answer.and_then(Answer::done) {
            Ok(_) => shared.unsaved().confirmed(&key, number),
            Err(_) => shared.unsaved().refused(),
        })
    }
}
