//! Names of rooms, media items and users, and which of them are reserved. Access is decided by the `policy`.

use serde_json::value::RawValue;

use crate::limits::{MAX_NAME_BYTES, MAX_USER_ID_BYTES};

/// Prefix of the room of a user's own events; the user's id follows.
pub const USER_PREFIX: &str = "user:";

/// Prefix of the engine room of a media item's subscribers. No client and no publisher can name it, because it has a
/// control character.
const MEDIA_PREFIX: &str = "\0media:";

/// Why a text can't name a room or a media item. The text completes "Room name …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no name.
    #[error("is required")]
    Missing,
    /// The name is a number, an array or another value that is not a string.
    #[error("must be a string")]
    NotAString,
    /// The name has half of a surrogate pair. Other texts may get U+FFFD in its place, but two different names must not
    /// become one.
    #[error("must not contain half of a surrogate pair")]
    NotUnicode,
    /// The name has no characters.
    #[error("must not be empty")]
    Empty,
    /// The name has more than [`MAX_NAME_BYTES`] bytes.
    #[error("must not be longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// The name has a control character, such as a line break or a tab.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// Checks the name of a media item, or of a room other than a user's room.
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

/// Checks the name of a room. The name of a user's room may be longer than others by its prefix.
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

/// Whether `text` can be a user's id: 1 to 128 bytes without control characters.
#[must_use]
pub fn is_user_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_USER_ID_BYTES && !text.chars().any(char::is_control)
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

/// The media item of this engine room, if it is a room of subscribers.
#[must_use]
pub fn media_of(room: &str) -> Option<&str> {
    room.strip_prefix(MEDIA_PREFIX)
}

/// The user of this room, if it is a room of a user's own events.
#[must_use]
pub fn user_of(room: &str) -> Option<&str> {
    room.strip_prefix(USER_PREFIX)
}

/// Whether the room is an internal engine room, which no client sees.
#[must_use]
pub fn is_internal(room: &str) -> bool {
    media_of(room).is_some()
}

/// The meaning of a client's room name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The socket's own id or its user's room: the socket is a member already, and stays one.
    Own,
    /// The room of another user, or the id of another socket.
    Another,
    /// A room that the policy decides on.
    Custom,
}

/// The meaning of `room` for a socket with this id and user. Only the engine knows the ids of other sockets: here they
/// count as custom.
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
