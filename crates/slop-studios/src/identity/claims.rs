//! What a token says, and by which rules it is believed. The errors' texts are the contract's and go to clients as they
//! stand.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::flaw::Flaw;
use super::numbers::{id_text, literal_text};
use super::proof::{Proof, VerifiedBy};
use crate::defaults::{CLOCK_SKEW_SECONDS, MAX_EMAIL_BYTES, MAX_EXPIRY_SECONDS, MAX_USER_ID_BYTES};
use crate::limits::{MAX_AUDIENCE_BYTES, MAX_ISSUER_BYTES, MAX_TOKEN_ID_BYTES};
use crate::logging::excerpt;
use crate::policy::KeptClaims;

/// What a verified token says about its bearer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The claim `userId`, else `id`, else `sub`: 1 to 128 bytes without control characters.
    pub user_id: String,
    /// The claim `email`, if it is a string of at most 320 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Epoch seconds at which the identity ends: at `exp` and the leeway, or at the longest lifetime after `iat`. `None` if
    /// it has neither. At most the end of the year 9999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The claim `iat` in epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at_ms: Option<u64>,
    /// The claim `jti`, if it is a string or a number of 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<Box<str>>,
    /// What decides whether its token is still accepted.
    #[serde(default)]
    pub proof: Proof,
    /// The claims that rules of the room policy name.
    #[serde(default, skip_serializing_if = "KeptClaims::is_empty")]
    pub claims: KeptClaims,
}

/// Why a token was refused. The text is the contract's, word for word, for `authError` and acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthError {
    /// There was none, or an empty one.
    #[error("Token is required")]
    Required,
    /// `exp` has come, or it is older than any token may be.
    #[error("Token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future by more than the clock skew.
    #[error("Token is not yet valid")]
    NotYetValid,
    /// Malformed, too long, signed with no key or algorithm of ours, by or for somebody else, or with a time that is no
    /// number.
    #[error("Token is invalid")]
    Invalid,
    /// None of the claims `userId`, `id` and `sub` names a user.
    #[error("Token has no user id")]
    NoUserId,
    /// It was, or all of its user's were: an extension of the contract.
    #[error("Token has been revoked")]
    Revoked,
}

/// What a token's claims must be, beside well signed.
#[derive(Debug, Clone, Default)]
pub struct ClaimRules {
    /// `iss` must be one of these, if there are any.
    pub issuers: Vec<String>,
    /// `aud` must have one of these, if there are any.
    pub audiences: Vec<String>,
    /// How far the clocks of issuers may be off.
    pub leeway: Duration,
    /// How long after `iat` a token ends at the latest.
    pub max_lifetime: Option<Duration>,
}

/// The claims that matter here; others pass unseen.
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
    /// Who the claims are of, as of `now` in epoch seconds, if this key has verified them.
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

    /// Whether a token that was accepted once still is, as of `now`, and when it ends. `nbf` is not asked again, nor whether
    /// `iat` lies in the future: time has only gone on.
    pub(super) fn check_again(&self, identity: &Identity, now: u64) -> Result<Option<u64>, Flaw> {
        let Proof { exp, iss, aud, .. } = &identity.proof;
        self.check_parties(iss.as_deref(), aud.iter().map(|audience| &**audience))?;
        self.not_over(*exp, identity.issued_at_ms.map(|ms| ms / 1000), now)
    }

    /// By whom and for whom it has to be.
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

    /// When a token with this `exp` and `iat` ends, if it has not ended by `now`.
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

/// What is kept of a token's audiences, so that who is accepted with it now is so again: the one that a rule names whatever
/// its length, the others that rules name, and then as many as there is room for.
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

/// Whether `text` can be a user's id: 1 to 128 bytes without control characters.
pub fn is_user_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_USER_ID_BYTES && !text.chars().any(char::is_control)
}

/// Whether a token with this `jti` can be revoked by it: 1 to 256 bytes.
pub(crate) fn is_token_id(text: &str) -> bool {
    (1..=MAX_TOKEN_ID_BYTES).contains(&text.len())
}

/// RFC 7519 §2: seconds, perhaps with a fraction, which is dropped. Before 1970 counts as 1970.
fn numeric_date(name: &'static str, claim: &Value) -> Result<u64, Flaw> {
    let seconds = claim.as_f64().ok_or(Flaw::NoDate(name))?;
    // `as` saturates: a negative number becomes 0 and a huge one the maximum.
    Ok((seconds as u64).min(MAX_EXPIRY_SECONDS))
}

/// Seconds since 1970; 0 when the clock stands before it.
pub fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
