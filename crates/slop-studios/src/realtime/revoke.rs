//! The one executor of revocations. A revocation that is answered with success is committed, known to the verifier, and
//! applied to every socket. The undoing of one is committed and known to the verifier; it gives no socket an identity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socketio_server::{Handle, Socket};
use tokio::sync::{RwLock, oneshot};

use crate::contract::auth_error::AuthError;
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms;
use crate::contract::time::Moment;
use crate::identity::Revocations;
use crate::metrics::Limit;
use crate::realtime::session::Sessions;
use crate::store::{self, Revocation, RevocationChange, RevocationStore, Revoked, RevokedTokens, StoreError};

/// Revokes tokens.
#[derive(Debug)]
pub(crate) struct Revoker {
    store: Arc<dyn RevocationStore>,
    enforcer: Arc<Enforcer>,
    /// The longest lifetime of a token after its issue.
    max_lifetime: Duration,
    /// How long a token is accepted after its `exp`.
    leeway: Duration,
    /// Locked for reading by a revocation, and for writing by the undoing of one: for each subject, the store and the
    /// memory must see both in the same order.
    order: RwLock<()>,
}

/// A revocation that is in force.
#[derive(Debug)]
pub(crate) struct Enforced {
    pub(crate) at: Moment,
    /// Time until which the revocation is kept at least.
    pub(crate) until: Moment,
    /// Number of sockets that lost their identity.
    pub(crate) sockets: u64,
}

impl Revoker {
    pub(crate) fn new(
        store: Arc<dyn RevocationStore>,
        enforcer: Arc<Enforcer>,
        max_lifetime: Duration,
        leeway: Duration,
    ) -> Self {
        Self { store, enforcer, max_lifetime, leeway, order: RwLock::default() }
    }

    /// Revokes all tokens of a user that were issued before now.
    ///
    /// # Errors
    /// If it could not be committed. Nothing happened.
    pub(crate) async fn user(self: &Arc<Self>, user_id: &str) -> Result<Enforced, StoreError> {
        self.revoke(Revocation { subject: Revoked::User(user_id.into()), at: Moment::now(), expires_at: None }).await
    }

    /// Revokes the token with this `jti`, whose `exp` is `expires_at` if that is known.
    ///
    /// # Errors
    /// If it could not be committed. Nothing happened.
    pub(crate) async fn token(
        self: &Arc<Self>,
        token_id: &str,
        expires_at: Option<Moment>,
    ) -> Result<Enforced, StoreError> {
        self.revoke(Revocation { subject: Revoked::Token(token_id.into()), at: Moment::now(), expires_at }).await
    }

    /// Undoes the revocation of this subject. Its tokens are valid again, unless another check refuses them. Returns
    /// the revocation, if one was kept.
    ///
    /// # Errors
    /// If it could not be committed. Nothing happened.
    pub(crate) async fn undo(self: &Arc<Self>, subject: Revoked) -> Result<Option<Revocation>, StoreError> {
        let revoker = Arc::clone(self);
        in_its_own_task(async move {
            let _alone = revoker.order.write().await;
            let undone = revoker.store.undo_revocation(subject.clone()).await?;
            if undone.is_some() {
                revoker.enforcer.revocations.undo(&subject);
                tracing::info!(kind = kind(&subject), "a revocation was undone");
            }
            Ok(undone)
        })
        .await
    }

    /// Whether a token with this `exp` is no longer accepted, so that there is nothing to revoke.
    pub(crate) fn is_over(&self, expires_at: Moment) -> bool {
        expires_at.after(self.leeway) <= Moment::now()
    }

    async fn revoke(self: &Arc<Self>, revocation: Revocation) -> Result<Enforced, StoreError> {
        let revoker = Arc::clone(self);
        in_its_own_task(async move { revoker.carry_out(revocation).await }).await
    }

