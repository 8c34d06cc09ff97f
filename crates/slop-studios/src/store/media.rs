//! The life cycle of a media item: progress, then one end. A higher attempt begins again (READINGS, "Media").

use std::sync::Arc;

use crate::contract::delivery::{Envelope, Route};
use crate::contract::time::Moment;

/// The attempt of an item whose publisher never names an attempt.
pub const FIRST_ATTEMPT: u32 = 1;

/// A publisher's change of a media item.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaChange {
    /// The item.
    pub media_id: Arc<str>,
    /// The owner, if the publisher names one.
    pub owner_id: Option<Arc<str>>,
    /// The attempt of the change; `None` for the attempt under way.
    pub attempt: Option<u32>,
    /// The number of the item's last event, if the change is valid only while no other event has followed it.
    pub follows: Option<u64>,
    /// The step.
    pub step: Step,
    /// The event's payload, JSON.
    pub payload: Arc<str>,
}

/// A step in an item's life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Progress in per cent, 0 to 100.
    Progress(f64),
    /// The end, with a result.
    Complete,
    /// The end, without a result.
    Error,
}

impl Step {
    /// The route of the contract's event for the step.
    #[must_use]
    pub const fn route(self) -> Route {
        match self {
            Self::Progress(_) => Route::PROGRESS,
            Self::Complete => Route::COMPLETE,
            Self::Error => Route::ERROR,
        }
    }

    /// The status of the item after the step.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Progress(_) => Status::Progress,
            Self::Complete => Status::Complete,
            Self::Error => Status::Error,
        }
    }
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MediaStatus)]
pub enum Status {
    /// Under way.
    Progress,
    /// Ended with a result.
    Complete,
    /// Ended without one.
    Error,
}

/// The known state of a media item: its last event, and the values that the next event is checked against.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaState {
    /// The owner. Once known, it does not change.
    pub owner_id: Option<Arc<str>>,
    /// The attempt of the last event.
    pub attempt: u32,
    /// The last step.
    pub step: Step,
    /// The last event's payload, JSON.
    pub payload: Arc<str>,
    /// When it was accepted.
    pub updated_at: Moment,
    /// The number that the last event was dispatched with.
    pub seq: u64,
}

impl MediaState {
    /// The last event, of the item with this id.
    #[must_use]
    pub fn envelope(&self, media_id: &str) -> Envelope {
        Envelope::of_media(self.step.route(), media_id, self.owner_id.as_deref(), &self.payload)
    }
}

/// The reason why a change is not allowed in an item's life cycle. The texts are sent to publishers.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Progress decreased.
    #[error("progress {given} is below {last}, the last of attempt {attempt}")]
    ProgressBelowLast {
        /// The publisher's progress.
        given: f64,
        /// The item's.
        last: f64,
        /// The attempt under way.
        attempt: u32,
    },
    /// The attempt has already ended.
    #[error("attempt {attempt} has ended; a higher attempt begins again")]
    Ended {
        /// The attempt that ended.
        attempt: u32,
    },
    /// The attempt was replaced by a higher one.
    #[error("attempt {given} is over; the item is at attempt {current}")]
    AttemptOver {
        /// The publisher's attempt.
        given: u32,
        /// The item's.
        current: u32,
    },
    /// An item's owner can't change.
    #[error("the item has another owner")]
    OtherOwner,
    /// The change was to follow an event that is no longer the last one.
    #[error("there is newer news of the item")]
    Overtaken,
}

