//! What the node hears: events, which it dispatches in the order of their numbers, and the marks behind its batches.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use super::super::{Dispatch, Dispatched, Room, StoreError};
use super::answer::{Answer, Deliveries, Reply, unexpected};
use super::catch_up::Missed;
use super::enforcement::{Enforcement, VersionedChange};
use super::hand_over::{HandOvers, NodeMessage};
use super::link::Heard;
use super::message::Message;
use super::operation::Operation;
use super::script::Script;
use super::shared::Shared;

/// Operations that are sent together.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) operations: Vec<Operation>,
    pub(super) replies: Vec<Reply>,
}

/// A batch that was carried out. Its answers are given when its mark is heard.
struct Answered {
    number: u64,
    at: Instant,
    answers: Vec<Value>,
    replies: Vec<Reply>,
}

/// How long the mark of a batch may take. Without it the subscription is dead, whatever TCP says.
pub(super) const MARK_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct Hearing {
    node: String,
    own_channel: String,
    dispatch: Arc<dyn Dispatch>,
    /// The number of the last event that was dispatched.
    dispatched: u64,
    /// The events that are not dispatched before others were read. `None` if there is nothing to read.
    held: Option<Missed>,
    /// The number of the last batch whose mark was heard.
    marked: u64,
    /// The number of the last event before that mark.
    marked_last: u64,
    under_way: Option<Batch>,
    answered: VecDeque<Answered>,
    deliveries: Deliveries,
    /// See [`Script`] for these channels.
    revocations_channel: String,
    sockets_channel: String,
    nodes_channel: String,
    pub(super) enforcement: Enforcement,
    pub(super) hand_overs: HandOvers,
    shared: Arc<Shared>,
    /// Whether something was heard that may not be dispatched, or was missed: then all has to be read.
    is_behind: bool,
}

impl Hearing {
    pub(super) fn new(script: &Script, last: u64, dispatch: Arc<dyn Dispatch>, shared: Arc<Shared>) -> Self {
        let (node, own_channel) = (script.node(), script.own_channel());
        Self {
            revocations_channel: script.revocations_channel(),
            sockets_channel: script.sockets_channel(),
            nodes_channel: script.nodes_channel(),
            enforcement: Enforcement::new(Arc::clone(&dispatch)),
            hand_overs: HandOvers::new(Arc::clone(&dispatch)),
            shared,
            is_behind: false,
            node: node.to_owned(),
            own_channel: own_channel.to_owned(),
            dispatch,
            dispatched: last,
            held: None,
            marked: 0,
            marked_last: last,
            under_way: None,
            answered: VecDeque::new(),
            deliveries: Deliveries::default(),
        }
    }

    pub(super) fn deliveries(&self) -> &Deliveries {
        &self.deliveries
    }

    /// The number of the last event that was dispatched.
    pub(super) fn dispatched(&self) -> u64 {
        self.dispatched
    }

    /// Takes a batch that is about to be sent.
    pub(super) fn begin(&mut self, batch: Batch) {
        self.under_way = Some(batch);
    }

    /// The batch that was sent and not answered.
    pub(super) fn under_way(&self) -> Option<&Batch> {
        self.under_way.as_ref()
    }

    /// Takes the answers to the batch.
    pub(super) fn answered(&mut self, answers: Result<Vec<Value>, StoreError>) {
        let Some(Batch { number, replies, .. }) = self.under_way.take() else { return };
        match answers {
            Ok(answers) => {
                self.answered.push_back(Answered { number, at: Instant::now(), answers, replies });
                self.answer();
            }
            Err(error) => replies.into_iter().for_each(|reply| reply(Err(error.clone()), &self.deliveries)),
        }
    }

    /// Answers the publishes of the batch that was refused with this error. Returns the rest, if there is one.
    pub(super) fn refuse_publishes(&mut self, error: &StoreError) -> Option<Batch> {
        let Batch { number, operations, replies } = self.under_way.take()?;
        let (mut others, mut replies_to_others) = (Vec::new(), Vec::new());
        for (operation, reply) in operations.into_iter().zip(replies) {
            if operation.is_published() {
                reply(Err(error.clone()), &self.deliveries);
            } else {
                others.push(operation);
                replies_to_others.push(reply);
            }
        }
        (!others.is_empty()).then_some(Batch { number, operations: others, replies: replies_to_others })
    }

    /// When the mark must have been heard that is waited for the longest.
    pub(super) fn mark_due(&self) -> Option<Instant> {
        self.answered.front().map(|answered| answered.at + MARK_TIMEOUT)
    }

    /// Answers everything that waits with this error.
    pub(super) fn failed(&mut self, error: &StoreError) {
        let answered = self.answered.drain(..).flat_map(|answered| answered.replies);
        for reply in answered.chain(self.under_way.take().into_iter().flat_map(|batch| batch.replies)) {
            reply(Err(error.clone()), &self.deliveries);
        }
    }

    /// Answers the batches whose marks were heard.
    fn answer(&mut self) {
        if self.held.is_some() || self.is_behind {
            return;
        }
        while let Some(Answered { answers, replies, .. }) =
            self.answered.pop_front_if(|answered| answered.number <= self.marked)
        {
            let mut answers = answers.into_iter();
            for reply in replies {
                let answer = answers.next().map_or_else(|| Err(unexpected()), Answer::of);
                reply(answer, &self.deliveries);
            }
        }
    }

