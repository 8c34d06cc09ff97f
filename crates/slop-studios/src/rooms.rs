//! Names of rooms and media items, which of them are reserved, and who may be where.

use serde_json::value::RawValue;

use crate::identity::{Identity, is_user_id};
use crate::limits::MAX_NAME_BYTES;

/// What the room of a user's own events begins with; the user's id follows.
pub const USER_PREFIX: &str = "user:";

/// What the engine room of a media item's subscribers begins with. No client and no publisher can name it, because
/// it has a control character.
const MEDIA_PREFIX: &str = "\0media:";

/// Why a text can't name a room or a media item. The text completes "Room name …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is none.
    #[error("is required")]
    Missing,
    /// It is a number, an array or something else.
    #[error("must be a string")]
    NotAString,
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It has more than [`MAX_NAME_BYTES`] bytes.
    #[error("must not be longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// It has a line break, a tab or the like.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// Checks the name of a media item, or of a room that a client asks for.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > MAX_NAME_BYTES {
        Err(NameError::TooLong)
    } else if name.chars().any(char::is_control) {
        Err(NameError::ControlCharacter)
    } else {
        Ok(())
    }
}

/// Checks the name of a room that a publisher sends to: as for clients, and the room of any user.
///
/// # Errors
/// What is wrong with it.
pub fn check_published_room(name: &str) -> Result<(), NameError> {
    match name.strip_prefix(USER_PREFIX) {
        Some(user) if is_user_id(user) => Ok(()),
        _ => check_name(name),
    }
}

/// Reads a name from an event's argument: a JSON string, nothing else.
///
/// # Errors
/// What is wrong with it.
pub fn parse_name(argument: Option<&RawValue>) -> Result<String, NameError> {
    let json = argument.map_or("null", RawValue::get);
    if json == "null" {
        return Err(NameError::Missing);
    }
    let name: String = serde_json::from_str(json).map_err(|_not_a_string| NameError::NotAString)?;
    check_name(&name)?;
    Ok(name)
}

/// The room of a user's own events.
#[must_use]
pub fn user_room(user_id: &str) -> String {
    format!("{USER_PREFIX}{user_id}")
}

/// The engine room of a media item's subscribers.
#[must_use]
pub fn media_room(media_id: &str) -> String {
    format!("{MEDIA_PREFIX}{media_id}")
}

/// The media item whose subscribers are in this engine room, if it is one of those.
#[must_use]
pub fn media_of(room: &str) -> Option<&str> {
    room.strip_prefix(MEDIA_PREFIX)
}

/// The user whose own events this room gets, if it is one of those.
#[must_use]
pub fn user_of(room: &str) -> Option<&str> {
    room.strip_prefix(USER_PREFIX)
}

/// Whether the server made this engine room for itself, so that no client hears of it.
#[must_use]
pub fn is_internal(room: &str) -> bool {
    media_of(room).is_some()
}

/// What a client's room name stands for. Ids of other sockets are told by the engine, which refuses to join them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The socket's own id or its user's room: it is there already, and stays.
    Own,
    /// The room of a user that the socket is not.
    OtherUser,
    /// A room that the policy decides on.
    Custom,
}

/// What `room` stands for when a socket with this id and user asks for it.
#[must_use]
pub fn target(room: &str, socket_id: &str, user_id: Option<&str>) -> Target {
    if room == socket_id {
        return Target::Own;
    }
    match room.strip_prefix(USER_PREFIX) {
        Some(user) if user_id == Some(user) => Target::Own,
        Some(_) => Target::OtherUser,
        None => Target::Custom,
    }
}

/// Who may be in which custom room and subscribe to which media item. Every such decision is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomPolicy {
    /// Whether sockets without an identity may be anywhere.
    pub anonymous: bool,
}

impl RoomPolicy {
    /// Whether this identity may be in the custom room.
    #[must_use]
    pub fn may_join(&self, identity: Option<&Identity>, _room: &str) -> bool {
        self.anonymous || identity.is_some()
    }

    /// Whether this identity may follow the media item that has this owner, if any.
    #[must_use]
    pub fn may_subscribe(&self, identity: Option<&Identity>, _media_id: &str, owner: Option<&str>) -> bool {
        match (owner, identity) {
            (Some(owner), Some(identity)) => identity.user_id == owner,
            (Some(_), None) => false,
            (None, identity) => self.anonymous || identity.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<String, NameError> {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        parse_name(Some(&raw))
    }

    fn identity(user: &str) -> Identity {
        Identity { user_id: user.to_owned(), ..Identity::default() }
    }

    #[test]
    fn only_fitting_strings_are_names() {
        assert_eq!(parse(r#""project-123""#), Ok("project-123".to_owned()));
        assert_eq!(parse(r#""Zürich \u2603""#), Ok("Zürich ☃".to_owned()));
        assert_eq!(parse(&format!("{:?}", "x".repeat(128))), Ok("x".repeat(128)));
        assert_eq!(parse_name(None), Err(NameError::Missing));
        assert_eq!(parse("null"), Err(NameError::Missing));
        assert_eq!(parse(r#""""#), Err(NameError::Empty));
        assert_eq!(parse(&format!("{:?}", "x".repeat(129))), Err(NameError::TooLong));
        assert_eq!(parse(&format!("{:?}", "é".repeat(65))), Err(NameError::TooLong));
        for control in [r#""a\nb""#, r#""\u0000media:m1""#, r#""\u0085""#] {
            assert_eq!(parse(control), Err(NameError::ControlCharacter), "{control}");
        }
        for other in ["1", "true", r#"["a"]"#, r#"{"room":"a"}"#, r#""\ud800""#] {
            assert_eq!(parse(other), Err(NameError::NotAString), "{other}");
        }
    }

    #[test]
    fn a_publisher_reaches_every_user_room() {
        let longest = user_room(&"u".repeat(128));
        assert_eq!(check_published_room(&longest), Ok(()));
        assert_eq!(check_name(&longest), Err(NameError::TooLong));
        assert_eq!(check_published_room("user:a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(check_published_room("project-1"), Ok(()));
        assert_eq!(check_published_room(&media_room("m1")), Err(NameError::ControlCharacter));
    }

    #[test]
    fn user_rooms_are_reserved() {
        assert_eq!(target("user:a", "sid", Some("a")), Target::Own);
        assert_eq!(target("sid", "sid", None), Target::Own);
        assert_eq!(target("user:b", "sid", Some("a")), Target::OtherUser);
        assert_eq!(target("user:a", "sid", None), Target::OtherUser);
        assert_eq!(target("users", "sid", Some("a")), Target::Custom);
    }

    #[test]
    fn an_owned_item_is_its_owners() {
        let (policy, a, b) = (RoomPolicy { anonymous: true }, identity("a"), identity("b"));
        assert!(policy.may_subscribe(Some(&a), "m", Some("a")));
        assert!(!policy.may_subscribe(Some(&b), "m", Some("a")));
        assert!(!policy.may_subscribe(None, "m", Some("a")));
        assert!(policy.may_subscribe(None, "m", None));
        assert!(policy.may_join(None, "project-1"));
    }

    #[test]
    fn without_anonymous_access_an_identity_is_needed() {
        let (policy, a) = (RoomPolicy { anonymous: false }, identity("a"));
        assert!(!policy.may_join(None, "project-1"));
        assert!(!policy.may_subscribe(None, "m", None));
        assert!(policy.may_join(Some(&a), "project-1"));
        assert!(policy.may_subscribe(Some(&a), "m", None));
    }
}
