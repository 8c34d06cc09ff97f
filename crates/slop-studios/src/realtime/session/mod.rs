//! A socket's session: its identity, and the memberships that the identity permits. One rule holds throughout: after a
//! change of the identity, every room and subscription that the new identity may not have is left before anything else
//! is sent.

use std::collections::BTreeMap;
use std::mem::replace;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use socketio_server::{ConnectError, EventArgs, Position, Socket};
use tokio::time::Instant;

use crate::contract::auth_error::AuthError;
use crate::contract::events::{Authenticated, Message, TokenExpiring, server};
use crate::contract::rooms;
use crate::contract::time::Moment;
use crate::hot_swap::HotSwap;
use crate::identity::{Flaw, Identity, TokenVerifier};
use crate::limits::EXPIRY_RECHECK;
use crate::metrics::Reason;
use crate::metrics::{Limit, Metrics};
use crate::policy::Policy;
use crate::realtime::inbox::progress::Progress;
use crate::realtime::interest::{HeldRoom, Interest};
use crate::realtime::owners::NewOwners;
use crate::realtime::user_rate::{UserRate, UserRates};
use crate::refusals::Refusals;

mod memberships;
mod offered;
mod saved;

pub(crate) use memberships::Denied;
use offered::{handshake_token, names_session, offered_token, token_of};
pub(crate) use saved::SavedState;

/// The text of a refusal because other nodes can't be heard now.
pub(crate) const UNAVAILABLE: &str = "Temporarily unavailable";

/// The text of every refusal by policy.
pub(crate) const NOT_ALLOWED: &str = "Not allowed";

/// Why `authenticate` failed. The text is for the ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAuthenticated {
    #[error(transparent)]
    Refused(#[from] AuthError),
    /// The token is good, but the user's events can't be heard now.
    #[error("{UNAVAILABLE}")]
    Unavailable,
}

/// The state shared by all sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) verifier: Arc<TokenVerifier>,
    pub(crate) policy: HotSwap<Policy>,
    /// Number of changes of keys or rules.
    pub(crate) changes: AtomicU64,
    pub(crate) metrics: Arc<Metrics>,
    /// Records every refused token.
    pub(crate) refusals: Arc<Refusals>,
    /// How long before the end of its token a client is notified; zero for never.
    pub(crate) expiry_notice: Duration,
    /// Consecutive failed authentications after which a connection is closed.
    pub(crate) auth_failure_limit: u32,
    /// Maximum number of rooms and subscriptions of a socket, without its own rooms.
    pub(crate) max_rooms_per_socket: usize,
    pub(crate) user_rates: UserRates,
    /// The rooms whose events are dispatched here.
    pub(crate) interest: Arc<Interest>,
    /// Owners that became known while clients may have been away.
    pub(crate) owners: Arc<NewOwners>,
}

/// The state kept with a socket. A socket that only listens has none: an idle anonymous connection costs nothing here.
#[derive(Debug, Default)]
struct Session {
    identity: Option<Rc<Identity>>,
    /// The outcome of the handshake's token, until it has been sent to the client.
    handshake: Option<Result<(), AuthError>>,
    /// Failed authentications that were restored with the session; the connection counts the new ones.
    auth_failures: u32,
    /// Why the socket has no identity, until the client is known to have received the reason.
    unconfirmed_error: Option<Rc<AuthError>>,
    /// The number of changes of keys and rules at the last check of the socket's identity and memberships.
    checked: u64,
    /// Whether the client was sent the notice that its token is about to end.
    expiry_noticed: bool,
    /// Number of custom rooms and subscriptions of the socket.
    memberships: usize,
    /// The subscribed media items, and their owners as far as this shard knows them.
    subscriptions: BTreeMap<Box<str>, Option<Arc<str>>>,
    /// The socket's progress through its user's inbox.
    inbox: Progress,
    /// Has the events for the socket's id dispatched here, if another node made the id.
    own_room: Option<HeldRoom>,
    /// The recent event rate of its user. `None` if the socket has sent no event.
    rate: Option<Arc<UserRate>>,
}

