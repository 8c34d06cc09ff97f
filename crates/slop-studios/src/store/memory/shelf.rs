//! Rows in the order of their numbers, bounded in age, number and bytes.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

use super::super::{Amount, Bound};
use crate::contract::time::Moment;

/// A row of a [`Shelf`].
pub(super) trait Row {
    /// The bytes of its contents. They don't change.
    fn bytes(&self) -> u64;

    /// When it was accepted.
    fn at(&self) -> Moment;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    rows: BTreeMap<u64, T>,
    amount: Amount,
    bound: Bound,
}

impl<T: Row> Shelf<T> {
    pub(super) fn new(bound: Bound) -> Self {
        Self { rows: BTreeMap::new(), amount: Amount::default(), bound }
    }

    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    pub(super) fn insert(&mut self, number: u64, row: T) {
        self.amount.add(row.bytes());
        self.rows.insert(number, row);
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.rows.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.rows.get_mut(&number)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let row = self.rows.remove(&number)?;
        self.amount.remove(row.bytes());
        Some(row)
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<u64> {
        self.rows.last_key_value().map(|(number, _)| *number)
    }

    /// The rows with numbers above `after`, up to and including `until`, in order.
    pub(super) fn range(&self, after: u64, until: u64) -> impl Iterator<Item = (u64, &T)> {
        // A range must not end before it begins.
        let rows = (after < until).then(|| self.rows.range((Excluded(after), Included(until))));
        rows.into_iter().flatten().map(|(number, row)| (*number, row))
    }

    /// Removes the oldest row, if it is too old or there are too many.
    pub(super) fn pop_excess(&mut self, now: Moment) -> Option<(u64, T)> {
        let (number, oldest) = self.rows.first_key_value()?;
        let is_old = oldest.at() < now.before(self.bound.age);
        let number = *number;
        if is_old || self.amount.exceeds(&self.bound) { self.remove(number).map(|row| (number, row)) } else { None }
    }
}
