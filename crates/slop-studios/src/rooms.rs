//! Names of rooms and media items, and which of them are reserved. Who may be where is the `policy`'s.

use serde_json::value::RawValue;

use crate::identity::is_user_id;
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
    /// It has half of a surrogate pair. Other texts may become U+FFFD there, but names that are two must not become one.
    #[error("must not contain half of a surrogate pair")]
    NotUnicode,
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

/// Checks the name of a media item, or of a room that is no user's.
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

/// Checks the name of a room. A user's is longer than others by what it begins with.
///
/// # Errors
/// What is wrong with it.
pub fn check_room(name: &str) -> Result<(), NameError> {
    match name.strip_prefix(USER_PREFIX) {
        Some(user) if is_user_id(user) => Ok(()),
        _ => check_name(name),
    }
}

/// Reads the name of a media item from an event's argument: a JSON string, nothing else.
///
/// # Errors
/// What is wrong with it.
pub fn parse_name(argument: Option<&RawValue>) -> Result<String, NameError> {
    parse(argument, check_name)
}

/// The same for a room.
///
/// # Errors
/// What is wrong with it.
pub fn parse_room(argument: Option<&RawValue>) -> Result<String, NameError> {
    parse(argument, check_room)
}

fn parse(argument: Option<&RawValue>, check: fn(&str) -> Result<(), NameError>) -> Result<String, NameError> {
    let json = argument.map_or("null", RawValue::get);
    if json == "null" {
        return Err(NameError::Missing);
    }
    let name: String = serde_json::from_str(json)
        .map_err(|_error| if json.starts_with('"') { NameError::NotUnicode } else { NameError::NotAString })?;
    check(&name)?;
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

/// What a client's room name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The socket's own id or its user's room: it is there already, and stays.
    Own,
    /// The room of a user that the socket is not, or the id of another socket.
    Another,
    /// A room that the policy decides on.
    Custom,
}

/// What `room` stands for when a socket with this id and user asks for it. Ids of other sockets only the engine can tell: here
/// they are custom.
#[must_use]
pub fn target(room: &str, socket_id: &str, user_id: Option<&str>) -> Target {
    if room == socket_id {
        return Target::Own;
    }
    match room.strip_prefix(USER_PREFIX) {
        Some(user) if user_id == Some(user) => Target::Own,
        Some(_) => Target::Another,
        None => Target::Custom,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<String, NameError> {
        let raw: Box<RawValue> = serde_json::from_str(json).expect("JSON");
        let name = parse_name(Some(&raw));
        assert_eq!(parse_room(Some(&raw)), name);
        name
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
        for other in ["1", "true", r#"["a"]"#, r#"{"room":"a"}"#] {
            assert_eq!(parse(other), Err(NameError::NotAString), "{other}");
        }
        assert_eq!(parse(r#""\ud800""#), Err(NameError::NotUnicode));
    }

    #[test]
    fn every_users_room_has_a_name() {
        let longest = user_room(&"u".repeat(128));
        assert_eq!(check_room(&longest), Ok(()));
        assert_eq!(check_name(&longest), Err(NameError::TooLong));
        assert_eq!(check_room("user:a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(check_room("project-1"), Ok(()));
        assert_eq!(check_room(&media_room("m1")), Err(NameError::ControlCharacter));
    }

    #[test]
    fn user_rooms_are_reserved() {
        assert_eq!(target("user:a", "sid", Some("a")), Target::Own);
        assert_eq!(target("sid", "sid", None), Target::Own);
        assert_eq!(target("user:b", "sid", Some("a")), Target::Another);
        assert_eq!(target("user:a", "sid", None), Target::Another);
        assert_eq!(target("users", "sid", Some("a")), Target::Custom);
    }
}
