//! The transports, which carry the bytes of a connection.

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

/// The transport to the client.
pub(crate) enum Transport {
    /// HTTP requests and responses.
    Polling(Box<Polling>),
    /// The write half. The reading task owns the read half.
    WebSocket(WriteHalf),
    Closed,
}

/// The result of a flush of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// The outbox is empty.
    All,
    /// The client took some bytes, and takes no more now.
    Some,
    /// The client takes no bytes now.
    Nothing,
    /// The outbox waits for the client's next poll.
    Waiting,
    /// The connection to the client is lost.
    Broken,
}

impl Transport {
    // Inlined for the same reason as `WriteHalf::flush`.
    #[inline(always)]
    pub(crate) fn flush(&mut self, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
        match self {
            Self::WebSocket(stream) => stream.flush(outbox, metrics),
            Self::Polling(polling) => polling.flush(outbox),
            Self::Closed => Flushed::Broken,
        }
    }

    /// Touches the memory that a write needs.
    pub(crate) fn prefetch(&self) -> RawFd {
        match self {
            Self::WebSocket(stream) => stream.prefetch(),
            Self::Polling(_) | Self::Closed => -1,
        }
    }

    /// Writes WebSocket frames ahead of any outbox, if that is possible now. Returns the number of written bytes.
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

    /// Whether a POST request is not answered yet.
    pub(crate) fn has_post(&self) -> bool {
        matches!(self, Self::Polling(polling) if polling.has_post())
    }

    /// Whether a part of a POST request is not handled yet.
    pub(crate) fn has_unhandled(&self) -> bool {
        matches!(self, Self::Polling(polling) if polling.has_unhandled())
    }

    /// The session id in polling requests.
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
