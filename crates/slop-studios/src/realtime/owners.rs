//! Owners of media items that became known recently.
//!
//! A connected subscriber is checked against a new owner at once. A subscriber that is away is checked when it recovers
//! its session. The saved session does not contain the new owner.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The owners that became known no longer ago than a client may be away.
#[derive(Debug)]
pub(crate) struct NewOwners {
    age: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    owners: HashMap<Arc<str>, Arc<str>>,
    by_age: VecDeque<(Instant, Arc<str>)>,
}

impl NewOwners {
    /// Remembers owners for `age`. The owner of an item never changes, so there is one entry for each new item in that
    /// time.
    pub(crate) fn new(age: Duration) -> Self {
        Self { age, known: Mutex::default() }
    }

    /// Records that the item's owner became known.
    pub(crate) fn add(&self, media_id: &Arc<str>, owner: &Arc<str>) {
        self.add_at(Instant::now(), media_id, owner);
    }

    fn add_at(&self, now: Instant, media_id: &Arc<str>, owner: &Arc<str>) {
        let mut known = self.known();
        while let Some((at, _)) = known.by_age.front()
            && now.duration_since(*at) > self.age
            && let Some((_, media_id)) = known.by_age.pop_front()
        {
            known.owners.remove(&media_id);
        }
        if known.owners.insert(Arc::clone(media_id), Arc::clone(owner)).is_none() {
            known.by_age.push_back((now, Arc::clone(media_id)));
        }
    }

    /// The item's owner, if it became known recently.
    pub(crate) fn of(&self, media_id: &str) -> Option<Arc<str>> {
        self.known().owners.get(media_id).cloned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_forgotten() {
        let owners = NewOwners::new(Duration::from_secs(60));
        owners.add(&"m".into(), &"u".into());
        assert_eq!(owners.of("m").as_deref(), Some("u"));
        assert_eq!(owners.of("n"), None);
        owners.add_at(Instant::now() + Duration::from_secs(61), &"n".into(), &"u".into());
        assert_eq!((owners.of("m"), owners.of("n").as_deref()), (None, Some("u")));
        assert_eq!(owners.known().by_age.len(), 1);
    }
}
