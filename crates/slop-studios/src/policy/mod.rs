//! Access to rooms and media items. Every such decision is made here, by the rules of the configuration: the first rule
//! whose pattern matches the name decides. If there is none, the contract decides.

use std::fmt;

use crate::identity::{Identity, NamedClaims};

mod allow;
mod pattern;

pub use allow::{Allow, Condition, Subject};
pub use pattern::{Captures, Pattern, PatternError, Template};

/// The rules of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules for rooms, in order.
    pub rooms: Vec<RoomRule>,
    /// The rules for media items, in order.
    pub media: Vec<MediaRule>,
}

/// A rule for joins of the rooms with a matching name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRule {
    /// The names of the rooms.
    pub name: Pattern,
    /// The namespace of the rooms; `None` for every namespace.
    pub namespace: Option<&'static str>,
    /// The condition for a join.
    pub allow: Allow,
}

/// A rule for subscriptions to the media items with a matching id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRule {
    /// The ids of the items.
    pub name: Pattern,
    /// The condition while the item has no owner.
    pub allow: Allow,
    /// The condition for others than the owner, once the item has one.
    pub allow_owned: Allow,
}

impl fmt::Display for RoomRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(namespace) = self.namespace {
            write!(f, " on {namespace}")?;
        }
        write!(f, " for {}", self.allow)
    }
}

impl fmt::Display for MediaRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}; with an owner, for {} besides", self.name, self.allow, self.allow_owned)
    }
}

/// The rules in force, and the requirement of a token, which comes before them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Rules,
    auth_required: bool,
    claims: NamedClaims,
}

/// A decision and its ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'p> {
    /// Whether access is allowed.
    pub allowed: bool,
    /// The ground of the decision.
    pub ground: Ground<'p>,
}

/// The ground of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground<'p> {
    /// `AUTH_REQUIRED`: there is no access without a valid token.
    AuthRequired,
    /// The item is the user's own.
    Owner,
    /// A rule of the configuration.
    Rule {
        /// The rule's table: `rooms` or `media`.
        table: &'static str,
        /// The rule's number in the table, from 1.
        number: usize,
        /// The rule's pattern.
        name: &'p Pattern,
        /// The rule's key that decided.
        key: &'static str,
        /// The key's value.
        allow: &'p Allow,
    },
    /// No rule matches, and it is a room or an item without an owner: the contract lets everybody in.
    Default,
    /// No rule matches, and the item has another owner.
    OwnedByAnother,
}

impl Policy {
    /// The policy of these rules.
    #[must_use]
    pub fn new(rules: Rules, auth_required: bool) -> Self {
        let rooms = rules.rooms.iter().flat_map(|rule| rule.allow.claims());
        let media = rules.media.iter().flat_map(|rule| rule.allow.claims().chain(rule.allow_owned.claims()));
        let claims = rooms.chain(media).cloned().collect();
        Self { rules, auth_required, claims }
    }

    /// Whether a connection needs a valid token.
    #[must_use]
    pub const fn auth_required(&self) -> bool {
        self.auth_required
    }

    /// The claims that the rules use.
    #[must_use]
    pub const fn claims(&self) -> &NamedClaims {
        &self.claims
    }

