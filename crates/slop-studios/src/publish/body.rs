//! The publishes as types: the bodies of the HTTP API, and the tagged objects of a batch.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::fields::{FieldError, Fields, ReadError};
use crate::contract::delivery::Class;
use crate::contract::events::{self, NotificationType};
use crate::contract::kind::Kind;
use crate::contract::rooms::is_user_id;
use crate::contract::rooms::{check_name, check_room};
use crate::limits::MAX_EVENT_NAME_BYTES;

/// A publish. As JSON it is tagged by `kind`, with the fields of the HTTP path beside those of the body.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Publish {
    /// A media item goes on.
    Progress {
        /// The item.
        media_id: String,
        /// What is said of it.
        #[serde(flatten)]
        body: ProgressBody,
    },
    /// A media item ended with a result.
    Complete {
        /// The item.
        media_id: String,
        /// What is said of it.
        #[serde(flatten)]
        body: CompleteBody,
    },
    /// A media item ended without one.
    Error {
        /// The item.
        media_id: String,
        /// What is said of it.
        #[serde(flatten)]
        body: ErrorBody,
    },
    /// A user is told something.
    Notification {
        /// The user.
        user_id: String,
        /// What the user is told.
        #[serde(flatten)]
        body: NotificationBody,
    },
    /// A room is told something.
    RoomEvent {
        /// The room.
        room: String,
        /// What the room is told.
        #[serde(flatten)]
        body: RoomEventBody,
    },
}

/// The warnings for progress that was brought into its range.
const ABOVE_RANGE: &str = "is above 100 and was taken as 100; lower progress of this attempt will be refused";
const BELOW_RANGE: &str = "is below 0 and was taken as 0";

/// Says how far a media item is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"progress": 42.5, "stage": "rendering", "message": "frame 102 of 240", "ownerId": "42"}))]
pub struct ProgressBody {
    /// Per cent. Brought into 0 to 100; not below the last of the same attempt.
    #[serde(serialize_with = "events::shortest_number")]
    pub progress: f64,
    /// What the publisher is told if another number was given.
    #[serde(skip)]
    pub clamped: Option<&'static str>,
    /// What is being done.
    #[schema(min_length = 1)]
    pub stage: String,
    /// Details for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whose the item is: the user gets its events without subscribing, and nobody else may subscribe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub owner_id: Option<String>,
    /// Which attempt this belongs to. A higher one than before begins the item's life again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub attempt: Option<u32>,
}

/// Says that a media item is done.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"url": "https://cdn.example.com/m1.mp4", "metadata": {"seconds": 12}, "ownerId": "42"}))]
pub struct CompleteBody {
    /// Where the result is.
    #[schema(min_length = 1)]
    pub url: String,
    /// Where a small picture of it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbnail_url: Option<String>,
    /// Whatever else clients are to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
    /// Whose the item is: the user gets its events without subscribing, and nobody else may subscribe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub owner_id: Option<String>,
    /// Which attempt this belongs to. A higher one than before begins the item's life again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub attempt: Option<u32>,
}

/// Says that a media item failed.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"error": "the prompt was refused", "code": "PROMPT_REFUSED", "ownerId": "42"}))]
pub struct ErrorBody {
    /// What went wrong, for people.
    #[schema(min_length = 1)]
    pub error: String,
    /// What went wrong, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Whose the item is: the user gets its events without subscribing, and nobody else may subscribe.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub owner_id: Option<String>,
    /// Which attempt this belongs to. A higher one than before begins the item's life again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub attempt: Option<u32>,
}

/// Tells a user something.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"type": "success", "title": "Render finished", "message": "Your video is ready.", "data": {"mediaId": "m1"}}))]
pub struct NotificationBody {
    /// What it is about.
    pub r#type: NotificationType,
    /// A headline.
    #[schema(min_length = 1)]
    pub title: String,
    /// The text.
    pub message: String,
    /// Whatever else clients are to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub data: Option<Box<RawValue>>,
    /// An id of the publisher's, unique for the user. Publishing it again is answered with the first receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub id: Option<String>,
}

/// Tells a room something.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"event": "projectUpdate", "data": {"title": "New title"}}))]
pub struct RoomEventBody {
    /// The event's name. Not one of the server's own or of Socket.IO's.
    #[schema(min_length = 1, max_length = 128)]
    pub event: String,
    /// The event's argument, any JSON. Left out: `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub data: Option<Box<RawValue>>,
    /// Further arguments, each any JSON. The HTTP API has none.
    #[serde(skip)]
    pub further: Vec<Box<RawValue>>,
    /// Whose room it is.
    #[serde(default)]
    pub namespace: TargetNamespace,
    /// What is to be done for those who are not there to read it.
    #[serde(default)]
    pub delivery: Class,
}

/// A namespace of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(default = "/")]
pub enum TargetNamespace {
    /// `/`
    #[default]
    #[serde(rename = "/")]
    Default,
    /// `/media`
    #[serde(rename = "/media")]
    Media,
    /// `/notifications`
    #[serde(rename = "/notifications")]
    Notifications,
}

