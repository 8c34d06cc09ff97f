//! A message of an emitter, and the publish that it stands for.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::allowlist::Allowlist;
use crate::contract::events::server::{MEDIA_COMPLETE, MEDIA_ERROR, MEDIA_PROGRESS, NOTIFICATION};
use crate::contract::kind::Kind;
use crate::contract::rooms;
use crate::metrics::EmitterRefusal;
use crate::publish::body::TargetNamespace;
use crate::publish::{Publish, ReadError};

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: EmitterRefusal,
    /// More of it for the log. It has nothing of the message's data.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(reason: EmitterRefusal, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// A message that does not have its format.
    pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(EmitterRefusal::Malformed, detail)
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let detail = match error {
            // The text of a parser's error may have some of the data.
            ReadError::Malformed(_) => "the event is not JSON".to_owned(),
            ReadError::Invalid(errors) => {
                let errors = errors.iter().map(|error| format!("{} {}", error.field, error.message));
                errors.collect::<Vec<_>>().join("; ")
            }
        };
        Self::new(EmitterRefusal::Invalid, detail)
    }
}

/// An event as an emitter sends it, whatever its format.
#[derive(Debug, Clone)]
pub struct Message {
    /// The namespace's name.
    pub namespace: String,
    /// The rooms of the receivers; none for all sockets of the namespace.
    pub rooms: Vec<String>,
    /// Whether some of these sockets are excluded.
    pub excludes: bool,
    /// The event's name.
    pub event: String,
    /// The event's arguments.
    pub arguments: Vec<Box<RawValue>>,
}

impl Message {
    /// The publish, if emitters may send this event, and a publisher may as well.
    ///
    /// # Errors
    /// Why it is not published.
    pub fn into_publish(self, allowed: &Allowlist) -> Result<Publish, Refusal> {
        let namespace = TargetNamespace::ALL.into_iter().find(|(name, _)| *name == self.namespace);
        let Some((_, namespace)) = namespace else {
            return Err(Refusal::new(EmitterRefusal::Namespace, "the server has no such namespace"));
        };
        if !allowed.has(namespace, &self.event) {
            return Err(Refusal::new(EmitterRefusal::NotAllowed, "EMITTER_EVENTS does not have the event"));
        }
        if self.excludes {
            return Err(Refusal::new(EmitterRefusal::Except, "a publish goes to all sockets of its room"));
        }
        match (namespace, &*self.event) {
            (TargetNamespace::Media, MEDIA_PROGRESS) => self.media("progress"),
            (TargetNamespace::Media, MEDIA_COMPLETE) => self.media("complete"),
            (TargetNamespace::Media, MEDIA_ERROR) => self.media("error"),
            (TargetNamespace::Notifications, NOTIFICATION) => self.notification(),
            _ => self.room_event(namespace),
        }
    }

    /// The only room.
    fn room(&self) -> Result<&str, Refusal> {
        match &*self.rooms {
            [room] => Ok(room),
            [] => Err(Refusal::new(EmitterRefusal::NoRoom, "a publish goes to one room, not to a whole namespace")),
            _ => Err(Refusal::new(EmitterRefusal::SeveralRooms, "a publish goes to one room")),
        }
    }

    /// The only argument, without its opening brace.
    fn members(&self) -> Result<&str, Refusal> {
        let members = match &*self.arguments {
            [argument] => argument.get().strip_prefix('{'),
            _ => None,
        };
        members.ok_or_else(|| Refusal::new(EmitterRefusal::Invalid, "the event has one argument, an object"))
    }

    /// An event of a media item. It goes to the item's subscribers and owner, so it needs no room.
    fn media(&self, kind: &str) -> Result<Publish, Refusal> {
        let publish = Publish::read_item(&object(&[("kind", kind)], self.members()?)?)?;
        let (_, media_id) = publish.operation();
        if self.rooms.iter().any(|room| room != media_id) {
            let detail = "the room of a media event, if it has one, is the mediaId";
            return Err(Refusal::new(EmitterRefusal::Invalid, detail));
        }
        Ok(publish)
    }

    /// A notification, for the user whose room it is sent to.
    fn notification(&self) -> Result<Publish, Refusal> {
        let user_id = rooms::user_of(self.room()?)
            .ok_or_else(|| Refusal::new(EmitterRefusal::Invalid, "the room of a notification is user:{userId}"))?;
        Ok(Publish::read_item(&object(&[("kind", "notification"), ("userId", user_id)], self.members()?)?)?)
    }

    fn room_event(self, namespace: TargetNamespace) -> Result<Publish, Refusal> {
        let data = self.arguments.first().map_or("null", |argument| argument.get());
        let rest = format!(r#""data":{data}}}"#);
        let body = object(&[("event", &self.event), ("namespace", namespace.as_str())], &rest)?;
        let mut publish = Publish::read(Kind::RoomEvent, self.room()?, &body)?;
        if let Publish::RoomEvent { body, .. } = &mut publish {
            body.further = self.arguments.into_iter().skip(1).collect();
        }
        Ok(publish)
    }
}

/// An object with these members before its other ones, which end with the closing brace.
fn object(members: &[(&str, &str)], rest: &str) -> Result<String, Refusal> {
    let mut object = String::with_capacity(rest.len() + 64);
    object.push('{');
    for (index, (name, value)) in members.iter().enumerate() {
        let value = serde_json::to_string(value).map_err(|_error| Refusal::malformed("a name is not a text"))?;
        object.extend([if index == 0 { "\"" } else { ",\"" }, name, "\":", &value]);
    }
    if rest.trim_start() != "}" {
        object.push(',');
    }
    object.push_str(rest);
    Ok(object)
}
