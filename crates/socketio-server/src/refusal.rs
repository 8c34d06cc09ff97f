//! Clients refused because of their configuration, or this server's: one table for logs and metrics. For clients that
//! meet a limit, see [`Limit`](crate::Limit).

use std::net::IpAddr;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// The reason for a client's refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
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

refusals! {
    /// A page of an origin that is not among the [`Config::origins`](crate::Config::origins).
    Origin => "origin",
    /// Another revision of Engine.IO than 4: `socket.io-client` before 3.0, or no Socket.IO client at all.
    Protocol => "protocol version",
    /// Another parser than the default one, such as `socket.io-msgpack-parser`.
    Parser => "parser",
}

/// A refused client.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RefusedClient<'a> {
    /// The reason.
    pub refusal: Refusal,
    /// The client's address, as in [`Socket::remote_addr`](crate::Socket::remote_addr).
    pub address: IpAddr,
    /// The page's origin, if the client is a page.
    pub origin: Option<&'a str>,
    /// The client's program, as named by its `User-Agent` header.
    pub user_agent: Option<&'a str>,
}

/// The callback for a refused client.
pub(crate) type OnRefusal = dyn Fn(&RefusedClient<'_>) + Send + Sync;
