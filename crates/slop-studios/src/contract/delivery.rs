//! The delivery of events to slow or absent receivers, and the destination of each event. Both are defined only here.
//!
//! What each class promises is in `docs/delivery.md`. A new event of the contract needs a new [`Route`]. For a room event,
//! the publisher chooses all three fields.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::events::server;
use super::namespaces::{MEDIA, NOTIFICATIONS};
use super::rooms;

/// What is done for receivers that are slow or away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeliveryClass, default = "recoverable")]
pub enum Class {
    /// Kept for those who reconnect soon.
    #[default]
    Recoverable,
    /// Committed to the store before it goes out.
    Durable,
    /// Only the newest matters.
    Latest,
}

impl Class {
    /// All of them, by the name that publishers use.
    pub(crate) const ALL: [(&'static str, Self); 3] =
        [("recoverable", Self::Recoverable), ("durable", Self::Durable), ("latest", Self::Latest)];
}

/// The destination of an event of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The namespace.
    pub namespace: &'static str,
    /// The event's name.
    pub event: &'static str,
    /// Its class.
    pub class: Class,
}

impl Route {
    /// The progress of a media item.
    pub const PROGRESS: Self = Self { namespace: MEDIA, event: server::MEDIA_PROGRESS, class: Class::Latest };
    /// The end of a media item with a result.
    pub const COMPLETE: Self = Self { namespace: MEDIA, event: server::MEDIA_COMPLETE, class: Class::Durable };
    /// The end of a media item without a result.
    pub const ERROR: Self = Self { namespace: MEDIA, event: server::MEDIA_ERROR, class: Class::Durable };
    /// A notification.
    pub const NOTIFICATION: Self =
        Self { namespace: NOTIFICATIONS, event: server::NOTIFICATION, class: Class::Durable };
}

/// An event with its destination: the unit that is stored, dispatched and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The namespace, one of the server's.
    pub namespace: &'static str,
    /// The room of the receivers.
    pub room: Arc<str>,
    /// The room of the item's owner, whose sockets get the event as well. A socket in both rooms gets it once.
    pub owner_room: Option<Arc<str>>,
    /// The event's name.
    pub event: Arc<str>,
    /// The event's argument, JSON; empty for an event without one.
    pub argument: Arc<str>,
    /// The class, which decides on the delivery to slow or absent receivers.
    pub class: Class,
}

impl Envelope {
    /// An event of a media item, for its subscribers and its owner.
    #[must_use]
    pub fn of_media(route: Route, media_id: &str, owner: Option<&str>, argument: &Arc<str>) -> Self {
        let owner_room = owner.map(|owner| rooms::user_room(owner).into());
        Self { owner_room, ..Self::routed(route, rooms::media_room(media_id).into(), argument) }
    }

    /// An event for a user.
    #[must_use]
    pub fn of_user(route: Route, user_id: &str, argument: &Arc<str>) -> Self {
        Self::routed(route, rooms::user_room(user_id).into(), argument)
    }

    fn routed(route: Route, room: Arc<str>, argument: &Arc<str>) -> Self {
        let Route { namespace, event, class } = route;
        Self { namespace, room, owner_room: None, event: event.into(), argument: Arc::clone(argument), class }
    }

    /// The common key of events of which only the newest matters; `None` for other events. No room and no event has a
    /// control character in its name, so that the keys of two rooms differ.
    #[must_use]
    pub fn latest_key(&self) -> Option<String> {
        (self.class == Class::Latest).then(|| format!("{}\0{}", self.room, self.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_goes_where_its_route_says() {
        let argument: Arc<str> = "{}".into();
        let progress = Envelope::of_media(Route::PROGRESS, "m", Some("u"), &argument);
        assert_eq!((progress.namespace, &*progress.event, progress.class), (MEDIA, "mediaProgress", Class::Latest));
        assert_eq!(progress.owner_room.as_deref(), Some("user:u"));
        let other = Envelope::of_media(Route::PROGRESS, "n", None, &argument);
        assert_ne!(progress.latest_key(), other.latest_key());
        let notification = Envelope::of_user(Route::NOTIFICATION, "u", &argument);
        assert_eq!((&*notification.room, notification.latest_key()), ("user:u", None));
    }
}