    /// Whether this identity may be in the custom room of this namespace.
    #[must_use]
    pub fn join(&self, identity: Option<&Identity>, namespace: &str, room: &str) -> Decision<'_> {
        if let Some(refused) = self.without_identity(identity) {
            return refused;
        }
        for (number, rule) in (1..).zip(&self.rules.rooms) {
            if rule.namespace.is_none_or(|of| of == namespace)
                && let Some(captures) = rule.name.matches(room)
            {
                let allowed = rule.allow.lets_in(identity, &captures);
                let (name, allow) = (&rule.name, &rule.allow);
                return Decision {
                    allowed,
                    ground: Ground::Rule { table: "rooms", number, name, key: "allow", allow },
                };
            }
        }
        Decision { allowed: true, ground: Ground::Default }
    }

    /// Whether this identity may follow the media item with this owner, if any.
    #[must_use]
    pub fn subscribe(&self, identity: Option<&Identity>, media_id: &str, owner: Option<&str>) -> Decision<'_> {
        if let Some(refused) = self.without_identity(identity) {
            return refused;
        }
        if owner.is_some() && owner == identity.map(|identity| identity.user_id.as_str()) {
            return Decision { allowed: true, ground: Ground::Owner };
        }
        for (number, rule) in (1..).zip(&self.rules.media) {
            if let Some(captures) = rule.name.matches(media_id) {
                let (key, allow) = match owner {
                    None => ("allow", &rule.allow),
                    Some(_) => ("allow_owned", &rule.allow_owned),
                };
                let allowed = allow.lets_in(identity, &captures);
                let ground = Ground::Rule { table: "media", number, name: &rule.name, key, allow };
                return Decision { allowed, ground };
            }
        }
        match owner {
            None => Decision { allowed: true, ground: Ground::Default },
            Some(_) => Decision { allowed: false, ground: Ground::OwnedByAnother },
        }
    }

    /// Whether both policies decide alike on the custom room.
    #[must_use]
    pub fn decides_room_as(&self, other: &Self, namespace: &str, room: &str) -> bool {
        let rule = |policy: &'_ Self| {
            let fits =
                |rule: &&RoomRule| rule.namespace.is_none_or(|of| of == namespace) && rule.name.matches(room).is_some();
            policy.rules.rooms.iter().find(fits).cloned()
        };
        self.auth_required == other.auth_required && rule(self) == rule(other)
    }

    /// Whether both policies decide alike on the media item.
    #[must_use]
    pub fn decides_media_as(&self, other: &Self, media_id: &str) -> bool {
        let rule =
            |policy: &'_ Self| policy.rules.media.iter().find(|rule| rule.name.matches(media_id).is_some()).cloned();
        self.auth_required == other.auth_required && rule(self) == rule(other)
    }

    fn without_identity(&self, identity: Option<&Identity>) -> Option<Decision<'_>> {
        let refused = self.auth_required && identity.is_none();
        refused.then_some(Decision { allowed: false, ground: Ground::AuthRequired })
    }

    /// The permissions of clients without a token, in words; `None` if there are none.
    #[must_use]
    pub fn open_to_anonymous(&self) -> Option<String> {
        if self.auth_required {
            return None;
        }
        let rooms = open(self.rules.rooms.iter().map(|rule| (&rule.name, rule.namespace.is_none(), &rule.allow)));
        let media = open(self.rules.media.iter().map(|rule| (&rule.name, true, &rule.allow)));
        let owned = self.rules.media.iter().any(|rule| rule.allow_owned == Allow::Anyone);
        let mut parts = Vec::new();
        parts.extend(rooms.map(|which| format!("join {}", which.of("room"))));
        parts.extend(media.map(|which| format!("follow {} without an owner", which.of("media item"))));
        parts.extend(owned.then(|| "follow media items of others".to_owned()));
        (!parts.is_empty()).then(|| parts.join(", and "))
    }
}

/// The names that are open to everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Any,
    NoRuleNames,
    SomeRulesName,
}

impl Open {
    fn of(self, thing: &str) -> String {
        match self {
            Self::Any => format!("any {thing}"),
            Self::NoRuleNames => format!("any {thing} that no rule names"),
            Self::SomeRulesName => format!("some {thing}s"),
        }
    }
}

/// The names that rules leave open to everybody. Each rule is its pattern, whether it is for every namespace, and its
/// condition.
fn open<'r>(rules: impl Iterator<Item = (&'r Pattern, bool, &'r Allow)>) -> Option<Open> {
    let (mut some, mut rules_seen) = (false, false);
    for (name, everywhere, allow) in rules {
        let is_last = name.is_everything() && everywhere;
        match (is_last, *allow == Allow::Anyone) {
            (true, true) if !rules_seen => return Some(Open::Any),
            (true, true) => return Some(Open::NoRuleNames),
            (true, false) => return some.then_some(Open::SomeRulesName),
            (false, is_open) => some |= is_open,
        }
        rules_seen = true;
    }
    Some(if rules_seen { Open::NoRuleNames } else { Open::Any })
}

impl Ground<'_> {
    /// The reasons of the decision for this identity, one sentence each.
    #[must_use]
    pub fn reasons(&self, identity: Option<&Identity>, name: &str) -> Vec<String> {
        match self {
            Self::AuthRequired => vec!["AUTH_REQUIRED is true, and there is no valid token".to_owned()],
            Self::Owner => vec!["the item is the user's own".to_owned()],
            Self::Default => vec!["no rule fits the name, and then anyone may".to_owned()],
            Self::OwnedByAnother => vec!["no rule fits the name, and the item has another owner".to_owned()],
            Self::Rule { name: pattern, allow, .. } => {
                let Some(captures) = pattern.matches(name) else { return Vec::new() };
                let found = pattern.captured(&captures).map(|(name, text)| format!("{{{name}}} is {text:?}"));
                found.chain(allow.reasons(identity, &captures)).collect()
            }
        }
    }
}

impl fmt::Display for Ground<'_> {
    /// The rule, in a form that lets an operator find it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthRequired => f.write_str("AUTH_REQUIRED"),
            Self::Owner => f.write_str("the owner"),
            Self::Default | Self::OwnedByAnother => f.write_str("no rule"),
            Self::Rule { table, number, name, key, allow } => {
                write!(f, "[[{table}]] {number} ({:?}), {key}: {allow}", name.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;
