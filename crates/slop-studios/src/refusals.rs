//! Refusals of clients and publishers, reported to the operator.
//!
//! Each refusal is counted by its reason in `slop_refusals_total` and logged at `debug`. At `warn` there is one line
//! for each reason and minute: the first refusal at once, and the refusals of the following minute as a number. Each
//! refusal is in exactly one of these numbers. Memory use does not grow in a flood: each reason keeps a number and the
//! last refusal.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socketio_server::RefusedClient;

use crate::identity::Flaw;
use crate::limits::{MAX_REFUSAL_DETAIL_BYTES, REFUSAL_INTERVAL};
use crate::metrics::{Metrics, Reason};
use crate::text::excerpt;

impl Refusals {
    /// Reports a refusal of the engine, which has counted it as well.
    pub(crate) fn note_client(&self, client: &RefusedClient<'_>) {
        let (reason, setting) = match client.refusal {
            socketio_server::Refusal::Origin => (Reason::Origin, Some("CORS_ORIGIN")),
            socketio_server::Refusal::Parser => (Reason::Parser, None),
            _ => (Reason::ProtocolVersion, None),
        };
        let detail = match (client.refusal, client.origin, client.user_agent) {
            // The first packet reveals the parser. By then, the request that carried it is forgotten.
            (socketio_server::Refusal::Parser, None, None) => {
                "it speaks MessagePack: a client made with `parser`".into()
            }
            (_, origin, agent) => {
                format!("origin {}, user agent {}", origin.unwrap_or("none"), agent.unwrap_or("unknown"))
            }
        };
        self.note(reason, client.address, &detail, setting);
    }
}

impl From<&Flaw> for Reason {
    fn from(flaw: &Flaw) -> Self {
        match flaw {
            Flaw::Missing => Self::NoToken,
            Flaw::NoText | Flaw::TooLong | Flaw::Malformed | Flaw::CriticalHeader | Flaw::Claims | Flaw::NoDate(_) => {
                Self::MalformedToken
            }
            Flaw::UnknownKey { .. } | Flaw::Signature(_) => Self::TokenKey,
            Flaw::Issuer(_) => Self::TokenIssuer,
            Flaw::Audience => Self::TokenAudience,
            Flaw::Expired { .. } | Flaw::TooOld { .. } | Flaw::BelowFloor => Self::TokenExpired,
            Flaw::NotYet { .. } => Self::TokenNotYetValid,
            Flaw::NoUserId => Self::TokenWithoutUser,
            Flaw::UserRevoked | Flaw::TokenRevoked => Self::TokenRevoked,
        }
    }
}

/// A refusal that is still to be reported, by the caller that knows the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    /// The request, and its error.
    pub(crate) detail: String,
    /// The setting that would allow it.
    pub(crate) setting: Option<&'static str>,
}

/// Counts refusals and reports them to the operator.
#[derive(Debug)]
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    /// One for each reason.
    slots: [Mutex<Slot>; Reason::ALL.len()],
}

/// The recorded refusals with one reason.
#[derive(Debug)]
struct Slot {
    warned_at: Option<Instant>,
    /// Number of refusals that no warning has reported.
    unreported: u64,
    /// The last of these.
    last: Option<Last>,
}

