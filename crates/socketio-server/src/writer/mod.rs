//! Bytes out: what a connection writes, and how it ends. A WebSocket writes to its stream; polling answers requests.

pub(crate) mod polling;

use std::{cell::RefCell, os::fd::RawFd, time::Duration};

use socketio_protocol::websocket::{CloseCode, encode_close};

use crate::{
    DisconnectReason,
    delivery::outbox::Outbox,
    identifier::Id,
    metrics::ShardMetrics,
    stream::{Flushed, WriteHalf},
};

use polling::{Farewells, Polling};

/// The way of bytes to the client.
pub(crate) enum Writer {
    /// HTTP requests and responses.
    Polling(Box<Polling>),
    /// The write half. The reading task owns the read half.
    WebSocket(WriteHalf),
    Closed,
}

/// How a connection ends.
pub(crate) struct Ending<'a> {
    pub(crate) reason: DisconnectReason,
    /// The close code for a WebSocket, if the reason's own does not fit.
    pub(crate) code: Option<CloseCode>,
    /// The client is python-engineio, which does not come back after a close packet.
    pub(crate) is_python: bool,
    pub(crate) farewells: &'a RefCell<Farewells>,
    /// How long a farewell is kept.
    pub(crate) keep: Duration,
    pub(crate) metrics: &'a ShardMetrics,
}

impl Writer {
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

    /// Tells the client about the end, if that is possible at once, and ends the server's side.
    pub(crate) fn close(self, ending: &Ending<'_>, outbox: &mut Outbox) {
        match self {
            Self::WebSocket(stream) => close_websocket(&stream, ending, outbox),
            Self::Polling(polling) => polling.close(ending, outbox),
            Self::Closed => {}
        }
    }
}

/// Sends a close frame, if that is possible at once, and ends the server's side of the stream.
fn close_websocket(stream: &WriteHalf, ending: &Ending<'_>, outbox: &mut Outbox) {
    let code = ending.code.unwrap_or(match ending.reason {
        DisconnectReason::ServerShutdown => CloseCode::GOING_AWAY,
        DisconnectReason::ParseError => CloseCode::PROTOCOL,
        DisconnectReason::PayloadTooLarge => CloseCode::TOO_BIG,
        DisconnectReason::TooManyEvents => CloseCode::POLICY,
        DisconnectReason::HandlerPanic => CloseCode::INTERNAL,
        _ => CloseCode::NORMAL,
    });
    // Earlier queued frames may still leave. After a partly written frame, no other frame may begin.
    if stream.flush(outbox, ending.metrics) == Flushed::All {
        stream.write_last(&encode_close(code, ending.reason.as_str()));
    }
    // The caller drops the write half. This ends the server's side of the stream after the written bytes.
}
