//! The one executor of publishes, whatever their source: [`body`] reads a publish, [`Executor`] commits it and reports
//! the outcome in a [`Receipt`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::contract::delivery::Envelope;
use crate::contract::events;
use crate::contract::kind::Kind;
use crate::contract::time::Moment;
use crate::metrics::{Limit, Metrics, PublishOutcome};
use crate::store::{
    Change, ChangeKind, Committed, Fingerprint, IdempotencyKey, MediaChange, NotificationChange, Step, Store,
    StoreError, media,
};

pub mod body;
pub mod fields;
pub mod publishers;
pub mod scope;
pub(crate) mod watchdog;

pub use body::Publish;
pub use fields::{FieldError, ReadError};

use body::{NotificationBody, RoomEventBody};
use scope::{MissingScope, Scopes};

/// Items of a batch that are committed before other tasks of the shard get their turn: some hundred microseconds.
const ITEMS_PER_TURN: usize = 64;

/// What a publisher gets for an accepted publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Receipt {
    /// The notification's id; for everything else an id of the server's (UUID version 7).
    pub id: String,
    /// Whether it is committed to the store: everything but room events that are not `durable`. Those survive that the server
    /// is killed, but not that the machine loses its power.
    pub stored: bool,
    /// Sockets of this node that it was queued for.
    pub delivered: u64,
    /// What was accepted otherwise than it was given: progress that is not from 0 to 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<FieldError>,
}

/// An accepted publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The receipt for the publisher.
    pub receipt: Receipt,
    /// Whether this is the receipt of an earlier publish with the same key.
    pub repeated: bool,
}

/// Why a publish was not accepted.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    /// The publish could not be read.
    Unreadable(ReadError),
    /// The publisher's scopes do not cover it.
    NotInScope(MissingScope),
    /// It does not fit the state of the media item.
    Conflict(media::Refused),
    /// Its idempotency key belongs to another request.
    KeyReused,
    /// Its notification id belongs to another notification of the user.
    NotificationIdReused,
    /// The limit of remembered idempotency keys is reached.
    TooManyKeys {
        /// Whether it is the limit of this publisher; otherwise it is the limit of all publishers together.
        of_publisher: bool,
        /// The limit.
        limit: u64,
        /// Time until there is room again.
        wait: Duration,
    },
    /// The queue of the store is full.
    Overloaded,
    /// The store cannot commit it now.
    Unavailable,
    /// The server failed; the known details were logged.
    Internal,
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<MissingScope> for Refused {
    fn from(missing: MissingScope) -> Self {
        Self::NotInScope(missing)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Media(refused) => Self::Conflict(refused),
            StoreError::KeyReused => Self::KeyReused,
            StoreError::NotificationIdReused => Self::NotificationIdReused,
            StoreError::TooManyKeys { of_publisher, limit, wait } => Self::TooManyKeys { of_publisher, limit, wait },
            StoreError::Overloaded => Self::Overloaded,
            StoreError::Unavailable(_) | StoreError::Damaged(_) => Self::Unavailable,
            StoreError::UnknownNotification | StoreError::TooManyRevocations => Self::Internal,
        }
    }
}

/// The SHA-256 of the parts and their lengths.
#[must_use]
pub fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    let mut fingerprint = Fingerprint::default();
    for (to, from) in fingerprint.iter_mut().zip(digest(&SHA256, &bytes).as_ref()) {
        *to = *from;
    }
    fingerprint
}

/// The executor of publishes; see the module.
#[derive(Debug, Clone)]
pub struct Executor {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Executor {
    /// An executor that commits to this store.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    /// Commits a publish, if these scopes cover it. Success means committed, and queued for every connected receiver.
    ///
    /// # Errors
    /// Why it was not accepted; then nothing happened.
    pub async fn publish(
        &self,
        scopes: &Scopes,
        publish: Publish,
        key: Option<IdempotencyKey>,
    ) -> Result<Published, Refused> {
        let (kind, begun) = (publish.kind(), Instant::now());
        let warnings = publish.warnings();
        let result = async {
            let committed = self.store.commit(self.change(scopes, publish, key)?).await?;
            Ok(published(committed, warnings).await)
        }
        .await;
        self.count(kind, begun, &result);
        result.inspect_err(|refused| self.count_limit(refused))
    }