/// Calls `f` with the socket's session, which is created if there is none. The calls must not nest.
fn with_session<R: Default>(socket: &Socket, f: impl FnOnce(&mut Session) -> R) -> R {
    if socket.with_data(|_: &mut Session| ()).is_none() {
        socket.set_data(Session::default());
    }
    socket.with_data(f).unwrap_or_default()
}

/// The socket's identity.
pub(crate) fn identity(socket: &Socket) -> Option<Rc<Identity>> {
    socket.with_data(|session: &mut Session| session.identity.clone()).flatten()
}

/// Sends one of the contract's events.
pub(crate) fn send(socket: &Socket, event: &'static str, payload: &impl Serialize) {
    if let Err(error) = socket.emit(event, payload) {
        tracing::error!(event, %error, "encode an event");
    }
}

/// Sends one of the contract's events with arguments that are already encoded.
pub(crate) fn send_args(socket: &Socket, event: &'static str, args: &EventArgs) {
    if let Err(error) = socket.emit_args(event, args) {
        tracing::error!(event, %error, "encode an event");
    }
}

/// Sends one of the contract's events to this user only: a session that is recovered as another user, or as anonymous,
/// does not get it again.
pub(crate) fn send_to_user(socket: &Socket, user_id: &str, event: &'static str, payload: &impl Serialize) {
    let sent = EventArgs::new(payload).and_then(|args| socket.emit_args_in(&rooms::user_room(user_id), event, &args));
    if let Err(error) = sent {
        tracing::error!(event, %error, "encode an event");
    }
}

impl Sessions {
    /// Verifies a token. The identity has the claims that the rules in force name.
    ///
    /// # Errors
    /// Why the token is refused.
    pub(crate) fn verify(&self, token: &str) -> Result<Identity, Flaw> {
        let mut identity = self.verifier.examine(token)?;
        identity.claims = self.policy.get().claims().of_verified_token(token);
        Ok(identity)
    }