#[derive(Debug, PartialEq, Eq)]
struct Last {
    client: IpAddr,
    detail: Box<str>,
    setting: Option<&'static str>,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, slots: [const { Mutex::new(Slot::new()) }; Reason::ALL.len()] }
    }

    /// Counts a refusal of this client and reports it to the operator. `detail` may contain text of the client, of
    /// which the log gets an excerpt, but never a token or a key. `setting` names the setting that would allow the
    /// request, if any.
    pub(crate) fn note(&self, reason: Reason, client: IpAddr, detail: &str, setting: impl Into<Option<&'static str>>) {
        let (client, detail, setting) =
            (client.to_canonical(), excerpt(detail, MAX_REFUSAL_DETAIL_BYTES), setting.into());
        self.metrics.refused(reason);
        tracing::debug!(reason = reason.as_str(), %client, detail, setting, "refused");
        let due = self.with_slot(reason, |slot| {
            slot.count(Last { client, detail: detail.into(), setting });
            slot.take_due(Instant::now(), REFUSAL_INTERVAL)
        });
        warn(reason, due);
    }

    /// Warns of the refusals since the last warning, if that warning is long enough ago. Call this periodically.
    pub(crate) fn tell_due(&self) {
        self.tell(REFUSAL_INTERVAL);
    }

    /// Warns of all unreported refusals, when the server ends.
    pub(crate) fn tell_rest(&self) {
        self.tell(Duration::ZERO);
    }

    fn tell(&self, pause: Duration) {
        let now = Instant::now();
        for reason in Reason::ALL {
            warn(*reason, self.with_slot(*reason, |slot| slot.take_due(now, pause)));
        }
    }

    fn with_slot<R>(&self, reason: Reason, f: impl FnOnce(&mut Slot) -> Option<R>) -> Option<R> {
        let slot = self.slots.get(reason as usize)?;
        f(&mut slot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Slot {
    const fn new() -> Self {
        Self { warned_at: None, unreported: 0, last: None }
    }

    fn count(&mut self, last: Last) {
        self.unreported += 1;
        self.last = Some(last);
    }

    /// The number of refusals to report now, and the last of them; `None` if the last warning was less than `pause`
    /// ago.
    fn take_due(&mut self, now: Instant, pause: Duration) -> Option<(u64, Last)> {
        let is_due = self.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= pause);
        let last = self.last.take_if(|_| is_due)?;
        self.warned_at = Some(now);
        Some((std::mem::take(&mut self.unreported), last))
    }
}

fn warn(reason: Reason, due: Option<(u64, Last)>) {
    let Some((count, Last { client, detail, setting })) = due else { return };
    let detail = &*detail;
    tracing::warn!(reason = reason.as_str(), count, %client, detail, setting, "refused");
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn last(number: u8) -> Last {
        let client = Ipv4Addr::new(192, 0, 2, number).into();
        Last { client, detail: "d".into(), setting: Some("S") }
    }

    #[test]
    fn a_reason_is_reported_once_a_minute_and_each_refusal_is_in_one_number() {
        let (mut slot, begin) = (Slot::new(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        let refuse = |slot: &mut Slot, number, second| {
            slot.count(last(number));
            slot.take_due(at(second), REFUSAL_INTERVAL)
        };
        assert_eq!(slot.take_due(at(0), REFUSAL_INTERVAL), None, "there is nothing to tell");
        assert_eq!(refuse(&mut slot, 1, 0), Some((1, last(1))), "the first at once");
        for second in 1..60 {
            assert_eq!(refuse(&mut slot, 2, second), None, "second {second}");
        }
        assert_eq!(slot.take_due(at(59), REFUSAL_INTERVAL), None);
        assert_eq!(slot.take_due(at(60), REFUSAL_INTERVAL), Some((59, last(2))), "also if no other comes");
        assert_eq!(slot.take_due(at(120), REFUSAL_INTERVAL), None, "and not again");
        assert_eq!(refuse(&mut slot, 3, 121), Some((1, last(3))));
        assert_eq!(refuse(&mut slot, 4, 122), None);
        assert_eq!(refuse(&mut slot, 5, 181), Some((2, last(5))));
        assert_eq!(refuse(&mut slot, 6, 182), None);
        assert_eq!(slot.take_due(at(183), Duration::ZERO), Some((1, last(6))), "at the end");
    }

    #[test]
    fn every_reason_has_an_index_and_a_name_of_its_own() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1, "{reason:?}");
            let documented = include_str!("../../../docs/operations.md");
            assert!(documented.contains(&format!("`{}`", reason.as_str())), "{reason:?} is not in docs/operations.md");
        }
    }

    #[test]
    fn what_is_kept_of_a_refusal_is_short() {
        let refusals = Refusals::new(Arc::default());
        for _ in 0..2 {
            refusals.note(Reason::TokenKey, Ipv4Addr::LOCALHOST.into(), &"é".repeat(100_000), "JWT_SECRET");
        }
        let kept =
            refusals.with_slot(Reason::TokenKey, |slot| slot.last.take()).expect("the second is not reported yet");
        assert!((1..=MAX_REFUSAL_DETAIL_BYTES).contains(&kept.detail.len()), "{}", kept.detail.len());
    }
}
