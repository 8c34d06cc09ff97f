//! The kinds of publish.

/// Makes the enum with the name and the target of each kind, so that none is left out.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $name:literal for $target:literal,)+) => {
        /// The kind of a publish, without its content.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// All of them, by name.
            pub(crate) const ALL: &[(&'static str, Self)] = &[$(($name, Self::$kind),)+];

            /// The `kind` of a batch's items, and the label of metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// The field that names the target.
            pub(crate) const fn target_field(self) -> &'static str {
                match self {
                    $(Self::$kind => $target,)+
                }
            }
        }
    };
}

kinds! {
    /// The progress of a media item.
    Progress => "progress" for "mediaId",
    /// The end of a media item with a result.
    Complete => "complete" for "mediaId",
    /// The end of a media item without a result.
    Error => "error" for "mediaId",
    /// A notification for a user.
    Notification => "notification" for "userId",
    /// An event for a room.
    RoomEvent => "roomEvent" for "room",
}
