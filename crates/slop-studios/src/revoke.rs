//! Revocation: the one executor of it. What is answered with success is committed, known to the verifier, and carried out on
//! every socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socketio_server::{Handle, Socket};
use tokio::sync::oneshot;

use crate::clock::Moment;
use crate::identity::Revocations;
use crate::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::rooms;
use crate::session::Sessions;
use crate::store::{Revocation, Revoked, Store, StoreError};

/// Revokes tokens.
#[derive(Debug)]
pub(crate) struct Revoker {
    store: Arc<dyn Store>,
    revocations: Arc<Revocations>,
    sessions: Arc<Sessions>,
    handle: Handle,
    /// The longest that any token lives after its issue.
    max_lifetime: Duration,
    /// How long a token is accepted after its `exp`.
    leeway: Duration,
}

/// A revocation that is in force.
#[derive(Debug)]
pub(crate) struct Enforced {
    pub(crate) at: Moment,
    pub(crate) until: Moment,
    /// Sockets that lost their identity.
    pub(crate) sockets: u64,
}

impl Revoker {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        revocations: Arc<Revocations>,
        sessions: Arc<Sessions>,
        handle: Handle,
        max_lifetime: Duration,
        leeway: Duration,
    ) -> Self {
        Self { store, revocations, sessions, handle, max_lifetime, leeway }
    }

    /// Revokes all tokens of a user that were issued before now.
    ///
    /// # Errors
    /// If it could not be committed. Nothing happened.
    pub(crate) async fn user(self: &Arc<Self>, user_id: &str) -> Result<Enforced, StoreError> {
        let at = Moment::now();
        let until = at.after(self.max_lifetime);
        self.revoke(Revocation { subject: Revoked::User(user_id.into()), at, until }).await
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
        let at = Moment::now();
        let longest = at.after(self.max_lifetime);
        let until = expires_at.map_or(longest, |end| end.after(self.leeway).min(longest));
        self.revoke(Revocation { subject: Revoked::Token(token_id.into()), at, until }).await
    }

    /// Whether a token with this `exp` is accepted no more, so that there is nothing to revoke.
    pub(crate) fn is_over(&self, expires_at: Moment) -> bool {
        expires_at.after(self.leeway) <= Moment::now()
    }

    /// In a task of its own: if whoever asked hangs up, what was committed has to come into force all the same.
    async fn revoke(self: &Arc<Self>, revocation: Revocation) -> Result<Enforced, StoreError> {
        let revoker = Arc::clone(self);
        let done = tokio::spawn(async move { revoker.carry_out(revocation).await });
        done.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string().into())))
    }

    async fn carry_out(&self, revocation: Revocation) -> Result<Enforced, StoreError> {
        self.store.revoke(revocation.clone()).await?;
        // From here on nobody gets in; who was in before is found below, since a shard checks a token and makes the socket
        // in one go.
        self.revocations.add(&revocation);
        let Revocation { subject, at, until } = revocation;
        let sockets = self.take_identities(&subject).await;
        tracing::info!(
            kind = match subject {
                Revoked::User(_) => "user",
                Revoked::Token(_) => "token",
            },
            sockets,
            "revoked"
        );
        Ok(Enforced { at, until, sockets })
    }

    /// Makes all sockets anonymous whose tokens are revoked, and waits until every shard has.
    async fn take_identities(&self, subject: &Revoked) -> u64 {
        let sockets = Arc::new(AtomicU64::new(0));
        let (done, is_done) = oneshot::channel::<()>();
        // The shards share the job: with the last one that has carried it out, the sender goes.
        let done = Arc::new(done);
        for namespace in [DEFAULT, MEDIA, NOTIFICATIONS] {
            let (sessions, sockets, done) = (Arc::clone(&self.sessions), Arc::clone(&sockets), Arc::clone(&done));
            let job = move |socket: &Socket| {
                let _until_the_last = &done;
                if sessions.check_revoked(socket) {
                    sockets.fetch_add(1, Ordering::Relaxed);
                }
            };
            match subject {
                Revoked::User(user_id) => self.handle.for_each_in_room(namespace, &rooms::user_room(user_id), job),
                // Who has which token is not indexed: it would cost every connection, for what is rare.
                Revoked::Token(_) => self.handle.for_each(namespace, job),
            }
        }
        drop(done);
        // It is dropped, never sent.
        let _ = is_done.await;
        sockets.load(Ordering::Relaxed)
    }
}