    async fn carry_out(&self, revocation: Revocation) -> Result<Enforced, StoreError> {
        let metrics = &self.enforcer.sessions.metrics;
        let RevokedTokens { evicted, sockets } = {
            let _with_others = self.order.read().await;
            let revoked = self.store.revoke(revocation.clone()).await.inspect_err(|error| {
                if *error == StoreError::TooManyRevocations {
                    metrics.limit_met(Limit::Revocations);
                }
            })?;
            self.enforcer.add(&revocation, &revoked.evicted);
            revoked
        };
        if !evicted.list.is_empty() {
            metrics.limit_met(Limit::Revocations);
        }
        if let Some(issued) = evicted.floors.issued {
            let issued = issued.to_string();
            tracing::info!(
                issued,
                "revocations had to leave: tokens that were issued before, or don't say when, have ended"
            );
        }
        let Revocation { subject, at, expires_at } = revocation;
        let sockets = sockets + self.enforcer.take_identities(Some(&subject), &evicted).await;
        tracing::info!(kind = kind(&subject), sockets, "revoked");
        let longest = at.after(self.max_lifetime);
        let until = expires_at.map_or(longest, |end| end.after(self.leeway).min(longest));
        Ok(Enforced { at, until, sockets })
    }
}

/// Enforces revocations on this node.
#[derive(Debug)]
pub(crate) struct Enforcer {
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) handle: Handle,
}

impl Enforcer {
    /// Enforces a change of the stored revocations, and returns the number of sockets that have lost their identities.
    pub(crate) async fn enforce(&self, change: RevocationChange) -> u64 {
        match change {
            RevocationChange::Added(revocation, evicted) => {
                self.add(&revocation, &evicted);
                self.take_identities(Some(&revocation.subject), &evicted).await
            }
            RevocationChange::Undone(subject) => {
                self.revocations.undo(&subject);
                0
            }
            RevocationChange::All(all) => {
                self.revocations.replace(&all);
                self.take_identities(None, &all).await
            }
        }
    }

    /// From here on, no revoked token is admitted. Sockets that were admitted before are found by
    /// [`take_identities`](Self::take_identities), because a shard checks a token and creates the socket in one step.
    fn add(&self, revocation: &Revocation, evicted: &store::Revocations) {
        self.revocations.add(revocation);
        self.revocations.forget(evicted);
    }

    /// Makes all sockets with revoked tokens anonymous, and waits until every shard has done so. With a subject and no
    /// floor among the evicted revocations, only its tokens are newly revoked.
    async fn take_identities(&self, subject: Option<&Revoked>, evicted: &store::Revocations) -> u64 {
        let sockets = Arc::new(AtomicU64::new(0));
        let (done, is_done) = oneshot::channel::<()>();
        // The shards share the job. The sender is dropped when the last shard has finished it.
        let done = Arc::new(done);
        for namespace in [DEFAULT, MEDIA, NOTIFICATIONS] {
            let (sessions, sockets, done) = (Arc::clone(&self.sessions), Arc::clone(&sockets), Arc::clone(&done));
            let job = move |socket: &Socket| {
                let _until_the_last = &done;
                if sessions.check_identity(socket) == Some(AuthError::Revoked) {
                    sockets.fetch_add(1, Ordering::Relaxed);
                }
            };
            match subject {
                Some(Revoked::User(user_id)) if evicted.floors.issued.is_none() => {
                    self.handle.for_each_in_room(namespace, &rooms::user_room(user_id), job);
                }
                // There is no index from tokens to sockets: it would cost every connection, for a rare operation.
                _ => self.handle.for_each(namespace, job),
            }
        }
        drop(done);
        // The sender is dropped and never sends.
        let _ = is_done.await;
        sockets.load(Ordering::Relaxed)
    }
}

/// Runs `work` in its own task: a committed change must come into force even if the caller disconnects.
async fn in_its_own_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string().into())))
}

/// The subject's kind, for the log.
fn kind(subject: &Revoked) -> &'static str {
    match subject {
        Revoked::User(_) => "user",
        Revoked::Token(_) => "token",
    }
}
