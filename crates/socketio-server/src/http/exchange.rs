//! The state of an HTTP connection: which part of a request or an answer is under way.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use tokio::time::Instant;

use super::Upgrade;
use crate::{Limit, admission::HttpPermit, config::SMALL_READ, shard::Shard};

/// Polls that a handler gets to take its body. A body that has arrived reaches the handler at its next poll, or after a
/// few turns of other tasks.
const END_PATIENCE: u8 = 16;

/// The state of an HTTP connection, shared by its loop, its stream and its handlers. It includes the received part of a
/// request's headers, and their deadline. hyper holds the headers, but does not report these.
pub(super) struct Exchange {
    pub(super) shard: Rc<Shard>,
    pub(super) peer: SocketAddr,
    pub(super) permit: HttpPermit,
    /// The upgrade that ends HTTP.
    pub(super) upgrade: Cell<Option<Upgrade>>,
    /// A request has been answered since other tasks last had their turn.
    has_answered: Cell<bool>,
    /// The last request is answered elsewhere.
    is_handed_over: Cell<bool>,
    /// The last request had a body. A part of it may be unread.
    had_body: Cell<bool>,
    /// Received bytes of the headers.
    count: Cell<usize>,
    /// The bytes counted in the shard's account.
    held: Cell<usize>,
    /// No request is under way.
    awaits_headers: Cell<bool>,
    /// Some header bytes have arrived, or the headers are the connection's first: the connection is not idle.
    headers_have_begun: Cell<bool>,
    deadline: Cell<Instant>,
    /// The request has its answer, but the answer is not written yet.
    is_answering: Cell<bool>,
    /// The answer's last byte is on its way to the stream.
    answer_ends: Cell<bool>,
    /// Remaining polls of the handler before the end of the client's data counts as a cut-off body.
    patience: Cell<u8>,
    /// The last answer is written together with the first data after HTTP.
    is_held_back: Cell<bool>,
}

impl Exchange {
    /// Creates the state for a connection. The first headers must arrive by `deadline`.
    pub(super) fn new(shard: Rc<Shard>, peer: SocketAddr, permit: HttpPermit, deadline: Instant) -> Rc<Self> {
        Rc::new(Self {
            shard,
            peer,
            permit,
            upgrade: Cell::new(None),
            has_answered: Cell::new(false),
            is_handed_over: Cell::new(false),
            had_body: Cell::new(false),
            count: Cell::new(0),
            held: Cell::new(0),
            awaits_headers: Cell::new(true),
            headers_have_begun: Cell::new(true),
            deadline: Cell::new(deadline),
            is_answering: Cell::new(false),
            answer_ends: Cell::new(false),
            patience: Cell::new(0),
            is_held_back: Cell::new(false),
        })
    }

    /// Records that a request has arrived. Returns whether it comes right behind another one.
    pub(super) fn came(&self, has_body: bool) -> bool {
        self.permit.request_came(has_body);
        self.had_body.set(has_body);
        self.awaits_headers.set(false);
        self.is_answering.set(false);
        self.answer_ends.set(false);
        self.patience.set(END_PATIENCE);
        self.release();
        self.has_answered.replace(true)
    }

    /// Whether the connection becomes the WebSocket of a new session.
    pub(super) fn opens_websocket(&self) -> bool {
        let wanted = self.upgrade.take();
        let opens = matches!(wanted, Some(Upgrade::Open(_)));
        self.upgrade.set(wanted);
        opens
    }

    /// Records that other tasks have had their turn.
    pub(super) fn begin_turn(&self) {
        self.has_answered.set(false);
    }

    /// Records that the request is answered elsewhere.
    pub(super) fn hand_over(&self) {
        self.is_handed_over.set(true);
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over.get()
    }

    /// Whether the last request had a body.
    pub(super) fn had_body(&self) -> bool {
        self.had_body.get()
    }

    /// Records that the request has its answer, which is written now.
    pub(super) fn begin_answer(&self) {
        self.is_answering.set(true);
    }

    /// Whether the server still has to answer a request.
    pub(super) fn lacks_answer(&self) -> bool {
        self.permit.owes_answer() && !self.is_answering.get()
    }

    /// Records that all pending output is written.
    pub(super) fn flushed(&self) {
        if self.answer_ends.take() {
            self.answered();
        }
    }

    /// Records that the request is answered. The next request's headers are now awaited.
    fn answered(&self) {
        self.permit.answered();
        self.awaits_headers.set(true);
        self.headers_have_begun.set(false);
        self.deadline.set(Instant::now() + self.shard.config.keep_alive_timeout);
    }

    /// Records that the answer has left hyper.
    pub(super) fn answer_ends(&self) {
        self.answer_ends.set(true);
    }

    /// Takes one of the polls that the handler has left to take its body. False if there is none.
    pub(super) fn is_patient(&self) -> bool {
        let patience = self.patience.get();
        self.patience.set(patience.saturating_sub(1));
        patience > 0
    }

    /// Whether answers are held back.
    pub(super) fn holds_back(&self) -> bool {
        self.is_held_back.get()
    }

    /// Holds the next answer back, to write it together with the data after it. This saves a write and a packet for
    /// every WebSocket.
    pub(super) fn hold_answer_back(&self) {
        self.is_held_back.set(true);
    }

    /// Releases the bytes counted for the headers.
    pub(super) fn release(&self) {
        self.count.set(0);
        match self.held.take() {
            0 => {}
            held => _ = self.shard.hold(self.peer.ip(), held, 0),
        }
    }

    pub(super) fn awaits_headers(&self) -> bool {
        self.awaits_headers.get()
    }

    pub(super) fn headers_have_begun(&self) -> bool {
        self.headers_have_begun.get()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// Prepares for the next read of headers.
    pub(super) fn before_read(&self) -> Result<(), Limit> {
        // Headers that arrive in one piece are not counted. Most do, and the server does not wait for them.
        if self.count.get() > 0 { self.permit.request_began() } else { Ok(()) }
    }

    pub(super) fn count_header_bytes(&self, read: usize) -> Result<(), Limit> {
        if read > 0 && !self.headers_have_begun.replace(true) {
            self.deadline.set(Instant::now() + self.shard.config.header_timeout);
        }
        let count = self.count.get() + read;
        self.count.set(count);
        if count <= SMALL_READ {
            return Ok(());
        }
        // hyper's buffer grows in the same way.
        let held = count.next_power_of_two();
        let before = self.held.replace(held);
        // The shard has already counted that the limit was met.
        if self.shard.hold(self.peer.ip(), before, held) { Ok(()) } else { Err(Limit::UnfinishedBytes) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.release();
    }
}