    /// Returns a future to wait for before the handshake is processed, if the key of its token may not be known yet, or
    /// the user's events are not heard yet. The first also applies to the token of the session that the client recovers.
    pub(crate) fn before_connect(
        self: &Arc<Self>,
        namespace: &'static str,
        auth: Option<&RawValue>,
        headers: Option<&HeaderMap>,
    ) -> Option<BoxFuture<'static, ()>> {
        let token = || handshake_token(auth, || headers?.get(AUTHORIZATION)).ok();
        let key = self.verifier.fetch_unknown_key(token);
        let key = key.or_else(|| names_session(auth).then(|| self.verifier.first_keys()).flatten());
        self.before_identity(namespace, key, token)
    }

    /// The same for the token of `authenticate`.
    pub(crate) fn before_authenticate(
        self: &Arc<Self>,
        namespace: &'static str,
        payload: Option<&RawValue>,
    ) -> Option<BoxFuture<'static, ()>> {
        let token = || token_of(payload).ok();
        self.before_identity(namespace, self.verifier.fetch_unknown_key(token), token)
    }

    /// Waits for a key, then has the events of the token's user heard here.
    fn before_identity(
        self: &Arc<Self>,
        namespace: &'static str,
        key: Option<BoxFuture<'static, ()>>,
        token: impl FnOnce() -> Option<String>,
    ) -> Option<BoxFuture<'static, ()>> {
        let Some(token) = self.interest.is_needed().then(token).flatten() else { return key };
        let sessions = Arc::clone(self);
        Some(Box::pin(async move {
            if let Some(key) = key {
                key.await;
            }
            let Ok(identity) = sessions.verify(&token) else { return };
            if let Some(entered) = sessions.interest.enter(namespace, &rooms::user_room(&identity.user_id))
                && let Err(error) = entered.await
            {
                tracing::debug!(%error, namespace, "hear a user's events");
            }
        }))
    }

    /// Verifies the handshake's token, before the client gets the answer to its CONNECT.
    ///
    /// # Errors
    /// If a token is required and there is no valid one.
    pub(crate) fn admit(&self, socket: &Socket, auth: Option<&RawValue>) -> Result<(), ConnectError> {
        let verified = offered_token(socket, auth).and_then(|token| self.verify(&token));
        let outcome = verified.as_ref().map(|_| ()).map_err(Flaw::error);
        if outcome != Err(AuthError::Required) {
            self.metrics.authenticated(socket.namespace(), outcome);
        }
        if let Ok(identity) = &verified
            && !self.interest.hears_user(socket.namespace(), &identity.user_id)
        {
            return Err(ConnectError::temporary());
        }
        let is_required = self.policy.get().auth_required();
        match &verified {
            Err(Flaw::Missing) if is_required => self.note_refused(socket, "connect", &Flaw::Missing, "AUTH_REQUIRED"),
            Ok(_) | Err(Flaw::Missing) => {}
            Err(flaw) => self.note_refused(socket, "connect", flaw, flaw.setting()),
        }
        match outcome {
            Ok(()) => socket.set_strikes(0),
            Err(AuthError::Required) => {}
            Err(_) => strike(socket),
        }
        if is_required && outcome.is_err() {
            self.enforce_failure_limit(socket);
            return Err(ConnectError::new("Unauthorized").with_data(&json!({"code": "UNAUTHORIZED"})));
        }
        match verified {
            // No token was offered: the socket is anonymous, and there is nothing to report.
            Err(Flaw::Missing) => {}
            Err(flaw) => with_session(socket, |session| session.handshake = Some(Err(flaw.error()))),
            Ok(identity) => with_session(socket, |session| {
                session.identity = Some(Rc::new(identity));
                session.handshake = Some(Ok(()));
            }),
        }
        Ok(())
    }

    /// Tells a newly connected client the outcome of its token, and adds it to its user's room.
    pub(crate) fn begin(&self, socket: &Socket) {
        let handshake = socket.with_data(|session: &mut Session| session.handshake.take()).flatten();
        match handshake {
            None => {}
            Some(Err(error)) => {
                send_auth_error(socket, error);
                self.enforce_failure_limit(socket);
            }
            Some(Ok(())) => {
                self.enter(socket);
                send_authenticated(socket);
            }
        }
    }

    /// Verifies the token of `authenticate`, takes on its identity, and sends the outcome as an event.
    ///
    /// # Errors
    /// Why the token was refused; the socket keeps its previous identity.
    pub(crate) fn authenticate(&self, socket: &Socket, payload: Option<&RawValue>) -> Result<String, NotAuthenticated> {
        let verified = token_of(payload).and_then(|token| self.verify(&token));
        if let Ok(identity) = &verified
            && !self.interest.hears_user(socket.namespace(), &identity.user_id)
        {
            return Err(NotAuthenticated::Unavailable);
        }
        self.metrics.authenticated(socket.namespace(), verified.as_ref().map(|_| ()).map_err(Flaw::error));
        match verified {
            Ok(identity) => {
                let user_id = identity.user_id.clone();
                socket.set_strikes(0);
                self.become_user(socket, Some(identity));
                send_authenticated(socket);
                Ok(user_id)
            }
            Err(flaw) => {
                strike(socket);
                self.note_refused(socket, "authenticate", &flaw, flaw.setting());
                send_auth_error(socket, flaw.error());
                Err(flaw.error().into())
            }
        }
    }

    /// Reports a refused token and its purpose to the operator.
    fn note_refused(&self, socket: &Socket, asked: &str, flaw: &Flaw, setting: impl Into<Option<&'static str>>) {
        let detail = format!("{asked} to {}: {flaw}", socket.namespace());
        self.refusals.note(Reason::from(flaw), socket.remote_addr(), &detail, setting);
    }

    /// Records a change of keys or rules. From here on, every socket is checked before its next event is handled.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Counts an event of the socket's user. Returns `false` if the event exceeds the rate.
    pub(crate) fn admits_event(&self, socket: &Socket) -> bool {
        let changes = self.changes.load(Ordering::Acquire);
        let is_stale = socket.with_data(|session: &mut Session| replace(&mut session.checked, changes) != changes);
        if is_stale == Some(true) {
            self.check_again(socket);
        }
        let rate = socket.with_data(|session: &mut Session| {
            let identity = session.identity.as_deref()?;
            session.rate = self.user_rates.of(&identity.user_id, session.rate.take());
            session.rate.clone()
        });
        let admits = rate.flatten().is_none_or(|rate| rate.admits());
        if !admits {
            self.metrics.limit_met(Limit::UserRate);
        }
        admits
    }

    /// Closes the connection of a client with too many failed authentications.
    pub(crate) fn enforce_failure_limit(&self, socket: &Socket) {
        let failures = socket.strikes();
        if failures >= self.auth_failure_limit {
            self.metrics.limit_met(Limit::AuthFailures);
            tracing::debug!(
                namespace = socket.namespace(),
                socket = socket.id(),
                failures,
                "close a connection that fails to authenticate"
            );
            socket.close_connection();
        }
    }

    /// Makes the socket anonymous, and tells the client.
    pub(crate) fn logout(&self, socket: &Socket) {
        self.become_user(socket, None);
        send(socket, server::LOGGED_OUT, &Message { message: "Logged out" });
    }

    /// Handles the socket's timer: the token has expired, is about to expire, or is due for another check.
    pub(crate) fn check_expiry(&self, socket: &Socket) {
        if self.check_identity(socket).is_some() {
            return;
        }
        let Some(identity) = identity(socket) else { return };
        let Some(expires_at) = identity.expires_at else { return };
        if time_left(expires_at) <= self.expiry_notice
            && !with_session(socket, |session| replace(&mut session.expiry_noticed, true))
        {
            let expires_at = Moment::from_epoch_ms(expires_at.saturating_mul(1000));
            send_to_user(socket, &identity.user_id, server::TOKEN_EXPIRING, &TokenExpiring { expires_at });
        }
        self.set_expiry_timer(socket, Some(expires_at));
    }

    /// Makes the socket anonymous if its token is no longer accepted, and tells the client why. Returns the reason.
    pub(crate) fn check_identity(&self, socket: &Socket) -> Option<AuthError> {
        let identity = identity(socket)?;
        let reason = self.verifier.recheck(&identity).err()?;
        self.metrics.identity_lost(reason);
        self.become_user(socket, None);
        let error = Rc::new(reason);
        with_session(socket, |session| session.unconfirmed_error = Some(Rc::clone(&error)));
        // For a returning client, `before_replay` sends the event. The replay of this event is only for a client that
        // has its identity again.
        let message = reason.to_string();
        send_to_user(socket, &identity.user_id, server::AUTH_ERROR, &Message { message: &message });
        clear_error_on_arrival(socket, error);
        Some(reason)
    }

    /// Changes the identity, and the memberships that depend on it.
    fn become_user(&self, socket: &Socket, next: Option<Identity>) {
        let before = identity(socket);
        if next.is_none() && before.is_none() {
            return;
        }
        let next = next.map(Rc::new);
        with_session(socket, |session| {
            session.identity.clone_from(&next);
            session.expiry_noticed = false;
            session.unconfirmed_error = None;
        });
        socket.session_changed();
        // For the rules, this is only another token of the same user, and they were applied before. When the rules
        // change, the sockets in rooms that are decided differently are checked again.
        let is_same = (before.as_ref().zip(next.as_ref()))
            .is_some_and(|(before, next)| (&before.user_id, &before.claims) == (&next.user_id, &next.claims));
        if let Some(before) = before
            && next.is_none_or(|next| next.user_id != before.user_id)
        {
            let room = rooms::user_room(&before.user_id);
            let joined = socket.joined_at(&room).map_or(u64::MAX, Position::get);
            let position = socket.position().get();
            with_session(socket, |session| session.inbox.end(joined, position));
            socket.leave(&room);
        }
        if !is_same {
            self.leave_what_is_denied(socket);
        }
        self.enter(socket);
    }
}

