//! Events as they stand in channels and logs. Whatever is read from Redis may be damaged or foreign, so it is read as
//! strictly as a peer's bytes.

use std::sync::Arc;

use super::super::{CommittedEvent, Effect};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::{self, NOTIFICATIONS};
use crate::contract::rooms::{media_of, user_of, user_room};

/// An event with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) seq: u64,
    /// The number of the room's event before it; `None` for events that are not logged.
    pub(super) before: Option<u64>,
    /// The node that published it.
    pub(super) node: Box<str>,
    pub(super) content: Content,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// An event.
    Event(Envelope, EventEffect),
    /// A user has read notifications, and this number is left.
    Unread(Arc<str>, u64),
}

/// An owned [`Effect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EventEffect {
    None,
    OwnerKnown { media_id: Arc<str>, owner_id: Arc<str> },
    Notified { user_id: Arc<str>, unread: u64 },
}

impl Message {
    /// An event that no message has brought.
    pub(super) fn unheard(seq: u64, content: Content) -> Self {
        Self { seq, before: None, node: Box::default(), content }
    }

    /// Reads a message. `None` if it is not one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (seq, text) = text.split_once(' ')?;
        let (before, text) = text.split_once(' ')?;
        let (_time, text) = text.split_once(' ')?;
        let (node, text) = text.split_once(' ')?;
        let (class, text) = text.split_once(' ')?;
        let (effect, text) = text.split_once(' ')?;
        let (count, text) = text.split_once(' ')?;
        let (namespace, text) = field(text)?;
        let (room, text) = field(text)?;
        let (owner_room, text) = field(text)?;
        let (event, text) = field(text)?;
        let (id, argument) = field(text)?;
        let count: u64 = count.parse().ok()?;
        let content = if effect == "u" {
            Content::Unread(id.into(), count)
        } else {
            let envelope = Envelope {
                namespace: namespaces::named(namespace)?,
                room: room.into(),
                owner_room: (!owner_room.is_empty()).then(|| owner_room.into()),
                event: event.into(),
                argument: argument.into(),
                class: class_of(class)?,
            };
            let effect = match effect {
                "-" => EventEffect::None,
                "o" => EventEffect::OwnerKnown { media_id: id.into(), owner_id: user_of(owner_room)?.into() },
                "n" => EventEffect::Notified { user_id: id.into(), unread: count },
                _ => return None,
            };
            Content::Event(envelope, effect)
        };
        let before = if before == "-" { None } else { Some(before.parse().ok()?) };
        Some(Self { seq: seq.parse().ok()?, before, node: node.into(), content })
    }

    /// Has the owner of the item known by this event, since the event that told it may not have been heard. To know it twice
    /// does no harm.
    pub(super) fn tell_owner(&mut self) {
        let Content::Event(envelope, effect @ EventEffect::None) = &mut self.content else { return };
        let owner_id = envelope.owner_room.as_deref().and_then(user_of);
        if let (Some(media_id), Some(owner_id)) = (media_of(&envelope.room), owner_id) {
            *effect = EventEffect::OwnerKnown { media_id: media_id.into(), owner_id: owner_id.into() };
        }
    }

    /// Whether this is the channel of one of its rooms.
    pub(super) fn is_on(&self, channel: &[u8]) -> bool {
        let ends_with = |namespace: &str, room: &str| {
            let rest = channel.strip_suffix(room.as_bytes()).and_then(|rest| rest.strip_suffix(b":"));
            rest.is_some_and(|rest| rest.ends_with(format!("room:{namespace}").as_bytes()))
        };
        match &self.content {
            Content::Event(Envelope { namespace, room, owner_room, .. }, _) => {
                ends_with(namespace, room) || owner_room.as_ref().is_some_and(|room| ends_with(namespace, room))
            }
            Content::Unread(user_id, _) => ends_with(NOTIFICATIONS, &user_room(user_id)),
        }
    }

    /// The event as it is dispatched.
    pub(super) fn event(&self) -> CommittedEvent<'_> {
        match &self.content {
            Content::Unread(user_id, unread) => CommittedEvent::Unread { user_id, unread: *unread },
            Content::Event(envelope, effect) => CommittedEvent::Event {
                envelope,
                effect: match effect {
                    EventEffect::None => Effect::None,
                    EventEffect::OwnerKnown { media_id, owner_id } => Effect::OwnerKnown { media_id, owner_id },
                    EventEffect::Notified { user_id, unread } => Effect::Notified { user_id, unread: *unread },
                },
            },
        }
    }
}

fn class_of(letter: &str) -> Option<Class> {
    match letter {
        "r" => Some(Class::Recoverable),
        "d" => Some(Class::Durable),
        "l" => Some(Class::Latest),
        _ => None,
    }
}

/// A text behind its length, and what follows it.
pub(super) fn field(text: &str) -> Option<(&str, &str)> {
    let (length, text) = text.split_once(':')?;
    text.split_at_checked(length.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let text = "7 3 1700000000000 n1 d n 2 14:/notifications6:user:u0:12:notification1:u{\"id\":\"1: 2\"}";
        let message = Message::read(text.as_bytes()).expect("a message");
        assert_eq!((message.seq, message.before, &*message.node), (7, Some(3), "n1"));
        let Content::Event(envelope, effect) = &message.content else { panic!("{message:?}") };
        assert_eq!(
            (envelope.namespace, &*envelope.room, &*envelope.event),
            ("/notifications", "user:u", "notification")
        );
        assert_eq!((&*envelope.argument, envelope.class), (r#"{"id":"1: 2"}"#, Class::Durable));
        assert_eq!(*effect, EventEffect::Notified { user_id: "u".into(), unread: 2 });
    }

    #[test]
    fn foreign_text_is_no_message() {
        let good = "7 3 0 n1 d - 0 1:/1:r0:1:e0:";
        assert!(Message::read(good.as_bytes()).is_some());
        for end in 0..good.len() {
            assert_eq!(Message::read(&good.as_bytes()[..end]), None, "{end}");
        }
        for bad in [
            "x 3 0 n1 d - 0 1:/1:r0:1:e0:",
            "7 x 0 n1 d - 0 1:/1:r0:1:e0:",
            "7 3 0 n1 x - 0 1:/1:r0:1:e0:",
            "7 3 0 n1 d x 0 1:/1:r0:1:e0:",
            "7 3 0 n1 d - x 1:/1:r0:1:e0:",
            "7 3 0 n1 d - 0 2:/x1:r0:1:e0:",
            "7 3 0 n1 d o 0 1:/1:r0:1:e0:",
            "7 3 0 n1 d - 0 99:/1:r0:1:e0:",
            "7 3 0 n1 d - 0 2:é1:r0:1:e0:\u{e9}",
        ] {
            assert_eq!(Message::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
