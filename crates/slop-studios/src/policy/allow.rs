//! Who a rule lets in.

use std::fmt;

use super::claims::ClaimPath;
use super::pattern::{Captures, Template};
use crate::identity::Identity;

/// Who a rule lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Also those without a token.
    Anyone,
    /// Who has a valid token.
    Authenticated,
    /// No one.
    Nobody,
    /// Who has a valid token of which one of these holds.
    Those(Box<[Condition]>),
}

/// What must hold of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is compared.
    pub subject: Subject,
    /// With what: text that may have parts of the name in it.
    pub value: Template,
}

/// What of a token is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The user's id must be it.
    User,
    /// The claim must be it.
    ClaimEquals(ClaimPath),
    /// The claim must have it among others.
    ClaimContains(ClaimPath),
}

impl Allow {
    /// Whether this identity is let in to what the captures come from.
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

    /// Why it does or does not let the identity in: a reason each that decided it.
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

    /// The claims that it looks at.
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
