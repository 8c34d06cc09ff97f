//! The claims of a token, and the rules for them. The texts of the errors are the contract's, and are sent to clients
//! unchanged.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::flaw::Flaw;
use super::numbers::{id_text, literal_text};
use super::proof::{Proof, VerifiedBy};
use crate::contract::rooms::is_user_id;
use crate::identity::KeptClaims;
use crate::limits::{CLOCK_SKEW_SECONDS, MAX_EMAIL_BYTES, MAX_EXPIRY_SECONDS};
use crate::limits::{MAX_AUDIENCE_BYTES, MAX_ISSUER_BYTES, MAX_TOKEN_ID_BYTES};
use crate::text::excerpt;

/// What a verified token says about its bearer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The claim `userId`, else `id`, else `sub`: 1 to 128 bytes without control characters.
    pub user_id: String,
    /// The claim `email`, if it is a string of at most 320 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The end of the identity in epoch seconds: `exp` plus the leeway, or `iat` plus the longest lifetime. `None` if
    /// it has neither. At most the end of the year 9999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The claim `iat` in epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<u64>,
    /// The claim `jti`, if it is a string or a number of 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Box<str>>,
    /// The facts that decide whether its token is still accepted.
    #[serde(default)]
    pub proof: Proof,
    /// The claims that rules of the room policy name.
    #[serde(default, skip_serializing_if = "KeptClaims::is_empty")]
    pub claims: KeptClaims,
}

/// The requirements for a token's claims, besides a valid signature.
#[derive(Debug, Clone, Default)]
pub struct ClaimRules {
    /// `iss` must be one of these, unless the list is empty.
    pub issuers: Vec<String>,
    /// `aud` must contain one of these, unless the list is empty.
    pub audiences: Vec<String>,
    /// How far the clocks of issuers may be off.
    pub leeway: Duration,
    /// The maximum time from `iat` to the end of a token.
    pub max_lifetime: Option<Duration>,
}

/// The claims that are read; all others are ignored.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "userId")]
    user_id: Option<Box<RawValue>>,
    id: Option<Box<RawValue>>,
    sub: Option<Box<RawValue>>,
    email: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    jti: Option<Box<RawValue>>,
}

impl ClaimRules {
    /// The identity in the claims, checked as of `now` in epoch seconds. This key has verified them.
    pub(super) fn check(&self, claims: Claims, verified_by: VerifiedBy, now: u64) -> Result<Identity, Flaw> {
        let issuer = claims.iss.as_ref().and_then(Value::as_str);
        let audiences = match &claims.aud {
            Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).collect(),
            audience => Vec::from_iter(audience.as_ref().and_then(Value::as_str)),
        };
        self.check_parties(issuer, audiences.iter().copied())?;

        let date = |name, claim: &Option<Value>| claim.as_ref().map(|claim| numeric_date(name, claim)).transpose();
        let exp = date("exp", &claims.exp)?;
        let not_before = date("nbf", &claims.nbf)?;
        let issued_at = date("iat", &claims.iat)?;
        let expires_at = self.not_over(exp, issued_at, now)?;
        let latest = now.saturating_add(CLOCK_SKEW_SECONDS.max(self.leeway.as_secs()));
        for (claim, time) in [("nbf", not_before), ("iat", issued_at)] {
            if let Some(time) = time.filter(|time| *time > latest) {
                return Err(Flaw::NotYet { claim, ahead: time - now });
            }
        }

