//! The operations of a batch, as `apply.lua` reads them.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::{Change, ChangeKind, IdempotencyKey, MediaChange, NotificationChange, ReadMark, Step};
use crate::contract::delivery::{Class, Envelope};
use crate::contract::namespaces::{MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{self, media_room};

/// An operation: its name and its arguments.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    name: &'static str,
    arguments: Vec<Argument>,
}

/// An argument, without a copy of what a request holds already.
#[derive(Debug, Clone)]
enum Argument {
    Shared(Arc<str>),
    Fixed(&'static str),
    Own(Vec<u8>),
}

impl Argument {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Shared(text) => text.as_bytes(),
            Self::Fixed(text) => text.as_bytes(),
            Self::Own(bytes) => bytes,
        }
    }
}

impl Operation {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, arguments: Vec::new() }
    }

    /// Adds a text.
    #[must_use]
    pub(super) fn text(mut self, text: &str) -> Self {
        self.arguments.push(Argument::Own(text.into()));
        self
    }

    /// Adds a number.
    #[must_use]
    pub(super) fn number(self, number: u64) -> Self {
        self.text(&number.to_string())
    }

    /// Adds bytes.
    #[must_use]
    pub(super) fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.arguments.push(Argument::Own(bytes));
        self
    }

    fn shared(mut self, text: &Arc<str>) -> Self {
        self.arguments.push(Argument::Shared(Arc::clone(text)));
        self
    }

    fn fixed(mut self, text: &'static str) -> Self {
        self.arguments.push(Argument::Fixed(text));
        self
    }

    /// Whether somebody is told that the change is kept.
    pub(super) fn is_published(&self) -> bool {
        matches!(self.name, "room" | "media" | "notification" | "read" | "revoke")
    }

    /// The bytes that it takes in a batch, about.
    pub(super) fn size(&self) -> usize {
        self.arguments.iter().map(|argument| argument.as_bytes().len() + 16).sum()
    }

    /// The operation as arguments of the script.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.arguments.iter().map(Argument::as_bytes)
    }

    /// The name, and the number of arguments.
    pub(super) fn head(&self) -> (&'static str, usize) {
        (self.name, self.arguments.len())
    }

    /// The operation that commits a change.
    pub(super) fn commit(change: &Change, node_of_socket_id: &dyn Fn(&str) -> Option<u32>) -> Self {
        match &change.what {
            ChangeKind::Room(envelope) => {
                // A socket's node hears the events for its sockets' ids on a channel of its own.
                let node = node_of_socket_id(&envelope.room).map(|tag| tag.to_string());
                Self::change("room", change).room(envelope).text(node.as_deref().unwrap_or_default())
            }
            ChangeKind::Media(step) => Self::change("media", change).media(step, change),
            ChangeKind::Notification(notification) => Self::change("notification", change).notification(notification),
        }
    }

    fn change(name: &'static str, change: &Change) -> Self {
        Self::new(name).shared(&change.id).key(change.key.as_ref())
    }

    /// Adds an idempotency key, or that there is none.
    pub(super) fn key(self, key: Option<&IdempotencyKey>) -> Self {
        let Some(IdempotencyKey { publisher, key, item, fingerprint }) = key else { return self.fixed("") };
        let item = u64::from(item.unwrap_or(0));
        self.shared(publisher).shared(key).number(item).text(&hex(fingerprint))
    }

    fn room(self, envelope: &Envelope) -> Self {
        let Envelope { namespace, room, event, class, .. } = envelope;
        let place = format!("{namespace}:{room}");
        self.fixed(letter(*class)).shared(event).text(&place).text(&message_of(envelope))
    }

    fn media(self, step: &MediaChange, change: &Change) -> Self {
        let MediaChange { media_id, owner_id, attempt, follows, step, payload } = step;
        let operation = self.shared(media_id).text(&media_room(media_id));
        let operation = match owner_id {
            Some(owner) => operation.shared(owner),
            None => operation.fixed(""),
        };
        let operation = operation.optional(attempt.map(u64::from)).optional(*follows);
        let operation = match step {
            // The shortest text that is read as the same number.
            Step::Progress(progress) => operation.fixed("p").text(&progress.to_string()),
            Step::Complete => operation.fixed("c").fixed("-"),
            Step::Error => operation.fixed("e").fixed("-"),
        };
        operation.number(change.at.epoch_ms()).shared(payload)
    }

    fn notification(self, notification: &NotificationChange) -> Self {
        let NotificationChange { user_id, fingerprint, payload, .. } = notification;
        self.shared(user_id).text(&hex(fingerprint)).shared(payload)
    }

    fn optional(self, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(number),
            None => self.fixed(""),
        }
    }

    /// Adds what a room has besides its log: the state of an item, or of a user's items, or an inbox.
    #[must_use]
    pub(super) fn kind_of(self, namespace: &str, room: &str) -> Self {
        match (namespace, rooms::media_of(room), rooms::user_of(room)) {
            (MEDIA, Some(media_id), _) => self.fixed("item").text(media_id),
            (MEDIA, None, Some(owner)) => self.fixed("owner").text(owner),
            (NOTIFICATIONS, _, Some(user)) => self.fixed("inbox").text(user),
            _ => self.fixed("").fixed(""),
        }
    }

    /// The operation that marks notifications as read.
    pub(super) fn read(user_id: &str, mark: &ReadMark) -> Self {
        let operation = Self::new("read").text(user_id);
        match mark {
            ReadMark::Ids(ids) => {
                let operation = operation.fixed("ids").number(ids.len() as u64);
                ids.iter().fold(operation, |operation, id| operation.text(id))
            }
            ReadMark::UpTo(id) => operation.fixed("up to").number(1).text(id),
        }
    }
}

/// The message of an event for a room, as `message.rs` reads it, without the numbers, the time and the node.
fn message_of(envelope: &Envelope) -> String {
    let Envelope { namespace, room, event, argument, class, .. } = envelope;
    let (class, names) = (letter(*class), [namespace, &**room, "", &**event, ""]);
    let bytes = argument.len() + names.iter().map(|name| name.len() + 8).sum::<usize>();
    let mut text = String::with_capacity(bytes);
    text.push_str(class);
    text.push_str(" - 0 ");
    for name in names {
        // Writing to a string can't fail.
        let _ = write!(text, "{}:{name}", name.len());
    }
    text.push_str(argument);
    text
}

/// The letter of a class in messages.
pub(super) fn letter(class: Class) -> &'static str {
    match class {
        Class::Recoverable => "r",
        Class::Durable => "d",
        Class::Latest => "l",
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
