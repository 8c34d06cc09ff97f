//! Receipts by idempotency key. A key is remembered or forgotten as a whole, with the receipts of all items of its batch.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::{Committed, Delivery, Fingerprint, IdempotencyKey, KeyBounds, StoreError};
use crate::contract::time::Moment;
use crate::limits::BATCH_ITEMS_PER_KEY;

/// The receipt of an accepted publish.
#[derive(Debug, Clone)]
pub(super) struct Receipt {
    pub(super) id: Arc<str>,
    pub(super) stored: bool,
    pub(super) delivery: Delivery,
}

impl Receipt {
    /// The answer to a repeat of the publish.
    pub(super) fn repeated(self) -> Committed {
        Committed { id: self.id, stored: self.stored, repeated: true, delivery: self.delivery }
    }
}

/// A publisher, and its key.
type Name = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Remembered {
    fingerprint: Fingerprint,
    /// The receipts by item number.
    receipts: BTreeMap<u32, Receipt>,
}

impl Remembered {
    fn cost(&self) -> u64 {
        self.receipts.len().div_ceil(BATCH_ITEMS_PER_KEY).max(1) as u64
    }
}

/// The remembered keys.
#[derive(Debug)]
pub(super) struct Keys {
    known: HashMap<Name, Remembered>,
    /// The keys in the order of their first use.
    by_age: VecDeque<(Moment, Name)>,
    used: u64,
    used_by: HashMap<Arc<str>, u64>,
    bounds: KeyBounds,
}

fn name(key: &IdempotencyKey) -> Name {
    (Arc::clone(&key.publisher), Arc::clone(&key.key))
}

impl Keys {
    pub(super) fn new(bounds: KeyBounds) -> Self {
        Self { known: HashMap::new(), by_age: VecDeque::new(), used: 0, used_by: HashMap::new(), bounds }
    }

    /// The cost of all keys.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// The receipt of an earlier publish with this key, if there is one.
    ///
    /// # Errors
    /// If the key belongs to another request, or a new key can't be remembered.
    pub(super) fn receipt(&mut self, key: &IdempotencyKey, now: Moment) -> Result<Option<Receipt>, StoreError> {
        self.forget_old(now);
        match self.known.get(&name(key)) {
            Some(known) if known.fingerprint != key.fingerprint => Err(StoreError::KeyReused),
            Some(known) => Ok(known.receipts.get(&key.item.unwrap_or(0)).cloned()),
            None => self.has_room(&key.publisher, now).map(|()| None),
        }
    }

    /// Remembers a receipt.
    pub(super) fn add(&mut self, key: &IdempotencyKey, at: Moment, receipt: Receipt) {
        let name = name(key);
        if !self.known.contains_key(&name) {
            self.by_age.push_back((at, name.clone()));
        }
        let remembered = Remembered { fingerprint: key.fingerprint, receipts: BTreeMap::new() };
        let known = self.known.entry(name).or_insert(remembered);
        let before = if known.receipts.is_empty() { 0 } else { known.cost() };
        known.receipts.insert(key.item.unwrap_or(0), receipt);
        let more = known.cost() - before;
        self.used += more;
        *self.used_by.entry(Arc::clone(&key.publisher)).or_default() += more;
    }

    fn has_room(&self, publisher: &Arc<str>, now: Moment) -> Result<(), StoreError> {
        let used_by = self.used_by.get(publisher).copied().unwrap_or_default();
        let of_publisher = used_by >= self.bounds.of_publisher;
        if !of_publisher && self.used < self.bounds.of_all {
            return Ok(());
        }
        let oldest = self.by_age.iter().find(|(_, (known, _))| !of_publisher || known == publisher);
        let since = now.before(self.bounds.age).epoch_ms();
        let wait = oldest.map_or(0, |(at, _)| at.epoch_ms().saturating_sub(since));
        let limit = if of_publisher { self.bounds.of_publisher } else { self.bounds.of_all };
        Err(StoreError::TooManyKeys { of_publisher, limit, wait: Duration::from_millis(wait) })
    }

    fn forget_old(&mut self, now: Moment) {
        let since = now.before(self.bounds.age);
        while let Some((_, name)) = self.by_age.pop_front_if(|(at, _)| *at <= since) {
            let cost = self.known.remove(&name).map_or(0, |known| known.cost());
            self.used -= cost;
            if let Some(used) = self.used_by.get_mut(&name.0) {
                *used -= cost;
                if *used == 0 {
                    self.used_by.remove(&name.0);
                }
            }
        }
    }
}