    /// Commits several publishes in order; a refused one does not stop the later ones. With a key, each publish has its
    /// own receipt, so that a repeat carries out the refused publishes and no publish twice. A batch without an
    /// accepted publish leaves the key free.
    ///
    /// # Errors
    /// If the key belongs to another request, or there is no room for it; then nothing happened.
    pub async fn publish_all(
        &self,
        scopes: &Scopes,
        items: Vec<Result<Publish, ReadError>>,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<Result<Published, Refused>>, Refused> {
        if let Some(key) = &key {
            let checked = self.store.check_key(key.clone()).await.map_err(Refused::from);
            checked.inspect_err(|refused| self.count_limit(refused))?;
        }
        let keyed =
            |(index, item)| (item, key.as_ref().map(|key| IdempotencyKey { item: Some(index as u32), ..key.clone() }));
        let results = self.publish_each(scopes, items.into_iter().enumerate().map(keyed)).await;
        match key_refused(&results) {
            None => Ok(results),
            Some(refused) => {
                self.count_limit(&refused);
                Err(refused)
            }
        }
    }

    /// Commits several publishes in order, each with a key of its own or none. A refused one does not stop the later ones.
    pub async fn publish_each(
        &self,
        scopes: &Scopes,
        items: impl ExactSizeIterator<Item = (Result<Publish, ReadError>, Option<IdempotencyKey>)>,
    ) -> Vec<Result<Published, Refused>> {
        // The call of `commit` takes the position in the order, so that all items can wait for the store together.
        let mut commits = Vec::with_capacity(items.len());
        for (index, (item, key)) in items.enumerate() {
            if index % ITEMS_PER_TURN == ITEMS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let kind = item.as_ref().ok().map(Publish::kind);
            let warnings = item.as_ref().map(Publish::warnings).unwrap_or_default();
            let change = item.map_err(Refused::from).and_then(|publish| self.change(scopes, publish, key));
            commits.push((kind, Instant::now(), change.map(|change| (self.store.commit(change), warnings))));
        }
        let mut results = Vec::with_capacity(commits.len());
        for (kind, begun, commit) in commits {
            let result = match commit {
                Ok((commit, warnings)) => match commit.await {
                    Ok(committed) => Ok(published(committed, warnings).await),
                    Err(error) => Err(error.into()),
                },
                Err(refused) => Err(refused),
            };
            if let Some(kind) = kind {
                self.count(kind, begun, &result);
            }
            results.push(result);
        }
        results
    }

    /// Counts a request that a limit refused.
    fn count_limit(&self, refused: &Refused) {
        if let Refused::TooManyKeys { of_publisher, .. } = refused {
            self.metrics.limit_met(match of_publisher {
                true => Limit::IdempotencyKeysPerPublisher,
                false => Limit::IdempotencyKeys,
            });
        }
    }

    fn count(&self, kind: Kind, begun: Instant, result: &Result<Published, Refused>) {
        let outcome = match result {
            Ok(published) if published.repeated => PublishOutcome::Repeated,
            Ok(_) => PublishOutcome::Accepted,
            Err(Refused::Internal | Refused::Unavailable | Refused::Overloaded) => PublishOutcome::Failed,
            Err(_) => PublishOutcome::Refused,
        };
        self.metrics.published(kind, outcome, begun.elapsed());
    }

    fn change(&self, scopes: &Scopes, publish: Publish, key: Option<IdempotencyKey>) -> Result<Change, Refused> {
        let (operation, target) = publish.operation();
        scopes.require(operation, target)?;
        let at = Moment::now();
        let mut id: Arc<str> = Uuid::now_v7().to_string().into();
        let what = match publish {
            Publish::Progress { media_id, body } => {
                let payload = encode(&events::MediaProgress {
                    media_id: &media_id,
                    progress: body.progress,
                    stage: &body.stage,
                    message: body.message.as_deref(),
                })?;
                let step = Step::Progress(body.progress);
                media_change(media_id, body.owner_id, body.attempt, step, payload)
            }
            Publish::Complete { media_id, body } => {
                let payload = encode(&events::MediaComplete {
                    media_id: &media_id,
                    url: &body.url,
                    thumbnail_url: body.thumbnail_url.as_deref(),
                    metadata: body.metadata.as_deref(),
                })?;
                media_change(media_id, body.owner_id, body.attempt, Step::Complete, payload)
            }
            Publish::Error { media_id, body } => {
                let payload = encode(&events::MediaError {
                    media_id: &media_id,
                    error: &body.error,
                    code: body.code.as_deref(),
                })?;
                media_change(media_id, body.owner_id, body.attempt, Step::Error, payload)
            }
            Publish::Notification { user_id, body } => {
                if let Some(given) = &body.id {
                    id = given.as_str().into();
                }
                notification(user_id, &body, Arc::clone(&id), at)?
            }
            Publish::RoomEvent { room, body } => ChangeKind::Room(Envelope {
                namespace: body.namespace.as_str(),
                room: room.into(),
                argument: arguments(&body),
                event: body.event.into(),
                owner_room: None,
                class: body.delivery,
            }),
        };
        Ok(Change { id, at, key, what })
    }
}

/// The arguments of a room event, separated by commas. Never none: the offset for recovery, which comes last, would be a
/// handler's first argument.
fn arguments(body: &RoomEventBody) -> Arc<str> {
    let first = body.data.as_deref().map_or("null", |data| data.get());
    if body.further.is_empty() {
        return first.into();
    }
    let further = body.further.iter().map(|argument| argument.get());
    [first].into_iter().chain(further).collect::<Vec<_>>().join(",").into()
}

fn notification(user_id: String, body: &NotificationBody, id: Arc<str>, at: Moment) -> Result<ChangeKind, Refused> {
    let payload = encode(&events::Notification {
        id: &id,
        r#type: body.r#type,
        title: &body.title,
        message: &body.message,
        timestamp: at,
        data: body.data.as_deref(),
    })?;
    let fingerprint = notification_fingerprint(body)?;
    Ok(ChangeKind::Notification(NotificationChange { user_id: user_id.into(), id, fingerprint, payload }))
}

/// Why the key refused a whole batch after it was checked: another request took the key, or the last free key, in
/// between.
fn key_refused(results: &[Result<Published, Refused>]) -> Option<Refused> {
    let mut refusals = results.iter().map(|result| result.as_ref().err()).collect::<Option<Vec<_>>>()?.into_iter();
    refusals.find(|refused| matches!(refused, Refused::KeyReused | Refused::TooManyKeys { .. })).cloned()
}

async fn published(committed: Committed, warnings: Vec<FieldError>) -> Published {
    Published {
        receipt: Receipt {
            id: committed.id.to_string(),
            stored: committed.stored,
            delivered: committed.delivery.sockets().await,
            warnings,
        },
        repeated: committed.repeated,
    }
}

fn media_change(
    media_id: String,
    owner_id: Option<String>,
    attempt: Option<u32>,
    step: Step,
    payload: Arc<str>,
) -> ChangeKind {
    let (media_id, owner_id) = (media_id.into(), owner_id.map(Into::into));
    ChangeKind::Media(MediaChange { media_id, owner_id, attempt, follows: None, step, payload })
}

/// The fingerprint of a notification's content, without its id and time.
fn notification_fingerprint(body: &NotificationBody) -> Result<Fingerprint, Refused> {
    let kind = encode(&body.r#type)?;
    let data = body.data.as_deref().map_or("", |data| data.get());
    Ok(fingerprint(&[kind.as_bytes(), body.title.as_bytes(), body.message.as_bytes(), data.as_bytes()]))
}

fn encode(payload: &impl Serialize) -> Result<Arc<str>, Refused> {
    match serde_json::to_string(payload) {
        Ok(json) => Ok(json.into()),
        Err(error) => {
            tracing::error!(%error, "encode an event");
            Err(Refused::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::sqlite::tests::temporary;
    use crate::store::{CommittedEvent, Delivery, Dispatch, Dispatched};

    /// A dispatcher that reports three sockets for every event.
    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(String, Value)>>);

    impl Dispatch for Recorder {
        fn dispatch(&self, group: &[Dispatched<'_>]) -> Vec<Delivery> {
            for dispatched in group {
                let (name, payload) = match dispatched.event {
                    CommittedEvent::Event { envelope, .. } => (envelope.event.to_string(), &*envelope.argument),
                    CommittedEvent::Unread { .. } => ("unread".to_owned(), ""),
                };
                let payload = serde_json::from_str(payload).unwrap_or(Value::Null);
                self.0.lock().expect("no test panicked").push((name, payload));
            }
            vec![Delivery::known(3); group.len()]
        }
    }

    fn executor() -> (Executor, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let store = temporary(Arc::<Recorder>::clone(&recorder));
        (Executor::new(Arc::new(store), Arc::default()), recorder)
    }

    fn read(item: &Value) -> Result<Publish, ReadError> {
        Publish::read_item(&item.to_string())
    }

    fn key(asked: &[u8]) -> Option<IdempotencyKey> {
        Some(IdempotencyKey { publisher: "p".into(), key: "k".into(), item: None, fingerprint: fingerprint(&[asked]) })
    }

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn payloads_are_the_contracts() {
        let (executor, recorder) = executor();
        let items = [
            json!({"kind": "progress", "mediaId": "m", "progress": 40, "stage": "s", "ownerId": "u", "attempt": 1}),
            json!({"kind": "complete", "mediaId": "m", "url": "x", "thumbnailUrl": "y", "metadata": {"w": 1}}),
            json!({"kind": "error", "mediaId": "n", "error": "e", "code": "C"}),
            json!({"kind": "notification", "userId": "u", "type": "info", "title": "t", "message": "m", "id": "n1"}),
            json!({"kind": "roomEvent", "room": "r", "event": "e", "data": [1, null]}),
        ];
        for item in &items {
            let published = run(executor.publish(&Scopes::all(), read(item).expect("valid"), None)).expect("accepted");
            let stored = item["kind"] != "roomEvent";
            assert_eq!((published.receipt.stored, published.receipt.delivered), (stored, 3));
        }
        let mut dispatched = recorder.0.lock().expect("no test panicked").clone();
        let notification = dispatched[3].1.as_object_mut().expect("an object");
        let timestamp = notification.remove("timestamp").expect("it has a timestamp");
        assert_eq!(timestamp.as_str().map(str::len), Some("2026-11-23T08:00:00.000Z".len()));
        let expected = [
            ("mediaProgress", json!({"mediaId": "m", "progress": 40, "stage": "s"})),
            ("mediaComplete", json!({"mediaId": "m", "url": "x", "thumbnailUrl": "y", "metadata": {"w": 1}})),
            ("mediaError", json!({"mediaId": "n", "error": "e", "code": "C"})),
            ("notification", json!({"id": "n1", "type": "info", "title": "t", "message": "m"})),
            ("e", json!([1, null])),
        ]
        .map(|(name, payload)| (name.to_owned(), payload));
        assert_eq!(dispatched, expected);
    }

    #[test]
    fn a_repeat_gets_the_first_receipt() {
        let (executor, recorder) = executor();
        let item = json!({"kind": "roomEvent", "room": "r", "event": "e"});
        let publish = |asked: &[u8]| run(executor.publish(&Scopes::all(), read(&item).expect("valid"), key(asked)));
        let (first, repeat) = (publish(b"a").expect("accepted"), publish(b"a").expect("accepted"));
        assert_eq!((first.repeated, repeat.repeated), (false, true));
        assert_eq!(first.receipt, repeat.receipt);
        assert_eq!(publish(b"b"), Err(Refused::KeyReused));
        assert_eq!(recorder.0.lock().expect("no test panicked").len(), 1);
    }

    #[test]
    fn a_batch_goes_on_after_a_refusal_and_repeats_only_that() {
        let (executor, recorder) = executor();
        let items = || {
            vec![
                read(&json!({"kind": "complete", "mediaId": "m", "url": "x"})),
                read(&json!({"kind": "complete", "mediaId": "m", "url": "y"})),
                read(&json!({"kind": "nothing"})),
                read(&json!({"kind": "roomEvent", "room": "r", "event": "e"})),
            ]
        };
        let results = run(executor.publish_all(&Scopes::all(), items(), key(b"a"))).expect("the key is new");
        assert!(matches!(results.as_slice(), [Ok(_), Err(Refused::Conflict(_)), Err(Refused::Unreadable(_)), Ok(_)]));
        let again = run(executor.publish_all(&Scopes::all(), items(), key(b"a"))).expect("the key is this request's");
        for (first, second) in results.iter().zip(&again) {
            let receipt = |result: &Result<Published, Refused>| result.clone().map(|published| published.receipt);
            assert_eq!(receipt(first), receipt(second));
        }
        assert_eq!(recorder.0.lock().expect("no test panicked").len(), 2);
        assert_eq!(run(executor.publish_all(&Scopes::all(), Vec::new(), key(b"b"))), Err(Refused::KeyReused));
    }

    #[test]
    fn a_batch_of_which_nothing_was_accepted_leaves_its_key_free() {
        let (executor, recorder) = executor();
        let run_all = |items: &[Value], asked: &[u8]| {
            run(executor.publish_all(&Scopes::all(), items.iter().map(read).collect(), key(asked)))
        };
        let event = json!({"kind": "roomEvent", "room": "r", "event": "e"});
        let refused = [json!({"kind": "nothing"}), json!({"kind": "roomEvent", "room": "", "event": "e"})];
        for asked in [b"a", b"b"] {
            let results = run_all(&refused, asked).expect("the key is free");
            assert!(results.iter().all(|result| matches!(result, Err(Refused::Unreadable(_)))));
        }
        assert!(run_all(&[refused[0].clone(), event.clone()], b"c").expect("the key is free")[1].is_ok());
        assert_eq!(run_all(&[event], b"d"), Err(Refused::KeyReused));
        assert_eq!(recorder.0.lock().expect("no test panicked").len(), 1);
    }

    /// Two requests with the same key may be checked before the first one commits an item.
    #[test]
    fn what_the_key_refuses_of_a_batch_it_refuses_of_it_all() {
        let accepted = || {
            let receipt = Receipt { id: "1".to_owned(), stored: true, delivered: 0, warnings: Vec::new() };
            Ok(Published { receipt, repeated: false })
        };
        let of = |results: &[Result<Published, Refused>]| key_refused(results);
        assert_eq!(of(&[Err(Refused::Internal), Err(Refused::KeyReused)]), Some(Refused::KeyReused));
        assert_eq!(of(&[Err(Refused::Internal), Err(Refused::Overloaded)]), None);
        assert_eq!(of(&[accepted(), Err(Refused::KeyReused)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_room_event_may_have_several_arguments_and_each_item_a_key() {
        let (executor, recorder) = executor();
        let item = || {
            let mut publish = read(&json!({"kind": "roomEvent", "room": "r", "event": "e", "data": 1}));
            if let Ok(Publish::RoomEvent { body, .. }) = &mut publish {
                body.further = vec![serde_json::value::to_raw_value("two").expect("JSON")];
            }
            publish
        };
        let result = |first, second| {
            let items = [(item(), key(first)), (item(), key(second))].into_iter();
            let results = run(executor.publish_each(&Scopes::all(), items));
            results.into_iter().map(|result| result.expect("accepted").repeated).collect::<Vec<_>>()
        };
        assert_eq!(result(b"a", b"a"), [false, true]);
        // The recorder parses one argument.
        assert_eq!(*recorder.0.lock().expect("no test panicked"), [("e".to_owned(), Value::Null)]);
        let publish = item().expect("valid");
        let Publish::RoomEvent { body, .. } = publish else { panic!("a room event") };
        assert_eq!(&*arguments(&body), r#"1,"two""#);
    }

    #[test]
    fn a_durable_event_is_stored() {
        let (executor, _) = executor();
        for (delivery, stored) in [("recoverable", false), ("latest", false), ("durable", true)] {
            let item = json!({"kind": "roomEvent", "room": "r", "event": "e", "delivery": delivery});
            let published = run(executor.publish(&Scopes::all(), read(&item).expect("valid"), None)).expect("accepted");
            assert_eq!(published.receipt.stored, stored, "{delivery}");
        }
    }
}
