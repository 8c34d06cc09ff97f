//! The scopes of publishers: permitted operations, and their targets.

use std::fmt;

use serde_json::Value;

use super::Publish;
use crate::contract::kind::Kind;
use crate::contract::rooms;
use crate::policy::{Pattern, PatternError};
use crate::text::nearest::nearest;

/// An operation that a scope can permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Publish the progress of a media item.
    MediaProgress,
    /// End a media item with a result.
    MediaComplete,
    /// End a media item without a result.
    MediaError,
    /// Read the state of a media item.
    MediaRead,
    /// Send a user a notification.
    UsersNotify,
    /// Send an event to a user's room.
    UsersEmit,
    /// Read a user's notifications.
    UsersRead,
    /// Send an event to any other room.
    RoomsEmit,
    /// Revoke all tokens of a user.
    RevokeUser,
    /// Revoke a token by its id.
    RevokeToken,
    /// Undo the revocation of a user.
    UnrevokeUser,
    /// Undo the revocation of a token.
    UnrevokeToken,
}

impl Operation {
    const ALL: [Self; 12] = [
        Self::MediaProgress,
        Self::MediaComplete,
        Self::MediaError,
        Self::MediaRead,
        Self::UsersNotify,
        Self::UsersEmit,
        Self::UsersRead,
        Self::RoomsEmit,
        Self::RevokeUser,
        Self::RevokeToken,
        Self::UnrevokeUser,
        Self::UnrevokeToken,
    ];

    /// The operation's name in scopes: the kind of target, a dot, and the action.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MediaProgress => "media.progress",
            Self::MediaComplete => "media.complete",
            Self::MediaError => "media.error",
            Self::MediaRead => "media.read",
            Self::UsersNotify => "users.notify",
            Self::UsersEmit => "users.emit",
            Self::UsersRead => "users.read",
            Self::RoomsEmit => "rooms.emit",
            // A group of its own: the permission to notify users must not include the permission to revoke their
            // tokens.
            Self::RevokeUser => "revoke.user",
            Self::RevokeToken => "revoke.token",
            // Another group: the permission to revoke must not include the permission to accept a stolen token again.
            Self::UnrevokeUser => "unrevoke.user",
            Self::UnrevokeToken => "unrevoke.token",
        }
    }

    fn subject(self) -> &'static str {
        self.as_str().split_once('.').map_or(self.as_str(), |(subject, _)| subject)
    }

    /// All names that a scope may begin with.
    fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().flat_map(|operation| [operation.subject(), operation.as_str()])
    }
}

impl Kind {
    /// The operation and the target that a publish of this kind to this item, user or room needs permission for.
    #[must_use]
    pub fn operation(self, target: &str) -> (Operation, &str) {
        match self {
            Self::Progress => (Operation::MediaProgress, target),
            Self::Complete => (Operation::MediaComplete, target),
            Self::Error => (Operation::MediaError, target),
            Self::Notification => (Operation::UsersNotify, target),
            // A user's room needs a scope for users, whatever the path of the request: `rooms:*` does not cover it.
            Self::RoomEvent => match rooms::user_of(target) {
                Some(user_id) => (Operation::UsersEmit, user_id),
                None => (Operation::RoomsEmit, target),
            },
        }
    }
}

impl Publish {
    /// The operation and the item, user or room that this publish needs permission for.
    #[must_use]
    pub fn operation(&self) -> (Operation, &str) {
        let target = match self {
            Self::Progress { media_id, .. } | Self::Complete { media_id, .. } | Self::Error { media_id, .. } => {
                media_id
            }
            Self::Notification { user_id, .. } => user_id,
            Self::RoomEvent { room, .. } => room,
        };
        self.kind().operation(target)
    }
}

/// One permission of a publisher: `*`, `media`, `media.progress` or `rooms.emit:project-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    text: Box<str>,
    /// The name of an operation, or of its kind of target; `None` for every operation.
    operation: Option<&'static str>,
    /// The permitted targets; `None` for all.
    target: Option<Pattern>,
}

/// Why a text is not a scope. The text completes "`scopes` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The text does not begin with an operation.
    #[error("has {text:?}, which no operation begins with{}", nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    Operation {
        /// The scope.
        text: String,
        /// The most similar operation.
        nearest: Option<&'static str>,
    },
    /// The text after the colon is not a pattern.
    #[error("has {text:?}, whose pattern {error}")]
    Target {
        /// The scope.
        text: String,
        /// Why it is not a pattern.
        error: PatternError,
    },
}