        let user_id = claims.user_id.or(claims.id).or(claims.sub).and_then(|claim| id_text(&claim));
        let user_id = user_id.filter(|user_id| is_user_id(user_id)).ok_or(Flaw::NoUserId)?;
        let email = match claims.email {
            Some(Value::String(email)) if !email.is_empty() && email.len() <= MAX_EMAIL_BYTES => Some(email),
            _ => None,
        };
        let token_id = claims.jti.and_then(|claim| literal_text(&claim)).filter(|id| is_token_id(id)).map(Into::into);
        let issued_at_ms = claims.iat.as_ref().and_then(Value::as_f64).map(|seconds| (seconds * 1000.0) as u64);
        let is_named = |text: &str, named: &[String]| named.iter().any(|name| name == text);
        let iss = issuer.filter(|issuer| issuer.len() <= MAX_ISSUER_BYTES || is_named(issuer, &self.issuers));
        let iss = iss.map(Box::from);
        let aud = kept_audiences(audiences, |audience| is_named(audience, &self.audiences));
        let proof = Proof { verified_by: Some(verified_by), exp, iss, aud };
        Ok(Identity { user_id, email, expires_at, issued_at_ms, token_id, proof, claims: KeptClaims::default() })
    }

    /// Whether a token that was accepted before is accepted as of `now`. Returns its end. `nbf` is not checked again,
    /// nor an `iat` in the future: time has only moved forward.
    pub(super) fn check_again(&self, identity: &Identity, now: u64) -> Result<Option<u64>, Flaw> {
        let Proof { exp, iss, aud, .. } = &identity.proof;
        self.check_parties(iss.as_deref(), aud.iter().map(|audience| &**audience))?;
        self.not_over(*exp, identity.issued_at_ms.map(|ms| ms / 1000), now)
    }

    /// Checks the issuer and the audience.
    fn check_parties<'a>(
        &self,
        issuer: Option<&str>,
        mut audiences: impl Iterator<Item = &'a str>,
    ) -> Result<(), Flaw> {
        let is_any = |texts: &[String], claim: &str| texts.iter().any(|text| text == claim);
        if !self.issuers.is_empty() && !issuer.is_some_and(|issuer| is_any(&self.issuers, issuer)) {
            return Err(Flaw::Issuer(issuer.map(|issuer| excerpt(issuer, MAX_ISSUER_BYTES).into())));
        }
        if !self.audiences.is_empty() && !audiences.any(|audience| is_any(&self.audiences, audience)) {
            return Err(Flaw::Audience);
        }
        Ok(())
    }

    /// The end of a token with this `exp` and `iat`, if it has not ended by `now`.
    fn not_over(&self, exp: Option<u64>, issued_at: Option<u64>, now: u64) -> Result<Option<u64>, Flaw> {
        let after = |time: u64, more: Duration| time.saturating_add(more.as_secs()).min(MAX_EXPIRY_SECONDS);
        let expires_at = exp.map(|exp| after(exp, self.leeway));
        let longest = issued_at.zip(self.max_lifetime).map(|(iat, lifetime)| after(iat, lifetime));
        let is_over = |end: &u64| now >= *end;
        if let Some(end) = expires_at.filter(is_over) {
            return Err(Flaw::Expired { ago: now - end });
        }
        if let Some(end) = longest.filter(is_over) {
            return Err(Flaw::TooOld { ago: now - end });
        }
        Ok([expires_at, longest].into_iter().flatten().min())
    }
}

/// The stored audiences of a token, so that a token that is accepted now is accepted in a later check: one audience
/// that a rule names, whatever its length; the others that rules name; then as many as there is room for.
fn kept_audiences(mut audiences: Vec<&str>, is_named: impl Fn(&str) -> bool) -> Vec<Box<str>> {
    audiences.sort_by_key(|audience| !is_named(audience));
    let mut room = MAX_AUDIENCE_BYTES;
    let mut kept = Vec::new();
    for audience in audiences {
        let held = size_of::<Box<str>>() + audience.len();
        if held <= room || (kept.is_empty() && is_named(audience)) {
            room = room.saturating_sub(held);
            kept.push(Box::from(audience));
        }
    }
    kept
}

/// Whether a token with this `jti` can be revoked by it: 1 to 256 bytes.
pub(crate) fn is_token_id(text: &str) -> bool {
    (1..=MAX_TOKEN_ID_BYTES).contains(&text.len())
}

/// Parses the date of RFC 7519 §2: seconds, perhaps with a fraction, which is dropped. A time before 1970 counts as
/// 1970.
fn numeric_date(name: &'static str, claim: &Value) -> Result<u64, Flaw> {
    let seconds = claim.as_f64().ok_or(Flaw::NoDate(name))?;
    // `as` saturates: a negative number becomes 0 and a huge one the maximum.
    Ok((seconds as u64).min(MAX_EXPIRY_SECONDS))
}