impl TargetNamespace {
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("/", Self::Default), ("/media", Self::Media), ("/notifications", Self::Notifications)];

    /// The namespace's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "/",
            Self::Media => "/media",
            Self::Notifications => "/notifications",
        }
    }
}

impl Publish {
    /// Reads the body of a request whose path gives the kind and the target.
    ///
    /// # Errors
    /// If the body is not JSON; otherwise every error of the body and of the target.
    pub fn read(kind: Kind, target: &str, json: &str) -> Result<Self, ReadError> {
        let mut fields = Fields::parse(json)?;
        let target = check_target(kind, target.to_owned(), &mut fields);
        let publish = Self::read_body(kind, target, &mut fields);
        fields.finish(publish)
    }

    /// Reads an item of a batch.
    ///
    /// # Errors
    /// Every error of the item.
    pub fn read_item(json: &str) -> Result<Self, ReadError> {
        let mut fields = Fields::parse(json)?;
        let Some(kind) = fields.required_choice("kind", Kind::ALL) else {
            // The fields depend on the kind, which is unknown, so the other fields are not checked.
            return Err(fields.finish_with_errors_so_far());
        };
        let target = fields.required_string(kind.target_field());
        let target = target.and_then(|target| check_target(kind, target, &mut fields));
        let publish = Self::read_body(kind, target, &mut fields);
        fields.finish(publish)
    }

    /// The kind of the publish.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Progress { .. } => Kind::Progress,
            Self::Complete { .. } => Kind::Complete,
            Self::Error { .. } => Kind::Error,
            Self::Notification { .. } => Kind::Notification,
            Self::RoomEvent { .. } => Kind::RoomEvent,
        }
    }

    /// The fields whose value was changed before it was accepted.
    #[must_use]
    pub fn warnings(&self) -> Vec<FieldError> {
        let clamped = match self {
            Self::Progress { body, .. } => body.clamped,
            _ => None,
        };
        clamped.map(|message| FieldError::new("progress", message)).into_iter().collect()
    }

    /// Reads every field before the first `?`, so that every error is found.
    fn read_body(kind: Kind, target: Option<String>, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match kind {
            Kind::Progress => {
                let body = ProgressBody::read(fields);
                Self::Progress { media_id: target?, body: body? }
            }
            Kind::Complete => {
                let body = CompleteBody::read(fields);
                Self::Complete { media_id: target?, body: body? }
            }
            Kind::Error => {
                let body = ErrorBody::read(fields);
                Self::Error { media_id: target?, body: body? }
            }
            Kind::Notification => {
                let body = NotificationBody::read(fields);
                Self::Notification { user_id: target?, body: body? }
            }
            Kind::RoomEvent => {
                let body = RoomEventBody::read(fields);
                Self::RoomEvent { room: target?, body: body? }
            }
        })
    }
}

/// Checks the name of a user, for paths and bodies.
///
/// # Errors
/// What is wrong with it.
pub fn check_user_id(field: &'static str, user_id: &str) -> Result<(), FieldError> {
    if is_user_id(user_id) {
        Ok(())
    } else {
        Err(FieldError::new(field, "must be 1 to 128 bytes without control characters"))
    }
}

fn check_target(kind: Kind, target: String, fields: &mut Fields<'_>) -> Option<String> {
    let field = kind.target_field();
    let checked = match kind {
        Kind::Progress | Kind::Complete | Kind::Error => check_name(&target).map_err(|error| error.to_string()),
        Kind::Notification => check_user_id(field, &target).map_err(|error| error.message.into_owned()),
        Kind::RoomEvent => check_room(&target).map_err(|error| error.to_string()),
    };
    match checked {
        Ok(()) => Some(target),
        Err(message) => {
            fields.refuse(field, message);
            None
        }
    }
}

fn read_owner(fields: &mut Fields<'_>) -> Option<String> {
    let owner = fields.string("ownerId")?;
    if let Err(error) = check_user_id("ownerId", &owner) {
        fields.refuse("ownerId", error.message);
        return None;
    }
    Some(owner)
}

impl ProgressBody {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let progress = fields.required_number("progress");
        let stage = fields.required_string("stage");
        let message = fields.string("message");
        let owner_id = read_owner(fields);
        let attempt = fields.ordinal("attempt");
        let given = progress?;
        Some(Self {
            // Adding 0.0 turns -0 into the 0 that JSON writers of other languages expect.
            progress: given.clamp(0.0, 100.0) + 0.0,
            clamped: match given {
                number if number > 100.0 => Some(ABOVE_RANGE),
                number if number < 0.0 => Some(BELOW_RANGE),
                _ => None,
            },
            stage: stage?,
            message,
            owner_id,
            attempt,
        })
    }
}

impl CompleteBody {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields.required_string("url");
        let thumbnail_url = fields.string("thumbnailUrl");
        let metadata = fields.object("metadata");
        let owner_id = read_owner(fields);
        let attempt = fields.ordinal("attempt");
        Some(Self { url: url?, thumbnail_url, metadata, owner_id, attempt })
    }
}

