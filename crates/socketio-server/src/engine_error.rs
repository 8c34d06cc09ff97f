//! The reasons why a request on the engine's path fails, with their answers.

use crate::Limit;

/// The reason why a request on the engine's path fails. The codes and messages are those of Engine.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineError {
    UnknownTransport,
    UnknownSession,
    BadHandshakeMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    HeaderTooLarge,
    Timeout,
    Unavailable,
    UnsupportedEncoding,
    /// Too many bytes of other request bodies are on their way.
    NoRoom,
    /// A limit is met.
    Limit(Limit),
}

impl EngineError {
    /// The `{code, message}` of the response, and its HTTP status.
    pub(crate) fn describe(self) -> (u16, u8, &'static str) {
        match self {
            Self::UnknownTransport => (400, 0, "Transport unknown"),
            Self::UnknownSession => (400, 1, "Session ID unknown"),
            Self::BadHandshakeMethod => (400, 2, "Bad handshake method"),
            Self::BadRequest => (400, 3, "Bad request"),
            Self::Forbidden => (403, 4, "Forbidden"),
            Self::UnsupportedVersion => (400, 5, "Unsupported protocol version"),
            Self::TooLarge => (413, 3, "Payload too large"),
            Self::HeaderTooLarge => (431, 3, "Request header fields too large"),
            Self::Timeout => (408, 3, "Request timeout"),
            Self::UnsupportedEncoding => (415, 3, "Unsupported content encoding"),
            Self::Limit(Limit::Connections | Limit::HttpConnections | Limit::Handshakes)
            | Self::NoRoom
            | Self::Unavailable => (503, 3, "Service unavailable"),
            Self::Limit(_) => (429, 3, "Too many connections"),
        }
    }

    /// Seconds after which the client may try again; `None` if a later attempt does not help.
    pub(crate) fn retry_after(self) -> Option<u32> {
        match self {
            Self::Limit(limit) => Some(limit.retry_after()),
            Self::NoRoom => Some(Limit::UnfinishedBytes.retry_after()),
            _ => None,
        }
    }

    /// Whether the response ends the connection: the connection has no further use, and holds a permit that others
    /// need.
    pub(crate) fn ends_connection(self) -> bool {
        matches!(self, Self::Limit(_) | Self::NoRoom | Self::Unavailable | Self::Timeout)
    }

    /// The limit that was met, if it is not counted already.
    pub(crate) fn limit(self) -> Option<Limit> {
        match self {
            Self::Limit(limit) => Some(limit),
            Self::HeaderTooLarge => Some(Limit::HeaderSize),
            Self::Timeout => Some(Limit::BodyTime),
            _ => None,
        }
    }
}
