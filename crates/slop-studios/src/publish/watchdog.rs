//! Ends media items that had no news for too long, because their worker died.
//!
//! The patience runs only while publishers are heard. After a refusal by the store, or a pause of the whole server, it
//! starts again for every item, so that publishers that were asked to retry come first.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Error as EncodeError;
use tokio::time::sleep;
use uuid::Uuid;

use crate::contract::events::MediaError;
use crate::contract::time::Moment;
use crate::metrics::Metrics;
use crate::store::{Change, ChangeKind, MediaChange, Step, Store, StoreError, UnderWay};

/// The `code` of `mediaError` for a stalled item.
const CODE: &str = "STALLED";

/// Number of looks within the patience. An item ends late by one such part of the time, and an unnoticed pause of the
/// whole process takes no more than that from the patience.
const LOOKS: usize = 100;

/// If the time between two looks is longer than planned by this part of the patience or more, publishers were not heard
/// in it.
const PAUSE_SHARE: u32 = 10;

/// Time that a look may take on a busy machine.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Number of items that are read from the store at once: some milliseconds of the store's time.
const PAGE: usize = 500;

/// The watchdog; see the module.
#[derive(Debug)]
pub(crate) struct Watchdog {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    patience: Duration,
    /// The number of the last event of any item, at each of the last looks. Time is counted in looks, so that it does
    /// not pass while a look waits for the store or the process stands still. It starts with this process.
    marks: VecDeque<u64>,
    /// Time since which the store has accepted every change, as of the last look.
    writable_since: Option<Instant>,
    /// Every item whose last event has at most this number has ended.
    ended_up_to: u64,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl Watchdog {
    pub(crate) fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>, patience: Duration) -> Self {
        Self { store, metrics, patience, marks: VecDeque::new(), writable_since: None, ended_up_to: 0 }
    }

    /// Looks again after each pause.
    pub(crate) async fn run(mut self) -> Infallible {
        let pause = self.patience / LOOKS as u32;
        let longest = pause + (self.patience / PAUSE_SHARE).max(SHORTEST_PAUSE);
        let mut is_failing = false;
        loop {
            let begun = Instant::now();
            let looked = self.look().await;
            // The next look repeats the failed work, and there are many looks: one line is logged for consecutive
            // failures.
            if let Err(error) = &looked
                && !is_failing
            {
                tracing::warn!(%error, "end media items without news");
            }
            is_failing = looked.is_err();
            sleep(pause).await;
            if begun.elapsed() > longest {
                self.begin_anew();
            }
        }
    }

    /// Restarts the patience of every item.
    fn begin_anew(&mut self) {
        self.marks.clear();
    }

    async fn look(&mut self) -> Result<(), Failed> {
        if !self.publishers_are_heard().await {
            return Ok(());
        }
        if !self.store.is_watching().await? {
            self.begin_anew();
            return Ok(());
        }
        self.marks.push_back(self.store.newest_media().await?);
        if self.marks.len() > LOOKS
            && let Some(newest) = self.marks.pop_front()
        {
            self.end_up_to(newest).await?;
        }
        Ok(())
    }

    /// Whether the store accepts changes. Restarts the patience if the store did not accept them at any moment since
    /// the last call.
    async fn publishers_are_heard(&mut self) -> bool {
        // The store's log says more about a failure.
        let since = self.store.writable_since().await.ok();
        if self.writable_since != since {
            self.writable_since = since;
            self.begin_anew();
        }
        since.is_some()
    }

    async fn end_up_to(&mut self, newest: u64) -> Result<(), Failed> {
        while self.ended_up_to < newest {
            let page = self.store.media_under_way(self.ended_up_to, newest, PAGE).await?;
            for item in &page.items {
                let before = self.writable_since;
                if !self.publishers_are_heard().await || self.writable_since != before {
                    return Ok(());
                }
                self.end(item).await?;
            }
            self.ended_up_to = page.up_to;
        }
        Ok(())
    }

    async fn end(&self, item: &UnderWay) -> Result<(), Failed> {
        let error = format!("No news for {} s", self.patience.as_secs_f64());
        let payload = serde_json::to_string(&MediaError { media_id: &item.media_id, error: &error, code: Some(CODE) })?;
        let ended = self.store.commit(Change {
            id: Uuid::now_v7().to_string().into(),
            at: Moment::now(),
            key: None,
            what: ChangeKind::Media(MediaChange {
                media_id: Arc::clone(&item.media_id),
                owner_id: None,
                attempt: None,
                follows: Some(item.seq),
                step: Step::Error,
                payload: payload.into(),
            }),
        });
        match ended.await {
            Ok(_) => {
                self.metrics.media_stalled();
                tracing::info!(media_id = %item.media_id, "ended a media item without news");
                Ok(())
            }
            // The item had news after all.
            Err(StoreError::Media(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::SqliteStore;
    use crate::store::sqlite::tests::{Silent, leave_room, temporary};
    use crate::store::{Status, StoreError};

    /// A watchdog with looks on demand, and its store.
    struct Watched {
        store: Arc<SqliteStore>,
        watchdog: Watchdog,
    }

    impl Watched {
        fn new() -> Self {
            let store = Arc::new(temporary(Arc::new(Silent)));
            let watched: Arc<dyn Store> = Arc::<SqliteStore>::clone(&store);
            Self { store, watchdog: Watchdog::new(watched, Arc::default(), Duration::from_secs(60)) }
        }

        async fn progress(&self, media_id: &str, bytes: usize) -> Result<(), StoreError> {
            let what = ChangeKind::Media(MediaChange {
                media_id: media_id.into(),
                owner_id: None,
                attempt: None,
                follows: None,
                step: Step::Progress(1.0),
                payload: "x".repeat(bytes).into(),
            });
            let id = Uuid::now_v7().to_string().into();
            self.store.commit(Change { id, at: Moment::now(), key: None, what }).await.map(|_| ())
        }

        async fn look(&mut self, times: usize) {
            for _ in 0..times {
                self.watchdog.look().await.expect("the store can be read");
            }
        }

        async fn status(&self, media_id: &str) -> Status {
            let snapshot = self.store.media_snapshot(media_id).await.expect("readable");
            snapshot.state.expect("known").step.status()
        }
    }

    #[tokio::test]
    async fn an_item_ends_after_all_the_looks_without_news() {
        let mut watched = Watched::new();
        assert_eq!((watched.progress("dead", 1).await, watched.progress("live", 1).await), (Ok(()), Ok(())));
        watched.look(LOOKS).await;
        assert_eq!(watched.progress("live", 1).await, Ok(()));
        assert_eq!(watched.status("dead").await, Status::Progress);
        watched.look(1).await;
        assert_eq!((watched.status("dead").await, watched.status("live").await), (Status::Error, Status::Progress));
    }

    #[tokio::test]
    async fn after_a_refusal_every_item_has_all_the_patience_again() {
        let mut watched = Watched::new();
        assert_eq!(watched.progress("m", 1).await, Ok(()));
        watched.look(LOOKS).await;
        leave_room(&watched.store, 0);
        for _ in 0..2 * LOOKS {
            let refused = watched.progress("m", 50_000).await;
            assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
            watched.look(1).await;
        }
        // A write that needs no room is tried by the look, and passes here. So nothing tells the watchdog of the room.
        leave_room(&watched.store, 1_000);
        watched.look(LOOKS - 1).await;
        assert_eq!(watched.progress("m", 50_000).await, Ok(()));
        watched.look(LOOKS).await;
        assert_eq!(watched.status("m").await, Status::Progress);
        watched.look(1).await;
        assert_eq!(watched.status("m").await, Status::Error);
    }
}
