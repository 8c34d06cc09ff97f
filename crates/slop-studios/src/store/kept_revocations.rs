//! Revoked tokens. A revocation stays for as long as there is room. When there is none, one that is over leaves, and a
//! floor takes its place.

use std::collections::HashMap;

use super::{Amount, Floors, Revocation, RevocationBound, Revocations, Revoked, StoreError};
use crate::contract::time::Moment;

/// The revocations by their subjects.
#[derive(Debug)]
pub(in crate::store) struct KeptRevocations {
    kept: HashMap<Revoked, Revocation>,
    floors: Floors,
    bound: RevocationBound,
}

impl KeptRevocations {
    pub(in crate::store) fn new(bound: RevocationBound) -> Self {
        Self { kept: HashMap::new(), floors: Floors::default(), bound }
    }

    /// The kept revocations of a store, which has read them from elsewhere.
    pub(in crate::store) fn of(revocations: Revocations, bound: RevocationBound) -> Self {
        let kept = revocations.list.into_iter().map(|revocation| (revocation.subject.clone(), revocation)).collect();
        Self { kept, floors: revocations.floors, bound }
    }

    /// The revocation of a subject.
    pub(in crate::store) fn get(&self, subject: &Revoked) -> Option<&Revocation> {
        self.kept.get(subject)
    }

    pub(in crate::store) fn amount(&self) -> Amount {
        Amount { rows: self.kept.len() as u64, bytes: 0 }
    }

    /// Keeps a revocation, merged with the one of the same subject. Returns the revocations that left for it.
    pub(in crate::store) fn add(&mut self, revocation: Revocation, now: Moment) -> Result<Revocations, StoreError> {
        let is_new = !self.kept.contains_key(&revocation.subject);
        let mut left = Revocations::default();
        if is_new && self.kept.len() as u64 >= self.bound.rows {
            let over = self.over(now).cloned().ok_or(StoreError::TooManyRevocations)?;
            self.kept.remove(&over.subject);
            left.floors = self.floor_of(&over, now);
            left.list.push(over);
            self.floors = self.floors.and(left.floors);
        }
        let kept = self.kept.entry(revocation.subject.clone()).or_insert_with(|| revocation.clone());
        kept.at = kept.at.max(revocation.at);
        // Without a known end, it stays longer.
        kept.expires_at = kept.expires_at.zip(revocation.expires_at).map(|(one, other)| one.max(other));
        Ok(left)
    }

    pub(in crate::store) fn remove(&mut self, subject: &Revoked) -> Option<Revocation> {
        self.kept.remove(subject)
    }

    pub(in crate::store) fn all(&self) -> Revocations {
        Revocations { list: self.kept.values().cloned().collect(), floors: self.floors }
    }

    /// The revocation to remove: one whose token has ended, or the oldest one that no token can outlive.
    fn over(&self, now: Moment) -> Option<&Revocation> {
        let expired = self.kept.values().filter(|revocation| self.has_expired(revocation, now));
        let issued = now.before(self.bound.max_lifetime).before(self.bound.skew());
        let outlived = || self.kept.values().filter(|revocation| revocation.at <= issued).min_by_key(|kept| kept.at);
        expired.min_by_key(|kept| kept.expires_at).or_else(outlived)
    }

    fn has_expired(&self, revocation: &Revocation, now: Moment) -> bool {
        revocation.expires_at.is_some_and(|end| end <= now.before(self.bound.leeway))
    }

    fn floor_of(&self, revocation: &Revocation, now: Moment) -> Floors {
        if self.has_expired(revocation, now) {
            Floors { expired: revocation.expires_at, ..Floors::default() }
        } else {
            Floors { issued: Some(revocation.at.after(self.bound.skew())), ..Floors::default() }
        }
    }
}
