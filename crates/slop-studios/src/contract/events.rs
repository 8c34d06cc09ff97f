//! The contract's events: their names, and every payload and response as a type.
//!
//! Optional fields are left out, never `null`; `latency` alone may be `null` (READINGS, "Arguments").

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::time::Moment;

/// Makes a constant for each name, and the list of all of them, so that none is left out.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        $($(#[$doc])* pub const $name: &str = $text;)+

        /// All names, on any namespace.
        pub const ALL: &[&str] = &[$($name,)+];
    };
}
use names;

/// Names of the events that the server emits: an event with one of these names comes from the server itself.
pub mod server {
    #![expect(missing_docs, reason = "each is the contract's name in capitals")]
    super::names! {
        WELCOME = "welcome",
        AUTHENTICATED = "authenticated",
        AUTH_ERROR = "authError",
        LOGGED_OUT = "loggedOut",
        ROOM_JOINED = "roomJoined",
        ROOM_LEFT = "roomLeft",
        PONG = "pong",
        HEARTBEAT_ACK = "heartbeatAck",
        NOTIFICATION = "notification",
        MEDIA_PROGRESS = "mediaProgress",
        MEDIA_COMPLETE = "mediaComplete",
        MEDIA_ERROR = "mediaError",
        /// An extension: sent only if the server is configured to send it.
        TOKEN_EXPIRING = "tokenExpiring",
        /// An extension: sent only to clients that have used an event of the inbox.
        UNREAD_COUNT = "unreadCount",
    }
}

/// Names of the events that clients emit.
pub mod client {
    #![expect(missing_docs, reason = "each is the contract's name in capitals")]
    super::names! {
        AUTHENTICATE = "authenticate",
        LOGOUT = "logout",
        JOIN_ROOM = "joinRoom",
        LEAVE_ROOM = "leaveRoom",
        GET_CONNECTION_INFO = "getConnectionInfo",
        PING = "ping",
        HEARTBEAT = "heartbeat",
        SUBSCRIBE_MEDIA = "subscribeMedia",
        UNSUBSCRIBE_MEDIA = "unsubscribeMedia",
        /// An extension.
        LIST_NOTIFICATIONS = "listNotifications",
        /// An extension.
        MARK_NOTIFICATIONS_READ = "markNotificationsRead",
    }
}

/// Names of events that Socket.IO clients raise themselves, so that no event on the wire may have them.
pub const RESERVED_BY_SOCKET_IO: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Whether the name belongs to the server or to Socket.IO, so that a publisher may not send it to a room.
#[must_use]
pub fn is_reserved(event: &str) -> bool {
    server::ALL.contains(&event) || RESERVED_BY_SOCKET_IO.contains(&event)
}

/// `welcome`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome<'a> {
    /// A greeting that names the namespace.
    pub message: &'a str,
    /// The socket's id in this namespace.
    pub socket_id: &'a str,
    /// When the greeting was made.
    pub server_time: Moment,
}

/// `authenticated`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authenticated<'a> {
    /// The current user of the socket.
    pub user_id: &'a str,
    /// The token's `email`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// When the token was accepted.
    pub authenticated_at: Moment,
}

/// `tokenExpiring`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenExpiring {
    /// When the socket becomes anonymous.
    pub expires_at: Moment,
}

/// `authError` and `loggedOut`
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// What happened, for people.
    pub message: &'a str,
}

/// `roomJoined` and `roomLeft`
#[derive(Debug, Serialize)]
pub struct RoomChanged<'a> {
    /// The room.
    pub room: &'a str,
    /// Always true.
    pub success: bool,
}

/// `pong`, and the response to `ping`
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Pong {
    /// The server's clock in epoch milliseconds.
    pub timestamp: u64,
}

/// `heartbeatAck`, and the response to `heartbeat`
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatAck {
    /// The server's clock in epoch milliseconds.
    pub timestamp: u64,
    /// The same moment as ISO time.
    pub server_time: Moment,
    /// Milliseconds since the client's timestamp, never below 0; `null` without a usable one.
    pub latency: Option<u64>,
}

impl HeartbeatAck {
    /// The answer at `now` to a heartbeat with the client's timestamp `client_ms`.
    #[must_use]
    pub fn new(now: Moment, client_ms: Option<f64>) -> Self {
        let latency = client_ms
            .filter(|sent| sent.is_finite() && *sent > 0.0)
            // `as` saturates: a client whose clock is ahead gets 0.
            .map(|sent| (now.epoch_ms() as f64 - sent).round() as u64);
        Self { timestamp: now.epoch_ms(), server_time: now, latency }
    }
}

/// The response to `authenticate`
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticateResponse<'a> {
    /// Whether the token was accepted.
    pub success: bool,
    /// The user, if the token was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a str>,
    /// The error, if the token was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The response to `logout`, and to any other success without further content
#[derive(Debug, Serialize)]
pub struct Done {
    /// Always true.
    pub success: bool,
}

/// The response to any failure
#[derive(Debug, Serialize)]
pub struct Failed<'a> {
    /// Always false.
    pub success: bool,
    /// What is wrong, for people.
    pub error: &'a str,
}