impl Sessions {
    /// Tells a client with a recovered session why it has no identity any more, before it gets any other event.
    pub(crate) fn before_replay(&self, socket: &Socket) {
        let error = socket.with_data(|session: &mut Session| session.unconfirmed_error.clone()).flatten();
        if let Some(error) = error {
            send_auth_error(socket, *error);
            clear_error_on_arrival(socket, error);
        }
    }

    /// Resumes a restored session.
    pub(crate) fn resume(&self, socket: &Socket) {
        let failures = socket.with_data(|session: &mut Session| session.auth_failures).unwrap_or_default();
        // Each of the connection's sockets may restore the failures of the whole connection.
        socket.set_strikes(socket.strikes().max(failures));
        if self.interest.is_needed()
            && let Some(room) = self.interest.hold_own_room(socket)
        {
            with_session(socket, |session| session.own_room = Some(room));
        }
        self.enter(socket);
    }

    /// Joins the user's room and sets the timer for the token's end.
    fn enter(&self, socket: &Socket) {
        let identity = identity(socket);
        if let Some(identity) = &identity
            && let Err(error) = socket.join_always(&rooms::user_room(&identity.user_id))
        {
            // Only a socket that is being disconnected gets here.
            tracing::debug!(socket = socket.id(), %error, "join the user's room");
        }
        self.set_expiry_timer(socket, identity.and_then(|identity| identity.expires_at));
    }

