//! What became of the messages: counted, and the first refusal of each kind logged. An emitter can't be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::message::Refusal;
use crate::limits::MAX_REFUSAL_DETAIL_BYTES;
use crate::metrics::{Emitter, EmitterOutcome, EmitterRefusal, Metrics};
use crate::publish::{Published, Refused};
use crate::text::excerpt;

/// See the module.
#[derive(Debug)]
pub(super) struct Outcomes {
    metrics: Arc<Metrics>,
    /// For each emitter, a bit for each reason that was logged.
    logged: [AtomicU32; Emitter::ALL.len()],
}

impl Outcomes {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, logged: Default::default() }
    }

    /// Counts a refusal, and logs it if it is the first of its kind.
    pub(super) fn refuse(&self, emitter: Emitter, refusal: &Refusal) {
        self.metrics.emitters.refused(emitter, refusal.reason);
        let bit = 1 << refusal.reason as u32;
        let [redis, streams, python] = &self.logged;
        let logged = match emitter {
            Emitter::Redis => redis,
            Emitter::Streams => streams,
            Emitter::Python => python,
        };
        if logged.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let detail = excerpt(&refusal.detail, MAX_REFUSAL_DETAIL_BYTES);
            let (emitter, reason) = (emitter.as_str(), refusal.reason.as_str());
            tracing::warn!(
                emitter,
                reason,
                detail,
                "a message of an emitter was refused; further ones are only counted"
            );
        }
    }

    /// Counts what the executor made of a message.
    pub(super) fn note(&self, emitter: Emitter, result: Result<&Published, &Refused>) {
        match result {
            Ok(Published { repeated, .. }) => {
                let outcome = if *repeated { EmitterOutcome::Repeated } else { EmitterOutcome::Accepted };
                self.metrics.emitters.done(emitter, outcome);
            }
            Err(refused) => self.refuse(emitter, &refusal(refused)),
        }
    }

    /// Counts a message that was published without its key.
    pub(super) fn without_key(&self, emitter: Emitter) {
        self.metrics.emitters.done(emitter, EmitterOutcome::WithoutKey);
    }

    /// Records whether this node reads the emitters.
    pub(super) fn set_reader(&self, is_reader: bool) {
        self.metrics.emitters.is_reader.set(is_reader.into());
    }
}

fn refusal(refused: &Refused) -> Refusal {
    match refused {
        Refused::Unreadable(error) => error.clone().into(),
        Refused::Conflict(why) => Refusal::new(EmitterRefusal::Conflict, format!("{why}")),
        Refused::NotificationIdReused => {
            Refusal::new(EmitterRefusal::Conflict, "the id was used for another notification")
        }
        Refused::NotInScope(_) | Refused::KeyReused => Refusal::new(EmitterRefusal::Invalid, "it can't be published"),
        Refused::TooManyKeys { .. } | Refused::Overloaded | Refused::Unavailable | Refused::Internal => {
            Refusal::new(EmitterRefusal::Store, "the store could not commit it")
        }
    }
}
