//! The issuer's public keys, from the URL where it publishes them (RFC 7517).
//!
//! One task fetches, so there is one fetch at a time. It fetches when the set gets old, and when a token names an
//! unknown key. Two fetches are at least the cooldown apart, so that forged tokens cannot cause a flood of fetches. If
//! a fetch fails, the last good set stays.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::{AlgorithmFamily, Header};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Keys;
use crate::hot_swap::HotSwap;
use crate::limits::{JWKS_RETRY, JWKS_TIMEOUT, MAX_JWKS_BYTES};
use crate::metrics::Metrics;

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("no answer within {} s", JWKS_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Transport(String),
    #[error("the answer's status is {0}, not 200")]
    Status(u16),
    #[error("the answer is longer than {MAX_JWKS_BYTES} bytes")]
    TooLarge,
    #[error("the answer can't be used: {0}")]
    Unusable(&'static str),
    #[error("the system's certificates can't be used: {0}")]
    Certificates(std::io::Error),
}

type Fetch = dyn Fn() -> BoxFuture<'static, Result<Bytes, JwksError>> + Send + Sync;

/// How often the set may be fetched, and how old it may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Minimum time between the starts of two fetches.
    pub(crate) cooldown: Duration,
    /// Age of the set at which it is fetched again.
    pub(crate) max_age: Duration,
}

/// The keys of a URL.
pub(crate) struct Jwks {
    keys: HotSwap<Keys>,
    pace: Pace,
    fetch: Box<Fetch>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Signals that a caller waits for a fetch.
    asked: Notify,
    /// Signals the end of a fetch.
    over: watch::Sender<()>,
    /// Called when keys have left the set.
    keys_left: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// When the last fetch began.
    began: Option<Instant>,
    under_way: bool,
    failing: bool,
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("pace", &self.pace).field("state", &*self.state()).finish_non_exhaustive()
    }
}

impl Jwks {
    /// The keys of this URL. There are none until the first fetch.
    ///
    /// # Errors
    /// If it is an `https` URL and this system trusts no certificates.
    pub(crate) fn of(url: &Uri, pace: Pace, metrics: Arc<Metrics>) -> Result<Self, JwksError> {
        Ok(Self::new(fetcher(url)?, pace, metrics))
    }

    fn new(fetch: Box<Fetch>, pace: Pace, metrics: Arc<Metrics>) -> Self {
        let (over, _) = watch::channel(());
        let (keys, state) = (HotSwap::default(), Mutex::default());
        Self { keys, pace, fetch, metrics, state, asked: Notify::new(), over, keys_left: OnceLock::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of the last good set.
    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.get()
    }

    /// See [`TokenVerifier::when_keys_leave`](super::TokenVerifier::when_keys_leave).
    pub(super) fn when_keys_leave(&self, f: Box<dyn Fn() + Send + Sync>) {
        let _ = self.keys_left.set(f);
    }

    /// Puts a set in force.
    fn replace(&self, keys: Keys) {
        let before = self.keys();
        let all_stay = !before.is_empty() && before.are_all_among(&keys);
        self.keys.replace(keys);
        if !all_stay && let Some(keys_left) = self.keys_left.get() {
            keys_left();
        }
    }

    /// Whether a token with this header may be signed with a key of the set that was not fetched yet.
    pub(super) fn lacks_key_of(&self, header: &Header) -> bool {
        if header.alg.family() == AlgorithmFamily::Hmac {
            return false;
        }
        let keys = self.keys();
        match &header.kid {
            Some(id) => !keys.has_id(id),
            None => keys.is_empty(),
        }
    }

    /// Requests a fetch, unless one is in progress. Returns a future that ends with the fetch; `None` if it is too soon
    /// for a fetch.
    pub(super) fn ask(&self) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.state();
        // Subscribed before the lock is released: the end of a fetch needs the lock too.
        let mut over = self.over.subscribe();
        if !state.under_way {
            if state.began.is_some_and(|began| began.elapsed() < self.pace.cooldown) {
                return None;
            }
            state.under_way = true;
            self.asked.notify_one();
        }
        Some(Box::pin(async move {
            // The outcome does not matter: the caller checks the keys that exist then.
            let _ = timeout(2 * JWKS_TIMEOUT, over.changed()).await;
        }))
    }

    /// Fetches the set now, and puts it in force if it is good.
    ///
    /// # Errors
    /// Why it is not good; then the previous set stays.
    pub(crate) async fn fetch(&self) -> Result<(), JwksError> {
        {
            let mut state = self.state();
            state.under_way = true;
            state.began = Some(Instant::now());
        }
        let fetched = timeout(JWKS_TIMEOUT, (self.fetch)()).await.unwrap_or(Err(JwksError::Timeout));
        let outcome = fetched.and_then(|body| Keys::of_set(&body).map_err(JwksError::Unusable));
        self.metrics.jwks_fetched(outcome.as_ref().map(Keys::len).map_err(|_failed| ()));
        let outcome = outcome.map(|keys| self.replace(keys));
        let mut state = self.state();
        state.under_way = false;
        self.over.send_replace(());
        if state.failing != outcome.is_err() {
            state.failing = outcome.is_err();
            match &outcome {
                Ok(()) => tracing::info!("fetched the keys of JWKS_URL again"),
                Err(error) => tracing::warn!(%error, "fetch the keys of JWKS_URL; the last good ones stay"),
            }
        }
        outcome
    }

