//! The reasons for a socket's disconnect, and for a session that is not recovered: one table each, for handlers, logs
//! and metrics.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// The reason for a socket's disconnect. Where Node's server has a name for the reason, the name is the same.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DisconnectReason { $($(#[$doc])* $name,)* }

        impl DisconnectReason {
            /// Every reason, in the order of the table.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// The name in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The client left the namespace.
    ClientNamespace => "client namespace disconnect",
    /// A handler disconnected the socket.
    ServerNamespace => "server namespace disconnect",
    /// The client closed its connection.
    TransportClose => "transport close",
    /// The connection broke.
    TransportError => "transport error",
    /// A heartbeat was not answered in time.
    PingTimeout => "ping timeout",
    /// The client did not connect to a namespace in time.
    ConnectTimeout => "connect timeout",
    /// The client sent data that does not follow the protocol.
    ParseError => "parse error",
    /// A polling client made a request before its last one was answered.
    OverlappingRequests => "overlapping requests",
    /// A message was larger than allowed.
    PayloadTooLarge => "payload too large",
    /// More bytes were queued for the client than allowed.
    OutboxFull => "outbox full",
    /// The client sent more messages per second than allowed.
    TooManyEvents => "too many events",
    /// The server held too many bytes of unfinished messages, and this client's was large.
    UnfinishedBytes => "too many unfinished bytes",
    /// The client took no data for too long.
    WriteStalled => "write stalled",
    /// The client reconnected before the loss of this connection was noticed.
    SessionResumed => "session resumed elsewhere",
    /// The server shuts down.
    ServerShutdown => "server shutting down",
    /// The application could not serve the client at the time. The client reconnects.
    Unavailable => "unavailable",
    /// A handler panicked.
    HandlerPanic => "handler panic",
}

impl DisconnectReason {
    /// Whether the client may resume its session: the connection was lost, and neither side meant to end it.
    #[must_use]
    pub const fn is_recoverable(self) -> bool {
        match self {
            Self::TransportClose
            | Self::TransportError
            | Self::PingTimeout
            // A stock client does this after the loss of a request: it sends a close packet, and reconnects.
            | Self::OverlappingRequests
            | Self::OutboxFull
            | Self::WriteStalled
            | Self::SessionResumed
            | Self::ServerShutdown
            | Self::Unavailable => true,
            Self::ClientNamespace
            | Self::ServerNamespace
            | Self::ConnectTimeout
            | Self::ParseError
            | Self::PayloadTooLarge
            | Self::TooManyEvents
            | Self::UnfinishedBytes
            | Self::HandlerPanic => false,
        }
    }
}

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// The reason why a client that asked for its session got a new one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RecoveryFailure { $($(#[$doc])* $name,)* }

        impl RecoveryFailure {
            /// Every failure, in the order of the table.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// The name in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

failures! {
    /// The session is not known: it ended, or the client was away for too long.
    UnknownSession => "unknown session",
    /// The client can't have received the offset that it sent.
    BadOffset => "bad offset",
    /// Some of the missed events are no longer remembered.
    Forgotten => "events forgotten",
    /// The application refused the session.
    Refused => "refused",
    /// The limits do not allow the client to join all rooms of its session again.
    TooManyRooms => "too many rooms",
    /// The keeper of the sessions could not answer. The client's connection was closed, and its session stays.
    Unavailable => "unavailable",
}
