//! The answers of `apply.lua`, read as strictly as a peer's bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::vec::IntoIter;

use redis::Value;

use super::super::media::{self, MediaState, Step};
use super::super::{Delivery, StoreError};
use super::message::field;
use crate::contract::time::Moment;

/// The answer to an operation: the name of its outcome, then its values.
#[derive(Debug)]
pub(super) struct Answer {
    outcome: String,
    values: IntoIter<Value>,
}

/// Called with the answer, once it may be given.
pub(super) type Reply = Box<dyn FnOnce(Result<Answer, StoreError>, &Deliveries) + Send>;

/// The error of an answer that has not the expected form.
pub(super) fn unexpected() -> StoreError {
    StoreError::Damaged("Redis gave an answer of another form".into())
}

impl Answer {
    /// Reads an answer.
    pub(super) fn of(value: Value) -> Result<Self, StoreError> {
        // A committed change answers with the number of its event alone: there are many.
        if let Value::BulkString(_) = value {
            return Ok(Self { outcome: "done".to_owned(), values: vec![value].into_iter() });
        }
        let mut values = list_of(value)?.into_iter();
        let outcome = text_of(values.next())?;
        let mut answer = Self { outcome, values };
        match &*answer.outcome {
            "failed" => Err(StoreError::Damaged(answer.text()?.into())),
            "lost" => Err(StoreError::Unavailable("the answer of Redis was lost".into())),
            _ => Ok(answer),
        }
    }

    pub(super) fn outcome(&self) -> &str {
        &self.outcome
    }

    /// That the operation was carried out.
    pub(super) fn done(self) -> Result<Self, StoreError> {
        if self.outcome == "done" { Ok(self) } else { Err(unexpected()) }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        text_of(self.values.next())
    }

    /// A text that may be missing.
    pub(super) fn optional(&mut self) -> Result<Option<String>, StoreError> {
        match self.values.next() {
            None | Some(Value::Nil) => Ok(None),
            value => text_of(value).map(Some),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        number_of(self.values.next())
    }

    pub(super) fn list(&mut self) -> Result<Vec<Value>, StoreError> {
        list_of(self.values.next().ok_or_else(unexpected)?)
    }

    /// A list of rows.
    pub(super) fn rows(&mut self) -> Result<Vec<Self>, StoreError> {
        self.list()?.into_iter().map(Self::row).collect()
    }

    /// A row, which has no outcome.
    pub(super) fn row(value: Value) -> Result<Self, StoreError> {
        list_of(value).map(Self::of_values)
    }

    pub(super) fn of_values(values: Vec<Value>) -> Self {
        Self { outcome: String::new(), values: values.into_iter() }
    }
}

fn list_of(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(unexpected()),
    }
}

pub(super) fn text_of(value: Option<Value>) -> Result<String, StoreError> {
    match value {
        Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_not_utf8| unexpected()),
        Some(Value::SimpleString(text)) => Ok(text),
        Some(Value::Int(number)) => Ok(number.to_string()),
        _ => Err(unexpected()),
    }
}

fn number_of(value: Option<Value>) -> Result<u64, StoreError> {
    text_of(value)?.parse().map_err(|_no_number| unexpected())
}

/// A media item's state, as `apply.lua` writes it.
pub(super) fn state_text(state: &MediaState) -> String {
    let MediaState { owner_id, attempt, step, payload, updated_at, seq } = state;
    let (step, progress) = match step {
        Step::Progress(progress) => ("p", progress.to_string()),
        Step::Complete => ("c", "-".to_owned()),
        Step::Error => ("e", "-".to_owned()),
    };
    let owner = owner_id.as_deref().unwrap_or_default();
    format!("{seq} {attempt} {step} {progress} {} {}:{owner}{payload}", updated_at.epoch_ms(), owner.len())
}

/// A media item's state, as the script writes it.
pub(super) fn state_of(text: &str) -> Option<MediaState> {
    let mut parts = text.splitn(6, ' ');
    let seq = parts.next()?.parse().ok()?;
    let attempt = parts.next()?.parse().ok()?;
    let (step, progress) = (parts.next()?, parts.next()?);
    let updated_at = Moment::from_epoch_ms(parts.next()?.parse().ok()?);
    let (owner, payload) = field(parts.next()?)?;
    let step = match step {
        "p" => Step::Progress(progress.parse().ok()?),
        "c" => Step::Complete,
        "e" => Step::Error,
        _ => return None,
    };
    let owner_id = (!owner.is_empty()).then(|| owner.into());
    Some(MediaState { owner_id, attempt, step, payload: payload.into(), updated_at, seq })
}

/// The receipt of an earlier publish.
#[derive(Debug)]
pub(super) struct KeptReceipt {
    pub(super) stored: bool,
    pub(super) seq: u64,
    pub(super) id: Arc<str>,
}

impl KeptReceipt {
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let stored = parts.next()? == "1";
        let seq = parts.next()?.parse().ok()?;
        Some(Self { stored, seq, id: parts.next()?.into() })
    }
}

/// The reason why a media step was refused, by the rules in Rust.
pub(super) fn refusal(change: &media::MediaChange, state: &str, at: Moment) -> StoreError {
    let state = if state.is_empty() { None } else { state_of(state) };
    match media::apply(state.as_ref(), change, at, 0) {
        Err(refused) => refused.into(),
        Ok(_) => unexpected(),
    }
}

/// The deliveries of the node's last events, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    known: HashMap<u64, Delivery>,
    order: VecDeque<u64>,
}

/// The number of remembered deliveries. A repeat of a publish has the count of the first for so long.
const REMEMBERED_DELIVERIES: usize = 16_384;

impl Deliveries {
    pub(super) fn add(&mut self, seq: u64, delivery: Delivery) {
        if self.order.len() == REMEMBERED_DELIVERIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(seq);
        self.known.insert(seq, delivery);
    }

    /// The delivery of an event. Without members on this node, nobody got it here.
    pub(super) fn of(&self, seq: u64) -> Delivery {
        self.known.get(&seq).cloned().unwrap_or_else(|| Delivery::known(0))
    }
}
