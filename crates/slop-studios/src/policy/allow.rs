//! The access conditions of rules.

use std::fmt;

use super::pattern::{Captures, Template};
use crate::identity::ClaimPath;
use crate::identity::Identity;

/// The access condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Everybody, also without a token.
    Anyone,
    /// Everybody with a valid token.
    Authenticated,
    /// Nobody.
    Nobody,
    /// Everybody with a valid token for which one of these conditions holds.
    Those(Box<[Condition]>),
}

/// A condition on a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The compared part of the token.
    pub subject: Subject,
    /// The value to compare with: text that may contain parts of the name.
    pub value: Template,
}

/// The part of a token that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The user's id must equal the value.
    User,
    /// The claim must equal the value.
    ClaimEquals(ClaimPath),
    /// The claim must contain the value.
    ClaimContains(ClaimPath),
}

impl Allow {
    /// Whether this identity is let in to the name of the captures.
    #[must_use]
    pub fn lets_in(&self, identity: Option<&Identity>, captures: &Captures<'_>) -> bool {
        match (self, identity) {
            (Self::Anyone, _) | (Self::Authenticated, Some(_)) => true,
            (Self::Nobody, _) | (Self::Authenticated | Self::Those(_), None) => false,
            (Self::Those(conditions), Some(identity)) => {
                conditions.iter().any(|condition| condition.holds(identity, captures))
            }
        }
    }

    /// The reasons for the decision: one for each condition that decided it.
    pub(super) fn reasons(&self, identity: Option<&Identity>, captures: &Captures<'_>) -> Vec<String> {
        match (self, identity) {
            (Self::Anyone, _) => vec!["anyone may".to_owned()],
            (Self::Nobody, _) => vec!["nobody may".to_owned()],
            (Self::Authenticated, Some(identity)) => vec![format!("{:?} has a valid token", identity.user_id)],
            (Self::Authenticated | Self::Those(_), None) => vec!["there is no valid token".to_owned()],
            (Self::Those(conditions), Some(identity)) => {
                let holding = conditions.iter().find(|condition| condition.holds(identity, captures));
                let deciding = holding.map_or(&**conditions, std::slice::from_ref);
                deciding.iter().map(|condition| condition.reason(identity, captures)).collect()
            }
        }
    }

    /// The claims that the conditions use.
    pub(super) fn claims(&self) -> impl Iterator<Item = &ClaimPath> {
        let conditions: &[Condition] = match self {
            Self::Those(conditions) => conditions,
            _ => &[],
        };
        conditions.iter().filter_map(|condition| match &condition.subject {
            Subject::User => None,
            Subject::ClaimEquals(claim) | Subject::ClaimContains(claim) => Some(claim),
        })
    }
}

impl Condition {
    fn holds(&self, identity: &Identity, captures: &Captures<'_>) -> bool {
        let wanted = self.value.fill(captures);
        match &self.subject {
            Subject::User => identity.user_id == wanted,
            Subject::ClaimEquals(claim) => identity.claims.equals(claim, &wanted),
            Subject::ClaimContains(claim) => identity.claims.contains(claim, &wanted),
        }
    }

    fn reason(&self, identity: &Identity, captures: &Captures<'_>) -> String {
        let wanted = self.value.fill(captures);
        let holds = self.holds(identity, captures);
        match &self.subject {
            Subject::User if holds => format!("the user's id is {wanted:?}"),
            Subject::User => format!("the user's id is {:?}, not {wanted:?}", identity.user_id),
            Subject::ClaimEquals(claim) if holds => format!("the claim {claim} is {wanted:?}"),
            Subject::ClaimEquals(claim) => {
                format!("the claim {claim} {}, not {wanted:?}", identity.claims.describe(claim))
            }
            Subject::ClaimContains(claim) if holds => format!("the claim {claim} contains {wanted:?}"),
            Subject::ClaimContains(claim) => {
                format!("the claim {claim} {} and does not contain {wanted:?}", identity.claims.describe(claim))
            }
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Nobody => f.write_str("nobody"),
            Self::Those(conditions) => {
                for (index, condition) in conditions.iter().enumerate() {
                    let or = if index == 0 { "" } else { " or " };
                    write!(f, "{or}{condition}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.to_string();
        match &self.subject {
            Subject::User => write!(f, "user {value:?}"),
            Subject::ClaimEquals(claim) => write!(f, "claim {claim} equals {value:?}"),
            Subject::ClaimContains(claim) => write!(f, "claim {claim} contains {value:?}"),
        }
    }
}
