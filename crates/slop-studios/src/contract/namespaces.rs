//! The names of the namespaces.

/// The default namespace.
pub const DEFAULT: &str = "/";
/// Media progress and results.
pub const MEDIA: &str = "/media";
/// Notifications of users.
pub const NOTIFICATIONS: &str = "/notifications";

/// All of them.
pub const ALL: [&str; 3] = [DEFAULT, MEDIA, NOTIFICATIONS];

/// The namespace with this name, if there is one.
#[must_use]
pub fn named(name: &str) -> Option<&'static str> {
    ALL.into_iter().find(|known| *known == name)
}
