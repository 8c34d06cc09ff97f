//! The events that a client missed, from the logs of its rooms and the states of their items.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::missed::Missed;
use super::super::{Replay, Step, StoreError};
use super::answer::{Answer, state_of, text_of, unexpected};
use super::message::{Content, Message};
use super::operation::Operation;
use crate::contract::rooms;
use crate::limits::MAX_REPLAY_BYTES;

/// The read of the logs and states.
pub(super) fn operation(namespace: &str, rooms: &[(Arc<str>, u64)], after: u64, until: u64) -> Operation {
    let operation = Operation::new("replay").text(namespace).number(after).number(until).number(rooms.len() as u64);
    let add = |operation: Operation, (room, joined): &(Arc<str>, u64)| {
        operation.text(room).number(*joined).kind_of(namespace, room)
    };
    rooms.iter().fold(operation, add)
}

/// The replay out of its answer.
pub(super) fn read(
    mut answer: Answer,
    namespace: &'static str,
    rooms: &[(Arc<str>, u64)],
    after: u64,
    until: u64,
) -> Result<Replay, StoreError> {
    if answer.outcome() == "incomplete" {
        return Ok(Replay::default());
    }
    let mut missed = Missed::default();
    let found = answer.rows()?;
    let up_to = until.min(answer.number()?);
    if found.len() != rooms.len() {
        return Err(unexpected());
    }
    for (mut row, (room, joined)) in found.into_iter().zip(rooms) {
        let since = after.max(*joined);
        let mut newest = HashMap::new();
        for text in row.list()?.into_iter().chain(row.list()?) {
            let message = Message::read(text_of(Some(text))?.as_bytes()).ok_or_else(unexpected)?;
            let Content::Event(envelope, _) = message.content else { return Err(unexpected()) };
            if envelope.namespace != namespace {
                return Err(unexpected());
            }
            if message.seq > since && message.seq <= until {
                missed.add_logged(room, message.seq, envelope, &mut newest);
            }
        }
        // The client was sent the state when it joined. It may not have received it.
        let is_sent_again = rooms::media_of(room).is_some() && *joined >= after;
        for mut item in row.rows()? {
            let id = item.text()?;
            let Some(text) = item.optional()? else { continue };
            let state = state_of(&text).ok_or_else(unexpected)?;
            let is_missed = is_sent_again || (matches!(state.step, Step::Progress(_)) && state.seq > after);
            if state.seq <= until && is_missed {
                missed.add_state(room, &id, &state);
            }
        }
    }
    if missed.bytes > MAX_REPLAY_BYTES {
        return Ok(Replay::default());
    }
    Ok(missed.into_replay(up_to))
}
