//! The syntax of the values: each function converts a text to a checked value. The error texts continue after the
//! setting's name: `PORT (from env) is "x", not …`. The errors of secrets never show the text.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use secrecy::{ExposeSecret as _, SecretString};
use socketio_server::{Origins, TrustedProxies, WebOrigin};

use super::{LogFormat, LogLevel};
use crate::config::defaults;
use crate::emitters::Allowlist;
use crate::identity::PublicKeyFile;
use crate::metrics::Emitter;
use crate::store::redis::{Durability, Target};
use crate::store::sqlite::StoreSync;

/// The non-empty elements of a comma-separated list.
pub(super) fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

pub(super) fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    text.trim()
        .parse::<u64>()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("is {text:?}, not a whole number from {least} to {most}"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    let number = whole(text, 0, u64::from(u16::MAX))?;
    u16::try_from(number).map_err(|error| error.to_string())
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    let number = whole(text, 1, u64::from(u32::MAX))?;
    u32::try_from(number).map_err(|error| error.to_string())
}

pub(super) fn size(text: &str, most: u64) -> Result<usize, String> {
    let number = whole(text, 1, most)?;
    usize::try_from(number).map_err(|error| error.to_string())
}

pub(super) fn buffer(text: &str) -> Result<u32, String> {
    let number = whole(text, 0, defaults::MAX_SEND_BUFFER_BYTES)?;
    u32::try_from(number).map_err(|error| error.to_string())
}

/// A limit on header bytes, no smaller than the HTTP library's minimum.
pub(super) fn headers(text: &str) -> Result<usize, String> {
    let number = whole(text, 8 * 1024, u64::from(u32::MAX))?;
    usize::try_from(number).map_err(|error| error.to_string())
}

/// As `size`; 0 means any number.
pub(super) fn size_or_none(text: &str) -> Result<usize, String> {
    let number = whole(text, 0, u64::from(u32::MAX))?;
    usize::try_from(number).map_err(|error| error.to_string())
}

/// A rate per second; 0 means any number.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    let number = whole(text, 0, defaults::MAX_RATE)?;
    u32::try_from(number).map_err(|error| error.to_string())
}

pub(super) fn trusted_proxies(text: &str) -> Result<TrustedProxies, String> {
    let network = |text: &str| {
        TrustedProxies::network(text)
            .ok_or_else(|| format!("has {text:?}, not an address or a network as 10.0.0.0/8 or fd00::/8"))
    };
    Ok(TrustedProxies::new(elements(text).map(network).collect::<Result<Vec<_>, _>>()?))
}

pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    whole(text, 1, defaults::MAX_TIMER_MS).map(Duration::from_millis)
}

pub(super) fn hours(text: &str) -> Result<Duration, String> {
    whole(text, 1, defaults::MAX_RETENTION_DAYS * 24).map(|hours| Duration::from_secs(hours * 3_600))
}

pub(super) fn days(text: &str) -> Result<Duration, String> {
    whole(text, 1, defaults::MAX_RETENTION_DAYS).map(|days| Duration::from_secs(days * 86_400))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("is {text:?}, not true or false")),
    }
}