impl<'a> Failed<'a> {
    /// A failure with this text.
    #[must_use]
    pub const fn new(error: &'a str) -> Self {
        Self { success: false, error }
    }
}

/// The response to `subscribeMedia` and `unsubscribeMedia` that succeeded
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaSubscribed<'a> {
    /// Always true.
    pub success: bool,
    /// The media item.
    pub media_id: &'a str,
}

/// The response to `getConnectionInfo`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo<'a> {
    /// The socket's id in this namespace.
    pub socket_id: &'a str,
    /// Whether the socket is connected; always true in a response that arrives.
    pub connected: bool,
    /// The socket's id, the user's room, and the joined rooms.
    pub rooms: Vec<String>,
    /// Whether the socket has an identity.
    pub authenticated: bool,
    /// When the socket was connected.
    pub connected_at: Moment,
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NotificationType {
    /// Something to know.
    Info,
    /// Something worked.
    Success,
    /// Something to look at.
    Warning,
    /// Something failed.
    Error,
}

impl NotificationType {
    /// Every type, as the contract lists them.
    pub const ALL: [(&'static str, Self); 4] =
        [("info", Self::Info), ("success", Self::Success), ("warning", Self::Warning), ("error", Self::Error)];
}

/// `notification`
#[derive(Debug, Serialize)]
pub struct Notification<'a> {
    /// The publisher's id, else one of the server's.
    pub id: &'a str,
    /// The subject of the notification.
    pub r#type: NotificationType,
    /// A headline.
    pub title: &'a str,
    /// The text.
    pub message: &'a str,
    /// When the server accepted it.
    pub timestamp: Moment,
    /// Further data of the publisher: an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
}

/// `unreadCount`
#[derive(Debug, Serialize)]
pub struct UnreadCount {
    /// Notifications that the user has not read.
    pub count: u64,
}

/// The response to `listNotifications`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptNotifications<'a> {
    /// Always true.
    pub success: bool,
    /// Newest first; each as in `notification`, with `read` added.
    pub notifications: Vec<Box<RawValue>>,
    /// The id for `before` in the request for the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
    /// Notifications that the user has not read.
    pub unread_count: u64,
}

/// The response to `markNotificationsRead`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationsRead {
    /// Always true.
    pub success: bool,
    /// Notifications that are still unread.
    pub unread_count: u64,
}

/// `mediaProgress`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaProgress<'a> {
    /// The media item.
    pub media_id: &'a str,
    /// Per cent, 0 to 100.
    #[serde(serialize_with = "shortest_number")]
    pub progress: f64,
    /// What is being done.
    pub stage: &'a str,
    /// Details for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
}

/// `mediaComplete`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaComplete<'a> {
    /// The media item.
    pub media_id: &'a str,
    /// The URL of the result.
    pub url: &'a str,
    /// The URL of a small picture of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbnail_url: Option<&'a str>,
    /// Further data of the publisher: an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<&'a RawValue>,
}

/// `mediaError`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaError<'a> {
    /// The media item.
    pub media_id: &'a str,
    /// What went wrong, for people.
    pub error: &'a str,
    /// What went wrong, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
}

/// A whole number without `.0`, as JavaScript writes it.
pub(crate) fn shortest_number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // Up to 2^53 every whole number is exact in both types.
    if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::{json, to_value};

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from(UNIX_EPOCH + Duration::from_millis(ms))
    }

    #[test]
    fn latency_follows_the_readings() {
        let latency = |client| HeartbeatAck::new(at(1_000), client).latency;
        assert_eq!(latency(Some(900.0)), Some(100));
        assert_eq!(latency(Some(1_000.0)), Some(0));
        assert_eq!(latency(Some(2_000.0)), Some(0));
        assert_eq!(latency(Some(f64::MAX)), Some(0));
        for unusable in [None, Some(0.0), Some(-5.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(latency(unusable), None, "{unusable:?}");
        }
        assert_eq!(
            to_value(HeartbeatAck::new(at(7), None)).ok(),
            Some(json!({"timestamp": 7, "serverTime": "1970-01-01T00:00:00.007Z", "latency": null}))
        );
    }

    #[test]
    fn optional_fields_are_left_out() {
        let progress = MediaProgress { media_id: "m", progress: 50.0, stage: "render", message: None };
        assert_eq!(
            serde_json::to_string(&progress).ok().as_deref(),
            Some(r#"{"mediaId":"m","progress":50,"stage":"render"}"#)
        );
        let notification = Notification {
            id: "n",
            r#type: NotificationType::Warning,
            title: "t",
            message: "m",
            timestamp: at(0),
            data: None,
        };
        assert_eq!(
            serde_json::to_string(&notification).ok().as_deref(),
            Some(r#"{"id":"n","type":"warning","title":"t","message":"m","timestamp":"1970-01-01T00:00:00.000Z"}"#)
        );
        assert_eq!(
            to_value(AuthenticateResponse { success: true, user_id: Some("u"), ..Default::default() }).ok(),
            Some(json!({"success": true, "userId": "u"}))
        );
    }

    #[test]
    fn publishers_may_not_speak_for_the_server() {
        for name in ["mediaProgress", "authenticated", "pong", "connect", "newListener"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["projectUpdate", "joinRoom", "error", "Connect"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