    /// Fetches whenever a fetch is due, for as long as the future is polled.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        loop {
            let State { began, failing, .. } = *self.state();
            let pause = if failing { self.pace.cooldown.max(JWKS_RETRY) } else { self.pace.max_age };
            let due = began.map_or_else(Instant::now, |began| began + pause);
            tokio::select! {
                () = self.asked.notified() => {}
                () = sleep_until(due) => {}
            }
            // The request may have been served by a fetch that was due.
            if !self.state().under_way && Instant::now() < due {
                continue;
            }
            // The fetch logs and counts its outcome.
            let _ = self.fetch().await;
        }
    }
}

fn fetcher(url: &Uri) -> Result<Box<Fetch>, JwksError> {
    if url.scheme_str() != Some("https") {
        return Ok(fetcher_over(HttpConnector::new(), url));
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let connector = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
    let connector = connector.map_err(JwksError::Certificates)?.https_only().enable_http1().build();
    Ok(fetcher_over(connector, url))
}

/// Each fetch has its own connection: an idle one would stay open for ten minutes.
fn fetcher_over<C: Connect + Clone + Send + Sync + 'static>(connector: C, url: &Uri) -> Box<Fetch> {
    let client: Client<C, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let url = url.clone();
    Box::new(move || {
        let request = Request::get(url.clone())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, concat!("slop-studios/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new());
        let client = client.clone();
        Box::pin(async move {
            let request = request.map_err(|error| JwksError::Transport(error.to_string()))?;
            let response = client.request(request).await.map_err(|error| JwksError::Transport(chain(&error)))?;
            // Redirects are not followed: the sender of a redirect could supply its own keys.
            if response.status() != http::StatusCode::OK {
                return Err(JwksError::Status(response.status().as_u16()));
            }
            match Limited::<Incoming>::new(response.into_body(), MAX_JWKS_BYTES).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(JwksError::TooLarge),
                Err(error) => Err(JwksError::Transport(chain(&*error))),
            }
        })
    })
}

/// The error and its causes: the client's own text says only "client error".
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PACE: Pace = Pace { cooldown: Duration::from_secs(30), max_age: Duration::from_secs(600) };

    /// The key of RFC 8037, appendix A.2, under another key id.
    fn set(id: &str) -> Bytes {
        let key = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ID"}"#;
        format!(r#"{{"keys":[{}]}}"#, key.replace("ID", id)).into()
    }

    struct Issuer {
        answer: Mutex<Option<Bytes>>,
        fetches: AtomicUsize,
    }

    fn issuer(answer: Option<Bytes>) -> (Arc<Issuer>, Arc<Jwks>) {
        let issuer = Arc::new(Issuer { answer: Mutex::new(answer), fetches: AtomicUsize::new(0) });
        let asked = Arc::clone(&issuer);
        let fetch = move || -> BoxFuture<'static, Result<Bytes, JwksError>> {
            let issuer = Arc::clone(&asked);
            Box::pin(async move {
                issuer.fetches.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
                issuer.answer.lock().expect("no test panicked").clone().ok_or(JwksError::Status(503))
            })
        };
        (issuer, Arc::new(Jwks::new(Box::new(fetch), PACE, Arc::default())))
    }

    impl Issuer {
        fn answers(&self, answer: Option<Bytes>) {
            *self.answer.lock().expect("no test panicked") = answer;
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_questions_is_one_fetch_in_the_cooldown() {
        let (issuer, jwks) = issuer(Some(set("a")));
        let task = tokio::spawn(Arc::clone(&jwks).keep_fresh());
        jwks.ask().expect("there was no fetch yet").await;
        assert_eq!((issuer.fetches(), jwks.keys().has_id("a")), (1, true));

        for _ in 0..1_000 {
            assert!(jwks.ask().is_none(), "too soon");
        }
        tokio::time::advance(PACE.cooldown).await;
        issuer.answers(Some(set("b")));
        let waiting: Vec<_> = (0..1_000).map(|_| jwks.ask().expect("now is the time")).collect();
        futures_util::future::join_all(waiting).await;
        assert_eq!((issuer.fetches(), jwks.keys().has_id("a"), jwks.keys().has_id("b")), (2, false, true));
        assert!(jwks.ask().is_none());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_set_stays() {
        let (issuer, jwks) = issuer(Some(set("a")));
        jwks.fetch().await.expect("a good set");
        for bad in [None, Some(Bytes::from("not JSON")), Some(Bytes::from(r#"{"keys":[]}"#))] {
            issuer.answers(bad);
            assert!(jwks.fetch().await.is_err());
            assert!(jwks.keys().has_id("a"));
        }
        issuer.answers(Some(set("b")));
        jwks.fetch().await.expect("good again");
        assert!(!jwks.keys().has_id("a") && jwks.keys().has_id("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fetched_when_it_is_old_and_sooner_when_that_failed() {
        let (issuer, jwks) = issuer(None);
        let task = tokio::spawn(Arc::clone(&jwks).keep_fresh());
        tokio::time::sleep(Duration::from_secs(95)).await;
        assert_eq!(issuer.fetches(), 4, "at once, and every 30 s");
        issuer.answers(Some(set("a")));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!((issuer.fetches(), jwks.keys().has_id("a")), (5, true));
        tokio::time::sleep(Duration::from_secs(590)).await;
        assert_eq!(issuer.fetches(), 5);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(issuer.fetches(), 6);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_does_not_answer_is_given_up_on() {
        let fetch = || -> BoxFuture<'static, Result<Bytes, JwksError>> { Box::pin(std::future::pending()) };
        let jwks = Jwks::new(Box::new(fetch), PACE, Arc::default());
        assert!(matches!(jwks.fetch().await, Err(JwksError::Timeout)));
    }
}
