//! Settings: each is declared once, in the table below, and from there reaches the command line (`--ping-interval-ms`),
//! the environment (`PING_INTERVAL_MS`), the TOML file (`ping_interval_ms`), `check-config` and the typed [`Settings`].
//!
//! A flag wins over the environment, that over the file, that over the default. An environment variable that is set
//! but empty counts as not set, since container tooling can't leave one out. All errors are collected, not only the first,
//! and none shows the value of a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use secrecy::{ExposeSecret as _, SecretString};

use crate::defaults;
use crate::store::sqlite::StoreSync;
use crate::tls::TlsFiles;

mod layers;
mod parse;

pub use layers::{Effective, Profile, Row, Source};
use parse::{
    api_keys, boolean, cors_origin, count, days, host, hours, log_format, log_level, milliseconds, optional_path, path,
    port, secret, size, store_sync, whole,
};

/// Declares the settings: field, type, name, placeholder in the help, default, parser, and the help text as its docs.
macro_rules! settings {
    ($(
        $(#[doc = $help:literal])+
        $field:ident: $type:ty = $name:literal $kind:ident $default:expr, $parse:expr;
    )+) => {
        /// What the server was told to do, checked: no value is zero or out of its range where that makes no sense.
        /// `Debug` does not show secrets.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $( $(#[doc = $help])+ pub $field: $type, )+
        }

        /// Every setting, in the order of the help and of `check-config`.
        pub static SETTINGS: &[Setting] = &[
            $( Setting {
                name: $name,
                help: &[$($help),+],
                kind: Kind::$kind,
                default: $default,
            }, )+
        ];

        impl Settings {
            fn parse(effective: &Effective, errors: &mut Vec<SettingError>) -> Option<Self> {
                // Every one is parsed before the first `?`, so that every error is found.
                $( let $field: Option<$type> = effective.parse($name, $parse, errors); )+
                Some(Self { $( $field: $field?, )+ })
            }
        }
    };
}