/// Returns the state after a change, and whether the change was the first to name the owner.
///
/// # Errors
/// If the change is not allowed in the item's life cycle.
pub fn apply(
    current: Option<&MediaState>,
    change: &MediaChange,
    at: Moment,
    seq: u64,
) -> Result<(MediaState, bool), Refused> {
    if change.follows.is_some() && change.follows != current.map(|state| state.seq) {
        return Err(Refused::Overtaken);
    }
    let known_owner = current.and_then(|state| state.owner_id.as_ref());
    if let (Some(known), Some(given)) = (known_owner, &change.owner_id)
        && known != given
    {
        return Err(Refused::OtherOwner);
    }

    let attempt = match (current, change.attempt) {
        (None, given) => given.unwrap_or(FIRST_ATTEMPT),
        (Some(state), None) => state.attempt,
        (Some(state), Some(given)) if given < state.attempt => {
            return Err(Refused::AttemptOver { given, current: state.attempt });
        }
        (Some(_), Some(given)) => given,
    };

    if let Some(state) = current.filter(|state| state.attempt == attempt) {
        match (state.step, change.step) {
            (Step::Complete | Step::Error, _) => return Err(Refused::Ended { attempt }),
            (Step::Progress(last), Step::Progress(given)) if given < last => {
                return Err(Refused::ProgressBelowLast { given, last, attempt });
            }
            _ => {}
        }
    }

    let owner_became_known = known_owner.is_none() && change.owner_id.is_some();
    let state = MediaState {
        owner_id: known_owner.or(change.owner_id.as_ref()).cloned(),
        attempt,
        step: change.step,
        payload: change.payload.clone(),
        updated_at: at,
        seq,
    };
    Ok((state, owner_became_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(step: Step) -> MediaChange {
        MediaChange { media_id: "m".into(), owner_id: None, attempt: None, follows: None, step, payload: "{}".into() }
    }

    fn by(owner: &str, step: Step) -> MediaChange {
        MediaChange { owner_id: Some(owner.into()), ..change(step) }
    }

    fn in_attempt(attempt: u32, step: Step) -> MediaChange {
        MediaChange { attempt: Some(attempt), ..change(step) }
    }

    /// The outcome of the last change, after all earlier changes were accepted.
    fn after(changes: &[MediaChange]) -> Result<(MediaState, bool), Refused> {
        let (last, before) = changes.split_last().expect("a change");
        let mut state = None;
        for change in before {
            state = Some(apply(state.as_ref(), change, Moment::now(), 1)?.0);
        }
        apply(state.as_ref(), last, Moment::now(), 1)
    }

    #[test]
    fn progress_stays_or_rises() {
        for next in [50.0, 50.5, 100.0] {
            assert!(after(&[change(Step::Progress(50.0)), change(Step::Progress(next))]).is_ok());
        }
        assert_eq!(
            after(&[change(Step::Progress(50.0)), change(Step::Progress(49.9))]),
            Err(Refused::ProgressBelowLast { given: 49.9, last: 50.0, attempt: 1 })
        );
    }

    #[test]
    fn an_item_ends_once() {
        for end in [Step::Complete, Step::Error] {
            assert!(after(&[change(end)]).is_ok());
            for next in [Step::Progress(100.0), Step::Complete, Step::Error] {
                let changes = [change(Step::Progress(1.0)), change(end), change(next)];
                assert_eq!(after(&changes), Err(Refused::Ended { attempt: 1 }));
            }
        }
    }

    #[test]
    fn a_higher_attempt_begins_again() {
        let end = change(Step::Error);
        let (state, _) = after(&[end.clone(), in_attempt(2, Step::Progress(0.0))]).expect("begins again");
        assert_eq!((state.attempt, state.step), (2, Step::Progress(0.0)));
        let changes = [end.clone(), in_attempt(5, Step::Progress(90.0)), change(Step::Progress(10.0))];
        assert_eq!(after(&changes), Err(Refused::ProgressBelowLast { given: 10.0, last: 90.0, attempt: 5 }));
        let changes = [end, in_attempt(3, Step::Progress(1.0)), in_attempt(2, Step::Complete)];
        assert_eq!(after(&changes), Err(Refused::AttemptOver { given: 2, current: 3 }));
        let changes = [in_attempt(2, Step::Complete), in_attempt(2, Step::Progress(1.0))];
        assert_eq!(after(&changes), Err(Refused::Ended { attempt: 2 }));
    }

    #[test]
    fn what_was_overtaken_is_refused() {
        let follows = |seq, step| MediaChange { follows: Some(seq), ..change(step) };
        // Each change of these tests has the number 1.
        assert!(after(&[change(Step::Progress(1.0)), follows(1, Step::Error)]).is_ok());
        let changes = [change(Step::Progress(1.0)), follows(7, Step::Error)];
        assert_eq!(after(&changes), Err(Refused::Overtaken));
        assert_eq!(after(&[follows(1, Step::Error)]), Err(Refused::Overtaken));
    }

    #[test]
    fn the_owner_is_named_once() {
        let (state, became_known) = after(&[by("a", Step::Progress(1.0))]).expect("accepted");
        assert_eq!((state.owner_id.as_deref(), became_known), (Some("a"), true));
        let changes = [change(Step::Progress(1.0)), by("a", Step::Progress(2.0))];
        assert!(after(&changes).expect("accepted").1);
        let changes = [by("a", Step::Progress(1.0)), change(Step::Complete)];
        let (state, became_known) = after(&changes).expect("accepted");
        assert_eq!((state.owner_id.as_deref(), became_known), (Some("a"), false));
        let changes = [by("a", Step::Progress(1.0)), by("b", Step::Progress(2.0))];
        assert_eq!(after(&changes), Err(Refused::OtherOwner));
        // A new attempt does not change the owner either.
        let stolen = MediaChange { attempt: Some(2), ..by("b", Step::Progress(2.0)) };
        assert_eq!(after(&[by("a", Step::Complete), stolen]), Err(Refused::OtherOwner));
    }
}