    /// Takes a message.
    pub(super) fn hear(&mut self, Heard { channel, message }: Heard) {
        if channel == self.own_channel.as_bytes() {
            return self.hear_own(&message);
        }
        if channel == self.revocations_channel.as_bytes() {
            // A foreign message may stand for a change that was missed.
            self.is_behind |= !VersionedChange::read(&message).is_some_and(|change| self.enforcement.take(change));
            return;
        }
        if channel == self.nodes_channel.as_bytes() {
            if let Some((tag, address)) = node_of(&message) {
                self.shared.nodes().insert(tag, address.into());
            }
            return;
        }
        let is_for_sockets = channel == self.sockets_channel.as_bytes();
        let Some(message) = Message::read(&message).filter(|message| is_for_sockets || message.is_on(&channel)) else {
            if self.shared.metrics.cluster.foreign_messages.inc() == 0 {
                tracing::warn!(channel = %String::from_utf8_lossy(&channel), "a foreign message is skipped");
            }
            return;
        };
        match &mut self.held {
            Some(held) => held.heard(message, self.dispatched),
            None => self.dispatch(&message),
        }
    }

    /// Takes a message for this node alone.
    fn hear_own(&mut self, message: &[u8]) {
        if let Some((number, last)) = mark_of(message) {
            self.marked = self.marked.max(number);
            self.marked_last = self.marked_last.max(last);
            if self.held.is_none() {
                self.advance();
            }
            self.answer();
            return;
        }
        match NodeMessage::read(message) {
            Some(NodeMessage::Give { session, to, sealed }) => self.hand_overs.begin(session, to, sealed),
            Some(NodeMessage::Given { session }) => self.shared.given(session),
            None => drop(self.shared.metrics.cluster.foreign_messages.inc()),
        }
    }

    /// Whether something has to be read before anything more is dispatched.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Dispatches nothing until [`go_on`](Self::go_on). What is heard meanwhile is kept.
    pub(super) fn hold_back(&mut self) {
        self.is_behind = false;
        // What another attempt has kept is read again, if it still exists.
        self.held = Some(Missed::default());
    }

    /// Whether the mark of this batch was heard.
    pub(super) fn has_heard(&self, number: u64) -> bool {
        self.marked >= number
    }

    /// Whether answers wait for their mark.
    pub(super) fn has_answers(&self) -> bool {
        !self.answered.is_empty()
    }

    /// Begins anew after events were lost.
    pub(super) fn reset(&mut self, last: u64) {
        self.held = None;
        self.is_behind = false;
        (self.dispatched, self.marked_last) = (last, last);
        self.dispatch.reset();
    }

    /// Ends what the members of a room have here: events of the room are gone.
    pub(super) fn lost(&self, room: &Room) {
        tracing::error!(
            namespace = room.namespace,
            room = &*room.room,
            "events of a room are gone: its members begin anew"
        );
        self.shared.metrics.cluster.rooms_lost.inc();
        self.dispatch.lost(room);
    }

    /// Adds events that were not heard. Returns the indexes of the rooms of which some are gone.
    pub(super) fn missed(&mut self, answer: Answer) -> Result<Vec<usize>, StoreError> {
        self.held.get_or_insert_default().add(answer, self.dispatched)
    }

    /// Dispatches what was held back, and goes on.
    pub(super) fn go_on(&mut self) {
        for message in mem::take(&mut self.held).into_iter().flat_map(Missed::into_events) {
            self.dispatch(&message);
        }
        self.advance();
        // Everything that the answered batches have published is among these events.
        self.marked = self.answered.back().map_or(self.marked, |last| last.number.max(self.marked));
        self.answer();
    }

    /// Every event of the node's rooms up to the mark's number was heard before the mark.
    fn advance(&mut self) {
        if self.is_behind {
            return;
        }
        if self.marked_last > self.dispatched {
            self.dispatched = self.marked_last;
        }
        self.dispatch.advance(self.dispatched);
    }

    fn dispatch(&mut self, message: &Message) {
        // An event for two rooms comes on both channels.
        if message.seq <= self.dispatched {
            return;
        }
        self.is_behind |= !self.shared.lease.is_valid();
        if self.is_behind {
            return;
        }
        self.dispatched = message.seq;
        let dispatched = Dispatched { seq: message.seq, event: message.event() };
        let delivery = self.dispatch.dispatch(&[dispatched]).pop();
        if let Some(delivery) = delivery.filter(|_| *message.node == *self.node) {
            self.deliveries.add(message.seq, delivery);
        }
    }
}

/// The number of the batch that a mark is behind, and that of the last event before it.
fn mark_of(message: &[u8]) -> Option<(u64, u64)> {
    let (batch, last) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    Some((batch.parse().ok()?, last.parse().ok()?))
}

/// The tag and the address of a new node, if others reach it.
fn node_of(message: &[u8]) -> Option<(u32, &str)> {
    let (tag, address) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    Some((tag.parse().ok()?, address)).filter(|_| !address.is_empty())
}
