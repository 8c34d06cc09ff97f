//! The settings in combination: values derived from them, contradictions, and probable mistakes.

use std::net::{IpAddr, Ipv4Addr};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::Uri;
use secrecy::{ExposeSecret as _, SecretString};

use super::certificate::{self, TlsFiles};
use super::{LogLevel, Parsed, SettingError, Settings};
use crate::config::defaults;
use crate::identity::{ClaimRules, Jwks, JwksError, KeyError, Keys, Pace};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::publish::publishers::Credentials;
use crate::store::data_dir;

impl Parsed {
    /// Reports contradictions between the settings that could be parsed.
    pub(super) fn contradictions(&self, errors: &mut Vec<SettingError>) {
        let mut refuse = |name, problem: String| errors.push(SettingError::Contradiction { name, problem });
        if let (Some(certificate), Some(key)) = (&self.tls_cert_file, &self.tls_key_file) {
            let alone = |other: &str| format!("is set and {other} is not: a certificate and its key go together");
            match (certificate, key) {
                (Some(_), None) => refuse("TLS_CERT_FILE", alone("TLS_KEY_FILE")),
                (None, Some(_)) => refuse("TLS_KEY_FILE", alone("TLS_CERT_FILE")),
                _ => {}
            }
        }
        if let (Some(Some(_)), Some(None)) = (&self.redis_url, &self.cluster_secret) {
            let why = "is empty, and REDIS_URL is set: the nodes of a cluster have a secret in common. Make one:\n\
                       \x20   export CLUSTER_SECRET=\"$(openssl rand -hex 32)\"";
            refuse("CLUSTER_SECRET", why.to_owned());
        }
        if let (Some(emitters), Some(None)) = (&self.emitters, &self.redis_url)
            && !emitters.is_empty()
        {
            refuse("EMITTERS", "is set and REDIS_URL is not: emitters publish over Redis".to_owned());
        }
        if let (Some(soft), Some(hard)) = (self.outbox_soft_bytes, self.outbox_hard_bytes)
            && soft > hard
        {
            let why = "a connection would be closed before it is slowed down";
            refuse("OUTBOX_SOFT_BYTES", format!("({soft}) is above OUTBOX_HARD_BYTES ({hard}): {why}"));
        }
        if let (Some(unfinished), Some(payload)) = (self.max_unfinished_bytes, self.max_payload_bytes)
            && unfinished < payload
        {
            let problem =
                format!("({unfinished}) is below MAX_PAYLOAD_BYTES ({payload}): such a message could not arrive");
            refuse("MAX_UNFINISHED_BYTES", problem);
        }
        if let (Some(unarrived), Some(hard)) = (self.max_unarrived_bytes, self.outbox_hard_bytes)
            && unarrived < hard
        {
            let problem =
                format!("({unarrived}) is below OUTBOX_HARD_BYTES ({hard}): so much could not wait for one client");
            refuse("MAX_UNARRIVED_BYTES", problem);
        }
        if let (Some(rooms), Some(of_socket)) = (self.max_rooms, self.max_rooms_per_socket)
            && rooms < of_socket
        {
            let problem =
                format!("({rooms}) is below MAX_ROOMS_PER_SOCKET ({of_socket}): no socket could be in so many");
            refuse("MAX_ROOMS", problem);
        }
        if let (Some(interval), Some(patience)) = (self.ping_interval, self.ping_timeout)
            && interval + patience > Duration::from_millis(defaults::MAX_TIMER_MS)
        {
            let problem = format!(
                "and PING_TIMEOUT_MS add up to {} ms, but a browser's timer holds {} at most",
                (interval + patience).as_millis(),
                defaults::MAX_TIMER_MS
            );
            refuse("PING_INTERVAL_MS", problem);
        }
    }

    /// The problems of the files that the settings name.
    pub(super) fn file_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for file in self.jwt_public_keys.iter().flatten() {
            let loaded = Keys::load(&[], slice::from_ref(file));
            problems.extend(loaded.err().map(|error| format!("JWT_PUBLIC_KEYS: {error}")));
        }
        if let (Some(Some(certificate)), Some(Some(key))) = (&self.tls_cert_file, &self.tls_key_file) {
            let files = TlsFiles { certificate: certificate.clone(), key: key.clone() };
            problems.extend(certificate::check(&files).iter().map(ToString::to_string));
        }
        if let (Some(folder), Some(None)) = (&self.data_dir, &self.redis_url)
            && let Some(file) = data_dir::in_the_way(folder)
        {
            problems.push(data_dir::no_folder(folder, &file));
        }
        problems
    }
}

impl Settings {
    /// The files of the server's certificate, if it uses TLS.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let (certificate, key) = (self.tls_cert_file.clone()?, self.tls_key_file.clone()?);
        Some(TlsFiles { certificate, key })
    }

    /// The cluster's key for one purpose, if the server is a node of a cluster.
    pub(crate) fn cluster_key(&self, purpose: &str) -> Option<[u8; 32]> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.cluster_secret.as_ref()?.expose_secret().as_bytes());
        hmac::sign(&secret, purpose.as_bytes()).as_ref().try_into().ok()
    }

    /// What the nodes of a cluster compare: whether they decide by the same rules and secrets. It tells nothing of them.
    pub(crate) fn rules_digest(&self) -> String {
        let secrets = self.jwt_secret.iter().chain(&self.jwt_previous_secrets).map(|secret| secret.expose_secret());
        let decided_by = (&self.tables.rules, self.auth_required, secrets.collect::<Vec<_>>());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.cluster_key("rules").unwrap_or_default());
        let digest = hmac::sign(&key, format!("{decided_by:?}").as_bytes());
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The scheme of the server's URLs.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert_file.is_some() { "https" } else { "http" }
    }

    /// The credentials of the publishers.
    pub(crate) fn publisher_credentials(&self) -> Credentials {
        Credentials::new(&self.api_keys, &self.tables.publisher_keys, self.publish_claim.as_deref())
    }

    /// The policy for rooms and media items.
    pub fn policy(&self) -> Policy {
        Policy::new(self.tables.rules.clone(), self.auth_required)
    }

    /// The keys that verify tokens, without those of [`Settings::jwks_url`].
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
    /// If it is an `https` URL and this system trusts no CA.
    pub(crate) fn jwks(&self, metrics: &Arc<Metrics>) -> Result<Option<Arc<Jwks>>, JwksError> {
        let pace = Pace { cooldown: self.jwks_cooldown, max_age: self.jwks_max_age };
        let jwks = |url: &Uri| Jwks::of(url, pace, Arc::clone(metrics)).map(Arc::new);
        self.jwks_url.as_ref().map(jwks).transpose()
    }

    /// The requirements for the claims of tokens.
    #[must_use]
    pub fn claim_rules(&self) -> ClaimRules {
        ClaimRules {
            issuers: self.jwt_issuers.clone(),
            audiences: self.jwt_audiences.clone(),
            leeway: self.jwt_leeway,
            max_lifetime: Some(self.jwt_max_lifetime),
        }
    }

    /// Warnings about valid settings that are probably mistakes, to be logged at the start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.misspelt.iter().map(ToString::to_string).collect();
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
        if self.redis_url.is_some() && self.node_address.is_none() {
            warnings.push(
                "NODE_ADDRESS is empty: with several nodes, the balancer has to send all requests of a polling client to one"
                    .to_owned(),
            );
        }
        if self.redis_url.is_none() && (self.node_address.is_some() || self.cluster_secret.is_some()) {
            warnings.push("CLUSTER_SECRET and NODE_ADDRESS have no effect without REDIS_URL".to_owned());
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