settings! {
    /// Address to listen on: an IP address, or a name that resolves to one of this machine's
    host: String = "HOST" Text DefaultValue::Profile { serve: defaults::HOST_SERVE, dev: defaults::HOST_DEV }, host;

    /// Port to listen on; 0 picks a free one
    port: u16 = "PORT" Number DefaultValue::Fixed(defaults::PORT), port;

    /// Secret that the users' JSON Web Tokens are signed with (HS256, HS384 or HS512).
    /// As a flag it shows in the process list: prefer the environment or the file
    jwt_secret: SecretString = "JWT_SECRET" Secret DefaultValue::Required(
        "it is the secret that users' tokens are signed with. Use that of the service which issues them, or make one:\n\
         \x20   export JWT_SECRET=\"$(openssl rand -hex 32)\"\n\
         For trying things out, `slop-studios dev` makes one by itself"
    ), secret;

    /// Keys that publishers may authenticate with, comma-separated; without any, nothing can be published
    api_keys: Vec<SecretString> = "API_KEYS" SecretList DefaultValue::Fixed(""), api_keys;

    /// File with the server's certificate and those of the authorities between it and a known one, in PEM form. With it the
    /// server speaks TLS only
    tls_cert_file: Option<PathBuf> = "TLS_CERT_FILE" Text DefaultValue::Fixed(""), optional_path;

    /// File with the certificate's private key, in PEM form
    tls_key_file: Option<PathBuf> = "TLS_KEY_FILE" Text DefaultValue::Fixed(""), optional_path;

    /// Folder for what the server keeps; each server needs one of its own
    data_dir: PathBuf = "DATA_DIR" Text DefaultValue::Fixed(defaults::DATA_DIR), path;

    /// Origins whose pages may connect, comma-separated, as `https://app.example.com`; `*` for any
    cors_origin: CorsOrigin = "CORS_ORIGIN" List
        DefaultValue::Profile { serve: defaults::CORS_ORIGIN_SERVE, dev: defaults::CORS_ORIGIN_DEV }, cors_origin;

    /// Whether a connection without a valid token is refused
    auth_required: bool = "AUTH_REQUIRED" Boolean DefaultValue::Fixed(defaults::AUTH_REQUIRED), boolean;

    /// Least severe level that is logged: off, error, warn, info, debug or trace
    log_level: LogLevel = "LOG_LEVEL" Text DefaultValue::Fixed(defaults::LOG_LEVEL), log_level;

    /// Form of the log on standard error: text or json
    log_format: LogFormat = "LOG_FORMAT" Text DefaultValue::Fixed(defaults::LOG_FORMAT), log_format;

    /// Time between the server's pings
    ping_interval: Duration = "PING_INTERVAL_MS" Number DefaultValue::Fixed(defaults::PING_INTERVAL_MS), milliseconds;

    /// How long a client may take to answer a ping
    ping_timeout: Duration = "PING_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::PING_TIMEOUT_MS), milliseconds;

    /// How long a connection may stay without having joined a namespace
    connect_timeout: Duration = "CONNECT_TIMEOUT_MS" Number DefaultValue::Fixed(defaults::CONNECT_TIMEOUT_MS), milliseconds;

    /// Size of the largest message that a client may send
    max_payload_bytes: usize = "MAX_PAYLOAD_BYTES" Number DefaultValue::Fixed(defaults::MAX_PAYLOAD_BYTES),
        |text| size(text, defaults::MAX_PAYLOAD_LIMIT_BYTES);

    /// How long a client that lost its connection may be away and still get its session back, and what it missed; 0 for none
    recovery: Duration = "RECOVERY_MS" Number DefaultValue::Fixed(defaults::RECOVERY_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    /// Threads that serve connections
    shards: usize = "SHARDS" Number DefaultValue::Cores, |text| size(text, defaults::MAX_SHARDS);

    /// How long the connections' closing is spread over at shutdown; 0 closes them at once
    shutdown_grace: Duration = "SHUTDOWN_GRACE_MS" Number DefaultValue::Fixed(defaults::SHUTDOWN_GRACE_MS),
        |text| whole(text, 0, defaults::MAX_TIMER_MS).map(Duration::from_millis);

    /// Bytes waiting for one client past which the server stops reading from it
    outbox_soft_bytes: usize = "OUTBOX_SOFT_BYTES" Number DefaultValue::Fixed(defaults::OUTBOX_SOFT_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// Bytes waiting for one client past which its connection is closed
    outbox_hard_bytes: usize = "OUTBOX_HARD_BYTES" Number DefaultValue::Fixed(defaults::OUTBOX_HARD_BYTES),
        |text| size(text, u64::from(u32::MAX));

    /// How long a client may take no byte of what waits for it before its connection is closed
    write_stall: Duration = "WRITE_STALL_MS" Number DefaultValue::Fixed(defaults::WRITE_STALL_MS), milliseconds;

    /// Rooms that one socket may be in
    max_rooms_per_socket: usize = "MAX_ROOMS_PER_SOCKET" Number DefaultValue::Fixed(defaults::MAX_ROOMS_PER_SOCKET),
        |text| size(text, u64::from(u32::MAX));

    /// Failed authentications of one socket after which its connection is closed
    auth_failure_limit: u32 = "AUTH_FAILURE_LIMIT" Number DefaultValue::Fixed(defaults::AUTH_FAILURE_LIMIT), count;

    /// Idempotency keys that are remembered; past it the oldest are forgotten
    max_idempotency_keys: usize = "MAX_IDEMPOTENCY_KEYS" Number DefaultValue::Fixed(defaults::MAX_IDEMPOTENCY_KEYS),
        |text| size(text, u64::from(u32::MAX));

    /// How long durable events are kept for clients that reconnect, in hours
    log_retention: Duration = "LOG_RETENTION_HOURS" Number DefaultValue::Fixed(defaults::LOG_RETENTION_HOURS), hours;

    /// Bytes of durable events that are kept for clients that reconnect; past it the oldest leave
    log_max_bytes: u64 = "LOG_MAX_BYTES" Number DefaultValue::Fixed(defaults::LOG_MAX_BYTES),
        |text| whole(text, 1, i64::MAX as u64);

    /// How long a media item is remembered after its last event, in days
    media_retention: Duration = "MEDIA_RETENTION_DAYS" Number DefaultValue::Fixed(defaults::MEDIA_RETENTION_DAYS), days;

    /// How long notifications are kept, in days
    notification_retention: Duration = "NOTIFICATION_RETENTION_DAYS" Number
        DefaultValue::Fixed(defaults::NOTIFICATION_RETENTION_DAYS), days;

    /// What an accepted publish survives: full (the machine loses its power) or normal (the server is killed)
    store_sync: StoreSync = "STORE_SYNC" Text DefaultValue::Fixed(defaults::STORE_SYNC), store_sync;
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The name, as the environment has it.
    pub name: &'static str,
    help: &'static [&'static str],
    kind: Kind,
    default: DefaultValue,
}

/// How a value is written, which decides its TOML type and its placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Boolean,
    List,
    Secret,
    SecretList,
}

