//! `token`: mints a token for tests.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

use super::dev_files::DevFile;
use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingErrors, SettingFlags};
use crate::contract::rooms::is_user_id;
use crate::contract::time::epoch_seconds;
use crate::identity::{SigningAlgorithm, TokenSigner};
use crate::limits::MAX_USER_ID_BYTES;

/// How the token shall be.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The user's id
    #[arg(long, value_name = "ID")]
    user: String,
    /// The user's email address
    #[arg(long)]
    email: Option<String>,
    /// How long it is valid, as 90s, 15m, 1h or 7d; a negative time makes one that has expired
    #[arg(long, value_name = "TIME", default_value = "1h", allow_hyphen_values = true, value_parser = lifetime)]
    expires_in: Lifetime,
    /// Another claim, whose value is JSON if it can be and else text; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// The algorithm to sign with
    #[arg(long, value_enum, default_value_t)]
    algorithm: SigningAlgorithm,
    /// The secret to sign with [env: JWT_SECRET]; without one, that of `dev` in DATA_DIR.
    /// As a flag it shows in the process list
    #[arg(long, value_name = "VALUE")]
    jwt_secret: Option<SecretString>,
    /// Folder in which `dev` keeps its secret [default: ./data] [env: DATA_DIR]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The time from now to the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Valid(Duration),
    Expired(Duration),
}

pub(crate) fn run(args: &TokenArgs) -> Result<(), Failure> {
    check_user(&args.user)?;
    let jwt_secret = args.jwt_secret.as_ref();
    let flags = SettingFlags::of(
        args.config.clone(),
        [
            ("JWT_SECRET", jwt_secret.map(|secret| secret.expose_secret().to_owned())),
            ("DATA_DIR", args.data_dir.clone()),
        ],
    );
    let effective = Effective::load(&flags, Profile::Serve);
    let secret = signing_secret(&effective)?;
    let now = epoch_seconds();
    let expires_at = match args.expires_in {
        Lifetime::Valid(time) => now.saturating_add(time.as_secs()),
        Lifetime::Expired(time) => now.saturating_sub(time.as_secs()),
    };
    let mut claims = user_claims(&args.user, args.email.as_deref(), now, expires_at);
    claims.extend(args.claims.iter().cloned());
    let token = TokenSigner::new(&secret).sign(args.algorithm, &claims).context("can't make the token")?;
    writeln!(std::io::stdout(), "{}", token.expose_secret()).context("can't write the token")?;
    Ok(())
}

/// Makes a token of this user that is valid for `seconds`, signed with the same secret as by `token`.
pub(super) fn mint(user: &str, seconds: u64, flags: &SettingFlags) -> Result<SecretString, Failure> {
    check_user(user)?;
    let secret = signing_secret(&Effective::load(flags, Profile::Serve))?;
    let now = epoch_seconds();
    let claims = user_claims(user, None, now, now.saturating_add(seconds));
    Ok(TokenSigner::new(&secret).sign(SigningAlgorithm::Hs256, &claims).context("can't make the token")?)
}

fn check_user(user: &str) -> Result<(), Failure> {
    if is_user_id(user) {
        return Ok(());
    }
    Err(Failure::Usage(format!("--user must be 1 to {MAX_USER_ID_BYTES} bytes without control characters")))
}

/// The claims of a plain token; times in epoch seconds.
pub(super) fn user_claims(user: &str, email: Option<&str>, issued_at: u64, expires_at: u64) -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("userId".to_owned(), user.into());
    if let Some(email) = email {
        claims.insert("email".to_owned(), email.into());
    }
    claims.insert("iat".to_owned(), issued_at.into());
    claims.insert("exp".to_owned(), expires_at.into());
    claims
}

/// The secret from the settings, else the secret of `dev`: most often, a token is for a server in another shell of the
/// same machine.
fn signing_secret(effective: &Effective) -> Result<SecretString, Failure> {
    let missing: SettingErrors = match effective.signing_secret() {
        Ok(secret) => return Ok(secret),
        Err(errors) if effective.text("JWT_SECRET").is_some_and(|text| !text.is_empty()) => return Err(errors.into()),
        Err(errors) => errors,
    };
    let data_dir = effective.data_dir()?;
    match DevFile::JwtSecret.read(&data_dir)? {
        Some(secret) => {
            eprintln!("JWT_SECRET is not set: signing with the development secret in {}", data_dir.display());
            Ok(secret)
        }
        None => Err(missing.into()),
    }
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    let (expired, amount) = match text.strip_prefix('-') {
        Some(amount) => (true, amount),
        None => (false, text),
    };
    let digits = amount.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let seconds_each = match &amount[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time is a whole number and s, m, h or d, as 15m".to_owned()),
    };
    let time = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds_each))
        .map(Duration::from_secs)
        .ok_or("a time is a whole number and s, m, h or d, as 15m")?;
    Ok(if expired { Lifetime::Expired(time) } else { Lifetime::Valid(time) })
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a claim has the form NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_not_json| Value::from(value));
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lifetimes() {
        let valid = |seconds| Ok(Lifetime::Valid(Duration::from_secs(seconds)));
        assert_eq!(lifetime("90s"), valid(90));
        assert_eq!(lifetime("15m"), valid(900));
        assert_eq!(lifetime("1h"), valid(3600));
        assert_eq!(lifetime("7d"), valid(604_800));
        assert_eq!(lifetime("-10s"), Ok(Lifetime::Expired(Duration::from_secs(10))));
        for wrong in ["", "-", "h", "1", "1.5h", "1w", "1 h", "--1h", "99999999999999999999d", "9999999999999999999d"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn claims_are_json_or_text() {
        assert_eq!(claim("a=1"), Ok(("a".into(), json!(1))));
        assert_eq!(claim("a=[1]"), Ok(("a".into(), json!([1]))));
        assert_eq!(claim("a=b=c"), Ok(("a".into(), json!("b=c"))));
        assert_eq!(claim("a="), Ok(("a".into(), json!(""))));
        assert!(claim("a").is_err());
        assert!(claim("=a").is_err());
    }
}