pub(super) fn host(text: &str) -> Result<String, String> {
    // In a URL an address has brackets, as "[::1]"; the socket needs it without them.
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    let is_name = bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if !bare.is_empty() && (is_address || is_name) {
        Ok(bare.to_owned())
    } else {
        Err(format!("is {text:?}, not an IP address or host name (the port has its own setting)"))
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty, not a folder".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

pub(super) fn claim_name(text: &str) -> Result<Option<String>, String> {
    if text.chars().any(char::is_control) {
        return Err("has a control character, which no claim's name has".to_owned());
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

pub(super) fn secret(text: &str) -> Result<Option<SecretString>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    // A shell removes a file's last line break from `$(cat file)`, but the values of many secret stores contain it.
    if text.trim() != text {
        return Err("begins or ends with white space, which is likely not part of it".to_owned());
    }
    Ok(Some(SecretString::from(text)))
}

/// A secret with a comma is split in two. A half of it must not become a secret that can be guessed.
pub(super) fn previous_secrets(text: &str) -> Result<Vec<SecretString>, String> {
    let secrets: Vec<&str> = elements(text).collect();
    match secrets.iter().position(|secret| secret.len() < defaults::RECOMMENDED_SECRET_BYTES) {
        Some(position) => Err(format!(
            "has a secret at place {} that is shorter than {} bytes: it may be guessed, or be part of one with a comma",
            position + 1,
            defaults::RECOMMENDED_SECRET_BYTES
        )),
        None => Ok(secrets.into_iter().map(SecretString::from).collect()),
    }
}

/// The first part of `PS256:/etc/slop/key.pem` is an algorithm only if it is the name of one.
pub(super) fn public_key_files(text: &str) -> Result<Vec<PublicKeyFile>, String> {
    let file = |element: &str| {
        let named = element.split_once(':').and_then(|(name, path)| Some((Algorithm::from_str(name).ok()?, path)));
        if named.is_none()
            && let Some((name, _)) = element.split_once(':')
            && looks_like_an_algorithm(name)
        {
            return Err(format!("has {element:?}: there is no algorithm {name}"));
        }
        let (algorithm, path) = named.map_or((None, element), |(algorithm, path)| (Some(algorithm), path));
        if path.is_empty() {
            return Err(format!("has {element:?}, which names no file"));
        }
        if algorithm.is_some_and(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            return Err(format!("has {element:?}: a public key is no secret"));
        }
        Ok(PublicKeyFile { path: PathBuf::from(path), algorithm })
    };
    elements(text).map(file).collect()
}

/// Whether the name has the form of an algorithm, as `RS256`. Few file names have it.
fn looks_like_an_algorithm(name: &str) -> bool {
    name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

pub(super) fn jwks_url(text: &str) -> Result<Option<Uri>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let url = text.parse::<Uri>().ok().filter(|url| {
        let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
        matches!(url.scheme_str(), Some("https" | "http"))
            && url.host().is_some_and(|host| !host.is_empty())
            && !has_user
    });
    url.map(Some).ok_or_else(|| {
        format!(
            "is {text:?}, not a URL of the form https://id.example.com/.well-known/jwks.json (without a user's name)"
        )
    })
}

/// The values of which a token must name one. Only an empty setting accepts any value.
pub(super) fn accepted_claims(text: &str) -> Result<Vec<String>, String> {
    let accepted: Vec<String> = elements(text).map(str::to_owned).collect();
    if accepted.is_empty() && !text.is_empty() {
        return Err(format!("is {text:?}, which names none: leave it empty to accept any"));
    }
    Ok(accepted)
}

pub(super) fn api_keys(text: &str) -> Result<Vec<SecretString>, String> {
    elements(text)
        .enumerate()
        .map(|(position, key)| {
            if key.bytes().all(|byte| byte.is_ascii_graphic()) {
                Ok(SecretString::from(key))
            } else {
                Err(format!(
                    "has white space or other than ASCII characters in its key {}, which no header can carry",
                    position + 1
                ))
            }
        })
        .collect()
}

pub(super) fn cors_origin(text: &str) -> Result<Origins, String> {
    let mut elements = elements(text).peekable();
    if elements.next_if_eq(&"*").is_some() {
        return match elements.next() {
            None => Ok(Origins::Any),
            Some(_) => Err(STAR_BESIDE_OTHERS.to_owned()),
        };
    }
    elements.map(origin).collect::<Result<_, _>>().map(Origins::List)
}

const STAR_BESIDE_OTHERS: &str = "has `*` beside other origins: it allows all of them already";

fn origin(text: &str) -> Result<WebOrigin, String> {
    if text == "*" {
        return Err(STAR_BESIDE_OTHERS.to_owned());
    }
    text.parse().map_err(|error| {
        format!("has {text:?}: {error}; an origin has the form https://app.example.com or http://localhost:5173")
    })
}

/// The first segments of the server's own paths. A prefix that begins with one of them would be ambiguous.
const OWN_PATHS: [&str; 6] = ["docs", "health", "metrics", "openapi.json", "socket.io", "v1"];

/// The path prefix, without the slash at its end.
pub(super) fn base_path(text: &str) -> Result<String, String> {
    let text = text.trim();
    let base = text.strip_suffix('/').unwrap_or(text);
    let Some(path) = base.strip_prefix('/') else {
        return match base {
            "" => Ok(String::new()),
            _ => Err(format!("is {text:?}, not a path that begins with a slash, as /realtime")),
        };
    };
    let is_plain = |part: &str| {
        let letters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        letters && !matches!(part, "" | "." | "..")
    };
    if !path.split('/').all(is_plain) {
        return Err(format!(
            "is {text:?}, which has more in it than letters, digits, `-`, `.`, `_`, `~` and single slashes"
        ));
    }
    match path.split('/').next().filter(|part| OWN_PATHS.contains(part)) {
        Some(part) => Err(format!("is {text:?}, but the server has paths of its own that begin with /{part}")),
        None => Ok(base.to_owned()),
    }
}

pub(super) fn log_level(text: &str) -> Result<LogLevel, String> {
    Ok(match text.trim().to_ascii_lowercase().as_str() {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => {
            return Err(format!("is {text:?}, not off, error, warn, info, debug or trace"));
        }
    })
}

pub(super) fn store_sync(text: &str) -> Result<StoreSync, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "full" => Ok(StoreSync::Full),
        "normal" => Ok(StoreSync::Normal),
        _ => Err(format!("is {text:?}, not full or normal")),
    }
}

/// The URL may contain a password.
pub(super) fn redis_url(text: &str) -> Result<Option<SecretString>, String> {
    let url = secret(text)?;
    match url.as_ref().map(|url| url.expose_secret().parse::<Target>()) {
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(_)) | None => Ok(url),
    }
}

