//! The events that a node has not heard while its connection was lost, out of the logs of its rooms and the states of
//! their items.

use std::collections::BTreeMap;

use super::super::{Room, Step, StoreError};
use super::answer::{Answer, state_of, text_of};
use super::message::{Content, EventEffect, Message};
use super::operation::Operation;

/// The most rooms of one read. Redis serves nobody else meanwhile.
pub(super) const ROOMS_AT_ONCE: usize = 256;

/// The most bytes of one read. A node that has missed more can't go on.
const BYTES_AT_ONCE: u64 = 16 << 20;

/// The read of what these rooms have with numbers above `after`.
pub(super) fn operation(rooms: &[Room], after: u64) -> Operation {
    let operation = Operation::new("catch up").number(after).number(BYTES_AT_ONCE).number(rooms.len() as u64);
    rooms.iter().fold(operation, |operation, Room { namespace, room }| {
        operation.text(namespace).text(room).kind_of(namespace, room)
    })
}

/// The events by their numbers, so that an event for two rooms occurs once.
#[derive(Debug, Default)]
pub(super) struct Missed(BTreeMap<u64, Message>);

impl Missed {
    /// Adds the events of an answer. Returns the indexes of the rooms of which some are gone, or that have foreign values.
    pub(super) fn add(&mut self, mut answer: Answer, after: u64) -> Result<Vec<usize>, StoreError> {
        let rooms = answer.rows()?.into_iter().enumerate();
        Ok(rooms.filter_map(|(index, row)| self.add_room(row, after).is_none().then_some(index)).collect())
    }

    /// Adds the events of a room. `None` if they are not complete.
    fn add_room(&mut self, mut row: Answer, after: u64) -> Option<()> {
        let is_complete = row.number().ok()? == 1;
        if !is_complete {
            return None;
        }
        for text in row.list().ok()?.into_iter().chain(row.list().ok()?) {
            let mut message = Message::read(text_of(Some(text)).ok()?.as_bytes())?;
            message.tell_owner();
            self.put(message, after);
        }
        for mut item in row.rows().ok()? {
            let id = item.text().ok()?;
            let Some(text) = item.optional().ok()? else { continue };
            let state = state_of(&text)?;
            // The end of an item is in the log.
            if matches!(state.step, Step::Progress(_)) {
                let content = Content::Event(state.envelope(&id), EventEffect::None);
                let mut message = Message::unheard(state.seq, content);
                message.tell_owner();
                // If it was heard, it has its node.
                if message.seq > after {
                    self.0.entry(message.seq).or_insert(message);
                }
            }
        }
        let mut unread = Answer::of_values(row.list().ok()?);
        if let Some(user_id) = unread.optional().ok()? {
            let (seq, unread) = (unread.number().ok()?, unread.number().ok()?);
            self.put(Message::unheard(seq, Content::Unread(user_id.into(), unread)), after);
        }
        Some(())
    }

    fn put(&mut self, message: Message, after: u64) {
        if message.seq > after {
            self.0.insert(message.seq, message);
        }
    }

    /// Adds an event that was heard.
    pub(super) fn heard(&mut self, message: Message, after: u64) {
        self.put(message, after);
    }

    /// The events in the order of their numbers.
    pub(super) fn into_events(self) -> impl Iterator<Item = Message> {
        self.0.into_values()
    }
}
