//! The events that emitters may send.

use crate::contract::events;
use crate::policy::{Pattern, PatternError};
use crate::publish::body::TargetNamespace;

/// The events that emitters may send, by namespace. An event that is not in it is refused. What is in it has to pass the
/// rules of the HTTP API as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowlist(Vec<(TargetNamespace, Pattern)>);

/// Why a text is not an element of an allowlist. The text completes "`EMITTER_EVENTS` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllowlistError {
    /// It does not begin with a namespace and a colon.
    #[error("has {0:?}, not a namespace, a colon and an event, as /media:mediaProgress or /:*")]
    Namespace(String),
    /// The event is no pattern.
    #[error("has {text:?}, whose event {error}")]
    Event {
        /// The element.
        text: String,
        /// Why it is not a pattern.
        error: PatternError,
    },
    /// No event of this name can be sent.
    #[error("has {0:?}, which Socket.IO reserves for itself")]
    Reserved(String),
}

impl Allowlist {
    /// Reads the elements: each a namespace, a colon, and the name of an event with `*` for any text.
    ///
    /// # Errors
    /// The first element that can't be used.
    pub fn parse<'t>(elements: impl Iterator<Item = &'t str>) -> Result<Self, AllowlistError> {
        let element = |text: &str| {
            let split = text.split_once(':').and_then(|(name, event)| {
                let known = TargetNamespace::ALL.into_iter().find(|(known, _)| *known == name)?;
                Some((known.1, event))
            });
            let (namespace, event) = split.ok_or_else(|| AllowlistError::Namespace(text.to_owned()))?;
            if events::RESERVED_BY_SOCKET_IO.contains(&event) {
                return Err(AllowlistError::Reserved(text.to_owned()));
            }
            let pattern = Pattern::parse(event).and_then(Pattern::without_placeholders);
            let pattern = pattern.map_err(|error| AllowlistError::Event { text: text.to_owned(), error })?;
            Ok((namespace, pattern))
        };
        Ok(Self(elements.map(element).collect::<Result<_, _>>()?))
    }

    /// Whether emitters may send this event.
    #[must_use]
    pub fn has(&self, namespace: TargetNamespace, event: &str) -> bool {
        self.0.iter().any(|(known, pattern)| *known == namespace && pattern.matches(event).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Allowlist, String> {
        Allowlist::parse(text.split(',')).map_err(|error| error.to_string())
    }

    #[test]
    fn an_element_is_a_namespace_and_an_event() {
        let list = parse("/:project*,/media:mediaProgress").expect("a list");
        assert!(list.has(TargetNamespace::Default, "projectUpdate"));
        assert!(list.has(TargetNamespace::Media, "mediaProgress"));
        for (namespace, event) in [
            (TargetNamespace::Default, "mediaProgress"),
            (TargetNamespace::Media, "mediaComplete"),
            (TargetNamespace::Notifications, "projectUpdate"),
        ] {
            assert!(!list.has(namespace, event), "{namespace:?} {event}");
        }
        for wrong in ["*", "/chat:*", "media:*", "/media", "/media:", "/:connect", "/:a{b}", "/:**"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
