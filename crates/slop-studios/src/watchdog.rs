//! Ends media items that nobody has said anything of for too long, because whoever worked on them died.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Error as EncodeError;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::clock::Moment;
use crate::events::MediaError;
use crate::metrics::Metrics;
use crate::store::{Change, MediaChange, Step, Store, StoreError, UnderWay, What};

/// `mediaError`'s code for an item that it ended.
const CODE: &str = "STALLED";

/// How often it looks while an item may be silent: an item ends at most this share of the time late.
const LOOKS: u32 = 10;

/// Items that are read from the store at once: some milliseconds of its time.
const PAGE: usize = 500;

/// See the module.
#[derive(Debug)]
pub(crate) struct Watchdog {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    patience: Duration,
    /// The number of the last event of any item, at moments not longer ago than the patience. By a clock that nobody
    /// sets, and from this process's start: publishers that could not reach the server have all the time again.
    marks: VecDeque<(Instant, u64)>,
    /// Every item whose last event has this number or a lower one has ended.
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
        Self { store, metrics, patience, marks: VecDeque::new(), ended_up_to: 0 }
    }

    /// Looks again and again.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            if let Err(error) = self.look().await {
                // The next look does what this one could not.
                tracing::warn!(%error, "end media items without news");
            }
            sleep(self.patience / LOOKS).await;
        }
    }

    async fn look(&mut self) -> Result<(), Failed> {
        self.marks.push_back((Instant::now(), self.store.newest_media().await?));
        while let Some(&(at, newest)) = self.marks.front()
            && at.elapsed() >= self.patience
        {
            self.end_up_to(newest).await?;
            self.marks.pop_front();
        }
        Ok(())
    }

    async fn end_up_to(&mut self, newest: u64) -> Result<(), Failed> {
        while self.ended_up_to < newest {
            let page = self.store.media_under_way(self.ended_up_to, newest, PAGE).await?;
            for item in &page.items {
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
            what: What::Media(MediaChange {
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
            // There was news after all.
            Err(StoreError::Media(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