impl ErrorBody {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let error = fields.required_string("error");
        let code = fields.string("code");
        let owner_id = read_owner(fields);
        let attempt = fields.ordinal("attempt");
        Some(Self { error: error?, code, owner_id, attempt })
    }
}

impl NotificationBody {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let r#type = fields.required_choice("type", &NotificationType::ALL);
        let title = fields.required_string("title");
        let message = fields.present_string("message");
        let data = fields.object("data");
        let id = fields.string("id");
        if let Some(Err(error)) = id.as_deref().map(check_name) {
            fields.refuse("id", error.to_string());
        }
        Some(Self { r#type: r#type?, title: title?, message: message?, data, id })
    }
}

impl RoomEventBody {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let event = fields.required_string("event");
        if let Some(name) = &event {
            if name.len() > MAX_EVENT_NAME_BYTES {
                fields.refuse("event", format!("must not be longer than {MAX_EVENT_NAME_BYTES} bytes"));
            } else if name.chars().any(char::is_control) {
                fields.refuse("event", "must not contain control characters");
            } else if events::is_reserved(name) {
                fields.refuse("event", "is reserved for the server");
            }
        }
        let data = fields.anything("data");
        let namespace = fields.choice("namespace", &TargetNamespace::ALL);
        let delivery = fields.choice("delivery", &Class::ALL);
        Some(Self {
            event: event?,
            data,
            further: Vec::new(),
            namespace: namespace.unwrap_or_default(),
            delivery: delivery.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields_refused(result: Result<Publish, ReadError>) -> Vec<String> {
        match result {
            Err(ReadError::Invalid(errors)) => errors.into_iter().map(|error| error.field.into_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_item_is_what_a_request_is() {
        let item = json!({"kind": "progress", "mediaId": "m", "progress": 150, "stage": "s", "attempt": 2});
        let read = Publish::read_item(&item.to_string()).expect("valid");
        let Publish::Progress { media_id, body } = &read else { panic!("{read:?}") };
        assert_eq!((media_id.as_str(), body.progress, body.attempt), ("m", 100.0, Some(2)));

        let kinds = [
            json!({"kind": "complete", "mediaId": "m", "url": "u", "metadata": {"big": 12345678901234567890123u128.to_string()}}),
            json!({"kind": "error", "mediaId": "m", "error": "e", "code": "C", "ownerId": "o"}),
            json!({"kind": "notification", "userId": "u", "type": "info", "title": "t", "message": "m", "data": {"a": [1]}}),
            json!({"kind": "roomEvent", "room": "r", "event": "e", "data": null, "namespace": "/media", "delivery": "latest"}),
        ];
        for item in kinds {
            let read = Publish::read_item(&item.to_string()).expect("valid");
            assert_eq!(serde_json::to_value(&read).ok(), Some(item));
        }
    }

    #[test]
    fn the_target_is_checked_with_the_rest() {
        let refused = fields_refused(Publish::read(Kind::Progress, "a\nb", r#"{"progress":1}"#));
        assert_eq!(refused, ["mediaId", "stage"]);
        let refused = fields_refused(Publish::read_item(r#"{"kind":"notification","type":"loud","title":"t"}"#));
        assert_eq!(refused, ["userId", "type", "message"]);
        assert_eq!(fields_refused(Publish::read_item(r#"{"kind":"x","a":1}"#)), ["kind"]);
        assert_eq!(fields_refused(Publish::read_item("{}")), ["kind"]);
        // The path names the item already.
        assert_eq!(fields_refused(Publish::read(Kind::Error, "m", r#"{"error":"e","mediaId":"n"}"#)), ["mediaId"]);
    }

    #[test]
    fn a_room_event_can_not_speak_for_the_server() {
        for event in ["mediaComplete", "disconnect", "", "a\nb"] {
            let body = json!({"event": event}).to_string();
            assert_eq!(fields_refused(Publish::read(Kind::RoomEvent, "r", &body)), ["event"], "{event}");
        }
        let body = r#"{"event":"e","namespace":"/admin","delivery":"never"}"#;
        assert_eq!(
            fields_refused(Publish::read(Kind::RoomEvent, "\u{0}media:m", body)),
            ["room", "namespace", "delivery"]
        );
    }

    #[test]
    fn progress_is_brought_into_range() {
        for (given, kept) in [("-1e300", 0.0), ("-0.0", 0.0), ("33.3", 33.3), ("1e300", 100.0)] {
            let body = format!(r#"{{"progress":{given},"stage":"s"}}"#);
            let Ok(Publish::Progress { body, .. }) = Publish::read(Kind::Progress, "m", &body) else {
                panic!("{given}")
            };
            assert_eq!(body.progress.to_bits(), f64::to_bits(kept));
        }
        for wrong in ["\"5\"", "null", "true", "1e999", "NaN"] {
            let body = format!(r#"{{"progress":{wrong},"stage":"s"}}"#);
            assert!(Publish::read(Kind::Progress, "m", &body).is_err(), "{wrong}");
        }
    }
}