impl Scope {
    /// Reads a scope.
    ///
    /// # Errors
    /// Why the text is not a scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let (name, target) = match text.split_once(':') {
            Some((name, target)) => (name, Some(target)),
            None => (text, None),
        };
        let operation = match name {
            "*" if target.is_none() => None,
            name => {
                let known = Operation::names().find(|known| *known == name);
                Some(known.ok_or_else(|| ScopeError::Operation {
                    text: text.to_owned(),
                    nearest: nearest(name, Operation::names()),
                })?)
            }
        };
        let target = target.map(|target| Pattern::parse(target).and_then(Pattern::without_placeholders)).transpose();
        let target = target.map_err(|error| ScopeError::Target { text: text.to_owned(), error })?;
        Ok(Self { text: text.into(), operation, target })
    }

    fn covers(&self, operation: Operation, target: &str) -> bool {
        let does = self.operation.is_none_or(|name| name == operation.as_str() || name == operation.subject());
        does && self.target.as_ref().is_none_or(|pattern| pattern.matches(target).is_some())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All permissions of a publisher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

/// A permission that the publisher lacks. The text is for the publisher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scope of the publisher covers {}:{target}", operation.as_str())]
pub struct MissingScope {
    operation: Operation,
    target: String,
}

impl Scopes {
    /// The scopes that permit everything.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Scope { text: "*".into(), operation: None, target: None }])
    }

    /// The scopes of a token's claim: a list of scopes, or a text with a space after each scope. Invalid scopes permit
    /// nothing.
    #[must_use]
    pub fn of_claim(claim: &Value) -> Self {
        let parse = |text: &str| Scope::parse(text).ok();
        Self(match claim {
            Value::String(text) => text.split(' ').filter_map(parse).collect(),
            Value::Array(scopes) => scopes.iter().filter_map(Value::as_str).filter_map(parse).collect(),
            _ => Vec::new(),
        })
    }

    /// Whether the scopes permit nothing at all.
    pub(crate) const fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that the publisher may carry out this operation on this target.
    ///
    /// # Errors
    /// The missing permission.
    pub fn require(&self, operation: Operation, target: &str) -> Result<(), MissingScope> {
        if self.0.iter().any(|scope| scope.covers(operation, target)) {
            Ok(())
        } else {
            Err(MissingScope { operation, target: target.to_owned() })
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|scope| &*scope.text).collect();
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scopes(texts: &[&str]) -> Scopes {
        texts.iter().map(|text| Scope::parse(text).expect("a scope")).collect()
    }

    #[test]
    fn scopes_cover_operations_and_targets() {
        for (scope, covered, not_covered) in [
            (
                "*",
                &["media.progress:m", "users.read:u", "rooms.emit:r", "revoke.user:u", "revoke.token:t"][..],
                &[][..],
            ),
            ("media", &["media.progress:m", "media.read:m"], &["users.notify:m", "rooms.emit:media"]),
            ("media.complete", &["media.complete:m"], &["media.progress:m", "media.error:m"]),
            ("media:render-*", &["media.error:render-1"], &["media.error:rendering", "users.emit:render-1"]),
            ("rooms.emit:project-*", &["rooms.emit:project-1:2"], &["rooms.emit:lobby", "users.emit:project-1"]),
            (
                "users:42",
                &["users.notify:42", "users.emit:42", "users.read:42"],
                &["users.notify:421", "revoke.user:42"],
            ),
            (
                "revoke",
                &["revoke.user:42", "revoke.token:t"],
                &["users.read:42", "unrevoke.user:42", "unrevoke.token:t"],
            ),
            ("unrevoke:4*", &["unrevoke.user:42", "unrevoke.token:4"], &["revoke.user:42", "unrevoke.user:24"]),
            ("revoke.user:4*", &["revoke.user:42"], &["revoke.user:24", "revoke.token:42"]),
            ("rooms", &["rooms.emit:user-1"], &["users.emit:1"]),
        ] {
            let scopes = scopes(&[scope]);
            let may = |text: &str| {
                let (name, target) = text.split_once(':').expect("operation:target");
                let operation = Operation::ALL.into_iter().find(|operation| operation.as_str() == name);
                scopes.require(operation.expect("an operation"), target).is_ok()
            };
            assert!(covered.iter().all(|text| may(text)), "{scope} covers {covered:?}");
            assert!(!not_covered.iter().any(|text| may(text)), "{scope} does not cover {not_covered:?}");
        }
        assert!(Scopes::default().require(Operation::MediaRead, "m").is_err());
    }

    #[test]
    fn a_users_room_is_the_users() {
        let publish = |room: &str| {
            Publish::read_item(&json!({"kind": "roomEvent", "room": room, "event": "e"}).to_string()).expect("valid")
        };
        assert_eq!(publish("user:42").operation(), (Operation::UsersEmit, "42"));
        assert_eq!(publish("users").operation(), (Operation::RoomsEmit, "users"));
        let missing = scopes(&["rooms:*"]).require(Operation::UsersEmit, "42");
        assert_eq!(
            missing.map_err(|error| error.to_string()),
            Err("no scope of the publisher covers users.emit:42".to_owned())
        );
    }

    #[test]
    fn what_is_no_scope_says_why() {
        let error = |text: &str| Scope::parse(text).map(|_| ()).map_err(|error| error.to_string());
        for (text, message) in [
            ("medai:m", r#"has "medai:m", which no operation begins with; did you mean media?"#),
            ("media.progres", r#"has "media.progres", which no operation begins with; did you mean media.progress?"#),
            ("*:m", r#"has "*:m", which no operation begins with"#),
            ("", r#"has "", which no operation begins with"#),
            ("rooms:", r#"has "rooms:", whose pattern is empty"#),
            (
                "rooms:project-{id}",
                r#"has "rooms:project-{id}", whose pattern has the placeholder {id}, but nothing is filled from a scope; use * instead"#,
            ),
        ] {
            assert_eq!(error(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_claim_is_a_list_or_a_text() {
        assert_eq!(Scopes::of_claim(&json!("media rooms:a")), scopes(&["media", "rooms:a"]));
        assert_eq!(Scopes::of_claim(&json!(["media", "rooms:a b", 5, "nonsense"])), scopes(&["media", "rooms:a b"]));
        for nothing in [json!(null), json!(true), json!({"*": "*"}), json!(""), json!(["**"])] {
            assert_eq!(Scopes::of_claim(&nothing), Scopes::default(), "{nothing}");
        }
    }
}
