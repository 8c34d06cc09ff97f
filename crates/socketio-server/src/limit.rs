//! The limits that a peer may meet: one table for answers, logs and metrics.

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// A limit that a peer met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit { $($(#[$doc])* $name,)* }

        impl Limit {
            /// Every limit, in the order of the table.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];

            /// The name in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

limits! {
    /// [`Config::max_connections`](crate::Config::max_connections).
    Connections => "connections",
    /// [`Config::max_connections_per_address`](crate::Config::max_connections_per_address).
    ConnectionsPerAddress => "connections per address",
    /// [`Config::max_http_connections`](crate::Config::max_http_connections), or [`Config::max_handshakes`] for silent
    /// and idle connections: a connection was closed to make room, or a client's request was refused.
    ///
    /// [`Config::max_handshakes`]: crate::Config::max_handshakes
    HttpConnections => "http connections",
    /// [`Config::connection_rate_per_address`](crate::Config::connection_rate_per_address).
    ConnectionRate => "connection rate per address",
    /// [`Config::max_handshakes`](crate::Config::max_handshakes).
    Handshakes => "handshakes",
    /// [`Config::max_handshakes_per_address`](crate::Config::max_handshakes_per_address).
    HandshakesPerAddress => "handshakes per address",
    /// [`Config::header_timeout`](crate::Config::header_timeout).
    HeaderTime => "header time",
    /// [`Config::max_header_bytes`](crate::Config::max_header_bytes), or 17 KiB for a
    /// [kept](crate::Config::kept_headers) header.
    HeaderSize => "header size",
    /// [`Config::body_timeout`](crate::Config::body_timeout).
    BodyTime => "body time",
    /// Bytes of a TLS handshake: 8 KiB.
    TlsHandshakeSize => "tls handshake size",
    /// [`Config::request_rate_per_session`](crate::Config::request_rate_per_session).
    RequestRate => "request rate per session",
    /// [`Config::event_rate_per_socket`](crate::Config::event_rate_per_socket).
    EventRate => "event rate per socket",
    /// [`Config::max_unfinished_bytes`](crate::Config::max_unfinished_bytes).
    UnfinishedBytes => "unfinished bytes",
    /// The share of one address in the limit above.
    UnfinishedBytesPerAddress => "unfinished bytes per address",
    /// [`Config::max_unarrived_bytes`](crate::Config::max_unarrived_bytes).
    UnarrivedBytes => "unarrived bytes",
    /// The share of one address in the limit above.
    UnarrivedBytesPerAddress => "unarrived bytes per address",
    /// [`Config::max_rooms`](crate::Config::max_rooms).
    Rooms => "rooms",
    /// The share of one address in the limit above.
    RoomsPerAddress => "rooms per address",
    /// [`Config::max_attachments`](crate::Config::max_attachments).
    Attachments => "attachments",
    /// [`Config::max_json_depth`](crate::Config::max_json_depth).
    JsonDepth => "json depth",
    /// [`Config::max_pending_acks`](crate::Config::max_pending_acks).
    PendingAcks => "pending acks",
}

impl Limit {
    /// Whether all clients share the limit. Then it is not this client's fault that the limit is met.
    pub(crate) const fn is_shared(self) -> bool {
        matches!(self, Self::Connections | Self::HttpConnections | Self::Handshakes | Self::UnfinishedBytes)
    }

    /// Seconds after which a refused client may retry. Permits and bytes are held for minutes; a rate has room again in
    /// less than a second.
    pub(crate) const fn retry_after(self) -> u32 {
        match self {
            Self::ConnectionRate => 1,
            _ => 5,
        }
    }
}
