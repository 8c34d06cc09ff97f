//! The parts that SIGHUP can change.

use std::sync::Arc;

use super::checks::{check_identities, check_rooms};
use super::logging;
use super::parts::Started;
use super::reload::{self, Reload};
use crate::config::certificate::Certificate;

/// A reload with all parts.
pub(super) fn reloadable(load: reload::Load, started: &Started, certificate: Option<Certificate>) -> Reload {
    let Started { server, store, sessions, publishers, .. } = started;
    let store = Arc::clone(store);
    let (handle, sessions, publishers) = (server.handle(), Arc::clone(sessions), Arc::clone(publishers));
    let reload = Reload::new(load, Arc::clone(&sessions.metrics))
        .part(&["LOG_LEVEL"], |settings| {
            let level = settings.log_level;
            Ok(Box::new(move || logging::set_level(level)))
        })
        .part(&["API_KEYS", "PUBLISH_CLAIM"], move |settings| {
            let credentials = settings.publisher_credentials();
            let publishers = Arc::clone(&publishers);
            Ok(Box::new(move || publishers.replace(credentials)))
        })
        .part(&["JWT_SECRET", "JWT_PREVIOUS_SECRETS", "JWT_PUBLIC_KEYS", "AUTH_REQUIRED"], move |settings| {
            let (keys, policy) = (settings.token_keys()?, settings.policy());
            let (handle, sessions) = (handle.clone(), Arc::clone(&sessions));
            let (store, rules) = (Arc::clone(&store), settings.rules_digest());
            Ok(Box::new(move || {
                sessions.verifier.replace(keys);
                let before = sessions.policy.get();
                sessions.policy.replace(policy);
                sessions.changed();
                check_identities(&handle, &sessions);
                check_rooms(&handle, &sessions, &before);
                store.set_rules(rules);
            }))
        });
    // Whether the server uses TLS is decided at the start.
    let Some(certificate) = certificate else { return reload };
    reload.part(&["TLS_CERT_FILE", "TLS_KEY_FILE"], move |settings| match settings.tls() {
        Some(files) => Ok(certificate.prepare(&files)?),
        None => Ok(Box::new(|| reload::say_restart_needed("TLS_CERT_FILE"))),
    })
}