    /// Sets the timer for the token's end, or for the expiry notice if the client has yet to get it.
    fn set_expiry_timer(&self, socket: &Socket, expires_at: Option<u64>) {
        let timer = expires_at.and_then(|expires_at| {
            let left = time_left(expires_at);
            let noticed = self.expiry_notice.is_zero() || with_session(socket, |session| session.expiry_noticed);
            let left = if noticed { left } else { left.saturating_sub(self.expiry_notice) };
            Instant::now().checked_add(left.min(EXPIRY_RECHECK))
        });
        socket.set_timer(timer);
    }
}

/// Counts a failed authentication. The connection keeps the count: a client can leave and create sockets at will.
fn strike(socket: &Socket) {
    socket.set_strikes(socket.strikes().saturating_add(1));
}

fn send_authenticated(socket: &Socket) {
    if let Some(identity) = identity(socket) {
        let payload = Authenticated {
            user_id: &identity.user_id,
            email: identity.email.as_deref(),
            authenticated_at: Moment::now(),
        };
        send_to_user(socket, &identity.user_id, server::AUTHENTICATED, &payload);
    }
}

/// Calls `f` with the socket's progress through its user's inbox.
pub(crate) fn inbox<R: Default>(socket: &Socket, f: impl FnOnce(&mut Progress) -> R) -> R {
    with_session(socket, |session| f(&mut session.inbox))
}

fn send_auth_error(socket: &Socket, error: AuthError) {
    let message = error.to_string();
    send(socket, server::AUTH_ERROR, &Message { message: &message });
}

/// Clears the session's unconfirmed error once the client has received the event with it. If the connection is lost
/// before, the event is sent again when the client comes back.
fn clear_error_on_arrival(socket: &Socket, error: Rc<AuthError>) {
    let receiver = socket.clone();
    socket.when_arrived(move || {
        let is_cleared = receiver.with_data(|session: &mut Session| {
            // The socket may have lost another identity since.
            session.unconfirmed_error.take_if(|current| Rc::ptr_eq(current, &error)).is_some()
        });
        if is_cleared == Some(true) {
            receiver.session_changed();
        }
    });
}

/// The time left, including its fraction of a second, so that the timer does not fire a second early or late.
fn time_left(expires_at: u64) -> Duration {
    Duration::from_secs(expires_at).saturating_sub(Duration::from_millis(Moment::now().epoch_ms()))
}
