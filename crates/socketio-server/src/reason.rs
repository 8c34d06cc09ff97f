//! Why a socket was disconnected: one table for handlers, logs and metrics.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a socket was disconnected. Where Node's server has a word for it, it is the same.
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
    /// No namespace was connected to in time.
    ConnectTimeout => "connect timeout",
    /// What the client sent is not the protocol.
    ParseError => "parse error",
    /// A polling client made a request before its last one was answered.
    OverlappingRequests => "overlapping requests",
    /// A message was larger than allowed.
    PayloadTooLarge => "payload too large",
    /// More was waiting for the client than allowed.
    OutboxFull => "outbox full",
    /// The client sent more than allowed each second.
    TooManyEvents => "too many events",
    /// The server held too many bytes of unfinished messages, and this client's was large.
    UnfinishedBytes => "too many unfinished bytes",
    /// The client took nothing for too long.
    WriteStalled => "write stalled",
    /// The client has come back on another connection before the loss of this one was noticed.
    SessionResumed => "session resumed elsewhere",
    /// The server shuts down.
    ServerShutdown => "server shutting down",
    /// A handler panicked.
    HandlerPanic => "handler panic",
}

impl DisconnectReason {
    /// Whether the client may come back for its session: the connection was lost, and neither side wanted to leave.
    #[must_use]
    pub const fn is_recoverable(self) -> bool {
        match self {
            Self::TransportClose
            | Self::TransportError
            | Self::PingTimeout
            // What the stock client does whose request was lost: it says that it closes, and comes back.
            | Self::OverlappingRequests
            | Self::OutboxFull
            | Self::WriteStalled
            | Self::SessionResumed
            | Self::ServerShutdown => true,
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