pub(super) fn redis_prefix(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_plain && (1..=defaults::MAX_REDIS_PREFIX_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("is {text:?}, not 1 to {} letters, digits, `-`, `.` and `_`", defaults::MAX_REDIS_PREFIX_BYTES))
    }
}

pub(super) fn redis_durability(text: &str) -> Result<Option<Durability>, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "always" => Ok(Some(Durability::Always)),
        "everysec" => Ok(Some(Durability::EverySecond)),
        "none" => Ok(Some(Durability::None)),
        _ => Err(format!("is {text:?}, not always, everysec or none")),
    }
}

pub(super) fn cluster_secret(text: &str) -> Result<Option<SecretString>, String> {
    let secret = secret(text)?;
    let is_short = |secret: &SecretString| secret.expose_secret().len() < defaults::LEAST_CLUSTER_SECRET_BYTES;
    if secret.as_ref().is_some_and(is_short) {
        return Err(format!("is shorter than {} bytes, and may be guessed", defaults::LEAST_CLUSTER_SECRET_BYTES));
    }
    Ok(secret)
}

pub(super) fn node_address(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text.rsplit_once(':').map(|(name, number)| (host(name), port(number)));
    match parts {
        Some((Ok(_), Ok(_))) => Ok(Some(text.to_owned())),
        _ => Err(format!("is {text:?}, not an address and a port as 10.0.0.7:3001 or [fd00::7]:3001")),
    }
}

pub(super) fn emitters(text: &str) -> Result<Vec<Emitter>, String> {
    let mut emitters = Vec::new();
    for name in elements(text) {
        let known = Emitter::ALL.iter().find(|known| known.as_str() == name);
        let emitter = known.ok_or_else(|| format!("has {name:?}, not redis, streams or python"))?;
        if !emitters.contains(emitter) {
            emitters.push(*emitter);
        }
    }
    Ok(emitters)
}

pub(super) fn emitter_events(text: &str) -> Result<Allowlist, String> {
    Allowlist::parse(elements(text)).map_err(|error| error.to_string())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("is {text:?}, not text or json")),
    }
}
