//! How the bytes of a connection travel.

mod polling;
mod stream;
mod tls;
mod upgrade;
mod websocket;

use std::{os::fd::RawFd, rc::Rc};

use socketio_protocol::websocket::CloseCode;

pub(crate) use polling::{EngineError, EngineRequest, Farewells, Polling, handle_post, open as open_polling};
pub(crate) use stream::{Measured, Stream, read_at_most};
pub(crate) use websocket::{open as open_websocket, take_scratch};

use crate::{DisconnectReason, connection::Connection, identifier::Id, metrics::ShardMetrics, outbox::Outbox};
use stream::WriteHalf;

/// The way to the client.
pub(crate) enum Transport {
    /// Requests come and go.
    Polling(Box<Polling>),
    /// The writing half; the reading half is its task's.
    WebSocket(WriteHalf),
    Closed,
}

/// What became of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// It is empty.
    All,
    /// The client took some, and does not take more now.
    Some,
    /// The client takes nothing now.
    Nothing,
    /// It waits for the client's next poll.
    Waiting,
    /// There is no way to the client any more.
    Broken,
}

impl Transport {
    // As in `WriteHalf::flush`.
    #[inline(always)]
    pub(crate) fn flush(&mut self, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
        match self {
            Self::WebSocket(stream) => stream.flush(outbox, metrics),
            Self::Polling(polling) => polling.flush(outbox),
            Self::Closed => Flushed::Broken,
        }
    }

    /// Touches what a write needs.
    pub(crate) fn prefetch(&self) -> RawFd {
        match self {
            Self::WebSocket(stream) => stream.prefetch(),
            Self::Polling(_) | Self::Closed => -1,
        }
    }

    /// Writes WebSocket frames ahead of any outbox, if that is possible now. Returns how many bytes went out.
    pub(crate) fn write(&self, frames: &[u8], metrics: &ShardMetrics) -> usize {
        match self {
            Self::WebSocket(stream) => stream.write(frames, metrics),
            Self::Polling(_) | Self::Closed => 0,
        }
    }

    /// Whether a packet would leave at once.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::WebSocket(_) => true,
            Self::Polling(polling) => polling.is_polled(),
            Self::Closed => false,
        }
    }

    pub(crate) fn is_polling(&self) -> bool {
        matches!(self, Self::Polling(_))
    }

    /// Whether there is a request that is not answered.
    pub(crate) fn has_post(&self) -> bool {
        matches!(self, Self::Polling(polling) if polling.has_post())
    }

    /// Whether there is a request of which not all is handled.
    pub(crate) fn has_unhandled(&self) -> bool {
        matches!(self, Self::Polling(polling) if polling.has_unhandled())
    }

    /// The session id that polling requests name.
    pub(crate) fn sid(&self) -> Option<Id> {
        match self {
            Self::Polling(polling) => Some(polling.sid()),
            Self::WebSocket(_) | Self::Closed => None,
        }
    }

    pub(crate) fn close(
        self,
        connection: &Rc<Connection>,
        reason: DisconnectReason,
        code: Option<CloseCode>,
        outbox: &mut Outbox,
    ) {
        match self {
            Self::WebSocket(stream) => websocket::close(&stream, connection, reason, code, outbox),
            Self::Polling(polling) => polling.close(connection, reason, outbox),
            Self::Closed => {}
        }
    }
}