#[derive(Debug)]
enum DefaultValue {
    Fixed(&'static str),
    Profile {
        serve: &'static str,
        dev: &'static str,
    },
    /// One for each core that the process may use.
    Cores,
    /// There is none; the text says what the setting is and how to come by a value.
    Required(&'static str),
}

/// The origins whose pages may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// `*`
    Any,
    /// These, in lower case as browsers send them; empty means the server's own only.
    List(Vec<String>),
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for eyes.
    Text,
    /// A JSON object a line.
    Json,
}

/// What is wrong with one setting, or with the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// It has no default.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// What it is for and how to make one.
        hint: &'static str,
    },
    /// Its value can't be used.
    #[error("{name} (from {origin}) {problem}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The flag, variable or key that holds it.
        origin: String,
        /// What the value is not, and which would be.
        problem: String,
    },
    /// It can't go together with another.
    #[error("{name} {problem}")]
    Contradiction {
        /// The setting.
        name: &'static str,
        /// Which other, and why.
        problem: String,
    },
    /// The file has a key that no setting has.
    #[error("unknown setting `{key}` in {}{}", .file.display(), suggestion_text(.nearest.as_deref()))]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key as it stands there.
        key: String,
        /// The most similar one that exists.
        nearest: Option<String>,
    },
    /// The file can't be read or is no TOML.
    #[error("can't use {}: {problem}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not; without any of its text, which may be a secret.
        problem: String,
    },
}

fn suggestion_text(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Every problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingErrors(pub Vec<SettingError>);

impl fmt::Display for SettingErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "error: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingErrors {}

/// The settings' flags and `--config`, as the command line gave them.
#[derive(Clone, Default)]
pub struct SettingFlags {
    values: BTreeMap<&'static str, String>,
    config: Option<PathBuf>,
}

impl SettingFlags {
    /// The flags of a command that takes few of the settings.
    pub(crate) fn of(
        config: Option<PathBuf>,
        values: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Self {
        Self { values: values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(), config }
    }
}

impl fmt::Debug for SettingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingFlags").field("names", &self.values.keys()).field("config", &self.config).finish()
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("Settings").arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("TOML file with settings, named as here but with underscores"),
        );
        SETTINGS.iter().fold(command, |command, setting| command.arg(setting.argument())).next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = SETTINGS
            .iter()
            .filter_map(|setting| {
                let value = matches.get_one::<String>(setting.name)?;
                Some((setting.name, value.clone()))
            })
            .collect();
        Ok(Self { values, config: matches.get_one::<PathBuf>("config").cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Setting {
    /// Its key in the file: `ping_interval_ms`.
    pub fn key(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// Its flag, without the dashes before: `ping-interval-ms`.
    pub fn flag(&self) -> String {
        self.key().replace('_', "-")
    }

    /// What it is for, in one line.
    pub fn help(&self) -> String {
        let lines: Vec<&str> = self.help.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::SecretList)
    }

    fn argument(&self) -> Arg {
        let default = match &self.default {
            DefaultValue::Required(_) | DefaultValue::Fixed("") => String::new(),
            DefaultValue::Cores => " [default: one per core]".to_owned(),
            DefaultValue::Fixed(text) => format!(" [default: {text}]"),
            DefaultValue::Profile { serve, dev } => {
                let serve = if serve.is_empty() { "none" } else { serve };
                format!(" [default: {serve}; dev: {dev}]")
            }
        };
        let argument = Arg::new(self.name)
            .long(self.flag())
            .help(format!("{}{default} [env: {}]", self.help(), self.name))
            .action(ArgAction::Set)
            // A negative number is a wrong value to be named, not an unknown flag.
            .allow_negative_numbers(true);
        match self.kind {
            Kind::Boolean => argument
                .value_name("true|false")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(PossibleValuesParser::new(["true", "false"])),
            Kind::Number => argument.value_name("N"),
            Kind::List | Kind::SecretList => argument.value_name("LIST"),
            Kind::Text | Kind::Secret => argument.value_name("VALUE"),
        }
    }

    fn default_text(&self, profile: Profile) -> Option<String> {
        match (&self.default, profile) {
            (DefaultValue::Fixed(text), _)
            | (DefaultValue::Profile { serve: text, .. }, Profile::Serve)
            | (DefaultValue::Profile { dev: text, .. }, Profile::Dev) => Some((*text).to_owned()),
            (DefaultValue::Cores, _) => {
                // A container's share of the cores counts, which this function knows about.
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                Some(cores.to_string())
            }
            (DefaultValue::Required(_), _) => None,
        }
    }
}

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

    fn contradictions(&self, errors: &mut Vec<SettingError>) {
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
        let secret_bytes = self.jwt_secret.expose_secret().len();
        if secret_bytes < defaults::RECOMMENDED_SECRET_BYTES {
            warnings.push(format!(
                "JWT_SECRET is shorter than {} bytes and may be guessed from any token",
                defaults::RECOMMENDED_SECRET_BYTES
            ));
        }
        if self.api_keys.is_empty() {
            warnings.push("API_KEYS is empty: nothing can be published".to_owned());
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
