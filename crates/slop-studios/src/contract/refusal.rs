//! The reasons for refusals of clients and publishers, as operators read them.

/// Makes the enum, the list of all reasons, and their names in logs and metrics, so that none is left out.
macro_rules! reasons {
    ($($(#[$meta:meta])* $reason:ident => $label:literal,)+) => {
        /// The reason for a refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason {
            $($(#[$meta])* $reason,)+
        }

        impl Reason {
            /// All of them, in the order of their declaration.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$reason,)+];

            /// Its name in logs and metrics.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// A page of another origin.
    Origin => "origin",
    /// A client of another version of Engine.IO, or of none.
    ProtocolVersion => "protocol version",
    /// A client with another parser.
    Parser => "parser",
    /// A request to the HTTP API while publishing is off.
    PublishingOff => "publishing off",
    /// A request to the HTTP API without a key.
    NoPublisherKey => "no publisher key",
    /// A request to the HTTP API with an unknown key.
    UnknownPublisherKey => "unknown publisher key",
    /// A request to the HTTP API with a refused token.
    PublisherToken => "publisher token",
    /// A publisher whose scopes do not cover its request, or an item of its batch.
    PublisherScope => "publisher scope",
    /// A client without the required token.
    NoToken => "no token",
    /// A client's token that cannot be read.
    MalformedToken => "malformed token",
    /// A client's token that no known key has signed.
    TokenKey => "token key",
    /// A client's token of another issuer.
    TokenIssuer => "token issuer",
    /// A client's token for another audience.
    TokenAudience => "token audience",
    /// A client's token that has expired.
    TokenExpired => "token expired",
    /// A client's token that is not valid yet.
    TokenNotYetValid => "token not yet valid",
    /// A client's token that names no user.
    TokenWithoutUser => "token without user",
    /// A client's token that was revoked.
    TokenRevoked => "token revoked",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_index_and_a_name_of_its_own() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1, "{reason:?}");
            let documented = include_str!("../../../../docs/operations.md");
            assert!(documented.contains(&format!("`{}`", reason.as_str())), "{reason:?} is not in docs/operations.md");
        }
    }
}
