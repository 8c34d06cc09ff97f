//! What settings say together: what the server makes of them, what contradicts, and what is likely a mistake.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use super::{LogLevel, SettingError, Settings};
use crate::defaults;
use crate::identity::{ClaimRules, Jwks, JwksError, KeyError, Keys, Pace};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::tls::TlsFiles;

impl Settings {
    /// The files of the server's certificate, if it speaks TLS.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.tls_cert_file.clone()?, self.tls_key_file.clone()?);
        Some(TlsFiles { certificate, key })
    }

    /// How a URL of the server begins.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert_file.is_some() { "https" } else { "http" }
    }

    /// Who may be where.
    pub fn policy(&self) -> Policy {
        Policy::new(self.tables.rules.clone(), self.auth_required)
    }

    /// The keys that tokens are verified with, without those of [`Settings::jwks_url`].
    ///
    /// # Errors
    /// If a file of [`Settings::jwt_public_keys`] can't be used.
    pub fn token_keys(&self) -> Result<Keys, KeyError> {
        let secrets: Vec<SecretString> = self.jwt_secret.iter().chain(&self.jwt_previous_secrets).cloned().collect();
        Keys::load(&secrets, &self.jwt_public_keys)
    }

    /// The keys of [`Settings::jwks_url`], if it is set; none is fetched yet.
    ///
    /// # Errors
    /// If it is an `https` URL and this system trusts nobody.
    pub(crate) fn jwks(&self, metrics: &Arc<Metrics>) -> Result<Option<Arc<Jwks>>, JwksError> {
        let pace = Pace { cooldown: self.jwks_cooldown, max_age: self.jwks_max_age };
        let jwks = |url: &Uri| Jwks::of(url, pace, Arc::clone(metrics)).map(Arc::new);
        self.jwks_url.as_ref().map(jwks).transpose()
    }

    /// What the claims of tokens must be.
    #[must_use]
    pub fn claim_rules(&self) -> ClaimRules {
        ClaimRules {
            issuers: self.jwt_issuers.clone(),
            audiences: self.jwt_audiences.clone(),
            leeway: self.jwt_leeway,
            max_lifetime: Some(self.jwt_max_lifetime),
        }
    }

    /// What can't go together.
    pub(super) fn contradictions(&self, errors: &mut Vec<SettingError>) {
        let mut alone = |name, other: &str| {
            let problem = format!("is set and {other} is not: a certificate and its key go together");
            errors.push(SettingError::Contradiction { name, problem });
        };
        match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(_), None) => alone("TLS_CERT_FILE", "TLS_KEY_FILE"),
            (None, Some(_)) => alone("TLS_KEY_FILE", "TLS_CERT_FILE"),
            _ => {}
        }
        if self.outbox_soft_bytes > self.outbox_hard_bytes {
            errors.push(SettingError::Contradiction {
                name: "OUTBOX_SOFT_BYTES",
                problem: format!(
                    "({}) is above OUTBOX_HARD_BYTES ({}): a connection would be closed before it is slowed down",
                    self.outbox_soft_bytes, self.outbox_hard_bytes
                ),
            });
        }
        if self.max_unfinished_bytes < self.max_payload_bytes {
            errors.push(SettingError::Contradiction {
                name: "MAX_UNFINISHED_BYTES",
                problem: format!(
                    "({}) is below MAX_PAYLOAD_BYTES ({}): such a message could not arrive",
                    self.max_unfinished_bytes, self.max_payload_bytes
                ),
            });
        }
        if self.max_unarrived_bytes < self.outbox_hard_bytes {
            errors.push(SettingError::Contradiction {
                name: "MAX_UNARRIVED_BYTES",
                problem: format!(
                    "({}) is below OUTBOX_HARD_BYTES ({}): so much could not wait for one client",
                    self.max_unarrived_bytes, self.outbox_hard_bytes
                ),
            });
        }
        if self.max_rooms < self.max_rooms_per_socket {
            errors.push(SettingError::Contradiction {
                name: "MAX_ROOMS",
                problem: format!(
                    "({}) is below MAX_ROOMS_PER_SOCKET ({}): no socket could be in so many",
                    self.max_rooms, self.max_rooms_per_socket
                ),
            });
        }
        let silence = self.ping_interval + self.ping_timeout;
        if silence > Duration::from_millis(defaults::MAX_TIMER_MS) {
            errors.push(SettingError::Contradiction {
                name: "PING_INTERVAL_MS",
                problem: format!(
                    "and PING_TIMEOUT_MS add up to {} ms, but a browser's timer holds {} at most",
                    silence.as_millis(),
                    defaults::MAX_TIMER_MS
                ),
            });
        }
    }

    /// What is allowed but likely a mistake, to be logged at the start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_short = |secret: &SecretString| secret.expose_secret().len() < defaults::RECOMMENDED_SECRET_BYTES;
        if self.jwt_secret.as_ref().is_some_and(is_short) {
            warnings.push(format!(
                "JWT_SECRET is shorter than {} bytes and may be guessed from any token",
                defaults::RECOMMENDED_SECRET_BYTES
            ));
        }
        let is_this_machine = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if let Some(url) = &self.jwks_url
            && url.scheme_str() == Some("http")
            && !url.host().is_some_and(is_this_machine)
        {
            warnings.push(
                "JWKS_URL is not https: whoever is on the way to it can have tokens of their own accepted".to_owned(),
            );
        }
        if self.api_keys.is_empty() && self.tables.publisher_keys.is_empty() && self.publish_claim.is_none() {
            warnings.push("API_KEYS is empty and there are no [[publisher_keys]]: nothing can be published".to_owned());
        }
        if let Some(open) = self.policy().open_to_anonymous() {
            warnings.push(format!(
                "clients without a token can {open}; set AUTH_REQUIRED=true or say in [[rooms]] and [[media]] who may"
            ));
        }
        if self.access_log && matches!(self.log_level, LogLevel::Off | LogLevel::Error | LogLevel::Warn) {
            warnings.push("ACCESS_LOG is true, but LOG_LEVEL lets no line of the level info through".to_owned());
        }
        let anybody = [IpAddr::V4(Ipv4Addr::from_bits(0x0808_0808)), IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7101))];
        if anybody.iter().all(|address| self.trusted_proxies.contains(*address)) {
            warnings.push("TRUSTED_PROXIES has the whole internet: any client can claim any address".to_owned());
        }
        let short = |key: &SecretString| key.expose_secret().len() < defaults::RECOMMENDED_KEY_BYTES;
        if self.api_keys.iter().any(short) {
            warnings.push(format!(
                "API_KEYS has a key shorter than {} bytes, which may be guessed",
                defaults::RECOMMENDED_KEY_BYTES
            ));
        }
        warnings
    }
}
